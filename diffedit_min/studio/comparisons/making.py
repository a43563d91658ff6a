"""From a plan to cells: each is made once, with the encodings and maps of those before it; and kept in a folder.

The folder has two files for each cell: the picture with its settings, a PNG that `edit --like` repeats; and what a
picture doesn't hold: seconds, rows, mask, and what later cells may use. So a run that was stopped goes on to the same
sheet, and no encoding is made twice. A kept cell is used only if nothing differs that it, or one before it, depends on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...bench.run import code_of, source_of
from ...bench.store import digest, hash_of, versions
from ...bench.variants import MAKE, Variant
from ...core.options import Option
from ...core.schedule import Level
from ...core.state import State, Trajectory
from ...core.task import Step
from ...methods import Asked, Edit
from ...methods.cost import Cost, StandIn, cost_of, small_picture
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.masks import open_white
from ...pictures.metadata import texts
from ...pictures.picture import fit
from ...pictures.picture_files import open_upright, save
from ...pictures.writing import NotWritten, make_folder, replacing
from ..jobs import editing
from .plan import Plan


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
    on_step: Callable[[int, Step | None], None] = lambda *_: None,
) -> Iterator[tuple[int, Cell]]:
    """Each cell of the plan, with its place, as soon as it is made and kept.

    source: where the models' files come from, for the settings. keep: the folder of kept cells; None: none is kept.
    on_step: is told of each step of the cell at that place, and with None that a cell is there, made or kept. If it
    raises an error, the making stops.
    """
    models = {id(cell.model): cell.model for cell in plan.cells}
    sources = {key: {**(source or {}), "weights": hash_of(model)} for key, model in models.items()}
    parts: dict[Any, editing.Opened] = {}
    earlier: list[Edit] = []
    told: list[Any] = []
    for place in plan.order:
        wanted = plan.cells[place]
        job, model = wanted.job, wanted.model
        part = job.crop, job.mask_grow
        if part not in parts:
            given = None if job.mask is None else open_white(job.mask, plan.picture.size)
            parts[part] = editing.prepared(job, plan.picture, given)
        opened = replace(parts[part], job=job)
        settings = editing.settings_of(opened, model, sources[id(model)])
        code = code_of(Variant(job.asked.method, job.asked.options, preset=job.asked.preset), model)
        told = [*(told if plan.shares else ()), [settings, code]]       # an edit's rows depend on who came before
        kept = None if keep is None else Kept(keep, wanted.label, told, model)
        cell = None if kept is None else kept.read(opened, settings)
        if cell is None:
            try:
                edit, seconds = made(opened, model, sources[id(model)], earlier if plan.shares else [],
                                     lambda step, place=place: on_step(place, step))
                cell = Cell(wanted.label, model, edit, seconds)
            except NotWritten:
                raise
            except (ValueError, torch.OutOfMemoryError) as error:
                cell = Cell(wanted.label, model, why=" ".join(str(error).split()))
            if kept is not None and cell.edit is not None:
                kept.write(cell)
        if cell.edit is not None and plan.shares and MAKE & cell.edit.rows_for.keys():
            earlier.append(cell.edit)
        on_step(place, None)
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


def costs(plan: Plan) -> dict[int, Cost]:
    """What each cell will cost, by its place: the plan itself, run on a stand-in (methods/cost.py). {}: not known."""
    try:
        if not plan.shares:
            return {place: cost_of(cell.job.asked, cell.model, cell.job.gives_mask) or Cost({}, 0, ())
                    for place, cell in enumerate(plan.cells)}
        if any(option.file for cell in plan.cells for option in set_options(cell.job.asked)):
            return {}       # a count writes and reads no files
        return shared_costs(plan, StandIn.of(plan.cells[0].model))
    except Exception:       # of any kind, and on the stand-in only: the run itself will say what is wrong
        return {}


def set_options(asked: Asked) -> list[Option]:
    """Those that are not as the method recommends."""
    return [asked.method.known[name] for name in asked.options]


def shared_costs(plan: Plan, stand_in: StandIn) -> dict[int, Cost]:
    """The same for cells that use each other's encodings and maps, on small pictures: one for each part and size."""
    found, earlier, pictures = {}, [], {}
    for place in plan.order:
        job, steps, before = plan.cells[place].job, [], stand_in.rows[0]
        asked, part = replace(job.asked, size=None), (job.asked.size, job.crop)
        small = pictures.setdefault(part, small_picture(stand_in))
        small.putpixel((0, 0), (list(pictures).index(part), 0, 0))      # so that it is another one
        given = {"mask": Image.new("L", small.size, 255)} if job.gives_mask else {}
        edit = asked(stand_in, small, reuse=list(earlier), **given, on_step=lambda step, steps=steps, before=before: (
            steps.append((step.stage, step.index, stand_in.rows[0] - before))))
        if MAKE & edit.rows_for.keys():
            earlier.append(edit)
        found[place] = Cost(dict(edit.rows_for), edit.backward_rows, tuple(steps))
    return found


@dataclass(frozen=True, eq=False)
class Kept:
    """A cell's two files."""

    folder: Path
    label: str
    told: Any                   # all that it depends on besides this machine and its program
    model: StableDiffusion

    @property
    def picture(self) -> Path:
        about = [self.told, versions(), source_of(editing.edit_jobs), torch.get_num_threads(), str(self.model.device)]
        name = re.sub(r"[^\w=.,-]+", "_", self.label)[:80]
        return self.folder / f"{name}.{digest(about)}.png"

    def write(self, cell: Cell) -> None:
        """The picture first: a cell is there when both are. Raises NotWritten."""
        make_folder(self.folder)
        edit, names = cell.edit, ("backward_rows", "empty_mask", "mask", "mask_map")
        records = [*edit.encoded.made, getattr(edit.mask_map, "made", {})]
        # Of the records of what made them, the options' part is what the cell's own options say.
        rest = {"seconds": cell.seconds, "rows_for": dict(edit.rows_for), "states": list(map(asdict, edit.encoded)),
                "made": [{name: None if hasattr(edit.options, name) else value for name, value in record.items()}
                         for record in records], **{name: getattr(edit, name) for name in names}}
        save(edit.image, self.picture, texts(edit.settings, edit.image.size))
        with replacing(self.picture.with_suffix(".pt")) as file:
            torch.save(rest, file)

    def read(self, opened: editing.Opened, settings: dict[str, Any]) -> Cell | None:
        """The cell as it was made; None if it isn't there, or damaged."""
        asked = opened.job.asked
        try:
            image = open_upright(self.picture)
            rest = torch.load(self.picture.with_suffix(".pt"), map_location=self.model.device, weights_only=True)
        except Exception:       # of any kind: a damaged file may raise anything
            return None
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
