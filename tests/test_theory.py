"""Run: python -m pytest tests/test_theory.py

Proposition 1: its bounds against numerical integration and against models that attain or must obey them; its constants
on models where they are known.
"""

import math

import numpy as np
import pytest
import torch

from diffedit_min import testing as kit
from diffedit_min.core import theory
from diffedit_min.core.ddim import DDIM
from diffedit_min.core.schedule import Level, Schedule, add_noise, tau
from diffedit_min.core.state import State

SD = Schedule.from_config({})
# Euler's steps obey the bounds from tau = 0 on, so the clean level is clean here.
CLEAN = Schedule.from_config({"set_alpha_to_one": True})


def normal(seed, shape=(2, 4, 8, 8)):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def integral(end, K1):
    """integral_0^end (s + sqrt(1 + s^2))^K1 ds, by Gauss and Legendre on 20 pieces."""
    nodes, weights = np.polynomial.legendre.leggauss(30)
    edges = np.linspace(0, end, 21)
    half = np.diff(edges)[:, None] / 2
    s = edges[:-1, None] + half * (nodes + 1)
    return float((half * weights * (s + np.sqrt(1 + s**2)) ** K1).sum())


# ---------------------------------------------------------------- the formulas


@pytest.mark.parametrize("K1", [0, 1e-12, 0.5, 0.999, 1 - 1e-9, 1 - 1e-14, 1, 1 + 1e-14, 1 + 1e-9, 3, 7.5, 20])
def test_closed_form_is_the_integral(K1):
    for end in (1e-8, 0.029, 0.52, 1.6, 3.547, 14.6):
        assert theory.diffedit_bound(end, K1, 0.02) == pytest.approx(0.02 * integral(end, K1), rel=1e-12)


def test_simple_cases():
    for bound in (theory.diffedit_bound, theory.diffedit_bound_printed):
        assert bound(0.0, 3, 0.02) == 0 and bound(2.0, 3, 0.0) == 0
    assert theory.diffedit_bound(2.5, 0, 0.3) == pytest.approx(0.75, rel=1e-14)
    assert theory.sdedit_bound(2.5, 1) == 5
    # by hand: tau = 3/4 has sqrt(1 + tau^2) = 5/4 and tau + sqrt(1 + tau^2) = 2
    assert theory.diffedit_bound_printed(0.75, 3, 0.5) == pytest.approx(0.5 * 0.6 * 8, rel=1e-14)
    # by hand, K1 = 1: (tau^2 + tau sqrt(1 + tau^2) + asinh tau) / 2
    assert theory.diffedit_bound(0.75, 1, 2) == pytest.approx(0.5625 + 0.9375 + math.log(2), rel=1e-14)
    assert theory.diffedit_bound(14.6, 1e4, 0.1) == theory.diffedit_bound_printed(14.6, 1e4, 0.1) == math.inf


def test_crossings_for_the_constants_of_figure_3():
    assert theory.crossing(1, 3, 0.02, theory.diffedit_bound_printed) == pytest.approx(3.500, abs=5e-4)
    assert theory.crossing(1, 3, 0.02) == pytest.approx(3.547, abs=5e-4)
    assert tau(SD.abar[712]) < 3.500 < tau(SD.abar[713])
    assert tau(SD.abar[715]) < 3.547 < tau(SD.abar[716])


def test_crossings_elsewhere():
    for C, K1, K2 in ((1, 3, 0.02), (0.4, 0.5, 0.1), (1, 1, 1.9), (2, 8, 1e-6)):
        at = theory.crossing(C, K1, K2)
        assert theory.diffedit_bound(at, K1, K2) == pytest.approx(theory.sdedit_bound(at, C), rel=1e-9)
        assert theory.diffedit_bound(at / 2, K1, K2) < theory.sdedit_bound(at / 2, C)
    assert theory.crossing(1, 3, 2.0) == 0
    assert theory.crossing(1, 0, 0.02) == math.inf


@pytest.mark.parametrize(("K1", "breaks_at"), [(0.5, 0.52), (1, 1.13), (2, 2.47), (3, 3.66), (5, 5.81)])
def test_where_the_printed_bound_breaks(K1, breaks_at):
    for end, broken in ((breaks_at - 0.01, False), (breaks_at + 0.01, True), (breaks_at * 3, True)):
        assert (theory.diffedit_bound(end, K1, 1) > theory.diffedit_bound_printed(end, K1, 1)) == broken


# ---------------------------------------------------------------- models that obey them


def fine(end, steps):
    """Levels from tau = 0 to `end`, evenly in asinh(tau), of which a model that ignores t needs no t."""
    return [Level(0, 1 / (1 + math.sinh(math.asinh(end) * i / steps) ** 2)) for i in range(steps + 1)]


def edit(eps_query, eps_uncond, x0, levels):
    """DiffEdit without a mask: x0 encoded and decoded."""
    *_, noisy = DDIM().encode(eps_uncond, x0, levels)
    *_, edited = DDIM().decode(eps_query, noisy, levels)
    return edited.latent


@pytest.mark.parametrize(("K1", "end", "printed_holds"), [(3, 4, False), (1, 4, False), (3, 2, True)])
def test_counter_example_attains_the_corrected_bound_and_breaks_the_printed_one(K1, end, printed_holds):
    K2 = 0.1
    query, uncond = theory.counter_example(K1, K2)
    # x0 = 0 encodes to 0 without any discretisation error
    error = theory.rms(edit(query, uncond, torch.zeros(1, 1, 1, 1, dtype=torch.float64), fine(end, 2000))).item()
    bound, printed = theory.diffedit_bound(end, K1, K2), theory.diffedit_bound_printed(end, K1, K2)
    assert 0.98 * bound < error <= bound, f"error {error}, bound {bound}"
    assert (error <= printed) == printed_holds, f"error {error}, printed bound {printed}"


def test_counter_example_from_any_x0():
    query, uncond = theory.counter_example(1, 0.1)
    x0 = normal(0, (1, 1, 1, 1))
    error = theory.rms(edit(query, uncond, x0, fine(2, 4000)) - x0).item()
    assert error == pytest.approx(theory.diffedit_bound(2, 1, 0.1), rel=0.02)


@pytest.mark.parametrize("N", [1, 10])
def test_bound_4_holds_for_bounded_models_and_is_attained(N):
    C, levels, x0, noise = 0.8, CLEAN.levels(N), normal(0), normal(1)
    noise = noise / theory.rms(noise)[:, None, None, None]
    noisy = State(N, levels[-1], add_noise(x0, noise, levels[-1].abar))
    bound = theory.sdedit_bound(tau(levels[-1].abar), C)
    models = {"tanh": lambda x, t: C * torch.tanh(5 * x + t), "sign": lambda x, t: C * torch.sign(x - x0),
              "worst": lambda x, t: -C * noise}
    for name, model in models.items():
        *_, edited = DDIM().decode(model, noisy, levels)
        error = theory.rms(edited.latent - x0)
        assert (error <= bound * (1 + 1e-12)).all(), f"{name}: error {error.tolist()}, bound {bound}"
        if name == "worst":
            assert error.tolist() == pytest.approx([bound, bound], rel=1e-12)


@pytest.fixture(scope="module")
def unet_paths():
    """A random U-Net under a query and "no text", and for two ratios: (levels, x0, decoded paths under each)."""
    query, uncond = kit.random_eps_fn(0, text=1), kit.random_eps_fn(0)
    paths = []
    for k in (6, 16):
        levels, x0 = CLEAN.levels(20)[: k + 1], normal(2)
        *_, noisy = DDIM().encode(uncond, x0, levels)
        paths.append((levels, x0, *(list(DDIM().decode(eps_fn, noisy, levels)) for eps_fn in (query, uncond))))
    return query, uncond, paths


def test_bound_5_holds_for_a_random_unet_with_its_measured_constants(unet_paths):
    query, uncond, paths = unet_paths
    for levels, x0, under_query, under_none in paths:
        constants = theory.measure_constants(query, uncond, under_query)
        assert constants.K2 > 0.01 and 0.2 < constants.K1 < 20
        bound = theory.diffedit_bound(tau(levels[-1].abar), constants.K1, constants.K2)
        edited, plain = under_query[-1].latent, under_none[-1].latent
        difference = theory.rms(edited - plain).mean().item()
        assert 0.01 * bound < difference <= bound, f"difference {difference}, bound {bound}, {constants}"
        round_trip = theory.rms(plain - x0).mean().item()               # the bound doesn't speak of this
        error = theory.rms(edited - x0).mean().item()
        assert error <= bound + round_trip, f"error {error}, bound {bound}, round trip {round_trip}"


def test_bound_4_holds_for_a_random_unet_with_its_measured_c():
    query, uncond = kit.random_eps_fn(0, text=1), kit.random_eps_fn(0)
    levels, x0, noise = CLEAN.levels(20)[:17], normal(2), normal(3)
    noise = noise / theory.rms(noise)[:, None, None, None]
    states = list(DDIM().decode(query, State(16, levels[-1], add_noise(x0, noise, levels[-1].abar)), levels))
    C = theory.measure_constants(query, uncond, states, iterations=1).C
    bound, error = theory.sdedit_bound(tau(levels[-1].abar), C), theory.rms(states[-1].latent - x0)
    assert (error <= bound).all() and 0.05 < C < 2, f"error {error.tolist()}, bound {bound}, C {C}"


# ---------------------------------------------------------------- the constants


def states_at(*times, latent=None):
    x = normal(0) if latent is None else latent
    return [State(i, Level(t, SD.abar[t]), x) for i, t in enumerate(times)][::-1]


def test_rms_is_a_norm_of_size_one_for_noise():
    assert theory.rms(torch.full((2, 4, 3, 3), -2.0)).tolist() == [2, 2]
    assert theory.rms(normal(0, (1, 4, 100, 100))).item() == pytest.approx(1, abs=0.02)


def test_constants_of_the_counter_example():
    query, uncond = theory.counter_example(3, 0.02)
    x = normal(0)
    constants = theory.measure_constants(query, uncond, states_at(0, 1, 500, latent=x))
    assert constants.K1 == pytest.approx(3, rel=1e-9)
    assert constants.K2 == pytest.approx(0.02, rel=1e-9)
    assert constants.C == pytest.approx(theory.rms(-3 * x - 0.02).max().item(), rel=1e-12)


def test_the_maximum_is_over_levels_and_the_mean_over_pictures():
    size = {(0, 1): 1.0, (0, 500): 5.0, (1, 1): 3.0, (1, 500): 2.0}

    def query(x, t):
        return torch.stack([torch.full_like(row, -size[i, t]) for i, row in enumerate(x)])

    constants = theory.measure_constants(query, lambda x, t: torch.zeros_like(x), states_at(0, 1, 500))
    assert constants == theory.Constants(C=5.0, K1=0.0, K2=(5 + 3) / 2)


def test_the_clean_level_is_left_out_as_in_decoding():
    asked = set()

    def eps_fn(x, t):
        asked.add(t)
        return x

    theory.measure_constants(eps_fn, eps_fn, states_at(0, 1, 500))
    assert asked == {1, 500}
    for nothing in ([], states_at(0)):
        with pytest.raises(ValueError, match="holds no level above the clean one"):
            theory.measure_constants(eps_fn, eps_fn, nothing)


def test_lipschitz_comes_from_below_and_near():
    scale = torch.linspace(-1, 4, 256, dtype=torch.float64).reshape(1, 4, 8, 8)
    x = normal(0)
    found = [theory.lipschitz(lambda x, t: scale * x, x, 5, scale * x, n) for n in (1, 4, 16, 64)]
    assert found == sorted(found) and found[-1] <= 4 * (1 + 1e-9), f"{found}"
    assert found[1] > 3 and found[-1] > 3.9, f"{found}"
    steep = [theory.lipschitz(lambda x, t: scale * x * t, x, t, scale * x * t) for t in (1, 10)]
    assert steep[1] == pytest.approx(10 * steep[0], rel=0.2)


def test_lipschitz_in_single_precision_and_where_eps_is_flat():
    x = normal(0)
    double, single = (theory.lipschitz(lambda x, t: torch.sin(3 * x), y, 5, torch.sin(3 * y)) for y in (x, x.float()))
    assert single == pytest.approx(double, rel=1e-3) and 1 < double <= 3
    assert theory.lipschitz(lambda x, t: torch.ones_like(x), x, 5, torch.ones_like(x)) == 0
