"""Run with `python -m pytest tests/test_train.py` from the repository's root; takes about 15 seconds.

The embedded model's training, of a few scenes and steps: what its losses are, that Eq. (1) is asked of the right
picture under the right words, that a killed run ends as if it had not been, and that the result is a checkpoint.
"""

import itertools
import json
import math
import os
import shutil
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import diffedit_min as dm
from diffedit_min.core.schedule import Schedule
from diffedit_min.networks.text import tokenize
from diffedit_min.networks.tokenizer import make_tokenizer
from diffedit_min.networks.unet import UNet, UNetConfig
from diffedit_min.networks.vae import VAE, VAEConfig
from diffedit_min.tiny import scenes, stages, train, vocabulary
from diffedit_min.tiny.train import Recipe

SCENES, STEPS = 24, 3
UNET, VAE_FILE, TEXT = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
                        "text_encoder/model.safetensors")
SMALL = partial(
    Recipe, scenes=SCENES, vae_steps=STEPS, vae_batch=2, unet_steps=STEPS, unet_batch=2,
    vae=VAEConfig(block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4),
    unet=UNetConfig(block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                    layers_per_block=1, attention_head_dim=4, cross_attention_dim=16, norm_num_groups=4,
                    sample_size=16),
    text={**Recipe().text, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
          "num_attention_heads": 2, "projection_dim": 16},
)


def loss_of(stage, recipe, out, data):
    """The function of the step that a stage would minimise."""
    found = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "fit", lambda out, name, module, loss, *_: found.append(loss))
        stage(recipe, out, data)
    return found[0]


# ---------------------------------------------------------------- the autoencoder's loss


@pytest.mark.parametrize("mean, log_variance, error, loss", [
    (0.0, 0.0, 0.5, 0.5 + 0.25),                        # off by the same everywhere: L1 + L2, no edges; no KL
    (0.0, 0.0, "stripes", 1 + 1 + 2),                   # off by 1 and -1 in turn: edges of 2, across only
    (1.0, 0.0, 0.5, 0.75 + 3e-4 * 0.5),                 # KL of N(1, 1) from N(0, 1)
    (0.0, math.log(4), 0.5, 0.75 + 3e-4 * 0.5 * (3 - math.log(4))),
])
def test_the_autoencoders_loss(tmp_path, monkeypatch, mean, log_variance, error, loss):
    seen = []

    def encode(self, x):
        seen.append(x)
        return torch.full((len(x), 4, 16, 16), mean), torch.full((len(x), 4, 16, 16), log_variance)

    def decode(self, z):
        seen.append(z)
        if error == "stripes":
            return seen[0] + torch.tensor([1.0, -1.0]).repeat(32)
        return seen[0] + error

    monkeypatch.setattr(VAE, "encode", encode)
    monkeypatch.setattr(VAE, "decode", decode)
    pixels = np.stack([train.draw_scene(seed) for seed in range(4)])
    value, notes = loss_of(train.train_vae, SMALL(vae_batch=64), tmp_path, pixels)(7)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    x, z = seen
    assert abs(z.mean() - mean) < 0.02 and abs(z.std() - math.exp(log_variance / 2)) < 0.02, "a sample, not the mean"
    drawn = Counter(next(i for i in range(4) if torch.equal(one, train.to_tensor(pixels[i : i + 1])[0])) for one in x)
    assert set(drawn) == {0, 1, 2, 3}


# ---------------------------------------------------------------- Eq. (1)


LATENTS = torch.randn(SCENES, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def rows_of(compared, tmp_path, monkeypatch):
    """rows_of(recipe, steps): what steps on LATENTS compare: (caption, x_t, t, context, eps), row by row."""
    captions, tokens = [], train.tokenize

    def reading(tokenizer, prompts):
        captions.extend(prompts)
        return tokens(tokenizer, prompts)

    def run(recipe, steps=1):
        monkeypatch.setattr(train, "tokenize", reading)
        loss = loss_of(train.train_unet, recipe, tmp_path, LATENTS)
        for step in range(steps):
            loss(step)
        return [(caption, *row) for caption, row in zip(captions, compared(), strict=True)]

    return run


def clean(x_t, t, eps):
    """The x0 that a row was made of."""
    abar = Schedule.from_config(Recipe().schedule).abar[t]
    return (x_t - (1 - abar) ** 0.5 * eps) / abar**0.5


def test_a_row_is_a_noised_scene_under_its_own_caption(rows_of):
    rows = rows_of(SMALL(unet_batch=200, latent_noise=0.0, empty_captions=0.3, partial_captions=0.2), steps=2)
    kinds, drawn, times = Counter(), set(), []
    for caption, x_t, t, _, eps in rows:
        if t > 900:
            continue        # the scene's part is too small there to tell the scenes apart by
        (which,) = ((clean(x_t, t, eps) - LATENTS).abs().amax(dim=(1, 2, 3)) < 1e-2).nonzero().flatten().tolist()
        scene = scenes.sample(which)
        partial_ones = {scene.partial_caption(part) for part in train.PARTS}
        assert caption in {"", scene.caption, *partial_ones}
        kinds["empty" if not caption else "partial" if caption in partial_ones else "full"] += 1
        drawn.add(which)
        times.append(t)
    assert len(drawn) == SCENES and min(times) < 50 and len(set(times)) > 250
    total = sum(kinds.values())
    assert abs(kinds["empty"] / total - 0.3) < 0.07 and abs(kinds["partial"] / total - 0.2) < 0.07, kinds
    assert all(eps.std() > 0.8 for *_, eps in rows)


def test_the_words_are_what_the_network_is_told(rows_of):
    told = {}
    for caption, *_, context, _ in rows_of(SMALL(unet_batch=40, empty_captions=0.5)):
        assert torch.equal(told.setdefault(caption, context), context)
    assert len({tuple(context.flatten().tolist()) for context in told.values()}) == len(told) > 5


def test_noise_on_the_latents_has_the_size_that_the_recipe_says(rows_of):
    sizes = []
    for _, x_t, t, _, eps in rows_of(SMALL(unet_batch=100, latent_noise=0.15)):
        if t < 500:
            off = clean(x_t, t, eps) - LATENTS
            sizes.append(off[off.flatten(1).norm(dim=1).argmin()].std().item())
    assert len(sizes) > 30 and np.mean(sizes) == pytest.approx(0.15, abs=0.005)


def test_a_perfect_prediction_has_no_loss(tmp_path, monkeypatch):
    targets, mse = [], torch.nn.functional.mse_loss
    monkeypatch.setattr(torch.nn.functional, "mse_loss", lambda a, b: targets.append(b) or mse(a, b))
    loss = loss_of(train.train_unet, SMALL(), tmp_path, LATENTS)
    loss(0)
    monkeypatch.setattr(UNet, "forward", lambda self, x, t, context: targets[0])
    assert loss(0)[0] == 0, "the same step has the same noise"
    assert loss(1)[0] > 1, "and another step has other noise"


# ---------------------------------------------------------------- a whole training, and killed ones


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture
def training(monkeypatch):
    """training(out): what the command does, of a few scenes and steps, its state written at every step."""
    monkeypatch.setattr(train, "Recipe", SMALL)
    monkeypatch.setattr(stages.time, "monotonic", itertools.count(0, 61).__next__)

    def start(out):
        monkeypatch.setattr(sys, "argv", ["train", "--out", str(out)])
        train.main()

    return start


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training that ran through. Tests must not change it."""
    out = tmp_path_factory.mktemp("train") / "finished"
    with pytest.MonkeyPatch.context() as monkeypatch:
        training.__wrapped__(monkeypatch)(out)
    return out


def files(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def weights(out, file):
    return load_file(out / "checkpoint" / file)


def test_a_training_leaves_a_checkpoint(finished):
    """One of the usual layout, that loads strictly and edits."""
    model = dm.load(finished / "checkpoint", device="cpu")
    assert model.unet.config == SMALL().unet and model.multiple == 8
    assert model.schedule == Schedule.from_config(Recipe().schedule) and model.prediction_type == "epsilon"
    assert tokenize(model.tokenizer, ["a bowl of pears"]).tolist() == tokenize(
        make_tokenizer(finished / "tokenizer"), ["a bowl of pears"]).tolist()
    edit = dm.diffedit(model, scenes.sample(0).render(64), "a bowl of pears", steps=2, mask_samples=1)
    assert edit.image.size == (64, 64)
    known = {f"checkpoint/tokenizer/{path}" for path in files(dm.loading.sources.TINY / "tokenizer")}
    assert known | {f"checkpoint/{path}" for path in (UNET, VAE_FILE, TEXT)} <= files(finished)


def test_its_weights_are_the_averages_in_float16(finished):
    vae, unet = (torch.load(finished / f"{stage}.pt", weights_only=True) for stage in ("vae", "unet"))
    assert vae["step"] == unet["step"] == STEPS and vae["ema"] is None
    of_unet, of_text = weights(finished, UNET), weights(finished, TEXT)
    for name, weight in weights(finished, VAE_FILE).items():
        assert torch.equal(weight, vae["module"][name].half())
    for part, own in (("unet", of_unet), ("text_encoder", of_text)):
        assert own
        for name, weight in own.items():
            assert weight.dtype == torch.float16 and torch.equal(weight, unet["ema"][f"{part}.{name}"].half())
    moved = [name for name, weight in unet["ema"].items() if not torch.equal(weight, unet["module"][name])]
    assert {name.partition(".")[0] for name in moved} == {"unet", "text_encoder"}, "both are trained"


def test_latents_are_scaled_to_unit_variance(finished):
    """encode_all's are unscaled; the factor is in vae/config.json."""
    latents = torch.load(finished / "latents.pt", weights_only=True)
    pixels = np.load(finished / "scenes.npy")
    assert latents.shape == (SCENES, 4, 16, 16)
    for seed in range(SCENES):
        assert np.array_equal(pixels[seed], train.draw_scene(seed))
    model = dm.load(finished / "checkpoint", device="cpu")
    scaled = model.encode(train.to_tensor(pixels))
    assert scaled.std().item() == pytest.approx(1, abs=0.02)
    assert (scaled / model.vae.config.scaling_factor - latents).norm() < 0.05 * latents.norm(), "encoded in bfloat16"


def test_the_unet_learns_on_scaled_latents(finished, training, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(train, "train_unet", lambda recipe, out, latents: given.append(latents))
    monkeypatch.setattr(train, "export", lambda *_: None)
    training(shutil.copytree(finished, tmp_path / "run"))
    assert given[0].std().item() == pytest.approx(1, abs=1e-5)


def test_the_log_has_a_line_for_each_stage(finished):
    log = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert [(entry["stage"], entry["step"]) for entry in log] == [("vae", 0), ("unet", 0)]
    assert all(0 < entry["loss"] < 10 and entry["time"] > 1e9 for entry in log) and {"psnr", "kl"} <= log[0].keys()


def test_another_seed_is_another_model(finished, training, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "Recipe", partial(SMALL, seed=1))
    training(tmp_path)
    for file in (UNET, VAE_FILE, TEXT):
        ours, theirs = weights(tmp_path, file), weights(finished, file)
        assert ours.keys() == theirs.keys() and not all(torch.equal(ours[name], theirs[name]) for name in ours)


WRITTEN = ["scenes.npy", *["vae.pt"] * STEPS, "latents.pt", *["unet.pt"] * STEPS]      # in this order


@pytest.mark.parametrize("nth", [
    STEPS + 3, *(pytest.param(nth, marks=pytest.mark.slow) for nth in (1, 2, 3, STEPS + 2, 2 * STEPS + 2))])
def test_a_training_killed_while_writing_ends_as_if_it_had_not_been(finished, training, tmp_path, monkeypatch, nth):
    replace, done = os.replace, []

    def half(part, path):
        if path.name in WRITTEN:
            done.append(path.name)
            if len(done) == nth:
                part.write_bytes(part.read_bytes()[:100])
                raise Killed
        replace(part, path)

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(os, "replace", half)
        training(tmp_path)
    assert done == WRITTEN[:nth]
    assert {path.name for path in tmp_path.iterdir() if path.name in WRITTEN} == set(done[:-1])
    training(tmp_path)
    assert_same(tmp_path, finished)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, STEPS, STEPS + 2])
def test_a_training_killed_in_a_step_ends_as_if_it_had_not_been(finished, training, tmp_path, monkeypatch, steps):
    taken, clip = [], torch.nn.utils.clip_grad_norm_

    def counting(*arguments):
        taken.append(1)
        if len(taken) == steps:
            raise Killed
        return clip(*arguments)

    with monkeypatch.context() as killing, pytest.raises(Killed):
        killing.setattr(torch.nn.utils, "clip_grad_norm_", counting)
        training(tmp_path)
    monkeypatch.setattr(train, "draw_scene", lambda seed: pytest.fail("drawn again"))
    training(tmp_path)
    assert_same(tmp_path, finished)


def assert_same(out, finished):
    assert not list(out.glob("*.part")) and files(out) == files(finished)
    for name in files(finished):
        if name != "log.jsonl" and not name.endswith(".pt"):        # a .pt file holds its own name
            assert (out / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_finished_training_only_exports_again(finished, training, tmp_path, monkeypatch):
    out = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(out / "checkpoint")
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: pytest.fail("trained again"))
    training(out)
    assert_same(out, finished)


# ---------------------------------------------------------------- the recipe


def test_captions_name_what_is_in_the_picture():
    scene, recipe = scenes.sample(5), Recipe()
    random = torch.Generator().manual_seed(0)
    said = Counter(train.caption_of(scene, recipe, random) for _ in range(4000))
    assert said[""] / 4000 == pytest.approx(recipe.empty_captions, abs=0.03)
    assert said[scene.caption] / 4000 == pytest.approx(1 - recipe.empty_captions - recipe.partial_captions, abs=0.03)
    assert set(said) == {"", scene.caption, *(scene.partial_caption(part) for part in train.PARTS)}
    known = make_tokenizer(dm.loading.sources.TINY / "tokenizer")
    assert all(len(known(text).input_ids) <= vocabulary.LENGTH for text in said)


def test_the_recipe_is_the_embedded_models():
    """What load() gives is of the sizes that the recipe says; the weights themselves take two hours to make."""
    model, recipe = dm.load("tiny"), Recipe()
    assert model.unet.config == recipe.unet
    for name in ("block_out_channels", "layers_per_block", "norm_num_groups", "latent_channels"):
        assert getattr(model.vae.config, name) == getattr(recipe.vae, name)
    assert model.schedule == Schedule.from_config(recipe.schedule)
    for name, value in recipe.text.items():
        assert getattr(model.text_encoder.config, name) == value
