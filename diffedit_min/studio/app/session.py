"""What one person has done in the page so far, and what of it is kept.

    open     a picture              everything before it is forgotten
    find     words and settings     -> the map: 2n rows; none if the kept one is what they would make
    cut      a threshold            -> the mask: no model
    run      and maybe a mask       -> the edit, which takes the map and the encoding of earlier ones where they hold

`find` and `run` are generators of `Progress`, and can be stopped from elsewhere through their `Run`. What happens in
between is `Asked.iterate`'s, and what of earlier edits still holds is core/reuse.py's to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...core.mask import binarise
from ...core.task import Step
from ...methods import Asked, Edit
from ...methods.cost import Cost
from ...methods.cost import Progress as Expected
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.picture import Frame, fit, unfit
from ...tiny.scenes import Scene, meant
from ..report.pictures import at_most
from . import canvas
from .controls import Kept

PREVIEWS = 5        # of a stage: decoding a latent costs about as much as three U-Net rows
ENCODINGS = 3       # that are kept
RESULTS = 6         # that are kept


class Stopped(Exception):
    """The person asked to stop."""


@dataclass
class Run:
    """One computation under way."""

    stop: bool = False      # set from another thread: it ends after the U-Net call in flight
    rows: int = 0           # that are done
    expected: Expected | None = None    # where it is among the steps that it is to take
    warnings: list[str] = field(default_factory=list)

    def expects(self, cost: Cost | None) -> None:
        """What it will cost, if that is known."""
        self.expected = cost and Expected(cost)

    def moved(self, step: Step) -> None:
        """A step of it is done."""
        if self.expected is not None:
            self.expected.moved(step)


@dataclass(frozen=True)
class Result:
    """An edit that is done, and what was asked for."""

    edit: Edit
    asked: Asked
    chain: str              # its pictures in small, as HTML
    said: str               # of how it ended
    image: Image.Image      # the whole picture, to be saved
    mask: Image.Image | None            # the mask of the whole picture
    canvas: str             # what lay on the canvas
    folder: Path            # of its files to download


Progress = tuple[Step, Image.Image | None]      # a step that is done, and sometimes its latent as a picture


@dataclass(eq=False)
class Session:
    """One person's. It is copied before it is used: it must start empty."""

    picture: Image.Image | None = None
    found: Edit | None = None           # with the map; it went no further than the mask
    encoded: list[Edit] = field(default_factory=list)       # the last that have encoded the picture, newest first
    edit: Edit | None = None
    scene: Scene | None = None          # what the picture was painted from, if it is one of the scenes
    glimpse: tuple[Edit | None, dict] = (None, {})          # `found`, and what the page shows of it
    words: dict[bool, str] = field(default_factory=dict)    # that were filled in; True: as an instruction
    name: str = "input.png"             # of the picture's file
    results: list[Result] = field(default_factory=list)     # the last ones, newest first
    kept: Kept = field(default_factory=Kept)                # what options were set to
    key: str = ""                       # by which the person's browser finds it again
    runs: dict[str, Run] = field(default_factory=dict)      # by kind, "find" or "edit": not ended yet
    cells: tuple[int, int, int] | None = None   # how pictures are cut: `multiple`, `native_area`, `factor` of a model

    def open(self, picture: Image.Image | None) -> None:
        """Begin anew with a picture, or with none."""
        self.stop()
        kept = {name: getattr(self, name) for name in ("runs", "cells", "kept", "key")}
        vars(self).update(vars(Session(picture, **kept)))

    def begin(self, kind: str) -> None:
        """A run of this kind is about to start; an earlier one stops."""
        self.stop(kind)
        self.runs[kind] = Run()

    def stop(self, *kinds: str) -> None:
        """Have runs end: all, or those of some kinds."""
        for kind in kinds or list(self.runs):
            if kind in self.runs:
                self.runs[kind].stop = True

    def end(self, run: Run) -> None:
        """It is over."""
        self.runs = {kind: other for kind, other in self.runs.items() if other is not run}

    def truth(self, query: str) -> Image.Image | None:
        """The true answer to a query, if the picture is one of the scenes and the query says how it is to change."""
        answer = self.scene and meant(self.scene, query)
        return answer and answer.render(self.picture.width)

    def take_up(self, result: Result) -> None:
        """Go on from an earlier result."""
        self.edit = result.edit
        if result.edit.mask_map is not None:
            self.found = replace(result.edit, image=result.edit.input)

    def add(self, result: Result) -> None:
        """Keep it as the last one."""
        self.results = [result, *self.results][:RESULTS]

    # ---- step 1, and the mask

    def find(self, model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Edit]:
        """The map for these words and settings, and the mask that the method cuts from it; no rows for a kept map."""
        found = yield from self.watch(asked.without_levels(), model, run)
        self.found = replace(found, image=found.input)      # nobody sees it, and large pictures fill the memory
        return self.found

    def earlier(self) -> list[Edit]:
        """What may be used again."""
        return [edit for edit in (self.found, *self.encoded) if edit is not None]

    def cut(self, threshold: float) -> Tensor | None:
        """The mask, bool (h, w), that the kept map has at a threshold; None without a map. Computes nothing else."""
        if self.found is None or self.found.mask_map is None:
            return None
        return binarise(self.found.mask_map[None], threshold)[0, 0].cpu()

    def painted(self, text: str, model: StableDiffusion) -> Tensor | None:
        """The mask on the canvas, bool (h, w), if a person made some of it; else None. ValueError if it is empty."""
        mask, own = canvas.read(text, self.frame(model), model.factor)
        if not own.any():
            return None
        if not mask.any():
            raise ValueError("the mask is empty, so nothing would be edited: paint over what is to be edited, or press "
                             "\"Back to the found mask\"")
        return mask

    def as_canvas(self) -> dict[str, Any]:
        """The canvas with the picture, and with the mask of the last edit, if that was made with such cells."""
        if not (self.picture and self.cells):
            return canvas.empty()
        (picture, frame, factor), edit, mask, own = self.fitted(), self.edit, None, None
        if edit is not None and edit.mask is not None and (edit.frame, edit.factor) == (frame, factor):
            mask = edit.mask.cpu()
            own = torch.where(mask, 1, 2) if "mask" in edit.settings["given"] else None
        return canvas.begun(picture, frame, factor, mask, own)

    def fitted(self) -> tuple[Image.Image, Frame, int]:
        """The picture, how it is fitted to `cells`, and their factor."""
        multiple, area, factor = self.cells
        return self.opened(), fit(self.opened(), multiple, area)[1], factor

    def frame(self, model: StableDiffusion) -> Frame:
        """How the picture is fitted to this model's network."""
        return fit(self.opened(), model.multiple, model.native_area)[1]

    def opened(self) -> Image.Image:
        """The picture. Raises ValueError if there is none."""
        if self.picture is None:
            raise ValueError("there is no picture yet: upload one, or take one of the scenes")
        return self.picture

    # ---- the edit

    def run(
        self, model: StableDiffusion, asked: Asked, run: Run, mask: Tensor | Image.Image | None = None,
        part: Image.Image | None = None,
    ) -> Generator[Progress, None, Edit]:
        """The edit of the picture or a part, with this mask or a map that is found first, if the method takes them."""
        given: dict[str, Any] = {}
        if "mask" in asked.method.uses and mask is not None:
            given["mask"] = mask
        elif "mask_map" in asked.method.uses:
            yield from self.find(model, asked, run)
        self.edit = yield from self.watch(asked, model, run, part, **given)
        if self.edit.rows_for.get("encode"):
            self.encoded = [replace(self.edit, image=self.edit.input), *self.encoded][:ENCODINGS]
        return self.edit

    def finish(self, edit: Edit, settings: dict[str, Any]) -> Edit:
        """The edit with all that it depends on, as the last one."""
        self.edit = replace(edit, settings=settings)
        return self.edit

    def watch(
        self, asked: Asked, model: StableDiffusion, run: Run, part: Image.Image | None = None, **given: Any
    ) -> Generator[Progress, None, Edit]:
        """The steps of what is asked for, and some of their latents as pictures. Raises Stopped."""
        picture, frame, earlier = part or self.opened(), None, self.earlier()
        steps = asked.iterate(model, picture, keep="trace", reuse=earlier, **given)
        while True:
            try:
                step = advance(steps, model.unet, run)
            except StopIteration as done:
                if run.stop:        # there may be another picture by now
                    raise Stopped from None
                return with_trace(replace(done.value, input=picture), earlier)     # the same, but not a copy
            shown = None
            if step.latent is not None and part is None and step.index % max(1, step.total // PREVIEWS) == 0:
                frame = frame or at_most(fit(picture, model.multiple, model.native_area)[1], canvas.SIDE)
                shown = unfit(model.decode(step.latent[:1]), frame)
            yield step, shown


def with_trace(edit: Edit, earlier: Sequence[Edit]) -> Edit:
    """For the report: where the map is an earlier edit's, so are the intermediates of step 1."""
    for other in earlier:
        if not edit.trace and same_map(edit, other):
            edit = replace(edit, trace=other.trace)
    return edit


def same_map(edit: Edit, other: Edit) -> bool:
    """Whether two edits have one map, number for number."""
    one, another = edit.mask_map, other.mask_map
    return one is not None and another is not None and one.equal(another)


def advance(steps: Generator[Step, None, Edit], unet: nn.Module, run: Run) -> Step:
    """The next step, with the U-Net watched meanwhile: rows are counted, and Stopped is raised after a call.

    The watch is on a network that others share, but only for calls of this thread, and only until the step is there.
    """
    thread = get_ident()

    def after(called: nn.Module, _: tuple[Any, ...], out: Tensor) -> None:
        if called is unet and get_ident() != thread:        # a copy, as UniTune makes one, is this run's alone
            return
        run.rows += len(out)
        if run.stop:
            raise Stopped

    if run.stop:
        raise Stopped
    hook = unet.register_forward_hook(after)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            return next(steps)
    finally:
        hook.remove()
        run.warnings += [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
