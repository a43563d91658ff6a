"""A sheet as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from ...pictures.drawing import SHOWN_HEIGHT, WIDEST, overlay, wrapped
from ...pictures.picture_files import to_rgb
from .made import Made
from .making import Cell

INK, SOFT, LINE, PANEL, ACCENT = "#201d25", "#5f5a68", "#ddd7ce", "#f3f0eb", "#8a1f55"      # as on the report's page


@dataclass(frozen=True)
class Layout:
    """Sizes on the sheet, in px."""

    cell: tuple[int, int]       # a picture
    text: int                   # the letters of labels
    gap: int

    @classmethod
    def of(cls, picture: tuple[int, int], columns: int) -> Layout:
        """For pictures of this size: enlarged to at least `SHOWN_HEIGHT`, shrunk where the sheet would get too wide."""
        width, height = picture
        scale = max(1, math.ceil(SHOWN_HEIGHT / max(width, height)))
        scale = min(scale, WIDEST / (columns + 1.5) / width, WIDEST / 4 / height)
        cell = max(96, round(width * scale)), max(24, round(height * scale))
        text = max(15, min(cell) // 12)
        return cls(cell, text, max(10, text * 3 // 4))

    def font(self, times: float = 1.0) -> ImageFont.FreeTypeFont:
        return ImageFont.load_default(int(self.text * times))

    def height(self, lines: int, times: float = 1.0) -> int:
        return lines * sum(self.font(times).getmetrics())


def draw(sheet: Made) -> Image.Image:
    """Heading, pictures with their labels, and below what they cost."""
    layout, body = in_rows(sheet) if sheet.plan.shares else one_after_another(sheet)
    width = body.width
    blocks = [text_block(sheet.title, layout, width, 1.6, INK), text_block(sheet.about, layout, width, 1.0, SOFT), body,
              text_block(sheet.cost, layout, width, 1.0, INK), text_block(sheet.left_out, layout, width, 1.0, SOFT)]
    blocks = [block for block in blocks if block is not None]
    gap = layout.gap
    whole = Image.new("RGB", (width + 2 * gap, sum(block.height for block in blocks) + gap * (len(blocks) + 1)),
                      "white")
    top = gap
    for block in blocks:
        whole.paste(block, (gap, top))
        top += block.height + gap
    whole.info.update({name: value for name, value in sheet.plan.picture.info.items() if name == "icc_profile"})
    return whole


def in_rows(sheet: Made) -> tuple[Layout, Image.Image]:
    """A grid: the input, and the true answer below it; beside them a head for each column and for each row."""
    plan, columns, rows = sheet.plan, len(sheet.across.values), [""] if sheet.down is None else sheet.down.labels
    beside = 1 + sheet.shows_masks                                      # pictures in a cell
    layout = Layout.of(plan.picture.size, columns * beside + 1)
    (w, h), gap, line, given = layout.cell, layout.gap, layout.height(1), plan.given
    wide = beside * w + (beside - 1) * gap // 4
    name = "" if sheet.down is None else sheet.down.name
    side = round(min(max(layout.font().getlength(text) for text in (*rows, name, "0")), 1.5 * w))
    heads = [wrapped(label, layout.font(), wide) for label in sheet.across.labels]
    head = layout.height(1 + max(map(len, heads))) + gap // 2
    step = h + gap + layout.height(max((len(sheet.figures(cell)) for cell in sheet.cells if cell), default=0))
    left = w + 3 * gap + side + gap                                     # where the cells begin
    deep = head + max(len(rows) * step, len(given) * (h + line + gap)) - gap
    body = Image.new("RGB", (left + columns * (wide + gap) - gap, deep), "white")
    pen = ImageDraw.Draw(body)
    for i, (image, label) in enumerate(given):
        picture(body, image, (0, head + i * (h + line + gap)), layout)
        labelled(body, [(label, INK)], (0, head + i * (h + line + gap) + h), w, layout)
    pen.line([(w + gap, head), (w + gap, deep)], fill=LINE, width=2)
    pen.text(((left + body.width) / 2, 0), sheet.across.name, fill=ACCENT, font=layout.font(), anchor="ma")
    pen.text((left - gap, head - line), name, fill=ACCENT, font=layout.font(), anchor="ra")
    for i, lines in enumerate(heads):
        labelled(body, [(text, INK) for text in lines], (left + i * (wide + gap), line), wide, layout)
    for j, label in enumerate(rows):
        pen.multiline_text((left - gap, head + j * step + h / 2), "\n".join(wrapped(label, layout.font(), side)),
                           fill=INK, font=layout.font(), anchor="rm", align="right", spacing=0)
        for i, cell in enumerate(sheet.cells[j * columns : (j + 1) * columns]):
            place(body, sheet, cell, (left + i * (wide + gap), head + j * step), layout, wide)
    return layout, body


def one_after_another(sheet: Made) -> tuple[Layout, Image.Image]:
    """A comparison: the input, the true answer, then the methods, in as many lines as a slide takes."""
    given = sheet.plan.given
    count = len(given) + len(sheet.cells)
    columns = math.ceil(count / max(1, round(math.sqrt(count / 3))))
    layout = Layout.of(sheet.plan.picture.size, columns)
    (w, h), gap = layout.cell, layout.gap
    step = h + layout.height(3) + gap
    body = Image.new("RGB", (columns * (w + gap) - gap, math.ceil(count / columns) * step - gap), "white")
    for i, label in enumerate([*(label for _, label in given), *sheet.across.labels]):
        x, y = (i % columns) * (w + gap), (i // columns) * step
        labelled(body, [(label, INK)], (x, y + h), w, layout)
        if i < len(given):
            picture(body, given[i][0], (x, y), layout)
        else:
            place(body, sheet, sheet.cells[i - len(given)], (x, y), layout, w, layout.height(1))
    return layout, body


def place(
    body: Image.Image, sheet: Made, cell: Cell | None, at: tuple[int, int], layout: Layout, wide: int, below: int = 0
) -> None:
    """A cell: its picture, or why there is none, and its figures, so far below its lower edge."""
    (w, h), (x, y), gap = layout.cell, at, layout.gap
    if cell is None or cell.edit is None:
        ImageDraw.Draw(body).rectangle([at, (x + wide - 1, y + h - 1)], fill=PANEL)
        why = text_block("" if cell is None else cell.why, layout, wide - gap, 0.8, SOFT, PANEL)
        if why is not None:
            body.paste(why.crop((0, 0, why.width, min(why.height, h - gap))), (x + gap // 2, y + gap // 2))
        return
    picture(body, cell.edit.image, at, layout)
    if wide > w and cell.edit.mask_image is not None:
        picture(body, overlay(cell.edit.input, cell.edit.mask_image), (x + wide - w, y), layout)
    labelled(body, [(figure, SOFT) for figure in sheet.figures(cell)], (x, y + h + below), wide, layout)


def picture(body: Image.Image, image: Image.Image, at: tuple[int, int], layout: Layout) -> None:
    """A picture in the middle of its place."""
    scale = min(w / side for w, side in zip(layout.cell, image.size, strict=True))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    rgb = to_rgb(image)
    small = rgb if size == rgb.size else rgb.resize(size, Image.Resampling.LANCZOS)
    body.paste(small, (at[0] + (layout.cell[0] - size[0]) // 2, at[1] + (layout.cell[1] - size[1]) // 2))


def labelled(
    body: Image.Image, lines: Sequence[tuple[str, str]], at: tuple[int, int], wide: int, layout: Layout
) -> None:
    """Lines with their colours, in the middle of so many px, in smaller letters where they would not fit."""
    for i, (text, colour) in enumerate(lines):
        font = layout.font(max(0.6, min(1.0, wide / max(1.0, layout.font().getlength(text)))))
        for line in wrapped(text, font, wide + 1)[:1]:
            ImageDraw.Draw(body).text((at[0] + wide / 2, at[1] + layout.gap // 4 + layout.height(i)), line, fill=colour,
                                      font=font, anchor="ma")


def text_block(
    text: str, layout: Layout, width: int, times: float, colour: str, ground: str = "white"
) -> Image.Image | None:
    """A text in as many lines as it needs; None for no text."""
    if not text:
        return None
    lines = wrapped(text, layout.font(times), width)
    block = Image.new("RGB", (width, layout.height(len(lines), times)), ground)
    for i, line in enumerate(lines):
        ImageDraw.Draw(block).text((0, layout.height(i, times)), line, fill=colour, font=layout.font(times))
    return block
