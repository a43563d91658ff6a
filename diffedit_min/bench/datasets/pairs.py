"""Pictures and words of your own: a list with one edit in a line, as CSV with a header or as JSONL, an object a line.

data: the list, .csv or .jsonl. Its columns, or keys:

    image           the picture's file                          query           what the edited picture is to show
    reference       what it shows now; may be empty
    mask            the region to edit, white = edit            answer          what a perfect edit would look like
    instruction     what to do, for methods that follow such    id, group       a name of its own; its kind

The first three must be there; of the others, what is empty, or null, counts as left out. Files are found from where the
list is; a mask and an answer must be as large as their picture. An item's id is `id`, else the row's number from 1 on;
its seed is that number.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ...pictures.picture_files import open_mask, open_picture
from .item import Dataset, Item, Location, as_large, check_items, check_pictures, need, need_nothing, slug
from .lists import check_names, line_of, of_kind, parse_json, read_csv, read_text, said

REQUIRED = ("image", "reference", "query")
OPTIONAL = ("mask", "answer", "instruction", "id", "group")


def read(location: Location) -> Dataset:
    data = need(location.data, "--data", f"a .csv or .jsonl file with {', '.join(REQUIRED)}", "yours")
    need_nothing(location.images, "--images", "pairs", "the list says where pictures are")
    need_nothing(location.split, "--split", "pairs", "the list is all there is")
    rows = read_rows(data)
    check_pictures([data.parent / row[key] for _, row in rows for key in ("image", "mask", "answer") if row.get(key)],
                   data.parent)
    items = tuple(read_item(number, row, data.parent, where) for number, (where, row) in enumerate(rows, 1))
    check_items(items, data)
    return Dataset("pairs", items, f"{data.name}: {len(items)} edits",
                   metrics=("pictures", "answers", "clipscore", "lpips"),
                   panels=(("clipscore", "lpips"), ("changed", "clipscore")))


def read_rows(data: Path) -> list[tuple[str, dict[str, str]]]:
    """Of each line: where it stands, and its texts by their names."""
    if data.suffix.lower() == ".csv":
        return [(line_of(data, line), row) for line, row in read_csv(data, REQUIRED, OPTIONAL)]
    if data.suffix.lower() != ".jsonl":
        raise ValueError(f"--data {str(data)!r} ends in {data.suffix!r}: give a list in .csv or .jsonl")
    rows = []
    for number, line in enumerate(read_text(data).split("\n"), 1):      # not splitlines: JSON may hold U+2028
        if line.strip():
            where = line_of(data, number)
            row = of_kind(parse_json(line, data, number), dict, where)
            check_names(where, list(row), REQUIRED, OPTIONAL)
            rows.append((where, {key: cell(value, key, where) for key, value in row.items()}))
    return rows


def cell(value: Any, key: str, where: str) -> str:
    """A value as a cell of CSV would have it."""
    if value is None:
        return ""
    if key in ("id", "group") and type(value) is int:
        return str(value)
    return of_kind(value, str, f"{where}: {key}").strip()


def read_item(number: int, row: dict[str, str], folder: Path, where: str) -> Item:
    if not row["image"]:
        raise ValueError(f"{where}: image is empty: give the picture's file")
    image = partial(open_picture, folder / row["image"])
    mask, answer = (partial(as_large, partial(opens, folder / row[key]), image, f"{key} {str(folder / row[key])!r}")
                    if row.get(key) else None for key, opens in (("mask", open_mask), ("answer", open_picture)))
    instruction, group = (said(row.get(key, ""), f"{where}: {key}", may_be_empty=True)
                          for key in ("instruction", "group"))
    return Item(
        id=slug(row["id"], f"{where}: id") if row.get("id") else f"{number:04}", image=image, mask=mask, answer=answer,
        query=said(row["query"], f"{where}: query"), instruction=instruction, group=group, seed=number,
        reference=said(row["reference"], f"{where}: reference", may_be_empty=True),
    )
