"""What a scene holds: three attributes that a caption names, and a layout that it does not.

Coordinates are in units of the picture: x to the right and y down, both in [0, 1].
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing_extensions import Self

VALUES: dict[str, tuple[str, ...]] = {
    "container": ("bowl", "basket", "bucket"),
    "fruit": ("apples", "pears", "oranges", "lemons", "plums"),
    "surface": ("wooden table", "marble", "grass", "sand", "checked cloth"),
}


class Place(NamedTuple):
    """One fruit of the heap, in rim half-widths from the middle of the rim: x right, y down."""

    x: float
    y: float
    radius: float
    tilt: float  # radians, clockwise


@dataclasses.dataclass(frozen=True)
class Contents:
    """What one picture shows: what the caption names, then the layout that all its edits share."""

    container: str
    fruit: str
    surface: str
    seed: int  # of the textures' phases
    centre: float  # x of the container's axis
    half_width: float  # of the rim
    rim: float  # y of the rim's middle
    height: float  # of the container, rim to base
    horizon: float  # y where the ground meets the wall
    heap: tuple[Place, ...]  # the fruits, furthest first
    light: tuple[float, float, float]  # unit vector towards the light: x right, y down, z to the viewer
    strength: float  # of the light, about 1
    wall: tuple[float, float, float]  # its colour

    @property
    def caption(self) -> str:
        """For example "a basket of plums on a wooden table"."""
        return self.partial_caption(VALUES)

    def partial_caption(self, attributes: Iterable[str]) -> str:
        """The caption with only some of the attributes, in whatever order they are given; "" for none.

        `scene.partial_caption(["fruit", "surface"])` is for example "plums on a wooden table".
        Raises ValueError for an attribute that is not in `VALUES`.
        """
        named = tuple(attributes)
        for attribute in named:
            _check_attribute(attribute)
        words = {"container": with_article(self.container), "fruit": self.fruit}
        things = " of ".join(words[attribute] for attribute in words if attribute in named)
        place = with_article(self.surface) if "surface" in named else ""
        return " on ".join(filter(None, (things, place)))

    def replace(self, **changes: str) -> Self:
        """The same layout with some attributes changed: `scene.replace(fruit="pears")`.

        Raises ValueError for an attribute or a value that is not in `VALUES`.
        """
        for attribute, value in changes.items():
            _check_attribute(attribute)
            if value not in VALUES[attribute]:
                choices = ", ".join(VALUES[attribute])
                raise ValueError(f"unknown {attribute} {value!r}: choose from {choices}")
        return dataclasses.replace(self, **changes)

    def edits(self) -> list[tuple[str, Self]]:
        """All 10 changes of exactly one attribute, as (attribute, changed scene)."""
        return [(attribute, self.replace(**{attribute: value}))
                for attribute, values in VALUES.items() for value in values
                if value != getattr(self, attribute)]


def _check_attribute(attribute: str) -> None:
    if attribute not in VALUES:
        raise ValueError(f"unknown attribute {attribute!r}: choose from {', '.join(VALUES)}")


def with_article(value: str) -> str:
    """The value as a caption says it: "a bowl", "a wooden table", but "grass", "sand", "marble"."""
    return value if value in ("marble", "grass", "sand") else f"a {value}"
