"""Run with `python -m pytest tests/test_samplers.py` from the repository's root; takes about 20 seconds.

The samplers whose decoding undoes their encoding: exact round trips on random networks, what they reduce to, orders on
Gaussian data, and the blend with each of them.
"""

import warnings
from itertools import pairwise

import pytest
import torch

import diffedit_min as dm
from diffedit_min import testing as kit
from diffedit_min.methods.coding import SAMPLERS
from diffedit_min.samplers import State, bdia, belm, ddim, dpm_solver, edict, fixed_point
from diffedit_min.schedule import Schedule, levels_used, x0_from_eps

SD = Schedule.from_config({})
LEVELS = SD.levels(50)[: levels_used(0.8, 50) + 1]
X0 = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
EXACT = {"edict": (edict, {}), "edict, p = 1": (edict, {"p": 1.0}), "bdia": (bdia, {}),
         "bdia, gamma = 1": (bdia, {"gamma": 1.0}), "belm": (belm, {})}
ALL = {**EXACT, "fixed_point": (fixed_point, {"iterations": 20})}
EACH = [*EXACT, pytest.param("fixed_point", marks=pytest.mark.slow)]     # 21 calls a step
BOTH_WAYS = ("encode", "decode")


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def encoded(sampler, eps_fn, options, levels=LEVELS, x0=X0):
    return list(sampler.encode(eps_fn, x0, levels, **options))


def decoded(sampler, eps_fn, state, options, levels=LEVELS, blend=None):
    options = {name: value for name, value in options.items() if kit.takes(sampler.decode, name)}
    return list(sampler.decode(eps_fn, state, levels, blend, **options))


# ---------------------------------------------------------------- what they promise


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", EXACT)
def test_round_trips_are_exact(name, seed):
    sampler, options = EXACT[name]
    error = kit.roundtrip_error(sampler, eps_fn=kit.random_eps_fn(seed), x0=X0, levels=LEVELS, **options)
    assert error <= 1e-10, f"{error:.1e}"
    assert kit.roundtrip_error(ddim, eps_fn=kit.random_eps_fn(seed), x0=X0, levels=LEVELS) > 1e-3


@pytest.mark.parametrize("steps, ratio", [(7, 1.0), (10, 0.3), (20, 0.75), (49, 0.8), (50, 0.02), (50, 0.0)])
@pytest.mark.parametrize("name", EXACT)
def test_round_trips_are_exact_at_odd_and_even_numbers_of_levels(name, steps, ratio):
    sampler, options = EXACT[name]
    levels = SD.levels(steps)[: levels_used(ratio, steps) + 1]
    assert kit.roundtrip_error(sampler, eps_fn=kit.random_eps_fn(0), x0=X0, levels=levels, **options) <= 1e-10


@pytest.mark.slow
def test_fixed_point_converges_geometrically():
    eps_fn = kit.random_eps_fn(0)
    errors = [kit.roundtrip_error(fixed_point, eps_fn=eps_fn, x0=X0, levels=LEVELS, iterations=n)
              for n in (0, 2, 4, 6, 20)]
    assert errors[-1] <= 1e-8 and all(later < 0.1 * earlier for earlier, later in pairwise(errors))


@pytest.mark.slow
def test_fixed_point_says_where_it_does_not_converge():
    def steep(x, t):
        return torch.sin(40 * x)

    with pytest.warns(UserWarning, match=r"^the fixed-point iteration does not converge at t = \d+: "):
        encoded(fixed_point, steep, {"iterations": 20})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded(fixed_point, kit.random_eps_fn(0), {"iterations": 20})


@pytest.mark.parametrize("name", EACH)
def test_a_smaller_ratio_is_a_prefix(name):
    sampler, options = ALL[name]
    eps_fn = kit.random_eps_fn(0)
    far, near = (encoded(sampler, eps_fn, options, LEVELS[: k + 1]) for k in (20, 13))
    for a, b in zip(near, far[:14], strict=True):
        assert (a.index, a.level) == (b.index, b.level) and torch.equal(a.latent, b.latent)
        assert all(i == j and torch.equal(p, q) for (i, p), (j, q) in zip(a.partners, b.partners, strict=True))


@pytest.mark.parametrize("name", EACH)
def test_states_stand_at_their_levels(name):
    sampler, options = ALL[name]
    eps_fn = kit.random_eps_fn(0)
    up = encoded(sampler, eps_fn, options)
    down = decoded(sampler, eps_fn, up[-1], options)
    assert [state.index for state in up] == list(range(41)) and [s.index for s in down] == list(range(40, -1, -1))
    assert all(state.level == LEVELS[state.index] for state in up + down)
    assert torch.equal(up[0].latent, X0) and down[0] is up[-1]
    for state in up + down[1:]:         # partners are at their own levels too: x0 is recovered from each by eps = 0
        for index, partner in state.partners:
            assert abs(index - state.index) <= 1 and partner.shape == X0.shape


@pytest.mark.parametrize("name, calls", [("edict", (80, 80)), ("bdia", (40, 39)), ("belm", (40, 39)),
                                         ("fixed_point", (40 * 21, 40))])
def test_calls_of_the_network(name, calls):
    sampler, options = ALL[name]
    count = 0

    def eps_fn(x, t):
        nonlocal count
        count += 1
        return 0.1 * x

    up = encoded(sampler, eps_fn, options)
    there, count = count, 0
    decoded(sampler, eps_fn, up[-1], options)
    assert (there, count) == calls


@pytest.mark.parametrize("name", EACH)
def test_a_picture_alone_is_the_same_in_a_batch(name):
    sampler, options = ALL[name]
    eps_fn = kit.random_eps_fn(0)
    together, alone = encoded(sampler, eps_fn, options)[-1], encoded(sampler, eps_fn, options, x0=X0[:1])[-1]
    assert distance(together.latent[:1], alone.latent) <= 1e-10


# ---------------------------------------------------------------- what they reduce to


def test_fixed_point_without_iterations_is_ddims_encoding():
    eps_fn = kit.random_eps_fn(0)
    ours, theirs = encoded(fixed_point, eps_fn, {"iterations": 0}), encoded(ddim, eps_fn, {"time": "destination"})
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(ours, theirs, strict=True))


def test_edict_without_mixing_is_ddim_on_both_latents_if_eps_ignores_them():
    def eps_fn(x, t):
        return torch.full_like(x, t / 500 - 1)

    plain, pair = encoded(ddim, eps_fn, {}), encoded(edict, eps_fn, {"p": 1.0})
    for one, two in zip(plain, pair, strict=True):
        assert all(distance(latent, one.latent) <= 1e-13 for latent in two.latents) and len(two.latents) == 2
    down = decoded(edict, eps_fn, State(40, LEVELS[40], plain[-1].latent), {"p": 1.0})
    assert distance(down[-1].latent, X0) <= 1e-13


def test_bdia_with_gamma_0_is_ddims_decoding():
    eps_fn, start = kit.random_eps_fn(0), State(40, LEVELS[40], X0)
    ours, theirs = decoded(bdia, eps_fn, start, {"gamma": 0.0}), decoded(ddim, eps_fn, start, {})
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match="^gamma = 0 is DDIM's decoding; an encoding that undoes it needs "):
        encoded(bdia, eps_fn, {"gamma": 0.0})


@pytest.mark.parametrize("name", EXACT)
def test_without_a_partner_decoding_starts_like_ddim(name):
    """From noise: whatever the sampler, a constant eps is solved exactly."""
    sampler, options = EXACT[name]
    eps = torch.randn_like(X0)
    down = decoded(sampler, lambda x, t: eps, State(40, LEVELS[40], X0), options)
    expected = decoded(ddim, lambda x, t: eps, State(40, LEVELS[40], X0), {})
    assert distance(down[-1].latent, expected[-1].latent) <= 1e-12
    assert distance(x0_from_eps(down[-1].latent, eps, LEVELS[0].abar), x0_from_eps(X0, eps, LEVELS[40].abar)) <= 1e-12


@pytest.mark.parametrize("name", ["bdia", "belm", "edict"])
def test_a_decoding_can_be_taken_up_on_its_way(name):
    sampler, options = EXACT[name]
    eps_fn = kit.random_eps_fn(0)
    down = decoded(sampler, eps_fn, encoded(sampler, eps_fn, options)[-1], options)
    again = decoded(sampler, eps_fn, down[15], options)
    assert again[0].index == 25 and torch.equal(again[-1].latent, down[-1].latent)


# ---------------------------------------------------------------- orders, on Gaussian data


@pytest.mark.parametrize("name, low, high", [
    ("fixed_point", 0.85, 1.15), ("bdia, gamma = 1", 1.5, 2.5), ("belm", 1.4, 2.3),
])
def test_order_of_encoding(name, low, high):
    sampler, options = ALL[name]
    eps_fn, errors = kit.gaussian_eps(0, 1.0, SD), []
    for steps in (25, 50, 100, 200):
        levels = SD.levels(steps)[: levels_used(0.8, steps) + 1]
        end = encoded(sampler, eps_fn, options, levels)[-1].latent
        errors.append(distance(end, kit.gaussian_solution(X0, 0, 1.0, levels[0].abar, levels[-1].abar)))
    order = kit.fitted_order([25, 50, 100, 200], errors)
    assert low <= order <= high, f"{order:.2f} from {errors}"


# ---------------------------------------------------------------- dpm_solver, which is no inverse


def walked(sampler, direction, eps_fn, levels, **options):
    """The last latent from X0 up or down all of the levels."""
    if direction == "encode":
        return encoded(sampler, eps_fn, options, levels)[-1].latent
    return decoded(sampler, eps_fn, State(len(levels) - 1, levels[-1], X0), options, levels)[-1].latent


def errors_on(grid, sampler, direction, s, **options):
    """On Gaussian data: the numbers of steps, and the distances from the exact solution."""
    eps_fn, counts, errors = kit.gaussian_eps(0.3, s, SD), [], []
    for steps in (10, 20, 40, 80):
        levels = grid(SD.levels(steps)[: levels_used(0.8, steps) + 1])
        ends = [levels[0].abar, levels[-1].abar]
        exact = kit.gaussian_solution(X0, 0.3, s, *(ends if direction == "encode" else ends[::-1]))
        counts.append(len(levels) - 1)
        errors.append(distance(walked(sampler, direction, eps_fn, levels, **options), exact))
    return counts, errors


@pytest.mark.parametrize("s", [0.5, 1.0])
@pytest.mark.parametrize("direction", BOTH_WAYS)
def test_dpm_solver_is_of_order_2_on_a_grid_even_in_lambda(direction, s):
    def even(levels):
        return dpm_solver.even_in_lambda(SD, levels)

    counts, errors = errors_on(even, dpm_solver, direction, s)
    assert 1.6 <= kit.fitted_order(counts, errors) <= 2.2, errors
    _, of_ddim = errors_on(even, ddim, direction, s, **({"time": "source"} if direction == "encode" else {}))
    assert all(ours < 0.25 * theirs for ours, theirs in zip(errors, of_ddim, strict=True))


@pytest.mark.parametrize("direction", BOTH_WAYS)
def test_dpm_solver_is_of_lower_order_on_the_usual_grid_and_still_better_than_ddim(direction):
    counts, errors = errors_on(tuple, dpm_solver, direction, 1.0)
    assert 1.2 <= kit.fitted_order(counts, errors) <= 1.7, errors
    assert errors[-1] < 0.5 * errors_on(tuple, ddim, direction, 1.0)[1][-1]


@pytest.mark.parametrize("direction", BOTH_WAYS)
def test_dpm_solver_in_the_papers_form(direction):
    """Equation by equation of arXiv:2211.01095's algorithm 2, in its own letters."""
    eps_fn = kit.random_eps_fn(0)
    levels = LEVELS if direction == "encode" else LEVELS[::-1]
    alpha, sigma = (torch.tensor([f(level.abar) for level in levels], dtype=torch.float64).sqrt()
                    for f in (lambda abar: abar, lambda abar: 1 - abar))
    lam = (alpha / sigma).log()
    x, before = X0, None
    for i in range(1, len(levels)):
        h = lam[i] - lam[i - 1]
        predicted = (x - sigma[i - 1] * eps_fn(x, levels[i - 1].t)) / alpha[i - 1]
        D = predicted
        if before is not None:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * predicted - before / (2 * r)
        x, before = sigma[i] / sigma[i - 1] * x - alpha[i] * ((-h).exp() - 1) * D, predicted
    assert distance(walked(dpm_solver, direction, eps_fn, LEVELS), x) <= 1e-12


def test_a_dpm_solver_decoding_can_be_taken_up_on_its_way():
    eps_fn = kit.random_eps_fn(0)
    down = decoded(dpm_solver, eps_fn, encoded(dpm_solver, eps_fn, {})[-1], {})
    again = decoded(dpm_solver, eps_fn, down[15], {})
    assert again[0].index == 25 and torch.equal(again[-1].latent, down[-1].latent)


def test_dpm_solvers_decoding_begins_anew_after_an_encoding():
    """The encoding's last prediction lies on the wrong side."""
    eps_fn = kit.random_eps_fn(0)
    top = encoded(dpm_solver, eps_fn, {})[-1]
    plain = decoded(ddim, eps_fn, State(40, LEVELS[40], top.latent), {})
    assert top.memory is not None
    assert torch.equal(decoded(dpm_solver, eps_fn, top, {})[1].latent, plain[1].latent)


def test_dpm_solver_reaches_and_leaves_a_level_without_noise():
    clean = Schedule.from_config({"set_alpha_to_one": True})
    levels = clean.levels(20)[:17]
    assert levels[0].abar == 1.0
    up = encoded(dpm_solver, kit.random_eps_fn(0), {}, levels)
    down = decoded(dpm_solver, kit.random_eps_fn(0), up[-1], {}, levels)
    assert down[-1].latent.isfinite().all() and distance(down[-1].latent, X0) < 0.5
    even = dpm_solver.even_in_lambda(clean, levels)
    assert even[0] == levels[0] and even[-1] == levels[-1]


@pytest.mark.parametrize("steps, ratio", [(5, 1.0), (10, 0.5), (50, 0.8), (200, 0.8), (999, 1.0)])
def test_levels_even_in_lambda(steps, ratio):
    usual = SD.levels(steps)[: levels_used(ratio, steps) + 1]
    levels = dpm_solver.even_in_lambda(SD, usual)
    assert levels[0] == usual[0] and levels[-1] == usual[-1] and len(levels) <= len(usual)
    assert all(below.t < above.t for below, above in pairwise(levels))
    if steps <= 50:     # with more, training times are missing near the clean end
        even, uneven = ([dpm_solver.log_snr(a) - dpm_solver.log_snr(b) for a, b in pairwise(grid)]
                        for grid in (levels, usual))
        assert len(levels) >= 0.9 * len(usual)
        assert max(even) / min(even) < 0.5 * max(uneven) / min(uneven)


def test_states_of_a_batch_and_of_its_pictures(model):
    """An encoding with a memory, cut up and put together again."""
    pictures = [dm.tiny.scenes.sample(seed).render(32) for seed in (5, 6)]
    few = {"steps": 8, "sampler": "dpm_solver", "encoding_ratio": 0.75}
    both = dm.encode_decode(model, pictures, "a bowl of pears", **few)
    alone = [dm.encode_decode(model, picture, "a bowl of pears", **few) for picture in pictures]
    again = dm.encode_decode(model, pictures, "a bowl of pears", encoded=[edit.encoded for edit in alone], **few)
    for batched, one, reused in zip(both, alone, again, strict=True):
        assert batched.encoded[3].memory[1].shape == one.encoded[3].memory[1].shape == (1, 4, 8, 8)
        assert distance(batched.encoded[3].memory[1], one.encoded[3].memory[1]) <= 1e-12
        assert distance(batched.decoded[0].latent, one.decoded[0].latent) <= 1e-12
        assert distance(reused.decoded[0].latent, one.decoded[0].latent) <= 1e-12


# ---------------------------------------------------------------- the blend, and the methods


@pytest.mark.parametrize("name", EACH)
def test_each_latent_is_blended_once_at_its_own_level(name):
    """Mask 0: bitwise the encoding. Half a mask, the same network: nothing changes."""
    sampler, options = ALL[name]
    eps_fn, other = kit.random_eps_fn(0), kit.random_eps_fn(0, text=1)
    up, seen = encoded(sampler, eps_fn, options), []

    def blend(mask):
        def apply(latent, index, which=0):
            seen.append((index, which))
            return torch.where(mask, latent, up[index].latents[which])
        return apply

    nothing = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    down = decoded(sampler, other, up[-1], options, blend=blend(nothing))
    assert torch.equal(down[-1].latent, X0) and len(seen) == len(set(seen))
    assert {which for _, which in seen} == ({0, 1} if sampler is edict else {0})
    half = nothing.clone()
    half[..., :4] = True
    down = decoded(sampler, eps_fn, up[-1], options, blend=blend(half))
    assert distance(down[-1].latent, X0) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_methods_take_samplers(sampler, model):
    picture = dm.tiny.scenes.sample(5).render(32)
    few = {"steps": 50, "encoding_ratio": 0.3, "iterations": 60, "sampler": sampler}
    back = dm.invert(model, picture, **few)
    lost = distance(back.decoded[0].latent, back.encoded[0].latent)
    approximate = sampler in ("ddim", "dpm_solver")
    assert 1e-4 < lost if approximate else lost <= (1e-6 if sampler == "fixed_point" else 1e-9), f"{lost:.1e}"
    few |= {"mask_samples": 2}
    prompts = "a bowl of pears", "a bowl of plums"
    edit = dm.diffedit(model, picture, *prompts, keep="trace", **few)
    kept = ~edit.mask
    assert kept.any() and torch.equal(edit.decoded[0].latent[..., kept], edit.encoded[0].latent[..., kept])
    assert edit.settings["sampler"] == sampler
    again = dm.diffedit(model, picture, *prompts, encoded=edit.encoded, **few)
    assert again.image.tobytes() == edit.image.tobytes() and again.rows < edit.rows
    black = dm.diffedit(model, picture, "a bowl of pears", mask=torch.zeros(8, 8, dtype=torch.bool), **few)
    assert torch.equal(black.decoded[0].latent, black.encoded[0].latent)


def test_bad_settings(model):
    picture = dm.tiny.scenes.sample(5).render(32)
    for options, message in (
        ({"sampler": "euler"}, "sampler 'euler' is not known; known are ddim, fixed_point, edict, bdia, belm, "
                                "dpm_solver"),
        ({"iterations": -1}, "iterations must be at least 0, not -1"),
        ({"p": 0.0}, "p must be above 0 and at most 1, not 0.0"),
        ({"p": 1.5}, "p must be above 0 and at most 1, not 1.5"),
        ({"gamma": -0.5}, "gamma must be from 0 to 1, not -0.5"),
    ):
        with pytest.raises(ValueError) as error:
            dm.invert(model, picture, **options)
        assert str(error.value) == message
    with pytest.raises(ValueError, match="^sdedit has no option 'sampler'; it has "):
        dm.sdedit(model, picture, "pears", sampler="edict")
    encoding = dm.invert(model, picture, steps=10, sampler="edict").encoded
    with pytest.raises(ValueError, match="^encoded was made by another sampler than ddim: pass one made by the same$"):
        dm.invert(model, picture, steps=10, encoded=encoding)


def test_belm_refuses_levels_of_equal_noise():
    levels = Schedule.from_config({"steps_offset": 0}).levels(10)
    start = State(1, levels[1], X0)
    for call in (lambda: encoded(belm, None, {}, levels), lambda: decoded(belm, None, start, {}, levels)):
        with pytest.raises(ValueError, match="^O-BELM needs rising noise, but t = 0 and t = 0 are equally noisy$"):
            call()
