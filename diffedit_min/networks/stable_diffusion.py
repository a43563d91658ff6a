"""`StableDiffusion`: text encoders, VAE, U-Net and schedule of one checkpoint, with the four functions methods use.

    embed    prompts -> Context             encode   pixels (B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)
    decode   latents -> pixels              eps      (x, t, context) -> the noise in x

Dtypes are converted only here: each network runs in its own dtype. `eps` returns the dtype of x; `encode` and `decode`
return at least float32. All four raise `NotFinite`, a ValueError, for results that are NaN or infinite (finite.py).
"""

import hashlib
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.schedule import READINGS, Schedule
from .attention import Attend, repeat_rows
from .blocks import Features
from .finite import check_output
from .text import Context, TextModel, dropped_text, encode_text, encode_text_twice, tokenize
from .unet import Summary, UNet
from .vae import VAE

# How many rows the U-Net runs at once, counted in latent cells: 128 rows of 16 x 16 cells, 8 rows of 64 x 64 cells.
# More rows would need gigabytes of memory and not be faster.
CELLS_AT_ONCE = 2**15


@dataclass(eq=False)
class StableDiffusion:
    """A loaded checkpoint."""

    unet: UNet
    vae: VAE
    texts: tuple[TextModel, ...]                                # one; SD XL has two
    schedule: Schedule
    prediction_type: str = "epsilon"                            # what the U-Net predicts, one of `READINGS`
    zero_empty_prompt: bool = False                             # SD XL: the empty text is embedded as zeros
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)   # the card's options, by method
    name: str = ""                                              # shown in records and messages
    rows_per_batch: int | None = None                           # how many rows the U-Net runs at once; None: by size
    words: dict[str, list[str]] = field(default_factory=dict)   # by kind, those that it knows; {}: too many to list

    def __post_init__(self) -> None:
        if self.prediction_type not in READINGS:
            raise ValueError(f"prediction_type {self.prediction_type!r} is not known; known are {', '.join(READINGS)}")

    def __repr__(self) -> str:
        """A summary that fits on a screen."""
        side = self.unet.config.sample_size
        recommended = "".join(f"\n  recommends for {method}: {', '.join(f'{n}={v!r}' for n, v in options.items())}"
                              for method, options in self.defaults.items())
        return (f"StableDiffusion {self.name!r}: {self.sizes}; {str(self.dtype).removeprefix('torch.')} on "
                f"{self.device}\n  predicts {self.prediction_type}; pictures of {side * self.factor} x "
                f"{side * self.factor} px, latents {self.vae.config.latent_channels} x {side} x {side}{recommended}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The single words that it was trained on, in the order of the alphabet, if its card says them; else ()."""
        return tuple(sorted({word for phrases in self.words.values() for phrase in phrases for word in phrase.split()}))

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The U-Net, the VAE and the text encoders."""
        return self.unet, self.vae, *(text.encoder for text in self.texts)

    @property
    def sizes(self) -> str:
        """How many parameters its networks have, in millions."""
        unet, vae, *texts = (sum(p.numel() for p in network.parameters()) / 1e6 for network in self.networks)
        return f"U-Net {unet:.1f} M, VAE {vae:.1f} M, text {sum(texts):.1f} M"

    @property
    def identity(self) -> str:
        """A text that differs between checkpoints: name, dtype, and a hash of the first 16 numbers of every tensor."""
        digest = hashlib.sha256()
        for network in self.networks:
            for tensor in network.parameters():
                digest.update(tensor.detach().flatten()[:16].cpu().double().numpy().tobytes())     # MPS has no float64
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}, {digest.hexdigest()[:8]}"

    @property
    def text_encoder(self) -> nn.Module:
        """The first text encoder; most models have only this one."""
        return self.texts[0].encoder

    @property
    def tokenizer(self) -> Any:
        """The first tokenizer; all tokenizers of a model cut text into the same tokens."""
        return self.texts[0].tokenizer

    @property
    def device(self) -> torch.device:
        """The device of the U-Net."""
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the U-Net."""
        return self.unet.conv_in.weight.dtype

    @property
    def factor(self) -> int:
        """f: pixels per latent cell, along each side."""
        return self.vae.config.factor

    @property
    def multiple(self) -> int:
        """The sides of a picture, in pixels, must be multiples of this."""
        return self.factor * self.unet.config.multiple

    @property
    def native_area(self) -> int:
        """The number of pixels of the pictures that the U-Net was trained on."""
        return (self.unet.config.sample_size * self.factor) ** 2

    def embed(self, prompts: list[str]) -> Context:
        """The U-Net's conditioning on each prompt. Warns if a prompt has more tokens than the text model takes."""
        for prompt in prompts:
            if dropped := dropped_text(self.tokenizer, prompt):
                warnings.warn(f"the prompt is too long; dropped: {dropped!r}", stacklevel=2)
        ids = [tokenize(text.tokenizer, prompts).to(self.device) for text in self.texts]    # (B, L) each
        if len(self.texts) == 1:
            tokens = encode_text(self.text_encoder, ids[0])                                 # (B, L, D)
            check_output(tokens, self.text_encoder, "the text encoder", {})
            return Context(tokens, ids=ids[0])
        tokens, pooled = encode_text_twice(self.networks[2:], ids,
                                           self.texts[-1].tokenizer.eos_token_id)           # (B, L, D), (B, D')
        both = nn.ModuleList(self.networks[2:])
        check_output(torch.cat([tokens.flatten(1), pooled], dim=1), both, "the text encoders", {})
        if self.zero_empty_prompt:
            filled = torch.tensor([prompt != "" for prompt in prompts], device=self.device)
            tokens, pooled = tokens * filled[:, None, None], pooled * filled[:, None]
        return Context(tokens, pooled, ids[0])

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] -> latents (B, C, H/f, W/f), scaled by the VAE's `scaling_factor`.

        It takes the posterior's mode instead of a sample, so the same picture always gives the same latents.
        """
        mean, _ = self.vae.encode(pixels.to(self.device, next(self.vae.parameters()).dtype))
        check_output(mean, self.vae, "the VAE's encoder", {"the pixels": pixels})
        return at_least_float32(mean) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pixels (B, 3, f h, f w), about [-1, 1] (not clamped)."""
        latents = latents / self.vae.config.scaling_factor
        pixels = self.vae.decode(latents.to(next(self.vae.parameters()).dtype))
        check_output(pixels, self.vae, "the VAE's decoder", {"the latents": latents})
        return at_least_float32(pixels)

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
        """The noise prediction for x (B, C, h, w) at time t -> (m B, C, h, w), in x's dtype.

        It is a noise prediction also for checkpoints that predict v or the clean latent.
        context: B prompts; or m B prompts, where prompts i, B + i, 2B + i, ... all see x[i]. A plain tensor of tokens
        (m B, L, D) serves too.
        attend, features: read or change the U-Net's attention (networks/attention.py) and its residual blocks
        (networks/blocks.py). Large batches run in parts, but not if one of these is given: it must see all rows.
        sizes: SD XL's conditioning on the picture's size, in pixels: height and width before cropping, top and left of
        the crop, height and width of the result; by default an uncropped picture of x's size.
        checkpointing: needs less memory for gradients, and more time (networks/unet.py).
        Raises ValueError if the number of prompts is not a multiple of the number of latents.
        """
        if isinstance(context, Tensor):
            context = Context(context)
        if not len(x) or len(context) % len(x):
            raise ValueError(f"{len(x)} latents but {len(context)} prompts: give as many, or a multiple")
        prompts = torch.arange(len(context)).unflatten(0, (-1, len(x)))         # (m, B): the prompts that see each x
        summary = self.summary(x, context, sizes)
        latents, tokens = x.to(self.dtype), context.tokens.to(self.dtype)
        time = torch.tensor(t, device=x.device)     # a tensor, since torch.compile would compile anew for each number
        rows_per_batch = self.rows_per_batch or max(1, CELLS_AT_ONCE // (x.shape[-2] * x.shape[-1]))
        undivided = attend is not None or features is not None
        at_once = len(x) if undivided else max(1, rows_per_batch // len(prompts))
        parts = []
        for rows, seen_by in zip(latents.split(at_once), prompts.split(at_once, dim=1), strict=True):
            chosen = seen_by.flatten()
            its_summary = None if summary is None else summary[chosen]
            out = self.unet(rows, time, tokens[chosen], attend, its_summary, checkpointing, features)
            parts.append(out.unflatten(0, seen_by.shape))                       # (m, rows, C, h, w)
        out = torch.cat(parts, dim=1).flatten(0, 1)
        inputs = {"the latents": x, "the prompts' embeddings": context.tokens}
        check_output(out, self.unet, f"the U-Net at t={t}", inputs, hooks=undivided)
        noisy = x[:, : out.shape[1]]                # drop InstructPix2Pix's image channels: they carry no noise
        return READINGS[self.prediction_type](repeat_rows(noisy, len(out)), out.to(x.dtype), self.schedule.abar[t])

    def summary(self, x: Tensor, context: Context, sizes: tuple[int, ...] | None) -> Summary | None:
        """The conditioning that SD XL's U-Net needs besides the tokens; None for other models."""
        if not self.unet.config.has_summary:
            return None
        if context.pooled is None:
            raise ValueError(f"{self.name!r} needs the prompts' pooled vectors too: pass what embed() returns")
        H, W = (self.factor * side for side in x.shape[-2:])
        numbers = torch.tensor(sizes or (H, W, 0, 0, H, W), device=x.device).expand(len(context), 6)
        return Summary(context.pooled.to(self.dtype), numbers)


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision: latents and pixels between steps keep at least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
