"""Train the embedded model; no other data is needed: `python -m diffedit_min.tiny.train --out runs/tiny`.

There are four stages. Each is a function, and continues where a killed run stopped:

    1  render     draw all training scenes
    2  vae        train the VAE: pictures -> latents -> pictures
    3  latents    encode all scenes with the finished VAE, and measure its scaling factor
    4  unet       train the U-Net and the text encoder together on these latents: Eq. (1) of the paper

Then the model is exported as a folder in Stable Diffusion's usual layout. Every random number of a step comes from
(seed, stage, step), so a resumed run takes the same steps as one that was not interrupted.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.schedule import Schedule, generator
from ..networks.text import encode_text, make_text_encoder, tokenize
from ..networks.tokenizer import make_tokenizer
from ..networks.unet import UNet, UNetConfig
from ..networks.vae import VAE, VAEConfig
from . import scenes, vocabulary
from .stages import (
    SIZE,
    draw_all,
    draw_scene,
    encode_all,
    export_unet,
    fit,
    noise_loss,
    out_folder,
    save_half,
    to_tensor,
    write_json,
)


@dataclass(frozen=True)
class Recipe:
    """All settings that the result depends on."""

    seed: int = 0
    scenes: int = 50_000            # training pictures, with the seeds 0, 1, 2, ...

    vae: VAEConfig = VAEConfig(block_out_channels=(24, 48, 96), layers_per_block=1, norm_num_groups=8)
    vae_steps: int = 5_000
    vae_batch: int = 16
    vae_rate: float = 2e-3
    gradient_weight: float = 1.0    # of the L1 loss on differences between neighbouring pixels, for sharp edges
    kl_weight: float = 3e-4         # of the KL divergence per latent value; small, it only keeps the latents bounded

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
    latent_noise: float = 0.15      # standard deviation of noise that is added to the latents (see `train_unet`)
    empty_captions: float = 0.20    # share of empty captions: they teach the unconditional prediction
    partial_captions: float = 0.15  # share of captions that name one or two attributes only, for short queries


# ---------------------------------------------------------------- the VAE


def train_vae(recipe: Recipe, out: Path, pixels: np.ndarray) -> VAE:
    """Train the VAE to reconstruct pictures from sampled latents.

    The loss is L1 + L2 + L1 of the differences between neighbouring pixels + a small KL divergence.
    """
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


# ---------------------------------------------------------------- the U-Net and the text encoder


def train_unet(recipe: Recipe, out: Path, latents: Tensor) -> nn.ModuleDict:
    """Train U-Net and text encoder on Eq. (1): E |eps - eps_theta(x_t, t, caption)|^2 over scenes, times and noises.

    The result has the averaged weights. Why `latent_noise` is added to x_0: the latents (posterior means) fill only a
    thin sheet of the latent space. Near the sheet, the exact score changes so fast that a sampler of 50 steps can't
    follow it, and encoding and decoding again is 1.5 % wrong. The noise makes the sheet thick enough for 50 steps. The
    decoder hardly sees this noise, and edits start from latents without it.
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
        with torch.autocast("cpu", torch.bfloat16):
            context = encode_text(net["text_encoder"], tokenize(tokenizer, captions))   # (B, L, D)
        return noise_loss(net["unet"], x0, context, abar, random), {}

    fit(out, "unet", net, loss_of, recipe.unet_steps, recipe.unet_rate, recipe.ema_decay)
    return net.eval().requires_grad_(False)


def caption_of(scene: scenes.Scene, recipe: Recipe, random: torch.Generator) -> str:
    """A random caption: usually the full one, sometimes "", sometimes one with only some of the attributes."""
    kind, subset = torch.rand(2, generator=random).tolist()
    if kind < recipe.empty_captions:
        return ""
    if kind < recipe.empty_captions + recipe.partial_captions:
        return scene.partial_caption(PARTS[int(subset * len(PARTS))])
    return scene.caption


def captions() -> set[str]:
    """All texts that `caption_of` makes of training scenes."""
    return {one.partial_caption(part) for one in trained_scenes() for part in (*PARTS, scenes.VALUES)}


def trained_scenes() -> list[scenes.Scene]:
    """One scene for each combination of values that the training has."""
    scene = scenes.sample(0)
    return [scene.replace(**dict(zip(scenes.VALUES, values, strict=True))) for values in scenes.TRAINED]


def text_config_of(recipe: Recipe, vocabulary_size: int) -> dict[str, Any]:
    """The contents of text_encoder/config.json."""
    start, end = vocabulary_size - 2, vocabulary_size - 1
    return {
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", **recipe.text,
        "vocab_size": vocabulary_size, "bos_token_id": start, "eos_token_id": end, "pad_token_id": end,
    }


PARTS = [part for size in (1, 2) for part in itertools.combinations(scenes.VALUES, size)]


# ---------------------------------------------------------------- the export


def export(recipe: Recipe, out: Path, vae: VAE, scaling_factor: float, net: nn.ModuleDict) -> Path:
    """Write out/checkpoint, a folder in the usual layout with weights in float16."""
    folder = out / "checkpoint"
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
        "model_index.json": index, "vae/config.json": vae_config, "text_encoder/config.json": text_config,
        "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler", **recipe.schedule},
    }.items():
        write_json(config, folder / name)
    export_unet(net["unet"], folder)
    save_half(vae, folder / "vae/diffusion_pytorch_model.safetensors")
    save_half(net["text_encoder"], folder / "text_encoder/model.safetensors")
    vocabulary.write_card(folder, captions())
    return folder


def main() -> None:
    """The command: all four stages, then the export."""
    out, recipe = out_folder(__doc__.splitlines()[0], "runs/tiny"), Recipe()
    pixels = draw_all(draw_scene, recipe.scenes, out / "scenes.npy")
    vae = train_vae(recipe, out, pixels)
    latents = encode_all(vae, pixels, out / "latents.pt")
    scaling_factor = 1 / latents.std().item()       # so that scaled latents have variance 1
    net = train_unet(recipe, out, latents * scaling_factor)
    print(f"written: {export(recipe, out, vae, scaling_factor, net)}")


if __name__ == "__main__":
    main()
