"""The bundle: text encoder, VAE, U-Net and schedule of one checkpoint, as the four functions that methods use.

    embed    prompts -> Context             encode   pixels (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)
    decode   latents -> pixels              eps      (x, t, context) -> the noise in x

This is where dtypes meet: each network runs in its own, whatever comes out is in the caller's.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..schedule import Schedule, eps_from_v
from .text import Context, encode_text, tokenize
from .unet import Attend, UNet
from .vae import VAE

# U-Net rows that run at once, counted in latent cells: 128 rows of 16 x 16, 8 of 64 x 64. More would need memory in
# gigabytes and be no faster.
CELLS_AT_ONCE = 2**15


@dataclass(eq=False)
class StableDiffusion:
    """One checkpoint, loaded."""

    unet: UNet
    vae: VAE
    text_encoder: nn.Module
    tokenizer: Any
    schedule: Schedule
    prediction_type: str = "epsilon"                            # what the U-Net predicts: "epsilon" or "v_prediction"
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)   # its card's settings, by method
    name: str = ""                                              # for records and messages

    def __post_init__(self) -> None:
        kind = self.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {kind!r} is not known; known are epsilon and v_prediction")

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The U-Net's."""
        return self.unet.conv_in.weight.dtype

    @property
    def factor(self) -> int:
        """f: pixels per latent cell, along each side."""
        return self.vae.config.factor

    @property
    def multiple(self) -> int:
        """Pictures' sides must be multiples of this many pixels."""
        return self.factor * self.unet.config.multiple

    @property
    def native_area(self) -> int:
        """Pixels of the pictures that the U-Net was trained on."""
        return (self.unet.config.sample_size * self.factor) ** 2

    def embed(self, prompts: list[str]) -> Context:
        """What the U-Net is told of each prompt. Warns of a prompt that is longer than the text model's places."""
        ids = tokenize(self.tokenizer, prompts)                                     # (B, L)
        for prompt in prompts:
            if len(self.tokenizer(prompt).input_ids) > ids.shape[1]:
                warnings.warn(f"cut off after {ids.shape[1] - 2} tokens: {prompt!r}", stacklevel=2)
        ids = ids.to(self.device)
        return Context(encode_text(self.text_encoder, ids), ids=ids)                # tokens (B, L, D)

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H/f, W/f): the posterior's mode, so that runs repeat, scaled."""
        mean, _ = self.vae.encode(pixels.to(self.device, next(self.vae.parameters()).dtype))
        return at_least_float32(mean) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, f h, f w), about [-1, 1]."""
        latents = latents / self.vae.config.scaling_factor
        return at_least_float32(self.vae.decode(latents.to(next(self.vae.parameters()).dtype)))

    def eps(self, x: Tensor, t: int, context: Context | Tensor, attend: Attend | None = None) -> Tensor:
        """The noise in x (B, C, h, w) at time t, in x's dtype, whatever the checkpoint predicts.

        context: B prompts, or a plain (B, L, D) tensor. Large batches run in parts, unless `attend` is given, which
        must see all rows of the call.
        """
        tokens = context if isinstance(context, Tensor) else context.tokens
        if len(tokens) != len(x):
            raise ValueError(f"{len(x)} latents but {len(tokens)} prompts")
        rows = len(x) if attend is not None else max(1, CELLS_AT_ONCE // (x.shape[-2] * x.shape[-1]))
        parts = zip(x.to(self.dtype).split(rows), tokens.to(self.dtype).split(rows), strict=True)
        out = torch.cat([self.unet(part, t, text, attend) for part, text in parts]).to(x.dtype)
        return out if self.prediction_type == "epsilon" else eps_from_v(x, out, self.schedule.abar[t])


def at_least_float32(x: Tensor) -> Tensor:
    """Latents and pixels stay in float32 between steps even when the networks run in half; float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
