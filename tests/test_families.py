"""Run with `python -m pytest tests/test_families.py` from the repository's root; takes about a minute.

Opens random checkpoints of every family that can be loaded (checkpoints.py) with diffusers too, as folders and as
single files, and compares weights and what the networks put out; skipped where it isn't installed.

`-m full` does it at the real sizes instead: nine minutes on two cores, 16 GB of memory, 7 GB of disk at a time.
"""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import checkpoints
import pytest
import torch
from torch import Tensor

import diffedit_min as dm

diffusers = pytest.importorskip("diffusers")

PROMPTS = ["a bowl of apples on sand", "a bucket of plums on grass"]
T = 431
SMALL = [pytest.param("small", "float32", 1e-4, marks=[pytest.mark.full, pytest.mark.slow]),
         pytest.param("small", "float64", 1e-10, marks=pytest.mark.slow)]
FULL = pytest.param("full", "float32", 1e-4, marks=[pytest.mark.full, pytest.mark.slow])
FULL_IN_FLOAT32 = "sd15"        # the other families' full-size files are in half precision, to save disk


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(configs: dict, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What a U-Net of that family takes, a picture, and latents to decode."""
    side = min(64, configs["unet"]["sample_size"])
    x = random(1, configs["unet"]["in_channels"], side, side, seed=1)
    pixels, latents = random(1, 3, 8 * side, 8 * side, seed=2).clamp(-1, 1), random(1, 4, side, side, seed=3)
    return x.to(dtype), pixels.to(dtype), latents.to(dtype)


def assert_relatively_near(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype and b.isfinite().all()
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def their_pipeline(configs: dict) -> type:
    return diffusers.StableDiffusionXLPipeline if "text_encoder_2" in configs else diffusers.StableDiffusionPipeline


@pytest.fixture(params=checkpoints.REAL)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


# ---------------------------------------------------------------- folders


@pytest.fixture
def configs(family: str, size: str) -> dict:
    return checkpoints.small(family) if size == "small" else checkpoints.REAL[family]


@pytest.fixture
def written(family: str, size: str, configs: dict, tmp_path: Path) -> Iterator[Path]:
    """The family as a folder, deleted after the test."""
    dtype = torch.float16 if size == "full" and family != FULL_IN_FLOAT32 else torch.float32
    try:
        yield checkpoints.write_folder(tmp_path, configs, checkpoints.random_weights(configs, dtype=dtype))
    finally:
        shutil.rmtree(tmp_path)


def our_answers(folder: Path, configs: dict, dtype: str) -> dict[str, Tensor | None]:
    model = dm.load(folder, device="cpu", dtype=dtype)
    x, pixels, latents = inputs(configs, model.dtype)
    context, empty = model.embed(PROMPTS), model.embed([""] * len(PROMPTS))
    return {
        "tokens": context.tokens, "no tokens": empty.tokens, "pooled": context.pooled, "no pooled": empty.pooled,
        "unet": model.unet(x, T, context[:1].tokens, summary=model.summary(x, context[:1], None)),
        "encoded": model.encode(pixels), "decoded": model.decode(latents),
    }


def their_answers(
    folder: Path, configs: dict, dtype: torch.dtype, tokens: Tensor, pooled: Tensor | None
) -> dict[str, Tensor | None]:
    """One network after the other, so that only one is in memory. The U-Net is given these tokens and summary."""
    texts = [name for part in configs if "text" in part for name in (part, part.replace("text_encoder", "tokenizer"))]

    def only(part: str) -> object:
        others = dict.fromkeys({"text": ("unet", "vae"), "unet": ("vae", *texts), "vae": ("unet", *texts)}[part])
        gc.collect()
        return their_pipeline(configs).from_pretrained(folder, torch_dtype=dtype, **others)

    x, pixels, latents = inputs(configs, dtype)
    pipeline, names = only("text"), ("tokens", "no tokens", "pooled", "no pooled")
    answers = dict.fromkeys(names) | dict(zip(names, pipeline.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True), strict=False))
    del pipeline
    pipeline, side = only("unet"), 8 * x.shape[-1]
    told = {"text_embeds": pooled, "time_ids": torch.tensor([[side, side, 0, 0, side, side]])}
    answers["unet"] = pipeline.unet(x, T, tokens, added_cond_kwargs=None if pooled is None else told).sample
    del pipeline
    vae = only("vae").vae
    answers["encoded"] = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    answers["decoded"] = vae.decode(latents / vae.config.scaling_factor).sample
    return answers


@pytest.mark.parametrize(("size", "dtype", "tolerance"), [*SMALL, FULL])
@torch.no_grad()
def test_a_folder_gives_the_same_as_in_diffusers(written, configs, dtype, tolerance):
    ours = our_answers(written, configs, dtype)
    pooled = None if ours["pooled"] is None else ours["pooled"][:1]
    theirs = their_answers(written, configs, getattr(torch, dtype), ours["tokens"][:1], pooled)
    assert ours.keys() == theirs.keys()
    for name, answer in ours.items():
        if "pooled" in name and "text_encoder_2" not in configs:
            assert answer is None and theirs[name] is None
        elif name.startswith("no ") and configs["index"].get("force_zeros_for_empty_prompt"):
            assert torch.equal(answer, theirs[name]) and not answer.any()
        else:
            assert_relatively_near(answer, theirs[name], tolerance)


# ---------------------------------------------------------------- single files


@pytest.mark.slow
@pytest.mark.parametrize(("file", "ema"), [("model.safetensors", True), ("model.ckpt", False)], ids=["ema", "plain"])
@torch.no_grad()
def test_a_single_file_gives_the_same_as_in_diffusers(family, file, ema, tmp_path):
    """All names and every bit of the weights, and the U-Net's output; the folder lends both the configs."""
    configs = checkpoints.small(family)
    checkpoints.write_configs(tmp_path, configs)
    path = checkpoints.write_single_file(tmp_path / file, configs, checkpoints.random_weights(configs), ema)
    theirs = their_pipeline(configs).from_single_file(
        str(path), config=str(tmp_path), local_files_only=True, torch_dtype=torch.float32)
    ours = dm.load(path, config=tmp_path, device="cpu")
    networks = {"unet": ours.unet, "vae": ours.vae, "text_encoder": ours.texts[0].encoder}
    if "text_encoder_2" in configs:
        networks["text_encoder_2"] = ours.texts[1].encoder
    for part, network in networks.items():
        weights, others = network.state_dict(), getattr(theirs, part).state_dict()
        assert weights.keys() == others.keys()
        for name, weight in weights.items():
            assert torch.equal(weight, others[name]) and weight.is_contiguous(), f"{part} {name}"
    x, _, _ = inputs(configs, torch.float32)
    context = ours.embed(PROMPTS[:1])
    summary = ours.summary(x, context, None)
    told = None if summary is None else {"text_embeds": summary.pooled, "time_ids": summary.sizes}
    out = theirs.unet(x, T, context.tokens, added_cond_kwargs=told).sample
    assert_relatively_near(ours.unet(x, T, context.tokens, summary=summary), out, 1e-4)
