"""What a person may give a method by keyword besides the method's own options: each keyword is declared once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from ..core.options import Option
from ..core.state import Trajectory


def keyword(default: Any, sentence: str) -> Any:
    """Declare a keyword, as a field of `Call`: its default, and what it is."""
    return field(default=default, metadata={"sentence": sentence})


# Presets that every method has: what a card recommends, else the defaults; and the defaults, whatever a card says.
RECOMMENDED, PAPER = "recommended", "paper"
SEED, SIZE = Option("seed", int, 0), Option("size", int, None, optional=True)      # of one picture


@dataclass(frozen=True, eq=False)
class Call:
    """The keywords of one call."""

    seed: int | Sequence[int] = keyword(0, "the seed of the random noise; one for all pictures, or one each")
    size: int | None = keyword(None, "edit at about size x size pixels; left out: at most the model's own size")
    preset: str = keyword(RECOMMENDED, "a set of settings by its name; paper: the defaults shown here, whatever a card "
                          "says")
    keep: str = keyword("result", '"trace" keeps every intermediate, for a report')
    mask: Any = keyword(None, "a mask of your own, white = edit: a picture, a bool (h, w), or a list of one each")
    mask_map: Tensor | Sequence[Tensor | None] | None = keyword(
        None, "an earlier Edit's `mask_map`; refused if this edit would make another one")
    encoded: Trajectory | Sequence[Trajectory | None] | None = keyword(
        None, "an earlier Edit's `encoded`; refused if this edit would make another one")
    reuse: Any = keyword(
        None, "an earlier Edit, or several: their encodings and maps are used where this edit would make the same")

    @classmethod
    def split(cls, keywords: Mapping[str, Any]) -> tuple[Call, dict[str, Any]]:
        """The keywords that every method has, as a Call; and the others, which are options of the method."""
        own = {f.name for f in fields(cls)}
        options = {name: value for name, value in keywords.items() if name not in own}
        return cls(**{name: value for name, value in keywords.items() if name in own}), options

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", SIZE.checked(self.size))

    @property
    def given(self) -> frozenset[str]:
        """Which of mask, mask_map and encoded are given."""
        return frozenset(name for name in ("mask", "mask_map", "encoded") if getattr(self, name) is not None)
