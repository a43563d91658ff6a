"""Run: python -m pytest tests/test_picture_matrix.py

Every kind of picture is opened the right way up, with the right pixels; `diffedit-min edit` takes it; and what is no
picture is refused.

Each file is written together with what it shows: an RGB array that was never in a file, or for formats with loss what
Pillow decodes of it, turned by numpy.
"""

import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

import diffedit_min as dm
from diffedit_min import loading

OPTIONS = ("--query", "a basket of pears", "--model", "random", "-o", "steps=2", "-o", "mask_samples=1")
RNG = np.random.default_rng(0)
PHOTO = np.asarray(Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((45, 37), Image.BICUBIC))
GREY = PHOTO[..., 1]
FEW = PHOTO // 64 * 64      # colours enough for a palette


def grey(values):
    return np.repeat(values[..., None], 3, axis=2)


def over_white(rgba):
    alpha = rgba[..., 3:].astype(int)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def decoded(path):
    return np.asarray(Image.open(path).convert("RGB"))


def saved(name, array, shown=None, **options):
    """Write an array as a file: its name, and what it shows; None: what Pillow decodes."""
    def write():
        image = array if isinstance(array, Image.Image) else Image.fromarray(array)
        image.save(name, **options)
        return decoded(name) if shown is None else shown
    return write


def palette(transparent=None):
    image = Image.fromarray(FEW).quantize(256)
    assert np.array_equal(np.asarray(image.convert("RGB")), FEW)
    if transparent is not None:
        image.info["transparency"] = image.getpixel(transparent)
    return image


def clear_at(x, y):
    """`FEW` with the colour of that pixel clear, hence white."""
    return np.where((FEW == FEW[y, x]).all(axis=2)[..., None], 255, FEW).astype(np.uint8)


TURNED = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
          5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
          8: np.rot90}


def turned(name, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation

    def write():
        Image.fromarray(PHOTO).save(name, exif=exif, **options)
        return TURNED[orientation](decoded(name))
    return write


def one_value_clear():
    """Grey of 16 bits, of which black is marked as transparent, hence white; Pillow doesn't write such files."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in GREY // 64 * 64 * np.uint16(257))
    with open("a.png", "wb") as file:
        file.write(png_of(*GREY.shape[::-1], 16, 0, (b"tRNS", b"\0\0"), (b"IDAT", zlib.compress(rows))))
    return grey(np.where(GREY < 64, 255, GREY // 64 * 64))


def png_of(width, height, bits, kind, *chunks):
    """A PNG file of these chunks."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (header, *chunks, (b"IEND", b"")))


def tiff_of_12_bits():
    """Grey of 0..4095, as scanners and cameras of laboratories write it; two pixels in three bytes."""
    wide = GREY[:, :44].astype(np.uint32) * 16 + GREY[:, :44] // 16         # 255 becomes 4095
    pairs = wide.reshape(-1, 2)
    data = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1)
    tags = ((256, 44), (257, 37), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 37), (279, data.size))
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    with open("a.tiff", "wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 8 + data.size) + data.astype(np.uint8).tobytes())
        file.write(struct.pack("<H", len(tags)) + directory + bytes(4))
    return grey(GREY[:, :44])


def long_text(*chunks, at=-12, profile=None):
    """A PNG with more in it than Pillow reads: chunks of these kinds, at its end or its beginning; maybe a profile."""
    def write():
        texts = PngImagePlugin.PngInfo()
        texts.add_text("diffedit", "{}")
        Image.fromarray(PHOTO).save("a.png", pnginfo=texts, icc_profile=profile)
        with open("a.png", "rb") as file:
            whole = file.read()
        more = b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
                        for kind, data in chunks)
        with open("a.png", "wb") as file:
            file.write(whole[:at] + more + whole[at:])
        return PHOTO
    return write


MEGABYTES = zlib.compress(bytes(3 * 2**20))
ALPHA = np.dstack([PHOTO, np.where(GREY > 128, 255, np.where(GREY > 90, 100, 0)).astype(np.uint8)])
RED, GREEN, BLUE = (Image.new("RGB", (21, 12), colour) for colour in ("red", "lime", "blue"))
SEVERAL = {"save_all": True, "append_images": [GREEN, BLUE]}
GOOD = {
    "RGB png": saved("a.png", PHOTO, PHOTO),
    "RGBA png": saved("a.png", ALPHA, over_white(ALPHA)),
    "palette png": saved("a.png", palette(), FEW),
    "palette png with a clear colour": saved("a.png", palette((3, 3)), clear_at(3, 3)),
    "grey png": saved("a.png", GREY, grey(GREY)),
    "png with a long compressed text": long_text((b"zTXt", b"workflow\0\0" + MEGABYTES)),
    "png with a long compressed text in Unicode": long_text((b"iTXt", b"prompt\0\1\0\0\0" + MEGABYTES), at=33),
    "png with 70 MB of text": long_text(*[(b"tEXt", b"log\0" + b"x" * 10**7)] * 7),
    "grey png with alpha": saved("a.png", np.dstack([GREY, ALPHA[..., 3]]),
                                 over_white(np.dstack([grey(GREY), ALPHA[..., 3]]))),
    "1 bit png": saved("a.png", Image.fromarray(GREY > 99), grey(((GREY > 99) * 255).astype(np.uint8))),
    "16 bit png": saved("a.png", GREY.astype(np.uint16) * 257, grey(GREY)),
    "16 bit png with a clear value": one_value_clear,
    "tiff turned": saved("a.tiff", PHOTO, TURNED[6](PHOTO), tiffinfo={0x0112: 6}),
    "jpeg": saved("a.jpg", PHOTO),
    "grey jpeg": saved("a.jpg", GREY),
    "CMYK jpeg": saved("a.jpg", Image.fromarray(PHOTO).convert("CMYK")),
    "progressive jpeg": saved("a.jpg", PHOTO, progressive=True),
    "jpeg of the wrong suffix": saved("a.png", PHOTO, format="JPEG"),
    **{f"jpeg turned {i}": turned("a.jpg", i) for i in TURNED},
    "png turned": turned("a.png", 6),
    "webp turned": turned("a.webp", 8, lossless=True),
    "webp": saved("a.webp", PHOTO, quality=80),
    "webp without loss": saved("a.webp", PHOTO, PHOTO, lossless=True),
    "webp with alpha": saved("a.webp", ALPHA, over_white(ALPHA), lossless=True, exact=True),
    "gif": saved("a.gif", palette(), FEW),
    "bmp": saved("a.bmp", PHOTO, PHOTO),
    "tiff": saved("a.tiff", PHOTO, PHOTO),
    "12 bit tiff": tiff_of_12_bits,
    "CMYK tiff": saved("a.tif", Image.fromarray(PHOTO).convert("CMYK")),
    "16 bit tiff": saved("a.tiff", GREY.astype(np.uint16) * 257, grey(GREY)),
    "ppm": saved("a.ppm", PHOTO, PHOTO),
    "16 bit pgm": saved("a.pgm", (GREY.astype(np.uint16) * 257).astype(np.int32), grey(GREY)),
    "animated gif": saved("a.gif", RED, np.asarray(RED), **SEVERAL),
    "animated png": saved("a.png", RED, np.asarray(RED), **SEVERAL),
    "animated webp": saved("a.webp", RED, np.asarray(RED), lossless=True, **SEVERAL),
    "tiff of three pages": saved("a.tiff", RED, np.asarray(RED), **SEVERAL),
    **{f"{w} x {h}": saved("a.png", np.resize(PHOTO, (h, w, 3)), np.resize(PHOTO, (h, w, 3)))
       for w, h in ((1, 1), (1, 90), (90, 1), (8, 8), (64, 32), (33, 130), (301, 7))},
}
if features.check("avif"):
    GOOD["avif"] = saved("a.avif", PHOTO)


@pytest.fixture(scope="module")
def network():
    return dm.load("random", device="cpu")


@pytest.fixture
def run(call_command, network, monkeypatch):
    """The command, with one random model for all of these."""
    monkeypatch.setattr(loading, "load", lambda *_, **__: network)
    return call_command


@pytest.mark.filterwarnings("default::UserWarning:diffedit_min")
@pytest.mark.parametrize("name", GOOD)
def test_every_picture_is_opened_upright(tmp_path, monkeypatch, recwarn, name):
    monkeypatch.chdir(tmp_path)
    shown = GOOD[name]()
    [path] = os.listdir(tmp_path)
    opened = dm.pictures.open_picture(path)
    assert opened.mode == "RGB" and np.array_equal(np.asarray(opened), shown)
    several = any(word in name for word in ("animated", "pages"))
    told = [str(warning.message) for warning in recwarn]
    assert told == ([f"{path!r} has several frames or pages: the first one is taken"] if several else [])


@pytest.mark.parametrize("name", ["jpeg turned 6", "16 bit png"])
def test_the_command_edits_what_is_opened(run, network, tmp_path, name):
    shown = np.ascontiguousarray(GOOD[name]())
    [path] = os.listdir(tmp_path)
    done = run("edit", path, *OPTIONS, "--out", "out.png")
    assert (done.code, done.err) == (0, "")
    expected = dm.diffedit(network, Image.fromarray(shown), "a basket of pears", steps=2, mask_samples=1)
    result = Image.open("out.png")
    assert result.size == shown.shape[1::-1] and result.mode == "RGB"
    assert np.array_equal(np.asarray(result), np.asarray(expected.image))


@pytest.mark.parametrize(("name", "size"), [("RGBA png", ()), ("jpeg turned 6", ("--size", "24")), ("16 bit png", ()),
                                            ("palette png with a clear colour", ())])
def test_what_is_composed_is_the_input_bit_for_bit(run, tmp_path, name, size):
    shown = GOOD[name]()
    [path] = os.listdir(tmp_path)
    mask = Image.new("L", (3, 3))
    mask.putpixel((2, 2), 255)
    mask.save("corner.png")
    done = run("edit", path, *OPTIONS, *size, "--mask", "corner.png", "--composite", "--out", "out.png")
    assert done.code == 0, done.err
    result = Image.open("out.png")
    outside = np.asarray(dm.pictures.compositing.at_size(mask, result.size)) == 0
    assert np.array_equal(np.asarray(dm.pictures.to_rgb(result))[outside], shown[outside])
    if name == "RGBA png":
        assert np.array_equal(np.asarray(result)[outside], ALPHA[outside])


# ---- what is read beside the pixels


PROFILE = bytes(16) + b"RGB " + bytes(108)


def test_a_long_text_takes_neither_settings_nor_profile_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for at in (33, -12):
        long_text((b"zTXt", b"workflow\0\0" + MEGABYTES), at=at, profile=PROFILE)()
        assert dm.pictures.picture_files.read_text("a.png") == {"diffedit": "{}"}
        assert dm.pictures.open_picture("a.png").info == {"icc_profile": PROFILE}


def test_of_a_very_large_profile_only_the_picture_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long_text(profile=PROFILE + bytes(2**20))()
    with pytest.warns(UserWarning, match="^'a.png' has a colour profile of more than 1,048,576 bytes, which is "):
        opened = dm.pictures.open_picture("a.png")
    assert np.array_equal(np.asarray(opened), PHOTO) and opened.info == {}


@pytest.mark.parametrize("space", [b"RGB ", b"GRAY", b"CMYK", b"Lab "])
@pytest.mark.parametrize(("mode", "fits"), [("RGB", True), ("RGBA", True), ("P", True), ("L", True), ("LA", True),
                                            ("1", True), ("I;16", True), ("CMYK", False), ("LAB", False)])
def test_a_profile_stays_only_where_it_is_for_the_colours_that_are_returned(mode, fits, space):
    """Not where the colours are made from others (CMYK, LAB), and not one that is for grey or CMYK."""
    profile = bytes(16) + space + bytes(108)
    image = Image.new(mode, (4, 3))
    image.info = {"icc_profile": profile, "exif": b"", "comment": "no"}
    kept = {"icc_profile": profile} if fits and space == b"RGB " else {}
    assert dm.pictures.to_rgb(image).info == kept


def test_an_edit_has_its_inputs_profile_also_when_pillow_writes_it(tmp_path, model):
    picture = Image.fromarray(PHOTO)
    picture.info["icc_profile"] = PROFILE
    edit = dm.diffedit(model, picture, "pears", steps=2, mask_samples=1)
    same = dm.diffedit(model, picture, "pears", "pears", steps=2, mask_samples=1)
    both = dm.prompt_to_prompt(model, picture, "a pear", "a cat", steps=2)
    assert same.empty_mask and not edit.empty_mask
    plain = dm.invert(model, [picture, Image.fromarray(PHOTO)], steps=2)
    for image in (edit.image, edit.input, same.image, both.image, both.source, plain[0].image):
        image.save(tmp_path / "a.png")
        assert Image.open(tmp_path / "a.png").info == {"icc_profile": PROFILE}
    assert edit.mask_image.info == plain[1].image.info == {}        # a mask has no colours


@pytest.mark.parametrize(("chunks", "told"), [
    ([(b"gAMA", struct.pack(">I", 100_000))], True), ([(b"gAMA", struct.pack(">I", 45_455))], False), ([], False),
    ([(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))], False)])
def test_a_gamma_that_browsers_apply_is_said(tmp_path, chunks, told):
    (tmp_path / "a.png").write_bytes(png_of(1, 1, 8, 0, *chunks, (b"IDAT", zlib.compress(b"\0\x80"))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert dm.pictures.open_picture(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)
    assert [str(warning.message).endswith("has a gamma of 1, which is not applied: browsers show it lighter or darker; "
                                          "save it without") for warning in caught] == [True] * told


def test_the_pages_of_a_tiff_are_not_counted(tmp_path, monkeypatch):
    """Walking all of them takes half a minute for 80,000; here it would end in an error, as the third is damaged."""
    monkeypatch.chdir(tmp_path)
    RED.save("a.tiff", save_all=True, append_images=[GREEN, BLUE])
    with Image.open("a.tiff") as image:
        image.seek(1)
        after = image.tag_v2.next
    with open("a.tiff", "r+b") as file:
        file.seek(after)
        file.write(b"\xff" * 40)
    with pytest.warns(UserWarning, match="^'a.tiff' has several frames or pages: the first one is taken$"):
        assert np.array_equal(np.asarray(dm.pictures.open_picture("a.tiff")), np.asarray(RED))


def test_pictures_are_opened_in_one_place():
    """`Image.open` without a list of formats takes what a file holds, whatever its name: EPS runs Ghostscript."""
    package = Path(dm.__file__).parent
    opening = {path.relative_to(package).as_posix() for path in package.rglob("*.py")
               if re.search(r"^[^#`\"]*\bImage\.open\(", path.read_text(encoding="utf-8"), re.MULTILINE)}
    assert opening == {"pictures/picture_files.py"}


# ---- what is no picture


def write(name, data):
    def write():
        with open(name, "wb") as file:
            file.write(data)
    return name, write


def cut(name, **options):
    """The first half of a picture."""
    def write():
        Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(name, **options)
        os.truncate(name, os.path.getsize(name) // 2)
    return name, write


def flipped():
    Image.fromarray(PHOTO).save("a.png")
    with open("a.png", "r+b") as file:
        file.seek(60)
        file.write(b"\xff\x00\xff")


def loop():
    os.symlink("a.png", "a.png")


OTHER = "is not a picture that can be read here (PNG, JPEG, "
BROKEN = "is cut short, damaged or unusual ("
WEB = "is a web address: download it first (curl -O "
BAD = {
    "missing": ("a.png", None, "can't be opened (No such file or directory): check the path"),
    "missing folder": ("none/a.png", None, "can't be opened (No such file or directory): check the path"),
    "folder": ("folder", lambda: os.mkdir("folder"), "is a folder: give the path of one picture in it"),
    "nothing": ("", None, "can't be opened (No such file or directory): check the path"),
    "below a file": ("a.png/b.png", write("a.png", b"x")[1], "can't be opened (Not a directory): check the path"),
    "name too long": (f"{'a' * 300}.png", None, "can't be opened (File name too long): check the path"),
    "http": ("http://example.org/a.png", None, f"{WEB}http://example.org/a.png) and give the file's path"),
    "https": ("https://example.org/a.png?w=1&h=2", None,
              f"{WEB}'https://example.org/a.png?w=1&h=2') and give the file's path"),
    "ftp": ("FTP://example.org/a.png", None, f"{WEB}FTP://example.org/a.png) and give the file's path"),
    "eps": (*write("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"), OTHER),
    "tga": ("a.tga", lambda: Image.fromarray(PHOTO).save("a.tga"), OTHER),
    "icon": ("a.ico", lambda: Image.fromarray(PHOTO).save("a.ico"), OTHER),
    "empty": (*write("a.png", b""), OTHER),
    "text": (*write("a.png", b"no picture\n"), OTHER),
    "web page": (*write("a.jpg", b"<!DOCTYPE html><html><title>404</title></html>"), OTHER),
    "svg": (*write("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'), OTHER),
    "pdf": (*write("a.pdf", b"%PDF-1.7\n%%EOF\n"), OTHER),
    "zip": (*write("a.zip", b"PK\x03\x04" + bytes(40)), OTHER),
    "heic": (*write("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), OTHER),
    "only PNG's first bytes": (*write("a.png", b"\x89PNG\r\n\x1a\n"), OTHER),
    "cut png": (*cut("a.png"), BROKEN),
    "cut jpeg": (*cut("a.jpg"), BROKEN),
    "cut webp": (*cut("a.webp"), None),
    "cut gif": (*cut("a.gif"), BROKEN),
    "cut bmp": (*cut("a.bmp"), BROKEN),
    "cut tiff": (*cut("a.tiff", compression="tiff_lzw"), None),
    "damaged png": ("a.png", flipped, BROKEN),
    "a png without pixels": (*write("a.png", png_of(9, 9, 8, 2, (b"IDAT", b""))), BROKEN),
    "a png of 10 gigapixels": (*write("a.png", png_of(10**5, 10**5, 8, 2, (b"IDAT", b""))), "has too many pixels ("),
    "floats": ("a.tiff", lambda: Image.new("F", (9, 9)).save("a.tiff"),
               BROKEN + "the picture's pixels are floats (mode F)"),
    "32 bits": ("a.tiff", lambda: Image.fromarray(np.full((9, 9), 10**6, np.int32)).save("a.tiff"),
                BROKEN + "the picture's pixels go from 1000000 to 1000000"),
    "a pipe": ("a.png", lambda: os.mkfifo("a.png"),
               "is not a file but a pipe or a device: save the picture to a file first"),
    "a link to itself": ("a.png", loop, "can't be opened (Too many levels of symbolic links): check the path"),
}


@pytest.mark.skipif(os.name == "nt", reason="pipes, links and the system's words are POSIX's")
@pytest.mark.parametrize(("name", "place"), [
    *((name, "picture") for name in BAD), *((name, "mask") for name in ("missing", "text", "cut png", "32 bits"))])
def test_what_is_no_picture_is_refused_in_one_line(run, tmp_path, monkeypatch, name, place):
    def load(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr(loading, "load", load)
    path, prepare, message = BAD[name]
    if prepare is not None:
        prepare()
    if place == "mask":
        Image.fromarray(PHOTO).save("good.bmp")
    before = sorted(os.listdir(tmp_path))
    given = (path,) if place == "picture" else ("good.bmp", "--mask", path)
    done = run("edit", *given, *OPTIONS, "--out", "out.png")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1) and sorted(os.listdir(tmp_path)) == before
    assert done.err.startswith(f"error: {path!r} {message or ''}") and len(done.err) < 700
