"""One edit, every step of it: as an HTML page that needs nothing but itself, and as a sheet of pictures.

    edit = dm.diffedit(model, image, query, reference, keep="trace")
    Path("edit.html").write_text(dm.studio.report.page(edit, model), encoding="utf-8")
    dm.studio.report.write(edit, model, strip=Path("edit-steps.png"))

Any method's Edit will do. With keep="result" its page shows what there is, and says what was not kept.

sections.py chooses what is shown of an edit, with the words and equations of texts.py and the pictures of pictures.py.
rendering.py makes page and sheet of it, with page.html, page.css and page.js.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from ...core.task import Step
    from ...methods import Edit
    from ...networks.stable_diffusion import StableDiffusion


def page(
    edit: Edit, model: StableDiffusion, truth: Image.Image | None = None, again: Mapping[str, str] | None = None
) -> str:
    """The edit as an HTML page, complete in itself: no network, no other file.

    model: the one that made the edit. truth: what a perfect edit would be, if that is known. again: what repeats the
    edit, each by what it is; left out: the command and the Python text of repeat.py, for a file picture.png.
    """
    from .rendering import as_page
    from .sections import tell

    return as_page(tell(edit, model, truth, again=again))


def write(
    edit: Edit, model: StableDiffusion, page: Path | None = None, strip: Path | None = None,
    truth: Image.Image | None = None, on_step: Callable[[Step], None] | None = None,
    again: Mapping[str, str] | None = None,
) -> None:
    """The page to a file, and the same pictures on one sheet to another (`strip`), a labelled row for each step.

    Files are written whole or not at all; the edit's latents are decoded once for both. on_step: see Method. truth,
    again: as for `page`.
    """
    from ...pictures.metadata import texts
    from ...pictures.picture_files import save
    from ...pictures.writing import replacing
    from .rendering import as_page, as_sheet
    from .sections import tell

    if page is None and strip is None:
        return
    report = tell(edit, model, truth, on_step, again)
    if page is not None:
        with replacing(page) as file:
            file.write(as_page(report).encode())
    if strip is not None:
        sheet = as_sheet(report)
        save(sheet, strip, texts(edit.settings, sheet.size))
