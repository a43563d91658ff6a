"""Edits of one picture side by side: a grid of two options against each other, and methods compared.

    sheet = dm.grid(model, image, "a bowl of pears", x={"encoding_ratio": [0.5, 0.7, 0.9]},
                    y={"mask_threshold": [0.3, 0.5, 0.7]})
    sheet = dm.compare([model, dm.load("tiny-instruct")], image, "a bowl of pears", "a bowl of apples",
                       instruction="replace the apples with pears")
    sheet.save("sheet.png", "sheet.html");  sheet.rows;  sheet.edits

    plan.py     which cells are asked for, checked             drawing.py      the labelled sheet
    making.py   each cell made once, and kept in a folder      rendering.py    the page in which a click shows one large
    made.py     the cells, and what is said of them            sheet.py        what is returned: all that
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .making import Cell, make
from .plan import Axis, Plan, plan_comparison, plan_grid, told_of
from .sheet import Sheet

if TYPE_CHECKING:
    from PIL import Image

    from ...core.task import Step
    from ...networks.stable_diffusion import StableDiffusion

Values = Mapping[str, Sequence[Any]]


def grid(
    model: StableDiffusion, image: Image.Image, query: str = "", reference: str = "", *, x: Values,
    y: Values | None = None, method: str = "diffedit", truth: Image.Image | None = None, keep: str | Path | None = None,
    on_cell: Callable[[Cell], None] | None = None, **told: Any,
) -> Sheet:
    """Two options of a method against each other on one picture: a labelled sheet.

    x, y: {name: values}, each an option of the method, or query, reference, seed, size, preset, mask_grow, composite,
    mask_feather or crop. told: options of the method, and those names, for all cells. Encodings and maps are shared:
    each is made once. truth: the true answer, if it is known. keep: a folder for finished cells, so that a run that was
    stopped goes on from there. on_cell: is told of each cell. Raises ValueError, in one line, for what can't be.
    """
    from ...pictures.picture_files import upright

    one, other = (None if values is None else axis(values) for values in (x, y))
    words = {name: text for name, text in (("query", query), ("reference", reference)) if text}
    told = told_of({**told, **words, "method": method})
    return finished(plan_grid(model, upright(image), "input.png", told, one, other, truth), keep, on_cell)


def compare(
    model: StableDiffusion | Sequence[StableDiffusion], image: Image.Image, query: str, reference: str = "", *,
    methods: Sequence[str] | None = None, instruction: str = "", truth: Image.Image | None = None,
    keep: str | Path | None = None, on_cell: Callable[[Cell], None] | None = None, **told: Any,
) -> Sheet:
    """Methods on one picture, with what each costs: a labelled sheet. Nothing is shared between them.

    model: one or several; each method takes the first one that it works with. methods: left out, all but those that
    train. Those that can't run here are left out, and the sheet says why. instruction: for methods that are told what
    to do, in place of the query. told: options, for the methods that have them, and what `grid` takes besides. For the
    rest see `grid`.
    """
    from ...pictures.picture_files import upright

    models = [model] if not isinstance(model, Sequence) else model
    told = told_of({**told, "query": query, "reference": reference})
    plan = plan_comparison(models, upright(image), "input.png", told, methods, instruction, truth)
    return finished(plan, keep, on_cell)


def axis(values: Values) -> Axis:
    """{name: values} as an Axis."""
    if len(values) != 1:
        raise ValueError(f"an axis is one option and its values, for example {{'steps': [10, 20]}}, not {values!r:.60}")
    [(name, several)] = values.items()
    return Axis(name, tuple(several))


def finished(
    plan: Plan, keep: str | Path | None, on_cell: Callable[[Cell], None] | None,
    source: Mapping[str, Any] | None = None, on_step: Callable[[int, Step], None] = lambda *_: None,
) -> Sheet:
    """The sheet with all cells made. source and on_step: see `make`. Raises ValueError if none could be."""
    cells: list[Cell | None] = [None] * len(plan.cells)
    for place, cell in make(plan, source, None if keep is None else Path(keep), on_step):
        cells[place] = cell
        if on_cell is not None:
            on_cell(cell)
    return whole(plan, cells)


def whole(plan: Plan, cells: Sequence[Cell | None]) -> Sheet:
    """The sheet of cells that are made. Raises ValueError if there is no edit among them."""
    sheet = Sheet(plan, tuple(cells))
    if not sheet.edits:
        raise ValueError(f"no cell could be made: {cells[0].why}")
    return sheet
