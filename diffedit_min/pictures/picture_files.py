"""Picture files: read as what a viewer shows, in 8 bits; written whole or not at all, with text in them.

Any format that Pillow can read; PNG, JPEG and WebP are written.
"""

import os
import re
import secrets
import shlex
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # little loss: the background that an edit keeps is to stay
FORMATS = {".png": {"format": "PNG"}, ".jpg": JPEG, ".jpeg": JPEG, ".webp": {"format": "WEBP", "quality": 95}}
TEXTS = ("parameters", "diffedit")      # what `read_text` looks for; in EXIF, UserComment and ImageDescription
EXIF_MOST = 65_000                      # bytes; a JPEG can't hold more


# ---- from files and PIL images to 8 bits


def open_picture(path: str | os.PathLike) -> Image.Image:
    """The picture in a file, upright and in RGB (see `to_rgb`); of an animation, the first frame, with a warning.

    Raises ValueError, in one line that names the path and the way out, for whatever can't be read as a picture.
    """
    return _open(path, lambda image: to_rgb(_first_frame(image, path)))


def open_mask(path: str | os.PathLike) -> Image.Image:
    """The mask in a file, likewise; but what is transparent is black, not to be edited, where a picture has white."""
    return _open(path, lambda image: flattened(_first_frame(image, path), 0))


def open_upright(path: str | os.PathLike) -> Image.Image:
    """The picture in a file, likewise; but what is transparent stays so (see `upright`)."""
    return _open(path, lambda image: upright(_first_frame(image, path)))


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """The text that `save` wrote into a picture: what there is of "parameters" and "diffedit"."""
    return _open(path, _text_of)


def check_readable(path: str | os.PathLike) -> None:
    """Refuse, before any work, what can't be a picture's file: ValueError in one line. The file isn't read."""
    name = repr(os.fspath(path))
    if web := re.match(r"(https?|ftp):/+", os.fspath(path), re.IGNORECASE):
        address = f"{web[1]}://{os.fspath(path)[web.end():]}"  # of // pathlib makes /
        raise ValueError(f"{name} is a web address: download it first (curl -O {shlex.quote(address)}) "
                         "and give the file's path")
    if os.path.isdir(path):
        raise ValueError(f"{name} is a folder: give the path of one picture in it")
    try:
        os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ValueError(f"{name} can't be opened ({_reason(error)}): check the path") from None
    if not os.path.isfile(path):
        raise ValueError(f"{name} is not a file but a pipe or a device: save the picture to a file first")


def _open(path: str | os.PathLike, read: Callable[[Image.Image], Any]) -> Any:
    """What `read` makes of the opened picture; any failure as a ValueError in one line."""
    check_readable(path)
    name = repr(os.fspath(path))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # what matters of them is in the errors that follow
            with Image.open(path) as image:
                return read(image)
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture that Pillow can read: save it as PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels ({_reason(error)}): make it smaller first") from None
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # the system's, not a decoder's
            raise ValueError(f"{name} can't be opened ({_reason(error)}): check the path") from None
        # A damaged file raises nearly anything: OSError, SyntaxError, struct.error, zlib.error.
        raise ValueError(f"{name} is cut short, damaged or unusual ({_reason(error)}): export it again") from error


def _first_frame(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    """The image itself, which stands at its first frame; a warning if there are more."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ("MPO", "PSD"):  # a JPEG with its preview; layers
        warnings.warn(f"{os.fspath(path)!r} has {frames} frames or pages: the first one is taken", stacklevel=4)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image of what a viewer shows: `upright`, and what is transparent over white."""
    return flattened(image, 255)


def flattened(image: Image.Image, background: int) -> Image.Image:
    """`upright`, in RGB, over a grey of 0..255."""
    shown = upright(image)
    if shown.mode == "RGB":
        return shown
    ground = Image.new("RGBA", shown.size, (background, background, background, 255))
    rgb = Image.alpha_composite(ground, shown).convert("RGB")
    rgb.info = shown.info
    return rgb


def upright(image: Image.Image) -> Image.Image:
    """A new 8-bit image, RGB, or RGBA where the picture can be transparent; EXIF orientation applied.

    16 bits (modes I;16 and I, read as 0..65535) are scaled to 8, not clipped. Of the metadata only a colour profile
    for RGB stays (`info["icc_profile"]`). Raises TypeError for anything but a PIL image, ValueError for one with no
    pixels or with numbers of no agreed range (mode F; mode I beyond 16 bits).
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a PIL image, not {type(image).__name__}: use PIL.Image.open or PIL.Image.fromarray")
    if 0 in image.size:
        raise ValueError(f"the picture has no pixels: its size is {image.width} x {image.height}")
    image.load()  # here, so that a damaged file is not taken for damaged EXIF below
    profile = image.info.get("icc_profile")
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the orientation; viewers show such a picture as it lies
        pass
    image = _eight_bits(image)
    if image.mode == "La":  # premultiplied grey, which Pillow converts to LA only
        image = image.convert("LA")
    # Transparent: an alpha channel, or a colour marked so in a palette, PNG or GIF.
    result = image.convert("RGBA" if image.has_transparency_data else "RGB")  # always a copy
    result.info = {"icc_profile": profile} if profile and profile[16:20] == b"RGB " else {}
    return result


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


def _reason(error: Exception) -> str:
    """In one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


# ---- to files


def save(image: Image.Image, path: str | os.PathLike, text: Mapping[str, str] | None = None) -> None:
    """Write a picture whole or not at all: an old file at `path` stays as it is until the new one is complete.

    The suffix says the format: .png (exact), .jpg, .jpeg, .webp. `text` goes into a PNG's text chunks; of it the others
    hold `TEXTS`, in EXIF, if that is not too long for it. An RGB image's colour profile is kept.
    Raises ValueError, in one line, for another suffix, a missing folder, or a folder at `path`.
    """
    path = Path(path)
    check_target(path)
    options, text = dict(FORMATS[path.suffix.lower()]), text or {}
    if options["format"] == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, value in text.items():
            chunks.add_text(key, value)
        options["pnginfo"] = chunks
    else:
        if image.mode not in ("L", "RGB"):  # neither holds a palette or 16 bits, and JPEG no transparency
            image = to_rgb(image)
        if 0 < len(exif := _exif(text)) < EXIF_MOST:
            options["exif"] = exif
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    with replacing(path) as file:
        image.save(file, **options)


def _exif(text: Mapping[str, str]) -> bytes:
    """`TEXTS` as EXIF; b"" if there is none of them."""
    exif = Image.Exif()
    if "diffedit" in text:
        exif[ExifTags.Base.ImageDescription] = text["diffedit"]
    if "parameters" in text:
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: b"UNICODE\0" + text["parameters"].encode("utf-16-be")}
    return exif.tobytes() if len(exif) else b""


def _text_of(image: Image.Image) -> dict[str, str]:
    """`TEXTS` of an opened file, as far as it has them."""
    if image.format == "PNG":
        found = {key: image.info.get(key) for key in TEXTS}
    else:
        exif = image.getexif()
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        unicode = isinstance(comment, bytes) and comment.startswith(b"UNICODE\0")
        found = {"diffedit": exif.get(ExifTags.Base.ImageDescription),
                 "parameters": comment[8:].decode("utf-16-be", "replace") if unicode else None}
    return {key: str(value) for key, value in found.items() if isinstance(value, str)}


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
    beside = Path(path).with_name(f"{_mark(path)}{secrets.token_hex(4)}.part")
    try:
        with open(beside, "xb") as file:  # not tempfile: its files can be read by their owner only
            yield file
        os.replace(beside, path)
    except BaseException:  # Ctrl-C too
        beside.unlink(missing_ok=True)
        raise


def leftovers(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """What `replacing` one of these paths left beside it when its process was killed."""
    marks = {(Path(path).parent, _mark(path)) for path in paths}
    return [part for folder in {folder for folder, _ in marks} for part in folder.glob(".*.part")
            if (folder, part.name[:10]) in marks]


def _mark(path: str | os.PathLike) -> str:
    """How the names of unfinished files for `path` begin: 10 letters, however long its own name."""
    return f".{zlib.crc32(os.fsencode(Path(path).name)):08x}-"
