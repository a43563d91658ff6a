"""Run: python -m pytest tests/test_compositing.py

Masks grown and feathered, pixels put back, boxes: against brute force, and with an Edit from Python.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.pictures.compositing import MARGIN, at_size, composite, crop_box, distance, grow, mask_box, put_back

quick = settings(deadline=None, database=None, derandomize=True, max_examples=50)
sides = st.integers(1, 24)


def random_mask(width, height, seed, share=0.2):
    white = np.random.default_rng(seed).random((height, width)) < share
    return Image.fromarray(white.astype(np.uint8) * 255)


def noise(width, height, seed=0, mode="RGB"):
    channels = {"RGB": 3, "RGBA": 4}[mode]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8))


def white(image):
    return np.asarray(image) == 255


def brute_force_distance(to):
    """To the nearest True pixel, by trying them all; inf if there is none."""
    points = np.argwhere(to)
    y, x = np.indices(to.shape)
    if not len(points):
        return np.full(to.shape, np.inf)
    return np.sqrt(((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).min(axis=-1))


# ---- distance and grow


@quick
@given(w=sides, h=sides, seed=st.integers(0, 99), share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
       limit=st.integers(0, 40))
def test_distance_is_the_brute_forces_up_to_the_limit(w, h, seed, share, limit):
    to = white(random_mask(w, h, seed, share))
    expected = brute_force_distance(to)
    expected[expected > limit] = np.inf
    assert np.array_equal(distance(to, limit), expected)


def test_a_grown_dot_is_a_disc_and_a_huge_growth_is_everything():
    dot = Image.new("L", (9, 7), 0)
    dot.putpixel((4, 3), 255)
    assert "\n".join("".join(".#"[pixel] for pixel in row) for row in white(grow(dot, 2)).astype(int)) == (
        ".........\n....#....\n...###...\n..#####..\n...###...\n....#....\n.........")
    assert white(grow(dot, 10**12)).all() and not white(grow(Image.new("L", (5, 4)), 10**12)).any()


@quick
@given(w=sides, h=sides, seed=st.integers(0, 99), pixels=st.integers(0, 9))
def test_shrinking_is_growing_what_is_outside(w, h, seed, pixels):
    mask = random_mask(w, h, seed, 0.9)
    outside = Image.fromarray(255 - np.asarray(mask))
    assert np.array_equal(white(grow(mask, -pixels)), ~white(grow(outside, pixels)))
    assert (white(grow(mask, -pixels)) <= white(mask)).all() and (white(mask) <= white(grow(mask, pixels))).all()
    assert np.array_equal(white(grow(mask, 0)), white(mask))


def test_the_pictures_border_is_no_edge():
    assert white(grow(Image.new("L", (9, 7), 255), -5)).all()
    half = Image.new("L", (10, 4), 0)
    half.paste(255, (0, 0, 5, 4))
    assert white(grow(half, -2)).any(axis=0).tolist() == [True] * 3 + [False] * 7


@quick
@given(w=sides, h=sides, mw=sides, mh=sides, seed=st.integers(0, 99))
def test_a_mask_of_any_size_is_laid_over_the_picture(w, h, mw, mh, seed):
    mask = random_mask(mw, mh, seed)
    laid = at_size(mask, (w, h))
    assert laid.size == (w, h) and set(np.unique(np.asarray(laid))) <= {0, 255}
    assert white(laid).any() == white(mask).any()
    if (mw, mh) == (w, h):
        assert np.array_equal(white(laid), white(mask))
    if mw % w == 0 and mh % h == 0:     # finer: any of the pixels in a pixel
        assert np.array_equal(white(laid), white(mask).reshape(h, mh // h, w, mw // w).any(axis=(1, 3)))


# ---- composite


@quick
@given(w=sides, h=sides, seed=st.integers(0, 99), feather=st.integers(0, 12), mode=st.sampled_from(["RGB", "RGBA"]))
def test_composite_keeps_the_bits_outside_and_blends_inwards(w, h, seed, feather, mode):
    original, edited, mask = noise(w, h, 1, mode), noise(w, h, 2), random_mask(w, h, seed, 0.8)
    result, inside = composite(original, edited, mask, feather), white(mask)
    before, after, found = (np.asarray(image).astype(float) for image in (original, edited.convert(mode), result))
    assert result.mode == mode and result.size == (w, h)
    assert np.array_equal(found[~inside], before[~inside])
    d = brute_force_distance(~inside)
    assert np.array_equal(found[d >= feather + 1], after[d >= feather + 1])
    weight = np.clip(d / (feather + 1), 0, 1)[..., None]
    if mode == "RGB":
        assert np.abs(found - (before * (1 - weight) + after * weight)).max() <= 0.5 + 1e-9
    else:
        opacity = (1 - weight) * before[..., 3:] + weight * 255
        assert np.abs(found[..., 3:] - opacity).max() <= 0.5 + 1e-9


def test_a_clear_pixels_colour_does_not_shine_through_the_seam():
    original = Image.new("RGBA", (9, 1), (255, 0, 0, 0))        # red, but nobody sees it
    mask = Image.new("L", (9, 1), 255)
    mask.putpixel((0, 0), 0)
    result = np.asarray(composite(original, Image.new("RGB", (9, 1), (0, 0, 255)), mask, feather=3))[0]
    assert result[0].tolist() == [255, 0, 0, 0]
    assert (result[1:, :3] == (0, 0, 255)).all() and result[:, 3].tolist() == [0, 64, 128, 191, *[255] * 5]


def test_composite_takes_the_original_as_it_is_seen():
    edited, black = noise(4, 6), Image.new("L", (1, 1), 0)
    grey = composite(Image.fromarray(np.full((6, 4), 300, np.uint16)), edited, black)
    assert grey.mode == "RGB" and grey.getextrema() == ((1, 1),) * 3
    palette = Image.new("P", (4, 6), 0)
    palette.putpalette([1, 2, 3])
    assert composite(palette, edited, black).getpixel((0, 0)) == (1, 2, 3)
    palette.info["transparency"] = 0
    assert composite(palette, edited, black).getpixel((0, 0)) == (1, 2, 3, 0)


@pytest.mark.parametrize(("edited", "feather", "words"), [
    (noise(5, 4), 0, r"the edited picture's size \(5, 4\) is not the original's \(4, 4\)"),
    (noise(4, 4), -1, "the feather must be 0 pixels or more, not -1"),
])
def test_composite_refuses(edited, feather, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        composite(noise(4, 4), edited, Image.new("L", (4, 4)), feather)


# ---- boxes


def test_crop_box_and_putting_back():
    picture = noise(20, 10, mode="RGBA")
    box = crop_box(3, 2, 5, 4, picture.size)
    assert box == (3, 2, 8, 6)
    whole = put_back(picture, Image.new("RGB", (5, 4), "lime"), box)
    expected = np.asarray(picture).copy()
    expected[2:6, 3:8] = (0, 255, 0, 255)
    assert np.array_equal(np.asarray(whole), expected)
    assert np.array_equal(np.asarray(put_back(picture, picture.convert("RGB"), (0, 0, 20, 10)))[..., :3],
                          np.asarray(picture)[..., :3])
    with pytest.raises(ValueError, match=r"^the part's size \(4, 4\) is not that of the box \(3, 2, 8, 6\)$"):
        put_back(picture, noise(4, 4), box)


@pytest.mark.parametrize("numbers", [(-1, 0, 5, 5), (0, -1, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0), (16, 0, 5, 5),
                                     (0, 6, 5, 5)])
def test_boxes_beyond_the_picture(numbers):
    text = ",".join(map(str, numbers))
    with pytest.raises(ValueError, match=f"^crop {text} .* does not lie in the picture, which has 20 x 10 pixels$"):
        crop_box(*numbers, (20, 10))


def test_a_masks_box_has_a_margin_that_ends_with_the_picture():
    mask = Image.new("L", (1000, 800))
    mask.paste(255, (400, 300, 420, 310))
    assert mask_box(mask, (1000, 800)) == (400 - MARGIN, 300 - MARGIN, 420 + MARGIN, 310 + MARGIN)
    mask.paste(255, (400, 300, 800, 310))
    assert mask_box(mask, (1000, 800)) == (300, 200, 900, 410)       # a quarter of 400
    assert mask_box(mask, (100, 80)) == (8, 0, 100, 63)              # in the picture's pixels
    with pytest.raises(ValueError, match="^there is nothing white in the mask to crop to$"):
        mask_box(Image.new("L", (9, 9)), (100, 80))


# ---- with an Edit, from Python


def test_with_an_edit(model):
    picture = noise(45, 37)
    edit = dm.diffedit(model, picture, "pears", "apples", steps=4, mask_samples=1)
    result = dm.pictures.compositing.composite(picture, edit.image, edit.mask_image, feather=3)
    outside = ~white(edit.mask_image)
    assert 0 < outside.sum() < outside.size
    assert np.array_equal(np.asarray(result)[outside], np.asarray(picture)[outside])
    grown = grow(edit.mask_image, 4)
    again = dm.diffedit(model, picture, "pears", "apples", steps=4, mask=grown, encoded=edit.encoded)
    assert again.rows == 6 and again.mask.sum() > edit.mask.sum()
    box = mask_box(grown, picture.size)
    part = dm.diffedit(model, picture.crop(box), "pears", steps=2, mask=grown.crop(box))
    assert put_back(picture, part.image, box).size == picture.size
