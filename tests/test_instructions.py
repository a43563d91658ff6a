"""Run with `python -m pytest tests/test_instructions.py` from the repository's root; takes about 15 seconds.

Instructions for the embedded scenes, the pairs to learn them from, and the training: what a row is made of, that it
starts as the model it comes from, and that a run killed on its way ends as if it had not been.
"""

import copy
import itertools
import json
import shutil
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.networks.tokenizer import make_tokenizer
from diffedit_min.tiny import scenes, stages, train, train_instruct, vocabulary
from diffedit_min.tiny.instructions import TEMPLATES, instruction
from diffedit_min.tiny.train_instruct import Recipe, draw_edit, edit_of, train_unet, widened

SEEDS = st.integers(0, scenes.TRAIN.stop - 1)


def examples(count):
    """The same examples in every run, without a time limit."""
    return settings(max_examples=count, derandomize=True, deadline=None, database=None)


def values(scene):
    return scene.container, scene.fruit, scene.surface


def all_instructions():
    """(before, kind, after, template, text) for every scene's content, edit and template."""
    layout = scenes.sample(0)
    for container, fruit, surface in scenes.COMBINATIONS:
        before = layout.replace(container=container, fruit=fruit, surface=surface)
        for kind, after in before.edits():
            for template in range(len(TEMPLATES[kind])):
                yield before, kind, after, template, instruction(kind, before, after, template)


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize("kind, value, template, text", [
    ("container", "basket", 0, "put them in a basket"), ("container", "basket", 1, "replace the bowl with a basket"),
    ("fruit", "pears", 0, "replace the apples with pears"), ("fruit", "pears", 4, "fill it with pears"),
    ("surface", "checked cloth", 0, "move it to the checked cloth"), ("surface", "sand", 1, "place it on sand"),
    ("surface", "checked cloth", 3, "replace the grass with a checked cloth"),
    ("surface", "sand", 4, "put it on the sand"),
])
def test_examples(kind, value, template, text):
    before = scenes.sample(0).replace(container="bowl", fruit="apples", surface="grass")
    assert instruction(kind, before, before.replace(**{kind: value}), template) == text
    if template == 0:
        assert instruction(kind, before, before.replace(**{kind: value})) == text


def test_an_instruction_says_which_edit():
    """From the words alone one knows the attribute and its new value; where the old is named, it is the right one."""
    meanings = {}
    for before, kind, after, _, text in all_instructions():
        assert "{" not in text and "}" not in text and "  " not in text
        old, new = getattr(before, kind), getattr(after, kind)
        assert meanings.setdefault(text, (kind, new)) == (kind, new)
        named = {value for value in itertools.chain(*scenes.VALUES.values()) if value in text}
        assert new in named and named <= {old, new}
    assert set(meanings.values()) == {(kind, value) for kind in scenes.VALUES for value in scenes.VALUES[kind]}


def test_every_kind_has_as_many_templates():
    """Training draws a template's number for a row before it knows the row's kind."""
    assert set(TEMPLATES) == set(scenes.VALUES)
    assert len({len(templates) for templates in TEMPLATES.values()}) == 1
    assert all(len(set(templates)) == len(templates) for templates in TEMPLATES.values())


def test_the_tokenizer_knows_every_word_and_an_instruction_fits():
    tokenizer, known = make_tokenizer(loading.TINY / "tokenizer"), set(vocabulary.words())
    texts = {text for *_, text in all_instructions()}
    for text in texts:
        assert set(text.split()) <= known
        assert len(tokenizer(text).input_ids) == len(text.split()) + 2 <= vocabulary.LENGTH


# ---------------------------------------------------------------- the pairs


@given(SEEDS)
@examples(40)
def test_a_pair_differs_in_one_attribute_and_is_not_held_out(seed):
    kind, before, after = edit_of(seed)
    assert before == scenes.sample(seed)
    assert [name for name in scenes.VALUES if getattr(before, name) != getattr(after, name)] == [kind]
    assert after == before.replace(**{kind: getattr(after, kind)})
    assert values(before) not in scenes.HELD_OUT and values(after) not in scenes.HELD_OUT
    assert edit_of(seed) == (kind, before, after)


def test_pairs_have_every_edit_about_as_often():
    drawn = [edit_of(seed) for seed in range(2000)]
    ends = Counter((kind, getattr(after, kind)) for kind, _, after in drawn)
    assert set(ends) == {(kind, value) for kind in scenes.VALUES for value in scenes.VALUES[kind]}
    kinds = Counter(kind for kind, _, _ in drawn)       # of the ten edits of a scene 2 are of its container, 4 and 4
    for kind, share in {"container": 0.2, "fruit": 0.4, "surface": 0.4}.items():
        assert abs(kinds[kind] / 2000 - share) < 0.05


@given(SEEDS)
@examples(5)
def test_the_edited_picture(seed):
    _, before, after = edit_of(seed)
    drawn = draw_edit(seed)
    assert drawn.dtype == np.uint8 and drawn.shape == (train.SIZE, train.SIZE, 3)
    assert np.array_equal(drawn, np.asarray(after.render(train.SIZE)))
    differs = np.abs(drawn.astype(int) - train.draw_scene(seed).astype(int)).max(axis=2) > 255 * scenes.CHANGED
    assert differs.any() and np.array_equal(differs, scenes.changed(before, after))


# ---------------------------------------------------------------- the U-Net


def test_a_widened_unet_makes_nothing_of_the_new_channels(model):
    before = copy.deepcopy(model.unet.state_dict())
    wide = widened(model.unet)
    assert wide.config.in_channels == 8 and wide.conv_in.weight.shape == (16, 8, 3, 3)
    wide.to(torch.float64)
    random = torch.Generator().manual_seed(0)
    x, picture = (torch.randn(2, 4, 8, 8, generator=random, dtype=torch.float64) for _ in range(2))
    told = model.embed(["make it a basket", ""]).tokens
    expected = model.unet(x, 500, told)
    for seen in (picture, torch.zeros_like(picture)):
        assert (wide(torch.cat([x, seen], 1), 500, told) - expected).abs().max() <= 1e-12
    assert torch.equal(wide.conv_in.weight[:, :4], before["conv_in.weight"])
    assert wide.conv_in.weight[:, 4:].abs().max() == 0
    wide(torch.cat([x, picture], 1), 500, told).square().mean().backward()
    assert wide.conv_in.weight.grad[:, 4:].abs().min() > 0, "they can be learned"
    assert model.unet.config.in_channels == 4 and not any(p.requires_grad for p in model.unet.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.unet.state_dict().values(), strict=True))


# ---------------------------------------------------------------- a row of the training


STEPS, BALANCED, PAIRS = 3, 2, 12       # 12 pairs have each kind of edit, but not as often
STAGES = "instruct", "instruct-balanced"


@pytest.fixture(scope="module")
def small():
    return dm.load("random")


def latents_of(count, seed=0):
    """Made-up latents of pairs: each can be told from all others."""
    return torch.randn(2, count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def rows_of(compared, small, tmp_path, monkeypatch):
    """rows_of(recipe): what its steps compare: (text, picture shown, x_t, t, eps), row by row."""
    texts, told = [], train_instruct.CachedEmbedding.__call__

    def telling(self, chosen):
        texts.extend(chosen)
        return told(self, chosen)

    def run(recipe):
        monkeypatch.setattr(train_instruct.CachedEmbedding, "__call__", telling)
        train_unet(recipe, tmp_path, small, *latents_of(recipe.pairs))
        tokens = {text: small.embed([text]).tokens[0] for text in set(texts)}
        for text, (x, t, context, eps) in zip(texts, compared(), strict=True):
            assert (context - tokens[text]).norm() < 0.02 * context.norm(), "they are encoded in bfloat16"
            yield text, x[4:], x[:4], t, eps

    return run


@pytest.mark.parametrize("balanced", [False, True])
def test_a_row_turns_one_picture_of_a_pair_into_the_other(small, rows_of, balanced):
    """x_t is the noised latent of the picture that the instruction asks for, scaled; the other is shown, unscaled."""
    recipe = Recipe(pairs=PAIRS, steps=2 * (not balanced), balanced_steps=2 * balanced, batch=60, without=0.0)
    pairs, shown_as = [edit_of(seed) for seed in range(PAIRS)], latents_of(PAIRS)
    scale, ways, kinds, times = small.vae.config.scaling_factor, Counter(), Counter(), []
    for text, shown, x_t, t, eps in rows_of(recipe):
        (turned, pair), = (shown_as == shown).all(dim=(2, 3, 4)).nonzero().tolist()
        kind, *two = pairs[pair]
        templates = range(len(TEMPLATES[kind]))
        assert text in [instruction(kind, two[turned], two[1 - turned], template) for template in templates]
        abar = small.schedule.abar[t]
        assert torch.allclose(x_t, abar**0.5 * scale * shown_as[1 - turned, pair] + (1 - abar) ** 0.5 * eps, atol=1e-5)
        ways[turned] += 1
        kinds[kind] += 1
        times.append(t)
    assert sum(ways.values()) == 120 and min(ways.values()) >= 40, "both ways"
    assert min(times) < 100 and max(times) > 900 and len(set(times)) > 90
    for kind, count in Counter(kind for kind, *_ in pairs).items():
        assert abs(kinds[kind] / 120 - (1 / 3 if balanced else count / PAIRS)) < 0.12, kinds


def test_conditions_are_left_out_as_often_as_asked(rows_of):
    recipe = Recipe(pairs=PAIRS, steps=2, balanced_steps=2, batch=60, without=0.2)
    without = Counter((text == "", bool((shown == 0).all())) for text, shown, *_ in rows_of(recipe))
    assert set(without) == {(False, False), (True, False), (False, True), (True, True)}
    for which, count in without.items():
        assert abs(count / 240 - (0.4 if which == (False, False) else 0.2)) < 0.07, without


# ---------------------------------------------------------------- a whole training, and killed ones


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture
def training(monkeypatch, small):
    """training(out): what the command does, of a few pairs and steps, its state written at every step."""
    recipe = partial(Recipe, pairs=PAIRS, steps=STEPS, balanced_steps=BALANCED, batch=4, without=0.2)
    monkeypatch.setattr(train_instruct, "load", lambda name: small)
    monkeypatch.setattr(train_instruct, "Recipe", recipe)
    monkeypatch.setattr(stages.time, "monotonic", itertools.count(0, 61).__next__)

    def start(out):
        monkeypatch.setattr(sys, "argv", ["train_instruct", "--out", str(out)])
        train_instruct.main()

    return start


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """A training that ran through. Tests must not change it."""
    out = tmp_path_factory.mktemp("train") / "finished"
    with pytest.MonkeyPatch.context() as monkeypatch:
        training.__wrapped__(monkeypatch, small)(out)
    return out


def weights(out):
    return load_file(out / "checkpoint_instruct/unet/diffusion_pytorch_model.safetensors")


def test_a_training_leaves_its_parts(finished, small):
    files = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    folder = "checkpoint_instruct/unet"
    assert files == {"before.npy", "after.npy", "before.pt", "after.pt", "instruct.pt", "instruct-balanced.pt",
                     "log.jsonl", f"{folder}/config.json", f"{folder}/diffusion_pytorch_model.safetensors",
                     "checkpoint_instruct/diffedit.json"}
    for seed in range(PAIRS):
        assert np.array_equal(np.load(finished / "before.npy")[seed], train.draw_scene(seed))
        assert np.array_equal(np.load(finished / "after.npy")[seed], draw_edit(seed))
    pixels = train.to_tensor(np.load(finished / "after.npy"))
    latents = torch.load(finished / "after.pt", weights_only=True)
    assert (latents - small.vae.encode(pixels)[0]).norm() < 0.05 * latents.norm(), "encoded in bfloat16, unscaled"
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [(entry["stage"], entry["step"]) for entry in log] == [("instruct", 0), ("instruct-balanced", 0)]
    assert all(0 < entry["loss"] < 10 for entry in log)


def test_the_result_is_the_second_parts_average_in_float16(finished, small):
    first, second = (torch.load(finished / f"{stage}.pt", weights_only=True) for stage in STAGES)
    assert (first["step"], second["step"]) == (STEPS, BALANCED)
    for name, weight in weights(finished).items():
        assert torch.equal(weight, second["ema"][name].half())
        assert not torch.equal(second["ema"][name], first["ema"][name]), "all of the U-Net is trained"
    assert first["ema"]["conv_in.weight"][:, 4:].abs().max() > 0
    # A first step of Adam is the rate, and that begins with a 200th: the second part starts near the first's average.
    moved, fresh = (second["ema"]["conv_in.weight"] - first[of]["conv_in.weight"] for of in ("ema", "module"))
    assert moved.abs().max() < 2e-5 and fresh.norm() > 0


@pytest.mark.parametrize("moment, at", [
    ("while writing", STEPS + 2),
    *(pytest.param(moment, at, marks=pytest.mark.slow)
      for moment, at in (("in a step", 2), ("while writing", 2), ("in a step", STEPS + 1))),
])
def test_a_killed_training_ends_as_if_it_had_not_been(finished, training, tmp_path, monkeypatch, moment, at):
    out, steps = tmp_path / "run", []
    out.mkdir()
    for name in ("before.npy", "after.npy", "before.pt", "after.pt"):       # the stages that are done
        shutil.copy(finished / name, out / name)
    add_noise, save = stages.add_noise, torch.save

    def counting(*arguments):
        steps.append("step")
        if moment == "in a step" and len(steps) == at:
            raise Killed
        return add_noise(*arguments)

    def half(state, path):
        save(state, path)
        if moment == "while writing" and len(steps) == at:
            path.write_bytes(path.read_bytes()[:1000])
            raise Killed

    monkeypatch.setattr(stages, "add_noise", counting)
    monkeypatch.setattr(torch, "save", half)
    monkeypatch.setattr(train_instruct, "draw_edit", lambda _: pytest.fail("drawn again"))
    with pytest.raises(Killed):
        training(out)
    done = [torch.load(path, weights_only=True)["step"] for path in sorted(out.glob("instruct*.pt"), reverse=True)]
    assert sum(done) == at - 1 and not (out / "checkpoint_instruct").exists()
    assert len(list(out.glob("*.part"))) == (moment == "while writing")

    steps.clear()
    moment = "afterwards"
    training(out)
    assert len(steps) == STEPS + BALANCED - (at - 1), "goes on where the last state was written"
    assert not list(out.glob("*.part"))
    assert all(torch.equal(w, weights(finished)[name]) for name, w in weights(out).items())
    for stage in STAGES:
        ours, theirs = (torch.load(run / f"{stage}.pt", weights_only=True) for run in (out, finished))
        assert all(torch.equal(w, theirs["module"][name]) for name, w in ours["module"].items())


def test_a_finished_training_only_exports_again(finished, training, tmp_path, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(out / "checkpoint_instruct")
    monkeypatch.setattr(stages, "add_noise", lambda *_: pytest.fail("trained again"))
    training(out)
    assert all(torch.equal(w, weights(finished)[name]) for name, w in weights(out).items())


def test_the_export_takes_the_place_of_a_checkpoints_unet(finished, copied):
    """The folder is another random model's in the usual layout; with this U-Net it follows instructions."""
    shutil.rmtree(copied / "unet")
    shutil.copytree(finished / "checkpoint_instruct/unet", copied / "unet")
    model = dm.load(copied, device="cpu")
    assert model.unet.config.in_channels == 8
    for name, weight in model.unet.state_dict().items():
        assert torch.equal(weight, weights(finished)[name].float())
    edit = dm.METHODS["instruct_pix2pix"](model, scenes.sample(0).render(32), "make it a basket", steps=2)
    assert edit.rows == 6
