"""What is measured, and the loop over it.

A case is one thing to measure: a part with a model, a dtype, a size, ... Its programs take turns in rounds, and a round
is the unit that is on disk whole or not at all, one line of OUT/parts/rounds-0.jsonl. Its key is all that it depends
on: a round that is there is not measured again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...loading import compile_unet, load
from ..run import digest, versions
from ..store import Appender, read_all
from . import edits, machine, memory, networks, report
from .workbench import Bench, Case, Entry, Round

EDIT_SIDE = 256         # px: whole edits run at up to this, and are composed for more
PAIR = 2                # rows that share x and t, as guidance and the mask have them

PARTS: dict[str, Callable[[Case, Bench], Round]] = {
    "unet": networks.unet, "operations": networks.operations, "vae": networks.vae, "edit": edits.edit,
    "memory": memory.memory, "compile": networks.compiled,
}
AGAINST = ("unet", "vae", "edit", "memory")     # the parts in which a rival takes turns with ours


@dataclass(frozen=True, eq=False)
class Plan:
    """All that was asked for."""

    model: str
    out: Path
    sizes: tuple[int, ...] = ()                     # px, along each side; none: the model's own
    rows: tuple[int, ...] = (1, 2, 4, 8)
    dtypes: tuple[str, ...] = ("float32",)
    parts: tuple[str, ...] = ("unet", "operations", "vae", "edit")
    presets: tuple[str, ...] = ()                   # none: the edit as it is called by default
    options: Mapping[str, Any] = field(default_factory=dict)    # of the edit
    against: Path | None = None                     # a rival's file
    repeats: int = 5

    def cases(self, dtype: str, sides: tuple[int, ...]) -> Iterator[Case]:
        """In the order in which they are measured."""
        for part in self.parts:
            own = {"part": part, "model": self.model, "dtype": dtype, "threads": torch.get_num_threads(),
                   "against": self.against.stem if self.against and part in AGAINST else None}
            edited = {"presets": list(self.presets), "options": dict(self.options)}
            for side in sides:
                if part == "unet":
                    yield from ({**own, "size": side, "rows": rows} for rows in self.rows)
                elif part == "vae":
                    yield from ({**own, "size": side, "what": what} for what in ("encode", "decode"))
                elif part == "memory":
                    yield {**own, "size": side, **edited}
                elif part != "edit":
                    yield {**own, "size": side, "rows": PAIR}
            if part == "edit":
                for side in dict.fromkeys(min(side, EDIT_SIDE) for side in sides):
                    yield {**own, "size": side, **edited}

    def rounds(self, part: str) -> int:
        """How often a case is measured. A peak of memory repeats, and each takes a process of its own."""
        return 1 if part == "memory" else self.repeats

    def record(self) -> Entry:
        """What OUT/run.json says: results of another machine or of other versions are not mixed with these."""
        about = machine.describe()
        return {"versions": {**versions(), "processor": about["processor"]}, "machine": about}


def key(case: Case, index: int) -> str:
    return f"{case['part']} {digest(case)} {index}"


def left_out(plan: Plan) -> dict[str, str]:
    """The parts that can't be measured here, and why."""
    found = {}
    if "compile" in plan.parts:
        try:
            compile_unet(load("random", device="cpu"))      # compiles nothing yet
        except ValueError as error:
            found["compile"] = str(error)
    if "memory" in plan.parts and not memory.CLEAR.exists():
        found["memory"] = "peaks are read from /proc/self, which only Linux has"
    return found


@torch.no_grad()
def work(plan: Plan, tell: Callable[[str], None]) -> None:
    """Measure what is not on disk yet. The tables are written after each case."""
    file, done, reasons = Appender(plan.out, "rounds", 0), read_all(plan.out, "rounds"), left_out(plan)
    for part, reason in reasons.items():
        tell(f"left out: {part}: {reason}")
    for dtype in plan.dtypes:
        bench = Bench(plan.model, dtype, plan.against)
        for case in plan.cases(dtype, bench.sides(plan.sizes)):
            missing = [i for i in range(plan.rounds(case["part"])) if key(case, i) not in done]
            if missing and case["part"] not in reasons:
                tell(f"{title(case)}, rounds: {len(missing)}")
                one_round = PARTS[case["part"]](case, bench)
                for index in missing:
                    file.append([{"key": key(case, index), "case": case, "round": index, **one_round(index)}])
                del one_round       # with the networks of a rival
                report.write(plan.out)
        bench.forget()              # before the next dtype's are made
    report.write(plan.out)


def title(case: Case) -> str:
    """A case in a few words, for a line of progress."""
    return " ".join(str(case[name]) for name in ("part", "what", "model", "dtype", "size", "rows") if name in case)
