"""The bundle: text encoders, VAE, U-Net and schedule of one checkpoint, as the four functions that methods use.

    embed    prompts -> Context             encode   pixels (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)
    decode   latents -> pixels              eps      (x, t, context) -> the noise in x

This is where dtypes meet: each network runs in its own, whatever comes out is in the caller's.
"""

import hashlib
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.schedule import Schedule, eps_from_v
from .attention import Attend, as_many
from .blocks import Features
from .text import Context, TextModel, dropped_text, encode_text, encode_text_twice, tokenize
from .unet import Summary, UNet
from .vae import VAE

# U-Net rows that run at once, counted in latent cells: 128 rows of 16 x 16, 8 of 64 x 64. More would need memory in
# gigabytes and be no faster.
CELLS_AT_ONCE = 2**15


@dataclass(eq=False)
class StableDiffusion:
    """One checkpoint, loaded."""

    unet: UNet
    vae: VAE
    texts: tuple[TextModel, ...]                                # one; in SD XL two
    schedule: Schedule
    prediction_type: str = "epsilon"                            # what the U-Net predicts: "epsilon" or "v_prediction"
    zero_empty_prompt: bool = False                             # SD XL: the empty text is told as zeros
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)   # its card's settings, by method
    name: str = ""                                              # for records and messages
    rows_per_batch: int | None = None                           # U-Net rows that run at once; None: see rows_at_once

    def __post_init__(self) -> None:
        kind = self.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {kind!r} is not known; known are epsilon and v_prediction")

    def __repr__(self) -> str:
        """What fits on a screen; the networks themselves are `unet`, `vae` and `texts`."""
        parts = {"U-Net": [self.unet], "VAE": [self.vae], "text": [text.encoder for text in self.texts]}
        counts = (f"{name} {sum(p.numel() for part in own for p in part.parameters()) / 1e6:.1f} M"
                  for name, own in parts.items())
        side = self.unet.config.sample_size
        told = "".join(f"\n  recommends for {method}: {', '.join(f'{n}={v!r}' for n, v in options.items())}"
                       for method, options in self.defaults.items())
        return (f"StableDiffusion {self.name!r}: {', '.join(counts)}; {str(self.dtype).removeprefix('torch.')} on "
                f"{self.device}\n  predicts {self.prediction_type}; pictures of {side * self.factor} x "
                f"{side * self.factor} px, latents {self.vae.config.latent_channels} x {side} x {side}{told}")

    @property
    def identity(self) -> str:
        """What tells it from other checkpoints: name, dtype, and a hash of some numbers of every tensor."""
        found = hashlib.sha256()
        for network in (self.unet, self.vae, *(text.encoder for text in self.texts)):
            for tensor in network.parameters():
                found.update(tensor.detach().flatten()[:16].double().cpu().numpy().tobytes())
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}, {found.hexdigest()[:8]}"

    @property
    def text_encoder(self) -> nn.Module:
        """The first, in most models the only one."""
        return self.texts[0].encoder

    @property
    def tokenizer(self) -> Any:
        """The first; all of a model's tokenizers cut text into the same tokens."""
        return self.texts[0].tokenizer

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
        for prompt in prompts:
            if dropped := dropped_text(self.tokenizer, prompt):
                warnings.warn(f"the prompt is too long; dropped: {dropped!r}", stacklevel=2)
        ids = [tokenize(text.tokenizer, prompts).to(self.device) for text in self.texts]    # (B, L) each
        if len(self.texts) == 1:
            return Context(encode_text(self.text_encoder, ids[0]), ids=ids[0])              # tokens (B, L, D)
        tokens, pooled = encode_text_twice([text.encoder for text in self.texts], ids)      # (B, L, D), (B, D')
        if self.zero_empty_prompt:
            told = torch.tensor([prompt != "" for prompt in prompts], device=self.device)
            tokens, pooled = tokens * told[:, None, None], pooled * told[:, None]
        return Context(tokens, pooled, ids[0])

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H/f, W/f): the posterior's mode, so that runs repeat, scaled."""
        mean, _ = self.vae.encode(pixels.to(self.device, next(self.vae.parameters()).dtype))
        return at_least_float32(mean) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, f h, f w), about [-1, 1]."""
        latents = latents / self.vae.config.scaling_factor
        return at_least_float32(self.vae.decode(latents.to(next(self.vae.parameters()).dtype)))

    def eps(
        self,
        x: Tensor,
        t: int,
        context: Context | Tensor,
        attend: Attend | None = None,
        sizes: tuple[int, int, int, int, int, int] | None = None,
        checkpointing: bool = False,
        features: Features | None = None,
    ) -> Tensor:
        """The noise in x (B, C, h, w) at time t, in x's dtype, whatever the checkpoint predicts -> (m B, C, h, w).

        context: B prompts, or m times as many, which see the same x: all rows, then all again; a plain (m B, L, D)
        tensor serves too.
        attend, features: what watches or changes the U-Net's attention (model/attention.py) and its residual blocks
        (model/blocks.py). Large batches run in parts, unless one of them is given: they must see all rows of the call.
        sizes: what SD XL is told of the picture, in pixels: height and width before it was cropped, top and left of
        the crop, height and width wanted; by default an uncropped one of x's size.
        checkpointing: less memory for gradients, more time (model/unet.py).
        """
        if isinstance(context, Tensor):
            context = Context(context)
        if not len(x) or len(context) % len(x):
            raise ValueError(f"{len(x)} latents but {len(context)} prompts: give as many, or a multiple")
        prompts = torch.arange(len(context)).unflatten(0, (-1, len(x)))         # (m, B): which ones see each x
        summary = self.summary(x, context, sizes)
        own, tokens = x.to(self.dtype), context.tokens.to(self.dtype)
        time = torch.tensor(t, device=x.device)         # for a compiled U-Net every number would be a graph of its own
        whole = attend is not None or features is not None
        at_once = len(x) if whole else max(1, self.rows_at_once(x) // len(prompts))
        parts = []
        for rows, seen_by in zip(own.split(at_once), prompts.split(at_once, dim=1), strict=True):
            told = seen_by.flatten()
            summary_of = None if summary is None else summary[told]
            out = self.unet(rows, time, tokens[told], attend, summary_of, checkpointing, features)
            parts.append(out.unflatten(0, seen_by.shape))                       # (m, rows, C, h, w)
        out = torch.cat(parts, dim=1).flatten(0, 1).to(x.dtype)
        if self.prediction_type == "epsilon":
            return out
        noisy = as_many(x[:, : out.shape[1]], len(out))                         # what comes after x_t isn't
        return eps_from_v(noisy, out, self.schedule.abar[t])

    def rows_at_once(self, x: Tensor) -> int:
        """How many U-Net rows run in one call, for latents (B, C, h, w)."""
        return self.rows_per_batch or max(1, CELLS_AT_ONCE // (x.shape[-2] * x.shape[-1]))

    def summary(self, x: Tensor, context: Context, sizes: tuple[int, ...] | None) -> Summary | None:
        """What SD XL's U-Net is told beside the tokens; None for the others."""
        if not self.unet.config.told_sizes:
            return None
        if context.pooled is None:
            raise ValueError(f"{self.name!r} needs the prompts' pooled vectors too: pass what embed() returns")
        H, W = (self.factor * side for side in x.shape[-2:])
        numbers = torch.tensor(sizes or (H, W, 0, 0, H, W), device=x.device).expand(len(context), 6)
        return Summary(context.pooled.to(self.dtype), numbers)


def at_least_float32(x: Tensor) -> Tensor:
    """Latents and pixels stay in float32 between steps even when the networks run in half; float64 stays."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
