"""python -m pytest tests/test_method_checks.py; `-m slow` checks the other methods and tries the other wrong ones, of
which one a clause is quick.

`check_method` on all methods, on right ones that are unusual, and on wrong ones: each of these must be told by the
clause that says what is wrong with it.
"""

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import diffedit_min as dm
from diffedit_min.core.coding import IntervalOptions, RatioOptions, decode, encode, eps_of_query
from diffedit_min.core.diffedit import DiffEditOptions, edit_inside, find_map
from diffedit_min.core.guidance import Rows, conditional
from diffedit_min.core.mask import binarise
from diffedit_min.core.options import option
from diffedit_min.core.schedule import add_noise, standard_noise
from diffedit_min.core.state import State, Trajectory
from diffedit_min.core.task import Offers, Outcome, Step
from diffedit_min.methods import encode_decode, sdedit
from diffedit_min.methods.method import Method
from diffedit_min.testing import METHOD_CLAUSES, check_method
from diffedit_min.testing import method_clauses as clauses
from diffedit_min.testing import method_clauses_in_use as in_use
from diffedit_min.testing.method_trial import Trial, small_model

# ---------------------------------------------------------------- the methods here

FEWER = {"null_text": {"steps": 2, "iterations": 1}, "unitune": {"tuning_steps": 1, "batch": 1}}
QUICK = ("diffedit", "sdedit", "instruct_pix2pix")
FULL = ("direct_inversion", "negative_prompt_inversion", "plug_and_play", "cycle_diffusion")
# Their runs are made of what the others' are made of.


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.full if name in FULL else pytest.mark.slow)
    for name in dm.METHODS])
def test_every_method_here_keeps_to_the_contract(name):
    check_method(name, **FEWER.get(name, {}))


def test_a_model_of_ones_own_serves():
    check_method(dm.METHODS["sdedit"], dm.load("random", device="cpu", dtype="float32"), steps=3)


@pytest.mark.parametrize(("told", "options", "message"), [
    ("diffedit_2", {}, "^method 'diffedit_2' is not known .dm.Method makes one of a run.; known are diffedit, "),
    ("sdedit", {"step": 3}, "^sdedit has no option 'step'; it has encoding_ratio, "),
    ("sdedit", {"queries": ("pears",)}, "^1 queries are given: give 2$"),
])
def test_what_cannot_be_tried_is_a_value_error(told, options, message):
    with pytest.raises(ValueError, match=message):
        check_method(told, **options)


def test_every_clause_says_in_a_sentence_what_must_hold():
    assert len({clause.__name__ for clause in METHOD_CLAUSES}) == len(METHOD_CLAUSES)
    for clause in METHOD_CLAUSES:
        first = clause.__doc__.partition("\n\n")[0].strip()
        assert first.endswith((".", ".)")) and first.count(".") <= 4, clause.__name__


# ---------------------------------------------------------------- DiffEdit in parts, each of which can be wrong

ALL = frozenset({"reference", "mask", "mask_map", "encoded"})


@dataclass(frozen=True)
class FewOptions(RatioOptions):
    """DiffEdit's but for most of step 1's: names without annotation are no options. Fewer options take less time."""

    mask_samples: int = option(10, "as in DiffEdit", least=1, stage="map")
    mask_noise_ratio, mask_threshold, mask_clip_at = 0.5, 0.5, 3.0
    mask_norm, mask_average, mask_clip, mask_rescale = "l1", "maps", "mean", "ceiling"


def own_level(task, mask, x):
    return lambda y, j: torch.where(mask, y, x[j].latents)


def own_map(task, options):
    return find_map(task, options)[0]


def own_mask(task, options, mask_map):
    return binarise(mask_map, options.mask_threshold)


def as_it_is(thing, *rest):
    return thing


def diffedit_with(*, given=as_it_is, find=own_map, cut=own_mask, encoding=encode, eps=eps_of_query, blend=own_level,
                  returned=as_it_is, options=DiffEditOptions, **declared):
    """DiffEdit, written out, with one part of it replaced."""
    def run(task, settings):
        task = given(task)
        levels = settings.levels(task.model.schedule)
        mask_map = None if task.mask is not None else find(task, settings)
        mask = task.mask if task.mask is not None else cut(task, settings, mask_map)
        if task.mask is None and not mask.any():
            return Outcome(None, mask, mask_map)
        x = yield from encoding(task, settings, task.empty, levels)
        y = yield from decode(task, settings, eps(task, settings), x[-1], levels, blend(task, mask, x))
        return returned(Outcome(y[0].latent, mask, mask_map, x, y), task, settings)

    return Method("tried", run, options, **{"uses": ALL, **declared})


def noised_with(noise=lambda task: standard_noise(task.x0, task.seeds, "noise"), *, eps=eps_of_query,
                returned=as_it_is, options=RatioOptions, **declared):
    """SDEdit, written out, with one part of it replaced."""
    def run(task, settings):
        levels = settings.levels(task.model.schedule)
        k = len(levels) - 1
        start = State(k, levels[k], add_noise(task.x0, noise(task), levels[k].abar) if k else task.x0)
        y = yield from decode(task, settings, eps(task, settings), start, levels)
        return returned(Outcome(y[0].latent, decoded=y), task, settings)

    return Method("tried", run, options, **declared)


# ---------------------------------------------------------------- right ones


def soft_diffedit():
    """A map in place of a mask, which therefore isn't `where` but arithmetic."""
    def run(task, options):
        mask_map = find_map(task, options)[0]
        weight = mask_map[:, None]
        levels = options.levels(task.model.schedule)
        x = yield from encode(task, options, task.empty, levels)
        y = yield from decode(task, options, eps_of_query(task, options), x[-1], levels,
                              lambda y, j: weight * y + (1 - weight) * x[j].latents)
        return Outcome(y[0].latent, mask_map=mask_map, encoded=x, decoded=y)

    return Method("tried", run, FewOptions, uses={"reference", "encoded"})


def wider_mask():
    """A variant of step 1: the rest is DiffEdit's."""
    @dataclass(frozen=True)
    class WiderOptions(FewOptions):
        widen: int = option(1, "cells around the mask that belong to it too", least=0, stage="mask")

    def run(task, options):
        if task.mask is not None:
            return (yield from edit_inside(task, options, task.mask))
        mask_map = own_map(task, options)
        mask = binarise(mask_map, options.mask_threshold).double()
        wide = torch.nn.functional.max_pool2d(mask, 2 * options.widen + 1, stride=1, padding=options.widen) > 0
        return (yield from edit_inside(task, options, wide, mask_map))

    return Method("tried", run, WiderOptions, uses=ALL, based_on=dm.METHODS["diffedit"])


def no_steps():
    """A plain function, without progress, without a word of what it found."""
    def run(task, options):
        levels = options.levels(task.model.schedule)
        noisy = add_noise(task.x0, standard_noise(task.x0, task.seeds, "noise"), levels[-1].abar)
        start = State(len(levels) - 1, levels[-1], noisy)
        *_, y = options.sampler.decode(eps_of_query(task, options), start, levels)
        return Outcome(y.latent)

    return Method("tried", run, RatioOptions)


def noised_in_the_mask():
    """With a mask, but without an encoding: outside is the picture, noised to the same level."""
    def run(task, options):
        levels, k = options.levels(task.model.schedule), len(options.levels(task.model.schedule)) - 1
        noise = standard_noise(task.x0, task.seeds, "noise")

        def at(j):
            return add_noise(task.x0, noise, levels[j].abar) if j else task.x0

        def blend(y, j):
            return y if task.mask is None else torch.where(task.mask, y, at(j))

        y = yield from decode(task, options, eps_of_query(task, options), State(k, levels[k], at(k)), levels, blend)
        return Outcome(y[0].latent, task.mask, decoded=y)

    return Method("tried", run, RatioOptions, uses={"mask"})


def query_in_parts():
    """Its query is of a form of its own."""
    def eps(task, options):
        texts = [query.split(" | ")[1] for query in task.queries]
        return eps_of_query(replace(task, query=task.model.embed(texts)), options)

    return noised_with(eps=eps)


def test_a_query_of_ones_own_form():
    check_method(query_in_parts(), queries=("pears | plums", "apples | a bowl"))
    with pytest.raises(AssertionError, match="IndexError: list index out of range"):
        check_method(query_in_parts())


@pytest.mark.parametrize("make", [no_steps, *(pytest.param(make, marks=pytest.mark.slow)
                                               for make in (noised_in_the_mask, soft_diffedit, wider_mask))])
def test_right_methods_of_ones_own_pass(make):
    check_method(make())


# ---------------------------------------------------------------- wrong ones

WRONG = []      # (what makes one, the clauses that must tell it); slow where an earlier one breaks the same clauses


def breaks(*expected):
    def keep(make):
        seen = {clause for param in WRONG for clause in param.values[1]}
        marks = [pytest.mark.slow] if set(expected) <= seen else []
        WRONG.append(pytest.param(make, expected, id=make.__name__, marks=marks))
        return make

    return keep


# masks


@breaks(in_use.outside_a_mask_stays_x0)
def mask_ignored():
    return diffedit_with(blend=lambda task, mask, x: None)


@breaks(in_use.outside_a_mask_stays_x0, in_use.inside_a_mask_is_edited)
def mask_claimed_but_never_looked_at():
    return Method("tried", encode_decode.run, IntervalOptions, uses={"encoded", "mask"})


@breaks(in_use.every_blend_is_at_its_own_level)
def mask_only_at_the_end():
    return diffedit_with(blend=lambda task, mask, x: lambda y, j: y if j else torch.where(mask, y, x[0].latents))


@breaks(in_use.outside_a_mask_stays_x0, in_use.every_blend_is_at_its_own_level, in_use.a_null_edit_changes_nothing)
def blend_one_level_off():
    return diffedit_with(blend=lambda task, mask, x: lambda y, j: torch.where(mask, y, x[j + 1].latents))


@breaks(in_use.every_blend_is_at_its_own_level, in_use.a_null_edit_changes_nothing)
def blend_one_level_off_but_for_the_last():
    return diffedit_with(blend=lambda task, mask, x: lambda y, j: torch.where(mask, y, x[j + (j > 0)].latents))


@breaks(in_use.what_is_put_back_is_of_its_own_level)
def blend_one_level_off_in_a_mask_that_is_found():
    return diffedit_with(blend=lambda task, mask, x: lambda y, j: torch.where(mask, y, x[j + (j > 0)].latents),
                         uses=ALL - {"mask"})


@breaks(in_use.every_blend_is_at_its_own_level, in_use.a_null_edit_changes_nothing)
def x0_pasted_at_every_level():
    def blend(task, mask, x):
        return lambda y, j: torch.where(mask, y, torch.cat([x[0].latent] * (y.shape[1] // x[0].latent.shape[1]), 1))

    return diffedit_with(blend=blend)


@breaks(in_use.every_blend_is_at_its_own_level)
def first_latent_pasted_into_the_second():
    """Right for DDIM, wrong for EDICT."""
    def blend(task, mask, x):
        return lambda y, j: torch.where(mask, y, torch.cat([x[j].latent] * (y.shape[1] // x[j].latent.shape[1]), 1))

    return diffedit_with(blend=blend)


@breaks(in_use.outside_a_mask_stays_x0, in_use.every_blend_is_at_its_own_level)
def blend_before_the_step():
    """What the step makes is left alone; what the network sees is blended."""
    def eps(task, options):
        own, levels = eps_of_query(task, options), options.levels(task.model.schedule)
        noisy = {level.t: add_noise(task.x0, torch.zeros_like(task.x0), level.abar) for level in levels}
        return lambda x, t: own(x if task.mask is None else torch.where(task.mask, x, noisy[t]), t)

    return diffedit_with(eps=eps, blend=lambda task, mask, x: None)


@breaks(in_use.outside_a_mask_stays_x0)
def mask_by_arithmetic_that_rounds():
    return diffedit_with(blend=lambda task, mask, x: lambda y, j: y + (1 - mask.double()) * (x[j].latents - y))


@breaks(in_use.outside_a_mask_stays_x0)
def black_mask_taken_for_nothing_to_do():
    def run(task, options):
        mask = task.mask if task.mask is not None else own_mask(task, options, own_map(task, options))
        if not mask.any():
            return Outcome(None, mask)
        return (yield from edit_inside(task, options, mask))

    return Method("tried", run, FewOptions, uses={"reference", "mask"})


@breaks(in_use.inside_a_mask_is_edited)
def mask_inverted_on_return():
    return diffedit_with(returned=lambda outcome, task, options: replace(outcome, mask=~outcome.mask))


@breaks(in_use.outside_a_mask_stays_x0)
def first_mask_for_the_whole_batch():
    return diffedit_with(given=lambda task: task if task.mask is None else replace(
        task, mask=task.mask[:1].expand(task.mask.shape)))


@breaks(in_use.equal_words_give_the_picture_itself)
def equal_words_are_edited():
    def cut(task, options, mask_map):
        return mask_map[:, None] >= options.mask_threshold * mask_map.amax(dim=(1, 2))[:, None, None, None]

    return diffedit_with(cut=cut)


# randomness


def drawn(task, generator=None):
    return torch.randn(task.x0.shape, generator=generator).to(task.x0)


@breaks(clauses.every_picture_has_its_own_seed)
def fixed_generator():
    return noised_with(lambda task: drawn(task, torch.Generator().manual_seed(0)))


@breaks(clauses.the_same_call_gives_the_same_bits, clauses.the_global_state_stays, clauses.alone_or_in_a_batch)
def random_numbers_without_a_generator():
    return noised_with(drawn)


@breaks(clauses.the_same_call_gives_the_same_bits, clauses.the_global_state_stays)
def random_numbers_of_numpy():
    return noised_with(lambda task: torch.from_numpy(np.random.standard_normal(task.x0.shape)).to(task.x0))


@breaks(clauses.the_global_state_stays, clauses.alone_or_in_a_batch, clauses.every_picture_has_its_own_seed)
def global_seed_set():
    def noise(task):
        torch.manual_seed(task.seeds[0])
        return drawn(task)

    return noised_with(noise)


@breaks(clauses.every_picture_has_its_own_seed, clauses.alone_or_in_a_batch)
def one_seed_for_the_whole_batch():
    return noised_with(lambda task: standard_noise(task.x0, task.seeds[:1] * len(task.seeds), "noise"))


@breaks(clauses.every_picture_has_its_own_seed, clauses.alone_or_in_a_batch)
def one_noise_from_all_seeds():
    return noised_with(lambda task: drawn(task, torch.Generator().manual_seed(sum(task.seeds))))


# rows


@breaks(clauses.rows_are_counted)
def rows_not_counted():
    return noised_with(eps=lambda task, options: eps_of_query(replace(task, rows=Rows()), options))


@breaks(clauses.rows_are_counted)
def rows_counted_twice():
    def eps(task, options):
        def counting(x, t):
            task.rows.forward["decode"] += 2 * len(x)
            return once(x, t)

        once = eps_of_query(task, options)
        return counting

    return noised_with(eps=eps)


@breaks(clauses.rows_are_counted)
def rows_of_a_copy_not_counted():
    def eps(task, options):
        own = replace(task.model, unet=copy.deepcopy(task.model.unet))
        return eps_of_query(replace(task, model=own, rows=Rows()), options)

    return noised_with(eps=eps)


@breaks(clauses.rows_are_counted)
def gradients_not_counted():
    def eps(task, options):
        once = eps_of_query(task, options)

        @torch.enable_grad()
        def steered(x, t):
            x = x.detach().requires_grad_()
            eps = once(x, t)
            return eps.detach() + torch.autograd.grad(eps.square().sum(), x)[0]

        return steered

    return noised_with(eps=eps)


# what is given


def spoilt(change):
    """SDEdit, after something was done to its task."""
    def run(task, options):
        change(task)
        return (yield from sdedit.run(task, options))

    return Method("tried", run, RatioOptions)


@breaks(clauses.nothing_given_is_changed)
def x0_changed_in_place():
    return spoilt(lambda task: task.x0.mul_(1.01))


@breaks(clauses.nothing_given_is_changed)
def pixels_changed_in_place():
    return spoilt(lambda task: task.pixels.clamp_(-0.5, 0.5))


@breaks(clauses.nothing_given_is_changed)
def context_changed_in_place():
    return spoilt(lambda task: task.query.tokens.mul_(2))


@breaks(clauses.nothing_given_is_changed)
def given_mask_changed_in_place():
    def given(task):
        if task.mask is not None:
            task.mask.logical_not_()
        return task

    return diffedit_with(given=given)


@breaks(clauses.nothing_given_is_changed)
def earlier_encoding_changed_in_place():
    def encoding(task, options, told, levels):
        x = yield from encode(task, options, told, levels)
        for offered in task.offers.encoded:
            for trajectory in offered:
                trajectory[-1].latent.mul_(1.001)
        return x

    return diffedit_with(encoding=encoding)


@breaks(clauses.the_model_stays_as_it_was)
def weights_changed():
    return spoilt(lambda task: task.model.unet.conv_in.weight.data.mul_(1.001))


@breaks(clauses.the_model_stays_as_it_was)
def weights_left_trainable():
    return spoilt(lambda task: task.model.unet.requires_grad_(True))


@breaks(clauses.the_model_stays_as_it_was)
def gradients_left_at_weights():
    @torch.enable_grad()
    def change(task):
        weight = task.model.unet.conv_in.weight
        weight.requires_grad_(True)
        weight.sum().backward()
        weight.requires_grad_(False)

    return spoilt(change)


# batches


@breaks(clauses.alone_or_in_a_batch)
def map_scaled_over_the_batch():
    def find(task, options):
        mask_map = find_map(task, options)[0]
        return mask_map * (mask_map.mean(dim=(1, 2)) / mask_map.mean().clamp_min(1e-9)).clamp(0, 1)[:, None, None]

    return diffedit_with(find=find)


@breaks(clauses.alone_or_in_a_batch)
def predictions_averaged_over_the_batch():
    def eps(task, options):
        own = eps_of_query(task, options)
        return lambda x, t: own(x, t) - 0.1 * own(x, t).mean(dim=0, keepdim=True)

    return noised_with(eps=eps)


@breaks(clauses.alone_or_in_a_batch)
def first_query_for_the_whole_batch():
    def eps(task, options):
        return eps_of_query(replace(task, query=task.query[:1].repeat(len(task.x0))), options)

    return noised_with(eps=eps)


# what comes back


def returning(change):
    return diffedit_with(returned=lambda outcome, task, options: change(outcome))


@breaks(clauses.run_returns_an_outcome)
def mask_without_its_channel():
    return returning(lambda outcome: replace(outcome, mask=outcome.mask[:, 0]))


@breaks(clauses.run_returns_an_outcome)
def mask_of_floats():
    return returning(lambda outcome: replace(outcome, mask=outcome.mask.double()))


@breaks(clauses.run_returns_an_outcome)
def mask_of_whole_numbers():
    return returning(lambda outcome: replace(outcome, mask=outcome.mask.long()))


@breaks(clauses.run_returns_an_outcome)
def latent_of_the_wrong_size():
    return returning(lambda outcome: replace(outcome, latent=outcome.latent[..., :-1]))


@breaks(clauses.run_returns_an_outcome)
def latent_in_float32():
    return returning(lambda outcome: replace(outcome, latent=outcome.latent.float(), decoded=Trajectory()))


@breaks(clauses.run_returns_an_outcome)
def latent_not_finite():
    return returning(lambda outcome: replace(outcome, latent=outcome.latent / 0, decoded=Trajectory()))


@breaks(clauses.run_returns_an_outcome)
def map_above_one():
    return diffedit_with(find=lambda task, options: 2 * own_map(task, options))


@breaks(clauses.run_returns_an_outcome)
def nothing_returned():
    return returning(lambda outcome: None)


@breaks(clauses.states_are_in_order)
def another_result_than_the_last_state():
    return returning(lambda outcome: replace(outcome, latent=1.01 * outcome.latent))


@breaks(clauses.states_are_in_order)
def encoding_that_does_not_begin_with_x0():
    def encoding(task, options, told, levels):
        return (yield from encode(replace(task, x0=0.9 * task.x0), options, told, levels))

    return diffedit_with(encoding=encoding)


@breaks(clauses.results_carry_no_gradients)
def result_that_requires_gradients():
    @torch.enable_grad()
    def with_gradient(latent):
        return latent * torch.ones((), dtype=latent.dtype, requires_grad=True)

    return returning(lambda outcome: replace(outcome, latent=with_gradient(outcome.latent)))


@breaks(clauses.what_it_says_of_itself_is_true)
def remakes_claimed():
    return noised_with(remakes=True)


@breaks(clauses.what_it_says_of_itself_is_true)
def generates_claimed():
    return noised_with(generates=True)


@breaks(clauses.keeping_more_changes_nothing)
def all_states_always_kept():
    return noised_with(returned=lambda outcome, task, options: replace(outcome, decoded=[State(0, level, outcome.latent)
                       if not i else State(i, level, outcome.latent)
                       for i, level in enumerate(options.levels(task.model.schedule))]))


@breaks(clauses.keeping_more_changes_nothing)
def trace_changes_the_result():
    return noised_with(returned=lambda outcome, task, options: replace(
        outcome, latent=outcome.latent + (task.keep == "trace"), decoded=Trajectory()))


def with_steps(*steps):
    """SDEdit with other progress: (index, total, rows of its latent)."""
    def run(task, options):
        for index, total, rows in steps:
            yield Step("decode", index, total, task.x0[:rows])
        unheard = sdedit.run(task, options)
        while True:
            try:
                next(unheard)
            except StopIteration as done:
                return done.value

    return Method("tried", run, RatioOptions)


@breaks(clauses.pictures_come_back_at_their_size)
def landscapes_only():
    def noise(task):
        h, w = task.x0.shape[-2:]
        if h > w:
            raise ValueError("tried: it has noise for landscapes only")
        return standard_noise(task.x0, task.seeds, "noise")

    return noised_with(noise)


@breaks(clauses.steps_count_up)
def steps_from_zero():
    return with_steps((0, 2, 2), (1, 2, 2))


@breaks(clauses.steps_count_up)
def steps_that_end_early():
    return with_steps((1, 3, 2), (2, 3, 2))


@breaks(clauses.steps_count_up)
def steps_that_show_one_picture():
    return with_steps((1, 1, 1))


# words


@breaks(clauses.picture_and_words_matter)
def picture_ignored():
    return noised_with(returned=lambda outcome, task, options: Outcome(standard_noise(task.x0, task.seeds, "it")))


@breaks(clauses.picture_and_words_matter)
def query_ignored():
    return noised_with(eps=lambda task, options: conditional(task.model.eps, task.empty, task.rows, "decode"))


@breaks(clauses.picture_and_words_matter)
def reference_claimed():
    return noised_with(uses={"reference"})


@breaks(clauses.picture_and_words_matter)
def reference_used_in_silence():
    return noised_with(eps=lambda task, options: eps_of_query(replace(task, negative=task.reference), options))


# state between calls

CALLS, KEPT = [], {}


@breaks(clauses.the_same_call_gives_the_same_bits)
def calls_counted():
    def returned(outcome, task, options):
        CALLS.append(task)
        return replace(outcome, latent=outcome.latent + 1e-3 * len(CALLS), decoded=Trajectory())

    return noised_with(returned=returned)


@breaks(clauses.alone_or_in_a_batch)
def encodings_kept_by_their_shape():
    def encoding(task, options, told, levels):
        if task.x0.shape not in KEPT:
            KEPT[task.x0.shape] = yield from encode(task, options, told, levels)
        return KEPT[task.x0.shape]

    KEPT.clear()
    return diffedit_with(encoding=encoding)


# what earlier edits hold


@breaks(in_use.what_an_edit_holds_serves_again)
def offers_ignored():
    return diffedit_with(given=lambda task: replace(task, offers=Offers()))


@breaks(in_use.what_an_edit_holds_serves_again)
def encoding_claimed_but_not_returned():
    return returning(lambda outcome: replace(outcome, encoded=Trajectory()))


def whatever_is_offered(task, options, told, levels):
    """An encoding, without asking what made it."""
    if task.offers.encoded and all(task.offers.encoded):
        return Trajectory.join([offered[0] for offered in task.offers.encoded])
    return (yield from encode(task, options, told, levels))


@breaks(in_use.what_an_edit_holds_serves_again)
def earlier_map_changed_once_more():
    """It matters only at other values than the default."""
    def squared(mask_map, power):
        changed = mask_map**power
        changed.made = getattr(mask_map, "made", None)
        return changed

    return with_option(1.0, squared, part="map", above=0, stage="map")


@breaks(in_use.what_does_not_fit_is_refused, in_use.reuse_never_changes_a_result)
def any_encoding_taken():
    return diffedit_with(encoding=whatever_is_offered)


@breaks(in_use.what_does_not_fit_is_refused, in_use.reuse_never_changes_a_result)
def any_map_taken():
    def find(task, options):
        offered = task.offers.mask_map
        return torch.stack([maps[0] for maps in offered]) if all(offered) and offered else own_map(task, options)

    return diffedit_with(find=find)


# options


def with_option(default, effect=as_it_is, part="returned", **declared):
    """DiffEdit with one option more, `more`, whose effect is on the outcome or on the map."""
    @dataclass(frozen=True)
    class MoreOptions(FewOptions):
        more: type(default) = option(default, "one more", **declared)

    if part == "map":
        return diffedit_with(find=lambda task, options: effect(own_map(task, options), options.more),
                             options=MoreOptions)
    if part == "encoding":
        def encoding(task, options, told, levels):
            changed = replace(task, model=Scaled(task.model, options.more))
            return (yield from encode(changed, options, told, levels))

        return diffedit_with(encoding=encoding, options=MoreOptions)
    return diffedit_with(returned=lambda outcome, task, options: effect(outcome, options.more), options=MoreOptions)


class Scaled:
    """A model whose predictions are scaled."""

    def __init__(self, model, scale):
        self.model, self.scale = model, scale

    def __getattr__(self, name):
        return getattr(self.model, name)

    def eps(self, *told):
        return self.scale * self.model.eps(*told)


def shifted(outcome, by):
    return replace(outcome, latent=outcome.latent + by, decoded=Trajectory())


@breaks(in_use.every_option_has_an_effect)
def option_without_an_effect():
    return with_option(1.0, stage="decoding")


@breaks(in_use.every_option_has_an_effect)
def option_of_cost_that_changes_the_result():
    return with_option(0.0, shifted, stage="cost")


@breaks(in_use.every_stage_is_true)
def option_of_decoding_that_changes_the_map():
    return with_option(1.0, lambda mask_map, more: mask_map**more, part="map", above=0, stage="decoding")


@breaks(in_use.every_stage_is_true)
def option_of_the_mask_that_changes_the_map():
    return with_option(1.0, lambda mask_map, more: mask_map**more, part="map", above=0, stage="mask")


@breaks(in_use.every_stage_is_true)
def option_of_the_encoding_that_changes_the_map():
    return with_option(1.0, lambda mask_map, more: mask_map**more, part="map", above=0, stage="encoding")


@breaks(in_use.every_stage_is_true)
def option_of_decoding_that_changes_the_encoding():
    return with_option(1.0, part="encoding", stage="decoding")


@breaks(in_use.every_stage_is_true)
def option_of_the_levels_that_changes_the_encoding():
    return with_option(1.0, part="encoding", stage="levels")


@breaks(in_use.extremes_work_or_are_refused)
def option_that_cannot_be_zero():
    return with_option(1.0, lambda outcome, more: shifted(outcome, 1 / more), least=0, stage="decoding")


@breaks(in_use.extremes_work_or_are_refused)
def choice_that_is_not_there():
    return with_option("a", lambda outcome, more: shifted(outcome, {"a": 0, "b": 1}[more]), choices=("a", "b", "c"),
                       stage="decoding")


@breaks(in_use.settings_can_be_kept)
def option_that_json_cannot_hold():
    return with_option({1: 2.0}, lambda outcome, more: shifted(outcome, more.get(1, 0.0)), stage="decoding")


@breaks(in_use.presets_are_of_its_options)
def preset_with_an_option_of_another_method():
    return noised_with(presets={"fast": {"mask_samples": 1}})


MODEL = small_model(4)


@pytest.mark.parametrize(("make", "expected"), WRONG)
def test_a_wrong_method_is_told_by_the_clause_that_says_so(make, expected):
    for clause in expected:
        with pytest.raises((AssertionError, ValueError)) as told:
            clause(Trial.of(make(), copy.deepcopy(MODEL)))
        assert told.type is AssertionError or str(told.value).startswith("tried: "), "or Method has seen it first"
        assert str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize("make", [diffedit_with, noised_with])
def test_what_the_wrong_ones_are_made_of_is_right(make):
    check_method(make(), copy.deepcopy(MODEL))


def test_every_clause_tells_a_wrong_method():
    telling = {clause for _, expected in (param.values for param in WRONG) for clause in expected}
    assert telling == set(METHOD_CLAUSES)


@pytest.mark.parametrize(("make", "told"), [
    (fixed_generator, (
        "every_picture_has_its_own_seed: If random numbers are drawn, another seed changes what is found for its own "
        "picture, and for no other.\n    random numbers are drawn, but the seeds (3, 4) and (4, 4) give the same for "
        "picture 0\n",
        "alone_or_in_a_batch: ")),
    (rows_not_counted, ("rows_are_counted: ", "the Edits of 2 pictures count 0, but 12 went through")),
    (x0_changed_in_place, ("nothing_given_is_changed: ", "changed: x0 (by 1.")),
])
def test_the_check_names_the_clauses_and_shows_the_numbers(make, told):
    with pytest.raises(AssertionError) as error:
        check_method(make(), copy.deepcopy(MODEL))
    names, total = {clause.__name__ for clause in METHOD_CLAUSES}, len(METHOD_CLAUSES)
    count = sum(text.partition(":")[0] in names for text in told)
    assert str(error.value).startswith(f"tried: {count} of {total} clauses of the contract are broken")
    assert all(text in str(error.value) for text in told)


def test_one_mistake_that_breaks_many_clauses_is_told_once():
    with pytest.raises(AssertionError) as error:
        check_method(nothing_returned(), copy.deepcopy(MODEL))
    assert str(error.value).count("run must end with `return Outcome(...)`, but it returned NoneType (None)") == 1


def test_what_a_method_does_only_once_is_seen_too():
    """Clauses run the method many times; the model is compared with what it was before the first."""
    model = copy.deepcopy(MODEL)
    trial = Trial.of(weights_left_trainable(), model)
    trial.run()
    with pytest.raises(AssertionError, match="requires_grad changed for"):
        clauses.the_model_stays_as_it_was(trial)
