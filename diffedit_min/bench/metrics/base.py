"""What every metric is to the benchmark: values of one edit, and columns of the table made of many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...methods import Edit
from ..datasets.item import Item


@dataclass(frozen=True)
class Shown:
    """One edit as metrics see it. The pictures are RGB and of one size."""

    item: Item
    input: Image.Image
    result: Image.Image
    edit: Edit | None = None                # None: the input itself, which stands in for FID's real pictures
    mask: Image.Image | None = None         # item.mask, opened
    answer: Image.Image | None = None       # item.answer, opened


@dataclass(frozen=True)
class Column:
    """One column of the table. `name` is a key of what `measure`, or `of_set`, returns."""

    name: str
    title: str                              # with the unit, for example "LPIPS x 100"
    better: str                             # "higher" or "lower"; "" if neither
    digits: int = 2
    average: str = "mean"                   # "psnr": values are mean squared errors on [0, 1], their mean shown in dB
    of_set: bool = False                    # a number of all edits together, from their features


@dataclass(frozen=True)
class Files:
    """Where metrics find the networks that they need, as the command is told."""

    weights: Path | None = None             # a folder of weights files; None: torch's usual cache
    clip: str = "openai/clip-vit-large-patch14"     # a folder or a Hub id, which must be in the cache
    dino: str = "facebook/dino-vitb8"       # likewise
    class_means: Path | None = None         # CSFID's reference


class Metric(ABC):
    """A family of metrics. One is made for a run; `why_not` is asked before anything else is."""

    columns: tuple[Column, ...] = ()
    feature_name: str = ""                  # metrics that need the same feature share its name, and it is made once

    def __init__(self, files: Files):
        self.files = files

    def why_not(self) -> str | None:
        """Why it can't be computed here, and the way out, in one line; None if it can. Loads and fetches nothing."""
        return None

    @abstractmethod
    def about(self) -> str:
        """The formula, the model and the weights' hash, in one line to stand beside the numbers."""

    def measure(self, shown: Shown) -> dict[str, float]:
        """Of one edit. nan where it isn't defined."""
        return {}

    def feature(self, shown: Shown) -> np.ndarray | None:
        """Of one edit: a float32 vector, for `of_set`."""
        return None

    def of_set(self, items: Sequence[Item], features: np.ndarray, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Of all edits: their items, features (N, D) in the items' order, and each item's input's feature by its id."""
        return {}
