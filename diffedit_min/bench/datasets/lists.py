"""Lists of edits in CSV and JSON: UTF-8, with or without a byte order mark, with either kind of line end.

Whatever is wrong with one is a ValueError of one line that names the file, the place in it and the way out. A place,
`where`, is the file's name with a line or an entry, as in "'pairs.csv', line 3".
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import stat
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

LARGEST = 2**29         # bytes; the largest public list, COCO's of all instances, has 0.45 GB
KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


def read_text(path: Path) -> str:
    """All of a file's text; it isn't empty."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            raise ValueError(f"{str(path)!r} is not a file but a pipe or a device: save the list to a file first")
        if about.st_size > LARGEST:
            raise ValueError(f"{str(path)!r} has {about.st_size:,} bytes, more than a list of edits can have")
        data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{line_of(path, line)} is not UTF-8: save the file in that encoding") from None
    except OSError as error:
        raise ValueError(f"{str(path)!r} can't be read ({error.strerror}): give the path of a file that can") from None
    if not text.strip():
        raise ValueError(f"{str(path)!r} is empty: give a list of edits")
    return text


def read_csv(
    path: Path, required: Collection[str], optional: Collection[str] | None = None
) -> list[tuple[int, dict[str, str]]]:
    """Of each row that says something: its line, and its cells by column. The first line names the columns, which may
    be written with capitals and "-"; one without a name is left out. optional: what else there may be; None: any."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{line_of(path, reader.line_num)} is not CSV ({error}): mend its quotes and commas"
                         ) from None
    (first, head), *rows = [(line, row) for line, row in rows if row]
    names = [name.lower().replace("-", "_") for name in head]
    check_names(line_of(path, first), [name for name in names if name], required, optional)
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(f"{line_of(path, line)} has {len(row)} cells, and the header {len(names)}: mend its "
                             "commas, and quote texts that have some")
    return [(line, {name: cell for name, cell in zip(names, row, strict=True) if name}) for line, row in rows
            if any(row)]


def line_of(path: Path, line: int) -> str:
    """Where something stands, for a message."""
    return f"{str(path)!r}, line {line}"


def check_names(where: str, names: list[str], required: Collection[str], optional: Collection[str] | None) -> None:
    """The columns of a row or the keys of an object: ValueError if one is missing, unknown or there twice."""
    known = [*required, *(optional or ())]
    if missing := [name for name in required if name not in names]:
        raise ValueError(f"{where} lacks {', '.join(missing)}; it has {brief(', '.join(names))}")
    if unknown := [name for name in names if name not in known] if optional is not None else []:
        raise ValueError(f"{where} has {brief(unknown[0])}, which is not known; known are {', '.join(known)}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{where} has {brief(twice[0])} twice: leave one out")


def read_json(path: Path) -> Any:
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path, line: int = 1) -> Any:
    """What a JSON text says. line: where in the file it begins."""
    try:
        return json.loads(text, object_pairs_hook=no_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"{line_of(path, line + error.lineno - 1)}, column {error.colno} is not JSON "
                         f"({error.msg}): is the file whole?") from None
    except RecursionError:
        raise ValueError(f"{str(path)!r}, from line {line} on is nested too deeply: is it the right file?") from None
    except ValueError as error:     # of no_repeats, and of a number with thousands of digits
        raise ValueError(f"{str(path)!r}, from line {line} on: {error}") from None


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; json itself would keep the last of two values and say nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {brief(twice)} twice: leave one out")
    return found


def field(entry: Any, key: str, kind: type, where: str) -> Any:
    """An object's value, if it is of that kind."""
    of_kind(entry, dict, where)
    if key not in entry:
        raise ValueError(f"{where} has no {key!r}; it has {brief(', '.join(entry))}: is it the right file?")
    return of_kind(entry[key], kind, f"{where}: {key}")


def of_kind(value: Any, kind: type, where: str) -> Any:
    if type(value) is not kind:         # not isinstance: True is an int too
        raise ValueError(f"{where} is {brief(value)}, not {KINDS[kind]}: is it the right file?")
    return value


def said(text: str, where: str, may_be_empty: bool = False) -> str:
    """A text for a method: its words with one space between them."""
    words = " ".join(text.split())
    if not words and not may_be_empty:
        raise ValueError(f"{where} is empty: say what the edited picture is to show")
    if any("\ud800" <= character <= "\udfff" for character in words):
        raise ValueError(f"{where} has half a character (a lone surrogate), {brief(words)}: write it anew")
    return words


def brief(value: Any) -> str:
    """A value to show in a message, not longer than 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
