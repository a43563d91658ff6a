"""The embedded scenes: fruit in containers on surfaces, with the true answer of each edit and its true region.

Nothing has to be obtained. 300 edits of scenes never seen in training (with combinations never seen either), of the
container, the fruit and the surface in turn: the caption of the scene is the reference, that of the changed scene the
query. split "validation" is for choosing settings, "test" for reporting.
"""

from __future__ import annotations

from functools import partial

from PIL import Image

from ...tiny import scenes
from ...tiny.instructions import instruction
from ..measures import SPLITS, cases
from .item import Dataset, Item, Location, chosen_split, need_nothing

ITEMS = 300


def read(location: Location) -> Dataset:
    """Raises ValueError for a split that isn't there, and for files: there are none."""
    need_nothing(location.data, "--data", "scenes", "its pictures are painted")
    need_nothing(location.images, "--images", "scenes", "its pictures are painted")
    split = chosen_split(location, "scenes", SPLITS, "test")
    items = tuple(
        Item(id=str(scene.seed), image=scene.render, query=answer.caption, reference=scene.caption,
             instruction=instruction(kind, scene, answer), group=kind, seed=scene.seed,
             mask=partial(region, scene, answer), answer=answer.render, truth=(scene, kind, answer))
        for scene, kind, answer in cases(split, ITEMS)
    )
    return Dataset("scenes", items, f"the embedded scenes, {split} split: {ITEMS} edits", metrics=("scenes", "lpips"),
                   panels=(("correct", "outside"), ("correct", "answer")))


def region(scene: scenes.Scene, answer: scenes.Scene) -> Image.Image:
    """The pixels that a perfect edit changes, white."""
    return Image.fromarray(scenes.changed(scene, answer)).convert("L")
