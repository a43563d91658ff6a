"""Run with `python -m pytest tests/test_null_text.py` from the repository's root; takes about 15 seconds.

Null-text inversion: what it is without iterations, that tuning brings the source branch back to the pivot, and the
tuning itself against torch.autograd and Adam in plain lines. Random weights in float64.
"""

import copy
import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import mse_loss

import diffedit_min as dm
from diffedit_min.core.coding import encode
from diffedit_min.core.ddim import DDIM
from diffedit_min.core.schedule import levels_used
from diffedit_min.core.task import Outcome
from diffedit_min.methods import null_text as module

NULL_TEXT, PROMPT_TO_PROMPT = dm.METHODS["null_text"], dm.METHODS["prompt_to_prompt"]
QUERY, REFERENCE = "a bowl of pears", "a bowl of apples"
FEW = {"steps": 5, "iterations": 2, "stop_at": 0.0}
NEVER = 1e9     # as stop_at: every loss is small enough


def picture(seed=0, size=(32, 32)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)


def null_text(model, image=None, query=QUERY, reference=REFERENCE, **options):
    return NULL_TEXT(model, image or picture(), query, reference, **{**FEW, **options})


def watched(model, image=None, **options):
    """The edit, and the latents on its way: of the tuning, and of the source and target branches (B, C, h, w) each."""
    tuned, source, target, decode = [], [], [], DDIM.decode

    def spy(self, eps_fn, state, *rest):
        for made in decode(self, eps_fn, state, *rest):
            for seen, latent in zip((source, target), made.latent.chunk(2), strict=True):
                seen.append(latent)
            yield made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DDIM, "decode", spy)
        edit = null_text(model, image, on_step=lambda step: step.stage == "tune" and tuned.append(step.latent),
                         **options)
    return edit, SimpleNamespace(tuned=tuned, source=source[1:], target=target[1:])


def final(edit):
    return edit.decoded[0].latent


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def tuning(model, *seeds, **options):
    """The tuning alone, of the pictures of these seeds: null_j by level, the pivot, the levels, and the rows."""
    found = SimpleNamespace()

    def run(task, options):
        k = levels_used(options.encoding_ratio, options.steps)
        found.levels = task.model.schedule.levels(options.steps)[: k + 1]
        found.pivot = yield from encode(task, options, task.reference, found.levels)
        found.null = yield from module.tune(task, options, found.levels, found.pivot)
        counts = [task.rows, *task.rows.alone.values()]
        found.rows = sum(rows.forward["tune"] for rows in counts)
        found.backward = sum(rows.backward["tune"] for rows in counts)
        assert sum(rows.backward.total() for rows in counts) == found.backward
        return Outcome(task.x0)

    replace(NULL_TEXT, run=run)(model, [picture(seed) for seed in seeds], QUERY, REFERENCE, **{**FEW, **options})
    return found


# ---------------------------------------------------------------- without tuning


@pytest.mark.parametrize("options", [
    {"guidance_scale": 3.0, "encoding_ratio": 0.6, "negative_prompt": "grass"},
    {"cross_replace": 0.4, "self_replace": 0.8, "reweight": {"pears": 2.0}, "local_blend": "pears", "blend_size": 0.5},
])
def test_without_iterations_it_is_prompt_to_prompt(model, options):
    options = {"steps": 5, **options}
    plain = PROMPT_TO_PROMPT(model, picture(), QUERY, REFERENCE, keep="trace", **options)
    edit = null_text(model, iterations=0, keep="trace", **options)
    for ours, theirs in zip(edit.decoded, plain.decoded, strict=True):
        assert distance(ours.latent, theirs.latent) <= 1e-12
    assert edit.source.tobytes() == plain.source.tobytes()


def test_at_scale_1_there_is_nothing_to_tune(model):
    """The empty text has no say in the prediction."""
    edit, way = watched(model, guidance_scale=1.0, iterations=3)
    plain = PROMPT_TO_PROMPT(model, picture(), QUERY, REFERENCE, steps=5, guidance_scale=1.0)
    assert distance(final(edit), final(plain)) <= 1e-12
    assert distance(way.tuned[-1], way.source[-1]) <= 1e-12
    found = tuning(model, 0, guidance_scale=1.0, iterations=3)
    start = model.embed([""]).tokens
    assert all(torch.equal(null, start) for null in found.null.values())


def test_ratio_zero_gives_the_picture(model):
    edit = null_text(model, encoding_ratio=0.0)
    assert torch.equal(final(edit), model.encode(dm.pictures.to_pixels(picture())))
    assert edit.rows == edit.backward_rows == 0


# ---------------------------------------------------------------- with it


def test_more_iterations_bring_the_source_closer_to_the_pivot(model):
    """At the picture, and at every level on the way to it."""
    errors = []
    for iterations in (0, 1, 6):
        edit, way = watched(model, iterations=iterations)
        pivot = [state.latent for state in edit.encoded]
        errors.append([distance(latent, pivot[j]) for j, latent in zip(range(4, -1, -1), way.source, strict=True)])
    for few, more in zip(errors, errors[1:], strict=False):
        assert all(later < earlier for earlier, later in zip(few, more, strict=True)), errors
    assert errors[-1][-1] < 0.9 * errors[0][-1]


def test_each_level_uses_its_own_embedding(model):
    """The branches, without any editing of attention, in plain lines: null_j on the way from level j, in both."""
    edit, way = watched(model, cross_replace=0.0, self_replace=0.0)
    found, contexts = tuning(model, 0), [model.embed([text]).tokens for text in (REFERENCE, QUERY)]
    y = [found.pivot[-1].latent] * 2
    with torch.no_grad():
        for step, j in enumerate(range(5, 0, -1)):
            y = [guided_step(model, one, found.levels[j], found.levels[j - 1], found.null[j], context, 7.5)
                 for one, context in zip(y, contexts, strict=True)]
            assert distance(way.source[step], y[0]) <= 1e-12 and distance(way.target[step], y[1]) <= 1e-12
    assert distance(final(edit), y[1]) <= 1e-12
    nulls = list(found.null.values())
    assert all(distance(a, b) > 1e-4 for a, b in zip(nulls, nulls[1:], strict=False)), "or any would do"


@pytest.mark.parametrize("options", [{}, {"encoding_ratio": 0.5, "guidance_scale": 3.0}, {"negative_prompt": "grass"}])
def test_the_source_branch_walks_the_tuned_path(model, options):
    """Whatever is done to the target's attention."""
    _, way = watched(model, **options)
    for tuned, source in zip(way.tuned, way.source, strict=True):
        assert distance(source, tuned) <= 1e-12


def guided_step(model, z, level_from, level_to, null, context, scale):
    """One DDIM step in plain lines, guided away from the embedding null (B, L, D)."""
    eps = (1 - scale) * model.eps(z, level_from.t, null) + scale * model.eps(z, level_from.t, context)
    x0 = (z - (1 - level_from.abar) ** 0.5 * eps) / level_from.abar**0.5
    return level_to.abar**0.5 * x0 + (1 - level_to.abar) ** 0.5 * eps


@pytest.mark.parametrize(("iterations", "scale", "negative"), [(1, 7.5, ""), (3, 7.5, ""), (2, 2.0, "grass")])
def test_the_tuning_is_adam_on_the_loss(model, iterations, scale, negative):
    """All levels, a new Adam at each: a gradient that is a factor off, or an old moment, shows."""
    found = tuning(model, 0, iterations=iterations, guidance_scale=scale, negative_prompt=negative)
    null, context = model.embed([negative]).tokens, model.embed([REFERENCE]).tokens
    z = found.pivot[-1].latent
    for j in range(5, 0, -1):
        level_from, level_to = found.levels[j], found.levels[j - 1]
        null = null.clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=0.01)
        for _ in range(iterations):
            made = guided_step(model, z, level_from, level_to, null, context, scale)
            loss = mse_loss(made, found.pivot[j - 1].latent)
            (null.grad,) = torch.autograd.grad(loss, [null])
            adam.step()
        null = null.detach()
        assert distance(found.null[j], null) <= 1e-12, f"level {j}"
        with torch.no_grad():
            z = guided_step(model, z, level_from, level_to, null, context, scale)
    assert set(found.null) == {1, 2, 3, 4, 5}


def test_all_places_of_the_embedding_are_tuned(model):
    found, start = tuning(model, 0), model.embed([""]).tokens
    assert start.shape[1] == model.tokenizer.model_max_length
    assert ((found.null[5] - start).abs().amax(dim=(0, 2)) > 1e-4).all()


def test_the_encodings_of_methods_that_invert_alike_serve_each_other(model):
    """null_text has no choice of samplers: its own is DDIM, theirs by default."""
    told = {"reference": REFERENCE, "steps": 5, "encoding_ratio": 1.0}
    other = dm.invert(model, picture(), **told)
    fresh, again = null_text(model), null_text(model, encoded=other.encoded)
    assert torch.equal(final(again), final(fresh)) and "encode" not in again.rows_for
    back = dm.invert(model, picture(), encoded=fresh.encoded, **told)
    assert torch.equal(final(back), final(other)) and "encode" not in back.rows_for
    edict = dm.invert(model, picture(), sampler="edict", **told)
    with pytest.raises(ValueError, match="^encoded was made with sampler 'edict', but this edit has 'ddim': "):
        null_text(model, encoded=edict.encoded)


# ---------------------------------------------------------------- stopping early


def test_a_large_bound_stops_before_the_first_step(model):
    stopped, nothing = null_text(model, stop_at=NEVER, iterations=5), null_text(model, iterations=0)
    assert torch.equal(final(stopped), final(nothing))
    assert stopped.backward_rows == 0 == nothing.backward_rows
    assert stopped.rows == nothing.rows + 5, "one look at each level"


ONE_LEVEL = {"steps": 4, "encoding_ratio": 0.25}


def losses(model, seed, iterations):
    """Of one level's tuning, in plain lines: before each iteration, and after the last."""
    one, found = tuning(model, seed, iterations=0, **ONE_LEVEL), []
    null, context = model.embed([""]).tokens.clone().requires_grad_(), model.embed([REFERENCE]).tokens
    adam = torch.optim.Adam([null], lr=0.01)
    for _ in range(iterations + 1):
        made = guided_step(model, one.pivot[1].latent, one.levels[1], one.levels[0], null, context, 7.5)
        loss = mse_loss(made, one.pivot[0].latent)
        (null.grad,) = torch.autograd.grad(loss, [null])
        adam.step()
        found.append(loss.item())
    return found


def test_it_stops_as_soon_as_the_loss_is_below_the_bound(model):
    falling = losses(model, 0, 3)
    assert falling == sorted(falling, reverse=True)
    for n in range(1, 4):
        stopped = tuning(model, 0, iterations=9, stop_at=(falling[n - 1] + falling[n]) / 2, **ONE_LEVEL)
        fixed = tuning(model, 0, iterations=n, **ONE_LEVEL)
        assert torch.equal(stopped.null[1], fixed.null[1])
        assert stopped.backward == n and stopped.rows == 1 + (n + 1) + 1, "the text once, n + 1 looks, the step itself"


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_picture_that_stops_early_is_the_same_in_a_batch(model, after):
    """Tuning goes on for the other one; Adam would still move the first, by its momentum."""
    first, second = (losses(model, seed, 3) for seed in (0, 1))
    bound = (first[after - 1] + first[after]) / 2 if after else (first[0] + second[0]) / 2
    assert second[after] > bound, "the second goes on"
    options = {"iterations": 6, "stop_at": bound, **ONE_LEVEL}
    together = tuning(model, 0, 1, **options)
    alone = [tuning(model, seed, **options) for seed in (0, 1)]
    assert alone[0].backward == after < alone[1].backward
    for i, one in enumerate(alone):
        error = distance(together.null[1][i : i + 1], one.null[1])
        assert error <= 1e-12, f"picture {i}: {error:.1e}"


def test_rows_of_a_picture_that_stops_early_are_its_own(model):
    """In a batch each picture counts the rows that it takes alone, however many the other one takes."""
    first, second = (losses(model, seed, 1) for seed in (0, 1))
    options = {"iterations": 4, "stop_at": (first[0] + second[0]) / 2, **ONE_LEVEL}     # the first one stops at once
    pictures = [picture(0), picture(1)]
    batch = NULL_TEXT(model, pictures, QUERY, REFERENCE, **options)
    alone = [NULL_TEXT(model, one, QUERY, REFERENCE, **options) for one in pictures]
    assert [edit.rows_for for edit in batch] == [edit.rows_for for edit in alone]
    assert [edit.rows_for["tune"] for edit in alone] == [3, 6], "the text once, each look, the step itself"


# ---------------------------------------------------------------- the authors' schedule


@pytest.fixture
def told(monkeypatch):
    """The rate of each Adam, and the bound of each level's tuning, in order."""
    rates, bounds, adam, tuned = [], [], torch.optim.Adam, module.GuidedStep.tuned

    def spy_adam(parameters, lr, **options):
        rates.append(lr)
        return adam(parameters, lr=lr, **options)

    def spy_tuned(self, null, wanted, rate, enough):
        bounds.append(enough)
        return tuned(self, null, wanted, rate, enough)

    monkeypatch.setattr(torch.optim, "Adam", spy_adam)
    monkeypatch.setattr(module.GuidedStep, "tuned", spy_tuned)
    return SimpleNamespace(rates=rates, bounds=bounds)


def test_the_authors_schedule(model, told):
    """One Adam a level, its rate and bound by the step's number from the noisiest."""
    null_text(model, authors_schedule=True, learning_rate=0.02, stop_at=1e-4, iterations=1)
    assert told.rates == pytest.approx([0.02, 0.0198, 0.0196, 0.0194, 0.0192], rel=1e-12)
    assert told.bounds == pytest.approx([1e-4, 1.2e-4, 1.4e-4, 1.6e-4, 1.8e-4], rel=1e-12)


def test_the_papers_schedule_is_constant(model, told):
    null_text(model, learning_rate=0.02, stop_at=1e-4, iterations=1)
    assert told.rates == [0.02] * 5 and told.bounds == [1e-4] * 5


def test_the_authors_schedule_lasts_for_any_number_of_levels(model, monkeypatch, told):
    """Its rate would be below zero after 100 of them."""
    def eps(self, x, t, context, *_, **__):
        tokens = context if isinstance(context, torch.Tensor) else context.tokens
        return 0.1 * x + tokens.mean(dim=(1, 2))[:, None, None, None]

    monkeypatch.setattr(type(model), "eps", eps)
    edit = null_text(model, authors_schedule=True, steps=110, iterations=1)
    assert len(told.rates) == 110 and min(told.rates) >= 0 and final(edit).isfinite().all()


# ---------------------------------------------------------------- gradients: where to, and at what cost


def test_the_weights_are_not_part_of_it(model):
    networks = (model.unet, model.vae, model.text_encoder)
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    state = torch.get_rng_state()
    edit = null_text(model, keep="trace")
    assert edit.backward_rows > 0
    for network, weights in zip(networks, before, strict=True):
        assert all(not p.requires_grad and p.grad is None for p in network.parameters())
        assert all(torch.equal(weights[name], value) for name, value in network.state_dict().items())
    assert not any(s.latent.requires_grad for s in (*edit.encoded, *edit.decoded))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_callers_gradient_mode_holds(model, enabled):
    with torch.set_grad_enabled(enabled):
        steps = NULL_TEXT.iterate(model, picture(), QUERY, REFERENCE, **FEW)
        for step in steps:
            assert torch.is_grad_enabled() == enabled and not step.latent.requires_grad
        assert torch.is_grad_enabled() == enabled


@pytest.mark.parametrize(("stage", "end"), [("encode", "raised"), ("tune", "closed"), ("tune", "raised")])
def test_the_callers_gradient_mode_holds_when_stopped_half_way(model, stage, end, monkeypatch):
    steps = NULL_TEXT.iterate(model, picture(), QUERY, REFERENCE, **FEW)
    for step in steps:
        if step.stage == stage and step.index == 3:
            break
    if end == "closed":
        steps.close()
    else:
        monkeypatch.setattr(type(model.unet), "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(steps)
    assert torch.is_grad_enabled()


def test_checkpointing_changes_nothing_but_the_cost(model):
    plain, saving = null_text(model), null_text(model, checkpointing=True)
    assert distance(final(saving), final(plain)) <= 1e-12
    assert saving.rows == plain.rows and saving.backward_rows == plain.backward_rows


def test_the_tuning_asks_for_checkpointing(model, monkeypatch):
    """Where gradients go back through, and nowhere if it is off."""
    asked, forward = [], type(model.unet).forward

    def spy(self, x, t, context, attend=None, summary=None, checkpointing=False, features=None):
        if torch.is_grad_enabled():
            asked.append((context.requires_grad, checkpointing))
        return forward(self, x, t, context, attend, summary, checkpointing, features)

    monkeypatch.setattr(type(model.unet), "forward", spy)
    for checkpointing in (False, True):
        asked.clear()
        null_text(model, checkpointing=checkpointing)
        assert asked == [(True, checkpointing)] * 10


def test_checkpointing_keeps_less_for_the_way_back(model, monkeypatch):
    """Bytes of all that the graph of one prediction holds: saved tensors, and what enters a layer to be run again."""
    home = importlib.import_module("diffedit_min.networks.unet")
    x, tokens, kept = torch.randn(1, 4, 16, 16, dtype=torch.float64), model.embed([REFERENCE]).tokens, {}
    weights = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}
    checkpoint = home.checkpoint

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage      # holding it, so that no other gets its place
        return tensor

    def spy(function, *arguments, **options):
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                keep(argument)
        return checkpoint(function, *arguments, **options)

    monkeypatch.setattr(home, "checkpoint", spy)
    sizes, gradients = [], []
    for checkpointing in (False, True):
        kept.clear()
        told = tokens.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.eps(x, 500, told, checkpointing=checkpointing).square().sum()
            sizes.append(sum(storage.nbytes() for storage in kept.values()))
            loss.backward()
        gradients.append(told.grad)
    assert sizes[1] < 0.5 * sizes[0], sizes
    assert distance(gradients[1], gradients[0]) <= 1e-12 and gradients[0].any()


def test_half_precision_can_be_tuned():
    """Not Adam in it, though: the square of a gradient is nothing there, and it divides by its root."""
    half = dm.load("random", dtype="float16")
    nothing, tuned = (watched(half, steps=3, iterations=n, learning_rate=0.03)[1] for n in (0, 4))
    x0 = half.encode(dm.pictures.to_pixels(picture()))
    assert tuned.source[-1].isfinite().all()
    assert distance(tuned.source[-1], x0) < 0.9 * distance(nothing.source[-1], x0)


# ---------------------------------------------------------------- rows, progress, refusals


@pytest.mark.parametrize(("steps", "ratio", "iterations"), [(7, 0.5, 3), (3, 1.0, 0)])
def test_rows(model, steps, ratio, iterations):
    """The inversion; the text's own prediction, each iteration's and the step's; both branches guided."""
    k = levels_used(ratio, steps)
    edit = null_text(model, steps=steps, encoding_ratio=ratio, iterations=iterations)
    assert edit.rows == k + (2 + iterations) * k + 4 * k
    assert edit.backward_rows == iterations * k


@pytest.mark.parametrize(("change", "message"), [
    ({"iterations": -1}, "iterations must be from 0 to 1000, not -1"),
    ({"iterations": 2.5}, "iterations must be a whole number, not 2.5"),
    ({"learning_rate": -0.1}, "learning_rate must be at least 0, not -0.1"),
    ({"learning_rate": float("nan")}, "learning_rate must be at least 0, not nan"),
    ({"stop_at": -1}, "stop_at must be at least 0, not -1.0"),
    ({"stop_at": float("inf")}, "stop_at must be a finite number, not inf"),
    ({"authors_schedule": 1}, "authors_schedule must be true or false, not 1"),
    ({"checkpointing": "yes"}, "checkpointing must be true or false, not 'yes'"),
    ({"align": "both"}, "align 'both' is not known; known are auto, swap, refine"),
    ({"reference": " "}, "null_text needs a reference: a caption of the input picture"),
    ({"mask": picture()}, "null_text takes no mask"),
])
def test_bad_options(model, change, message):
    with pytest.raises(ValueError) as error:
        null_text(model, **change)
    assert str(error.value) == message


def test_other_refusals(model):
    with pytest.raises(ValueError, match="^null_text needs a picture to edit$"):
        NULL_TEXT(model, None, QUERY, REFERENCE)
    with pytest.raises(ValueError, match="^null_text has no option 'sampler'; it has "):
        null_text(model, sampler="edict")
    with pytest.raises(ValueError, match="^encoded was made at other levels "):
        null_text(model, steps=7, encoded=null_text(model).encoded)
