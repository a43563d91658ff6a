"""A report as an HTML page that needs nothing but itself, and as a sheet of pictures."""

from __future__ import annotations

import base64
import inspect
import io
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ...core import __version__
from ...methods.help import about, sentence_of
from ...pictures.drawing import SHOWN_HEIGHT, headed, stacked, strip
from ...pictures.picture import HEAT
from ...pictures.picture_files import to_rgb
from ..wipe import CSS, wipe
from .glossary import TERMS, Linker
from .sections import Report

if TYPE_CHECKING:
    from markupsafe import Markup

    from .pictures import Shot

EXACT = 128     # px: pictures up to this size are shown pixel for pixel, hence kept without loss


def as_page(report: Report) -> str:
    """The page, with all pictures, styles and scripts in it."""
    # Jinja2 escapes all text that the filters here have not made markup: a query is shown as text, whatever it says.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True)
    profile = report.edit.input.info.get("icc_profile")
    as_uri = partial(data_uri, profile=profile)
    jinja.filters.update(formula=formula, indexed=indexed, data_uri=as_uri, code=code, linked=Linker())
    method, settings = report.edit.method, report.edit.settings
    sentences = {name: sentence_of(option) for name, option in method.known.items()}
    heat = ", ".join(f"rgb{colour}" for colour in HEAT)
    return jinja.get_template("page.html").render(
        vars(report), sentences=sentences, json=json.dumps(settings, indent=2, ensure_ascii=False), EXACT=EXACT,
        about=about(method), terms=TERMS, heat=heat, wipe_css=CSS, wiped=partial(wiped, as_uri=as_uri),
        version=settings.get("version", __version__))


def as_sheet(report: Report) -> Image.Image:
    """The pictures of all sections, a row below the other, each under its heading."""
    rows = []
    for number, section in enumerate(report.sections, start=1):
        for label, shots in section.rows.items():
            images = [shot.image for shot in shots]
            captions = [f"{shot.caption} ({shot.bar.low} to {shot.bar.high})" if shot.bar else shot.caption
                        for shot in shots]
            scale = SHOWN_HEIGHT / max(max(image.size) for image in images)
            heading = f"{number}  {section.title}" + (f": {label}" if label else "")
            rows.append(headed(strip(images, captions, scale), heading))
    sheet = stacked(rows)
    sheet.info.update(report.edit.input.info)       # the colour profile
    return sheet


def wiped(left: Shot, right: Shot, as_uri: Callable[[Image.Image], str]) -> Markup:
    """Two pictures in one frame, with a line to drag between them."""
    from markupsafe import Markup

    pictures = [shot.image for shot in (left, right)]
    return Markup(wipe(*map(as_uri, pictures), left.caption, right.caption, alts=(left.alt, right.alt),
                       size=pictures[0].size, pixels=max(pictures[0].size) <= EXACT))


def formula(equation: str) -> Markup:
    """An equation of a `Text` as HTML: what follows _ and ^ lower and higher, single letters slanted."""
    from markupsafe import Markup, escape

    return indexed(Markup(re.sub(r"(?<![^\W\d_])([^\W\d_][\u0300-\u036f]?)(?![^\W\d_])", r"<i>\1</i>",
                                 str(escape(equation)))))


def indexed(text: str) -> Markup:
    """A text as HTML: what follows _ and ^ lower and higher."""
    from markupsafe import Markup, escape

    html = str(escape(text))
    for mark, tag in (("_", "sub"), (r"\^", "sup")):
        html = re.sub(mark + r"(?:\{([^}]*)\}|(<i>.*?</i>|\w))",
                      lambda found, tag=tag: f"<{tag}>{found[1] or found[2]}</{tag}>", html)
    return Markup(html)


def small_uri(image: Image.Image, side: int) -> str:
    """A picture with its colour profile in an address, shrunk to at most `side` px a side."""
    small = to_rgb(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri(small, image.info.get("icc_profile"))


def data_uri(image: Image.Image, profile: bytes | None = None) -> str:
    """A picture in an address: PNG if it is small, else WebP. profile: of its colours."""
    file = io.BytesIO()
    kind = "png" if max(image.size) <= EXACT else "webp"
    image.save(file, kind, quality=85, icc_profile=profile)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def code(function: Callable) -> tuple[str, str, str]:
    """A function's name, file and source: "core.mask.difference_map", "diffedit_min/core/mask.py", "def ...".

    Of one outside the package: its own name, and its file's. "" for file and source that can't be had.
    """
    name, root = getattr(function, "__qualname__", type(function).__name__), Path(__file__).parents[3]
    package, _, module = (getattr(function, "__module__", None) or "").partition(".")
    try:
        path, source = Path(inspect.getfile(function)), inspect.getsource(function)
    except (OSError, TypeError):        # made at run time, as in some notebooks
        return name, "", ""
    if package != __name__.partition(".")[0]:
        return name, path.name, source
    return f"{module}.{name}", path.relative_to(root).as_posix(), source
