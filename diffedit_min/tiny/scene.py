"""The contents of a scene: three attributes that the caption names, and a layout that it does not name.

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


class Fruit(NamedTuple):
    """One fruit of the heap. Lengths are in rim half-widths; x (right) and y (down) start at the rim's middle."""

    x: float
    y: float
    radius: float
    tilt: float  # radians, clockwise


@dataclasses.dataclass(frozen=True)
class Contents:
    """What one picture shows: three attributes that the caption names, and the layout that all its edits share."""

    container: str
    fruit: str
    surface: str
    seed: int  # of the textures' phases
    centre: float  # x of the container's axis
    half_width: float  # of the rim
    rim: float  # y of the rim's middle
    height: float  # of the container, rim to base
    horizon: float  # y where the ground meets the wall
    heap: tuple[Fruit, ...]  # from the back to the front
    light: tuple[float, float, float]  # unit vector towards the light: x right, y down, z to the viewer
    strength: float  # of the light, about 1
    wall: tuple[float, float, float]  # its colour

    @property
    def caption(self) -> str:
        """The text that names all attributes, for example "a basket of plums on a wooden table"."""
        return self.partial_caption(VALUES)

    def partial_caption(self, attributes: Iterable[str]) -> str:
        """The caption with only some of the attributes, given in any order; "" for none of them.

        For example, `scene.partial_caption(["fruit", "surface"])` is "plums on a wooden table".
        Raises ValueError for an attribute that is not in `VALUES`.
        """
        named = tuple(attributes)
        for attribute in named:
            _check_attribute(attribute)
        words = {"container": with_article(self.container), "fruit": self.fruit}
        things = " of ".join(words[attribute] for attribute in words if attribute in named)
        surface = with_article(self.surface) if "surface" in named else ""
        return " on ".join(filter(None, (things, surface)))

    def replace(self, **changes: str) -> Self:
        """The scene with the same layout and some other attributes: `scene.replace(fruit="pears")`.

        Raises ValueError for an attribute or a value that is not in `VALUES`.
        """
        for attribute, value in changes.items():
            _check_attribute(attribute)
            if value not in VALUES[attribute]:
                choices = ", ".join(VALUES[attribute])
                raise ValueError(f"unknown {attribute} {value!r}: choose from {choices}")
        return dataclasses.replace(self, **changes)

    def edits(self) -> list[tuple[str, Self]]:
        """All 10 scenes that differ from this one in one attribute, as (attribute, scene)."""
        return [(attribute, self.replace(**{attribute: value}))
                for attribute, values in VALUES.items() for value in values
                if value != getattr(self, attribute)]


def _check_attribute(attribute: str) -> None:
    if attribute not in VALUES:
        raise ValueError(f"unknown attribute {attribute!r}: choose from {', '.join(VALUES)}")


def with_article(value: str) -> str:
    """A value as a caption names it: "a bowl", "a wooden table", but "grass", "sand", "marble"."""
    return value if value in ("marble", "grass", "sand") else f"a {value}"
