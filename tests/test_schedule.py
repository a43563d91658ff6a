"""Run: python -m pytest tests/test_schedule.py

Noise levels against an independent computation and known values; conversions that undo each other; the DDIM step as an
Euler step; random numbers that depend on their seed, stream and index alone.
"""

import hashlib
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffedit_min.core.betas import ENTRIES
from diffedit_min.core.ddim import step
from diffedit_min.core.schedule import (
    Level,
    Schedule,
    add_noise,
    eps_from_v,
    eps_from_x0,
    generator,
    levels_used,
    standard_noise,
    tau,
    u_from_x,
    v_from_eps,
    x0_from_eps,
    x_from_u,
)

SD = Schedule.from_config({})
quick = settings(deadline=None, database=None, derandomize=True, max_examples=100)
times = st.integers(0, 999)
seeds = st.integers(0, 2**31)


def normal(seed, shape=(2, 4, 3, 5)):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def worst(a, b):
    return (a - b).abs().max().item()


# ---------------------------------------------------------------- abar


def test_abar_against_numpy():
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    expected = np.exp(np.cumsum(np.log1p(-betas)))          # a sum of logarithms, not a product
    error = np.abs(np.array(SD.abar) / expected - 1).max()
    assert error < 1e-13, f"relative error {error}"
    assert SD.T == 1000 and all(isinstance(value, float) for value in SD.abar)
    assert (np.diff(SD.abar) < 0).all()


@pytest.mark.parametrize(("t", "abar"), [
    (0, 0.99915), (1, 0.998296), (21, 0.980381), (201, 0.752143), (401, 0.422882), (481, 0.302296), (501, 0.274999),
    (601, 0.159816), (781, 0.04346), (801, 0.036547), (981, 0.005776), (999, 0.004660),
])
def test_abar_of_stable_diffusion(t, abar):
    assert abs(SD.abar[t] - abar) < (6e-6 if abar in (0.99915, 0.04346) else 6e-7), f"{SD.abar[t]}"


def test_other_configs():
    linear = Schedule.from_config({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02})
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert np.abs(np.array(linear.abar) / expected - 1).max() < 1e-13
    trained = Schedule.from_config({"trained_betas": [0.1, 0.2, 0.5], "beta_schedule": "unused"})
    assert np.abs(np.array(trained.abar) - [0.9, 0.72, 0.36]).max() < 1e-15
    assert Schedule.from_config({"num_train_timesteps": 20}).T == 20
    assert SD.steps_offset == 1 and SD.levels(10)[0] == Level(0, SD.abar[0])
    one = Schedule.from_config({"set_alpha_to_one": True, "steps_offset": 0})
    assert one.levels(10)[:2] == (Level(0, 1.0), Level(0, one.abar[0]))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(("raw", "message"), [
    ({"beta_schedule": "squaredcos_cap_v2"}, "(only scaled_linear or linear)"),
    ({"beta_schedule": ["linear"]}, "(only scaled_linear or linear)"),
    ({"rescale_betas_zero_snr": True}, "(only false: with it, abar would be 0 at the last time)"),
    ({"rescale_betas_zero_snr": "false"}, "(only false: with it, abar would be 0 at the last time)"),
    *(({"num_train_timesteps": value}, "(only a whole number from 2 to 10000)")
      for value in ("1000", 1000.0, True, 0, 1, -5, 10_001, 3 * 10**8, 10**60, [1000], {"T": 1000}, NAN)),
    *(({key: value}, "(only a number between 0 and 1)") for key in ("beta_start", "beta_end")
      for value in ("0.01", "0.01+0j", 0, 0.0, -0.01, 1, 1.5, NAN, INF, 10**60, True, [0.01], {})),
    *(({"steps_offset": value}, "(only 0 or 1)") for value in ("1", 1.0, True, -1, 2, 999, 10**60, [1])),
    *(({"set_alpha_to_one": value}, "(only true or false)") for value in ("false", 0, 1, [], {})),
    *(({"trained_betas": value}, "(only a list of 2 to 10000 numbers between 0 and 1)")
      for value in ("0.1", 0.1, [], [0.1], [0.1, "0.2"], [0.1, NAN], [0.1, -0.2], [0.1, 1.0], [[0.1, 0.2]], [0.1, None],
                    {"0": 0.1, "1": 0.2}, [0.001] * 10_001)),
])
def test_values_of_a_wrong_kind_or_out_of_range_are_refused(raw, message):
    key, value = next(iter(raw.items()))
    with pytest.raises(ValueError) as error:
        Schedule.from_config(raw, "model/scheduler_config.json")
    assert str(error.value) == f"model/scheduler_config.json: {key} = {value!r:.60} is not supported {message}"


@pytest.mark.parametrize(("raw", "message"), [
    ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 1000},
     "trained_betas has 2 numbers, but num_train_timesteps = 1000"),
    ({"beta_start": 1e-300, "beta_end": 0.01},
     "a beta is so small that abar does not fall (the least is 1e-300)"),
    ({"beta_end": 0.9}, "the betas are too large: abar falls to 3.87e-211, below 1e-08"),
    ({"trained_betas": [0.9999] * 3}, "the betas are too large: abar falls to 1e-12, below 1e-08"),
])
def test_betas_that_make_no_schedule_are_refused(raw, message):
    with pytest.raises(ValueError) as error:
        Schedule.from_config(raw)
    assert str(error.value) == f"scheduler_config.json: {message}"


def test_what_is_null_is_as_what_is_missing():
    assert Schedule.from_config(dict.fromkeys(ENTRIES)) == SD
    assert Schedule.from_config({"num_train_timesteps": None, "trained_betas": [0.1, 0.2]}).T == 2


def test_what_only_other_programs_samplers_use_is_not_read():
    unused = {"timestep_spacing": "trailing", "clip_sample": True, "thresholding": "?", "_class_name": 3}
    assert Schedule.from_config(unused) == SD


@pytest.mark.parametrize("one", [None, False, True])
@pytest.mark.parametrize("offset", [0, 1, None])
@pytest.mark.parametrize("N", [1, 50, 999])
def test_no_two_levels_have_the_same_abar_whatever_the_offset(offset, one, N):
    abar = [level.abar for level in Schedule.from_config({"steps_offset": offset, "set_alpha_to_one": one}).levels(N)]
    assert len(abar) == N + 1 and all(a > b for a, b in pairwise(abar))


def test_an_offset_of_0_is_1_where_the_clean_level_is_at_t_0():
    assert Schedule.from_config({"steps_offset": 0}).levels(50) == SD.levels(50)


# ---------------------------------------------------------------- levels


def test_levels_of_fifty_steps():
    levels = SD.levels(50)
    assert [level.t for level in levels[:4]] == [0, 1, 21, 41] and levels[-1].t == 981
    assert all(level.abar == SD.abar[level.t] for level in levels)


@given(st.integers(1, 999))
@quick
def test_levels_rise(N):
    levels = SD.levels(N)
    t, abar = [level.t for level in levels], [level.abar for level in levels]
    assert len(levels) == N + 1
    assert t == sorted(set(t)) and t[-1] < 1000
    assert abar == sorted(set(abar), reverse=True)
    assert t[1:] == [1 + math.floor(i * 1000 / N + 1e-9) for i in range(N)]


@pytest.mark.parametrize("N", [-1, 0, 1000, 1001])
def test_levels_refused(N):
    with pytest.raises(ValueError) as error:
        SD.levels(N)
    assert str(error.value) == f"steps must be from 1 to 999, not {N}"


@pytest.mark.parametrize(("ratio", "N", "k"), [
    (0, 50, 0), (1, 50, 50), (0.8, 50, 40), (0.7, 50, 35), (0.9, 10, 9), (0.5, 5, 3), (0.01, 10, 0),
    (0.58, 50, 29), (0.29, 100, 29), (0.57, 100, 57),       # 28.999..., 28.999..., 56.999... in floating point
])
def test_levels_used(ratio, N, k):
    assert levels_used(ratio, N) == k


@given(st.integers(1, 999), st.data())
@quick
def test_a_whole_number_of_levels_is_met(N, data):
    k = data.draw(st.integers(0, N))
    assert levels_used(k / N, N) == k


@pytest.mark.parametrize(("ratio", "t"), [(0, 0), (0.25, 250), (0.5, 500), (0.29, 290), (0.999, 999), (1, 999)])
def test_noised(ratio, t):
    assert SD.noised(ratio) == Level(t, SD.abar[t])


@pytest.mark.parametrize("ratio", [-0.01, 1.01, math.nan, math.inf])
def test_ratios_refused(ratio):
    with pytest.raises(ValueError) as error:
        levels_used(ratio, 50)
    assert str(error.value) == f"encoding ratio must be from 0 to 1, not {ratio}"
    with pytest.raises(ValueError) as error:
        SD.noised(ratio)
    assert str(error.value) == f"noise ratio must be from 0 to 1, not {ratio}"


# ---------------------------------------------------------------- x0, eps, v; u and tau


@given(seeds, times)
@quick
def test_conversions_undo_each_other(seed, t):
    x0, eps = normal(seed), normal(seed + 1)
    abar = SD.abar[t]
    x = add_noise(x0, eps, abar)
    v = math.sqrt(abar) * eps - math.sqrt(1 - abar) * x0        # its definition, in x0 and eps
    for name, got, expected in (
        ("x0", x0_from_eps(x, eps, abar), x0), ("eps", eps_from_x0(x, x0, abar), eps),
        ("v", v_from_eps(x, eps, abar), v), ("eps from v", eps_from_v(x, v, abar), eps),
        ("x", x_from_u(u_from_x(x, abar), abar), x),
    ):
        assert worst(got, expected) < 1e-12, f"{name} is off by {worst(got, expected)} at t = {t}"


def test_add_noise_takes_a_level_for_each_row():
    x0, eps = normal(0), normal(1)
    abar = torch.tensor([0.9, 0.2], dtype=torch.float64)
    mixed = add_noise(x0, eps, abar[:, None, None, None])
    for row in range(2):
        assert worst(mixed[row], add_noise(x0[row], eps[row], abar[row].item())) < 1e-15


@given(times)
@quick
def test_tau(t):
    abar = SD.abar[t]
    assert tau(abar) == pytest.approx(math.sqrt((1 - abar) / abar), rel=1e-12)
    assert 1 / (1 + tau(abar) ** 2) == pytest.approx(abar, rel=1e-14)


def test_tau_at_the_ends():
    assert tau(1.0) == 0
    assert tau(SD.abar[0]) == pytest.approx(0.029, abs=5e-4) and tau(SD.abar[999]) == pytest.approx(14.6, abs=0.05)


@given(seeds, times, times)
@quick
def test_a_ddim_step_is_an_euler_step(seed, t_from, t_to):
    x, eps = normal(seed), normal(seed + 1)
    abar_from, abar_to = SD.abar[t_from], SD.abar[t_to]
    u = u_from_x(step(x, eps, abar_from, abar_to), abar_to)
    change = (tau(abar_to) - tau(abar_from)) * eps
    euler = u_from_x(x, abar_from) + change
    # relative to what was added up: u itself may cancel
    size = max(u_from_x(x, abar_from).abs().max().item(), tau(abar_from) * eps.abs().max().item(), u.abs().max().item())
    assert worst(u, euler) < 1e-14 * size, f"relative error {worst(u, euler) / size}, t from {t_from} to {t_to}"


# ---------------------------------------------------------------- randomness


LIKE = torch.empty(3, 4, 5, 6)


def test_a_row_of_noise_is_the_same_alone_and_in_a_batch():
    batch = standard_noise(LIKE, (5, 6, 7), "noise")
    for row, seed in enumerate((5, 6, 7)):
        assert torch.equal(batch[row : row + 1], standard_noise(LIKE[:1], (seed,), "noise"))
    assert torch.equal(batch[[2, 0]], standard_noise(LIKE[:2], (7, 5), "noise"))


def test_seeds_streams_and_indices_have_noise_of_their_own():
    names = [(seed, stream, index) for seed in (0, 1, 10) for stream in ("mask", "noise") for index in (0, 1, 10)]
    draws = [standard_noise(LIKE[:1], (seed,), stream, index) for seed, stream, index in names]
    for i, a in enumerate(draws):
        for name, b in zip(names[:i], draws[:i], strict=True):
            correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()
            assert abs(correlation) < 0.5, f"{names[i]} and {name} correlate by {correlation}"


def test_noises_are_a_prefix_of_more():
    few, more = ([standard_noise(LIKE, (1, 2, 3), "mask", i) for i in range(n)] for n in (3, 7))
    assert all(torch.equal(a, b) for a, b in zip(few, more, strict=False))


def test_noise_is_standard_normal():
    noise = standard_noise(torch.empty(2, 4, 100, 100), (0, 1), "noise")
    for row in noise:
        assert abs(row.mean().item()) < 0.02 and abs(row.std().item() - 1) < 0.02


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_noise_is_the_same_float32_numbers_in_every_dtype(dtype):
    single = standard_noise(LIKE, (1, 2, 3), "noise")
    converted = standard_noise(LIKE.to(dtype), (1, 2, 3), "noise")
    assert single.dtype == torch.float32 and converted.dtype == dtype
    assert torch.equal(converted, single.to(dtype))


def test_noise_goes_to_the_device_of_the_latents():
    assert standard_noise(LIKE.to("meta"), (1, 2, 3), "noise").device.type == "meta"
    assert generator(0, "noise", 0).device.type == "cpu"


def test_generators_leave_the_global_state_alone_and_ignore_it():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    noise = standard_noise(LIKE, (1, 2, 3), "noise")
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(noise, standard_noise(LIKE, (1, 2, 3), "noise"))


def test_a_seed_means_the_same_in_every_release():
    expected = int.from_bytes(hashlib.sha256(b"7 mask 3").digest()[:7], "big")
    assert generator(7, "mask", 3).initial_seed() == expected


@pytest.mark.parametrize("t", [-1, 1000])
def test_times_outside_the_timeline_are_refused(t):
    with pytest.raises(ValueError, match=f"^t must be from 0 to 999, not {t}$"):
        Schedule.from_config({}).at(t)


def test_every_latent_needs_a_seed():
    with pytest.raises(ValueError, match="^3 latents but 2 seeds$"):
        standard_noise(torch.zeros(3, 4, 2, 2), (0, 1), "mask")
