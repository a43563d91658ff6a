"""Jobs from a table: a CSV file whose first line names the columns.

    image,query,reference,seed,steps
    bowl.jpg,a basket of pears,a bowl of pears,3,
    "my cat.png",a dog,,,25

Columns: image, out, any of `TOLD` (job.py), and any option of the methods. In place of an empty cell holds what the
command line says. image, mask and out are relative to the table. Every line is checked before any work.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.options import Option
from ...methods import METHODS
from ...pictures.picture_files import check_readable, check_target
from .job import TOLD, Job, job_of


def read_table(path: Path, told: Mapping[str, Any], folder: Path) -> list[Job]:
    """A job for each line. told: what `job_of` takes, where a line says nothing. folder: for results without an `out`.

    Raises ValueError, in one line, naming the first line that is wrong, and how many more are.
    """
    jobs, faults = [], []
    for line, cells in read_lines(path):
        try:
            jobs.append(job_in(cells, path.parent, told, folder, line))
        except ValueError as error:
            faults.append(f"{path}, line {line}: {error}")
    if faults:
        raise ValueError(faults[0] + (f" ({len(faults) - 1} more lines are wrong)" if faults[1:] else ""))
    if not jobs:
        raise ValueError(f"{path} has no line below its header: there is nothing to do")
    return jobs


def read_lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line's number, its cells that say something by their columns' names). ValueError for what is no such table."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise ValueError(f"{str(path)!r} can't be opened ({error.strerror}): check the path") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table ({error}): save it as CSV with commas, in UTF-8") from None
    header = [name.lower().replace("-", "_") for name in rows[0][1]] if rows else []
    own = ("image", "out", *TOLD)
    options = {name for method in METHODS.values() for name in method.known}
    for name in header:
        if name not in own and name not in options:
            raise ValueError(f"{path} has a column {name!r}; known are {', '.join(own)} and the options that `info` "
                             "lists, with commas between them")
        if header.count(name) > 1:
            raise ValueError(f"{path} has two columns {name!r}: leave one out")
    if "image" not in header:
        raise ValueError(f"{path} has no column 'image': name the columns in the first line")
    lines = []
    for line, row in rows[1:]:
        if len(row) > len(header):
            raise ValueError(f"{path}, line {line}: {len(row)} cells, but {len(header)} columns: put quotes, \", "
                             "around a text with commas")
        if any(row):
            lines.append((line, {name: cell for name, cell in zip(header, row, strict=False) if cell}))
    return lines


def job_in(cells: dict[str, str], beside: Path, told: Mapping[str, Any], folder: Path, line: int) -> Job:
    """The job of one line."""
    files = {name: cells[name] if "://" in cells[name] else str(beside / cells[name])
             for name in ("image", "mask", "out") if name in cells}
    if "image" not in files:
        raise ValueError("there is no image")
    for name in ("image", "mask"):
        if name in files:
            check_readable(files[name])
    if "out" in files:
        check_target(Path(files["out"]))
    own = {name: Option(name, kind, None).parsed(cells[name]) for name, kind in TOLD.items() if name in cells}
    options = [f"{name}={text}" for name, text in cells.items() if name not in TOLD and name not in ("image", "out")]
    own |= {"mask": files["mask"]} if "mask" in files else {}
    out = Path(files["out"]) if "out" in files else folder / f"{Path(files['image']).stem}-edit.png"
    return job_of({**told, **own, "option": [*(told.get("option") or ()), *options]}, files["image"], out, line)
