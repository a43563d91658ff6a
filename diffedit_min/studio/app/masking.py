"""What answers to the mask's part of the page: the map is found, the mask is cut from it and laid on the canvas."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import gradio as gr

from ...methods import METHODS, Asked
from ...methods.cost import cost_of
from ...networks.stable_diffusion import StableDiffusion
from . import canvas
from .chain import so_far
from .components import Shown, Slider
from .layout import THRESHOLD, Controls
from .running import Running
from .session import Progress, Run, Session, same_map
from .words import line, rows, share


class Masking:
    """The answers that this file is about."""

    def __init__(self, controls: Controls, running: Running) -> None:
        self.controls, self.running = controls, running

    def connect(self, free: dict[str, Any], at_once: dict[str, Any], model: dict[str, Any]) -> None:
        """free, at_once and model: how events are run that need no model, that need no line, and that use a model."""
        c, makes_a_map = self.controls, []
        threshold = c.options[THRESHOLD, Slider]
        for control in [c.options[key] for key in c.of_mask if key[0] != THRESHOLD]:
            typed = isinstance(control, gr.Textbox | gr.Number)
            makes_a_map.append(control.submit if typed else control.input)
        shown = [c.canvas, c.chain, c.progress, c.message]
        threshold.input(self.cut, {c.session, c.method, threshold}, [c.canvas, c.progress, c.message],
                        trigger_mode="always_last", **free)
        gr.on(makes_a_map, lambda session: session.begin("find"), [c.session], None, **at_once).then(
            self.find_again, c.inputs(), shown, trigger_mode="always_last", **model)
        c.find.click(lambda session: session.begin("find"), [c.session], None, **at_once).then(
            self.find, c.inputs(), shown, **model)

    def find(self, told: Shown) -> Iterator[Shown]:
        """The map, and the mask that it gives at the threshold."""
        c, session = self.controls, told[self.controls.session]

        def steps(model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Shown]:
            before = session.earlier()
            run.expects(cost_of(asked.without_levels(), model))
            found = yield from session.find(model, asked, run)
            kept = run.rows == 0 and any(same_map(found, edit) for edit in before)
            said = "the map is the one that was kept" if kept else "a new map"
            return {**self.found(session, model),
                    c.progress: line(f"Mask: {rows(run.rows)}, {said}.{share(found.mask, found)}")}

        yield from self.running.watched(session, "find", told, steps, self.found)

    def find_again(self, told: Shown) -> Iterator[Shown]:
        """A new map after one of its options was changed; nothing if there was no map before."""
        c = self.controls
        if told[c.session].found is not None and "mask_map" in METHODS[told[c.method]].uses:
            yield from self.find(told)
        else:
            yield {c.progress: gr.skip()}       # without any answer Gradio would empty all that is shown

    def cut(self, told: Shown) -> Shown:
        """The mask at another threshold."""
        c, session = self.controls, told[self.controls.session]
        if "mask_map" not in METHODS[told[c.method]].uses:      # it has a threshold, but nothing to draw it on
            return {c.progress: gr.skip()}
        mask = session.cut(told[c.options[THRESHOLD, Slider]])
        if mask is None:
            return {c.progress: line("There is no map yet: find the mask first.")}
        return {c.canvas: canvas.text_of(mask, session.found.frame, session.found.factor),
                c.progress: line(f"Threshold: 0 rows, from the map that was kept.{share(mask, session.found)}")}

    def found(self, session: Session, model: StableDiffusion) -> Shown:
        """The mask that was found by the model, on the canvas, and the steps to it."""
        c, found = self.controls, session.found
        return {c.canvas: canvas.text_of(found.mask, found.frame, found.factor),
                c.chain: so_far(found.method, session, model)}
