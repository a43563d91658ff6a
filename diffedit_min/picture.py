"""Pictures: PIL images to tensors and back, from files and to files, their sizes and their masks.

A network wants pixels in [-1, 1], sides that are multiples of some number, and no more pixels than it was trained on.
A person has a picture of any size. `fit` goes one way and gives a `Frame`, which remembers the way back:

    picture  --scale, aspect kept-->  scaled  --mirror on the right and at the bottom-->  padded

A latent cell is a square of factor x factor padded pixels (8 for Stable Diffusion). Sizes are (width, height), as in
PIL; shapes of tensors and arrays are (..., height, width).
"""

import math
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

WHITE_FROM = 128  # a mask pixel this bright or brighter (0..255) means "edit"
JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # little loss: the background that an edit keeps is to stay
FORMATS = {".png": {"format": "PNG"}, ".jpg": JPEG, ".jpeg": JPEG, ".webp": {"format": "WEBP", "quality": 95}}
HEAT = ((0, 0, 4), (87, 15, 109), (187, 55, 84), (249, 142, 8), (252, 255, 164))  # "inferno" at 0, 1/4 .. 1; rising


# ---- from files and PIL images to 8-bit RGB


def open_picture(path: str | os.PathLike) -> Image.Image:
    """The picture in a file, upright and in RGB (see `to_rgb`); of an animation, the first frame.

    Raises ValueError, in one line that names the path and the way out, for whatever can't be read as a picture.
    """
    return _open(path, background=255)


def open_mask(path: str | os.PathLike) -> Image.Image:
    """The mask in a file, likewise; but what is transparent is black, not to be edited, where a picture has white."""
    return _open(path, background=0)


def _open(path: str | os.PathLike, background: int) -> Image.Image:
    name = repr(os.fspath(path))
    if re.match(r"https?:/", os.fspath(path), re.IGNORECASE):
        raise ValueError(f"{name} is a web address: download it first and give the file's path")
    if os.path.isdir(path):
        raise ValueError(f"{name} is a folder: give the path of one picture in it")
    try:
        with Image.open(path) as image:
            return _flatten(image, background)
    except (FileNotFoundError, PermissionError) as error:
        raise ValueError(f"{name} can't be opened ({error.strerror}): check the path") from None
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture that Pillow can read: save it as PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels ({_one_line(error)}): make it smaller first") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file raises nearly anything: OSError, SyntaxError, struct.error, zlib.error
        raise ValueError(f"{name} is cut short, damaged or unusual ({_one_line(error)}): export it again") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image of what a viewer shows: EXIF orientation applied, transparency over white.

    16 bits (modes I;16 and I, read as 0..65535) are scaled to 8, not clipped. The result carries no metadata: its
    orientation is applied already. Raises TypeError for anything but a PIL image, ValueError for one with no pixels or
    with numbers of no agreed range (mode F; mode I beyond 16 bits).
    """
    return _flatten(image, background=255)


def _flatten(image: Image.Image, background: int) -> Image.Image:
    """`to_rgb` over a grey of 0..255."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a PIL image, not {type(image).__name__}: use PIL.Image.open or PIL.Image.fromarray")
    if 0 in image.size:
        raise ValueError(f"the picture has no pixels: its size is {image.width} x {image.height}")
    image.load()  # here, so that a damaged file is not taken for damaged EXIF below
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the orientation; viewers show such a picture as it lies
        pass
    image = _eight_bits(image)
    if image.mode == "La":  # premultiplied grey, which Pillow converts to LA only
        image = image.convert("LA")
    if image.has_transparency_data:  # an alpha channel, or a colour marked transparent in a palette, PNG or GIF
        ground = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    rgb = image.convert("RGB")  # always a copy
    rgb.info = {}
    return rgb


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8, exactly rounded; other modes as they are. (Pillow's own conversion clips.)"""
    if image.mode == "F":
        raise ValueError("the picture's pixels are floats (mode F), of no agreed range: convert it to 8 bits first")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"the picture's pixels go from {values.min()} to {values.max()}: convert it to 8 bits first")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 257 * 255


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---- pixels: (1,3,H,W) float32 in [-1,1]


def to_pixels(image: Image.Image) -> Tensor:
    """A picture as pixels (1,3,H,W), float32 in [-1, 1], at its own size. `to_image` gives the same bytes back."""
    return _to_pixels(np.asarray(to_rgb(image)))


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels (1,3,H,W) or (3,H,W) in [-1, 1] as an RGB image; clamped, then rounded. Raises ValueError for NaN."""
    if pixels.ndim not in (3, 4) or pixels.shape[-3] != 3 or (pixels.ndim == 4 and len(pixels) != 1):
        raise ValueError(f"expected pixels of shape (1,3,H,W) or (3,H,W), not {tuple(pixels.shape)}")
    values = pixels.detach().to("cpu", torch.float32).reshape(pixels.shape[-3:])
    if values.isnan().any():  # would turn into black silently
        raise ValueError('the decoded picture holds NaN: half precision may have overflowed, try dtype="float32"')
    values = ((values.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def _to_pixels(rgb: np.ndarray) -> Tensor:
    """uint8 (H,W,3) -> float32 (1,3,H,W)."""
    return torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1)[None].contiguous() / 127.5 - 1


# ---- sizes


@dataclass(frozen=True)
class Frame:
    """How a picture was fitted to a network. Each is (width, height) in pixels."""

    size: tuple[int, int]  # of the picture
    scaled: tuple[int, int]  # after scaling, the aspect kept; equal to size if it was not scaled
    padded: tuple[int, int]  # after padding on the right and at the bottom: what the network sees

    def grid(self, factor: int) -> tuple[int, int]:
        """(h, w) of the latent whose cells are factor x factor pixels. Raises ValueError if that leaves a remainder."""
        width, height = self.padded
        if width % factor or height % factor:
            raise ValueError(f"{width} x {height} pixels can't be cut into cells of {factor} x {factor}")
        return height // factor, width // factor

    def valid(self, factor: int) -> Tensor:
        """Bool (h, w): which latent cells hold at least one pixel of the picture, not padding alone."""
        valid = torch.zeros(self.grid(factor), dtype=torch.bool)
        width, height = self.scaled
        valid[: math.ceil(height / factor), : math.ceil(width / factor)] = True
        return valid


def fit(image: Image.Image, multiple: int, area: int, size: int | None = None) -> tuple[Tensor, Frame]:
    """Pixels (1,3,H,W) in [-1, 1] that a network can take, H and W multiples of `multiple`; and the Frame, to get back.

    A picture of more than `area` pixels is shrunk to about `area`; a smaller one keeps its size. With `size` it is
    scaled, up or down, to about size x size pixels instead. Its aspect is kept, to a pixel's rounding; the rest of H
    and W is mirrored.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size}: give the side in pixels, 1 or more")
    rgb = to_rgb(image)
    target = size * size if size is not None else min(area, rgb.width * rgb.height)
    scale = math.sqrt(target / (rgb.width * rgb.height))
    scaled = max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale))
    padded = math.ceil(scaled[0] / multiple) * multiple, math.ceil(scaled[1] / multiple) * multiple
    frame = Frame(rgb.size, scaled, padded)

    if scaled != rgb.size:
        rgb = rgb.resize(scaled, Image.Resampling.LANCZOS)
    pixels = np.asarray(rgb)[_mirror(scaled[1], padded[1])][:, _mirror(scaled[0], padded[0])]
    return _to_pixels(pixels), frame


def unfit(pixels: Tensor, frame: Frame) -> Image.Image:
    """The way back from `fit`: pixels (1,3,H,W) or (3,H,W), padded, as a picture of the size that the first one had."""
    if tuple(pixels.shape[-2:]) != frame.padded[::-1]:
        raise ValueError(f"expected pixels of shape {(1, 3, *frame.padded[::-1])}, not {tuple(pixels.shape)}")
    width, height = frame.scaled
    image = to_image(pixels[..., :height, :width])
    return image if frame.scaled == frame.size else image.resize(frame.size, Image.Resampling.LANCZOS)


def _mirror(length: int, padded: int) -> np.ndarray:
    """Indices 0 .. padded-1 reflected into 0 .. length-1, as often as it takes: length 3 -> 0 1 2 1 0 1 2 ..."""
    period = max(2 * (length - 1), 1)  # a single pixel repeats
    place = np.arange(padded) % period
    return np.minimum(place, period - place)


# ---- masks: bool at the latent grid, True = edit


def fit_mask(mask: Image.Image | np.ndarray | Tensor, frame: Frame, factor: int) -> Tensor:
    """A mask for the latent: bool (1,1,h,w), True = edit.

    An image of any size, white (>= 128 of 255, transparency over black) = edit, is laid over the whole picture: a cell
    is True if any white pixel has its centre in it, so thin lines survive. Cells of padding alone follow the nearest
    cell that isn't: a white mask is white all over.
    An array or tensor of the latent grid's shape (h,w), or (1,1,h,w), is taken as it is, True or >= 0.5 = edit. Raises
    ValueError for other shapes.
    """
    grid = frame.grid(factor)
    if isinstance(mask, (np.ndarray, Tensor)):
        return torch.from_numpy(_plane(mask, grid) >= 0.5)[None, None]
    white = np.asarray(_flatten(mask, background=0).convert("L")) >= WHITE_FROM  # (mask's height, mask's width)
    (height, width), (scaled_width, scaled_height) = white.shape, frame.scaled
    white = np.stack([white[a:b].any(axis=0) for a, b in _spans(height, scaled_height, factor)])
    white = np.stack([white[:, a:b].any(axis=1) for a, b in _spans(width, scaled_width, factor)], axis=1)
    padding = [(0, whole - real) for whole, real in zip(grid, white.shape, strict=True)]
    return torch.from_numpy(np.pad(white, padding, mode="edge"))[None, None]


def mask_image(mask: np.ndarray | Tensor, frame: Frame, factor: int) -> Image.Image:
    """A latent mask, bool (h,w) or (1,1,h,w), as an "L" image, 0 or 255, at the picture's own size.

    `fit_mask` of it gives the mask back (in the cells that hold picture), unless the picture was enlarged to fit.
    """
    cells = _plane(mask, frame.grid(factor)) >= 0.5
    (width, height), (scaled_width, scaled_height) = frame.size, frame.scaled
    rows, columns = _cell_of(height, scaled_height, factor), _cell_of(width, scaled_width, factor)
    return Image.fromarray(cells[rows][:, columns].astype(np.uint8) * 255)


def _cell_of(pixels: int, scaled: int, factor: int) -> np.ndarray:
    """Along one side of an image of any resolution: the latent cell in which each pixel's centre falls, (pixels,)."""
    return (2 * np.arange(pixels, dtype=np.int64) + 1) * scaled // (2 * pixels * factor)  # integers: exact at borders


def _spans(pixels: int, scaled: int, factor: int) -> Iterator[tuple[int, int]]:
    """Along one side, for each latent cell, the pixels from..to whose centres fall in it; never none."""
    cell_of = _cell_of(pixels, scaled, factor)
    for cell in range(math.ceil(scaled / factor)):
        start, stop = np.searchsorted(cell_of, [cell, cell + 1])
        if start == stop:  # a pixel larger than a cell: take the one that lies over the cell's middle
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


# ---- to look at


def heat(values: np.ndarray | Tensor, frame: Frame, factor: int) -> Image.Image:
    """A latent map (h,w), numbers in [0, 1], as an RGB image of the picture's size: black, purple, orange, yellow."""
    plane = np.nan_to_num(_plane(values, frame.grid(factor)).astype(np.float32))
    width, height = frame.scaled
    plane = plane[: math.ceil(height / factor), : math.ceil(width / factor)]  # padding must not bleed into the border
    box = (0, 0, width / factor, height / factor)
    smooth = np.asarray(Image.fromarray(plane).resize(frame.size, Image.Resampling.BILINEAR, box=box))
    places = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(smooth, places, channel) for channel in zip(*HEAT, strict=True)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def psnr(a: Image.Image | np.ndarray, b: Image.Image | np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mean squared difference); inf for equal ones.

    a, b: PIL images, or arrays (H,W) or (H,W,3) in [0, 1] (uint8: in 0..255). where: bool (H,W), the pixels that count.
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
    """float64 in [0, 1]: (H,W,3) of an image; an array keeps its shape."""
    values = np.asarray(to_rgb(image) if isinstance(image, Image.Image) else image)
    return values / 255 if values.dtype == np.uint8 else values.astype(np.float64)


# ---- to files


def save(image: Image.Image, path: str | os.PathLike, text: dict[str, str] | None = None) -> None:
    """Write a picture whole or not at all: an old file at `path` stays as it is until the new one is complete.

    The suffix says the format: .png (exact), .jpg, .jpeg, .webp. `text` goes into a PNG's text chunks; others have
    none. Raises ValueError, in one line, for another suffix, a missing folder, or a folder at `path`.
    """
    path = Path(path)
    check_target(path)
    options = FORMATS[path.suffix.lower()]
    if options["format"] == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, value in (text or {}).items():
            chunks.add_text(key, value)
        options = options | {"pnginfo": chunks}
    elif image.mode not in ("L", "RGB"):  # neither holds a palette or 16 bits, and JPEG no transparency
        image = to_rgb(image)
    with replacing(path) as file:
        image.save(file, **options)


def check_target(path: Path, suffixes: Iterable[str] = tuple(FORMATS)) -> None:
    """Refuse, before any work, a path that couldn't be written to after it, by default by `save`: ValueError."""
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{str(path)!r} has the suffix {path.suffix!r}: use one of {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r}: make it first")
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: give the path of a file")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder {str(path.parent)!r} can't be written to: choose another")


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A new file beside `path`, which takes its place when the block ends, and vanishes if the block raises."""
    beside = Path(path).with_name(f".{secrets.token_hex(8)}.part")
    try:
        with open(beside, "xb") as file:  # not tempfile: its files can be read by their owner only
            yield file
        os.replace(beside, path)
    except BaseException:  # Ctrl-C too
        beside.unlink(missing_ok=True)
        raise
