"""An edit as an animation that plays and loops, GIF or WebP: the mask is found, the picture encoded, then decoded.

    edit = dm.diffedit(model, picture, query, reference, keep="trace")
    dm.studio.film.film(edit, model).save("edit.gif")       # or .webp, which is smaller and has all colours

Each frame shows two pictures side by side, under a line that says which step it is:

    find the mask       input, noised input · two predicted clean images · where they differ · map, mask
    encode              input, latent                           of at most 16 levels
    decode              latent, predicted clean image           of at most 16 levels
    at the end          input, result

What an edit didn't keep, or a method doesn't have, is left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from PIL import Image

from ..core.mask import difference_map
from ..core.schedule import x0_from_eps
from ..core.task import Step
from ..methods import Edit
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.drawing import headed, overlay, strip
from ..pictures.metadata import texts
from ..pictures.picture import Frame, heat, mask_image
from ..pictures.picture_files import save_animation
from .report.pictures import Shot, at_most, develop, evenly, sized, x0_of_step
from .report.texts import straight

NOISES, LEVELS = 3, 16      # at most so many are shown: of step 1, and of each way
LEAST, MOST = 256, 384      # px: the longer side of a picture; smaller ones are enlarged by a whole number
SLOW, QUICK, LAST = 1400, 160, 3000     # ms: a frame of step 1, a level, the result


@dataclass(frozen=True)
class Still:
    """Two pictures side by side, as long as `ms` says."""

    heading: str
    pair: tuple[Shot, Shot]
    ms: int


@dataclass(frozen=True, eq=False)
class Film:
    """Frames of one size, how long each is shown, and the settings of the edit."""

    frames: list[Image.Image]
    durations: list[int]        # ms
    settings: Mapping[str, Any]

    def save(self, path: str | os.PathLike) -> None:
        """Write it, to a .gif or a .webp. Raises ValueError for another suffix, and NotWritten."""
        save_animation(self.frames, self.durations, path, texts(self.settings, self.frames[0].size))


@torch.no_grad()
def film(edit: Edit, model: StableDiffusion, on_step: Callable[[Step], None] | None = None) -> Film:
    """The film of an edit. It costs no U-Net row, and at most 57 VAE decodings, of which `on_step` is told.

    model: the one that made the edit. An edit that was made with keep="trace" shows most.
    """
    frame = at_most(edit.frame, MOST)
    before = Shot(sized(edit.input, frame), "input")
    stills = [*finding(edit, model, frame, before), *encoding(edit, before), *decoding(edit, before)]
    stills.append(Still("Input and result", (before, Shot(sized(edit.image, frame), "result")), LAST))
    develop(chain.from_iterable(still.pair for still in stills), model, frame, on_step, "film")
    laid = [laid_out(still) for still in stills]
    width, height = max(each.width for each in laid), max(each.height for each in laid)
    return Film([on_ground(each, width, height) for each in laid], [still.ms for still in stills], edit.settings)


# ---------------------------------------------------------------- the three steps


def finding(edit: Edit, model: StableDiffusion, frame: Frame, before: Shot) -> Iterator[Still]:
    """Step 1: for some noises the two guesses and their difference; then the map and the mask, as far as there are any.
    """
    factor, trace, s = edit.factor, edit.trace, edit.settings
    if "noised" in trace:
        level = model.schedule.noised(s["mask_noise_ratio"])
        apart = difference_map(trace["eps_query"][None], trace["eps_reference"][None], s["mask_norm"])      # (n, h, w)
        for i in range(min(NOISES, len(apart))):
            heading = f"1  Find the mask: noise {i + 1} of {len(apart)}, t = {level.t}"
            noised = trace["noised"][i : i + 1]
            guesses = [Shot(x0_from_eps(noised, trace[f"eps_{prompt}"][i : i + 1], level.abar),
                            f"predicted clean image, {prompt}") for prompt in ("reference", "query")]
            mean = apart[: i + 1].mean(dim=0)
            differ = [Shot(heat(m / m.max(), frame, factor), caption) for m, caption in (
                (apart[i], "where the two differ"), (mean, f"mean of {i + 1} noise{'s' if i else ''}"))]
            yield Still(heading, (before, Shot(noised, "the input under noise")), SLOW)
            yield Still(heading, (guesses[0], guesses[1]), SLOW)
            yield Still(heading, (differ[0], differ[1]), SLOW)
    if edit.mask is not None:
        over = Shot(overlay(sized(edit.input, frame), mask_image(edit.mask, frame, factor)),
                    f"the mask, {edit.covered} of the picture")
        found = edit.mask_map is not None and "mask" not in s["given"]
        left = Shot(heat(edit.mask_map, frame, factor), "the map, from 0 to 1") if found else before
        yield Still("1  Find the mask: cut the map" if found else "1  The mask", (left, over), 2 * SLOW)


def encoding(edit: Edit, before: Shot) -> Iterator[Still]:
    """Step 2, from the picture to noise."""
    for j in evenly(1, len(edit.encoded) - 1, LEVELS):
        state = edit.encoded[j]
        latent = Shot(state.latent, "latent, decoded")
        yield Still(f"2  Encode: step {j} of {len(edit.encoded) - 1}, t = {state.level.t}", (before, latent), QUICK)


def decoding(edit: Edit, before: Shot) -> Iterator[Still]:
    """Step 3, from noise to the result; the predicted clean images where the latents show them."""
    k, how = len(edit.decoded) - 1, "Decode" if edit.mask is None else "Decode inside the mask"
    for j in evenly(1, k, LEVELS)[::-1]:
        state = edit.decoded[j]
        pair = before, Shot(state.latent, "latent, decoded")
        if straight(edit):
            pair = pair[1], Shot(x0_of_step(state, edit.decoded[j - 1]), "predicted clean image")
        yield Still(f"3  {how}: step {k - j + 1} of {k}, t = {state.level.t}", pair, QUICK)


# ---------------------------------------------------------------- frames


def laid_out(still: Still) -> Image.Image:
    """The two pictures with their captions, below the heading."""
    side = max(still.pair[0].image.size)
    times = max(1, math.ceil(LEAST / side))
    images = [shot.image.resize((shot.image.width * times, shot.image.height * times), Image.Resampling.NEAREST)
              for shot in still.pair]
    return headed(strip(images, [shot.caption for shot in still.pair], 1.0), still.heading)


def on_ground(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture on a white ground of that size."""
    ground = Image.new("RGB", (width, height), "white")
    ground.paste(image)
    return ground
