"""A study: what is measured of a dataset's pictures batch by batch, each batch on disk as soon as it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .datasets.item import Dataset, Item
from .run import digest, versions
from .store import Appender, read_all
from .tables import Rows, as_csv, put

BATCH = 10
Measures = dict[str, Any]       # of one batch; what JSON can hold


@torch.no_grad()
def measure_all(
    name: str, dataset: Dataset, told: Sequence[Any], measure: Callable[[Sequence[Item]], Measures], out: Path,
    quiet: bool,
) -> list[Measures]:
    """What `measure` makes of each batch of items; what OUT/parts has of the study `name` is not measured again.

    told: all that the measures depend on besides the items and the packages' versions, as JSON can hold it.
    """
    done, file, found = read_all(out, name), Appender(out, name, 0), []
    for items in tqdm(dataset.batches(BATCH), name, disable=quiet or None):
        key = digest([*told, versions(), [item.id for item in items]])
        if key not in done:
            done[key] = {"key": key, "found": measure(items)}
            file.append([done[key]])
        found.append(done[key]["found"])
    return found


def write(name: str, out: Path, text: Sequence[str], rows: Rows, drawn: Sequence[Path] = ()) -> list[str]:
    """Write the text as OUT/NAME.md and the table as OUT/NAME.csv; returns what to tell, of what is `drawn` too."""
    paths = [out / f"{name}.md", out / f"{name}.csv"]
    put(paths[0], "\n".join(text) + "\n")
    put(paths[1], as_csv(rows))
    return [*text, f"wrote {', '.join(map(str, [*paths, *drawn]))}"]
