"""What is asked for: the cells of a grid or of a comparison, checked before any work.

A cell is a `Job`, an edit with all that `diffedit-min edit` can be told of one picture. On a grid's axes may stand any
option of the method, and what is told of every edit: `TOLD_TOO`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ...bench.variants import parts
from ...core.options import Option, written
from ...core.state import Sampler
from ...methods import METHODS, Method, find_method
from ...methods.call import Call
from ...methods.cost import cost_of
from ...networks.stable_diffusion import StableDiffusion
from ..jobs.job import TOLD, Job, job_of

MOST = 100      # cells of a sheet
TOLD_TOO = tuple(name for name in TOLD if name not in ("method", "mask"))     # of an axis, besides the method's options


@dataclass(frozen=True, eq=False)
class Axis:
    """One option and its values, or the methods of a comparison."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        return [shown(value) for value in self.values]


@dataclass(frozen=True, eq=False)
class Wanted:
    """A cell before it is made."""

    label: str
    job: Job
    model: StableDiffusion


@dataclass(frozen=True, eq=False)
class Plan:
    """A sheet before it is made. Its cells stand row by row, as people read."""

    picture: Image.Image                # upright, RGB or RGBA
    image: str                          # its file, as the commands that repeat a cell name it
    told: Mapping[str, Any]             # what is the same in all cells, as `job_of` takes it
    across: Axis
    down: Axis | None
    cells: tuple[Wanted, ...]
    truth: Image.Image | None = None    # what a perfect edit would be
    left_out: Mapping[str, str] = field(default_factory=dict)      # methods that don't run, and why

    def __post_init__(self) -> None:
        if self.truth is not None and self.truth.size != self.picture.size:
            given, wanted = (f"{width} x {height}" for width, height in (self.truth.size, self.picture.size))
            raise ValueError(f"the true answer has {given} px, but the picture {wanted}: give one of the same size")

    @property
    def shares(self) -> bool:
        """Whether a cell may use the encodings and maps of others. In a comparison each shows all that it costs."""
        return self.across.name != "method"

    @property
    def given(self) -> list[tuple[Image.Image, str]]:
        """What every sheet shows besides its cells."""
        return [(self.picture, "input")] + ([] if self.truth is None else [(self.truth, "true answer")])

    @property
    def order(self) -> list[int]:
        """In which order cells are made: the largest encoding ratio first, as its encoding serves the smaller ones."""
        def ratio(i: int) -> float:
            cell = self.cells[i]
            return getattr(cell.job.asked.settings(cell.model), "encoding_ratio", 0.0)

        return sorted(range(len(self.cells)), key=lambda i: -ratio(i)) if self.shares else list(range(len(self.cells)))


def shown(value: Any) -> str:
    """A value as a label says it."""
    return written(value) if isinstance(value, Sampler) else "none" if value in ("", None) else str(value)


def told_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a call in Python says by name, as `job_of` takes it: words and the like, and options."""
    return {**{name: value for name, value in given.items() if name in TOLD},
            "options": {name: value for name, value in given.items() if name not in TOLD}}


# ---------------------------------------------------------------- a grid


def plan_grid(
    model: StableDiffusion, picture: Image.Image, image: str, told: Mapping[str, Any], x: Axis, y: Axis | None,
    truth: Image.Image | None = None,
) -> Plan:
    """Every value of x with every value of y. told: as `job_of` takes it, for all cells.

    Raises ValueError, in one line, for an axis that can't be, and for what no edit can be told.
    """
    method = find_method(told.get("method") or "diffedit")
    axes = [x] if y is None else [x, y]
    method.made(told.get("options") or {})
    fixed = {text.partition("=")[0].strip().replace("-", "_") for text in told.get("option") or ()}
    for axis in axes:
        option_of(method, axis.name)
        if not axis.values:
            raise ValueError(f"{axis.name} has no values: give one or more")
        if len(set(axis.labels)) < len(axis.values):
            raise ValueError(f"{axis.name} has a value twice: {Counter(axis.labels).most_common(1)[0][0]:.60}")
        if axis.name in fixed | (told.get("options") or {}).keys():
            raise ValueError(f"{axis.name} is on an axis: leave it out of the options for all cells")
    if y is not None and x.name == y.name:
        raise ValueError(f"{x.name} is on both axes: give another option for one of them")
    columns, rows = (len(axis.values) for axis in (x, y or Axis("", ("",))))
    if columns * rows > MOST:
        raise ValueError(f"{columns} x {rows} = {columns * rows} cells are more than {MOST}: give fewer values, or use "
                         "`bench`, which makes tables")
    method.check(model, [picture], Call())
    cells = []
    for down in [None] if y is None else y.values:
        for across in x.values:
            own = {x.name: across} if y is None else {x.name: across, y.name: down}
            label = ", ".join(f"{name}={shown(value)}" for name, value in own.items())
            cells.append(Wanted(label, job_with(own, told, image), model))
    return Plan(picture, image, told, x, y, tuple(cells), truth)


def job_with(own: Mapping[str, Any], told: Mapping[str, Any], image: str) -> Job:
    """The job of one cell: what all are told, and its own values by name."""
    around = {name: value for name, value in own.items() if name in TOLD_TOO}
    options = {name: value for name, value in own.items() if name not in TOLD_TOO}
    return job_of({**told, **around, "options": {**(told.get("options") or {}), **options}}, image, Path("cell.png"))


def option_of(method: Method, name: str) -> Option:
    """What can stand on an axis, by its name."""
    if name == "preset":
        return Option(name, str, None, choices=method.preset_names)
    if name in TOLD_TOO:
        return Option(name, TOLD[name], None)
    if name not in method.known:
        raise ValueError(f"{method.dashed} has no option {name!r} for an axis; it has "
                         f"{', '.join(sorted(method.known))}; and {', '.join(TOLD_TOO)}")
    return method.known[name]


def axis_of(method: Method, given: Sequence[str], flag: str) -> Axis:
    """An axis as a command line says it: ["steps=10,20"]; or ["query=a dog", "query=a cat"], where commas may be a part
    of the value.
    """
    pairs = [(name.strip().replace("-", "_"), equals, tail) for name, equals, tail in (t.partition("=") for t in given)]
    name = pairs[0][0]
    for other, equals, _ in pairs:
        if not equals:
            raise ValueError(f"{flag} {other!r} has no values: write it as option=value,value, for example steps=10,20")
        if other != name:
            raise ValueError(f"{flag} has one option, not {name} and {other}: give the other one to the other axis")
    own = option_of(method, name)
    whole = own.kind in (dict, tuple) or (own.kind is str and not own.choices)
    texts = [text for _, _, tail in pairs for text in ([tail] if whole else map(str.strip, tail.split(",")))
             if text or whole]
    return Axis(name, tuple(own.parsed(text) for text in texts))


# ---------------------------------------------------------------- a comparison


def plan_comparison(
    models: Sequence[StableDiffusion], picture: Image.Image, image: str, told: Mapping[str, Any],
    methods: Sequence[str] | None = None, instruction: str = "", truth: Image.Image | None = None,
) -> Plan:
    """Methods on one picture. Each takes the first of the models that its U-Net's channels fit.

    told: for all methods; its "options" and "option" ("[method:]name=value") are for those that have them. methods:
    left out, all that change a picture by words without training. instruction: in place of the query, for those that
    are told what to do. Raises ValueError if no method is left.
    """
    chosen = [METHODS[name] for name in METHODS] if methods is None else [find_method(name) for name in methods]
    if len({method.name for method in chosen}) < len(chosen):
        raise ValueError(f"a method is named twice: {', '.join(method.dashed for method in chosen)}")
    texts = [(text, *parts(text)) for text in told.get("option") or ()]
    check_options(chosen, texts, told.get("options") or {})
    cells, left_out = [], {}
    for method in chosen:
        fitting = [model for model in models if model.unet.config.in_channels == method.channels]
        own = [f"{name}={tail}" for _, whose, name, tail in texts
               if name in method.known and (not whose or find_method(whose) is method)]
        query = instruction if method.needs_instruction else told.get("query", "")
        try:
            if not fitting:
                raise ValueError(f"needs a U-Net with {method.channels} input channels")
            if method.needs_instruction and not instruction.strip():
                raise ValueError("needs an instruction: say what to do")
            if methods is None and not method.takes_query:
                raise ValueError("takes no query")
            job = job_of({**told, "method": method.name, "query": query, "option": own}, image, Path("cell.png"))
            cost = cost_of(job.asked, fitting[0], job.gives_mask) if methods is None else None
            if cost is not None and cost.backward_rows:
                raise ValueError(f"trains, {cost.backward_rows:,} rows back; name it to have it")
        except ValueError as error:
            left_out[method.dashed] = str(error).removeprefix(f"{method.name} ")
            continue
        cells.append(Wanted(method.dashed, job, fitting[0]))
    if not cells:
        raise ValueError("no method is left: " + ", ".join(f"{name} ({why})" for name, why in left_out.items()))
    across = Axis("method", tuple(cell.label for cell in cells))
    return Plan(picture, image, told, across, None, tuple(cells), truth, left_out)


def check_options(chosen: Sequence[Method], texts: Iterable[tuple[str, ...]], options: Mapping[str, Any]) -> None:
    """Refuse options that none of the methods has."""
    for _, whose, name, _ in [*texts, *(("", "", name, "") for name in options)]:
        takers = [find_method(whose)] if whose else chosen
        if not any(name in method.known for method in takers if method in chosen):
            raise ValueError(f"-o {whose and whose + ':'}{name}: none of {', '.join(m.dashed for m in chosen)} has it")
