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


@pytest.mark.parametrize("seed", [0, 1])
def test_round_trip_through_a_random_unet_is_of_first_order(seed):
    steps = [50, 100, 200]
    errors = [kit.roundtrip_error(DDIM(), eps_fn=kit.random_eps_fn(seed), x0=X0[:1], levels=path(N)) for N in steps]
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


@pytest.mark.parametrize("error_of", [encoding_error, decoding_error])
def test_gaussian_data_with_a_mean_converges(error_of):
    errors = [error_of(N, mu=NOISE, s=0.5) for N in DIVISORS]
    order = kit.fitted_order(DIVISORS, errors)
    assert 0.7 <= order <= 1.1, f"order {order} of {errors}"


def test_gaussian_encoding_with_source_times_converges():
    errors = [encoding_error(N, 0, 1, "source") for N in (125, 250, 500)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01, f"errors {errors}"


# ---------------------------------------------------------------- the contract


def test_encoding_yields_a_state_for_each_level_x0_itself_first():
    levels = path(20)
    states = list(DDIM().encode(cheap, X0, levels))
    assert states[0].latent is X0
    assert [state.index for state in states] == list(range(len(levels)))
    assert tuple(state.level for state in states) == levels
    assert all(state.latent.dtype == torch.float64 and state.latent.shape == X0.shape for state in states)
    assert all(state.partners == () and state.memory is None for state in states)


def test_decoding_yields_the_given_state_first_and_ends_at_the_clean_level():
    levels = path(20)
    given = State(len(levels) - 1, levels[-1], NOISE)
    states = list(DDIM().decode(cheap, given, levels))
    assert states[0] is given
    assert [state.index for state in states] == list(range(len(levels) - 1, -1, -1))
    assert tuple(state.level for state in states) == levels[::-1]


def test_decoding_starts_at_the_states_level_not_at_the_last():
    levels = SD.levels(20)
    part, whole = ([state.latent for state in DDIM().decode(cheap, State(6, levels[6], NOISE), grid)]
                   for grid in (levels[:7], levels))
    assert len(part) == 7 and all(torch.equal(a, b) for a, b in zip(part, whole, strict=True))


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
    watched, default = Watched(cheap), Watched(cheap)
    list(DDIM("destination").encode(watched, X0, levels))
    list(DDIM().encode(default, X0, levels))
    assert watched.times == default.times


def test_states_are_made_one_at_a_time():
    watched = Watched(cheap)
    states = DDIM().encode(watched, X0, path(20))
    next(states)
    assert watched.times == []
    next(states)
    assert len(watched.times) == 1


def test_nothing_to_do():
    clean = SD.levels(20)[:1]
    (only,) = DDIM().encode(cheap, X0, clean)
    assert only.latent is X0
    assert list(DDIM().decode(cheap, only, clean)) == [only]


def test_unknown_time_is_refused():
    with pytest.raises(ValueError) as error:
        DDIM("left")
    assert str(error.value) == "time 'left' is not known; known are destination, source"


@pytest.mark.parametrize("time", ["destination", "source"])
def test_a_smaller_ratio_is_a_prefix(time):
    eps_fn = kit.random_eps_fn(0)
    small, large = (list(DDIM(time).encode(eps_fn, X0, path(20, ratio))) for ratio in (0.3, 0.9))
    assert len(small) == 7 and len(large) == 19
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(small, large, strict=False))


def test_an_encoding_step_is_a_decoding_step_taken_back():
    left, reached = SD.levels(50)[20:22]
    moved = step(X0, NOISE, left.abar, reached.abar)
    error = (step(moved, NOISE, reached.abar, left.abar) - X0).abs().max().item()
    assert error < 1e-14, f"off by {error}"


# ---------------------------------------------------------------- blend


def test_blend_is_called_once_for_each_new_latent_and_its_result_goes_on():
    levels, calls = path(20), []

    def blend(latent, index):
        calls.append((index, latent))
        return latent + 0.01 * index

    states = list(DDIM().decode(cheap, State(len(levels) - 1, levels[-1], NOISE), levels, blend))
    assert [index for index, _ in calls] == list(range(len(levels) - 2, -1, -1))
    for (left, reached), (index, latent) in zip(pairwise(states), calls, strict=True):
        made = step(left.latent, cheap(left.latent, left.level.t), left.level.abar, levels[index].abar)
        assert torch.equal(latent, made)
        assert torch.equal(reached.latent, made + 0.01 * index)


def test_a_blend_that_keeps_nothing_gives_x0_bitwise():
    eps_fn, levels = kit.random_eps_fn(0), path(20)
    encoded = list(DDIM().encode(eps_fn, X0, levels))
    nowhere = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    decoded = list(DDIM().decode(kit.random_eps_fn(0, text=1), encoded[-1], levels,
                                 lambda latent, index: torch.where(nowhere, latent, encoded[index].latent)))
    assert torch.equal(decoded[-1].latent, X0)
    assert all(torch.equal(state.latent, encoded[state.index].latent) for state in decoded)


def test_a_blend_that_keeps_everything_changes_nothing():
    levels = path(20)
    given = State(len(levels) - 1, levels[-1], NOISE)
    plain, blended = (list(DDIM().decode(cheap, given, levels, blend))
                      for blend in (None, lambda latent, index: latent))
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(plain, blended, strict=True))


# ---------------------------------------------------------------- purity


def test_nothing_is_mutated_and_a_second_run_is_the_same():
    levels, x0, eps = path(10), X0.clone(), NOISE.clone()
    runs = []
    for _ in range(2):
        encoded = list(DDIM().encode(lambda x, t: eps, x0, levels))
        kept = [state.latent.clone() for state in encoded]
        decoded = list(DDIM().decode(lambda x, t: eps, encoded[-1], levels, lambda latent, index: latent))
        assert all(torch.equal(state.latent, copy) for state, copy in zip(encoded, kept, strict=True))
        runs.append(kept + [state.latent for state in decoded])
    assert torch.equal(x0, X0) and torch.equal(eps, NOISE)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latents_keep_their_dtype(dtype):
    levels = path(10)
    encoded = list(DDIM().encode(cheap, X0.to(dtype), levels))
    decoded = list(DDIM().decode(cheap, encoded[-1], levels))
    assert {state.latent.dtype for state in encoded + decoded} == {dtype}


def test_rows_of_a_batch_do_not_mix():
    eps_fn, levels = kit.random_eps_fn(0), path(10)
    *_, both = DDIM().encode(eps_fn, X0, levels)
    *_, second = DDIM().encode(eps_fn, X0[1:], levels)
    error = (both.latent[1:] - second.latent).abs().max().item()
    assert error <= 1e-12, f"alone and in a batch differ by {error}"


def test_gradients_reach_x0():
    x0 = X0[:1].clone().requires_grad_()
    *_, last = DDIM().encode(cheap, x0, path(5))
    last.latent.sum().backward()
    assert x0.grad is not None and x0.grad.abs().max() > 0
