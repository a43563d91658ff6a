"""Picture files: read as a viewer shows them, in 8 bits; written completely or not at all, with texts inside.

The formats in `READ` are read; PNG, JPEG and WebP are written. Every picture that this package reads is opened here.
"""

import io
import os
import re
import shlex
import stat
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from .long_texts import without_long_texts
from .writing import Version, reason, replacing

# In these, people keep pictures, and each is decoded by a library in common use. Pillow can read forty more, and looks
# at a file's content, not at its name: an EPS file named a.png would be run as a program by Ghostscript.
READ = ("PNG", "JPEG", "BMP", "GIF", "PPM"), ("WEBP", "TIFF", "AVIF", "HEIF")   # HEIF: with pillow-heif
JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}  # high quality: the background should hardly change
FORMATS = {".png": {"format": "PNG"}, ".jpg": JPEG, ".jpeg": JPEG, ".webp": {"format": "WEBP", "quality": 95}}
ANIMATIONS = (".gif", ".webp")
LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}     # px
TEXTS = ("parameters", "diffedit")      # names of the texts that are kept; in EXIF: UserComment, ImageDescription
SRGB_GAMMA = 1 / 2.2                    # as PNG files have it
BITS_PER_SAMPLE = 258                   # a tag of TIFF files
LARGEST_EXIF = 65_000                   # bytes; a JPEG can't hold more


# ---- from files and PIL images to 8 bits


def open_picture(path: str | os.PathLike) -> Image.Image:
    """The picture in a file, upright and in RGB (see `to_rgb`). Of an animation it is the first frame, with a warning.

    Raises ValueError, in one line that names the path and the way out, if there is no picture that can be read.
    """
    return opened(path, lambda image: to_rgb(first_frame(image, path)))


def open_mask(path: str | os.PathLike) -> Image.Image:
    """The mask in a file, read like a picture, but transparent parts become black (not edited) instead of white."""
    return opened(path, lambda image: flattened(first_frame(image, path), 0))


def open_upright(path: str | os.PathLike) -> Image.Image:
    """The picture in a file, read like any picture, but transparent parts stay transparent (see `upright`)."""
    return opened(path, lambda image: upright(first_frame(image, path)))


def read_text(path: str | os.PathLike) -> dict[str, str]:
    """The texts that `save` wrote into a picture, by name: "parameters", "diffedit", both or none."""
    return opened(path, _text_of)


def check_readable(path: str | os.PathLike) -> None:
    """ValueError, in one line, if the path can't be that of a picture. The file isn't read, so this is quick."""
    name = repr(os.fspath(path))
    if web := re.match(r"(https?|ftp):/+", os.fspath(path), re.IGNORECASE):
        address = f"{web[1]}://{os.fspath(path)[web.end():]}"  # pathlib turns // into /
        raise ValueError(f"{name} is a web address: download it first (curl -O {shlex.quote(address)}) "
                         "and give the file's path")
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ValueError(f"{name} can't be opened ({reason(error)}): check the path") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name} is a folder: give the path of one picture in it")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name} is not a file but a pipe or a device: save the picture to a file first")


def size_of(path: str | os.PathLike) -> tuple[int, int]:
    """(width, height) of the picture in a file, as its header says, before it is turned upright."""
    return opened(path, lambda image: image.size)


def opened(path: str | os.PathLike, read: Callable[[Image.Image], Any]) -> Any:
    """The result of `read` on the opened picture; any error becomes a ValueError in one line."""
    check_readable(path)
    name = repr(os.fspath(path))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # where they matter, an error follows
            try:
                return _read(path, read)
            except ValueError:  # too long a text in a PNG ends here too: the picture is read without it
                shorter = without_long_texts(path, TEXTS)
                if shorter is None:
                    raise
                return _read(shorter, read)
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not a picture that can be read here ({', '.join(READ[0] + READ[1])}): save it as "
                         "PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels ({reason(error)}): make it smaller first") from None
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:  # an error of the system, not of a decoder
            raise ValueError(f"{name} can't be opened ({reason(error)}): check the path") from None
        # A damaged file can raise almost any error: OSError, SyntaxError, struct.error, zlib.error.
        raise ValueError(f"{name} is cut short, damaged or unusual ({reason(error)}): export it again") from error


def _read(file: str | os.PathLike | BinaryIO, read: Callable[[Image.Image], Any]) -> Any:
    """The result of `read` on the picture in a file of one of the formats in `READ`."""
    common, others = READ
    Image.preinit()     # knows the common ones; loading all that Pillow has takes a fifth of a second
    try:
        image = Image.open(file, formats=common)
    except UnidentifiedImageError:
        Image.init()
        image = Image.open(file, formats=[name for name in others if name in Image.OPEN])
    with image:
        return read(image)


def first_frame(image: Image.Image, path: str | os.PathLike) -> Image.Image:
    """The image itself, which is at its first frame; warns of what a viewer may show besides.

    These are more frames (to count them may take long), and a brightness that a PNG asks for by another gamma.
    """
    gamma = image.info.get("gamma", SRGB_GAMMA)
    if abs(gamma / SRGB_GAMMA - 1) > 0.1 and not image.info.keys() & {"srgb", "icc_profile"}:
        warnings.warn(f"{os.fspath(path)!r} has a gamma of {gamma:g}, which is not applied: browsers show it lighter "
                      "or darker; save it without", stacklevel=5)
    if getattr(image, "is_animated", False) and image.format != "MPO":      # MPO: a JPEG with a preview
        warnings.warn(f"{os.fspath(path)!r} has several frames or pages: the first one is taken", stacklevel=5)
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image of what a viewer shows: `upright`, and transparent parts on white."""
    return flattened(image, 255)


def flattened(image: Image.Image, background: int) -> Image.Image:
    """The picture `upright`, in RGB, on a background of this grey (0..255)."""
    shown = upright(image)
    if shown.mode == "RGB":
        return shown
    ground = Image.new("RGBA", shown.size, (background, background, background, 255))
    rgb = Image.alpha_composite(ground, shown).convert("RGB")
    rgb.info = shown.info
    return rgb


def upright(image: Image.Image) -> Image.Image:
    """A new 8-bit image: RGB, or RGBA if the picture can be transparent; turned as its EXIF orientation says.

    16 bits (modes I;16 and I, taken as 0..65535) are scaled to 8 bits, not clipped. Of the metadata only a colour
    profile for RGB is kept (`info["icc_profile"]`); one of CMYK or grey does not fit the colours that are returned.
    Raises TypeError if it is not a PIL image, ValueError if it has no pixels, or pixels of unknown range (mode F; mode
    I with more than 16 bits).
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected a PIL image, not {type(image).__name__}: use PIL.Image.open or PIL.Image.fromarray")
    if 0 in image.size:
        raise ValueError(f"the picture has no pixels: its size is {image.width} x {image.height}")
    image.load()  # here, so that the `except` below does not hide a damaged file
    profile = None if image.mode in ("CMYK", "LAB") else image.info.get("icc_profile")
    most = largest_value(image)
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: viewers then show the picture unturned
        pass
    image = _eight_bits(image, most)
    if image.mode == "La":  # premultiplied grey; Pillow converts it only to LA
        image = image.convert("LA")
    # A picture can be transparent by an alpha channel, or by a colour marked as transparent (palettes, PNG, GIF).
    result = image.convert("RGBA" if image.has_transparency_data else "RGB")  # always a copy
    result.info = {"icc_profile": profile} if profile and profile[16:20] == b"RGB " else {}
    return result


def largest_value(image: Image.Image) -> int:
    """The value that stands for white: 255, 65535 in modes I and I;16, or 4095 where a TIFF file has 12 bits."""
    if not image.mode.startswith("I"):
        return 255
    return 4095 if getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, ())[:1] == (12,) else 65535


def _eight_bits(image: Image.Image, most: int) -> Image.Image:
    """Grey of more bits scaled from 0..most to 8 bits with exact rounding; other modes unchanged.

    Pillow's own conversion clips, and forgets the value that is marked as transparent.
    """
    if image.mode == "F":
        raise ValueError("the picture's pixels are floats (mode F), of no agreed range: convert it to 8 bits first")
    if most == 255:
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > most:
        raise ValueError(f"the picture's pixels go from {values.min()} to {values.max()}: convert it to 8 bits first")
    grey = Image.fromarray(((values * 255 + most // 2) // most).astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


# ---- to files


def save(
    image: Image.Image, path: str | os.PathLike, text: Mapping[str, str] | None = None, over: Version | bool = True
) -> None:
    """Write a picture completely or not at all: an old file at `path` stays until the new one is complete.

    The suffix decides the format: .png (lossless), .jpg, .jpeg, .webp. A PNG gets all of `text` as text chunks; the
    other formats get the texts named in `TEXTS`, as EXIF, unless they are too long for it. The colour profile of an RGB
    image is kept. Raises ValueError, in one line, for a size that the format can't hold, for a path that `check_target`
    refuses, and what `replacing` raises, which takes `over`, what may be replaced.
    """
    path = Path(path)
    check_target(path)
    check_fits(image.size, path)
    options, text = dict(FORMATS[path.suffix.lower()]), text or {}
    if options["format"] == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for key, value in text.items():
            chunks.add_text(key, value)
        options["pnginfo"] = chunks
    else:
        if image.mode not in ("L", "RGB"):  # JPEG and WebP have no palettes, no 16 bits; JPEG no alpha
            image = to_rgb(image)
        if 0 < len(exif := _exif(text)) < LARGEST_EXIF:
            options["exif"] = exif
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    encoded = io.BytesIO()      # so that what Pillow says of a picture isn't taken for what the disk says
    image.save(encoded, **options)
    with replacing(path, over) as file:
        file.write(encoded.getbuffer())


def save_animation(
    frames: Sequence[Image.Image], durations: Sequence[int], path: str | os.PathLike, text: Mapping[str, str]
) -> None:
    """Write RGB frames of one size as an animation that loops, .gif or .webp, completely or not at all.

    durations: of each frame, in ms. text: as in `save`; a GIF gets the one named "diffedit", as its comment. Each frame
    of a GIF has a palette of its own. Raises ValueError for another suffix, and what `replacing` raises.
    """
    path = Path(path)
    check_target(path, ANIMATIONS)
    options: dict[str, Any] = {"format": "WEBP", "quality": 80, "exif": _exif(text)}
    if path.suffix.lower() == ".gif":
        options = {"format": "GIF", "comment": text["diffedit"].encode(), "optimize": False}
        frames = [frame.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE) for frame in frames]
    encoded = io.BytesIO()
    frames[0].save(encoded, save_all=True, append_images=frames[1:], duration=list(durations), loop=0, **options)
    with replacing(path) as file:
        file.write(encoded.getbuffer())


def _exif(text: Mapping[str, str]) -> bytes:
    """The texts named in `TEXTS` as EXIF; b"" if there are none."""
    exif = Image.Exif()
    if "diffedit" in text:
        exif[ExifTags.Base.ImageDescription] = text["diffedit"]
    if "parameters" in text:
        exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: b"UNICODE\0" + text["parameters"].encode("utf-16-be")}
    return exif.tobytes() if len(exif) else b""


def _text_of(image: Image.Image) -> dict[str, str]:
    """The texts named in `TEXTS` that an opened file holds."""
    if image.format == "PNG":
        found = {key: image.info.get(key) for key in TEXTS}
    elif image.format == "GIF":
        found = {"diffedit": image.info.get("comment", b"").decode("utf-8", "replace") or None}
    else:
        exif = image.getexif()
        comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        unicode = isinstance(comment, bytes) and comment.startswith(b"UNICODE\0")
        found = {"diffedit": exif.get(ExifTags.Base.ImageDescription),
                 "parameters": comment[8:].decode("utf-16-be", "replace") if unicode else None}
    return {key: str(value) for key, value in found.items() if isinstance(value, str)}


def check_fits(size: tuple[int, int], path: Path) -> None:
    """ValueError if the format that `path` has can't hold a picture of that size. Like `check_target`, for before."""
    most = LARGEST_SIDE.get(FORMATS[path.suffix.lower()]["format"])
    if most is not None and max(size) > most:
        raise ValueError(f"{str(path)!r} can't hold {size[0]} x {size[1]} pixels: {path.suffix} takes at most {most:,} "
                         "a side, use .png")


def check_target(path: Path, suffixes: Iterable[str] = tuple(FORMATS)) -> None:
    """ValueError if a file at `path` couldn't be written; by default `suffixes` are those that `save` writes.

    To be called before long work, so that its result isn't lost.
    """
    name, folder = short(path), short(path.parent)
    try:
        path = path.absolute()
    except FileNotFoundError:
        raise ValueError(f"{name} can't be written: the current folder is gone, change to another") from None
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{name} has the suffix {path.suffix!r}: use one of {', '.join(suffixes)}")
    try:
        there = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        there = stat.S_IFREG        # it will be
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {folder}: make it first") from None
    except (OSError, ValueError) as error:      # a name that is too long, links in a circle, a null byte
        raise ValueError(f"{name} can't be written ({reason(error)}): choose another path") from None
    if stat.S_ISDIR(there):
        raise ValueError(f"{name} is a folder: give the path of a file")
    if not stat.S_ISREG(there):
        raise ValueError(f"{name} is not a file but a pipe or a device: choose another path")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder {folder} can't be written to: choose another")


def short(path: str | os.PathLike) -> str:
    """A path to show in a message, not longer than about 300 characters."""
    text = repr(os.fspath(path))
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"
