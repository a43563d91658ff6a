"""The mask over its picture, to be painted on: what the browser is sent, and what it sends back.

The canvas has one dot for each latent cell, as a mask has one value for each. So what is found, shown, painted and
read back is the same, bit for bit, whatever the picture's shape; and a picture travels only to the browser, never back.
As a text, rows of cells stand from top to bottom with "/" between them, and a cell is one digit, found + 2 own:

    found   1 where the difference map is above the threshold, else 0
    own     what a person has made of the cell: 0 nothing, 1 painted, 2 erased

canvas.js keeps what is painted and erased when another mask is found; a text that begins with "=" replaces all.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...pictures.picture import Frame
from ...pictures.picture_files import open_picture, size_of
from ..report.rendering import small_uri

SIDE = 640              # px: the longer one of pictures that are only looked at
LONGEST = 2**17         # characters of a mask that is read; one for Stable Diffusion XL has 2**14


def open_upload(path: str | os.PathLike, pixels: int) -> Image.Image:
    """The picture in a file, upright and in RGB. ValueError if it has more pixels, before they are read, or is none.

    Errors name the file as its owner does, not by its place on the server.
    """
    name, size = repr(Path(path).name), (0, 0)
    with suppress(ValueError):      # `open_picture` says what is wrong
        size = size_of(path)
    if math.prod(size) > pixels:
        raise ValueError(f"{name} has {size[0]} x {size[1]} pixels, more than the {pixels / 1e6:g} million that this "
                         "page takes: make it smaller first")
    try:
        return open_picture(path)
    except ValueError as error:
        raise ValueError(str(error).replace(repr(os.fspath(path)), name)) from None


# ---- to the browser


def empty() -> dict[str, Any]:
    """The canvas without a picture."""
    return {"value": "", "picture": "", "aspect": 1, "across": 1, "down": 1}


def begun(picture: Image.Image, frame: Frame, factor: int, mask: Tensor | None = None,
          own: Tensor | None = None) -> dict[str, Any]:
    """The canvas with a picture, and maybe with a mask that was found and what was painted, int (h, w).

    The dots lie over the picture as the cells do, whose last column and row may go beyond it: `across` and `down` times
    its sides.
    """
    rows, columns = shape(frame, factor)
    width, height = frame.scaled
    mask = torch.zeros(frame.grid(factor), dtype=torch.bool) if mask is None else mask
    return {"value": "=" + text_of(mask, frame, factor, own), "picture": small_uri(picture, SIDE),
            "aspect": frame.size[0] / frame.size[1], "across": columns * factor / width,
            "down": rows * factor / height}


def text_of(mask: Tensor, frame: Frame, factor: int, own: Tensor | None = None) -> str:
    """A mask that was found, bool (h, w), as the canvas holds it; own, int (h, w): what a person made of it."""
    rows, columns = shape(frame, factor)
    digits = mask.cpu().int() + (0 if own is None else 2 * own)
    return "/".join("".join(map(str, line)) for line in digits[:rows, :columns].tolist())


# ---- and back


def checked(sent: Any) -> str:
    """What the canvas holds, as a browser sends it. ValueError for what can't be that."""
    if sent is None:
        return ""
    if not isinstance(sent, str) or len(sent) > LONGEST or not re.fullmatch("=?[0-5/]*", sent):
        raise ValueError("the mask must be a text of cells, as the canvas of this page writes it")
    return sent


def read(text: str, frame: Frame, factor: int) -> tuple[Tensor, Tensor]:
    """What the canvas holds -> its mask, bool (h, w), and what of it a person has made, int (h, w). See the top.

    Cells of padding have the value of the nearest cell of the picture. ValueError for a mask of another shape.
    """
    rows, columns = shape(frame, factor)
    lines = text.removeprefix("=").split("/") if text.removeprefix("=") else ["0" * columns] * rows
    if len(lines) != rows or any(len(line) != columns for line in lines):
        raise ValueError(f"the mask on the canvas is not one for this picture and model, which has {rows} rows of "
                         f"{columns} cells: choose the picture again")
    digits = np.array([list(line) for line in lines], dtype=int)
    own = digits // 2
    mask = np.where(own > 0, own == 1, digits == 1)
    padding = [(0, whole - real) for whole, real in zip(frame.grid(factor), (rows, columns), strict=True)]
    return torch.from_numpy(np.pad(mask, padding, mode="edge")), torch.from_numpy(np.pad(own, padding))


def shape(frame: Frame, factor: int) -> tuple[int, int]:
    """Rows and columns of the cells that hold some of the picture."""
    width, height = frame.scaled
    return math.ceil(height / factor), math.ceil(width / factor)
