"""What answers once an edit is done: the result beside its input, its figures, files, report, and the last results."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ...loading.held import Models
from ...pictures import metadata
from ...pictures.picture_files import save
from ..report.rendering import data_uri
from . import canvas
from .layout import Controls
from .session import Result, Session
from .words import line

Shown = dict[Any, Any]


class Results:
    """Its answers."""

    def __init__(self, controls: Controls, models: Models) -> None:
        self.controls, self.models = controls, models

    def shown(self, session: Session, result: Result) -> Shown:
        """The result with its settings, and the mask, to download; a report is made when it is asked for."""
        c, folder, edit = self.controls, new_folder(), result.edit
        text = metadata.texts(edit.settings, edit.image.size)
        save(edit.image, folder / "result.png", text)
        shown = {c.chain: result.chain, c.result: wipe_of(edit.input, edit.image), c.progress: line(result.said),
                 c.save_result: gr.update(value=folder / "result.png", interactive=True),
                 c.save_mask: gr.update(interactive=False), c.save_report: gr.update(interactive=False),
                 c.open_report: gr.update(interactive=True), c.last: self.strip(session)}
        if edit.mask is not None:
            save(edit.mask_image, folder / "mask.png", text)
            shown[c.save_mask] = gr.update(value=folder / "mask.png", interactive=True)
        return shown

    def nothing(self, session: Session) -> Shown:
        """The same where there is no result."""
        c, off = self.controls, gr.update(interactive=False)
        result = "" if session.picture is None else wipe_of(session.picture, session.picture)
        return {c.result: result, c.save_result: off, c.save_mask: off, c.save_report: off, c.open_report: off,
                c.last: self.strip(session)}

    def strip(self, session: Session) -> Any:
        """The last results with what was asked for."""
        shown = []
        for result in session.results:
            small, asked = result.edit.image.copy(), result.asked
            small.thumbnail((160, 160))
            shown.append((small, f"{asked.query or asked.method.dashed}; {asked.method.dashed}, seed {asked.seed}"))
        return gr.update(value=shown, visible=bool(shown))

    def report(self, session: Session) -> Shown:
        """The report of the edit that is shown, to download."""
        from .. import report

        c, path = self.controls, new_folder() / "report.html"
        if session.edit is None:
            raise ValueError("there is no edit yet to report on")
        report.write(session.edit, self.models.get(session.edit.settings["model"]), path)
        return {c.save_report: gr.update(value=path, interactive=True), c.progress: line("The report is ready.")}


def wipe_of(before: Image.Image, after: Image.Image) -> str:
    """Input and result in one frame."""
    sources = []
    for picture in (before, after):
        shown = picture.copy()
        shown.thumbnail((canvas.SIDE, canvas.SIDE))
        sources.append(data_uri(shown))
    return f'<img src="{html.escape(sources[1])}" alt="result" width="100%">'


def new_folder() -> Path:
    """A folder for files to download, which go when others of Gradio's do. Its name can't be guessed."""
    return Path(tempfile.mkdtemp(dir=get_upload_folder()))
