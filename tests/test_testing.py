"""Run: python -m pytest tests/test_testing.py

The kit itself: its analytic answers against independent ones, its figures against errors that are known beforehand.
"""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import diffedit_min.testing as kit
from diffedit_min.core.ddim import DDIM, step
from diffedit_min.core.schedule import Schedule, eps_from_x0, log_snr, tau, u_from_x
from diffedit_min.core.state import State
from diffedit_min.samplers import SAMPLERS
from diffedit_min.samplers.edict import EDICT
from diffedit_min.testing.kit import grid_of, with_numbers

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


class Scaling:
    """Up, latents grow by a part of their own; down, a number is added to them."""

    def __init__(self, size=0.0, shift=0.0):
        self.size, self.shift = size, shift

    def encode(self, eps_fn, x0, levels):
        yield State(0, levels[0], x0)
        yield State(1, levels[1], x0 * (1 + self.size))

    def decode(self, eps_fn, state, levels, blend=None):
        yield state
        yield State(0, levels[0], state.latent + self.shift)


def test_round_trip_error_is_relative_and_counts_the_whole_batch():
    told = {"eps_fn": kit.gaussian_eps(0, 1, SD), "x0": X, "levels": SD.levels(1)}
    assert kit.roundtrip_error(Scaling(), **told) == 0
    assert kit.roundtrip_error(Scaling(size=0.25), **told) == pytest.approx(0.25, rel=1e-12)
    relative = 0.5 * math.sqrt(X.numel()) / X.norm().item()
    assert kit.roundtrip_error(Scaling(shift=0.5), **told) == pytest.approx(relative, rel=1e-12)


def test_round_trip_error_takes_samplers_with_their_options():
    def eps_fn(x, t):
        return torch.full_like(x, math.sin(t))      # destination times invert this exactly, source times don't

    told = {"eps_fn": eps_fn, "x0": X, "levels": SD.levels(10)}
    assert kit.roundtrip_error("ddim:time=destination", **told) == kit.roundtrip_error(DDIM(), **told) < 1e-12
    assert kit.roundtrip_error("ddim:time=source", **told) == kit.roundtrip_error(DDIM("source"), **told) > 1e-3
    namespace = SimpleNamespace(encode=DDIM().encode, decode=DDIM().decode)
    assert kit.roundtrip_error(namespace, **told) < 1e-12


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
    *_, last = DDIM().decode(kit.points_eps(points, SD), State(100, levels[100], X), levels)
    distances = (last.latent[:, None] - points).flatten(2).norm(dim=2) / points.flatten(1).norm(dim=1)
    assert (distances.min(dim=1).values < 0.05).all(), distances


def test_round_trip_error_is_by_default_that_of_a_random_network():
    levels = SD.levels(20)[:17]
    by_hand = kit.roundtrip_error(DDIM(), eps_fn=kit.random_eps_fn(5), x0=kit.random_latent(5), levels=levels)
    assert kit.roundtrip_error("ddim", steps=20, ratio=0.8, seed=5) == by_hand > 1e-3
    assert kit.roundtrip_error("ddim", steps=20, ratio=0.8, seed=6) != by_hand
    with pytest.raises(ValueError, match=f"^sampler 'euler' is not known; known are {', '.join(SAMPLERS)}$"):
        kit.roundtrip_error("euler")


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_latents_are_at_least_float32(dtype, bound):
    assert kit.random_latent(0, dtype).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert kit.random_eps_fn(0, dtype)(kit.random_latent(0, dtype), 1).dtype == kit.random_latent(0, dtype).dtype
    assert kit.roundtrip_error("edict", steps=10, dtype=dtype) < bound


class Heun:
    def walk(self, eps_fn, state, levels, path):
        yield state
        x, here = state.latent, state.level
        for index in path:
            there = levels[index]
            eps = eps_fn(x, here.t)
            guess = step(x, eps, here.abar, there.abar)
            x, here = step(x, (eps + eps_fn(guess, there.t)) / 2, here.abar, there.abar), there
            yield State(index, there, x)

    def encode(self, eps_fn, x0, levels):
        return self.walk(eps_fn, State(0, levels[0], x0), levels, range(1, len(levels)))

    def decode(self, eps_fn, state, levels, blend=None):
        return self.walk(eps_fn, state, levels, range(state.index)[::-1])


class Swapped(Heun):
    """abar of the two levels swapped, in both directions."""

    def walk(self, eps_fn, state, levels, path):
        x, here = state.latent, state.level
        for index in path:
            x = step(x, eps_fn(x, here.t), levels[index].abar, here.abar)
            here = levels[index]
            yield State(index, here, x)


@pytest.mark.parametrize("grid", ["leading", "lambda"])
@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_order_of_convergence(direction, grid):
    """DDIM's is 1 and Heun's is 2 on either grid; a wrong sampler has none, on data that makes the latents move."""
    assert 0.9 <= kit.order_of_convergence("ddim", direction=direction, grid=grid) <= 1.1
    assert 1.9 <= kit.order_of_convergence(Heun(), direction=direction, grid=grid) <= 2.1
    assert abs(kit.order_of_convergence(Swapped(), direction=direction, grid=grid)) <= 0.1
    # On N(0, 1) the solution stands still, and small steps the wrong way are as near to that as right ones.
    assert 0.9 <= kit.order_of_convergence(Swapped(), direction=direction, grid=grid, mu=0.0, s=1.0) <= 1.1


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_two_step_samplers_are_of_order_2_on_levels_even_in_log_snr(direction):
    for name in ("dpm_solver", "belm"):
        assert 1.9 <= kit.order_of_convergence(name, direction=direction, grid="lambda") <= 2.1
    assert 1.2 <= kit.order_of_convergence("dpm_solver", direction=direction) <= 1.7
    assert 1.9 <= kit.order_of_convergence("bdia:gamma=1", direction=direction, grid="lambda") <= 2.1


def test_an_order_is_a_number_that_shows_its_errors():
    order = kit.order_of_convergence("ddim", steps=(10, 20, 40))
    assert isinstance(order, float) and order.steps == (10, 20, 40) and len(order.errors) == 3
    assert order == kit.fitted_order(order.steps, order.errors) and f"{order:.1f}" == "0.9"
    assert repr(kit.Order((10, 20), (0.4, 0.1))) == "2.00 (10 steps: 4.0e-01, 20 steps: 1.0e-01)"
    levels = SD.levels(20, 0.8)
    *_, last = DDIM().encode(kit.gaussian_eps(1.0, 0.7, SD), kit.random_latent(0), levels)
    exact = kit.gaussian_solution(kit.random_latent(0), 1.0, 0.7, levels[0].abar, levels[-1].abar)
    assert order.errors[1] == pytest.approx(((last.latent - exact).norm() / exact.norm()).item(), rel=1e-12)


def test_mu_of_an_order_can_be_a_picture():
    mu = torch.randn(4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert 0.9 <= kit.order_of_convergence("ddim", mu=mu, direction="decode", grid="lambda") <= 1.1


@pytest.mark.parametrize("N, ratio", [(25, 0.8), (40, 1.0), (7, 0.5), (10, 0.0)])
def test_the_lambda_grid_is_even_in_log_snr_over_stable_diffusions_range(N, ratio):
    schedule, levels = grid_of("lambda", N, ratio)
    gaps = [log_snr(a) - log_snr(b) for a, b in pairwise(levels)]
    assert len(gaps) == math.floor(ratio * N + 0.5) and levels[0].abar == pytest.approx(SD.abar[0], rel=1e-12)
    assert not gaps or max(gaps) - min(gaps) <= 0.002 * max(gaps)
    if ratio == 1.0:
        assert levels[-1].abar == pytest.approx(SD.abar[999], rel=1e-12)
    assert all(schedule.at(level.t) == level for level in levels)


def test_order_of_convergence_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="direction 'up' is not known; known are encode and decode"):
        kit.order_of_convergence("ddim", direction="up")
    with pytest.raises(ValueError, match="grid 'karras' is not known; known are leading and lambda"):
        kit.order_of_convergence("ddim", grid="karras")
    with pytest.raises(ValueError, match="^sampler ddim has no option 'gamma=1'"):
        kit.order_of_convergence("ddim:gamma=1")


def test_the_table_has_a_line_for_each_sampler(monkeypatch):
    module = kit.kit
    monkeypatch.setattr(module, "SAMPLERS", {"ddim": DDIM(), "edict": EDICT(p=0.5)})
    monkeypatch.setattr(module, "roundtrip_error", lambda sampler, seed, dtype: 1e-9 * (seed + 1))
    orders = {"encode": 1, "decode": 2}
    monkeypatch.setattr(module, "order_of_convergence", lambda sampler, direction, mu, s: orders[direction] + mu * s)
    assert list(kit.table(seeds=(0, 1)))[2:] == ["| ddim | 2e-09 | 2e-09 | 2e-09 | 1.0 | 2.0 |",
                                                 "| edict, p = 0.5 | 2e-09 | 2e-09 | 2e-09 | 1.0 | 2.0 |"]


def test_a_row_of_the_table_names_the_samplers_numbers():
    assert [with_numbers(sampler) for sampler in SAMPLERS.values()] == [
        "ddim", "fixed_point, iterations = 20", "edict, p = 0.93", "bdia, gamma = 0.96", "belm", "dpm_solver"]
    assert with_numbers(SimpleNamespace(name="mine")) == "mine" and with_numbers(Heun()) == "heun"
