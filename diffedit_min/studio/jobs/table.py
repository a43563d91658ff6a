"""Jobs from a table: a CSV file whose first line names the columns.

    image,query,reference,seed,steps
    bowl.jpg,a basket of pears,a bowl of pears,3,
    "my cat.png",a dog,,,25

Columns: image, out, any of `TOLD` (job.py), and any option of the methods. In place of an empty cell holds what the
command line says. image, mask and out are relative to the table. Every line is checked before any work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...bench.datasets.lists import read_csv
from ...core.options import Option
from ...methods import METHODS
from ...pictures.picture_files import check_readable, check_target
from .job import TOLD, Job, job_of


def read_table(path: Path, told: Mapping[str, Any], folder: Path) -> list[Job]:
    """A job for each line. told: what `job_of` takes, where a line says nothing. folder: for results without an `out`.

    Raises ValueError, in one line, naming the first line that is wrong, and how many more are.
    """
    jobs, faults, rows = [], [], read_csv(path, ["image"])
    own, options = ("image", "out", *TOLD), {name for method in METHODS.values() for name in method.known}
    for name in rows[0][1] if rows else ():
        if name not in own and name not in options:
            raise ValueError(f"{path} has a column {name!r}; known are {', '.join(own)} and the options that `info` "
                             "lists, with commas between them")
    for line, cells in rows:
        try:
            said = {name: cell for name, cell in cells.items() if cell}
            jobs.append(job_in(said, path.parent, told, folder, line))
        except ValueError as error:
            faults.append(f"{path}, line {line}: {error}")
    if faults:
        raise ValueError(faults[0] + (f" ({len(faults) - 1} more lines are wrong)" if faults[1:] else ""))
    if not jobs:
        raise ValueError(f"{path} has no line below its header: there is nothing to do")
    return jobs


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
