"""What a report holds, whether it becomes a page or a sheet of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ...methods.help import Text


@dataclass(frozen=True)
class Shot:
    """A picture, a few words below it, and what is in it for those who can't see it."""

    image: Image.Image
    caption: str
    alt: str


@dataclass(frozen=True)
class Row:
    """Pictures to be seen side by side."""

    label: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class Section:
    """One step of the edit."""

    name: str                               # "picture", "predictions", "mask", "encoding", "decoding" or "result"
    title: str
    text: Text
    settings: Mapping[str, Any]             # those that matter here
    rows: Sequence[Row] = ()
    absent: str = ""                        # what isn't shown, and why


@dataclass(frozen=True)
class Cells:
    """The map, for the page to cut at another threshold: its cells that hold picture, row by row."""

    values: str                             # float32, little-endian, in base64
    width: int
    height: int
    across: float                           # how much of the picture's width the cells cover: 1 or a little more
    down: float
    threshold: float
    histogram: Sequence[int]                # of the cells, in bins of equal width from 0 to 1


@dataclass(frozen=True)
class Report:
    """All that is shown of an edit."""

    settings: Mapping[str, Any]
    sentences: Mapping[str, str]            # what each option does, by its name
    overview: Row
    sections: Sequence[Section]
    cells: Cells | None                     # None: there is no map
    measures: Mapping[str, str]
    costs: Mapping[str, int]                # of the rows, by what they were for; empty if that isn't known
    rows: int
    backward_rows: int
