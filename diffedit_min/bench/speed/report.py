"""From the rounds on disk to tables: OUT/table.md to read, OUT/table.csv with the same values unrounded.

Seconds are medians over rounds, and so are the ceilings, of all measurements in those rounds; ratios are of medians.
All that OUT holds is shown, whichever call of the command measured it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..report import as_csv, put
from ..store import read_all
from .edits import compose
from .workbench import OURS, Case, Entry

ORDER = ("unet", "operations", "vae", "edit", "memory", "compile")
FIRST = ("part", "model", "dtype", "threads", "size", "rows", "what", "options", "program")     # columns, in this order
SHARED = FIRST[1:6]     # said above a table where they are the same in all its lines


class Share(float):
    """Shown in percent."""


class Ratio(float):
    """Shown with two decimals."""


Line = dict[str, Any]       # a line of a table: its cells by column


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    lines: list[Line]


@dataclass(frozen=True)
class Result:
    """All rounds of one case."""

    case: Case
    rounds: list[Entry]

    @property
    def seconds(self) -> dict[str, float]:
        """Of each program, the median."""
        return {name: median(entry["seconds"][name] for entry in self.rounds) for name in self.rounds[0]["seconds"]}

    @property
    def ceilings(self) -> dict[str, float]:
        """Of each kind, the median over all that was measured in these rounds."""
        kinds = self.rounds[0].get("ceilings", {})
        return {kind: median(rate for entry in self.rounds for rate in entry["ceilings"][kind]) for kind in kinds}

    @property
    def matrix_product(self) -> tuple[float, str]:
        """The best rate in GFLOP/s, and the size of the matrices it is of."""
        return max((rate, kind) for kind, rate in self.ceilings.items() if kind != "copy")

    @property
    def about(self) -> Line:
        """What the first cells of its lines say."""
        options = ", ".join(f"{name}={value}" for name, value in self.case.get("options", {}).items())
        told = {**self.case, "options": options or None}
        return {name: told[name] for name in FIRST[1:-1] if told.get(name) is not None}

    def ratios(self, name: str, values: Mapping[str, float]) -> Line:
        """A program of ours against each rival's: "/ NAME"."""
        others = [other for other in values if not other.startswith(OURS)] if name.startswith(OURS) else []
        return {f"/ {other}": Ratio(values[name] / values[other]) for other in others}


def results(out: Path) -> list[Result]:
    """Everything on disk, by case, in an order that doesn't depend on when it was measured."""
    found: dict[str, list[Entry]] = {}
    for entry in read_all(out, "rounds").values():
        found.setdefault(json.dumps(entry["case"], sort_keys=True), []).append(entry)
    cases = [Result(entries[0]["case"], sorted(entries, key=lambda entry: entry["round"]))
             for entries in found.values()]

    def place(result: Result) -> tuple[Any, ...]:
        case = result.case
        return (ORDER.index(case["part"]), case["model"], case["dtype"], case["threads"], case["size"],
                case.get("rows", 0), case.get("what") != "encode", json.dumps(case, sort_keys=True))

    return sorted(cases, key=place)


# ---------------------------------------------------------------- one table a part


def calls(found: Sequence[Result]) -> Iterable[Line]:
    """Single calls, of the U-Net or of the VAE."""
    for result in found:
        rows, (best, _) = result.case.get("rows"), result.matrix_product
        for name, seconds in result.seconds.items():
            work = median(entry["flops"][name] for entry in result.rounds) / 1e9
            a_row = {"seconds a row": seconds / rows, "GFLOP a row": work / rows} if rows else {"GFLOP": work}
            yield {**result.about, "program": name, "seconds": seconds, **a_row, "GFLOP/s": work / seconds,
                   "of the matrix product": Share(work / seconds / best), **result.ratios(name, result.seconds)}


def ceilings(found: Sequence[Result]) -> Iterable[Line]:
    """What each case's shares are shares of."""
    for result in found:
        if result.ceilings:
            rate, size = result.matrix_product
            yield {"part": result.case["part"], **result.about, "matrix product, GFLOP/s": rate, "best of": size,
                   "copy, GB/s": result.ceilings["copy"], "rounds": len(result.rounds)}


def operations(found: Sequence[Result]) -> Iterable[Line]:
    for result in found:
        total = sum(result.seconds.values())
        yield {**result.about, **{kind: Share(seconds / total) for kind, seconds in result.seconds.items()},
               "seconds": total}


def edits(found: Sequence[Result]) -> Iterable[Line]:
    for result in found:
        for name, seconds in result.seconds.items():
            said = typical(result, name)
            inside = sum(said["inside"].values())
            yield {**result.about, "program": name, "in": said["dtype"],
                   "U-Net rows": said["rows"], "encodings": said["encodings"], "decodings": said["decodings"],
                   "seconds": seconds, "inside the networks": inside, "overhead": Ratio(seconds / inside),
                   **result.ratios(name, result.seconds)}


def typical(result: Result, name: str) -> Entry:
    """What a program said of itself, with the medians of its seconds."""
    said = [entry["said"][name] for entry in result.rounds]
    return {**said[0], "inside": {kind: median(one["inside"][kind] for one in said) for kind in said[0]["inside"]}}


def composed(found: Sequence[Result], others: Sequence[Result]) -> Iterable[Line]:
    """Each measured edit at every size at which single calls were measured, its own included."""
    for result in found:
        like = [one for one in others if all(one.case[name] == result.case[name] for name in ("model", "threads"))]
        for size in sorted({one.case["size"] for one in like}):
            at = [one for one in like if one.case["size"] == size]
            lines, total = {}, {}
            for name, seconds in result.seconds.items():
                said = typical(result, name)
                costs = costs_of(said, at)
                if costs is not None:
                    total[name] = compose(said, seconds, **costs)
                    lines[name] = {**result.about, "size": size, "program": name,
                                   "in": said["dtype"], "U-Net rows": said["rows"],
                                   "seconds a row, in pairs": costs["row"].get(2), "encode": costs["encode"],
                                   "decode": costs["decode"], "composed": total[name],
                                   "measured": seconds if size == result.case["size"] else None}
            yield from ({**line, **result.ratios(name, total)} for name, line in lines.items())


def costs_of(said: Entry, at: Sequence[Result]) -> dict[str, Any] | None:
    """Seconds a row (by the rows of a call), an encoding and a decoding of an edit's own networks; None: not there."""
    own = [one for one in at if one.case["dtype"] == said["dtype"] and said["as"] in one.seconds]
    row = {one.case["rows"]: one.seconds[said["as"]] / one.case["rows"] for one in own if one.case["part"] == "unet"}
    vae = {one.case["what"]: one.seconds[said["as"]] for one in own if one.case["part"] == "vae"}
    return {"row": row, **vae} if row and len(vae) == 2 else None


def memory(found: Sequence[Result]) -> Iterable[Line]:
    for result in found:
        said = result.rounds[-1]["said"]
        peaks = {name: one["peak"] for name, one in said.items() if one["peak"] is not None}
        for name, one in said.items():
            if name not in peaks:
                yield {**result.about, "program": name, "peak, MB": "did not fit"}
                continue
            yield {**result.about, "program": name, "weights, MB": one["weights"] / 1e6,
                   "peak, MB": one["peak"] / 1e6, "peak / weights": Ratio(one["peak"] / one["weights"]),
                   **result.ratios(name, peaks)}


def compiled(found: Sequence[Result]) -> Iterable[Line]:
    for result in found:
        for name, seconds in result.seconds.items():
            yield {**result.about, "program": name,
                   "to the first call's end": median(entry["first"][name] for entry in result.rounds),
                   "seconds a call": seconds, f"/ {OURS}": Ratio(seconds / result.seconds[OURS])}


# ---------------------------------------------------------------- files


def tables(found: Sequence[Result]) -> list[Table]:
    """All that there is something to say in."""
    of = {part: [result for result in found if result.case["part"] == part] for part in ORDER}
    made = [
        Table("U-Net", "One call. An even number of rows are pairs that share x and t and differ in the prompt.",
              list(calls(of["unet"]))),
        Table("Operations", "Shares of one U-Net call's time, by kind of operation.",
              list(operations(of["operations"]))),
        Table("VAE", "One picture.", list(calls(of["vae"]))),
        Table("Whole edit", "DiffEdit. Overhead: seconds / those inside the U-Net, VAE and text encoders.",
              list(edits(of["edit"]))),
        Table("Whole edit, composed", "The rows above x seconds a row at that size, + the VAE's calls there, + what "
              "was left over.", list(composed(of["edit"], of["unet"] + of["vae"]))),
        Table("Memory", "Peak of a whole edit, in a process of its own.", list(memory(of["memory"]))),
        Table("torch.compile", "The U-Net; first: compiling included, nothing cached.", list(compiled(of["compile"]))),
        Table("Ceilings", "Measured in the same rounds, between the programs. A product of n x k and k x m matrices; "
              "memory copied, read and written bytes together.", list(ceilings(found))),
    ]
    return [table for table in made if table.lines]


def write(out: Path) -> list[Table]:
    """Make OUT/table.md and OUT/table.csv anew."""
    made = tables(results(out))
    put(out / "table.csv", csv_of(made))
    put(out / "table.md", "\n\n".join([machine_line(out), *map(markdown, made)]) + "\n")
    return made


def machine_line(out: Path) -> str:
    about = json.loads((out / "run.json").read_text())["machine"]
    return (f"{about['processor']}, {about['cores']} cores ({', '.join(about['instructions'])}; torch uses "
            f"{about['used']}); torch {about['torch']}. Medians; ratios are of medians.")


def columns_of(made: Sequence[Table]) -> list[str]:
    there = dict.fromkeys(name for table in made for line in table.lines for name in line)
    return [*(name for name in FIRST if name in there), *(name for name in there if name not in FIRST)]


def markdown(table: Table) -> str:
    """Title, what all its lines share, and the rest as a table."""
    columns = columns_of([table])
    shared = {name: table.lines[0].get(name) for name in SHARED
              if name in columns and len({line.get(name) for line in table.lines}) == 1}
    columns = [name for name in columns if name not in shared]
    told = ", ".join(f"{name} {value}" for name, value in shared.items())
    lines = [columns, ["---"] * len(columns), *([cell(line.get(name)) for name in columns] for line in table.lines)]
    return "\n".join([f"### {table.title}", "", f"{told}. {table.note}".removeprefix(". "), "",
                      *(f"| {' | '.join(line)} |" for line in lines)])


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Share):
        return f"{value:.0%}"
    if isinstance(value, Ratio):
        return f"{value:.2f}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def csv_of(made: Sequence[Table]) -> str:
    """All tables' lines, under all tables' columns."""
    columns = columns_of(made)
    rows = [[table.title, *(line.get(name, "") for name in columns)] for table in made for line in table.lines]
    return as_csv([["table", *columns], *([("" if value is None else value) for value in row] for row in rows)])
