"""What answers to "Edit"."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

from ...methods import Asked
from ...networks.stable_diffusion import StableDiffusion
from .chain import chain, of_edit, of_input, of_map
from .layout import Controls
from .masking import mask_of
from .results import Results
from .running import Running
from .session import Progress, Result, Run
from .sessions import Sessions
from .words import summary

Shown = dict[Any, Any]


class Editing:
    """Its answers."""

    def __init__(self, controls: Controls, sessions: Sessions, running: Running, results: Results) -> None:
        self.controls, self.sessions, self.running, self.results = controls, sessions, running, results

    def edit(self, told: Shown) -> Iterator[Shown]:
        """The edit, with the mask as it lies on the canvas."""
        c, session = self.controls, told[self.controls.session]

        def steps(model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Shown]:
            started, painted = time.perf_counter(), None
            if "mask" in asked.method.uses:
                painted = session.painted(told[c.canvas], model)
            edit = yield from session.run(model, asked, run, painted)
            said = summary(edit, run.rows, time.perf_counter() - started)
            before = of_input(edit.input) | (of_map(session.found, model) if session.found else {})
            session.add(Result(edit, asked, chain(asked.method, before | of_edit(edit, model)), said))
            self.sessions.use(session)
            return self.results.shown(session, session.results[0])

        yield from self.running.watched(session, "edit", told, steps, lambda session: mask_of(c, session))
