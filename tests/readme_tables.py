"""Make the README's tables and pictures again, and weights.md's, from what is in the repository.

    python tests/readme_tables.py                   # all of them: about six hours on two cores
    python tests/readme_tables.py demo samplers     # some

Each table stands below a line `<!-- table: NAME -->`, each picture under .github/. What the commands compute is kept in
--out (runs/readme), and what is there isn't computed again (but seconds are measured again). Sentences that quote a
number are not touched: after a run, `git diff` shows which tables have changed.
"""

import argparse
import csv
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffedit_min.core.theory import crossing

ROOT = Path(__file__).parents[1]
TEXTS = (ROOT / "README.md", ROOT / "weights.md")

Rows = list[dict[str, str]]         # a table's lines, by column
Table = tuple[Sequence[str], Sequence[Sequence[str]]]       # its head and its lines


@dataclass(frozen=True)
class Piece:
    """What belongs together: commands, where OUT stands for the folder to write to, and what README has of them."""

    commands: Sequence[str]
    tables: Mapping[str, Callable[[Path, str], Table]] = field(default_factory=dict)    # from OUT and what was printed
    pictures: Mapping[str, str] = field(default_factory=dict)       # .github/NAME: the file in OUT


# ---------------------------------------------------------------- reading tables


def markdown_tables(text: str) -> list[Rows]:
    """All tables of a Markdown text."""
    found: list[Rows] = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        head, _, *lines = ([cell.strip() for cell in line.strip().strip("|").split("|")]
                           for line in block.strip().splitlines())
        found.append([dict(zip(head, line, strict=True)) for line in lines])
    return found


def printed(index: int, count: int | None = None) -> Callable[[Path, str], Table]:
    """The index-th table that the commands print, as it is; of its lines the first `count`."""
    def make(_: Path, text: str) -> Table:
        return as_it_is(markdown_tables(text)[index][:count])
    return make


def as_it_is(rows: Rows) -> Table:
    return list(rows[0]), [list(row.values()) for row in rows]


def lines_of(path: Path, **wanted: str) -> Rows:
    """The lines of a CSV file that have these values."""
    with path.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]


def rounded(value: str, digits: int) -> str:
    return f"{float(value):.{digits}f}" if value else ""


def percent(value: str) -> str:
    return f"{float(value):.0%}".replace("%", " %")


# ---------------------------------------------------------------- README's own choice of columns


def comparison(out: Path, _: str) -> Table:
    """The three methods side by side, a line for each encoding ratio."""
    rows = lines_of(out / "scenes" / "table.csv")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = {"correct": ("accuracy", 2), "outside": ("outside, dB", 1), "answer": ("answer, dB", 1)}
    head = ["encoding ratio"]
    for method in methods:
        first, *others = (title for title, _ in columns.values())
        head += [f"{method}: {first}", *others]
    lines = []
    for setting in dict.fromkeys(row["settings"] for row in rows):
        at = {row["method"]: row for row in rows if row["settings"] == setting}
        lines.append([setting.partition("=")[2], *(rounded(at[method][name], digits) for method in methods
                                                   for name, (_, digits) in columns.items())])
    return head, lines


def fewer_rows(out: Path, _: str) -> Table:
    """What fewer U-Net rows cost, and the differences from the paper's settings where the second table has them."""
    values, differences, *_ = markdown_tables((out / "fast" / "table.md").read_text(encoding="utf-8"))
    shown = {"edit accuracy": "accuracy", "mask IoU": "mask IoU", "PSNR to the answer, dB": "to the answer, dB"}
    compared = {"edit accuracy": "accuracy, difference", "PSNR to the answer, dB": "to the answer, difference"}
    paired = {(row["method"], row["settings"]): row for row in differences}
    lines = []
    for row in values:
        if row["method"].startswith("round trip"):
            continue
        other = paired.get((row["method"], row["settings"]), {})
        steps = re.search(r"steps=(\d+)|(mask_samples=\d+)$", row["settings"])
        setting = next(filter(None, steps.groups())).replace("mask_samples", "n") if steps else ""
        lines.append([row["method"].removesuffix(", n"), setting, row["rows"],
                      *(row[name].partition(" (")[0] for name in shown), *(other.get(name, "") for name in compared)])
    return ["settings", "steps", "rows", *shown.values(), *compared.values()], lines


def preset(out: Path, text: str) -> Table:
    """Of these the paper's settings and preset="fast"."""
    head, lines = fewer_rows(out, text)
    return head, lines[:2]


def round_trips(out: Path, _: str) -> Table:
    """Reconstruction by sampler and steps."""
    values = markdown_tables((out / "fast" / "table.md").read_text(encoding="utf-8"))[0]
    lines = [[row["method"].removeprefix("round trip, "), re.search(r"steps=(\d+)", row["settings"]).group(1),
              row["rows"], row["PSNR of the input made anew, dB"]]
             for row in values if row["method"].startswith("round trip")]
    return ["sampler", "steps", "rows", "reconstruction, dB"], lines


def theory(out: Path, _: str) -> Table:
    """The constants, where DiffEdit's bound is the tighter one, and errors and bounds at ratio 0.5."""
    lines = []
    for row in lines_of(out / "theory" / "theory.csv", ratio="0.5"):
        constants = [float(row[name]) for name in ("C", "K1", "K2")]
        C, K1, K2 = (f"{constant:.2f}" for constant in constants)
        errors = f"{float(row['sdedit']):.2f}, {float(row['encode-decode']):.2f}"
        bounds = [f"{float(row[name]):#.3g}".strip(".")
                  for name in ("bound (4)", "bound (5) as printed", "bound (5) as it holds")]
        lines.append([f"{float(row['guidance scale']):g}", C, f"≥ {K1}", K2, f"{crossing(*constants):.2f}", errors,
                      *bounds])
        tau = float(row["tau"])
    return ["guidance scale", "C", "K₁", "K₂", "DiffEdit's bound is tighter below τ =",
            f"at ratio 0.5 (τ = {tau:.2f}): error of SDEdit, Encode-Decode", "bound (4)", "(5) printed",
            "(5) as it holds"], lines


def dtypes(out: Path, _: str) -> Table:
    """Without the seconds, which are in a batch and depend on who else uses the machine."""
    rows = markdown_tables((out / "dtype" / "dtypes.md").read_text(encoding="utf-8"))[0]
    return as_it_is([{name: cell for name, cell in row.items() if name != "seconds an edit"} for row in rows])


def row_pairs(out: Path, _: str) -> Table:
    found, lines = lines_of(out / "speed" / "table.csv", table="U-Net", size="512", rows="2"), []
    ours = {row["dtype"]: row for row in found if row["program"] == "diffedit_min"}
    for row in found:
        ratio = ours[row["dtype"]].get(f"/ {row['program']}", "")
        lines.append([row["dtype"], row["program"], rounded(row["seconds"], 2), rounded(row["GFLOP/s"], 0),
                      percent(row["of the matrix product"]), rounded(ratio, 2)])
    return ["dtype", "program", "seconds", "GFLOP/s", "of the matrix product's", "ours / it"], lines


def whole_edits(out: Path, _: str) -> Table:
    """Measured at 256 px, composed at 512 px."""
    path, ratios = out / "edits" / "table.csv", ("/ diffusers, default", "/ diffusers, tuned")
    large = {row["program"]: row for row in lines_of(path, table="Whole edit", size="512")}
    lines = []
    for row in lines_of(path, table="Whole edit", size="256"):
        line = [row["program"], row["in"], row["U-Net rows"]]
        for at_size in (row, large[row["program"]]):
            line += [rounded(at_size["seconds"], 0), *(rounded(at_size[name], 2) for name in ratios)]
        lines.append(line)
    short = [name.replace("/ diffusers, ", "/ ") for name in ratios]
    return ["program", "dtype", "U-Net rows", "seconds, 256 px", *short, "seconds, 512 px", *short], lines


def cost_by_size(out: Path, _: str) -> Table:
    """Seconds a row, by size and rows, and the shares of a pair's operations."""
    path, kinds = out / "cost" / "table.csv", ("attention", "convolution", "matrix product")
    shares = {row["size"]: row for row in lines_of(path, table="Operations")}
    found = lines_of(path, table="U-Net")
    counts = list(dict.fromkeys(row["rows"] for row in found))
    lines = []
    for size in dict.fromkeys(row["size"] for row in found):
        at = {row["rows"]: row["seconds a row"] for row in found if row["size"] == size}
        lines.append([f"{size} px", *(rounded(at[n], 2 if float(at[n]) < 10 else 1) for n in counts),
                      *(percent(shares[size][kind]) for kind in kinds)])
    return ["picture", "1 row", *counts[1:], *kinds], lines


# ---------------------------------------------------------------- what README has

BENCH = "diffedit-min bench --dataset scenes --quiet"
SPEED = "diffedit-min speed --model sd15-shape --quiet"

PIECES = {
    "demo": Piece(["diffedit-min demo --out OUT/demo.png --strip OUT/steps.jpg --quiet"],
                  pictures={"demo.png": "demo.png", "steps.jpg": "steps.jpg"}),
    "samplers": Piece(["python -m diffedit_min.testing"], {"samplers": printed(0)}),
    "answers": Piece(
        ["python -m diffedit_min.bench.known.evaluate --out OUT/known --failures OUT/failures.png "
         "--gallery OUT/methods.png"],
        {"answers": printed(0), "without-query": printed(1)},
        {"failures.png": "failures.png", "methods.png": "methods.png"}),
    "comparison": Piece([f"{BENCH} --out OUT/scenes"], {"comparison": comparison}, {"curves.png": "scenes/curves.png"}),
    "ablations": Piece(
        [f"{BENCH} --preset {name} --limit 30 --out OUT/{name}"
         for name in ("parts", "threshold", "reference", "noise", "samples", "guidance")],
        pictures={"parts.png": "parts/curves.png"}),
    "theory": Piece([f"{BENCH} --preset theory --limit 10 --out OUT/theory"], {"theory": theory},
                    {"theory.png": "theory/theory.png"}),
    "fast": Piece([f"{BENCH} --preset fast --out OUT/fast"],
                  {"fast": preset, "ways": fewer_rows, "round-trips": round_trips}, {"fast.png": "fast/curves.png"}),
    "dtype": Piece([f"{BENCH} --preset dtype --out OUT/dtype"], {"dtype": dtypes}),
    "rules": Piece(["python -m diffedit_min.bench.known.choose"], {"rules": printed(0, 12)}),
    "speed": Piece(
        [f"{SPEED} --against diffusers --size 512 --rows 2 --dtype float32 bfloat16 --parts unet vae --out OUT/speed",
         f"{SPEED} --against diffusers --size 512 --rows 2 --dtype bfloat16 --parts edit memory --preset paper fast "
         "--repeats 1 --out OUT/edits",
         f"{SPEED} --size 256 512 768 1024 --dtype bfloat16 --parts unet operations --repeats 3 --out OUT/cost"],
        {"row-pairs": row_pairs, "edits": whole_edits, "cost": cost_by_size}),
}


def run(command: str, out: Path) -> str:
    """What it prints; an error ends the program."""
    print(f"$ {command.replace('OUT', str(out))}", flush=True)
    first, *rest = shlex.split(command.replace("OUT", shlex.quote(str(out))))
    program = {"python": [sys.executable], "diffedit-min": [sys.executable, "-m", "diffedit_min"]}[first]
    return subprocess.run([*program, *rest], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout


def put_table(text: str, name: str, table: Table) -> str:
    """The text with the table below the marker of that name made anew, if it has one."""
    head, lines = table
    new = "".join(f"{line}\n" for line in [row_of(head), "|---" * len(head) + "|", *map(row_of, lines)])
    pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n)(?:\|.*\n)*")
    return pattern.sub(lambda found: found[1] + new, text)


def row_of(cells: Sequence[str]) -> str:
    return f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PIECES)}; left out: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "readme")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(PIECES):
        parser.error(f"{', '.join(sorted(unknown))} is not known; known are {', '.join(PIECES)}")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or PIECES:
        piece = PIECES[name]
        text = "\n".join(run(command, out) for command in piece.commands)
        for table, make in piece.tables.items():
            for path in TEXTS:
                path.write_text(put_table(path.read_text(encoding="utf-8"), table, make(out, text)), encoding="utf-8")
        for picture, file in piece.pictures.items():
            shutil.copyfile(out / file, ROOT / ".github" / picture)


if __name__ == "__main__":
    main()
