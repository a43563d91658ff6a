"""Run with `python -m pytest tests/test_stochastic.py` from the repository's root; takes about 3 seconds.

DDIM with noise against what it must be: DDIM at eta = 0, DDPM's posterior and k-diffusion's Euler ancestral step at
eta = 1, and at any eta a step that keeps the noised picture's marginal.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffedit_min import testing as kit
from diffedit_min.core.ddim import step
from diffedit_min.core.schedule import Level, Schedule, add_noise, eps_from_x0
from diffedit_min.samplers.stochastic import mean, sigma, toward

SD = Schedule.from_config({})
# (level_from, level_to), from noise to clean
STEPS = [(level_from, level_to) for N in (7, 50, 999) for level_to, level_from in pairwise(SD.levels(N))]
X, EPS, Z = torch.randn(3, 2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
quick = settings(deadline=None, database=None, derandomize=True, max_examples=60)
etas = st.floats(0, 1)


@st.composite
def two_levels(draw):
    """Any two, the first at least as noisy, as no schedule has them."""
    low, high = sorted((draw(st.floats(1e-4, 1 - 1e-6)), draw(st.floats(1e-4, 1 - 1e-6))))
    return Level(1, low), Level(0, high)


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


# ---------------------------------------------------------------- eta = 0


@given(levels=two_levels())
@quick
def test_eta_0_is_ddims_step_between_any_two_levels(levels):
    level_from, level_to = levels
    assert distance(mean(X, EPS, level_from, level_to, sigma(0.0, level_from, level_to)),
                    step(X, EPS, level_from.abar, level_to.abar)) <= 1e-14


# ---------------------------------------------------------------- eta = 1


def test_eta_1_has_ddpms_posterior_deviation():
    """Sqrt of beta~ in Eq. (7) of arXiv:2006.11239, where beta is that of the whole jump."""
    for level_from, level_to in STEPS:
        beta = 1 - level_from.abar / level_to.abar
        expected = math.sqrt((1 - level_to.abar) / (1 - level_from.abar) * beta)
        assert expected > 0
        assert sigma(1.0, level_from, level_to) == pytest.approx(expected, rel=1e-14)


def test_eta_1_with_the_true_noise_has_ddpms_posterior_mean():
    """Eq. (7) again, which is written in x0 and x_t instead of x0 and eps."""
    x0 = Z
    for level_from, level_to in STEPS:
        alpha = level_from.abar / level_to.abar
        expected = (math.sqrt(level_to.abar) * (1 - alpha) / (1 - level_from.abar) * x0
                    + math.sqrt(alpha) * (1 - level_to.abar) / (1 - level_from.abar) * X)
        ours = toward(x0, eps_from_x0(X, x0, level_from.abar), level_to, sigma(1.0, level_from, level_to))
        assert distance(ours, expected) <= 1e-11, f"t = {level_from.t}"


@pytest.mark.parametrize(("T", "start", "end"), [(100, 1e-4, 0.02), (659, 0.00085, 0.012)])
def test_a_walk_through_every_time_at_eta_1_is_ddpms(T, start, end):
    """Algorithm 2 of arXiv:2006.11239 with its sigma_t^2 = beta~_t, from its own betas, down to the picture itself."""
    schedule = Schedule.from_config({"num_train_timesteps": T, "beta_schedule": "linear", "beta_start": start,
                                     "beta_end": end, "set_alpha_to_one": True})
    beta = np.linspace(start, end, T)
    alpha, abar = 1 - beta, np.cumprod(1 - beta)
    x = y = X
    for t in range(T - 1, -1, -1):
        z = torch.randn(X.shape, dtype=X.dtype, generator=torch.Generator().manual_seed(t))
        variance = beta[t] * (1 - abar[t - 1]) / (1 - abar[t]) if t else 0.0
        x = (x - beta[t] / math.sqrt(1 - abar[t]) * torch.sin(x + t / 20)) / math.sqrt(alpha[t])
        x = x + math.sqrt(variance) * z
        level_from, level_to = schedule.at(t), schedule.at(t - 1) if t else schedule.levels(1)[0]
        deviation = sigma(1.0, level_from, level_to)
        y = mean(y, torch.sin(y + t / 20), level_from, level_to, deviation) + deviation * z
    assert distance(y, x) <= 1e-10


@given(levels=two_levels())
@quick
def test_eta_1_is_k_diffusions_euler_ancestral_step(levels):
    """Which is written for a latent whose picture is not scaled: x = x0 + s noise, s its "sigma"."""
    level_from, level_to = levels
    s_from, s_to = (math.sqrt((1 - level.abar) / level.abar) for level in levels)
    s_up = min(s_to, math.sqrt(s_to**2 * (s_from**2 - s_to**2) / s_from**2))
    s_down = math.sqrt(s_to**2 - s_up**2)
    x = X / math.sqrt(level_from.abar)
    denoised = x - s_from * EPS
    x = x + (x - denoised) / s_from * (s_down - s_from) + s_up * Z
    deviation = sigma(1.0, level_from, level_to)
    ours = mean(X, EPS, level_from, level_to, deviation) + deviation * Z
    assert distance(ours / math.sqrt(level_to.abar), x) <= 1e-11


# ---------------------------------------------------------------- any eta


@given(levels=two_levels(), eta=etas)
@quick
def test_a_step_with_the_true_picture_and_noise_keeps_the_marginal(levels, eta):
    """x_to = a x0 + b eps + sigma z with a^2 = abar_to and b^2 + sigma^2 = 1 - abar_to."""
    level_from, level_to = levels
    deviation, one, none = sigma(eta, level_from, level_to), torch.ones(1, dtype=torch.float64), torch.zeros(1)
    a, b = toward(one, none, level_to, deviation).item(), toward(none, one, level_to, deviation).item()
    assert a == pytest.approx(math.sqrt(level_to.abar), rel=1e-14)
    assert b >= 0 and b**2 + deviation**2 == pytest.approx(1 - level_to.abar, rel=1e-9)


@given(levels=two_levels(), eta=etas)
@quick
def test_mean_finds_the_picture_in_x_itself(levels, eta):
    level_from, level_to = levels
    deviation = sigma(eta, level_from, level_to)
    ours = mean(add_noise(Z, EPS, level_from.abar), EPS, level_from, level_to, deviation)
    assert distance(ours, toward(Z, EPS, level_to, deviation)) <= 1e-11


@given(levels=two_levels(), eta=etas)
@quick
def test_sigma_grows_in_proportion_to_eta(levels, eta):
    assert sigma(eta, *levels) == pytest.approx(eta * sigma(1.0, *levels), rel=1e-14)
    assert 0 <= sigma(eta, *levels) <= math.sqrt(1 - levels[1].abar) * (1 + 1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_a_single_picture_is_found_from_any_noise(eta):
    """With data that is one picture the best eps is the true one, so the path ends at the clean level's marginal."""
    picture, levels = Z[:1], SD.levels(50)
    eps_fn, x = kit.gaussian_eps(picture, 0.0, SD), X
    for level_to, level_from in reversed(list(pairwise(levels))):
        deviation = sigma(eta, level_from, level_to)
        x = mean(x, eps_fn(x, level_from.t), level_from, level_to, deviation) + deviation * EPS
    noise = (x - math.sqrt(levels[0].abar) * picture) / math.sqrt(1 - levels[0].abar)
    assert distance(x, picture.expand_as(x)) < 0.1      # the clean level is not quite clean
    if eta == 0:
        first = (X - math.sqrt(levels[-1].abar) * picture) / math.sqrt(1 - levels[-1].abar)
        assert distance(noise, first) <= 1e-10, "without noise the first eps stays"


def test_only_a_perfectly_clean_level_takes_no_noise():
    level_from, clean, almost = SD.at(1), Level(0, 1.0), Level(0, SD.abar[0])
    assert sigma(1.0, level_from, clean) == 0 < sigma(1.0, level_from, almost)
    assert torch.equal(toward(X, EPS, clean, 0.0), X)
