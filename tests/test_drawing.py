"""Run: python -m pytest tests/test_drawing.py

Masks shown over pictures, and rows of pictures with captions.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from diffedit_min.pictures import drawing, picture

pytestmark = pytest.mark.filterwarnings("error")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message and all(str(word) in message for word in words), message


def test_overlay():
    image = Image.new("RGB", (60, 40), (200, 100, 50))
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (20, 10, 40, 30))
    shown = np.asarray(drawing.overlay(image, mask)).astype(int)
    assert shown.shape == (40, 60, 3)
    assert shown[20, 30].tolist() == [200, 100, 50]  # inside: as it was
    assert shown[5, 5].sum() < 350 / 2  # outside: darker
    assert shown[20, 19].sum() == 0 and shown[20, 20].tolist() == [255, 230, 0]  # the two lines of the outline
    large = np.asarray(drawing.overlay(image.resize((1200, 800)), mask.resize((1200, 800), Image.Resampling.NEAREST)))
    assert (large[400, 390:410] == [255, 230, 0]).all(-1).sum() == 3 == (large[400, 390:410] == 0).all(-1).sum()
    for whole, expected in ((255, image), (0, Image.new("RGB", image.size, (80, 40, 20)))):
        assert picture.psnr(drawing.overlay(image, Image.new("L", image.size, whole)), expected) > 48  # to one of 255
    with pytest.raises(ValueError) as error:
        drawing.overlay(image, Image.new("L", (60, 41)))
    one_line(error, (60, 41), (60, 40))


def test_strip_sizes():
    small = drawing.strip([noise(64, 64)] * 3, ["a", "b", "c"], gap=10)
    assert small.width == 3 * 192 + 4 * 10 and 192 + 20 < small.height < 192 + 60
    assert drawing.strip([noise(64, 64)], ["a"]).height > 192
    assert drawing.strip([noise(100, 500)], [""], gap=0).height == 500
    assert drawing.strip([noise(100, 500)], [""], gap=0, scale=0.5).size[1] == 250
    mixed = drawing.strip([noise(200, 100), Image.new("L", (300, 300)), noise(1, 1)], ["a", "b", "c"], gap=0)
    assert mixed.width == 600 + 300 + 300
    assert drawing.strip([noise(2, 200)], ["caption"], gap=0).width > 60  # room for a word


def test_strip_shows_pictures_and_captions():
    images = [Image.new("RGB", (200, 200), colour) for colour in ("red", "blue")]
    row = np.asarray(drawing.strip(images, ["one", ""], gap=8))
    assert (row[8:208, 8:208] == [255, 0, 0]).all() and (row[8:208, 216:416] == [0, 0, 255]).all()
    assert (row[208:, 8:208] < 128).any() and (row[208:, 216:] == 255).all()  # one caption
    exact = noise(50, 200)
    row = drawing.strip([exact], [""], gap=0)
    left = (row.width - 50) // 2
    assert row.crop((left, 0, left + 50, 200)).tobytes() == exact.tobytes()


def test_captions_wrap():
    image = Image.new("RGB", (200, 200), "red")
    short = drawing.strip([image] * 2, ["a few words", ""], gap=20)
    for caption in ("many words " * 20, "x" * 200, "one\ntwo\nthree\nfour"):
        long = drawing.strip([image] * 2, [caption, ""], gap=20)
        assert long.width == short.width and long.height > short.height + 30
        assert (np.asarray(long)[:, :20] == 255).all() and (np.asarray(long)[:, 220:240] == 255).all()
    same = drawing.strip([image] * 2, ["des peches", ""], gap=20)
    assert drawing.strip([image] * 2, ["des pêches\n", ""], gap=20).tobytes() == same.tobytes()


def lines_before(text, font, width):
    """The lines of a caption by the letter: the longest beginning that fits, back to a space if there is one."""
    lines, rest = [], text.strip()
    while rest:
        end = next((n for n in range(2, len(rest) + 1) if font.getlength(rest[:n]) > width), len(rest) + 1) - 1
        if end < len(rest) and " " in rest[: end + 1]:
            end = rest[: end + 1].rindex(" ")
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines


@settings(deadline=None, database=None, derandomize=True, max_examples=30)
@given(text=st.text(alphabet="iW .a", max_size=80), width=st.integers(40, 200))
def test_a_line_holds_what_fits(text, width):
    row = Image.new("RGB", (width + 16, 4))
    font = ImageFont.load_default(18)
    height = 8 + sum(font.getmetrics()) * len(lines_before(text, font, width))
    assert drawing.headed(row, text).height == 4 + height


@pytest.mark.parametrize("caption", ["x" * 10**6, "many words " * 10**5, "\n" * 10**6, "\0" * 10**5, "ﷺ" * 10**5])
def test_of_a_long_caption_the_beginning_is_shown(caption):
    """Trying every length of every line would take hours."""
    shown = drawing.strip([Image.new("RGB", (200, 200))], [caption])
    assert shown.width < 300 and shown.height < 10_000


@pytest.mark.parametrize(("size", "shown"), [((65_535, 1), (65_535, 1)), ((1, 65_535), (1, 65_535)),
                                             ((2_000, 10), (4_000, 20)), ((100, 50), (400, 200))])
def test_long_pictures_are_not_enlarged_beyond_what_fits(size, shown):
    row = drawing.strip([Image.new("RGB", size)], [""], gap=0)
    assert shown[0] <= row.width < shown[0] + 100 and shown[1] <= row.height < shown[1] + 60


def test_a_heading_is_above_its_row():
    row = drawing.strip([noise(200, 200)] * 2, ["one", "two"])
    for heading, lines in (("1  A step", 1), ("word " * 40, 5)):
        shown = drawing.headed(row, heading)
        height = shown.height - row.height
        assert shown.width == row.width and shown.crop((0, height, *shown.size)).tobytes() == row.tobytes()
        above = np.asarray(shown)[:height]
        assert 20 * lines < len(above) < 30 * lines + 8 and (above < 128).any()
        assert (above[:, :8] == 255).all() and (above[:, -8:] == 255).all()


@pytest.mark.parametrize("images, captions", [([], []), ([noise(8, 8)], []), ([noise(8, 8)], ["a", "b"])])
def test_strip_wants_a_caption_for_each(images, captions):
    with pytest.raises(ValueError) as error:
        drawing.strip(images, captions)
    one_line(error, f"{len(images)} and {len(captions)}")


def test_inputs_are_not_changed():
    image, mask = noise(14, 20).convert("RGBA"), Image.new("L", (14, 20), 255)
    before = image.tobytes(), mask.tobytes()
    drawing.overlay(image, mask)
    drawing.strip([image, mask], ["a", "b"])
    assert (image.tobytes(), mask.tobytes()) == before
