"""From an edit's latents to pictures that a page can hold.

A noisy latent, decoded, shows how much noise there is; the x0 that a step takes it for shows what the step has in mind.
Shapes: latents of states are (1, C, h, w), those of a trace (n, C, h, w), maps (h, w).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from PIL import Image, ImageChops
from torch import Tensor

from ...core.schedule import Schedule, tau, u_from_x, x0_from_eps
from ...core.state import State
from ...core.task import Step
from ...methods import Edit
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.picture import Frame, to_image, unfit
from .texts import straight

NOISES, ENCODED, FRAMES = 2, 4, 9   # of each how many are shown: at most 6 + 8 + 16 latents to decode
CELLS_AT_ONCE = 2**12               # latent cells that the VAE decodes at once: 16 pictures of 64 px, 1 of 512
SMALL, LARGE = 320, 1024            # px: the longer side, at most, of what is shown in a row, and by itself


# ---------------------------------------------------------------- which latents


def x0_of_step(a: State, b: State) -> Tensor:
    """The x0 that a step between two neighbouring states kept, from the states alone: (1, C, h, w), no U-Net row.

    A deterministic step changes how much of x0 and of eps there is, not x0 and eps. In the variables of Eq. (3) it goes
    along a straight line, from any point of which x0 is where tau would be 0:

        u = x / sqrt(abar) = x0 + tau eps         hence   x0 = (tau_b u_a - tau_a u_b) / (tau_b - tau_a)

    Between equally noisy levels (a schedule whose first step is none) there is no line: a's latent itself.
    """
    tau_a, tau_b = tau(a.level.abar), tau(b.level.abar)
    if tau_a == tau_b:
        return a.latent
    u_a, u_b = u_from_x(a.latent, a.level.abar), u_from_x(b.latent, b.level.abar)
    return (tau_b * u_a - tau_a * u_b) / (tau_b - tau_a)


def latents_to_show(edit: Edit, schedule: Schedule) -> dict[str, Tensor]:
    """What the VAE is to decode, (1, C, h, w) each, by name: "noised 0", "query 0", "x 12", "x0 of x 12", "y 3", ..."""
    shown: dict[str, Tensor] = {}
    trace = edit.trace
    if "noised" in trace:
        abar = schedule.noised(edit.settings["mask_noise_ratio"]).abar
        for i in range(min(NOISES, len(trace["noised"]))):
            one = slice(i, i + 1)
            shown[f"noised {i}"] = trace["noised"][one]
            for prompt in ("reference", "query"):
                shown[f"{prompt} {i}"] = x0_from_eps(trace["noised"][one], trace[f"eps_{prompt}"][one], abar)
    for letter, trajectory, most in (("x", edit.encoded, ENCODED + 1), ("y", edit.decoded, FRAMES)):
        for j in spread_over(len(trajectory), most)[1:]:        # level 0 is the picture, or the result
            shown[f"{letter} {j}"] = trajectory[j].latent
            if straight(edit):
                shown[f"x0 of {letter} {j}"] = x0_of_step(trajectory[j], trajectory[j - 1])
    return shown


def spread_over(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 .. count-1, evenly, the first and the last of them among these."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


# ---------------------------------------------------------------- latents as pictures


def at_most(frame: Frame, side: int) -> Frame:
    """The same way back from the network, to a picture of at most `side` pixels a side; its aspect is kept."""
    scale = min(1.0, side / max(frame.size))
    width, height = frame.size
    return replace(frame, size=(max(1, round(width * scale)), max(1, round(height * scale))))


def decoded(
    model: StableDiffusion, latents: Mapping[str, Tensor], frame: Frame, on_step: Callable[[Step], None] | None = None
) -> dict[str, Image.Image]:
    """The latents (1, C, h, w) through the VAE, in batches, by the same names; telling `on_step` after each batch."""
    names, pictures = list(latents), {}
    cells = math.prod(frame.grid(model.factor))
    at_once = max(1, CELLS_AT_ONCE // cells)
    for start in range(0, len(names), at_once):
        batch = names[start : start + at_once]
        pixels = model.decode(torch.cat([latents[name] for name in batch]).to(model.device))
        # Half a step's latent is none that the VAE was trained on: in float16 it may overflow where the result doesn't.
        pictures.update({name: unfit(row.nan_to_num(), frame) for name, row in zip(batch, pixels, strict=True)})
        if on_step is not None:
            on_step(Step("report", len(pictures), len(names)))
    return pictures


def drawn(latent: Tensor, frame: Frame, factor: int) -> Image.Image:
    """A latent (C, h, w) as it is, not decoded: its first three channels as red, green and blue, from -3 to 3."""
    width, height = (length / factor for length in frame.scaled)
    channels = torch.stack([latent[i % len(latent)] for i in range(3)])[:, : math.ceil(height), : math.ceil(width)]
    return to_image(channels / 3).resize(frame.size, Image.Resampling.NEAREST, box=(0, 0, width, height))


def difference(a: Image.Image, b: Image.Image, times: int) -> Image.Image:
    """|a - b| of each channel, so many times brighter: black where they agree."""
    return ImageChops.difference(a, b).point([min(255, times * level) for level in range(256)] * 3)
