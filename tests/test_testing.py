"""Run: python -m pytest tests/test_testing.py

The kit itself: its analytic answers against independent ones, its figures against errors that are known beforehand.
"""

import math
from types import SimpleNamespace

import pytest
import torch

from diffedit_min import testing as kit
from diffedit_min.samplers import State, ddim
from diffedit_min.schedule import Schedule, eps_from_x0, tau, u_from_x

SD = Schedule.from_config({})
X = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def worst(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("t", [1, 300, 999])
def test_gaussian_eps_is_the_posterior_mean_of_the_noise(t):
    mu, s, abar = 0.4, 0.7, SD.abar[t]
    # Bayes for x = sqrt(abar) x0 + noise: precisions add up, and the mean is weighted by them.
    precision, weighted = 1 / s**2 + abar / (1 - abar), mu / s**2 + math.sqrt(abar) / (1 - abar) * X
    error = worst(kit.gaussian_eps(mu, s, SD)(X, t), eps_from_x0(X, weighted / precision, abar))
    assert error < 1e-12, f"off by {error}"


@pytest.mark.parametrize("s", [0.0, 0.3, 1.0, 3.0])
def test_gaussian_solution_solves_equation_3(s):
    t, h, mu, start = 600, 1e-4, X.flip(0), SD.abar[1]
    at = tau(SD.abar[t])
    u = [u_from_x(kit.gaussian_solution(X, mu, s, start, abar), abar)
         for abar in (1 / (1 + (at - h) ** 2), 1 / (1 + (at + h) ** 2))]
    eps = kit.gaussian_eps(mu, s, SD)(kit.gaussian_solution(X, mu, s, start, SD.abar[t]), t)
    error = worst((u[1] - u[0]) / (2 * h), eps)
    assert error < 1e-6 * eps.abs().max().item(), f"du/dtau differs from eps by {error}"


def test_gaussian_solution_goes_both_ways_and_starts_where_it_is_told():
    there = kit.gaussian_solution(X, 0.5, 0.8, SD.abar[0], SD.abar[900])
    assert worst(kit.gaussian_solution(there, 0.5, 0.8, SD.abar[900], SD.abar[0]), X) < 1e-12
    assert worst(kit.gaussian_solution(X, 0.5, 0.8, SD.abar[5], SD.abar[5]), X) < 1e-14
    # s = 1, mu = 0: the marginal stays N(0, I), so x does not move at all.
    assert worst(kit.gaussian_solution(X, 0, 1, SD.abar[0], SD.abar[900]), X) < 1e-13


def test_random_eps_fn_is_made_by_its_numbers_alone():
    state = torch.get_rng_state()
    eps = kit.random_eps_fn(3)(X, 500)
    assert torch.equal(state, torch.get_rng_state()), "the global random state moved"
    torch.manual_seed(123)
    assert torch.equal(eps, kit.random_eps_fn(3)(X, 500))
    assert eps.shape == X.shape and eps.dtype == torch.float64 and not eps.requires_grad
    for other in (kit.random_eps_fn(4)(X, 500), kit.random_eps_fn(3, text=1)(X, 500), kit.random_eps_fn(3)(X, 501)):
        assert worst(eps, other) > 1e-3
    assert worst(kit.random_eps_fn(3, torch.float32)(X.float(), 500).double(), eps) < 1e-5
    assert kit.random_eps_fn(3, channels=3)(X[:, :3], 500).shape == (2, 3, 4, 4)
    alone = kit.random_eps_fn(3)(X[1:], 500)
    assert worst(alone, eps[1:]) < 1e-12
    with pytest.raises(ValueError, match="multiples of 2"):
        kit.random_eps_fn(3)(X[..., :3], 500)


def test_round_trip_error_is_relative_and_counts_the_whole_batch():
    def encode(eps_fn, x0, levels, size=0.0):
        yield State(0, levels[0], x0)
        yield State(1, levels[1], x0 * (1 + size))

    def decode(eps_fn, state, levels, blend=None, shift=0.0):
        yield state
        yield State(0, levels[0], state.latent + shift)

    fake = SimpleNamespace(encode=encode, decode=decode)
    levels, none = SD.levels(1), kit.gaussian_eps(0, 1, SD)
    assert kit.roundtrip_error(fake, eps_fn=none, x0=X, levels=levels) == 0
    assert kit.roundtrip_error(fake, eps_fn=none, x0=X, levels=levels, size=0.25) == pytest.approx(0.25, rel=1e-12)
    size = math.sqrt(X.numel()) / X.norm().item()
    error = kit.roundtrip_error(fake, eps_fn=none, x0=X, levels=levels, shift=0.5)
    assert error == pytest.approx(0.5 * size, rel=1e-12)
    with pytest.raises(TypeError, match="neither encode nor decode takes 'times'"):
        kit.roundtrip_error(fake, eps_fn=none, x0=X, levels=levels, times="source")


def test_round_trip_error_passes_options_to_the_sampler():
    def eps_fn(x, t):
        return torch.full_like(x, math.sin(t))      # destination times invert this exactly, source times don't

    assert kit.roundtrip_error(ddim, eps_fn=eps_fn, x0=X, levels=SD.levels(10), time="destination") < 1e-12
    assert kit.roundtrip_error(ddim, eps_fn=eps_fn, x0=X, levels=SD.levels(10), time="source") > 1e-3


def test_fitted_order():
    steps = [10, 20, 50, 100]
    for order in (0.5, 1, 2):
        assert kit.fitted_order(steps, [3 / n**order for n in steps]) == pytest.approx(order, rel=1e-12)
    for errors in ([0.1, 0.0, 0.01, 0.001], [0.1, math.nan, 0.01, 0.001], [0.1, math.inf, 0.01, 0.001]):
        with pytest.raises(ValueError, match="positive, finite errors, not"):
            kit.fitted_order(steps, errors)
    for short in ([], [10]):
        with pytest.raises(ValueError):
            kit.fitted_order(short, [0.1] * len(short))
    with pytest.raises(ValueError):
        kit.fitted_order(steps, [0.1, 0.05])
