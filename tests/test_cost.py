"""The cost of an edit, known before it runs, is what a real edit then counts (methods/cost.py)."""

import warnings
from dataclasses import dataclass

import pytest
import torch

import diffedit_min as dm
from diffedit_min.core.task import Outcome
from diffedit_min.methods import METHODS, Asked, edit_together
from diffedit_min.methods.cost import (
    KEPT,
    KNOWN,
    Estimate,
    Progress,
    StandIn,
    about,
    cost_of,
    rows_of,
    small_picture,
)
from diffedit_min.samplers import SAMPLERS
from diffedit_min.testing.method_trial import PICTURES, QUERIES, REFERENCES, small_model

QUICK = {"steps": 5, "mask_samples": 2, "iterations": 2, "tuning_steps": 3, "batch": 2, "skip": 1}
TUNED = ("null_text", "unitune")        # to the picture: seconds each
CASES = [pytest.param(name, preset, marks=[pytest.mark.slow] if name in TUNED else [])
         for name, method in METHODS.items() for preset in method.preset_names]


@pytest.fixture(scope="module")
def models():
    return {channels: small_model(channels) for channels in (4, 8)}


def asked_of(name: str, preset: str = "recommended", **options) -> Asked:
    """A method with few steps, where no preset says how many; its mask is never empty."""
    method = METHODS[name]
    quick = {key: value for key, value in QUICK.items()
             if key in method.known and key not in method.preset(preset)}
    if "mask_threshold" in method.known:
        quick["mask_threshold"] = 0.0
    reference = REFERENCES[0] if "reference" in method.uses or method.needs_reference else ""
    return Asked(method, QUERIES[0] if method.takes_query else "", reference, preset=preset,
                 options={**quick, **options})


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_the_cost_is_what_an_edit_counts(name, preset, models):
    asked = asked_of(name, preset)
    model = models[asked.method.channels]
    steps = []
    edit = asked(model, PICTURES[0], on_step=steps.append)
    cost = cost_of(asked, model)
    assert cost.rows == rows_of(asked, model) == edit.rows > 0
    assert cost.backward_rows == edit.backward_rows
    assert dict(cost.rows_for) == edit.rows_for
    assert [stage_and_index[:2] for stage_and_index in cost.steps] == [(step.stage, step.index) for step in steps]
    where = Progress(cost)
    for step in steps:
        where.moved(step)
    assert (where.rows, where.doing) == (edit.rows, "picture")


@pytest.mark.filterwarnings("ignore:the fixed-point iteration")     # of random weights, at so few levels
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_that_take_several_rows_a_step(sampler, model):
    asked = asked_of("diffedit", sampler=sampler, steps=20, encoding_ratio=0.2)
    assert rows_of(asked, model) == asked(model, PICTURES[0]).rows


@pytest.mark.parametrize(("name", "options"), [
    ("diffedit", {"guidance_scale": 1.0}), ("diffedit", {"guidance_from": 0.3, "guidance_until": 0.7}),
    ("diffedit", {"grid": "lambda"}), ("diffedit", {"encoding_ratio": 0.0}), ("diffedit", {"mask_threshold": 1.0}),
    ("diffedit", {"mask_clip": "quantile", "mask_clip_at": 0.5}), ("diffedit", {"mask_rescale": "minmax"}),
    ("prompt_to_prompt", {"local_blend": "changed", "reweight": {"pears": 2.0}}),
    ("prompt_to_prompt", {"word_windows": {"pears": 0.4}}), ("unitune", {"guidance_scale": 1.0})])
def test_options_that_change_the_cost(name, options, models):
    asked = asked_of(name, **options)
    assert rows_of(asked, models[4]) == asked(models[4], PICTURES[0]).rows


def test_a_given_mask_needs_no_rows_to_be_found(models):
    asked = asked_of("diffedit")
    edit = asked(models[4], PICTURES[0], mask=dm.diffedit(models[4], PICTURES[0], "a", "b", **QUICK_MASK).mask)
    assert rows_of(asked, models[4], mask=True) == edit.rows < rows_of(asked, models[4])


QUICK_MASK = {"steps": 5, "mask_samples": 1, "mask_threshold": 0.0, "encoding_ratio": 0.0}


def test_equal_words_end_an_edit_before_its_first_row(models):
    asked = Asked(METHODS["diffedit"], "a bowl of pears", "A  bowl of pears", options={"steps": 5})
    assert rows_of(asked, models[4]) == asked(models[4], PICTURES[0]).rows == 0


def test_a_picture_in_a_batch_costs_what_it_costs_alone(models):
    asked = [Asked(METHODS["diffedit"], query, reference, options=asked_of("diffedit").options)
             for query, reference in zip(QUERIES, REFERENCES, strict=True)]
    edits = edit_together(asked, models[4], list(PICTURES))
    assert [edit.rows for edit in edits] == [rows_of(one, models[4]) for one in asked]


def test_without_a_picture_nothing_is_encoded(models):
    asked = asked_of("prompt_to_prompt")
    assert cost_of(asked, models[4], picture=False).rows == asked(models[4], None).rows < rows_of(asked, models[4])


def test_early_stops_make_it_an_upper_bound(models):
    asked = asked_of("null_text", stop_at=10.0, iterations=4)
    edit = asked(models[4], PICTURES[0])
    assert edit.rows < rows_of(asked, models[4])
    assert edit.backward_rows < cost_of(asked, models[4]).backward_rows


def test_what_edits_share_is_counted_once_on_the_stand_in(models):
    one, other = (asked_of("diffedit", mask_threshold=threshold) for threshold in (0.0, 0.1))
    stand_in = StandIn.of(models[4])
    picture = small_picture(stand_in)
    shared = other(stand_in, picture, reuse=one(stand_in, picture)).rows
    assert shared == other(models[4], PICTURES[0], reuse=one(models[4], PICTURES[0])).rows < rows_of(other, models[4])


def test_no_file_is_written_for_a_count_and_one_that_decides_it_is_not_guessed_at(models, tmp_path):
    file = tmp_path / "tuned.safetensors"
    assert rows_of(asked_of("unitune", save=str(file)), models[4]) == rows_of(asked_of("unitune"), models[4])
    assert not file.exists()
    assert rows_of(asked_of("unitune", tuned=str(file)), models[4]) == 0


def test_methods_of_ones_own_are_counted_by_running_them(models):
    @dataclass(frozen=True)
    class Twice(dm.diffedit.options):
        turns: int = dm.option(2, "how often it decodes", least=1)

    def run(task, options):
        for _ in range(options.turns):
            outcome = yield from dm.diffedit.run(task, options)
        return outcome

    twice = dm.Method("twice", run, Twice, based_on=dm.diffedit)
    options = {**asked_of("diffedit").options, "turns": 3}
    assert rows_of(Asked(twice, QUERIES[0], REFERENCES[0], options=options), models[4]) == 3 * rows_of(
        asked_of("diffedit"), models[4])

    def needs_weights(task, options):
        yield dm.Step("look", 1, int(task.model.unet.conv_out.weight.numel() > 0))

    strange = dm.Method("strange", needs_weights)
    assert rows_of(Asked(strange, "a"), models[4]) == 0
    assert cost_of(Asked(strange, "a"), models[4]) is None


def test_a_count_leaves_no_trace_and_never_breaks_an_edit(models, capsys):
    def loud(task, options):
        print("begun")
        warnings.warn("of the run", stacklevel=1)
        torch.rand(3)
        yield dm.Step("look", 1, 1)
        return Outcome(task.x0)

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert cost_of(Asked(dm.Method("loud", loud), "a"), models[4]).steps == (("look", 1, 0),)
    assert capsys.readouterr().out == "" and before.equal(torch.random.get_rng_state())

    def ends(task, options):
        raise SystemExit("bye")
        yield

    assert cost_of(Asked(dm.Method("ends", ends), "a"), models[4]) is None

    class Unhashable(type(SAMPLERS["ddim"])):
        __hash__ = None

    cost_of(asked_of("diffedit", sampler=Unhashable()), models[4])


def test_few_costs_are_kept_and_a_long_count_is_given_up(models):
    for seed in range(KEPT + 5):
        assert rows_of(asked_of("sdedit", guidance_scale=2 + seed), models[4]) > 0
    assert len(KNOWN[models[4]]) <= KEPT
    stand_in = StandIn.of(models[4], seconds=-1)
    with pytest.raises(TimeoutError):
        asked_of("sdedit")(stand_in, small_picture(stand_in))


def test_progress_in_rows_and_in_words(models):
    cost, seen = cost_of(asked_of("diffedit"), models[4]), []
    where = Progress(cost)
    for stage, index, _ in [("", 0, 0), *cost.steps[:3], ("of my own", 1, 1), *cost.steps[-2:]]:
        where.moved(dm.Step(stage, index, 9))
        seen.append((where.rows, where.doing))
    assert seen == [(0, "mask"), (4, "encoding"), (5, "encoding"), (6, "encoding"), (6, "encoding"), (14, "decoding"),
                    (16, "picture")]


@pytest.mark.parametrize(("seconds", "words"), [
    (0.2, "about 1 s"), (89, "about 89 s"), (90, "about 2 min"), (720, "about 12 min"), (5399, "about 90 min"),
    (5400, "about 1.5 h"), (86_400, "about 24 h")])
def test_times_in_words(seconds, words):
    assert about(seconds) == words


def test_an_estimate_is_said_once_and_only_of_what_takes_long():
    said = []
    estimate = Estimate(10_000, said.append)
    for rows, seconds in ((0, 5), (20, 0.5), (100, 2), (200, 4)):
        estimate.measured(rows, seconds)
    assert said == ["about 3 min left: 10,000 rows through the U-Net in all, 0.02 s each"]
    for rows in (0, 200):       # not known, and soon done
        Estimate(rows, said.append).measured(100, 2)
    assert len(said) == 1
