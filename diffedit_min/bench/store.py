"""Results on disk: lines of JSON, appended as they come and read back by key. A run can be killed at any moment.

Each process (rank) of a run appends to files of its own, OUT/parts/NAME-RANK.jsonl, and reads everybody's. A line cut
short by a kill is cut off when its own process starts again, and overlooked by the others; a damaged one is overlooked
too, and what it held is computed again. Where a key stands twice the values are the same, as it was computed again; but
for a failure that a later try mended.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..core import __version__
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.writing import lock, make_folder, not_written
from .datasets.item import Dataset, Item
from .tables import Rows, as_csv, put

BATCH = 10          # items that a study measures at once


class Appender:
    """One process's file of one kind. Lines given together are written together."""

    def __init__(self, out: Path, name: str, rank: int):
        self.path = path_of(out, name, rank)
        if self.path.exists():
            with self.path.open("rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Raises NotWritten if the disk is full."""
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        try:
            with self.path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise not_written(self.path, error) from None


@contextmanager
def alone(out: Path, name: str, rank: int = 0) -> Iterator[None]:
    """Within the block, no other run appends to this file. Raises ValueError if one does already."""
    make_folder(out)
    try:
        file = path_of(out, name, rank).open("ab")
    except OSError as error:
        raise not_written(out, error) from None
    with file:
        if not lock(file, wait=False):
            raise ValueError(f"another run is writing to {str(out)!r}: wait for its end, or give another --out")
        yield


def path_of(out: Path, name: str, rank: int) -> Path:
    """One process's file of one kind, in a folder that is there."""
    make_folder(out / "parts")
    return out / "parts" / f"{name}-{rank}.jsonl"


def read_all(out: Path, name: str) -> dict[str, dict[str, Any]]:
    """Everybody's entries of one kind, by their "key"."""
    found = {}
    for path in sorted((out / "parts").glob(f"{name}-*.jsonl")):
        for line in path.read_bytes().split(b"\n")[:-1]:        # what follows the last newline is cut short
            try:
                entry = json.loads(line)
                if "error" not in entry or entry["key"] not in found:
                    found[entry["key"]] = entry
            except (ValueError, KeyError, TypeError):
                continue
    return found


def packed(vector: np.ndarray) -> str:
    """A float32 vector as text."""
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


# ---------------------------------------------------------------- what results depend on


def versions() -> dict[str, str]:
    return {"diffedit_min": __version__, "torch": torch.__version__, "transformers": version("transformers"),
            "python": platform.python_version(), "processor": platform.machine()}


def digest(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:16]


def hash_of(model: StableDiffusion) -> str:
    """16 digits of all weights in their dtype, the schedule and what the U-Net predicts; not of files' names or dates.

    Every number counts: a checksum of each tensor, 1 to 3 GB a second on one core, so some two seconds for Stable
    Diffusion 1.5 in float32. (SHA-256 of the numbers themselves takes about three times as long.)
    """
    sums: list[Any] = [model.prediction_type, model.zero_empty_prompt, list(model.schedule.abar)]
    for network in model.networks:
        for name, tensor in network.state_dict().items():
            numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            sums.append([name, list(tensor.shape), str(tensor.dtype), zlib.crc32(numbers)])
    return digest(sums)


# ---------------------------------------------------------------- studies


@torch.no_grad()
def measure_all(
    name: str, dataset: Dataset, told: Sequence[Any], measure: Callable[[Sequence[Item]], dict[str, Any]], out: Path,
    quiet: bool,
) -> list[dict[str, Any]]:
    """A study: what `measure` makes of each batch of items, as JSON can hold it; each is on disk as soon as it is made,
    and what OUT/parts has of the study `name` is not measured again.

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
