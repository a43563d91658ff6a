"""A mask as a layer of colour over its picture, to be painted on; and back. Pictures come in as bounded files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from torch import Tensor

from ...pictures.picture import Frame, fit_mask, mask_image
from ...pictures.picture_files import open_picture, open_upright, size_of

SIDE = 640              # px: the canvas's longer one, whatever the picture's size
COLOUR = (235, 0, 120, 140)     # of the mask's layer: what lies below still shows
LAYERS = 4              # that a canvas may send; a browser's has one, in at most twice its size
PAINTED_FROM = 50       # alpha (0..255); a brush's edge fades out


def open_upload(path: str | os.PathLike, pixels: int) -> Image.Image:
    """The picture in a file, upright and in RGB. ValueError if it has more pixels, before they are read, or is none.

    Errors name the file as its owner does, not by its place on the server.
    """
    return _bounded(path, pixels, open_picture)


def open_layers(paths: Sequence[str]) -> list[Image.Image]:
    """What was painted on the canvas, in RGBA. ValueError for more or larger layers than the canvas has, unread."""
    if len(paths) > LAYERS:
        raise ValueError(f"the canvas has at most {LAYERS} layers, not {len(paths)}")
    return [_bounded(path, (2 * SIDE) ** 2, open_upright).convert("RGBA") for path in paths]


def _bounded(path: str | os.PathLike, pixels: int, read: Callable[[str | os.PathLike], Image.Image]) -> Image.Image:
    """What `read` makes of a picture's file."""
    name, size = repr(Path(path).name), (0, 0)
    with suppress(ValueError):      # `read` says what is wrong
        size = size_of(path)
    if math.prod(size) > pixels:
        raise ValueError(f"{name} has {size[0]} x {size[1]} pixels, more than the {pixels / 1e6:g} million that this "
                         "page takes: make it smaller first")
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(str(error).replace(repr(os.fspath(path)), name)) from None


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """The canvas's (width, height) for a picture's."""
    scale = SIDE / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def at_most(frame: Frame) -> Frame:
    """For previews: the frame of a picture that is no larger than the canvas."""
    return replace(frame, size=min(frame.size, shown_size(frame.size)))


def value(picture: Image.Image, layer: Image.Image | None = None) -> dict[str, Any]:
    """What a `gr.ImageEditor` shows: the picture at the canvas's size, and a layer over it."""
    background = picture.resize(shown_size(picture.size), Image.Resampling.LANCZOS)
    return {"background": background, "layers": [] if layer is None else [layer], "composite": None}


def layer_of(mask: Tensor, frame: Frame, factor: int) -> Image.Image:
    """A mask, bool (h, w), as an RGBA picture of the canvas's size: `COLOUR` where it is True, clear elsewhere."""
    white = mask_image(mask, replace(frame, size=shown_size(frame.size)), factor)
    clear = Image.new("RGBA", white.size, (*COLOUR[:3], 0))
    clear.paste(COLOUR, mask=white)
    return clear


def mask_of(layers: Sequence[Image.Image], frame: Frame, factor: int) -> Tensor:
    """Layers as a person left them -> bool (h, w): True where any of them is painted. The way back from `layer_of`."""
    union = Image.new("L", shown_size(frame.size))
    for layer in layers:
        union = ImageChops.lighter(union, layer.getchannel("A").resize(union.size, Image.Resampling.NEAREST))
    return fit_mask(union.point([255 * (alpha >= PAINTED_FROM) for alpha in range(256)]), frame, factor)[0, 0]
