"""Make the tables and pictures of every README.md and of weights.md again, from what is in the repository.

    python tests/readme_tables.py                   # all of them: about six hours on two cores
    python tests/readme_tables.py demo samplers     # some
    python tests/readme_tables.py tree              # only the line counts in README.md: at once

Each table stands below a line `<!-- table: NAME -->`, in whichever document it is; each picture is in .github/. What
the commands compute is kept in --out (runs/readme), and what is there isn't computed again (but seconds are
measured again). Sentences that quote a number are not changed: after a run, `git diff` shows which tables have changed.
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
PACKAGE = ROOT / "diffedit_min"
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "weights.md", *sorted(PACKAGE.rglob("README.md")))

Rows = list[dict[str, str]]         # a table's lines, by column
Table = tuple[Sequence[str], Sequence[Sequence[str]]]       # its head and its lines


@dataclass(frozen=True)
class Piece:
    """What belongs together: commands, where OUT stands for the folder to write to, and what is shown of them."""

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


def printed(index: int, *columns: str) -> Callable[[Path, str], Table]:
    """The index-th table that the commands print: some of its columns, or all."""
    def make(_: Path, text: str) -> Table:
        rows = markdown_tables(text)[index]
        return as_it_is([{name: row[name] for name in columns or row} for row in rows])
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


def turned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Lines as columns: fit for a few lines of many columns."""
    first, *others = zip(head, *lines, strict=True)
    return first, others


# ---------------------------------------------------------------- the tree of README.md


def count_lines(text: str) -> str:
    """README.md's text with today's lines of Python in its tree: of a file exactly, of a folder in hundreds."""
    head, mark, rest = text.partition("<!-- tree -->\n```\n")
    tree, end, tail = rest.partition("```\n")
    folder, counted = PACKAGE, []
    for line in tree.splitlines(keepends=True):
        indent, name, gap, _, what = re.fullmatch(r"( *)(\S+)( *)(\d*)(.*\n)", line).groups()
        if not what.strip():            # the first line, the package itself
            counted.append(line)
            continue
        if name.endswith("/"):
            folder = PACKAGE / name
            lines = round(sum(map(lines_in, folder.rglob("*.py"))), -2)
        else:
            lines = lines_in(folder / name)
        width = 24 - len(indent + name)
        counted.append(f"{indent}{name}{lines:>{width}}{what}")
    return head + mark + "".join(counted) + end + tail


def lines_in(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


# ---------------------------------------------------------------- our own choice of lines and columns


def comparison(out: Path, _: str) -> Table:
    """A column for each encoding ratio; accuracy and the two PSNRs, of one method below the other."""
    rows = lines_of(out / "scenes" / "table.csv")
    methods, settings = (list(dict.fromkeys(row[name] for row in rows)) for name in ("method", "settings"))
    at = {(row["method"], row["settings"]): row for row in rows}
    columns = {"correct": ("accuracy", 2), "outside": ("outside, dB", 1), "answer": ("answer, dB", 1)}
    lines = [[f"{title}: {method}", *(rounded(at[method, setting][name], digits) for setting in settings)]
             for name, (title, digits) in columns.items() for method in methods]
    return ["encoding ratio", *(setting.partition("=")[2] for setting in settings)], lines


def fewer_rows(out: Path, _: str) -> Table:
    """What fewer U-Net rows cost, and the differences from the recommended settings where the second table has them."""
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
        setting = (f"{steps[1]} steps" if steps[1] else steps[2].replace("mask_samples", "n")) if steps else ""
        name = row["method"].removesuffix(", n")
        lines.append([", ".join(filter(None, (name, setting))), row["rows"],
                      *(row[name].partition(" (")[0] for name in shown), *(other.get(name, "") for name in compared)])
    return ["settings", "rows", *shown.values(), *compared.values()], lines


def preset(out: Path, text: str) -> Table:
    """Of these the recommended settings and preset="fast"."""
    (_, *head), lines = fewer_rows(out, text)
    return turned(["", *head], lines[:2])


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
        bounds = [f"{float(row[name]):#.3g}".strip(".")
                  for name in ("bound (4)", "bound (5) as printed", "bound (5) as it holds")]
        lines.append([f"guidance scale {float(row['guidance scale']):g}", C, f"≥ {K1}", K2,
                      f"{crossing(*constants):.2f}", rounded(row["sdedit"], 2), rounded(row["encode-decode"], 2),
                      *bounds])
        tau = float(row["tau"])
    return turned(["", "C", "K₁", "K₂", "DiffEdit's bound is tighter below τ =",
                   f"error of SDEdit at ratio 0.5 (τ = {tau:.2f})", "error of Encode-Decode", "bound (4)",
                   "bound (5) as printed", "bound (5) as it holds"], lines)


def dtypes(out: Path, _: str) -> Table:
    """Without the seconds, which are in a batch and depend on who else uses the machine."""
    rows = markdown_tables((out / "dtype" / "dtypes.md").read_text(encoding="utf-8"))[0]
    return as_it_is([{name: cell for name, cell in row.items() if name != "seconds an edit"} for row in rows])


def rules(_: Path, text: str) -> Table:
    """The usual rule at each noise ratio, then the best rule at each; a rule is one column."""
    parts = ("norm", "average", "clip", "rescale", "threshold")
    return as_it_is([{"noise": row["noise"], ", ".join(parts): ", ".join(row[part] for part in parts),
                      **{name: cell for name, cell in row.items() if name not in ("noise", *parts)}}
                     for row in markdown_tables(text)[0][:12]])


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
    lines = []
    for size in ("256", "512"):
        for row in lines_of(out / "edits" / "table.csv", table="Whole edit", size=size):
            lines.append([f"{size} px", row["program"], row["in"], row["U-Net rows"], rounded(row["seconds"], 0),
                          *(rounded(row[f"/ diffusers, {name}"], 2) for name in ("default", "tuned"))])
    return ["picture", "program", "dtype", "U-Net rows", "seconds", "/ default", "/ tuned"], lines


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
    return turned(["", "1 row", *(f"{n} rows" for n in counts[1:]), *kinds], lines)


# ---------------------------------------------------------------- what there is

BENCH = "diffedit-min bench --dataset scenes --quiet"
SPEED = "diffedit-min speed --model sd15-shape --quiet"

PIECES = {
    "demo": Piece(["diffedit-min demo --out OUT/demo.png --strip OUT/steps.jpg --quiet"],
                  pictures={"demo.png": "demo.png", "steps.jpg": "steps.jpg"}),
    "page": Piece(["python tests/page_picture.py --out OUT/page.jpg"], pictures={"page.jpg": "page.jpg"}),
    "samplers": Piece(["python -m diffedit_min.testing"], {"samplers": printed(0)}),
    "answers": Piece(
        ["python -m diffedit_min.bench.known.evaluate --out OUT/known --failures OUT/failures.png "
         "--gallery OUT/methods.png"],
        {"answers": printed(0, "method", "edits", "accuracy", "outside, dB", "to the answer, dB", "source, dB"),
         "answers-by-kind": printed(0, "method", "container", "fruit", "surface", "mask IoU", "rows", "seconds"),
         "without-query": printed(1)},
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
    "rules": Piece(["python -m diffedit_min.bench.known.choose"], {"rules": rules}),
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
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of tree, {', '.join(PIECES)}; left out: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "readme")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {"tree", *PIECES}:
        parser.error(f"{', '.join(sorted(unknown))} is not known; known are tree, {', '.join(PIECES)}")
    README.write_text(count_lines(README.read_text(encoding="utf-8")), encoding="utf-8")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for piece in (PIECES[name] for name in arguments.names or PIECES if name != "tree"):
        text = "\n".join(run(command, out) for command in piece.commands)
        for table, make in piece.tables.items():
            for path in DOCUMENTS:
                path.write_text(put_table(path.read_text(encoding="utf-8"), table, make(out, text)), encoding="utf-8")
        for picture, file in piece.pictures.items():
            shutil.copyfile(out / file, ROOT / ".github" / picture)


if __name__ == "__main__":
    main()
