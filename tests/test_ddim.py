"""Run: python -m pytest tests/test_ddim.py

Exact round trips where they are exact, first order where they aren't; the exact solution for Gaussian data; and the
sampler's contract: what is yielded, in which order, what the network and `blend` are told.
"""

import math
from itertools import pairwise

import pytest
import torch

from diffedit_min import testing as kit
from diffedit_min.core.ddim import DDIM, step
from diffedit_min.core.schedule import Schedule, levels_used
from diffedit_min.core.state import State

SD = Schedule.from_config({})


def normal(seed, shape=(2, 4, 8, 8)):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X0 = normal(0)


def path(N, ratio=0.8):
    return SD.levels(N)[: levels_used(ratio, N) + 1]


def cheap(x, t):
    """Depends on x and on t, but costs nothing."""
    return torch.tanh(x.roll(1, dims=-1)) * math.cos(t / 300) + 0.1 * x


class Watched:
    """An eps_fn that remembers what it was asked."""

    def __init__(self, eps_fn):
        self.eps_fn, self.times = eps_fn, []

    def __call__(self, x, t):
        self.times.append(t)
        return self.eps_fn(x, t)


# ---------------------------------------------------------------- round trips


NOISE = normal(1)


@pytest.mark.parametrize("N", [1, 7, 50, 500])
@pytest.mark.parametrize("time", ["destination", "source"])
def test_round_trip_is_exact_for_a_constant_eps(N, time):
    error = kit.roundtrip_error(DDIM(time=time), eps_fn=lambda x, t: NOISE, x0=X0, levels=SD.levels(N))
    assert error <= 1e-12, f"relative error {error}"


def test_round_trip_with_an_eps_of_t_alone_is_exact_for_destination_times_only():
    def eps_fn(x, t):
        return math.sin(t / 100) * NOISE

    error = kit.roundtrip_error(DDIM(time="destination"), eps_fn=eps_fn, x0=X0, levels=path(50))
    assert error <= 1e-12, f"relative error {error}"
    error = kit.roundtrip_error(DDIM(time="source"), eps_fn=eps_fn, x0=X0, levels=path(50))
    assert error > 1e-3, f"source times have become exact: {error}"


def test_round_trip_through_a_random_unet_is_of_first_order():
    steps, eps_fn = [25, 50, 100], kit.random_eps_fn(0)
    errors = [kit.roundtrip_error(DDIM(), eps_fn=eps_fn, x0=X0[:1], levels=path(N)) for N in steps]
    assert all(more > fewer for more, fewer in pairwise(errors)), f"errors {errors} don't fall"
    order = kit.fitted_order(steps, errors)
    assert 0.75 <= order <= 1.2, f"order {order} of {errors}"


DIVISORS = [25, 40, 50, 100, 125, 200]      # of 1000, so that the grids end at comparable levels


def encoding_error(N, mu, s, time="destination"):
    levels = SD.levels(N)
    *_, noisy = DDIM(time).encode(kit.gaussian_eps(mu, s, SD), X0, levels)
    exact = kit.gaussian_solution(X0, mu, s, levels[0].abar, levels[-1].abar)
    return ((noisy.latent - exact).norm() / exact.norm()).item()


def decoding_error(N, mu, s):
    levels = SD.levels(N)
    *_, clean = DDIM().decode(kit.gaussian_eps(mu, s, SD), State(N, levels[-1], X0), levels)
    exact = kit.gaussian_solution(X0, mu, s, levels[-1].abar, levels[0].abar)
    return ((clean.latent - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("error_of", [encoding_error, decoding_error])
def test_gaussian_data_is_solved_to_first_order(error_of):
    errors = [error_of(N, mu=0, s=1) for N in DIVISORS]
    order = kit.fitted_order(DIVISORS, errors)
    assert 0.9 <= order <= 1.1, f"order {order} of {errors}"
    assert errors[-1] < 0.01, f"error {errors[-1]} at {DIVISORS[-1]} steps"


# ---------------------------------------------------------------- the contract


def test_what_time_the_network_is_told():
    levels = path(20)
    t = [level.t for level in levels]
    for time, expected in (("destination", t[1:]), ("source", t[:-1])):
        watched = Watched(cheap)
        *_, last = DDIM(time).encode(watched, X0, levels)
        assert watched.times == expected, time
    watched = Watched(cheap)
    list(DDIM().decode(watched, last, levels))
    assert watched.times == t[:0:-1]
    assert DDIM() == DDIM("destination")


def test_nothing_to_do():
    clean = SD.levels(20)[:1]
    (only,) = DDIM().encode(cheap, X0, clean)
    assert only.latent is X0
    assert list(DDIM().decode(cheap, only, clean)) == [only]


def test_an_encoding_step_is_a_decoding_step_taken_back():
    level_from, level_to = SD.levels(50)[20:22]
    moved = step(X0, NOISE, level_from.abar, level_to.abar)
    error = (step(moved, NOISE, level_to.abar, level_from.abar) - X0).abs().max().item()
    assert error < 1e-14, f"off by {error}"
