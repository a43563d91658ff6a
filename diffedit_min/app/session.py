"""What one person has done in the page so far, and what of it is kept.

    open     a picture              everything before it is forgotten
    find     words and settings     -> the map: 2n rows; none if it is the one that is kept
    cut      a threshold            -> the mask: no model
    run      and maybe a mask       -> the edit: the map and the encoding that are kept are not made again

`find` and `run` are generators of `Progress`, and can be stopped from elsewhere through their `Run`. What happens in
between is `Method.iterate`'s: nothing of an algorithm is here.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields, replace
from threading import get_ident
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ..core.coding import CodingOptions
from ..core.mask import binarise
from ..core.options import Options
from ..core.task import Step
from ..methods import Edit, Method
from ..methods.batches import Trajectory
from ..model.stable_diffusion import StableDiffusion
from ..picture import Frame, fit, unfit
from . import canvas

PREVIEWS = 5        # of a stage: decoding a latent costs about as much as three U-Net rows
FILES = ("save", "tuned", "clip")      # options that name files, or models: those are the server's

# What an encoding depends on: its sampler's options, but not how far it goes, since a shorter one is a part of it.
ENCODING = [f.name for f in fields(CodingOptions) if f.name not in ("guidance_scale", "negative_prompt",
                                                                    "encoding_ratio")]


class Stopped(Exception):
    """The person asked to stop."""


@dataclass
class Run:
    """One computation under way."""

    stop: bool = False      # set from another thread: it ends after the U-Net call in flight
    rows: int = 0           # that are done
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """`index` of `total` steps of `stage` are done, and `rows` rows; sometimes with the latest latent as a picture."""

    stage: str
    index: int
    total: int
    rows: int
    picture: Image.Image | None = None


@dataclass(frozen=True)
class Asked:
    """What a person wants done with the picture."""

    method: Method
    query: str
    reference: str = ""
    seed: int = 0
    preset: str = "paper"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in FILES:
            if name in self.options:
                raise ValueError(f"{name} names a file, and this page opens none: use the command for it")

    def settings(self, model: StableDiffusion) -> Options:
        """The options in force. Raises ValueError for those that aren't known or are out of range."""
        return self.method.settings(model, self.options, self.preset)


@dataclass
class Session:
    """One person's. It is copied before it is used: it must start empty."""

    picture: Image.Image | None = None
    found: Edit | None = None           # with the map; it went no further than the mask
    found_for: tuple[Any, ...] = ()
    shown: Tensor | None = None         # bool (h, w): the mask that was laid on the canvas last
    encoded: Trajectory = ()
    encoded_for: tuple[Any, ...] = ()
    edit: Edit | None = None
    edited_by: str = ""                 # the model's name
    runs: dict[str, Run] = field(default_factory=dict)      # by kind, "find" or "edit": not ended yet

    def open(self, picture: Image.Image | None) -> None:
        """Begin anew with a picture, or with none."""
        self.stop()
        vars(self).update(vars(Session(picture, runs=self.runs)))

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

    # ---- step 1, and the mask

    def find(self, model: StableDiffusion, asked: Asked, run: Run) -> Generator[Progress, None, Edit]:
        """The map for these words and settings. The one that is kept serves whatever the threshold."""
        settings = asked.settings(model)
        mask_options = {f.name: getattr(settings, f.name) for f in fields(settings)
                        if f.name.startswith("mask_") and f.name != "mask_threshold"}
        wanted = (model.name, asked.query, asked.reference, asked.seed, *mask_options.items())
        if self.found is None or self.found_for != wanted:
            options = {**asked.options, "encoding_ratio": 0.0}      # steps 2 and 3 have no level to go to
            found = yield from watch(replace(asked, options=options), model, self.opened(), run, keep="trace")
            self.found, self.found_for = found, wanted
        return self.found

    def cut(self, threshold: float) -> Tensor | None:
        """The mask, bool (h, w), that the kept map has at a threshold; None without a map. Computes nothing else."""
        return None if self.found is None else binarise(self.found.mask_map[None], threshold)[0, 0].cpu()

    def layer(self, threshold: float) -> Image.Image | None:
        """That mask as a layer for the canvas, remembered as what lies on it."""
        self.shown = self.cut(threshold)
        return None if self.shown is None else canvas.layer_of(self.shown, self.found.frame, self.found.factor)

    def painted(self, layers: Sequence[Image.Image], model: StableDiffusion) -> Tensor | None:
        """The mask on the canvas, bool (h, w), if it is another than the one that was laid there; else None."""
        mask = canvas.mask_of(layers, self.frame(model), model.factor)
        unchanged = not mask.any() if self.shown is None else mask.equal(self.shown)
        return None if unchanged else mask

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
        self, model: StableDiffusion, asked: Asked, run: Run, painted: Tensor | None = None
    ) -> Generator[Progress, None, Edit]:
        """The edit, with the painted mask or the kept map, and the kept encoding, where the method takes them."""
        uses = asked.method.uses
        settings = asked.settings(model)
        given: dict[str, Any] = {}
        if "mask" in uses and painted is not None:
            given["mask"] = painted
        elif "mask_map" in uses:
            given["mask_map"] = (yield from self.find(model, asked, run)).mask_map
        coding = (model.name, asked.method.name, asked.reference if asked.method.needs_reference else "",
                  *((name, getattr(settings, name, None)) for name in ENCODING))
        if "encoded" in uses and self.encoded_for == coding:
            given["encoded"] = self.encoded
        edit = yield from watch(asked, model, self.opened(), run, keep="trace", **given)
        if "mask_map" in given:
            edit = replace(edit, trace=self.found.trace)        # of step 1, for the report
        if "encoded" in uses and len(edit.encoded) > (len(self.encoded) if self.encoded_for == coding else 0):
            self.encoded, self.encoded_for = edit.encoded, coding
        self.edit, self.edited_by = edit, model.name
        return edit


def watch(
    asked: Asked, model: StableDiffusion, picture: Image.Image, run: Run, **given: Any
) -> Generator[Progress, None, Edit]:
    """`Method.iterate`, with the rows that are done and some of its latents as pictures. Raises Stopped."""
    frame = None
    steps = asked.method.iterate(model, picture, asked.query, asked.reference, seed=asked.seed, preset=asked.preset,
                                 **asked.options, **given)
    while True:
        try:
            step: Step = advance(steps, model.unet, run)
        except StopIteration as done:
            if run.stop:        # there may be another picture by now
                raise Stopped from None
            return done.value
        shown = None
        if step.latent is not None and step.index % max(1, step.total // PREVIEWS) == 0:
            frame = frame or fit(picture, model.multiple, model.native_area)[1]
            shown = unfit(model.decode(step.latent[:1]), frame)
        yield Progress(step.stage, step.index, step.total, run.rows, shown)


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
