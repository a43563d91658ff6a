"""What `grid` and `compare` return."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from ...pictures.picture_files import save
from ...pictures.writing import replacing
from .drawing import draw
from .made import Made
from .rendering import as_page


@dataclass(frozen=True, eq=False)
class Sheet(Made):
    """The cells, row by row, and what they cost; as a picture, and as a page."""

    @cached_property
    def image(self) -> Image.Image:
        """The labelled sheet."""
        return draw(self)

    def page(self) -> str:
        """The sheet as an HTML page that needs nothing but itself; a click shows a cell large."""
        return as_page(self)

    def save(self, out: Path | str | None = None, page: Path | str | None = None) -> None:
        """Write the sheet (.png, .jpg, .webp) and the page (.html), each whole or not at all."""
        if out is not None:
            save(self.image, out)
        if page is not None:
            with replacing(page) as file:
                file.write(self.page().encode())
