"""Run: python -m pytest tests/test_masks.py

Masks in files of every mode: what has nothing white is refused with what it holds, and what may be a mistake is said.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffedit_min.pictures import masks, picture_files

quick = settings(deadline=None, database=None, derandomize=True, max_examples=60)
HALF = np.zeros((8, 12), dtype=bool)
HALF[:, 6:] = True


def grey(dark, bright, kind=np.uint8):
    return Image.fromarray(np.where(HALF, bright, dark).astype(kind))


def palette(*colours):
    image = Image.fromarray(HALF.astype(np.uint8)).convert("P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def strokes(colour, opacity=255):
    """Strokes of that colour on a transparent ground that is white or black below."""
    rgba = np.zeros((*HALF.shape, 4), dtype=np.uint8)
    rgba[:, :3, :3] = 255
    rgba[HALF] = (*colour, opacity)
    return Image.fromarray(rgba)


BLACK = {
    "values 0 and 1": (grey(0, 1), "its values are 0 and 1, of 255"),
    "values 0, 1 and 2": (Image.fromarray(np.resize(np.arange(3, dtype=np.uint8), (4, 6))),
                          "its values are 0, 1 and 2, of 255"),
    "a dark ramp": (Image.fromarray(np.resize(np.arange(128, dtype=np.uint8), (4, 128))),
                    "its values go from 0 to 127, of 255"),
    "black": (grey(0, 0), "every pixel is 0 of 255"),
    "grey": (grey(90, 90), "every pixel is 90 of 255"),
    "black in one bit": (Image.new("1", (5, 5)), "every pixel is 0 of 255"),
    "black in colours": (Image.new("RGB", (5, 5)), "every pixel is 0 of 255"),
    "a palette of black and 1": (palette((0, 0, 0), (1, 1, 1)), "its values are 0 and 1, of 255"),
    "a palette of dark red": (palette((0, 0, 0), (128, 0, 0)),
                              "its colours are (0, 0, 0) and (128, 0, 0) (red, green, blue)"),
    "blue strokes on black": (Image.merge("RGB", [grey(0, 0), grey(0, 0), grey(0, 255)]),
                              "its colours are (0, 0, 0) and (0, 0, 255) (red, green, blue)"),
    "many reds": (Image.merge("RGB", [Image.linear_gradient("L"), *[Image.new("L", (256, 256))] * 2]),
                  "its brightest colour is (255, 0, 0) (red, green, blue)"),
    "16 bits that hold 8": (grey(0, 255, np.uint16), "its values are 0 and 255, of 65535"),
    "mode I with 0..255": (grey(0, 255, np.int32), "its values are 0 and 255, of 65535"),
    "16 bits with many values": (Image.fromarray(np.resize(np.arange(256, dtype=np.uint16), (4, 256))),
                                 "its values go from 0 to 255, of 65535"),
    "black strokes": (strokes((0, 0, 0)), "its strokes are black on a transparent ground"),
    "dark blue strokes": (strokes((0, 0, 90)), "its strokes are at most 10 of 255 on a transparent ground"),
    "faint strokes": (strokes((255, 255, 255), 100), "its strokes are almost transparent (at most 100 of 255)"),
    "grey with alpha": (strokes((0, 0, 0)).convert("LA"), "its strokes are black on a transparent ground"),
    "all transparent": (strokes((255, 255, 255), 0), "all of it is transparent"),
    "CMYK black": (Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "every pixel is 0 of 255"),
}


@pytest.mark.parametrize("name", BLACK)
def test_a_mask_without_white_is_refused_with_what_it_holds(tmp_path, name):
    image, holds = BLACK[name]
    path = str(tmp_path / "mask.tiff")
    image.save(path)
    with pytest.raises(ValueError) as error:
        masks.open_white(path)
    assert str(error.value) == (f"the mask {path!r} has nothing white, so nothing would be edited: {holds}; make what "
                                "is to be edited white (255, or at least 128)")
    assert picture_files.open_mask(path).convert("L").getextrema()[1] < 128        # and in Python it is black all over


def in_mode(values, mode):
    """Values 0..255 in a mode, or in more bits if it has them."""
    if mode in ("I;16", "I"):
        return Image.fromarray(values.astype({"I": np.int32, "I;16": np.uint16}[mode]) * 257)
    return Image.fromarray(values).convert(mode)


@quick
@given(values=st.lists(st.integers(0, 255), min_size=1, max_size=5),
       mode=st.sampled_from(["L", "RGB", "RGBA", "LA", "I;16", "I"]))
def test_refused_exactly_if_nothing_is_128_or_more(tmp_path_factory, values, mode):
    path = tmp_path_factory.mktemp("masks") / "mask.tiff"
    in_mode(np.resize(np.array(values, dtype=np.uint8), (4, 20)), mode).save(path)
    if max(values) < 128:
        with pytest.raises(ValueError, match="has nothing white"):
            masks.open_white(path)
    else:
        with pytest.warns() as told:
            white = np.asarray(masks.open_white(path).convert("L")) >= 128
            masks.warnings.warn("the last", stacklevel=1)       # pytest.warns wants one
        assert np.array_equal(white, np.resize(np.array(values) >= 128, (4, 20)))
        assert any("white all over" in str(each.message) for each in told) == (min(values) >= 128)


@pytest.mark.parametrize("make", [
    lambda: Image.fromarray(HALF), lambda: grey(0, 255), lambda: palette((0, 0, 0), (255, 255, 255)),
    lambda: strokes((255, 255, 255)), lambda: strokes((255, 255, 255)).convert("LA"), lambda: grey(0, 65535, np.uint16),
    lambda: Image.merge("RGB", [grey(0, 255)] * 3), lambda: grey(20, 230)])
def test_a_right_mask_is_taken_without_a_word(tmp_path, make):
    make().save(tmp_path / "mask.png")
    mask = masks.open_white(tmp_path / "mask.png", (1200, 800))
    assert np.array_equal(np.asarray(mask.convert("L")) >= 128, HALF)


def test_white_all_over_is_said(tmp_path):
    Image.new("RGB", (9, 9), "white").save(tmp_path / "mask.png")
    with pytest.warns(UserWarning, match=r"^the mask '.*mask.png' is white all over: the whole picture is edited$"):
        masks.open_white(tmp_path / "mask.png")


def test_a_photo_as_a_mask_is_said(tmp_path):
    """Other programs take a picture with a transparent hole for a mask: here that is the other way round."""
    photo = np.dstack([np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8), np.full((20, 20), 255)])
    photo[5:9, 5:9, 3] = 0
    Image.fromarray(photo.astype(np.uint8)).save(tmp_path / "mask.png")
    with pytest.warns(UserWarning, match=r"^the mask '.*mask.png' looks like a photo: \d+% of it is neither black nor "
                      r"white\. What is at least 128 of 255 is edited, what is darker or transparent is not$"):
        masks.open_white(tmp_path / "mask.png")


@pytest.mark.parametrize(("mask", "picture", "stretched"), [
    ((512, 512), (1024, 768), True), ((768, 1024), (1024, 768), True), ((512, 384), (1024, 768), False),
    ((64, 64), (1000, 1001), False), ((100, 80), (77, 61), False), ((3, 3), (640, 480), False),
    ((1, 600), (600, 1), True), ((512, 512), (512, 470), True)])
def test_a_mask_of_another_shape_is_said(tmp_path, mask, picture, stretched):
    white = Image.new("L", mask)
    white.putpixel((0, 0), 255)
    white.save(tmp_path / "mask.png")
    if not stretched:
        masks.open_white(tmp_path / "mask.png", picture)
        return
    with pytest.warns(UserWarning, match=f"has {mask[0]} x {mask[1]} pixels and the picture {picture[0]} x "
                                         f"{picture[1]}: it is stretched to cover the picture$"):
        masks.open_white(tmp_path / "mask.png", picture)
