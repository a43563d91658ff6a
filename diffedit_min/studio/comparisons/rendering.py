"""A sheet as an HTML page that needs nothing but itself, in the report's look: a click shows a cell large."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ...core import __version__
from ...pictures.drawing import overlay
from .. import report
from ..repeat import command_of
from ..report.rendering import small_uri
from ..wipe import CSS, wipe
from .made import Made
from .making import Cell

if TYPE_CHECKING:
    from markupsafe import Markup

SMALL = 384     # px, the longest side of a picture among the others
LARGE = 1024    # px, of one that is shown large


def as_page(sheet: Made) -> str:
    """The page, with all pictures, styles and scripts in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folders = [Path(__file__).parent, Path(report.__file__).parent]
    jinja = Environment(loader=FileSystemLoader(folders), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True)
    jinja.filters.update(small=partial(small_uri, side=SMALL), masked=masked, wiped=lambda cell: wiped(sheet, cell),
                         command=lambda cell: command_of(cell.edit.settings, sheet.plan.image, cell.model))
    return jinja.get_template("sheet.html").render(sheet=sheet, shots=sheet.plan.given, wipe_css=CSS,
                                                   version=__version__)


def masked(cell: Cell) -> Image.Image:
    """The mask over what was edited."""
    return overlay(cell.edit.input, cell.edit.mask_image)


def wiped(sheet: Made, cell: Cell) -> Markup:
    """Input and result in one frame."""
    from markupsafe import Markup

    return Markup(wipe(small_uri(sheet.plan.picture, LARGE), small_uri(cell.edit.image, LARGE),
                       alts=("the input", f"result at {cell.label}")))
