"""Run: python -m pytest tests/test_app_canvas.py

The mask as the page's canvas holds it, without a browser.
"""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffedit_min.pictures.picture import fit
from diffedit_min.studio.app import canvas


def random_mask(frame, factor, seed=0, most=2):
    return torch.randint(0, most, frame.grid(factor), generator=torch.Generator().manual_seed(seed)) 


@settings(deadline=None, max_examples=30)
@given(width=st.integers(8, 90), height=st.integers(8, 90), seed=st.integers(0, 99))
def test_a_mask_survives_the_canvas(width, height, seed):
    """With what was painted and erased; at every shape."""
    _, frame = fit(Image.new("RGB", (width, height)), multiple=16, area=4096)
    valid, found, own = frame.valid(4), random_mask(frame, 4, seed) > 0, random_mask(frame, 4, seed + 1, 3)
    mask, said = canvas.read(canvas.text_of(found, frame, 4, own), frame, 4)
    expected = torch.where(own > 0, own == 1, found)
    assert mask[valid].equal(expected[valid]) and said[valid].equal(own[valid].to(said.dtype))
    again, nothing = canvas.read(canvas.text_of(mask, frame, 4), frame, 4)
    assert again.equal(mask) and not nothing.any()


def test_padding_has_the_value_of_the_nearest_cell():
    _, frame = fit(Image.new("RGB", (36, 20)), multiple=16, area=4096)      # padded to 48 x 32: 12 x 8 cells
    assert canvas.shape(frame, 4) == (5, 9)
    mask, _ = canvas.read("/".join(["000000001"] * 5), frame, 4)
    assert mask.shape == (8, 12) and mask[:, 8:].all() and not mask[:, :8].any()


def test_the_dots_lie_where_the_cells_are():
    """The last ones may go beyond the picture, which is smaller than its cells."""
    picture = Image.new("RGB", (60, 52))
    shown = canvas.begun(picture, fit(picture, multiple=16, area=4096)[1], 8)
    assert shown["value"] == "=" + "/".join(["0" * 8] * 7)
    assert (shown["across"], shown["down"], shown["aspect"]) == (64 / 60, 56 / 52, 60 / 52)
    assert shown["picture"].startswith("data:image/png;base64,")
    large = Image.effect_noise((1600, 1200), 90).convert("RGB")
    assert len(canvas.begun(large, fit(large, 16, 4096)[1], 8)["picture"]) < 400_000
    assert canvas.empty().keys() == shown.keys()


@pytest.mark.parametrize("sent", [{}, [], "x", "0126", "0" * 200_000, 1, True, "=0=1", "0\n1"])
def test_what_is_no_mask_is_refused(sent):
    with pytest.raises(ValueError, match="the mask must be a text of cells, as the canvas of this page writes it"):
        canvas.checked(sent)


def test_a_mask_of_another_picture_is_refused():
    _, frame = fit(Image.new("RGB", (64, 48)), multiple=16, area=4096)
    for text in ("0", "000/000", "=" + "/".join(["0" * 16] * 11), "/".join([*["0" * 16] * 11, "0" * 15])):
        with pytest.raises(ValueError, match=re.escape("which has 12 rows of 16 cells: choose the picture again")):
            canvas.read(text, frame, 4)
    for nothing in ("", "="):
        assert not canvas.read(nothing, frame, 4)[0].any()
