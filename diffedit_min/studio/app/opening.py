"""What answers when there is another picture: a file, a scene, what a browser had before, or an earlier result."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import gradio as gr

from ...loading.held import Models
from ...methods import METHODS
from ...tiny.instructions import instruction
from ...tiny.scenes import demo_scenes
from ..jobs.job import ASKED, job_of
from ..jobs.like import over, told_by
from . import around, canvas
from .chain import so_far
from .choosing import Choosing
from .components import Shown
from .layout import SCENES, Controls
from .results import Results
from .saying import said_of, saying
from .session import Result, Session
from .sessions import Sessions
from .words import line, notes


class Opening:
    """The answers that this file is about."""

    def __init__(self, controls: Controls, models: Models, sessions: Sessions, choosing: Choosing,
                 results: Results) -> None:
        self.controls, self.models, self.sessions = controls, models, sessions
        self.choosing, self.results = choosing, results

    def open(self, told: Shown) -> Shown:
        """A file, or none."""
        c, session = self.controls, told[self.controls.session]
        path, method = told[c.picture], METHODS[told[c.method]]
        try:
            self.sessions.open(session, None if path is None else canvas.open_upload(path, self.sessions.pixels))
        except ValueError as error:
            self.sessions.open(session, None)
            return {**self.fresh(session, method), c.picture: None, c.message: said_of(error)}
        session.name = Path(path).name if path else ""
        return self.fresh(session, method)

    @saying
    def take_scene(self, session: Session, method: str, picked: gr.SelectData) -> Shown:
        """A scene, with words for it."""
        if picked.index not in range(SCENES):
            raise ValueError("there is no such scene")
        return self.scene(session, int(picked.index), method)

    def scene(self, session: Session, number: int, method: str) -> Shown:
        c = self.controls
        scene, answer = demo_scenes(number, None)
        self.sessions.open(session, scene.render(math.isqrt(self.models.get(self.models.names[0]).native_area)))
        session.scene, session.name = scene, f"scene-{number}.png"
        session.words = {False: answer.caption, True: instruction("fruit", scene, answer)}
        return {**self.fresh(session, METHODS[method]), c.picture: session.picture, c.reference: scene.caption,
                c.query: session.words[METHODS[method].needs_instruction]}

    def begin(self, told: Shown) -> Shown:
        """What the browser had before the page was loaded anew; else the first scene."""
        c, session = self.controls, self.sessions.find(told[self.controls.key])
        if session.results:
            return {c.session: session, c.picture: session.picture, **self.again(session, session.results[0])}
        tuned = self.choosing.tune({**told, c.session: session})
        if session.picture is None:
            opened = self.scene(session, 0, session.kept.method)
        else:
            opened = {**self.fresh(session, METHODS[session.kept.method]), c.picture: session.picture}
        return {**tuned, **opened, **{words: {**tuned[words], "value": opened[words]}
                                      for words in (c.query, c.reference) if words in opened}}

    @saying
    def recall(self, session: Session, picked: gr.SelectData) -> Shown:
        """One of the last results."""
        if picked.index not in range(len(session.results)):
            raise ValueError("there is no such result any more")
        return self.again(session, session.results[int(picked.index)])

    def again(self, session: Session, result: Result) -> Shown:
        """An earlier result, with all that it was asked for."""
        c, name = self.controls, result.edit.settings["model"]
        session.take_up(result)
        chosen = self.choosing.put(session, result.asked, name)
        return {**self.fresh(session, result.asked.method), **chosen, **self.results.shown(session, result),
                **around.shown(c.around, result.edit.settings),
                c.canvas: gr.update(**{**session.as_canvas(), "value": f"={result.canvas.removeprefix('=')}"})}

    @saying
    def take_settings(self, told: Shown) -> Shown:
        """The settings in a result's file: words, method, options and seed as they were."""
        c, session, path = self.controls, told[self.controls.session], told[self.controls.settings]
        if path is None:
            return {c.settings: None}
        try:
            earlier = over(told_by(path), {})
        except ValueError as error:
            raise ValueError(str(error).replace(repr(os.fspath(path)), repr(Path(path).name))) from None
        names, asked_by = self.models.names, earlier.get("model")
        name = asked_by if asked_by in names or self.models.any_name else told[c.model]
        own = {key: value for key, value in earlier.items() if key in (*ASKED, "method", "options")}
        asked = job_of(own, "", Path("result.png")).asked
        said = [f"The settings of {Path(path).name!r} hold now. Edit to see what they make of this picture."]
        if name != asked_by:
            said.append(f"It was made by the model {asked_by!r}, which is not offered here; {name} takes its place.")
        if earlier["needs_mask"]:
            said.append("It was made with a mask of its own, which is not in the file: paint one.")
        return {**self.choosing.put(session, asked, name), **around.shown(c.around, earlier), c.settings: None,
                c.message: notes(said)}

    def fresh(self, session: Session, method: Any) -> Shown:
        """The page with a new picture, or none."""
        c, picture = self.controls, session.picture
        said = "No picture." if picture is None else f"A picture of {picture.width} × {picture.height} pixels."
        if picture is not None and session.cells is not None and (frame := session.fitted()[1]).shrunk:
            said += (f" It will be edited at {frame.padded[0]} × {frame.padded[1]} px. 'Crop', below 'Around the "
                     "mask', edits a part at full resolution.")
        return {c.session: session, c.canvas: gr.update(**session.as_canvas()), c.chain: so_far(method, session),
                c.message: "", c.progress: line(said), **self.results.nothing(session)}
