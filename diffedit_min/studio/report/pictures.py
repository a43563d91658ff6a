"""From an edit's latents to pictures that a page can hold.

Shapes: latents of states are (1, C, h, w), those of a trace (n, C, h, w), maps (h, w).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor

from ...core.schedule import tau, u_from_x
from ...core.state import State
from ...core.task import Step
from ...networks.finite import NotFinite
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.picture import Frame, to_image, unfit

CELLS_AT_ONCE = 2**12               # latent cells that the VAE decodes at once: 16 pictures of 64 px, 1 of 512


class Bar(NamedTuple):
    """What the colours of a map mean: the values of the first and the last of them."""

    colours: str        # "heat", from black to yellow, or "grey", from black to white
    low: str
    high: str


@dataclass
class Shot:
    """A picture, a few words below it, and what is in it for those who can't see it."""

    image: Image.Image | Tensor     # a latent (1, C, h, w) until `develop` has decoded it
    caption: str
    alt: str = ""
    bar: Bar | None = None


def develop(
    shots: Iterable[Shot], model: StableDiffusion, frame: Frame, on_step: Callable[[Step], None] | None = None,
    stage: str = "report",
) -> None:
    """Decode the shots that are still latents, in batches, to pictures of the frame; tell `on_step` of each batch."""
    latents = [shot for shot in shots if isinstance(shot.image, Tensor)]
    at_once = max(1, CELLS_AT_ONCE // math.prod(frame.grid(model.factor)))
    for start in range(0, len(latents), at_once):
        batch = latents[start : start + at_once]
        noisy = torch.cat([shot.image for shot in batch]).to(model.device)
        try:
            pixels = model.decode(noisy)
        except NotFinite as error:
            # The VAE was not trained on latents of half-done steps: float16 may overflow here where the result does
            # not. Such a latent is shown as grey.
            noisy[error.rows] = 0
            pixels = model.decode(noisy)
        for shot, row in zip(batch, pixels, strict=True):
            shot.image = unfit(row, frame)
        if on_step is not None:
            on_step(Step(stage, start + len(batch), len(latents)))


def x0_of_step(a: State, b: State) -> Tensor:
    """The predicted clean latent of a step between two neighbouring states, from these alone: (1, C, h, w).

    A deterministic step keeps x0 and eps and changes how much of each there is. In the variables of Eq. (3) it goes
    along a straight line, on which x0 lies where tau = 0:

        u = x / sqrt(abar) = x0 + tau eps         hence   x0 = (tau_b u_a - tau_a u_b) / (tau_b - tau_a)
    """
    tau_a, tau_b = tau(a.level.abar), tau(b.level.abar)
    u_a, u_b = u_from_x(a.latent, a.level.abar), u_from_x(b.latent, b.level.abar)
    return (tau_b * u_a - tau_a * u_b) / (tau_b - tau_a)


def at_most(frame: Frame, side: int) -> Frame:
    """The same way back from the network, to a picture of at most `side` pixels a side; its aspect is kept."""
    scale = min(1.0, side / max(frame.size))
    width, height = frame.size
    return replace(frame, size=(max(1, round(width * scale)), max(1, round(height * scale))))


def sized(image: Image.Image, frame: Frame) -> Image.Image:
    """A picture of the input's size at the frame's."""
    return image.resize(frame.size, Image.Resampling.LANCZOS)


def evenly(first: int, last: int, most: int) -> list[int]:
    """At most so many of the whole numbers from first to last, evenly; none if last is before first."""
    count = max(0, min(last - first + 1, most))
    return np.linspace(first, last, count).round().astype(int).tolist()


def drawn(latent: Tensor, frame: Frame, factor: int) -> Image.Image:
    """A latent (C, h, w) as it is, not decoded: its first three channels as red, green and blue, from -3 to 3."""
    width, height = (length / factor for length in frame.scaled)
    channels = torch.stack([latent[i % len(latent)] for i in range(3)])[:, : math.ceil(height), : math.ceil(width)]
    return to_image(channels / 3).resize(frame.size, Image.Resampling.NEAREST, box=(0, 0, width, height))


def difference(a: Image.Image, b: Image.Image, times: int) -> Image.Image:
    """|a - b| of each channel, so many times brighter: black where they agree."""
    return ImageChops.difference(a, b).point([min(255, times * level) for level in range(256)] * 3)
