"""Train the embedded model from nothing but this repository: `python -m diffedit_min.tiny.train --out runs/tiny`.

Four stages, each a function, each picking up where a killed run stopped:

    1  render     draw the training scenes once
    2  vae        pictures -> latents -> pictures
    3  latents    encode all scenes once with the finished VAE, measure its scaling factor
    4  unet       the noise predictor, and the text encoder along with it, on those latents: Eq. (1) of the paper

and the export as a folder in Stable Diffusion's usual layout. Every random number of a step comes from
(seed, stage, step), so a resumed run takes the very steps that an uninterrupted one would.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..core.schedule import Schedule, add_noise, generator
from ..networks.text import encode_text, make_text_encoder, make_tokenizer, tokenize
from ..networks.unet import UNet, UNetConfig
from ..networks.vae import VAE, VAEConfig
from . import scenes, vocabulary

SIZE = 64       # pixels


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on."""

    seed: int = 0
    scenes: int = 50_000            # training pictures, of the seeds 0, 1, 2, ...

    vae: VAEConfig = VAEConfig(block_out_channels=(24, 48, 96), layers_per_block=1, norm_num_groups=8)
    vae_steps: int = 5_000
    vae_batch: int = 16
    vae_rate: float = 2e-3
    gradient_weight: float = 1.0    # of the L1 loss on differences between neighbouring pixels: sharp edges
    kl_weight: float = 3e-4         # per latent value; small: it only keeps the latents tidy

    schedule: dict[str, Any] = field(default_factory=lambda: {     # Stable Diffusion's
        "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "prediction_type": "epsilon", "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False,
    })
    unet: UNetConfig = UNetConfig(
        block_out_channels=(80, 144, 176), down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
        layers_per_block=1, attention_head_dim=4, cross_attention_dim=64, norm_num_groups=16, sample_size=16,
    )
    text: dict[str, Any] = field(default_factory=lambda: {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": vocabulary.LENGTH, "hidden_act": "quick_gelu", "projection_dim": 64,
    })
    unet_steps: int = 5_000
    unet_batch: int = 32
    unet_rate: float = 1e-3
    ema_decay: float = 0.999
    latent_noise: float = 0.15      # smooths the latents' distribution to what the first steps of 50 can follow
    empty_captions: float = 0.20    # of the training captions: this teaches the unconditional prediction
    partial_captions: float = 0.15  # name one or two attributes only, so that short queries work too


# ---------------------------------------------------------------- 1: render


def draw_all(draw: Callable[[int], np.ndarray], count: int, path: Path) -> np.ndarray:
    """Pictures 0, 1, ..., uint8 (count, 64, 64, 3), drawn on all cores and kept at `path`."""
    if not path.exists():
        pixels = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.uint8, (count, SIZE, SIZE, 3))
        with ProcessPoolExecutor() as pool:
            drawn = pool.map(draw, range(count), chunksize=250)
            for i, picture in enumerate(tqdm(drawn, path.stem, count)):
                pixels[i] = picture
        pixels.flush()
        os.replace(path.with_suffix(".part"), path)
    return np.load(path, mmap_mode="c")      # torch warns of arrays that can't be written to


def draw_scene(seed: int) -> np.ndarray:
    """A training picture, uint8 (64, 64, 3)."""
    return np.asarray(scenes.sample(seed).render(SIZE))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---------------------------------------------------------------- 2: the autoencoder


def train_vae(recipe: Recipe, out: Path, pixels: np.ndarray) -> VAE:
    """Reconstruct pictures through sampled latents: L1 + L2 + L1 of the neighbour differences + a little KL."""
    torch.manual_seed(recipe.seed)
    vae = VAE(recipe.vae).to(memory_format=torch.channels_last)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        random = generator(recipe.seed, "vae", step)
        chosen = torch.randint(len(pixels), (recipe.vae_batch,), generator=random).numpy()
        x = to_tensor(pixels[chosen]).contiguous(memory_format=torch.channels_last)     # (B, 3, H, W)
        with torch.autocast("cpu", torch.bfloat16):
            mean, log_variance = vae.encode(x)                                          # (B, C, h, w) each
            noise = torch.randn(mean.shape, generator=random)
            y = vae.decode(mean + (0.5 * log_variance).exp() * noise)                   # (B, 3, H, W)
        mean, log_variance, y = mean.float(), log_variance.float(), y.float()
        l1, l2 = F.l1_loss(y, x), F.mse_loss(y, x)
        edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        loss = l1 + l2 + recipe.gradient_weight * edges + recipe.kl_weight * kl
        return loss, {"psnr": 10 * math.log10(4 / l2.item()), "kl": kl.item()}

    fit(out, "vae", vae, loss_of, recipe.vae_steps, recipe.vae_rate)
    return vae.eval().requires_grad_(False)


# ---------------------------------------------------------------- 3: latents


@torch.inference_mode()
def encode_all(vae: VAE, pixels: np.ndarray, path: Path) -> Tensor:
    """All pictures' latents (N, C, h, w), as the VAE makes them, unscaled; kept at `path`."""
    if not path.exists():
        parts = []
        for i in tqdm(range(0, len(pixels), 100), path.stem):
            x = to_tensor(pixels[i : i + 100]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(vae.encode(x)[0].float())
        torch.save(torch.cat(parts), path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    return torch.load(path, weights_only=True)


# ---------------------------------------------------------------- 4: the noise predictor and the text encoder


def train_unet(recipe: Recipe, out: Path, latents: Tensor) -> nn.ModuleDict:
    """Eq. (1): E |eps - eps_theta(x_t, t, caption)|^2 over scenes, times and noises. Returns the averaged weights.

    The posterior's mean fills a thin sheet of latent space. Across it the exact score turns within one step of the
    50-step grid, which then comes back 1.5 % wrong; with `latent_noise` added to x_0 the sheet has a thickness that
    the grid resolves. The decoder hardly sees that noise, and editing starts from latents without it.
    """
    torch.manual_seed(recipe.seed + 1)
    text_config = text_config_of(recipe, vocabulary.write_tokenizer(out / "tokenizer"))
    net = nn.ModuleDict({"unet": UNet(recipe.unet), "text_encoder": make_text_encoder(text_config)})
    net.to(memory_format=torch.channels_last).train()
    tokenizer = make_tokenizer(out / "tokenizer")
    drawn = [scenes.sample(seed) for seed in range(len(latents))]
    abar = torch.tensor(Schedule.from_config(recipe.schedule).abar)       # (T,)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        random = generator(recipe.seed, "unet", step)
        chosen = torch.randint(len(latents), (recipe.unet_batch,), generator=random)
        captions = [caption_of(drawn[i], recipe, random) for i in chosen.tolist()]
        x0 = latents[chosen]                                                            # (B, C, h, w)
        x0 = x0 + recipe.latent_noise * torch.randn(x0.shape, generator=random)
        t = torch.randint(len(abar), (recipe.unet_batch,), generator=random)
        eps = torch.randn(x0.shape, generator=random)
        x_t = add_noise(x0, eps, abar[t][:, None, None, None]).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            context = encode_text(net["text_encoder"], tokenize(tokenizer, captions))   # (B, L, D)
            predicted = net["unet"](x_t, t, context)
        return F.mse_loss(predicted.float(), eps), {}

    fit(out, "unet", net, loss_of, recipe.unet_steps, recipe.unet_rate, recipe.ema_decay)
    return net.eval().requires_grad_(False)


def caption_of(scene: scenes.Scene, recipe: Recipe, random: torch.Generator) -> str:
    """The full caption, or now and then none, or one that names a part of the scene."""
    kind, subset = torch.rand(2, generator=random).tolist()
    if kind < recipe.empty_captions:
        return ""
    if kind < recipe.empty_captions + recipe.partial_captions:
        return scene.partial_caption(PARTS[int(subset * len(PARTS))])
    return scene.caption


def text_config_of(recipe: Recipe, vocabulary_size: int) -> dict[str, Any]:
    """text_encoder/config.json."""
    start, end = vocabulary_size - 2, vocabulary_size - 1
    return {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **recipe.text,
        "vocab_size": vocabulary_size, "bos_token_id": start, "eos_token_id": end, "pad_token_id": end,
    }


PARTS = [part for size in (1, 2) for part in itertools.combinations(scenes.VALUES, size)]


# ---------------------------------------------------------------- the export


def export(recipe: Recipe, out: Path, vae: VAE, scaling_factor: float, net: nn.ModuleDict) -> Path:
    """Write out/checkpoint: the usual folder layout, weights in float16."""
    folder = out / "checkpoint"
    unet_config = {
        "_class_name": "UNet2DConditionModel", **asdict(recipe.unet),
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(recipe.unet.down_block_types)],
    }
    levels = len(recipe.vae.block_out_channels)
    vae_config = {
        "_class_name": "AutoencoderKL", "sample_size": SIZE, **asdict(recipe.vae), "scaling_factor": scaling_factor,
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    text_config = text_config_of(recipe, vocabulary.write_tokenizer(folder / "tokenizer"))
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0", "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False,
    }
    for name, config in {
        "model_index.json": index, "unet/config.json": unet_config, "vae/config.json": vae_config,
        "text_encoder/config.json": text_config,
        "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler", **recipe.schedule},
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config, indent=2) + "\n")
    for name, module in {
        "unet/diffusion_pytorch_model": net["unet"], "vae/diffusion_pytorch_model": vae,
        "text_encoder/model": net["text_encoder"],
    }.items():
        save_half(module, folder / f"{name}.safetensors")
    return folder


def save_half(module: nn.Module, path: Path) -> None:
    """A network's weights in float16."""
    weights = {key: value.half().contiguous() for key, value in module.state_dict().items()}
    save_file(weights, path, {"format": "pt"})


# ---------------------------------------------------------------- the loop that both trainings share


def fit(
    out: Path,
    stage: str,
    module: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    steps: int,
    rate: float,
    ema_decay: float | None = None,
) -> None:
    """Minimise `loss_of(step)` over the module's parameters with AdamW; leaves the result in `module`.

    The rate rises over 200 steps and falls along a cosine to a hundredth. With `ema_decay` the result is the
    exponential moving average of the parameters. State goes to out/stage.pt every minute or so and is read back from
    there; losses go to out/log.jsonl.
    """
    optimizer = torch.optim.AdamW(module.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = {name: p.detach().clone() for name, p in module.named_parameters()} if ema_decay else None
    path, first = out / f"{stage}.pt", 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        first, ema = saved["step"], saved["ema"]
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])

    saved_at = time.monotonic()
    bar = tqdm(range(first, steps), stage, steps, initial=first, mininterval=1)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        loss, notes = loss_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if ema is not None:
            decay = min(ema_decay, (step + 1) / (step + 10))        # a short memory at first
            torch._foreach_lerp_(list(ema.values()), [p.detach() for p in module.parameters()], 1 - decay)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", **{k: f"{v:.2f}" for k, v in notes.items()})
            write_log(out, stage=stage, step=step, loss=loss.item(), **notes)
        if step + 1 == steps or time.monotonic() - saved_at > 60:
            state = {"step": step + 1, "ema": ema, "module": module.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)
            saved_at = time.monotonic()
    if ema is not None:
        module.load_state_dict(ema, strict=False)       # parameters only; buffers stay


def write_log(out: Path, **entry: object) -> None:
    with open(out / "log.jsonl", "a") as file:
        file.write(json.dumps({"time": round(time.time(), 1), **entry}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"), help="where everything is kept")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe()
    pixels = draw_all(draw_scene, recipe.scenes, out / "scenes.npy")
    vae = train_vae(recipe, out, pixels)
    latents = encode_all(vae, pixels, out / "latents.pt")
    scaling_factor = 1 / latents.std().item()       # vae/config.json: latents of unit variance
    net = train_unet(recipe, out, latents * scaling_factor)
    print(f"written: {export(recipe, out, vae, scaling_factor, net)}")


if __name__ == "__main__":
    main()
