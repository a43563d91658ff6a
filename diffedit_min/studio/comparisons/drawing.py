"""A sheet as a picture: what was asked for and what it cost, then rows of pictures, each with its label below it."""

from __future__ import annotations

import math

from PIL import Image

from ...pictures.drawing import SHOWN_HEIGHT, WIDEST, headed, overlay, stacked, strip
from .made import Made
from .making import Cell

Labelled = tuple[Image.Image, str]      # a picture, and what stands below it
ABSENT = "#f3f0eb"                      # the colour in place of a picture that there is not


def draw(sheet: Made) -> Image.Image:
    """The whole sheet. Its pictures are enlarged if they are small, and shrunk where the sheet would get too large."""
    rows, (width, height) = rows_of(sheet), sheet.plan.picture.size
    columns = max(len(row) for _, row in rows)
    scale = min(math.ceil(SHOWN_HEIGHT / max(width, height)), WIDEST / columns / width, WIDEST / len(rows) / height)
    drawn = []
    for heading, row in rows:
        images, labels = zip(*row, strict=True)
        pictures = strip(images, labels, scale)
        drawn.append(headed(pictures, heading) if heading else pictures)
    whole = stacked(drawn)
    for text in (sheet.left_out, sheet.cost, sheet.about, sheet.title):
        whole = headed(whole, text) if text else whole
    whole.info.update({name: value for name, value in sheet.plan.picture.info.items() if name == "icc_profile"})
    return whole


def rows_of(sheet: Made) -> list[tuple[str, list[Labelled]]]:
    """Rows of pictures under their headings: a grid's as its axes say, those of a comparison as many as a slide takes.
    """
    across, down, given = sheet.across, sheet.down, sheet.plan.given
    if not sheet.plan.shares:
        shown = given + [part for cell, label in zip(sheet.cells, across.labels, strict=True)
                         for part in parts(sheet, cell, label)]
        columns = math.ceil(len(shown) / max(1, round(math.sqrt(len(shown) / 3))))
        return [("", shown[start : start + columns]) for start in range(0, len(shown), columns)]
    rows, columns = [("", given)], len(across.values)
    for j, heading in enumerate([""] if down is None else [f"{down.name} {label}" for label in down.labels]):
        cells = zip(sheet.cells[j * columns : (j + 1) * columns], across.labels, strict=True)
        rows.append((heading, [part for cell, label in cells for part in parts(sheet, cell, f"{across.name} {label}")]))
    return rows


def parts(sheet: Made, cell: Cell | None, label: str) -> list[Labelled]:
    """A cell: its picture with its figures, or why there is none; and its mask, if the sheet shows masks."""
    absent = Image.new("RGB", sheet.plan.picture.size, ABSENT)
    if cell is None or cell.edit is None:
        return [(absent, label if cell is None else f"{label}: {cell.why}"), (absent, "")][: 1 + sheet.shows_masks]
    edit = cell.edit
    shown = [(edit.image, "\n".join([label, *sheet.figures(cell)]))]
    if sheet.shows_masks:
        shown.append((absent if edit.mask is None else overlay(edit.input, edit.mask_image), "its mask"))
    return shown
