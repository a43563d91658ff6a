"""A report as an HTML page that needs nothing but itself, and as a sheet of pictures."""

from __future__ import annotations

import base64
import inspect
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ...pictures.drawing import SHOWN_HEIGHT, headed, stacked, strip
from .contents import Report

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

EXACT = 128     # px: pictures up to this size are shown pixel for pixel, hence kept without loss


def as_page(report: Report) -> str:
    """The page, with all pictures, styles and scripts in it."""
    settings = json.dumps(dict(report.settings), indent=2, ensure_ascii=False)
    return environment().get_template("page.html").render(report=report, settings=settings, EXACT=EXACT)


def as_sheet(report: Report) -> Image.Image:
    """The pictures of all sections, a row below the other, each under its heading."""
    rows = []
    for number, section in enumerate(report.sections, start=1):
        for row in section.rows:
            images, captions = [shot.image for shot in row.shots], [shot.caption for shot in row.shots]
            scale = SHOWN_HEIGHT / max(max(image.size) for image in images)
            heading = f"{number}  {section.title}" + (f": {row.label}" if row.label else "")
            rows.append(headed(strip(images, captions, scale), heading))
    return stacked(rows)


def environment() -> Environment:
    """Jinja2 with this folder's templates. It escapes what isn't markup already: a query is text, whatever it says."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True)
    made.filters.update(formula=formula, data_uri=data_uri, name=name_of, file=file_of, source=source_of)
    return made


def formula(equation: str) -> Markup:
    """An equation of texts.py as HTML: what follows _ and ^ lower and higher, single letters slanted."""
    from markupsafe import Markup, escape

    html = re.sub(r"(?<![^\W\d_])([^\W\d_][\u0300-\u036f]?)(?![^\W\d_])", r"<i>\1</i>", str(escape(equation)))
    for mark, tag in (("_", "sub"), (r"\^", "sup")):
        html = re.sub(mark + r"(?:\{([^}]*)\}|(<i>.*?</i>|\w))",
                      lambda found, tag=tag: f"<{tag}>{found[1] or found[2]}</{tag}>", html)
    return Markup(html)


def data_uri(image: Image.Image) -> str:
    """A picture in an address: PNG if it is small, else WebP."""
    file = io.BytesIO()
    kind = "png" if max(image.size) <= EXACT else "webp"
    image.save(file, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def name_of(function: Callable) -> str:
    """Where the package has it: "core.mask.difference_map"; of another's, its own name."""
    own = getattr(function, "__qualname__", type(function).__name__)
    package, _, inside = (getattr(function, "__module__", None) or "").partition(".")
    return f"{inside}.{own}" if package == __name__.partition(".")[0] else own


def file_of(function: Callable) -> str:
    """The file that it is in, from the repository's root: "diffedit_min/core/mask.py"; of one outside, its name."""
    try:
        path, root = Path(inspect.getfile(function)), Path(__file__).parents[3]
    except TypeError:       # made at run time
        return ""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def source_of(function: Callable) -> str:
    """Its source; "" if there is none to be had, as in some notebooks."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""
