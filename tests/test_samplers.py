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
from diffedit_min.core.ddim import DDIM, step
from diffedit_min.core.options import written
from diffedit_min.core.schedule import Level, Schedule, even_in_log_snr, levels_used, log_snr
from diffedit_min.core.state import State
from diffedit_min.samplers import sampler_of
from diffedit_min.samplers.bdia import BDIA
from diffedit_min.samplers.belm import BELM
from diffedit_min.samplers.dpm_solver import DPMSolver
from diffedit_min.samplers.edict import EDICT
from diffedit_min.samplers.fixed_point import FixedPoint

SD = Schedule.from_config({})
LEVELS = SD.levels(50)[: levels_used(0.8, 50) + 1]
X0 = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
EXACT = [EDICT(), EDICT(p=1), BDIA(), BDIA(gamma=1), BELM()]
BOTH_WAYS = ("encode", "decode")


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def encoded(sampler, eps_fn, levels=LEVELS, x0=X0):
    return list(sampler.encode(eps_fn, x0, levels))


def decoded(sampler, eps_fn, state, levels=LEVELS, blend=None):
    return list(sampler.decode(eps_fn, state, levels, blend))


# ---------------------------------------------------------------- what they promise


@pytest.mark.parametrize("sampler", EXACT, ids=written)
def test_round_trips_are_exact(sampler):
    error = kit.roundtrip_error(sampler, eps_fn=kit.random_eps_fn(0), x0=X0[:1], levels=LEVELS)
    assert error <= 1e-10, f"{error:.1e}"


def test_fixed_point_converges_geometrically():
    eps_fn, levels = kit.random_eps_fn(0), SD.levels(20)[:9]
    errors = [kit.roundtrip_error(FixedPoint(n), eps_fn=eps_fn, x0=X0[:1], levels=levels) for n in (0, 2, 4, 20)]
    assert errors[-1] <= 1e-8 and all(later < 0.1 * earlier for earlier, later in pairwise(errors))


def test_fixed_point_says_where_it_does_not_converge():
    def steep(x, t):
        return torch.sin(40 * x)

    levels = LEVELS[:6]
    with pytest.warns(UserWarning, match=r"^the fixed-point iteration does not converge at t = \d+: "):
        encoded(FixedPoint(), steep, levels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded(FixedPoint(), kit.random_eps_fn(0), levels)


@pytest.mark.parametrize(("sampler", "up", "down", "from_noise"), [
    (DDIM(), [1, 2, 3, 4], [4, 3, 2, 1], [4, 3, 2, 1]),
    (DDIM("source"), [0, 1, 2, 3], [4, 3, 2, 1], [4, 3, 2, 1]),
    (FixedPoint(1), [1, 1, 2, 2, 3, 3, 4, 4], [4, 3, 2, 1], [4, 3, 2, 1]),
    (EDICT(), [1, 1, 2, 2, 3, 3, 4, 4], [4, 4, 3, 3, 2, 2, 1, 1], [4, 4, 3, 3, 2, 2, 1, 1]),
    (BDIA(), [1, 1, 2, 3], [3, 2, 1], [4, 3, 2, 1]),
    (BELM(), [1, 1, 2, 3], [3, 2, 1], [4, 3, 2, 1]),
    (DPMSolver(), [0, 1, 2, 3], [4, 3, 2, 1], [4, 3, 2, 1]),
], ids=lambda told: written(told) if hasattr(told, "encode") else None)
def test_at_which_times_the_network_is_asked(sampler, up, down, from_noise):
    """By the level's number: on the way up, back down from there, and down from a latent alone."""
    levels, asked = LEVELS[:5], []

    def eps_fn(x, t):
        asked.append([level.t for level in levels].index(t))
        return 0.1 * x

    seen = []
    top = encoded(sampler, eps_fn, levels)[-1]
    for start in (top, State(4, levels[4], X0)):
        seen.append([*asked])
        asked.clear()
        decoded(sampler, eps_fn, start, levels)
    assert [*seen, asked] == [up, down, from_noise]


# ---------------------------------------------------------------- what they reduce to


def test_fixed_point_without_iterations_is_ddims_encoding():
    eps_fn, levels = kit.random_eps_fn(0), LEVELS[:10]
    ours, theirs = encoded(FixedPoint(0), eps_fn, levels), encoded(DDIM("destination"), eps_fn, levels)
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(ours, theirs, strict=True))


def test_edict_without_mixing_is_ddim_on_both_latents_if_eps_ignores_them():
    def eps_fn(x, t):
        return torch.full_like(x, t / 500 - 1)

    plain, pair = encoded(DDIM(), eps_fn), encoded(EDICT(p=1), eps_fn)
    for one, two in zip(plain, pair, strict=True):
        assert two.latents.shape == (2, 8, 8, 8)
        assert all(distance(latent, one.latent) <= 1e-13 for latent in two.latents.chunk(2, dim=1))
    down = decoded(EDICT(p=1), eps_fn, State(40, LEVELS[40], plain[-1].latent))
    assert distance(down[-1].latent, X0) <= 1e-13


@pytest.mark.parametrize("index", [1, 2])
def test_edicts_latents_take_turns_by_the_levels_number(index):
    """One step by the paper's equations: x goes first from an even level, y from an odd one."""
    p, level, below = 0.9, LEVELS[index], LEVELS[index - 1]
    X, Y, eps_fn = X0, X0.flip(0), kit.random_eps_fn(0)
    x, y = (X, Y) if index % 2 == 0 else (Y, X)
    x = step(x, eps_fn(y, level.t), level.abar, below.abar)
    y = step(y, eps_fn(x, level.t), level.abar, below.abar)
    x = p * x + (1 - p) * y
    y = p * y + (1 - p) * x
    x, y = (x, y) if index % 2 == 0 else (y, x)
    made = decoded(EDICT(p=p), eps_fn, State(index, level, X, ((index, Y),)))[1]
    assert distance(made.latent, x) <= 1e-14 and distance(made.partners[0][1], y) <= 1e-14
    assert made.partners[0][0] == index - 1 and distance(x, y) > 0.1


def test_bdia_with_gamma_0_is_ddims_decoding():
    eps_fn, start = kit.random_eps_fn(0), State(9, LEVELS[9], X0)
    ours, theirs = decoded(BDIA(gamma=0), eps_fn, start), decoded(DDIM(), eps_fn, start)
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(ours, theirs, strict=True))
    with pytest.raises(ValueError, match="^gamma = 0 is DDIM's decoding; an encoding that undoes it needs "):
        encoded(BDIA(gamma=0), eps_fn)


# ---------------------------------------------------------------- dpm_solver, which is no inverse


def walked(sampler, direction, eps_fn, levels):
    """The last latent from X0 up or down all of the levels."""
    if direction == "encode":
        return encoded(sampler, eps_fn, levels)[-1].latent
    return decoded(sampler, eps_fn, State(len(levels) - 1, levels[-1], X0), levels)[-1].latent


def errors_on(grid, sampler, direction, s):
    """On Gaussian data: the numbers of steps, and the distances from the exact solution."""
    eps_fn, counts, errors = kit.gaussian_eps(0.3, s, SD), [], []
    for steps in (10, 20, 40, 80):
        levels = grid(SD.levels(steps)[: levels_used(0.8, steps) + 1])
        ends = [levels[0].abar, levels[-1].abar]
        exact = kit.gaussian_solution(X0, 0.3, s, *(ends if direction == "encode" else ends[::-1]))
        counts.append(len(levels) - 1)
        errors.append(distance(walked(sampler, direction, eps_fn, levels), exact))
    return counts, errors


@pytest.mark.parametrize("direction", BOTH_WAYS)
def test_dpm_solver_is_of_lower_order_on_the_usual_grid_and_still_better_than_ddim(direction):
    counts, errors = errors_on(tuple, DPMSolver(), direction, 1.0)
    assert 1.2 <= kit.fitted_order(counts, errors) <= 1.7, errors
    assert errors[-1] < 0.5 * errors_on(tuple, DDIM(), direction, 1.0)[1][-1]


@pytest.mark.parametrize("direction", BOTH_WAYS)
def test_dpm_solver_in_the_papers_form(direction):
    """Equation by equation of arXiv:2211.01095's algorithm 2, in its own letters."""
    eps_fn, rising = kit.random_eps_fn(0), SD.levels(20)[:13]
    levels = rising if direction == "encode" else rising[::-1]
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
    assert distance(walked(DPMSolver(), direction, eps_fn, rising), x) <= 1e-12


def test_dpm_solvers_decoding_begins_anew_after_an_encoding():
    """The encoding's last prediction lies on the wrong side."""
    eps_fn, levels = kit.random_eps_fn(0), LEVELS[:6]
    top = encoded(DPMSolver(), eps_fn, levels)[-1]
    plain = decoded(DDIM(), eps_fn, State(5, levels[5], top.latent), levels)
    assert top.memory is not None
    assert torch.equal(decoded(DPMSolver(), eps_fn, top, levels)[1].latent, plain[1].latent)


def test_dpm_solver_reaches_and_leaves_a_level_without_noise():
    clean = Schedule.from_config({"set_alpha_to_one": True})
    levels = clean.levels(20)[:17]
    assert levels[0].abar == 1.0
    up = encoded(DPMSolver(), kit.random_eps_fn(0), levels)
    down = decoded(DPMSolver(), kit.random_eps_fn(0), up[-1], levels)
    assert down[-1].latent.isfinite().all() and distance(down[-1].latent, X0) < 0.5
    even = even_in_log_snr(clean, levels)
    assert even[0] == levels[0] and even[1:] == even_in_log_snr(SD, SD.levels(20)[:17])[1:], "evenly from t = 0"


@pytest.mark.parametrize("steps, ratio", [(5, 1.0), (10, 0.5), (50, 0.8), (200, 0.8), (999, 1.0)])
def test_levels_even_in_lambda(steps, ratio):
    usual = SD.levels(steps)[: levels_used(ratio, steps) + 1]
    levels = even_in_log_snr(SD, usual)
    assert levels[0] == usual[0] and levels[-1] == usual[-1] and len(levels) <= len(usual)
    assert all(below.t < above.t for below, above in pairwise(levels))
    if steps <= 50:     # with more, training times are missing near the clean end
        even, uneven = ([log_snr(a) - log_snr(b) for a, b in pairwise(grid)]
                        for grid in (levels, usual))
        assert len(levels) >= 0.9 * len(usual)
        assert max(even) / min(even) < 0.5 * max(uneven) / min(uneven)


def test_the_lambda_grid_goes_as_far_as_the_ratio_says():
    """Up to the level at ratio T, that one included, and no further."""
    def levels(ratio):
        return dm.encode_decode.made({"steps": 20, "encoding_ratio": ratio, "grid": "lambda"}).levels(SD)

    whole = levels(1.0)
    assert whole == even_in_log_snr(SD, SD.levels(20)) and whole[-1] == SD.at(951)
    for count, level in enumerate(whole, start=1):
        ratio = level.t / 1000
        assert ratio * 1000 == level.t
        assert levels(ratio) == whole[:count]
        assert levels(max(ratio - 1e-9, 0)) == whole[: max(count - 1, 1)]


def test_states_of_a_batch_and_of_its_pictures(model):
    """An encoding with a memory, cut up and put together again."""
    pictures = [dm.tiny.scenes.sample(seed).render(32) for seed in (5, 6)]
    few = {"steps": 5, "sampler": "dpm_solver", "encoding_ratio": 0.8}
    both = dm.encode_decode(model, pictures, "a bowl of pears", **few)
    alone = [dm.encode_decode(model, picture, "a bowl of pears", **few) for picture in pictures]
    again = dm.encode_decode(model, pictures, "a bowl of pears", encoded=[edit.encoded for edit in alone], **few)
    for batched, one, reused in zip(both, alone, again, strict=True):
        assert batched.encoded[3].memory[1].shape == one.encoded[3].memory[1].shape == (1, 4, 8, 8)
        assert distance(batched.encoded[3].memory[1], one.encoded[3].memory[1]) <= 1e-12
        assert distance(batched.decoded[0].latent, one.decoded[0].latent) <= 1e-12
        assert distance(reused.decoded[0].latent, one.decoded[0].latent) <= 1e-12


# ---------------------------------------------------------------- the blend, and the methods


def test_bad_settings(model):
    picture = dm.tiny.scenes.sample(5).render(32)
    for options, message in (
        ({"sampler": "euler"}, "sampler 'euler' is not known; known are ddim, fixed_point, edict, bdia, belm, "
                                "dpm_solver"),
        ({"sampler": "fixed_point:iterations=-1"}, "iterations must be at least 0, not -1"),
        ({"sampler": "edict:p=0"}, "p must be above 0 and at most 1, not 0.0"),
        ({"sampler": "edict:p=1.5"}, "p must be above 0 and at most 1, not 1.5"),
        ({"sampler": "edict:p=much"}, "p must be a number, not 'much'"),
        ({"sampler": "edict:gamma=1"}, "sampler edict has no option 'gamma=1'; it has p: write edict:name=value"),
        ({"sampler": "belm:gamma=1"}, "sampler belm has no option 'gamma=1'; it has none"),
        ({"sampler": "bdia:gamma=-0.5"}, "gamma must be from 0 to 1, not -0.5"),
        ({"sampler": EDICT}, f"sampler must be a name or an object with encode and decode, not {EDICT}: call it, to "
                             "make an object of the class"),
        ({"sampler": 3}, "sampler must be a name or an object with encode and decode, not 3"),
    ):
        with pytest.raises(ValueError) as error:
            dm.invert(model, picture, **options)
        assert str(error.value) == message
    with pytest.raises(ValueError, match="^sdedit has no option 'sampler'; it has "):
        dm.sdedit(model, picture, "pears", sampler="edict")
    encoding = dm.invert(model, picture, steps=10, sampler="edict").encoded
    with pytest.raises(ValueError, match="^encoded was made with sampler 'edict', but this edit has 'ddim': leave it "):
        dm.invert(model, picture, steps=10, encoded=encoding)
    with pytest.raises(ValueError, match="^encoded was made with sampler 'edict', but this edit has 'edict:p=0.9': "):
        dm.invert(model, picture, steps=10, sampler=EDICT(p=0.9), encoded=encoding)


@pytest.mark.parametrize("sampler", [EDICT(p=0.9), BDIA(gamma=1), FixedPoint(3), DDIM("source"), BELM()], ids=written)
def test_a_samplers_name_is_read_as_it_is_written(sampler):
    assert sampler_of(written(sampler)) == sampler == sampler_of(sampler)
    assert sampler_of(f" {written(sampler).replace('_', '-')}") == sampler


def test_belm_refuses_levels_of_equal_noise():
    levels = (Level(0, LEVELS[1].abar), *LEVELS[1:])
    start = State(1, levels[1], X0)
    for call in (lambda: encoded(BELM(), None, levels), lambda: decoded(BELM(), None, start, levels)):
        with pytest.raises(ValueError, match="^O-BELM needs rising noise, but t = 0 and t = 1 are equally noisy$"):
            call()


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("name", dm.SAMPLERS)
def test_every_sampler_goes_both_ways_with_a_published_offset_of_0(name, one):
    levels = Schedule.from_config({"steps_offset": 0, "set_alpha_to_one": one}).levels(5)
    up = encoded(dm.SAMPLERS[name], lambda x, t: 0.1 * x, levels)
    down = decoded(dm.SAMPLERS[name], lambda x, t: 0.1 * x, up[-1], levels)
    assert len(down) == 6 and all(state.latent.isfinite().all() for state in (*up, *down))
