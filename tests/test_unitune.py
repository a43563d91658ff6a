"""Run with `python -m pytest tests/test_unitune.py` from the repository's root; takes about 15 seconds.

UniTune: what it is without tuning, that tuning is Adam on Eq. (1) of the one picture under the rare word, that the
caller's model stays as it was, and the files of kept tunings.
"""

import contextlib
import copy
import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import diffedit_min as dm
from diffedit_min.core.schedule import generator, levels_used, standard_noise
from diffedit_min.methods import unitune as module

unitune = dm.METHODS["unitune"]
QUERY, RARE = "a bowl of pears", "beikkpic"
FEW = {"steps": 6, "tuning_steps": 2, "batch": 2, "learning_rate": 1e-3}


def picture(seed=0, size=(32, 32)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)


def run(model, image=None, query=QUERY, method=unitune, **options):
    """The edit, and the latents at the end of each picture's sampling."""
    steps = []
    few = FEW if method is unitune else {}
    edit = method(model, image or picture(), query, on_step=steps.append, **{**few, **options})
    return edit, [step.latent for step in steps if step.stage == "decode" and step.index == step.total]


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def tuned_unet(model, path, **options):
    """The tuned U-Net, read back from the file where the method leaves it."""
    run(model, save=str(path), **options)
    unet = copy.deepcopy(model.unet)
    unet.load_state_dict(load_file(path), assign=True)
    return unet.requires_grad_(False)


def weights_of(model):
    return copy.deepcopy(model.unet.state_dict())


def assert_untouched(model, weights):
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), model.unet.state_dict().values(), strict=True))
    assert all(a.dtype == b.dtype for a, b in zip(weights.values(), model.unet.state_dict().values(), strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in model.unet.parameters())


# ---------------------------------------------------------------- what it reduces to


@pytest.mark.parametrize("rare, options", [
    ("sks zwx", {"rare": "sks zwx", "encoding_ratio": 0.5}), (RARE, {"negative_prompt": "grass"}),
    (RARE, {"encoding_ratio": 0.0}),
])
def test_without_tuning_it_is_sdedit_under_the_rare_word(model, rare, options):
    ours, latents = run(model, tuning_steps=0, seed=5, **options)
    plain = {"guidance_scale": 32.0, "encoding_ratio": 0.9, **{k: v for k, v in options.items() if k != "rare"}}
    theirs, expected = run(model, query=f"{rare} {QUERY}", method=dm.sdedit, steps=6, seed=5, **plain)
    assert ours.image.tobytes() == theirs.image.tobytes()
    assert len(latents) == len(expected) == (0 if plain["encoding_ratio"] == 0 else 1)
    assert all(distance(a, b) <= 1e-12 for a, b in zip(latents, expected, strict=True))
    assert (ours.rows, ours.backward_rows) == (theirs.rows, 0)


def test_without_tuning_it_is_sdedit_whatever_a_float64_models_weights(model):
    """The random model's weights are whole in float32; these need float64."""
    own = replace(model, unet=copy.deepcopy(model.unet))
    random = torch.Generator().manual_seed(0)
    for p in own.unet.parameters():
        p += 1e-2 * torch.randn(p.shape, generator=random, dtype=torch.float64)
    _, latents = run(own, tuning_steps=0)
    _, expected = run(own, query=f"{RARE} {QUERY}", method=dm.sdedit, steps=6, guidance_scale=32.0, encoding_ratio=0.9)
    assert distance(latents[0], expected[0]) <= 1e-12


def test_the_query_is_asked_with_the_rare_word_before_it(model, tmp_path):
    """Sampling is SDEdit by the tuned U-Net."""
    unet = tuned_unet(model, tmp_path / "t.safetensors", seed=2)
    _, latents = run(model, seed=2)
    own = replace(model, unet=unet.double())
    _, expected = run(own, query=f"{RARE} {QUERY}", method=dm.sdedit, steps=6, guidance_scale=32.0, encoding_ratio=0.9,
                      seed=2)
    assert distance(latents[0], expected[0]) <= 1e-12
    _, untuned = run(model, seed=2, tuning_steps=0)
    assert distance(latents[0], untuned[0]) > 1e-3


# ---------------------------------------------------------------- tuning


def loss(model, unet, x0, text):
    """Eq. (1) of one picture under a text, at fixed times and noises: (times,)."""
    random, values = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        told = model.embed([text]).tokens
        for t in range(25, 1000, 50):
            abar, eps = model.schedule.abar[t], torch.randn(x0.shape, generator=random, dtype=x0.dtype)
            values.append((unet(abar**0.5 * x0 + (1 - abar) ** 0.5 * eps, t, told) - eps).square().mean())
    return torch.stack(values)


def test_tuning_lowers_the_loss_on_the_picture_under_the_rare_word(model, tmp_path):
    x0 = model.encode(dm.pictures.to_pixels(picture()))
    tuned = tuned_unet(model, tmp_path / "t.safetensors", tuning_steps=25, batch=2, learning_rate=3e-3).double()
    before, after = (loss(model, unet, x0, RARE).mean() for unet in (model.unet, tuned))
    assert after < 0.6 * before, f"{before:.3f} -> {after:.3f}"


def test_rows_add_up_to_the_mean_gradient_of_a_batch(model):
    x0 = model.encode(dm.pictures.to_pixels(picture()))
    times, abar = torch.tensor([3, 400, 999]), torch.tensor(model.schedule.abar, dtype=torch.float64)
    eps = torch.randn(3, *x0.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together, apart = (copy.deepcopy(model.unet).requires_grad_(True) for _ in range(2))

    told = model.embed([RARE]).tokens
    x_t = abar[times].sqrt()[:, None, None, None] * x0 + (1 - abar[times]).sqrt()[:, None, None, None] * eps
    (together(x_t, times, told.expand(3, -1, -1)) - eps).square().mean().backward()

    options = unitune.settings(model, {"batch": 3})
    with torch.no_grad():                               # as inside a method
        for t, noise in zip(times.tolist(), eps, strict=True):
            module.descend(replace(model, unet=apart), x0, t, noise[None], model.embed([RARE]), options)
    expected, got = (torch.cat([p.grad.flatten() for p in unet.parameters()]) for unet in (together, apart))
    assert expected.norm() > 1e-3 and distance(got, expected) <= 1e-12


@pytest.mark.parametrize("batch", [1, 3])
def test_tuning_is_adam_on_batches_of_its_own_noises(model, tmp_path, batch):
    """The same by hand: all rows of a batch at once, the times and the noises from their streams."""
    options = {"seed": 4, "tuning_steps": 4, "batch": batch, "learning_rate": 2e-3}
    tuned = tuned_unet(model, tmp_path / "t.safetensors", **options).double()
    x0 = model.encode(dm.pictures.to_pixels(picture()))
    told, abar = model.embed([RARE]).tokens, torch.tensor(model.schedule.abar, dtype=torch.float64)
    by_hand = copy.deepcopy(model.unet).requires_grad_(True)
    adam = torch.optim.Adam(by_hand.parameters(), lr=2e-3)
    for step in range(4):
        rows = range(step * batch, (step + 1) * batch)
        t = torch.cat([torch.randint(1000, (1,), generator=generator(4, "unitune t", row)) for row in rows])
        eps = torch.cat([standard_noise(x0, (4,), "unitune", row) for row in rows])
        x_t = abar[t].sqrt()[:, None, None, None] * x0 + (1 - abar[t]).sqrt()[:, None, None, None] * eps
        adam.zero_grad()
        (by_hand(x_t, t, told.expand(batch, -1, -1)) - eps).square().mean().backward()
        adam.step()
    by_hand.requires_grad_(False)
    start, ours, theirs = (loss(model, unet, x0, RARE) for unet in (model.unet, tuned, by_hand))
    moved = (theirs - start).abs().max()
    assert moved > 1e-2 and (ours - theirs).abs().max() < 1e-4 * moved, "Adam enlarges what float32 rounds"


def test_checkpointing_changes_memory_only(model, monkeypatch):
    calls, plain = [], importlib.import_module("diffedit_min.networks.unet").checkpoint

    def counting(function, *arguments, **options):
        calls.append(torch.is_grad_enabled())
        return plain(function, *arguments, **options)

    monkeypatch.setattr("diffedit_min.networks.unet.checkpoint", counting)
    _, without = run(model)
    assert not calls
    edit, latents = run(model, checkpointing=True)
    assert distance(latents[0], without[0]) <= 1e-10
    assert calls and all(calls), "layers are checkpointed while tuning, not while sampling"
    assert (edit.rows, edit.backward_rows) == (4 + 2 * 5, 4)


def test_the_same_seed_gives_the_same_tuning_and_another_another(model, tmp_path):
    one, again, other = (tuned_unet(model, tmp_path / f"{i}.safetensors", seed=s) for i, s in enumerate([0, 0, 1]))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not torch.equal(one.conv_in.weight, other.conv_in.weight)


def test_in_half_it_tunes_in_float32_and_samples_in_half(monkeypatch):
    model, seen = dm.load("random", dtype="bfloat16"), []
    forward = type(model.unet).forward

    def watching(self, x, *rest):
        seen.append((x.dtype, {p.dtype for p in self.parameters()}, torch.is_grad_enabled()))
        return forward(self, x, *rest)

    monkeypatch.setattr(type(model.unet), "forward", watching)
    edit, latents = run(model, guidance_scale=4.0)
    assert seen[:4] == [(torch.float32, {torch.float32}, True)] * 4
    assert seen[4:] == [(torch.bfloat16, {torch.bfloat16}, False)] * 5
    assert latents[0].dtype == torch.float32 and latents[0].isfinite().all() and edit.image.size == (32, 32)


def test_half_would_lose_small_steps(tmp_path):
    """A step of the paper's rate is below what bfloat16 resolves in most weights; the tuned file has it."""
    model = dm.load("random", dtype="bfloat16")
    tuned = tuned_unet(model, tmp_path / "t.safetensors", tuning_steps=1, batch=1, learning_rate=1e-4)
    before, after = model.unet.conv_in.weight.float(), tuned.conv_in.weight
    assert ((after - before).abs() > 0.9e-4).double().mean() > 0.9, "Adam's first step is the rate, in each weight"
    assert (after.bfloat16() == before.bfloat16()).double().mean() > 0.3


# ---------------------------------------------------------------- the caller's model


def stopped(step):
    if (step.stage, step.index) == ("tune", 1):
        raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["finished", "raised", "closed", "from a file"])
def test_the_callers_model_stays_as_it_is(model, way, tmp_path):
    if way == "from a file":
        run(model, save=str(tmp_path / "t.safetensors"))
    weights, unet, random = weights_of(model), model.unet, torch.get_rng_state()
    if way == "finished":
        run(model)
    elif way == "raised":
        with pytest.raises(KeyboardInterrupt):
            unitune(model, picture(), QUERY, **FEW, on_step=stopped)
    elif way == "closed":
        steps = unitune.iterate(model, picture(), QUERY, **FEW)
        next(steps)
        assert torch.is_grad_enabled(), "between steps the caller's mode holds"
        steps.close()
    else:
        run(model, tuned=str(tmp_path / "t.safetensors"))
    assert model.unet is unet and torch.is_grad_enabled()
    assert_untouched(model, weights)
    assert torch.equal(torch.get_rng_state(), random), "the global random state is nobody's business"


# ---------------------------------------------------------------- kept tunings


def test_a_saved_tuning_serves_like_the_tuning(model, tmp_path):
    """Also for another query; and it costs no tuning."""
    path = str(tmp_path / "t.safetensors")
    first, (latent,) = run(model, save=path)
    again, (same,) = run(model, tuned=path, tuning_steps=99)
    assert torch.equal(latent, same) and first.image.tobytes() == again.image.tobytes()
    assert (first.rows, first.backward_rows, again.rows, again.backward_rows) == (4 + 10, 4, 10, 0)
    (_, fresh), (_, kept) = run(model, query="a basket"), run(model, query="a basket", tuned=path)
    assert torch.equal(fresh[0], kept[0]) and not torch.equal(fresh[0], latent)


def test_a_saved_tuning_has_the_unets_names_and_shapes(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(model, save="t.safetensors", rare="sks")
    weights = load_file("t.safetensors")
    own = model.unet.state_dict()
    assert {name: w.shape for name, w in weights.items()} == {name: w.shape for name, w in own.items()}
    changed = [name for name, w in weights.items() if not torch.equal(w.double(), own[name])]
    assert len(changed) == len(own), "all of the U-Net is tuned"
    with safe_open("t.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "rare": "sks"}
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


@pytest.mark.parametrize("earlier", [None, b"earlier"])
@pytest.mark.parametrize("way", ["while tuning", "closed", "while writing"])
def test_an_interrupted_save_leaves_nothing(model, tmp_path, monkeypatch, way, earlier):
    path = tmp_path / "t.safetensors"
    if earlier:
        path.write_bytes(earlier)

    def broken(weights, file, metadata):
        with open(file, "wb") as out:
            out.write(b"half of it")
        assert len(list(tmp_path.iterdir())) > bool(earlier), "written beside its place first"
        raise KeyboardInterrupt

    if way == "while writing":
        monkeypatch.setattr(module, "save_file", broken)
    steps = unitune.iterate(model, picture(), QUERY, save=str(path), **FEW)
    if way == "closed":
        next(steps)
        steps.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            for step in steps:
                if way == "while tuning":
                    stopped(step)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("t.safetensors", earlier)] if earlier else [])


def test_a_tuning_is_kept_before_sampling_begins(model, tmp_path):
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"earlier")
    steps = unitune.iterate(model, picture(), QUERY, save=str(path), **FEW)
    while next(steps).stage == "tune":
        assert path.read_bytes() == b"earlier"
    steps.close()
    assert load_file(path).keys() == model.unet.state_dict().keys()
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


# ---------------------------------------------------------------- batches, rows, progress


@given(tuning=st.integers(0, 2), batch=st.integers(1, 3), ratio=st.floats(0, 1), scale=st.sampled_from([0.0, 1.0, 8.0]))
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_rows(tuning, batch, ratio, scale):
    model, k = dm.load("random"), levels_used(ratio, 5)
    edit, _ = run(model, steps=5, tuning_steps=tuning, batch=batch, encoding_ratio=ratio, guidance_scale=scale)
    assert edit.backward_rows == tuning * batch
    assert edit.rows == tuning * batch + k * (2 if scale == 8.0 else 1)


# ---------------------------------------------------------------- refusals


@contextlib.contextmanager
def refused(message, monkeypatch):
    """A ValueError of that very text, before a row of tuning."""
    monkeypatch.setattr(module, "descend", lambda *_: pytest.fail("tuned for nothing"))
    with pytest.raises(ValueError) as error:
        yield
    assert str(error.value) == message


@pytest.mark.parametrize("options, message", [
    ({"tuning_steps": -1}, "tuning_steps must be from 0 to 100000, not -1"),
    ({"tuning_steps": 1.5}, "tuning_steps must be a whole number, not 1.5"),
    ({"batch": 0}, "batch must be from 1 to 1000, not 0"),
    ({"learning_rate": 0}, "learning_rate must be above 0, not 0.0"),
    ({"learning_rate": float("nan")}, "learning_rate must be above 0, not nan"),
    ({"learning_rate": float("inf")}, "learning_rate must be a finite number, not inf"),
    ({"rare": " "}, "rare is empty: give a word that the text model hardly knows"),
    ({"encoding_ratio": 1.1}, "encoding_ratio must be from 0 to 1, not 1.1"),
    ({"save": "t.ckpt"}, "save 't.ckpt' must be a .safetensors file"),
    ({"tuned": "t.pt"}, "tuned 't.pt' must be a .safetensors file"),
    ({"save": "nowhere/t.safetensors"}, "there is no folder 'nowhere': make it first"),
    ({"save": "a.safetensors", "tuned": "b.safetensors"},
     "save 'a.safetensors' has nothing to save: tuned='b.safetensors' skips the tuning"),
])
def test_bad_options(model, options, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with refused(message, monkeypatch):
        run(model, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sizes", [[(32, 32), (32, 32)], [(32, 32), (48, 32)]], ids=["one size", "two sizes"])
@pytest.mark.parametrize("name", ["save", "tuned"])
def test_a_kept_tuning_is_of_one_picture(model, name, sizes, monkeypatch, tmp_path):
    """Also of pictures that can't run as one batch."""
    path = tmp_path / "t.safetensors"
    if name == "tuned":
        run(model, save=str(path))
    images = [picture(i, size) for i, size in enumerate(sizes)]
    message = "a tuning belongs to one picture, but 2 are given: leave out save and tuned"
    with refused(message, monkeypatch):
        run(model, images, **{name: str(path)})
    run(model, images[:1], tuning_steps=0, **{name: str(path)})


def test_a_tuning_under_another_word_is_refused(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(model, save="t.safetensors", rare="sks")
    with refused("tuned 't.safetensors' was tuned under 'sks', not under 'beikkpic': pass rare=", monkeypatch):
        run(model, tuned="t.safetensors")
    run(model, tuned="t.safetensors", rare="sks")


def test_a_file_of_another_origin_is_refused(model, monkeypatch, tmp_path):
    """It has a U-Net, but was not tuned under any word: no `rare=` would help."""
    monkeypatch.chdir(tmp_path)
    save_file(model.unet.state_dict(), "t.safetensors")
    with refused("tuned 't.safetensors' is not a file that unitune has saved: it names no rare word", monkeypatch):
        run(model, tuned="t.safetensors")


def test_another_models_tuning_is_refused(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(model, save="t.safetensors")
    message = "tuned '{}.safetensors' holds the U-Net of another kind of model"
    weights = load_file("t.safetensors")
    less, other = dict(weights), {**weights, "conv_in.weight": torch.zeros(16, 8, 3, 3)}
    del less["conv_out.bias"]
    for name, damaged in {"less": less, "other": other, "more": {**weights, "extra": torch.zeros(1)}}.items():
        save_file(damaged, f"{name}.safetensors", {"rare": RARE})
        with refused(message.format(name), monkeypatch):
            run(model, tuned=f"{name}.safetensors")


@pytest.mark.parametrize("content", [None, b"", b"hello", "half"], ids=["missing", "empty", "broken", "cut off"])
def test_a_file_that_cannot_be_read_is_refused(model, content, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if content == "half":
        run(model, save="whole.safetensors")
        whole = (tmp_path / "whole.safetensors").read_bytes()
        content = whole[: len(whole) // 2]
    if content is not None:
        (tmp_path / "t.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"^tuned 't\.safetensors' can't be read: [^\n]+$"):
        run(model, tuned="t.safetensors")
