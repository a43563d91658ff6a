"""What answers once an edit is done: the result beside its input, its figures, files, report, and the last results."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from ...bench.measures import against_truth
from ...loading.held import Models
from ...methods import Edit
from ...pictures import metadata
from ...pictures.picture_files import save
from .. import report
from ..repeat import command_of, python_of
from ..report.rendering import EXACT, small_uri
from ..wipe import wipe
from .canvas import SIDE
from .components import Shown
from .layout import Controls
from .saying import saying
from .session import Result, Session
from .words import line


class Results:
    """The answers that this file is about."""

    def __init__(self, controls: Controls, models: Models) -> None:
        self.controls, self.models = controls, models

    def shown(self, session: Session, result: Result) -> Shown:
        """The result with its settings, and the mask, to download; a report is made when it is asked for."""
        c, edit, on = self.controls, result.edit, gr.update(interactive=True)
        drawn = {} if session.scene is None else {session.name: session.picture}    # a person's own picture is theirs
        files = written(result, drawn)
        below = beside_truth(replace(edit, image=result.image), self.truth(session, edit))
        shown = {c.chain: result.chain, c.result: wipe_of(session.picture, result.image, below),
                 c.progress: line(result.said), c.save_result: gr.update(value=files["result.png"], interactive=True),
                 c.save_mask: gr.update(interactive=False), c.save_report: gr.update(interactive=False),
                 c.open_report: on, c.copy_command: on, c.copy_python: on, c.last: self.strip(session),
                 c.save_input: gr.update(visible=False), **self.repeated(session, edit)}
        if "mask.png" in files:
            shown[c.save_mask] = gr.update(value=files["mask.png"], interactive=True)
        for name in drawn:
            shown[c.save_input] = gr.update(value=files[name], visible=True, label=f"Save {name}, which they read")
        return shown

    def truth(self, session: Session, edit: Edit) -> Image.Image | None:
        """What the whole picture would be, if it is known."""
        return None if edit.settings["crop"] else session.truth(edit.settings["query"])

    def nothing(self, session: Session) -> Shown:
        """What is shown where there is no result."""
        c, off = self.controls, gr.update(interactive=False)
        result = "" if session.picture is None else wipe_of(session.picture, session.picture, name="not edited yet")
        unseen = (c.save_result, c.save_mask, c.save_report, c.open_report, c.copy_command, c.copy_python)
        return {c.result: result, **dict.fromkeys(unseen, off), c.last: self.strip(session),
                c.repeat: gr.update(visible=False)}

    def repeated(self, session: Session, edit: Edit) -> Shown:
        """What makes the edit again."""
        c, told = self.controls, (edit.settings, session.name, self.models.get(edit.settings["model"]))
        return {c.repeat: gr.update(visible=True), c.as_command: command_of(*told), c.as_python: python_of(*told)}

    def strip(self, session: Session) -> Any:
        """The last results with what was asked for."""
        shown = []
        for result in session.results:
            small, asked = result.image.copy(), result.asked
            small.thumbnail((160, 160))
            shown.append((small, f"{asked.query or asked.method.dashed}; {asked.method.dashed}, seed {asked.seed}"))
        return gr.update(value=shown, visible=bool(shown))

    @saying
    def report(self, session: Session) -> Shown:
        """The report of the edit that is shown, to download."""
        c, path, edit = self.controls, new_folder() / "report.html", session.edit
        if edit is None:
            raise ValueError("there is no edit yet to report on")
        truth = self.truth(session, edit)
        report.write(edit, self.models.get(edit.settings["model"]), path, truth=truth)
        return {c.save_report: gr.update(value=path, interactive=True), c.progress: line("The report is ready.")}


def wipe_of(before: Image.Image, after: Image.Image, below: str = "", name: str = "result") -> str:
    """Input and result in one frame, and what is said below it. name: what stands on the result."""
    left, right = (small_uri(picture, SIDE) for picture in (before, after))
    return wipe(left, right, right=name, pixels=max(before.size) <= EXACT) + below


def beside_truth(edit: Edit, truth: Image.Image | None) -> str:
    """The true answer with its figures, if it is known."""
    if truth is None:
        return ""
    figures = "".join(f"<dt>{html.escape(value)}</dt><dd><b>{html.escape(name)}</b>: {html.escape(what)}</dd>"
                      for name, value, what in against_truth(edit, truth))
    return (f'<div class="truth"><figure><img src="{small_uri(truth, SIDE)}" alt="What a perfect edit would be">'
            f"<figcaption>true answer</figcaption></figure><dl>{figures}</dl></div>")


def written(result: Result, drawn: Mapping[str, Image.Image]) -> dict[str, Path]:
    """The files of a result by name: made once, however often it is shown, and again only where they were deleted as
    old. drawn: the input by its name, if it is a scene, which is nowhere else."""
    text, files = metadata.texts(result.edit.settings, result.image.size), {}
    result.folder.mkdir(exist_ok=True)
    for name, image in {"result.png": result.image, "mask.png": result.mask, **drawn}.items():
        if image is not None:
            files[name] = path = result.folder / name
            try:
                os.utime(path)      # it is young again
            except FileNotFoundError:
                save(image, path, {} if name in drawn else text)
    return files


def new_folder() -> Path:
    """A folder for files to download, which go when others of Gradio's do. Its name can't be guessed."""
    return Path(tempfile.mkdtemp(dir=get_upload_folder()))
