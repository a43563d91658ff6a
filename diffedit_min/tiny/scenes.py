"""Synthetic still lifes whose true edits are known: a container of fruit on a surface.

Every picture is a `Scene`: three attributes that a caption names ("a bowl of apples on a wooden
table") and a layout that it does not (where things stand, how they are lit). `sample(seed)` draws one,
`Scene.render` paints it (in `paint`), and `Scene.replace(fruit="pears")` gives the same scene with that
one thing changed, which is the picture a perfect text-guided edit would return; `changed` is its
perfect mask.

Three rules keep those true edits fair to a model that sees only the input picture:

* the layout is shared: all containers have the same rim, height and shadow, all fruits the same places;
* each value has one fixed colour and pattern, so nothing about the new thing has to be guessed, except
  a mild phase of the ground's texture, drawn from (seed, name) and so independent of everything else;
* nothing shades anything but itself, except for the container's shadow, which multiplies the ground.

Coordinates are in units of the picture: x to the right and y down, both in [0, 1].
"""

from __future__ import annotations

import colorsys
import dataclasses
import itertools
import operator
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from .paint import FLATNESS, paint

VALUES: dict[str, tuple[str, ...]] = {
    "container": ("bowl", "basket", "bucket"),
    "fruit": ("apples", "pears", "oranges", "lemons", "plums"),
    "surface": ("wooden table", "marble", "grass", "sand", "checked cloth"),
}
# Never seen in training, so that a test can ask for a combination which is new to the model.
# Every container, fruit and surface is still trained in at least 12 other combinations.
HELD_OUT: frozenset[tuple[str, str, str]] = frozenset({
    ("bowl", "apples", "grass"), ("bowl", "plums", "sand"), ("bowl", "lemons", "checked cloth"),
    ("basket", "oranges", "marble"), ("basket", "pears", "checked cloth"), ("basket", "apples", "sand"),
    ("bucket", "lemons", "wooden table"), ("bucket", "pears", "marble"),
})
COMBINATIONS = tuple(itertools.product(*VALUES.values()))
TRAINED = tuple(combination for combination in COMBINATIONS if combination not in HELD_OUT)

TRAIN = range(0, 10**9)
VALIDATION = range(10**9, 2 * 10**9)
TEST = range(2 * 10**9, 3 * 10**9)

CHANGED = 0.1  # the least channel difference, on the [0, 1] scale, that counts as a change


class Place(NamedTuple):
    """One fruit of the heap, in rim half-widths from the middle of the rim: x right, y down."""

    x: float
    y: float
    radius: float
    tilt: float  # radians, clockwise


@dataclasses.dataclass(frozen=True)
class Scene:
    """One picture's content: what the caption names, then the layout that all its edits share."""

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

    def replace(self, **changes: str) -> Scene:
        """The same layout with some attributes changed: `scene.replace(fruit="pears")`.

        Raises ValueError for an attribute or a value that is not in `VALUES`.
        """
        for attribute, value in changes.items():
            _check_attribute(attribute)
            if value not in VALUES[attribute]:
                choices = ", ".join(VALUES[attribute])
                raise ValueError(f"unknown {attribute} {value!r}: choose from {choices}")
        return dataclasses.replace(self, **changes)

    def edits(self) -> list[tuple[str, Scene]]:
        """All 10 changes of exactly one attribute, as (attribute, changed scene)."""
        return [(attribute, self.replace(**{attribute: value}))
                for attribute, values in VALUES.items() for value in values
                if value != getattr(self, attribute)]

    def render(self, size: int = 64) -> Image.Image:
        """The picture, RGB, size x size pixels; it looks the same at every size.

        Raises ValueError for a size below 16.
        """
        return paint(self, size)


def _check_attribute(attribute: str) -> None:
    if attribute not in VALUES:
        raise ValueError(f"unknown attribute {attribute!r}: choose from {', '.join(VALUES)}")


def with_article(value: str) -> str:
    """The value as a caption says it: "a bowl", "a wooden table", but "grass", "sand", "marble"."""
    return value if value in ("marble", "grass", "sand") else f"a {value}"


def sample(seed: int) -> Scene:
    """The scene of a seed, always the same one; training seeds never give a `HELD_OUT` combination.

    Raises ValueError for a seed outside the splits `TRAIN`, `VALIDATION` and `TEST`.
    """
    seed = operator.index(seed)  # a plain int, since `in range` is a slow search for numpy's integers
    if not 0 <= seed < TEST.stop:
        raise ValueError(f"seed {seed} is in no split: it must be from 0 to {TEST.stop - 1}")
    rng = np.random.default_rng(seed)
    combinations = TRAINED if seed in TRAIN else COMBINATIONS
    container, fruit, surface = combinations[rng.integers(len(combinations))]

    half_width = rng.uniform(0.27, 0.35)
    height = rng.uniform(0.28, 0.33)
    # The whole heap and the whole container stay in the frame.
    rim = rng.uniform(0.02 + 1.22 * half_width, 0.95 - height - FLATNESS * 0.85 * half_width)
    sideways, above, forward = rng.uniform(-0.75, 0.75), rng.uniform(0.55, 0.8), 0.75
    light = np.array([sideways, -above, forward]) / np.sqrt(sideways**2 + above**2 + forward**2)
    return Scene(
        container=container, fruit=fruit, surface=surface, seed=seed,
        centre=rng.uniform(half_width + 0.02, 0.98 - half_width),
        half_width=half_width, rim=rim, height=height,
        horizon=rim + rng.uniform(-0.13, 0.04),
        heap=_sample_heap(rng),
        light=tuple(light.tolist()), strength=rng.uniform(0.88, 1.06),
        wall=colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.08, 0.33), rng.uniform(0.55, 0.88)),
    )


def _sample_heap(rng: np.random.Generator) -> tuple[Place, ...]:
    """Six to eight fruits in three rows: the back one, the top one, and the front one at the rim."""
    places = []
    for y, spread, counts in ((-0.28, 0.48, (2, 3)), (-0.56, 0.22, (1, 2)), (-0.04, 0.56, (3,))):
        count = int(rng.choice(counts))
        row = []
        for x in np.linspace(-spread, spread, count) if count > 1 else [0.0]:
            dx, dy = rng.uniform(-0.06, 0.06, 2)
            row.append(Place(float(x + dx), float(y + dy), rng.uniform(0.32, 0.37), rng.uniform(-0.45, 0.45)))
        rng.shuffle(row)
        places += [Place(*place) for place in row]
    return tuple(places)


def changed(a: Image.Image | Scene, b: Image.Image | Scene) -> np.ndarray:
    """Where two pictures of one size (or two scenes, rendered) truly differ: bool, (height, width).

    A pixel counts when a channel differs by more than `CHANGED`. Raises ValueError if the sizes differ.
    """
    a, b = (thing.render() if isinstance(thing, Scene) else thing for thing in (a, b))
    if a.size != b.size:
        raise ValueError(f"the pictures must have one size, not {a.size} and {b.size}")
    first, second = (np.asarray(image.convert("RGB"), np.float32) / 255 for image in (a, b))
    return np.abs(first - second).max(axis=2) > CHANGED
