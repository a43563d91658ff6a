"""Run: python -m pytest tests/test_picture.py

Pictures of every kind, size and defect; masks of every size, held against a brute force in exact fractions.
"""

import io
import math
import os
import re
import stat
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffedit_min.pictures import picture, picture_files

pytestmark = pytest.mark.filterwarnings("error")
sides = st.integers(1, 200)
multiples = st.sampled_from([8, 16, 32])
quick = settings(deadline=None, database=None, derandomize=True, max_examples=60)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width, height):
    """Slow waves of colour: a picture that scaling can't harm."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(5 * x + 3 * y), np.cos(4 * y), np.sin(6 * x - y)]
    return Image.fromarray((127.5 + 120 * np.stack(waves, -1)).round().astype(np.uint8))


def dot(width, height, x, y):
    mask = Image.new("L", (width, height), 0)
    mask.putpixel((x, y), 255)
    return mask


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message and len(message) < 300
    for word in words:
        assert str(word) in message, message


# ---- sizes


@quick
@given(w=sides, h=sides, multiple=multiples, area=st.sampled_from([64, 1000, 40_000]), size=st.none() | sides)
def test_any_size_goes_and_comes_back(w, h, multiple, area, size):
    image = noise(w, h)
    pixels, frame = picture.fit(image, multiple, area, size)
    sw, sh = frame.scaled
    assert pixels.shape == (1, 3, *frame.padded[::-1]) and pixels.dtype == torch.float32
    assert pixels.min() >= -1 and pixels.max() <= 1
    assert all(p % multiple == 0 and 0 <= p - s < multiple for p, s in zip(frame.padded, frame.scaled, strict=True))
    # Never squashed: one scale for both sides, to half a pixel (or to the one pixel that must remain).
    most = 4 * max(size * size if size else area, multiple**2)      # px, padded; so a narrow picture is shrunk further
    scale = min(math.sqrt((size * size if size else min(area, w * h)) / (w * h)), most / multiple / max(w, h))
    assert math.prod(frame.padded) <= 1.5 * most
    assert abs(sw - w * scale) <= 0.5 + 1e-9 or sw == 1
    assert abs(sh - h * scale) <= 0.5 + 1e-9 or sh == 1
    if size is None:
        assert sw <= w and sh <= h
        assert (frame.scaled == frame.size) or w * h > area or max(w, h) * multiple > most
    back = picture.unfit(pixels, frame)
    assert back.size == image.size == frame.size and back.mode == "RGB"
    if frame.scaled == frame.size:
        assert back.tobytes() == image.tobytes()


def test_a_photo_for_stable_diffusion():
    pixels, frame = picture.fit(Image.new("RGB", (1200, 900)), 8, 512 * 512)
    assert (frame.size, frame.scaled, frame.padded) == ((1200, 900), (591, 443), (592, 448))
    assert frame.grid(8) == (56, 74) and pixels.shape == (1, 3, 448, 592)
    assert picture.fit(Image.new("RGB", (768, 768)), 64, 512 * 512)[1].padded == (512, 512)
    assert picture.fit(Image.new("RGB", (100, 50)), 8, 512 * 512)[1].scaled == (100, 50)
    assert picture.fit(Image.new("RGB", (100, 50)), 8, 10, size=200)[1].scaled == (283, 141)


@pytest.mark.parametrize(("w", "h", "area", "size", "said"), [
    (4000, 3000, 64**2, None, "edited at 80 × 64 px: the picture was shrunk from 4000 × 3000 to 74 × 55"),
    (4000, 3000, 64**2, 256, "edited at 304 × 224 px: the picture was shrunk from 4000 × 3000 to 296 × 222"),
    (65, 64, 64**2, None, "edited at 64 × 64 px: the picture was shrunk from 65 × 64 to 64 × 64"),
    (2000, 1, 64**2, None, "edited at 1024 × 16 px: the picture was shrunk from 2000 × 1 to 1024 × 1"),
    (64, 64, 64**2, None, ""), (50, 30, 64**2, None, ""), (50, 30, 64**2, 64, ""),
])
def test_a_picture_that_is_shrunk_says_so(w, h, area, size, said):
    assert picture.fit(Image.new("RGB", (w, h)), 16, area, size)[1].shrunk == said


def test_a_very_narrow_picture_is_not_mostly_padding():
    for size, scaled in (((65_535, 1), (16_384, 1)), ((1, 65_535), (1, 16_384)), ((16_000, 4), (16_000, 4))):
        pixels, frame = picture.fit(Image.new("RGB", size), 64, 512 * 512)
        assert frame.scaled == scaled and math.prod(frame.padded) <= 4 * 512 * 512
        assert picture.unfit(pixels, frame).size == size
    assert picture.fit(Image.new("RGB", (9, 9)), 64, 512 * 512, size=8)[1].scaled == (8, 8)


def test_scaling_loses_little_and_does_not_alias():
    image = smooth(300, 200)
    for size in (100, 400):
        pixels, frame = picture.fit(image, 16, 10**6, size=size)
        assert frame.scaled != frame.size
        assert picture.psnr(picture.unfit(pixels, frame), image) > 52  # dB; 47 without a filter
    checks = Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8))
    pixels, _ = picture.fit(checks, 8, 64 * 64)
    assert pixels.abs().max() < 0.05  # grey, not some of the black and white dots


def test_padding_mirrors():
    for width, columns in ((3, [0, 1, 2, 1, 0, 1, 2, 1]), (1, [0] * 8), (2, [0, 1] * 4)):     # narrower than the margin
        image = noise(width, 8)
        padded = np.asarray(picture.to_image(picture.fit(image, 8, 10**6)[0]))
        assert np.array_equal(padded, np.asarray(image)[:, columns])
    image = noise(13, 10)
    pixels, frame = picture.fit(image, 8, 10**6)
    expected = np.pad(np.asarray(image), ((0, 6), (0, 3), (0, 0)), mode="reflect")
    assert np.array_equal(np.asarray(picture.to_image(pixels)), expected)


@quick
@given(w=sides, h=sides, multiple=multiples, area=st.sampled_from([500, 40_000]))
def test_valid_cells_hold_a_pixel_of_the_picture(w, h, multiple, area):
    frame = picture.fit(Image.new("RGB", (w, h)), multiple, area)[1]
    real = np.zeros(frame.padded[::-1], bool)
    real[: frame.scaled[1], : frame.scaled[0]] = True
    for factor in (4, 8):
        gh, gw = frame.grid(factor)
        assert np.array_equal(frame.valid(factor).numpy(), real.reshape(gh, factor, gw, factor).any(axis=(1, 3)))


def test_a_masks_share_leaves_the_padding_out():
    frame = picture.fit(Image.new("RGB", (32, 20)), 32, 10**6)[1]  # 4 x 4 cells of 8; the last row is padding alone
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, :1] = True
    assert frame.share(mask, 8) == 1 / 4
    mask[3] = True
    assert frame.share(mask, 8) == 1 / 4
    assert frame.share(torch.ones(4, 4, dtype=torch.bool), 8) == 1


def test_size_errors():
    image = noise(20, 10)
    with pytest.raises(ValueError) as error:
        picture.fit(image, 8, 400, size=0)
    one_line(error, "size is 0")
    pixels, frame = picture.fit(image, 8, 400)
    with pytest.raises(ValueError) as error:
        picture.unfit(pixels[..., :-8], frame)
    one_line(error, (1, 3, 16, 24), (1, 3, 16, 16))
    for padded in ((24, 16), (16, 24)):
        with pytest.raises(ValueError) as error:
            picture.Frame((9, 9), (9, 9), padded).grid(16)
        one_line(error, "{} x {}".format(*padded), "16 x 16")


# ---- pixels


def test_pixels_round_trip_exactly():
    every = Image.fromarray(np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
    pixels = picture.to_pixels(every)
    assert pixels.shape == (1, 3, 16, 16) and pixels.dtype == torch.float32 and pixels.is_contiguous()
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert float(pixels[0, 1, 2, 3]) == pytest.approx(every.getpixel((3, 2))[1] / 127.5 - 1, abs=1e-7)
    for same in (pixels, pixels[0], pixels.double(), pixels.clone().requires_grad_()):
        assert picture.to_image(same).tobytes() == every.tobytes()


def test_to_image_clamps_and_rounds():
    values = torch.tensor([-9.0, -1, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1, 7e4])
    image = picture.to_image(values.expand(1, 3, 1, 6))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 0, 255, 255]
    assert np.asarray(picture.to_image(torch.ones(3, 2, 2, dtype=torch.bfloat16))).min() == 255


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 4, 8, 8), (8, 8), (4, 8, 8), (1, 1, 3, 8, 8)])
def test_to_image_refuses_other_shapes(shape):
    with pytest.raises(ValueError) as error:
        picture.to_image(torch.zeros(shape))
    one_line(error, shape)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_to_image_refuses_what_is_not_finite(value):
    pixels = torch.zeros(1, 3, 2, 2)
    pixels[0, 0, 0, 0] = float(value)
    with pytest.raises(ValueError) as error:
        picture.to_image(pixels)
    one_line(error, "NaN or infinity")


# ---- kinds of picture


def oriented(image, orientation):
    """The image as a PNG file says it, read back."""
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    stored = np.asarray(noise(3, 2))
    upright = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.swapaxes(0, 1), 6: np.rot90(stored, -1), 7: stored[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    rgb = picture_files.to_rgb(oriented(noise(3, 2), orientation))
    assert np.array_equal(np.asarray(rgb), upright)
    assert rgb.getexif().get(0x0112) is None and not rgb.info  # else a viewer would turn it once more
    mask = Image.fromarray(stored[..., 0]).point(lambda v: 255 * (v > 99))
    frame = picture.Frame(rgb.size, rgb.size, (8, 8))
    expected = np.pad(upright[..., 0] > 99, ((0, 8 - rgb.height), (0, 8 - rgb.width)), mode="edge")
    assert np.array_equal(picture.fit_mask(oriented(mask, orientation), frame, 1)[0, 0].numpy(), expected)


def test_damaged_exif_is_ignored():
    image = noise(3, 2)
    image.info["exif"] = b"garbage"
    assert picture_files.to_rgb(image).tobytes() == noise(3, 2).tobytes()


def test_alpha_is_over_white():
    for mode, clear, half in (
        ("RGBA", (9, 9, 9, 0), (100, 0, 200, 128)),
        ("LA", (9, 0), (100, 128)),
        ("RGBa", (0, 0, 0, 0), (50, 0, 100, 128)),
        ("La", (0, 0), (50, 128)),
    ):
        image = Image.new(mode, (2, 1), clear)
        image.putpixel((1, 0), half)
        white, mixed = np.asarray(picture_files.to_rgb(image))[0].astype(int)
        assert white.tolist() == [255] * 3, mode
        expected = [177, 127, 227] if mode.lower() == "rgba" else [177] * 3
        assert np.abs(mixed - expected).max() <= 1, mode


def test_transparent_colours_are_over_white():
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert np.asarray(picture_files.to_rgb(palette))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    palette.info["transparency"] = 0
    assert np.asarray(picture_files.to_rgb(palette))[0].tolist() == [[255] * 3, [0, 0, 255]]
    grey = Image.new("L", (1, 1), 7)
    grey.info["transparency"] = 7
    assert np.asarray(picture_files.to_rgb(grey))[0].tolist() == [[255] * 3]


def test_grey_bilevel_and_cmyk():
    assert np.asarray(picture_files.to_rgb(Image.new("L", (1, 1), 77)))[0].tolist() == [[77] * 3]
    assert np.asarray(picture_files.to_rgb(Image.new("1", (1, 1), 1)))[0].tolist() == [[255] * 3]
    assert np.asarray(picture_files.to_rgb(Image.new("CMYK", (1, 1), (0, 255, 255, 0))))[0].tolist() == [[255, 0, 0]]
    assert np.asarray(picture_files.to_rgb(Image.new("HSV", (1, 1), (0, 255, 255))))[0].tolist() == [[255, 0, 0]]


def test_16_bits_are_scaled(tmp_path):
    values = np.array([[0, 128, 129, 256, 257, 32768, 65535]])
    expected = np.round(values / 257).astype(int).tolist()
    for image in (
        Image.fromarray(values.astype(np.uint16)),
        Image.fromarray(values.astype(np.int32)),
        Image.frombytes("I;16B", (7, 1), values.astype(">u2").tobytes()),
    ):
        assert image.mode.startswith("I")
        assert np.asarray(picture_files.to_rgb(image))[..., 1].tolist() == expected
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "16.png")
    assert np.asarray(picture_files.open_picture(tmp_path / "16.png"))[..., 0].tolist() == expected


@pytest.mark.parametrize(
    "image, words",
    [
        (Image.new("F", (2, 2), 0.5), "mode F"),
        (Image.fromarray(np.array([[0, 70_000]], np.int32)), "70000"),
        (Image.fromarray(np.array([[-1, 0]], np.int32)), "-1"),
        (Image.new("RGB", (0, 5)), "0 x 5"),
    ],
)
def test_pictures_without_a_meaning(image, words):
    with pytest.raises(ValueError) as error:
        picture_files.to_rgb(image)
    one_line(error, words)


@pytest.mark.parametrize("thing", ["a.png", None, np.zeros((2, 2, 3), np.uint8), torch.zeros(3, 2, 2)])
def test_not_a_pil_image(thing):
    for function in (picture_files.to_rgb, picture.to_pixels, lambda image: picture.fit(image, 8, 64)):
        with pytest.raises(TypeError) as error:
            function(thing)
        one_line(error, type(thing).__name__, "PIL.Image.open")


# ---- files


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tiff"])
def test_an_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"three.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    with pytest.warns(UserWarning, match=r"three\.\w+' has several frames or pages: the first one is taken$"):
        first = picture_files.open_picture(str(path))
    assert (first.mode, first.size) == ("RGB", (8, 8))
    assert first.getpixel((4, 4)) == (255, 0, 0)


def test_open_picture_turns_and_converts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("CMYK", (30, 20), (0, 0, 255, 0)).save(tmp_path / "turned.jpg", exif=exif)
    image = picture_files.open_picture(tmp_path / "turned.jpg")
    assert (image.mode, image.size, image.getpixel((5, 5))) == ("RGB", (20, 30), (255, 255, 0))


def test_what_is_transparent_is_white_in_a_picture_and_black_in_a_mask(tmp_path):
    Image.new("RGBA", (3, 2), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert picture_files.open_picture(tmp_path / "clear.png").getextrema() == ((255, 255),) * 3
    assert picture_files.open_mask(tmp_path / "clear.png").getextrema() == ((0, 0),) * 3
    with pytest.raises(ValueError) as error:
        picture_files.open_mask(tmp_path / "none.png")
    one_line(error, "none.png", "check the path")


def damaged(tmp_path):
    (tmp_path / "text.png").write_text("this is no picture\n")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.png", "cut.jpg"):
        noise(64, 64).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    noise(8, 8).save(tmp_path / "flipped.png")
    data = bytearray((tmp_path / "flipped.png").read_bytes())
    data[50] ^= 0xFF
    (tmp_path / "flipped.png").write_bytes(data)
    Image.new("F", (2, 2)).save(tmp_path / "float.tiff")
    return tmp_path


@pytest.mark.parametrize(
    "name, words",
    [
        ("missing.png", "No such file"),
        ("no/folder/missing.png", "check the path"),
        ("", "is a folder"),
        ("text.png", "save it as PNG or JPEG"),
        ("empty.png", "save it as PNG or JPEG"),
        ("cut.png", "export it again"),
        ("cut.jpg", "export it again"),
        ("flipped.png", "export it again"),
        ("float.tiff", "convert it to 8 bits"),
        ("null\0byte.png", "null byte"),
        ("two\nlines.png", "check the path"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, words):
    path = damaged(tmp_path) / name
    for given_path in (path, str(path)):
        with pytest.raises(ValueError) as error:
            picture_files.open_picture(given_path)
        one_line(error, repr(str(path)), words)


@pytest.mark.parametrize("address", ["http://example.org/a.png", "https://example.org/a.png", "HTTPS://example.org/a.png"])
def test_a_web_address(address):
    with pytest.raises(ValueError) as error:
        picture_files.open_picture(address)
    one_line(error, address, "download it first", f"(curl -O {address})")


def test_too_many_pixels(tmp_path, monkeypatch):
    noise(64, 64).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError) as error:
        picture_files.open_picture(tmp_path / "large.png")
    one_line(error, "large.png", "4096", "smaller")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path, formats):
        raise PermissionError(13, "Permission denied", path)

    noise(4, 4).save(tmp_path / "secret.png")
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ValueError) as error:
        picture_files.open_picture(tmp_path / "secret.png")
    one_line(error, "secret.png", "(Permission denied): check the path")


def test_what_a_decoder_says_is_kept_to_one_line(tmp_path, monkeypatch):
    noise(4, 4).save(tmp_path / "a.png")
    for complaint, words in ((RuntimeError("first\nsecond"), "(first second)"), (AssertionError(), "(AssertionError)")):

        def refuse(*given, complaint=complaint):
            raise complaint

        monkeypatch.setattr(Image.Image, "convert", refuse)
        with pytest.raises(ValueError) as error:
            picture_files.open_picture(tmp_path / "a.png")
        one_line(error, "a.png", words)


# ---- masks


def cell_under(x, pixels, scaled, factor):
    """The latent cell in which the centre of pixel x of `pixels` falls, in exact fractions."""
    return math.floor((x + Fraction(1, 2)) * scaled / pixels / factor)


def real(cells, frame):
    """The cells (1,1,h,w) that hold any picture; checks that those of padding alone repeat the nearest of them."""
    rows, columns = frame.valid(8).any(1), frame.valid(8).any(0)
    whole, part = cells[0, 0], cells[0, 0][rows][:, columns]
    padding = [(0, a - b) for a, b in zip(whole.shape, part.shape, strict=True)]
    assert np.array_equal(whole.numpy(), np.pad(part.numpy(), padding, mode="edge"))
    return part


@quick
@given(data=st.data(), w=sides, h=sides, multiple=multiples)
def test_one_white_pixel_marks_exactly_its_cell(data, w, h, multiple):
    x, y = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    frame = picture.fit(Image.new("RGB", (w, h)), multiple, 40_000)[1]
    cells = picture.fit_mask(dot(w, h, x, y), frame, 8)
    assert cells.shape == (1, 1, *frame.grid(8)) and cells.dtype == torch.bool
    assert real(cells, frame).nonzero().tolist() == [[y // 8, x // 8]]


@quick
@given(data=st.data(), w=sides, h=sides, mw=st.integers(1, 300), mh=st.integers(1, 300), area=st.integers(1, 20_000))
def test_masks_of_any_size(data, w, h, mw, mh, area):
    frame = picture.fit(Image.new("RGB", (w, h)), 32, area)[1]
    sw, sh = frame.scaled
    assert picture.fit_mask(Image.new("L", (mw, mh), 255), frame, 8).all()
    assert not picture.fit_mask(Image.new("L", (mw, mh), 0), frame, 8).any()
    x, y = data.draw(st.integers(0, mw - 1)), data.draw(st.integers(0, mh - 1))
    cells = real(picture.fit_mask(dot(mw, mh, x, y), frame, 8), frame)
    assert cells[cell_under(y, mh, sh, 8), cell_under(x, mw, sw, 8)]
    if mw >= sw and mh >= sh:  # as fine as the picture: that cell alone; coarser: it may cover several
        assert cells.sum() == 1
    # What lies to the left of a line and what lies to the right of it add up to the whole.
    line = np.zeros((mh, mw), np.uint8)
    line[:, : x + 1] = 255
    left = real(picture.fit_mask(Image.fromarray(line), frame, 8), frame)
    right = real(picture.fit_mask(Image.fromarray(255 - line), frame, 8), frame)
    assert (left | right).all()
    assert (left & right).any(0).sum() <= 1  # they share at most the column of cells that the line crosses


def test_thin_lines_survive():
    frame = picture.fit(Image.new("RGB", (1000, 750)), 8, 512 * 512)[1]
    line = Image.new("L", (1000, 750), 0)
    line.paste(255, (777, 0, 778, 750))
    cells = picture.fit_mask(line, frame, 8)[0, 0]
    assert torch.equal(cells.any(1), frame.valid(8).any(1)) and cells.any(0).sum() == 1


def test_a_coarse_mask_is_enlarged():
    frame = picture.Frame((60, 60), (60, 60), (64, 64))
    quarter = picture.fit_mask(dot(2, 2, 1, 0), frame, 8)[0, 0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, 4:] = True  # the mask's line at 30 lies in cell 3, 24..31, whose middle is left of it
    assert torch.equal(quarter, expected)
    exact = picture.Frame((64, 64), (64, 64), (64, 64))
    for x, y in ((0, 0), (1, 0), (1, 1)):
        cells = picture.fit_mask(dot(2, 2, x, y), exact, 8)[0, 0]
        assert cells.sum() == 16 and cells[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].all()


@quick
@given(w=sides, h=sides, area=st.integers(1, 40_000), seed=st.integers(0, 99))
def test_mask_image_and_back(w, h, area, seed):
    frame = picture.fit(Image.new("RGB", (w, h)), 16, area)[1]
    cells = torch.from_numpy(np.random.default_rng(seed).random(frame.grid(8)) < 0.5)
    shown = picture.mask_image(cells, frame, 8)
    assert (shown.mode, shown.size) == ("L", (w, h))
    (sw, sh), array = frame.scaled, np.asarray(shown)
    for x, y in ((0, 0), (w - 1, h - 1), (w // 2, h // 3)):
        assert array[y, x] == 255 * cells[cell_under(y, h, sh, 8), cell_under(x, w, sw, 8)]
    back, valid = picture.fit_mask(shown, frame, 8), frame.valid(8)
    assert torch.equal(back[0, 0][valid], cells[valid]) and real(back, frame).numel() == valid.sum()
    assert picture.mask_image(cells[None, None], frame, 8).tobytes() == shown.tobytes()
    assert picture.mask_image(cells.numpy(), frame, 8).tobytes() == shown.tobytes()


def test_what_counts_as_white():
    frame = picture.Frame((8, 8), (8, 8), (8, 8))
    for image, white in (
        (Image.new("L", (8, 8), 127), False),
        (Image.new("L", (8, 8), 128), True),
        (Image.new("1", (8, 8), 1), True),
        (Image.fromarray(np.full((8, 8), 40_000, np.uint16)), True),
        (Image.fromarray(np.full((8, 8), 20_000, np.uint16)), False),
        (Image.new("RGB", (8, 8), "yellow"), True),
        (Image.new("RGB", (8, 8), "blue"), False),
        (Image.new("RGBA", (8, 8), (255, 255, 255, 0)), False),
        (Image.new("RGBA", (8, 8), (255, 255, 255, 140)), True),
        (Image.new("LA", (8, 8), (255, 100)), False),
    ):
        assert bool(picture.fit_mask(image, frame, 8)) is white, image


def test_masks_of_latent_size_are_taken_as_they_are():
    frame = picture.Frame((20, 10), (20, 10), (32, 16))
    cells = torch.tensor([[True, False, True, True], [False, True, False, True]])  # a padding cell among them
    floats = cells.float().requires_grad_()
    for mask in (cells, cells.numpy(), floats, cells.double().numpy() * 0.5, cells[None, None], cells.bfloat16()):
        fitted = picture.fit_mask(mask, frame, 8)
        assert fitted.shape == (1, 1, 2, 4) and fitted.dtype == torch.bool and torch.equal(fitted[0, 0], cells)
    before = cells.clone()
    picture.fit_mask(cells, frame, 8)[:] = True
    assert torch.equal(cells, before)


@pytest.mark.parametrize("shape", [(4, 2), (16, 32), (8,), (2, 1, 2, 4), (2, 4, 3)])
def test_masks_of_another_shape(shape):
    frame = picture.Frame((20, 10), (20, 10), (32, 16))
    for mask in (np.zeros(shape, bool), torch.zeros(shape)):
        for function in (picture.fit_mask, picture.mask_image, picture.heat):
            with pytest.raises(ValueError) as error:
                function(mask, frame, 8)
            one_line(error, "(2, 4)", shape)
    with pytest.raises(TypeError) as error:
        picture.fit_mask("mask.png", frame, 8)
    one_line(error, "str")


# ---- to look at


def test_heat_colours_rise():
    frame = picture.Frame((1024, 8), (1024, 8), (1024, 8))
    ramp = torch.linspace(-0.2, 1.2, 128)[None].double()
    image = picture.heat(ramp, frame, 8)
    assert (image.mode, image.size) == ("RGB", (1024, 8))
    light = np.asarray(image).astype(float)[0] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) >= -0.8).all() and light[0] < 1 and light[-1] > 240  # -0.8: rounding to bytes
    for value, colour in zip((0, 0.25, 0.5, 0.75, 1), picture.HEAT, strict=True):
        assert picture.heat(np.full((1, 128), value), frame, 8).getpixel((512, 4)) == colour
    assert picture.heat(np.full((1, 128), 0.125), frame, 8).getpixel((0, 0)) == (44, 8, 56)  # rounded
    assert picture.heat(np.full((1, 128), np.nan), frame, 8).getpixel((0, 0)) == picture.HEAT[0]


def test_heat_leaves_padding_out_and_is_smooth():
    frame = picture.Frame((46, 44), (23, 22), (32, 32))
    values = torch.zeros(4, 4)
    values[:3, :3] = 1
    assert np.asarray(picture.heat(values, frame, 8)).reshape(-1, 3).tolist() == [list(picture.HEAT[-1])] * (46 * 44)
    values[:, 0] = 0  # cell 0 ends at 8 of 23 scaled pixels: at 16 of the picture's 46
    red = np.asarray(picture.heat(values, frame, 8))[20, :, 0]
    assert red[15] < picture.HEAT[2][0] < red[16]
    steps = np.asarray(picture.heat(torch.tensor([[0.0, 1]]), picture.Frame((16, 8), (16, 8), (16, 8)), 8))[4, :, 1]
    assert (np.diff(steps[4:12].astype(int)) > 0).all()  # from the middle of one cell to that of the next


def test_psnr():
    grey = np.full((4, 5, 3), 0.5)
    assert picture.psnr(grey, grey + 0.1) == pytest.approx(20)
    assert picture.psnr(grey[..., 0], grey[..., 0] - 0.01) == pytest.approx(40)
    assert picture.psnr(Image.new("L", (2, 2), 0), Image.new("RGB", (2, 2), "white")) == 0
    assert picture.psnr(Image.new("L", (2, 2), 10), np.full((2, 2, 3), 15, np.uint8)) == pytest.approx(
        20 * math.log10(255 / 5)
    )
    assert picture.psnr(noise(9, 9), noise(9, 9)) == math.inf
    other, where = grey.copy(), np.zeros((4, 5), bool)
    other[0], where[1:] = 0.6, True
    assert picture.psnr(grey, other) == pytest.approx(20 + 10 * math.log10(4))
    assert picture.psnr(grey, other, where) == math.inf
    assert picture.psnr(grey, other, ~where) == pytest.approx(20)


def test_psnr_errors():
    with pytest.raises(ValueError) as error:
        picture.psnr(noise(3, 2), noise(2, 3))
    one_line(error, (2, 3, 3), (3, 2, 3))
    for where in (np.zeros((2, 3), bool), np.ones((3, 2), bool)):
        with pytest.raises(ValueError) as error:
            picture.psnr(noise(3, 2), noise(3, 2), where)
        one_line(error, where.shape, "(2, 3)")


# ---- saving


def test_save_png_with_text(tmp_path):
    image = noise(9, 7)
    picture_files.save(image, tmp_path / "a.PNG", {"query": "a bowl of pêches 桃", "seed": "0"})
    with Image.open(tmp_path / "a.PNG") as read:
        assert read.tobytes() == image.tobytes()
        assert read.text == {"query": "a bowl of pêches 桃", "seed": "0"}
    picture_files.save(Image.new("L", (3, 3), 255), str(tmp_path / "mask.png"))
    with Image.open(tmp_path / "mask.png") as read:
        assert read.mode == "L"


@pytest.mark.parametrize("suffix, kind", [(".png", "PNG"), (".jpg", "JPEG"), (".jpeg", "JPEG"), (".webp", "WEBP")])
def test_save_formats(tmp_path, suffix, kind):
    image = smooth(64, 48)
    picture_files.save(image, tmp_path / f"a{suffix}", {"seed": "0"})
    with Image.open(tmp_path / f"a{suffix}") as read:
        assert read.format == kind and read.size == image.size and picture.psnr(read, image) > 40
    picture_files.save(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), tmp_path / f"a{suffix}")  # over the old one
    assert picture_files.open_picture(tmp_path / f"a{suffix}").getpixel((1, 1)) == (255, 255, 255)
    assert os.listdir(tmp_path) == [f"a{suffix}"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_saved_files_have_the_usual_permissions(tmp_path):
    picture_files.save(noise(2, 2), tmp_path / "a.png")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["save", "replace"])
def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, failure, place):
    path = tmp_path / "a.png"
    picture_files.save(noise(4, 4), path)
    before = path.read_bytes()

    def half(self, file, **options):
        file.write(b"\x89PNG half a picture")
        raise failure

    def refuse(source, target):
        raise failure

    monkeypatch.setattr(*((Image.Image, "save", half) if place == "save" else (os, "replace", refuse)))
    for target in (path, tmp_path / "new.png"):
        with pytest.raises(type(failure)):
            picture_files.save(noise(4, 4, seed=1), target)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


def test_save_errors(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for name, words in (
        ("a.bmp", [".bmp", ".png, .jpg, .jpeg, .webp"]),
        ("a", ["''", ".png, .jpg, .jpeg, .webp"]),
        ("none/a.png", [repr(str(tmp_path / "none"))]),
        ("folder.png", ["is a folder"]),
    ):
        with pytest.raises(ValueError) as error:
            picture_files.save(noise(2, 2), tmp_path / name)
        one_line(error, *words)
        with pytest.raises(ValueError, match=re.escape(str(error.value))):
            picture_files.check_target(tmp_path / name)
    assert os.listdir(tmp_path) == ["folder.png"]
    assert picture_files.check_target(tmp_path / "new.webp") is None


@pytest.mark.parametrize(("name", "most"), [("a.webp", 16_383), ("a.jpg", 65_500), ("a.jpeg", 65_500)])
def test_a_size_that_a_format_cannot_hold(tmp_path, name, most):
    path = tmp_path / name
    picture_files.save(Image.new("RGB", (1, most)), path)
    path.unlink()
    for size in ((1, most + 1), (most + 1, 1)):
        with pytest.raises(ValueError) as error:
            picture_files.save(Image.new("RGB", size), path)
        one_line(error, repr(str(path)), f"can't hold {size[0]} x {size[1]} pixels", f"at most {most:,} a side, use .")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, how: how != os.W_OK)
    with pytest.raises(ValueError) as error:
        picture_files.check_target(tmp_path / "a.png")
    one_line(error, repr(str(tmp_path)), "choose another")


# ---- nothing is changed


def test_inputs_are_not_changed(tmp_path):
    image, alpha, mask = oriented(noise(20, 14), 6), noise(14, 20).convert("RGBA"), dot(14, 20, 3, 3)
    alpha.putalpha(100)
    pixels, frame = picture.fit(image, 8, 100)
    cells, values = frame.valid(8), torch.linspace(-1, 2, frame.valid(8).numel()).reshape(frame.grid(8))
    tensors, images = [pixels, cells, values], [image, alpha, mask]

    def state():
        return [t.clone() for t in tensors], [(i.mode, i.size, i.tobytes(), dict(i.info)) for i in images]

    tensors_before, images_before = state()
    for one in images:
        picture_files.to_rgb(one)
        picture.fit(one, 8, 100)
        picture.fit_mask(one, frame, 8)
        picture.psnr(one, one)
        for name in ("a.png", "a.jpg"):
            picture_files.save(one, tmp_path / name, {"a": "b"})
    picture.unfit(pixels, frame)
    picture.to_image(pixels * 3)
    picture.heat(values, frame, 8)
    picture.mask_image(cells, frame, 8)
    picture.fit_mask(cells, frame, 8)
    tensors_after, images_after = state()
    assert images_after == images_before
    assert all(torch.equal(a, b) for a, b in zip(tensors_after, tensors_before, strict=True))
    assert picture_files.FORMATS[".png"] == {"format": "PNG"}
