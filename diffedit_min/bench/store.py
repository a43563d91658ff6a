"""Results on disk: lines of JSON, appended as they come and read back by key. A run can be killed at any moment.

Each process (rank) of a run appends to files of its own, OUT/parts/NAME-RANK.jsonl, and reads everybody's. A line cut
short by a kill is cut off when its own process starts again, and overlooked by the others; a damaged one is overlooked
too, and what it held is computed again. Where a key stands twice the values are the same, as it was computed again; but
for a failure that a later try mended.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Appender:
    """One process's file of one kind. Lines given together are written together."""

    def __init__(self, out: Path, name: str, rank: int):
        folder = out / "parts"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}-{rank}.jsonl"
        if self.path.exists():
            with self.path.open("rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    def append(self, entries: Iterable[Mapping[str, Any]]) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        with self.path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())


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
