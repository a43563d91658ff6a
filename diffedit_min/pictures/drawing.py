"""Drawings for people: a mask shown on its picture, and pictures in a row with captions."""

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .picture import WHITE_FROM
from .picture_files import to_rgb

SHOWN_HEIGHT = 192  # px; `strip` enlarges smaller pictures to at least this,
WIDEST = 4096       # px; but not to more than this
LONGEST = 600       # letters of a caption that are shown


def overlay(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture, darkened outside the mask, with the mask's outline. The mask has the picture's size; white = inside.
    """
    rgb = to_rgb(image)
    inside = mask.convert("L").point([255 * (level >= WHITE_FROM) for level in range(256)])
    if inside.size != rgb.size:
        raise ValueError(f"the mask's size {inside.size} is not the picture's {rgb.size}")
    outer, inner = inside, inside
    for _ in range(max(1, round(max(rgb.size) / 400))):  # the line gets thicker with the picture
        outer, inner = outer.filter(ImageFilter.MaxFilter(3)), inner.filter(ImageFilter.MinFilter(3))
    shown = Image.composite(rgb, Image.blend(rgb, Image.new("RGB", rgb.size), 0.6), inside)
    # A black line outside and a yellow line inside: one of them is visible on any background.
    black, yellow = Image.new("RGB", rgb.size), Image.new("RGB", rgb.size, (255, 230, 0))
    outlined = Image.composite(yellow, Image.composite(black, shown, outer), inside)
    return Image.composite(shown, outlined, inner)


def strip(
    images: Sequence[Image.Image], captions: Sequence[str], scale: float | None = None, gap: int = 8
) -> Image.Image:
    """A row of pictures on a white background, each with its caption below it.

    All pictures are scaled to one height: the height of the tallest one times `scale`, by default the smallest whole
    number with which that is at least 192 px (less if a picture would get wider than 4096 px). There are `gap` px
    between the pictures and around them. Pillow's built-in font has only ASCII: accents are left out, and other letters
    show as boxes.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"expected one or more pictures and a caption for each: {len(images)} and {len(captions)}")
    pictures = [to_rgb(image) for image in images]
    tallest = max(picture.height for picture in pictures)
    if scale is None:
        widest = tallest * max(picture.width / picture.height for picture in pictures)
        scale = min(math.ceil(SHOWN_HEIGHT / tallest), max(1, WIDEST / widest))
    height = max(1, round(tallest * scale))
    sizes = [(max(1, round(picture.width * height / picture.height)), height) for picture in pictures]

    font = ImageFont.load_default(max(12, min(height, 2 * max(width for width, _ in sizes)) // 24))
    line = sum(font.getmetrics())  # px from one line of text to the next
    columns = [max(width, 6 * line) for width, _ in sizes]  # wide enough for a word
    texts = [wrapped(caption, font, column) for caption, column in zip(captions, columns, strict=True)]
    below = gap // 2 + line * max(len(text) for text in texts)
    row = Image.new("RGB", (sum(columns) + gap * (len(columns) + 1), height + below + 2 * gap), "white")
    draw, x = ImageDraw.Draw(row), gap
    for picture, size, column, text in zip(pictures, sizes, columns, texts, strict=True):
        shown = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
        row.paste(shown, (x + (column - size[0]) // 2, gap))
        for i, words in enumerate(text):
            left = x + (column - font.getlength(words)) / 2
            draw.text((left, gap + height + gap // 2 + i * line), words, fill="black", font=font)
        x += column + gap
    return row


def headed(row: Image.Image, heading: str) -> Image.Image:
    """A picture with a text above it, in as many lines as it needs."""
    font = ImageFont.load_default(18)
    lines = wrapped(heading, font, row.width - 16)
    line = sum(font.getmetrics())
    sheet = Image.new("RGB", (row.width, row.height + 8 + line * len(lines)), "white")
    sheet.paste(row, (0, sheet.height - row.height))
    for i, words in enumerate(lines):
        ImageDraw.Draw(sheet).text((8, 8 + i * line), words, fill="black", font=font)
    return sheet


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures on a white background, one below the other."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:i])))
    return sheet


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines of at most `width` px, broken between words, or inside a word that is too long.

    A very long text is cut after `LONGEST` letters.
    """
    lines, whole = [], text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    for rest in unicodedata.normalize("NFKD", whole.replace("×", "x")).splitlines():
        rest = "".join(letter for letter in rest if not unicodedata.combining(letter)).strip()      # without accents
        while rest:
            # Letters that fit: found by halving, among no more than one a pixel, as measuring takes long.
            ends = range(2, min(len(rest), width) + 1)
            end = 1 + bisect_right(ends, width, key=lambda end: font.getlength(rest[:end]))
            if end < len(rest) and (space := rest.rfind(" ", 0, end + 1)) > 0:
                end = space
            lines.append(rest[:end].rstrip())
            rest = rest[end:].lstrip()
    return lines
