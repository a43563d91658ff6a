"""Synthetic pictures whose true edits are known: a container of fruit on a surface.

Every picture is a `Scene`: three attributes that a caption names ("a bowl of apples on a wooden table") and a layout
that it does not name (where things stand, how they are lit). `sample(seed)` draws a scene, and `Scene.render` paints it
(in `paint`). `Scene.replace(fruit="pears")` gives the same scene with one attribute changed: its picture is what a
perfect text-guided edit returns, and `changed` gives the perfect mask.

A model sees only the input picture. Three rules make sure that it can know what the true edit looks like:

* the layout is shared: all containers have the same rim, height and shadow, and all fruits lie in the same places;
* each value has one fixed colour and pattern, so nothing about a new object has to be guessed. Only the texture of the
  surface varies a little, by phases that depend on (seed, name) and on nothing else;
* an object shades nothing but itself; only the container has a shadow, which multiplies the surface.

Coordinates are in units of the picture: x to the right and y down, both in [0, 1].
"""

from __future__ import annotations

import colorsys
import dataclasses
import itertools
import operator
import re

import numpy as np
from PIL import Image

from .paint import FLATNESS, paint
from .scene import VALUES, Contents, Fruit

# Combinations that are never seen in training, so that a test can ask the model for a new one. Every container, fruit
# and surface is seen in at least 12 other combinations.
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

CHANGED = 0.1  # a pixel has changed if a channel differs by more than this; channels are in [0, 1]


@dataclasses.dataclass(frozen=True)
class Scene(Contents):
    """A scene that can be painted."""

    def render(self, size: int = 64) -> Image.Image:
        """The picture, RGB, size x size pixels; it looks the same at every size.

        Raises ValueError for a size below 16.
        """
        return paint(self, size)


def sample(seed: int) -> Scene:
    """The scene that belongs to a seed; a training seed never gives a `HELD_OUT` combination.

    Raises ValueError for a seed outside the splits `TRAIN`, `VALIDATION` and `TEST`.
    """
    seed = operator.index(seed)  # a plain int: with numpy's integers `in range` is slow
    if not 0 <= seed < TEST.stop:
        raise ValueError(f"seed {seed} is in no split: it must be from 0 to {TEST.stop - 1}")
    rng = np.random.default_rng(seed)
    combinations = TRAINED if seed in TRAIN else COMBINATIONS
    container, fruit, surface = combinations[rng.integers(len(combinations))]

    half_width = rng.uniform(0.27, 0.35)
    height = rng.uniform(0.28, 0.33)
    # These bounds keep the whole heap and the whole container inside the picture.
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


def _sample_heap(rng: np.random.Generator) -> tuple[Fruit, ...]:
    """Six to eight fruits in three rows: at the back, on top, and in front at the rim."""
    heap = []
    for y, spread, counts in ((-0.28, 0.48, (2, 3)), (-0.56, 0.22, (1, 2)), (-0.04, 0.56, (3,))):
        count = int(rng.choice(counts))
        row = []
        for x in np.linspace(-spread, spread, count) if count > 1 else [0.0]:
            dx, dy = rng.uniform(-0.06, 0.06, 2)
            row.append(Fruit(float(x + dx), float(y + dy), rng.uniform(0.32, 0.37), rng.uniform(-0.45, 0.45)))
        rng.shuffle(row)
        heap += row
    return tuple(heap)


def changed(a: Image.Image | Scene, b: Image.Image | Scene) -> np.ndarray:
    """Where two pictures of the same size, or two rendered scenes, differ: bool, (height, width).

    A pixel differs if one of its channels differs by more than `CHANGED`. Raises ValueError if the sizes differ.
    """
    a, b = (thing.render() if isinstance(thing, Scene) else thing for thing in (a, b))
    if a.size != b.size:
        raise ValueError(f"the pictures must have one size, not {a.size} and {b.size}")
    first, second = (np.asarray(image.convert("RGB"), np.float32) / 255 for image in (a, b))
    return np.abs(first - second).max(axis=2) > CHANGED


def demo_scenes(seed: int, change: str | None) -> tuple[Scene, Scene]:
    """A test scene, on which the model was not trained, and the same scene after the change (the true answer).

    change: "attribute=value"; by default another fruit. Raises ValueError if it changes nothing or can't be read.
    """
    if not 0 <= seed < len(TEST):
        raise ValueError(f"--seed must be from 0 to {len(TEST) - 1}, not {seed}")
    scene, fruits = sample(TEST[seed]), VALUES["fruit"]
    other = fruits[(fruits.index(scene.fruit) + 1) % len(fruits)]
    attribute, equals, value = (f"fruit={other}" if change is None else change).partition("=")
    if not equals:
        raise ValueError(f"--change {change!r} has no value: write it as what=value, for example fruit={other}")
    answer = scene.replace(**{attribute: value})
    if answer == scene:
        raise ValueError(f"--change {change!r} changes nothing: the picture shows {scene.caption}")
    return scene, answer


def meant(scene: Scene, words: str) -> Scene | None:
    """The scene with the values that the words name in place of its own, which is the true answer to a query.

    None if they name no other value than the scene's own, or two of one attribute.
    """
    named = {attribute: [value for value in values if value != getattr(scene, attribute)
                         and re.search(rf"\b{value}\b", words.lower())] for attribute, values in VALUES.items()}
    if not any(named.values()) or any(len(values) > 1 for values in named.values()):
        return None
    return scene.replace(**{attribute: values[0] for attribute, values in named.items() if values})
