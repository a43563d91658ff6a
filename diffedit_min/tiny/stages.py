"""What the trainings of both embedded models share: pictures, latents, the loss, the training loop, files."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..core.schedule import add_noise
from ..networks.unet import UNet
from ..networks.vae import VAE
from . import scenes

SIZE = 64       # pixels per side of a training picture


# ---------------------------------------------------------------- pictures and latents


def draw_all(draw: Callable[[int], np.ndarray], count: int, path: Path) -> np.ndarray:
    """The pictures draw(0), draw(1), ..., uint8 (count, 64, 64, 3), drawn on all cores and stored at `path`."""
    if not path.exists():
        pixels = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.uint8, (count, SIZE, SIZE, 3))
        with ProcessPoolExecutor() as pool:
            drawn = pool.map(draw, range(count), chunksize=250)
            for i, picture in enumerate(tqdm(drawn, path.stem, count)):
                pixels[i] = picture
        pixels.flush()
        os.replace(path.with_suffix(".part"), path)
    return np.load(path, mmap_mode="c")      # "c", since torch warns about read-only arrays


def draw_scene(seed: int) -> np.ndarray:
    """The training picture of a seed, uint8 (64, 64, 3)."""
    return np.asarray(scenes.sample(seed).render(SIZE))


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.inference_mode()
def encode_all(vae: VAE, pixels: np.ndarray, path: Path) -> Tensor:
    """The latents of all pictures (N, C, h, w), unscaled, stored at `path`."""
    if not path.exists():
        parts = []
        for i in tqdm(range(0, len(pixels), 100), path.stem):
            x = to_tensor(pixels[i : i + 100]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(vae.encode(x)[0].float())
        save_whole(torch.cat(parts), path)
    return torch.load(path, weights_only=True)


# ---------------------------------------------------------------- the loss and the loop


def noise_loss(
    unet: nn.Module, x0: Tensor, context: Tensor, abar: Tensor, random: torch.Generator, image: Tensor | None = None
) -> Tensor:
    """Eq. (1) for latents x0 (B, C, h, w), at random times and with random noise: mean of |eps - eps_theta|^2.

    context (B, L, D); abar (T,), that of every t; image (B, C, h, w): InstructPix2Pix's additional input channels.
    """
    t = torch.randint(len(abar), (len(x0),), generator=random)
    eps = torch.randn(x0.shape, generator=random)
    x = add_noise(x0, eps, abar[t][:, None, None, None])
    if image is not None:
        x = torch.cat([x, image], dim=1)                                                # (B, 2C, h, w)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = unet(x.contiguous(memory_format=torch.channels_last), t, context)
    return F.mse_loss(predicted.float(), eps)


def fit(
    out: Path,
    stage: str,
    module: nn.Module,
    loss_of: Callable[[int], tuple[Tensor, dict[str, float]]],
    steps: int,
    rate: float,
    ema_decay: float | None = None,
) -> None:
    """Minimise `loss_of(step)` over the parameters of `module` with AdamW; the result is in `module`.

    The learning rate rises for 200 steps, then falls along a cosine to 1 % of `rate`. With `ema_decay`, the result is
    the exponential moving average of the parameters. About every minute the state is written to out/stage.pt, from
    which a new run continues. The losses are written to out/log.jsonl.
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
            decay = min(ema_decay, (step + 1) / (step + 10))        # at first it forgets faster
            torch._foreach_lerp_(list(ema.values()), [p.detach() for p in module.parameters()], 1 - decay)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", **{k: f"{v:.2f}" for k, v in notes.items()})
            write_log(out, stage=stage, step=step, loss=loss.item(), **notes)
        if step + 1 == steps or time.monotonic() - saved_at > 60:
            state = {"step": step + 1, "ema": ema, "module": module.state_dict(), "optimizer": optimizer.state_dict()}
            save_whole(state, path)
            saved_at = time.monotonic()
    if ema is not None:
        module.load_state_dict(ema, strict=False)       # not strict: `ema` has no buffers


# ---------------------------------------------------------------- files


def save_whole(data: object, path: Path) -> None:
    """Write data with torch.save, completely or not at all."""
    torch.save(data, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def write_log(out: Path, **entry: object) -> None:
    """Add a line to out/log.jsonl."""
    with open(out / "log.jsonl", "a") as file:
        file.write(json.dumps({"time": round(time.time(), 1), **entry}) + "\n")


def export_unet(unet: UNet, folder: Path) -> None:
    """Write the folder's unet/: config.json, and the weights in float16."""
    write_json({
        "_class_name": "UNet2DConditionModel", **asdict(unet.config),
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(unet.config.down_block_types)],
    }, folder / "unet/config.json")
    save_half(unet, folder / "unet/diffusion_pytorch_model.safetensors")


def write_json(config: dict[str, Any], path: Path) -> None:
    """Write a config.json, and make its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2) + "\n")


def save_half(module: nn.Module, path: Path) -> None:
    """Write a network's weights in float16."""
    weights = {key: value.half().contiguous() for key, value in module.state_dict().items()}
    save_file(weights, path, {"format": "pt"})


def out_folder(description: str, default: str) -> Path:
    """The folder that the command line gives as --out; it is made if necessary."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(default), help="the folder for all files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    return out
