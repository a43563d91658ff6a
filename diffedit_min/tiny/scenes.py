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

import numpy as np
from PIL import Image

from .paint import FLATNESS, paint
from .scene import VALUES, Contents, Place

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


@dataclasses.dataclass(frozen=True)
class Scene(Contents):
    """A scene that can be painted."""

    def render(self, size: int = 64) -> Image.Image:
        """The picture, RGB, size x size pixels; it looks the same at every size.

        Raises ValueError for a size below 16.
        """
        return paint(self, size)


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


def demo_scenes(seed: int, change: str | None) -> tuple[Scene, Scene]:
    """A scene that the model was not trained on, and the true answer to a change of it."""
    if not 0 <= seed < len(TEST):
        raise ValueError(f"--seed must be from 0 to {len(TEST) - 1}, not {seed}")
    scene, fruits = sample(TEST[seed]), VALUES["fruit"]
    other = fruits[(fruits.index(scene.fruit) + 1) % len(fruits)]
    what, equals, value = (f"fruit={other}" if change is None else change).partition("=")
    if not equals:
        raise ValueError(f"--change {change!r} has no value: write it as what=value, for example fruit={other}")
    answer = scene.replace(**{what: value})
    if answer == scene:
        raise ValueError(f"--change {change!r} changes nothing: the picture shows {scene.caption}")
    return scene, answer
