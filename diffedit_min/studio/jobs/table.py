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
            reader = csv.DictReader(file, restval="", strict=True)
            header = [name.strip().lower().replace("-", "_") for name in reader.fieldnames or ()]
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise ValueError(f"{str(path)!r} can't be opened ({error.strerror}): check the path") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table ({error}): save it as CSV with commas, in UTF-8") from None
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
    for line, row in rows:
        if more := row.pop(None, ()):
            raise ValueError(f"{path}, line {line}: {len(header) + len(more)} cells, but {len(header)} columns: put "
                             "quotes, \", around a text with commas")
        if cells := {name: cell.strip() for name, cell in row.items() if cell.strip()}:
            lines.append((line, cells))
    return lines


def job_in(cells: dict[str, str], beside: Path, told: Mapping[str, Any], folder: Path, line: int) -> Job:
    """The job of one line."""
    cells = {name: str(beside / cell) if name in ("image", "mask", "out") and "://" not in cell else cell
             for name, cell in cells.items()}
    image, out = cells.pop("image", None), cells.pop("out", None)
    if image is None:
        raise ValueError("there is no image")
    for file in filter(None, (image, cells.get("mask"))):
        check_readable(file)
    if out is not None:
        check_target(Path(out))
    own = {name: Option(name, TOLD[name], None).parsed(cell) for name, cell in cells.items() if name in TOLD}
    options = [f"{name}={cell}" for name, cell in cells.items() if name not in TOLD]
    told = {**told, **own, "option": [*(told.get("option") or ()), *options]}
    return job_of(told, image, Path(out or folder / f"{Path(image).stem}-edit.png"), line)
