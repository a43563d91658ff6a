"""Pictures as tensors: PIL images to pixels and back, sizes and masks. (picture_files reads and writes their files.)

A network needs pixels in [-1, 1], sides that are multiples of some number, and not more pixels than it was trained on.
A person's picture has any size. `fit` makes pixels of it, and a `Frame` with which `unfit` goes back:

    picture  --scale, aspect kept-->  scaled  --mirror on the right and at the bottom-->  padded

A latent cell is a square of factor x factor pixels of the padded picture (factor: 8 for Stable Diffusion). Sizes are
(width, height), as in PIL; shapes of tensors and arrays are (..., height, width).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .picture_files import flattened, to_rgb

LARGEST_SIDE = 8192  # px; the largest `size`
WHITE_FROM = 128  # a mask pixel this bright or brighter (0..255) means "edit"
MOST_PADDED = 4     # a network takes so many times its area at once, at most: a padded picture's, in `fit`
HEAT = ((0, 0, 4), (87, 15, 109), (187, 55, 84), (249, 142, 8), (252, 255, 164))  # "inferno" at 0, 1/4, 1/2, 3/4, 1


# ---- pixels: (1,3,H,W) float32 in [-1,1]


def to_pixels(image: Image.Image) -> Tensor:
    """A picture as pixels (1,3,H,W), float32 in [-1, 1], in its own size. `to_image` gives exactly the same picture."""
    return _to_pixels(np.asarray(to_rgb(image)))


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels (1,3,H,W) or (3,H,W) in [-1, 1] as an RGB image: clamped, then rounded.

    Raises ValueError for another shape, and for NaN and infinity.
    """
    if pixels.ndim not in (3, 4) or pixels.shape[-3] != 3 or (pixels.ndim == 4 and len(pixels) != 1):
        raise ValueError(f"expected pixels of shape (1,3,H,W) or (3,H,W), not {tuple(pixels.shape)}")
    values = pixels.detach().to("cpu", torch.float32).reshape(pixels.shape[-3:])
    if not values.isfinite().all():  # they would become black or white without an error
        raise ValueError("the pixels hold NaN or infinity, not a colour: what made them is wrong")
    values = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def _to_pixels(rgb: np.ndarray) -> Tensor:
    """uint8 (H,W,3) -> float32 (1,3,H,W)."""
    return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None].contiguous() / 127.5 - 1


# ---- sizes


@dataclass(frozen=True)
class Frame:
    """How a picture was fitted to a network: its sizes (width, height), in pixels."""

    size: tuple[int, int]  # of the picture itself
    scaled: tuple[int, int]  # after scaling, which keeps the aspect; equal to `size` if it was not scaled
    padded: tuple[int, int]  # after padding on the right and at the bottom; the network gets this size

    @property
    def shrunk(self) -> str:
        """In words, at which size the picture was edited; "" if it wasn't shrunk for that."""
        if math.prod(self.scaled) >= math.prod(self.size):
            return ""
        padded, size, scaled = (f"{width} × {height}" for width, height in (self.padded, self.size, self.scaled))
        return f"edited at {padded} px: the picture was shrunk from {size} to {scaled}"

    def grid(self, factor: int) -> tuple[int, int]:
        """(h, w) of the latent, whose cells are factor x factor pixels. ValueError if these don't fill `padded`."""
        width, height = self.padded
        if width % factor or height % factor:
            raise ValueError(f"{width} x {height} pixels can't be cut into cells of {factor} x {factor}")
        return height // factor, width // factor

    def valid(self, factor: int) -> Tensor:
        """Bool (h, w): True for latent cells with at least one pixel of the picture, False for padding only."""
        valid = torch.zeros(self.grid(factor), dtype=torch.bool)
        width, height = self.scaled
        valid[: math.ceil(height / factor), : math.ceil(width / factor)] = True
        return valid

    def share(self, mask: Tensor, factor: int) -> float:
        """The share of the picture, without padding, that a mask bool (h, w) covers: 0 to 1."""
        return mask.cpu()[self.valid(factor)].float().mean().item()


def fit(image: Image.Image, multiple: int, area: int, size: int | None = None) -> tuple[Tensor, Frame]:
    """Pixels (1,3,H,W) in [-1, 1] for a network, with H and W multiples of `multiple`; and the Frame for `unfit`.

    A picture of more than `area` pixels is shrunk to about `area` pixels; a smaller one keeps its size. If `size` is
    given, it is scaled (up or down) to about size x size pixels instead. Scaling keeps the aspect, up to rounding. The
    padding up to H and W is the picture's mirror image. A very narrow picture, which would be mostly padding, is shrunk
    further: until it fits, padded, into `MOST_PADDED` times those areas.
    """
    check_size(size)
    rgb = to_rgb(image)
    area = area if size is None else size * size
    target = min(area, rgb.width * rgb.height) if size is None else area
    longest = MOST_PADDED * max(area, multiple**2) / multiple       # of a picture that fills one multiple across
    scale = min(math.sqrt(target / (rgb.width * rgb.height)), longest / max(rgb.size))
    scaled = max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))
    padded = math.ceil(scaled[0] / multiple) * multiple, math.ceil(scaled[1] / multiple) * multiple
    frame = Frame(rgb.size, scaled, padded)

    if scaled != rgb.size:
        rgb = rgb.resize(scaled, Image.Resampling.LANCZOS)
    pixels = np.asarray(rgb)[_mirror(scaled[1], padded[1])][:, _mirror(scaled[0], padded[0])]
    return _to_pixels(pixels), frame


def check_size(size: int | None) -> None:
    """ValueError unless `size` is one that `fit` takes: None, or from 1 to `LARGEST_SIDE`."""
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise ValueError(f"size is {size}: give the side in pixels, from 1 to {LARGEST_SIDE}")


def unfit(pixels: Tensor, frame: Frame) -> Image.Image:
    """The inverse of `fit`: padded pixels (1,3,H,W) or (3,H,W) -> a picture of the original's size."""
    if tuple(pixels.shape[-2:]) != frame.padded[::-1]:
        raise ValueError(f"expected pixels of shape {(1, 3, *frame.padded[::-1])}, not {tuple(pixels.shape)}")
    width, height = frame.scaled
    image = to_image(pixels[..., :height, :width])
    return image if frame.scaled == frame.size else image.resize(frame.size, Image.Resampling.LANCZOS)


def _mirror(length: int, padded: int) -> np.ndarray:
    """For each of `padded` pixels, the index of the pixel it mirrors: for length 3 these are 0 1 2 1 0 1 2 ..."""
    period = max(2 * (length - 1), 1)  # a single pixel repeats
    index = np.arange(padded) % period
    return np.minimum(index, period - index)


# ---- masks: bool, one value for each latent cell, True = edit


def fit_mask(mask: Image.Image | np.ndarray | Tensor, frame: Frame, factor: int) -> Tensor:
    """A mask for the latent: bool (1,1,h,w), True = edit.

    An image may have any size and covers the whole picture; white (>= 128 of 255) = edit, transparent counts as black.
    A cell is True if the centre of any white pixel lies in it, so thin lines are kept. A cell of padding only gets the
    value of the nearest cell of the picture, so a mask that is white all over stays so.
    An array or tensor must have the latent's shape, (h,w) or (1,1,h,w), and is used directly: True or >= 0.5 = edit.
    Raises ValueError for other shapes.
    """
    grid = frame.grid(factor)
    if isinstance(mask, (np.ndarray, Tensor)):
        return torch.from_numpy(_plane(mask, grid) >= 0.5)[None, None]
    white = np.asarray(flattened(mask, 0).convert("L")) >= WHITE_FROM  # (mask's height, mask's width)
    (height, width), (scaled_width, scaled_height) = white.shape, frame.scaled
    white = np.stack([white[a:b].any(axis=0) for a, b in _spans(height, scaled_height, factor)])
    white = np.stack([white[:, a:b].any(axis=1) for a, b in _spans(width, scaled_width, factor)], axis=1)
    padding = [(0, whole - real) for whole, real in zip(grid, white.shape, strict=True)]
    return torch.from_numpy(np.pad(white, padding, mode="edge"))[None, None]


def mask_image(mask: np.ndarray | Tensor, frame: Frame, factor: int) -> Image.Image:
    """A latent mask, bool (h,w) or (1,1,h,w), as an image of the picture's size: mode "L", 0 or 255.

    `fit_mask` makes the same mask of that image (in cells that are not padding only), unless the picture was enlarged
    to fit.
    """
    cells = _plane(mask, frame.grid(factor)) >= 0.5
    (width, height), (scaled_width, scaled_height) = frame.size, frame.scaled
    rows, columns = _cell_of(height, scaled_height, factor), _cell_of(width, scaled_width, factor)
    return Image.fromarray(cells[rows][:, columns].astype(np.uint8) * 255)


def _cell_of(pixels: int, scaled: int, factor: int) -> np.ndarray:
    """Along one side of an image with `pixels` pixels: the latent cell in which each pixel's centre lies, (pixels,)."""
    return (2 * np.arange(pixels, dtype=np.int64) + 1) * scaled // (2 * pixels * factor)  # integers: no rounding


def _spans(pixels: int, scaled: int, factor: int) -> Iterator[tuple[int, int]]:
    """Along one side, for each latent cell: the first pixel whose centre lies in it, and the one after the last.

    There is always at least one: if no centre lies in the cell, it is the pixel that covers the cell's middle.
    """
    cell_of = _cell_of(pixels, scaled, factor)
    for cell in range(math.ceil(scaled / factor)):
        start, stop = np.searchsorted(cell_of, [cell, cell + 1])
        if start == stop:  # pixels are larger than cells
            start = (cell * factor + min((cell + 1) * factor, scaled)) * pixels // (2 * scaled)
            stop = start + 1
        yield int(start), int(stop)


def _plane(values: np.ndarray | Tensor, grid: tuple[int, int]) -> np.ndarray:
    """The (h, w) array in an array or tensor of shape (h,w), (1,h,w) or (1,1,h,w). Raises ValueError for others."""
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float32).numpy()
    shape = tuple(np.shape(values))
    if shape[-2:] != grid or math.prod(shape) != math.prod(grid):
        raise ValueError(f"expected the latent grid's shape {grid}, not {shape} (a mask image may have any size)")
    return np.asarray(values).reshape(grid)


# ---- maps as pictures, and the difference of pictures


def heat(values: np.ndarray | Tensor, frame: Frame, factor: int) -> Image.Image:
    """A latent map (h,w) of numbers in [0, 1] as an RGB image of the picture's size, from black to yellow."""
    plane = np.nan_to_num(_plane(values, frame.grid(factor)).astype(np.float32))
    width, height = frame.scaled
    plane = plane[: math.ceil(height / factor), : math.ceil(width / factor)]  # padding would blur into the border
    box = (0, 0, width / factor, height / factor)
    smooth = np.asarray(Image.fromarray(plane).resize(frame.size, Image.Resampling.BILINEAR, box=box))
    levels = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(smooth, levels, channel) for channel in zip(*HEAT, strict=True)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def psnr(a: Image.Image | np.ndarray, b: Image.Image | np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(1 / mean squared difference); inf if the pictures are equal.

    a, b: PIL images, or arrays (H,W) or (H,W,3) with values in [0, 1] (uint8 arrays: in 0..255). where: bool (H,W),
    True for the pixels that count. Raises ValueError if the shapes differ, or if no pixel counts.
    """
    a, b = _unit(a), _unit(b)
    if a.shape != b.shape:
        raise ValueError(f"the pictures' shapes differ: {a.shape} and {b.shape}")
    square = (a - b) ** 2
    if where is not None:
        where = np.asarray(where, dtype=bool)
        if where.shape != a.shape[:2] or not where.any():
            raise ValueError(f"where has shape {where.shape}, {where.sum()} True: give {a.shape[:2]}, 1 or more True")
        square = square[where]
    error = float(square.mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def _unit(image: Image.Image | np.ndarray) -> np.ndarray:
    """The picture as float64 in [0, 1]: (H,W,3) for an image; an array keeps its shape."""
    values = np.asarray(to_rgb(image) if isinstance(image, Image.Image) else image)
    return values / 255 if values.dtype == np.uint8 else values.astype(np.float64)
