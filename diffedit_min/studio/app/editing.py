"""What answers to "Edit"."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from ...bench.store import hash_of
from ...methods import Asked
from ...methods.cost import cost_of
from ...networks.stable_diffusion import StableDiffusion
from .around import edited, told_by
from .chain import chain, of_edit, of_input, so_far
from .components import Shown
from .layout import Controls
from .masking import Masking
from .results import Results, new_folder
from .running import Running
from .session import Progress, Result, Run
from .words import summary


class Editing:
    """The answers that this file is about."""

    def __init__(self, controls: Controls, running: Running, masking: Masking, results: Results) -> None:
        self.controls, self.running, self.masking, self.results = controls, running, masking, results
        self.weights: WeakKeyDictionary[StableDiffusion, str] = WeakKeyDictionary()

    def edit(self, told: Shown) -> Iterator[Shown]:
        """The edit, with the mask as it lies on the canvas."""
        c, session = self.controls, told[self.controls.session]

        def steps(model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Shown]:
            started, painted = time.perf_counter(), None
            if "mask" in asked.method.uses:
                painted = session.painted(told[c.canvas], model)
            run.expects(cost_of(asked, model, mask=painted is not None))
            around = told_by(c.around, told) if "mask" in asked.method.uses else {}
            edit, image, mask = yield from edited(session, model, self.source(model), asked, run, painted, around)
            said = summary(edit, run.rows, time.perf_counter() - started)
            so_far(asked.method, session, model)
            pictures = of_input(edit.input) | session.glimpse[1] | of_edit(edit, model)
            session.add(Result(edit, asked, chain(asked.method, pictures), said, image, mask, told[c.canvas],
                               new_folder()))
            return self.results.shown(session, session.results[0])

        yield from self.running.watched(session, "edit", told, steps, self.masking.found)

    def source(self, model: StableDiffusion) -> dict[str, Any]:
        """Where a model's files come from besides its name, and what is in them: for the settings of results."""
        if model not in self.weights:
            self.weights[model] = hash_of(model)
        return {**self.running.models.source, "weights": self.weights[model]}
