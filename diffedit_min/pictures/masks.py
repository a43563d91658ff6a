"""Opening masks; white = edit. A mask without anything white is refused, and the message says what it holds.

A mask that can be used, but looks like a mistake, is used with a warning.
"""

import math
import os
import warnings

import numpy as np
from PIL import Image

from .picture import WHITE_FROM
from .picture_files import first_frame, flattened, largest_value, opened, upright

FEW = 3             # values or colours are listed if there are at most so many
GREY = (64, 192)    # mask pixels between these are neither black nor white
LUMA = (0.299, 0.587, 0.114)    # of red, green and blue in grey, as Pillow has it
MOST_GREY = 0.25    # the share of such pixels from which a mask looks like a photo


def open_white(path: str | os.PathLike, size: tuple[int, int] | None = None) -> Image.Image:
    """`picture_files.open_mask` for a mask that must have something white. size: of the picture that it is for.

    Raises ValueError, which says what it holds, if nothing in it is white. Warns if it is white all over, if it looks
    like a photo, and if it has another shape than the picture, so that it is stretched.
    """
    def read(image: Image.Image) -> tuple[Image.Image, str]:
        mask = flattened(first_frame(image, path), 0)
        return mask, "" if mask.convert("L").getextrema()[1] >= WHITE_FROM else held(image)

    mask, holds = opened(path, read)
    name = f"the mask {os.fspath(path)!r}"
    if holds:
        raise ValueError(f"{name} has nothing white, so nothing would be edited: {holds}; make what is to be edited "
                         f"white (255, or at least {WHITE_FROM})")
    grey = np.asarray(mask.convert("L"))
    if grey.min() >= WHITE_FROM:
        warnings.warn(f"{name} is white all over: the whole picture is edited", stacklevel=2)
    elif (share := np.mean((grey > GREY[0]) & (grey < GREY[1]))) > MOST_GREY:
        warnings.warn(f"{name} looks like a photo: {share:.0%} of it is neither black nor white. What is at least "
                      f"{WHITE_FROM} of 255 is edited, what is darker or transparent is not", stacklevel=2)
    if size is not None and is_stretched(mask.size, size):
        warnings.warn(f"{name} has {mask.width} x {mask.height} pixels and the picture {size[0]} x {size[1]}: it is "
                      "stretched to cover the picture", stacklevel=2)
    return mask


def held(image: Image.Image) -> str:
    """What an opened mask without anything white holds, in words."""
    shown = upright(image).convert("RGBA")
    colours, alpha = np.split(np.asarray(shown).reshape(-1, 4), [3], axis=1)
    if alpha.min() < 255:       # what is transparent counts as black
        if alpha.max() == 0:
            return "all of it is transparent"
        brightest = np.asarray(shown.convert("L")).reshape(-1, 1)[alpha > 0].max()
        if brightest >= WHITE_FROM:
            return f"its strokes are almost transparent (at most {alpha.max()} of 255)"
        return f"its strokes are {'black' if not brightest else f'at most {brightest} of 255'} on a transparent ground"
    if (colours.min(axis=1) < colours.max(axis=1)).any():
        numbers = np.unique(colours.astype(np.int32) @ (2**16, 2**8, 1))     # of numbers, it is much faster
        distinct = [(number >> 16, number >> 8 & 255, number & 255) for number in numbers.tolist()]
        if len(distinct) <= FEW:
            return f"its colours are {listed(distinct)} (red, green, blue)"
        return f"its brightest colour is {distinct[(np.array(distinct) @ LUMA).argmax()]} (red, green, blue)"
    most = largest_value(image)
    values = np.unique(colours[:, 0] if most == 255 else np.asarray(image))
    if len(values) == 1:
        return f"every pixel is {values[0]} of {most}"
    if len(values) <= FEW:
        return f"its values are {listed(values)}, of {most}"
    return f"its values go from {values[0]} to {values[-1]}, of {most}"


def listed(values: list | np.ndarray) -> str:
    """1, 2 and 3."""
    words = [str(value) for value in values]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def is_stretched(mask: tuple[int, int], picture: tuple[int, int]) -> bool:
    """Whether a mask of this size has another shape than the picture, by more than 2 % and the rounding to pixels."""
    shapes = (mask[0] * picture[1]) / (mask[1] * picture[0])
    return abs(math.log(shapes)) > 0.02 + 1 / min(mask) + 1 / min(picture)
