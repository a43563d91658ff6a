"""Do the networks compute the same in another dtype, on another device, in another program? And do edits agree?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..loading import dtype_of
from ..methods import Edit
from ..networks.stable_diffusion import StableDiffusion
from ..networks.text import Context
from ..pictures.picture import psnr
from .findings import Line
from .measures import iou
from .programs import PAIR, inputs, vae_inputs

SIDE = 256                  # px: networks are compared at up to this size
MOST_ROUNDING = {"float32": 0.02, "float16": 0.05, "bfloat16": 0.2}      # of the networks: |difference| / |output|
LEAST_IOU = 0.8             # of the masks in two dtypes; the same dtype with other noises reaches 0.9
LEAST_PSNR = 20.0           # dB, of edits without a mask in two dtypes


def copy_in(model: StableDiffusion, device: str, dtype: str) -> StableDiffusion:
    """A copy of a model in another dtype, on another device."""
    unet, vae, *encoders = (deepcopy(network).to(device, dtype_of(network, getattr(torch, dtype)))
                            for network in model.networks)
    texts = tuple(replace(text, encoder=encoder) for text, encoder in zip(model.texts, encoders, strict=True))
    return replace(model, unet=unet, vae=vae, texts=texts)


def outputs(model: StableDiffusion) -> dict[str, Tensor]:
    """What each network makes of the same inputs, in float32 on the CPU."""
    (x, t, tokens, summary), vae = inputs_of(model)
    scaling, context = model.vae.config.scaling_factor, Context(tokens, summary and summary.pooled)
    raw = replace(model, prediction_type="epsilon")         # what the U-Net puts out, as it is
    found = {"text": tokens, "U-Net": raw.eps(x, int(t), context), "encode": model.encode(*vae["encode"]) / scaling,
             "decode": model.decode(vae["decode"][0] * scaling)}
    return {name: numbers.float().cpu() for name, numbers in found.items()}


def inputs_of(model: StableDiffusion) -> tuple[tuple[Any, ...], dict[str, tuple[Tensor]]]:
    """The inputs of the U-Net, and of the VAE."""
    multiple = model.multiple
    side = max(multiple, min(SIDE, math.isqrt(model.native_area)) // multiple * multiple)
    return inputs(model, side, PAIR), vae_inputs(model, side)


def compared(what: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], limit: float, to_do: str) -> Line:
    """The line about the networks' outputs against the same made in another way."""
    apart = {name: ((ours[name] - other).norm() / other.norm()).item() for name, other in theirs.items()}
    found = ", ".join(f"{name} {number:.1g}" for name, number in apart.items())
    return Line(what, found, f"differences below {limit:g} of the output", "" if max(apart.values()) < limit else to_do)


def against_plain(what: str, edit: Edit, plain: Edit, base: str) -> Line:
    """The line about an edit against `plain`, the same in the dtype `base`."""
    apart = psnr(edit.image, plain.image)
    if edit.mask is None:
        return Line(what, f"{apart:.1f} dB to that in {base}", f"above {LEAST_PSNR:.0f} dB",
                    "" if apart > LEAST_PSNR else f"it makes another picture in this dtype: use {base}")
    overlap = iou(edit.mask.cpu().numpy(), plain.mask.cpu().numpy())
    return Line(what, f"mask IoU {overlap:.2f} with {base}'s, {apart:.1f} dB", f"IoU above {LEAST_IOU}",
                "" if overlap > LEAST_IOU else f"it finds another mask in this dtype: use {base}")
