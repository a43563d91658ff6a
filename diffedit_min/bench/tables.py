"""Tables as text: rows of cells, the head first, as Markdown or as CSV; and text into a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..pictures.writing import replacing

Rows = Sequence[Sequence[Any]]


def table_of(lines: Sequence[Mapping[str, Any]]) -> Rows:
    """A row for each line, which holds its cells by column; the columns are all that occur."""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    return [columns, *([line.get(name, "") for name in columns] for line in lines)]


def as_markdown(rows: Rows) -> list[str]:
    """Its lines."""
    head, *others = (f"| {' | '.join(map(str, row))} |" for row in rows)
    return [head, "|---" * len(rows[0]) + "|", *others]


def as_csv(rows: Rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def put(path: Path, text: str) -> None:
    """Write a file as a whole, or not at all."""
    with replacing(path) as file:
        file.write(text.encode())
