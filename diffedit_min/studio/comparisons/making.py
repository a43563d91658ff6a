"""From a plan to cells: each is made once, with the encodings and maps of those before it; and kept in a folder.

The folder has two files for each cell: the picture with its settings, a PNG that `edit --like` repeats; and what a
picture doesn't hold: seconds, rows, mask, and what later cells may use. So a run that was stopped goes on to the same
sheet, and no encoding is made twice. A kept cell is used only if nothing differs that it, or one before it, depends on.
Nothing is deleted there, as another run may want it: delete the folder when you need the cells no more.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...bench.run import code_of, source_of
from ...bench.store import digest, hash_of, versions
from ...bench.variants import MAKE, Variant
from ...core.schedule import Level
from ...core.state import State, Trajectory
from ...core.task import Step
from ...methods import Asked, Edit
from ...methods.cost import Cost, StandIn, in_words, small_picture, unseen
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.masks import open_white
from ...pictures.metadata import texts
from ...pictures.picture import fit
from ...pictures.picture_files import open_upright, save
from ...pictures.writing import NotWritten, make_folder, replacing
from ..jobs import editing
from .plan import Plan

# Of a cell, after which the others are made: what can't be, a full memory, a bug in a method of one's own.
FAULTS = ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError
SECONDS = 5.0       # that the count of a plan may take


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell that is made, or the reason why it could not be."""

    label: str
    model: StableDiffusion
    edit: Edit | None = None    # its `image` is the cell's; its encoding is with the cell that made it
    seconds: float = 0.0        # that it took when it was made
    why: str = ""               # there is no edit


def make(
    plan: Plan, source: Mapping[str, Any] | None = None, keep: Path | None = None,
    on_step: Callable[[int, Step], None] = lambda *_: None,
) -> Iterator[tuple[int, Cell]]:
    """Each cell of the plan, with its place, as soon as it is made and kept.

    source: where the models' files come from, for the settings. keep: the folder of kept cells; None: none is kept.
    on_step: is told of each step of the cell at that place. If it raises an error, the making stops.
    """
    models = {id(cell.model): cell.model for cell in plan.cells}
    sources = {key: {**(source or {}), "weights": hash_of(model)} for key, model in models.items()}
    parts: dict[Any, editing.Opened] = {}
    earlier: list[Edit] = []
    told: list[tuple[dict[str, Any], Asked]] = []
    for place in plan.order:
        wanted = plan.cells[place]
        job, model = wanted.job, wanted.model
        part = job.crop, job.mask_grow
        if part not in parts:
            given = None if job.mask is None else open_white(job.mask, plan.picture.size)
            parts[part] = editing.cut_out(job, plan.picture, given)
        opened = replace(parts[part], job=job)
        settings = editing.settings_of(opened, model, sources[id(model)])
        told = [*(told if plan.shares else ()), (settings, job.asked)]      # an edit's rows depend on who came before
        kept = None if keep is None else Kept(keep, wanted.label, told, model)
        cell = None if kept is None else kept.read(opened, settings)
        if cell is None:
            try:
                edit, seconds = made(opened, model, sources[id(model)], earlier if plan.shares else [],
                                     lambda step, place=place: on_step(place, step))
                cell = Cell(wanted.label, model, edit, seconds)
            except NotWritten:
                raise
            except FAULTS as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                cell = Cell(wanted.label, model, why=" ".join(f"{kind}{error}".split()))
            if kept is not None and cell.edit is not None:
                kept.write(cell)
        if cell.edit is not None and plan.shares and MAKE & cell.edit.rows_for.keys():
            earlier.append(cell.edit)
        yield place, cell


def made(
    opened: editing.Opened, model: StableDiffusion, source: Mapping[str, Any], earlier: Sequence[Edit],
    on_step: Callable[[Step], None],
) -> tuple[Edit, float]:
    """One edit, with what it can use of earlier ones, and the seconds that it took."""
    started = time.perf_counter()
    [(edit, image)] = editing.edit_jobs(model, source, [opened], reuse=list(earlier), on_step=on_step)
    seconds = round(time.perf_counter() - started, 3)
    encoded = edit.encoded if "encode" in edit.rows_for else Trajectory()
    return replace(edit, image=image, input=opened.cut, encoded=encoded), seconds


def cost_of_all(plan: Plan) -> Cost | None:
    """What the plan will cost at most, found by making it on stand-ins (methods/cost.py); None if it can't be known.

    Its steps are those of `named`, in the order in which the cells are made.
    """
    if any(cell.job.asked.method.known[name].file for cell in plan.cells for name in cell.job.asked.options):
        return None         # a count writes and reads no files
    stand_ins = {id(cell.model): StandIn.of(cell.model, SECONDS) for cell in plan.cells}
    small = small_picture(stand_ins[id(plan.cells[0].model)])
    sizes = sorted({cell.job.asked.size or 0 for cell in plan.cells})       # each becomes a small one of its own
    cells = []
    for cell in plan.cells:
        size = cell.job.asked.size and small.width * (1 + sizes.index(cell.job.asked.size))
        job = replace(cell.job, asked=replace(cell.job.asked, size=size), crop=None)
        cells.append(replace(cell, job=job, model=stand_ins[id(cell.model)]))
    steps: list[tuple[str, int, int]] = []

    def on_step(place: int, step: Step) -> None:
        moved = named(plan, place, step)
        steps.append((moved.stage, moved.index, sum(model.rows[0] for model in stand_ins.values())))

    try:
        with unseen():
            small_plan = replace(plan, picture=small, cells=tuple(cells), truth=None)
            made = [cell.edit for _, cell in make(small_plan, on_step=on_step)]
    except (Exception, SystemExit):       # of any kind, and on the stand-in only: the run itself will say what is wrong
        return None
    rows_for = sum((Counter(edit.rows_for) for edit in made if edit is not None), Counter())
    return Cost(rows_for, sum(edit.backward_rows for edit in made if edit is not None), tuple(steps))


def named(plan: Plan, place: int, step: Step) -> Step:
    """A step of the cell at that place, by a name that no other cell's has."""
    return replace(step, stage=f"{plan.cells[place].label}, {in_words(step.stage)}")


@dataclass(frozen=True, eq=False)
class Kept:
    """A cell's two files."""

    folder: Path
    label: str
    told: Sequence[tuple[dict[str, Any], Asked]]    # the settings of those before it and its own, and what was asked
    model: StableDiffusion

    @cached_property
    def picture(self) -> Path:
        about = [[settings, code_of(Variant(asked.method, asked.options, preset=asked.preset), self.model)]
                 for settings, asked in self.told]
        about += [versions(), source_of(editing.edit_jobs), torch.get_num_threads(), str(self.model.device)]
        name = re.sub(r"[^\w=.,-]+", "_", self.label, flags=re.ASCII)[:80]     # which is as many bytes
        return self.folder / f"{name}.{digest(about)}.png"

    def write(self, cell: Cell) -> None:
        """The picture first: a cell is there when both are. Raises NotWritten."""
        make_folder(self.folder)
        edit, names = cell.edit, ("backward_rows", "empty_mask", "mask")
        records = [*edit.encoded.made, getattr(edit.mask_map, "made", {})]
        # Of the records of what made them, the options' part is what the cell's own options say.
        rest = {"seconds": cell.seconds, "rows_for": dict(edit.rows_for), "states": list(map(asdict, edit.encoded)),
                "made": [{name: None if hasattr(edit.options, name) else value for name, value in record.items()}
                         for record in records], **{name: getattr(edit, name) for name in names},
                "mask_map": None if edit.mask_map is None else edit.mask_map.clone()}       # without its record
        save(edit.image, self.picture, texts(edit.settings, edit.image.size))
        with replacing(self.picture.with_suffix(".pt")) as file:
            torch.save(rest, file)

    def read(self, opened: editing.Opened, settings: dict[str, Any]) -> Cell | None:
        """The cell as it was made; None if it isn't there, or damaged."""
        try:
            return self.loaded(opened, settings)
        except Exception:       # of any kind: a damaged file, or a foreign one, may raise anything
            return None

    def loaded(self, opened: editing.Opened, settings: dict[str, Any]) -> Cell:
        """The same, which raises an error if it isn't there, or damaged."""
        asked, image = opened.job.asked, open_upright(self.picture)
        rest = torch.load(self.picture.with_suffix(".pt"), map_location=self.model.device, weights_only=True)
        options = asked.settings(self.model)
        *of_encoding, of_map = ({name: getattr(options, name, value) for name, value in record.items()}
                                for record in rest.pop("made"))
        if rest["mask_map"] is not None and of_map:
            rest["mask_map"].made = of_map
        states = [State(**{**state, "level": Level(**state["level"])}) for state in rest.pop("states")]
        seconds, model = rest.pop("seconds"), self.model
        _, frame = fit(opened.cut, model.multiple, model.native_area, asked.size)
        edit = Edit(image=image, encoded=Trajectory(states, of_encoding), decoded=Trajectory(), settings=settings,
                    input=opened.cut, source=None, frame=frame, factor=model.factor, method=asked.method,
                    options=options, **rest)
        return Cell(self.label, model, edit, seconds)
