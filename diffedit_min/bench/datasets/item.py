"""What every dataset is to the benchmark: items, each a picture with words and what is known of its edit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

Opens = Callable[[], Image.Image]       # a picture, opened when it is needed: a set's pictures don't fit in memory


@dataclass(frozen=True)
class Item:
    """One edit to make. Texts are as a method is given them; "" is the empty text."""

    id: str                             # unique in its dataset, made of letters, digits and . _ -
    image: Opens                        # RGB
    query: str
    reference: str = ""                 # what the picture shows now
    instruction: str = ""               # what to do, for methods that follow instructions
    group: str = ""                     # its kind or target class
    seed: int = 0
    mask: Opens | None = None           # the region that the edit is for, white = edit, as large as the image
    answer: Opens | None = None         # what a perfect edit returns, as large as the image
    truth: Any = None                   # what only the dataset's own metrics understand


@dataclass(frozen=True)
class Dataset:
    name: str
    items: tuple[Item, ...]
    about: str                          # one line: which files, how many of how many items and why
    metrics: tuple[str, ...]            # the families of metrics.FAMILIES that are this benchmark's
    panels: tuple[tuple[str, str], ...]     # of its curves: (horizontal, vertical) columns of these metrics

    def batches(self, size: int) -> list[tuple[Item, ...]]:
        return [self.items[i : i + size] for i in range(0, len(self.items), size)]


@dataclass(frozen=True)
class Location:
    """Where a dataset's files are, as the command is told: readers say which of these they need."""

    data: Path | None = None            # the file with the queries
    images: Path | None = None          # the folder with the pictures
    split: str | None = None            # a part of the set, by its name


# ---------------------------------------------------------------- checks that readers share


def need(path: Path | None, option: str, what: str, where: str, folder: bool = False) -> Path:
    """The path, if it exists, and is a folder if one is needed. ValueError naming the option, what it should hold and
    where that is to be had."""
    if path is None:
        raise ValueError(f"{option} is missing: give {what} ({where})")
    if not os.path.exists(path):        # not path.exists(), which raises where a folder may not be entered
        raise ValueError(f"{option} {str(path)!r} does not exist: give {what} ({where})")
    if folder and not os.path.isdir(path):
        raise ValueError(f"{option} {str(path)!r} is not a folder: give {what} ({where})")
    return path


def need_nothing(given: Path | str | None, option: str, name: str, why: str) -> None:
    """ValueError if an option is given that this dataset has no use for."""
    if given is not None:
        raise ValueError(f"{option} {str(given)!r} means nothing to {name}: leave it out, {why}")


def chosen_split(location: Location, name: str, known: Collection[str], otherwise: str) -> str:
    """The split that is asked for, or `otherwise`; ValueError if this dataset has no such one."""
    split = otherwise if location.split is None else location.split
    if split not in known:
        raise ValueError(f"--split {split!r} is not known; {name} has {' and '.join(known)}")
    return split


def slug(text: str, where: str) -> str:
    """The text as an id, or as a part of a file's name: other characters than letters, digits and . _ - become "-"."""
    found = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:160].strip("-.")
    if not found:
        raise ValueError(f"{where}: {text!r} gives no id: it needs a letter or a digit of ASCII")
    return found


def check_items(items: Sequence[Item], source: Path, part: str = "") -> None:
    """ValueError if there are none, or if two have one id. part: which of the source's, in words."""
    if not items:
        raise ValueError(f"{str(source)!r} has no edits{part and ' ' + part}: give a list that has some")
    if twice := [name for name, count in Counter(item.id for item in items).items() if count > 1]:
        raise ValueError(f"{str(source)!r}: {len(twice)} ids stand for more than one item, {twice[0]!r} first: "
                         "give each item an id of its own")


def check_pictures(paths: Sequence[Path], folder: Path) -> None:
    """ValueError if a picture's file is missing, with how many are and the first of them."""
    missing = [path for path in paths if not os.path.isfile(path)]
    if missing:
        raise ValueError(f"{len(missing)} of {len(paths)} pictures are missing under {str(folder)!r}, "
                         f"{str(missing[0])!r} first: complete the folder or take them out of the list")


def as_large(opens: Opens, image: Opens, what: str) -> Image.Image:
    """What `opens` gives, a mask or an answer. ValueError if it is not as large as its image."""
    found, whole = opens(), image()
    if found.size != whole.size:
        sizes = "{} x {} pixels, and its image {} x {}".format(*found.size, *whole.size)
        raise ValueError(f"{what} is {sizes}: make them equally large")
    return found
