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


# ---------------------------------------------------------------- whole measurements


def test_points_eps_is_the_posterior_mean_over_the_points():
    points = torch.randn(3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    t, x = 300, 0.3 * X
    abar = SD.abar[t]
    weights = torch.stack([
        torch.distributions.Normal(math.sqrt(abar) * point, math.sqrt(1 - abar)).log_prob(x).sum(dim=(1, 2, 3))
        for point in points
    ], dim=1).softmax(dim=1)                                            # (B, n), by Bayes
    expected = eps_from_x0(x, sum(weights[:, i, None, None, None] * points[i] for i in range(3)), abar)
    assert worst(kit.points_eps(points, SD)(x, t), expected) < 1e-12
    # One point is Gaussian data without any width.
    assert worst(kit.points_eps(points[:1], SD)(x, t), kit.gaussian_eps(points[:1], 0.0, SD)(x, t)) < 1e-12


def test_all_that_comes_from_a_finite_set_is_decoded_to_one_of_its_points():
    points = 2 * torch.randn(4, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    levels = SD.levels(100)
    *_, last = ddim.decode(kit.points_eps(points, SD), State(100, levels[100], X), levels)
    distances = (last.latent[:, None] - points).flatten(2).norm(dim=2) / points.flatten(1).norm(dim=1)
    assert (distances.min(dim=1).values < 0.05).all(), distances


def test_roundtrip_error_by_name_is_that_of_its_module_on_the_same_network():
    levels = SD.levels(20)[:17]
    by_hand = kit.roundtrip_error(ddim, eps_fn=kit.random_eps_fn(5), x0=kit.random_latent(5), levels=levels)
    assert kit.roundtrip_error("ddim", steps=20, ratio=0.8, seed=5) == by_hand > 1e-3
    assert kit.roundtrip_error("ddim", steps=20, ratio=0.8, seed=6) != by_hand
    with pytest.raises(ValueError) as error:
        kit.roundtrip_error("euler")
    assert str(error.value) == ("sampler 'euler' is not known; known are ddim, fixed_point, edict, bdia, belm, "
                                "dpm_solver")


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_latents_are_at_least_float32(dtype, bound):
    assert kit.random_latent(0, dtype).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert kit.random_eps_fn(0, dtype)(kit.random_latent(0, dtype), 1).dtype == kit.random_latent(0, dtype).dtype
    assert kit.roundtrip_error("edict", steps=10, dtype=dtype) < bound


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_order_of_convergence_of_ddim_is_one_and_of_heun_two(direction):
    def walk(eps_fn, state, levels, path):
        yield state
        x, here = state.latent, state.level
        for index in path:
            there = levels[index]
            eps = eps_fn(x, here.t)
            guess = ddim.step(x, eps, here.abar, there.abar)
            x, here = ddim.step(x, (eps + eps_fn(guess, there.t)) / 2, here.abar, there.abar), there
            yield State(index, there, x)

    heun = SimpleNamespace(
        encode=lambda eps_fn, x0, levels: walk(eps_fn, State(0, levels[0], x0), levels, range(1, len(levels))),
        decode=lambda eps_fn, state, levels, blend=None: walk(eps_fn, state, levels, range(state.index)[::-1]),
    )
    assert 0.9 <= kit.order_of_convergence("ddim", direction=direction) <= 1.1
    assert 1.9 <= kit.order_of_convergence(heun, direction=direction) <= 2.1


def test_order_of_convergence_goes_one_way_or_the_other():
    with pytest.raises(ValueError, match="direction 'up' is not known; known are encode and decode"):
        kit.order_of_convergence("ddim", direction="up")
    with pytest.raises(TypeError, match="neither encode nor decode takes 'gamma'"):
        kit.order_of_convergence("ddim", gamma=1.0)


def test_the_table_has_a_line_for_each_sampler(monkeypatch):
    monkeypatch.setattr(kit, "CASES", {"ddim": {}, "bdia": {"gamma": 1.0}})
    monkeypatch.setattr(kit, "roundtrip_error", lambda name, seed, dtype, **options: 1e-9 * (seed + 1))
    orders = {"encode": 1, "decode": 2}
    monkeypatch.setattr(kit, "order_of_convergence", lambda name, direction, **options: orders[direction])
    assert list(kit.table(seeds=(0, 1)))[2:] == ["| ddim | 2e-09 | 2e-09 | 2e-09 | 1.0 | 2.0 |",
                                                 "| bdia, gamma = 1.0 | 2e-09 | 2e-09 | 2e-09 | 1.0 | 2.0 |"]
