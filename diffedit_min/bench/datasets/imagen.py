"""The paper's set of Imagen's pictures (section 4.3): a prompt's picture is edited to show one other element.

The prompts are all 2 x 5 x 2 x 2 x 3 x 3 = 360 of imagen.research.google's template (the paper says 300):

    A photo of a | An oil painting of a  <animal>  <accessory>  and  <clothes>  <activity>  <place> .

images: a folder with a picture for each, named by its prompt in lower case, with "-" for all that is not a letter or a
digit, .png or .jpg: a-photo-of-a-raccoon-wearing-a-cowboy-hat-and-red-shirt-riding-a-bike-on-a-beach.png

The reference is the prompt. Which one element the paper changed in each, and to what, is not published. The rule here:
the i-th prompt, i = 0, 1, ... in the order of the template (the last element changing first), changes element i mod 5
of animal, accessory, clothes, activity and place (not the style, which has no place in the picture), each 72 times, to
another value, all of them in turn. The group is the element's name; id and seed are the prompt's number from 1 on.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...pictures.picture_files import open_picture
from .item import Dataset, Item, Location, check_pictures, need, need_nothing, slug

STYLES = ("A photo of a", "An oil painting of a")
ELEMENTS = {
    "animal": ("fuzzy panda", "British Shorthair cat", "Persian cat", "Shiba Inu dog", "raccoon"),
    "accessory": ("wearing a cowboy hat", "wearing a sunglasses"),      # its own English
    "clothes": ("red shirt", "black leather jacket"),
    "activity": ("playing a guitar", "riding a bike", "skateboarding"),
    "place": ("in a garden", "on a beach", "on top of a mountain"),
}
TEMPLATE = "{style} {animal} {accessory} and {clothes} {activity} {place}."


def read(location: Location) -> Dataset:
    need_nothing(location.data, "--data", "imagen", "its prompts and changes follow from a template")
    need_nothing(location.split, "--split", "imagen", "it has one part")
    images = need(location.images, "--images", "a folder with a picture for each prompt",
                  "Imagen's, from imagen.research.google with consent, named by their prompts", folder=True)
    prompts = list(template())
    paths = [located(images, prompt) for _, prompt, _ in prompts]
    check_pictures(paths, images)
    items = tuple(Item(id=f"{number:03}", image=partial(open_picture, path), query=query, reference=prompt,
                       group=element, seed=number)
                  for number, ((element, prompt, query), path) in enumerate(zip(prompts, paths, strict=True), 1))
    return Dataset("imagen", items, f"Imagen's pictures of {len(items)} prompts, one element changed by the fixed rule",
                   metrics=("fid", "clipscore", "lpips"), panels=(("clipscore", "lpips"), ("clipscore", "fid")))


def template() -> Iterator[tuple[str, str, str]]:
    """Changed element, prompt, changed prompt."""
    for i, (style, *values) in enumerate(itertools.product(STYLES, *ELEMENTS.values())):
        filled = dict(zip(ELEMENTS, values, strict=True))
        element = list(ELEMENTS)[i % len(ELEMENTS)]
        others = [value for value in ELEMENTS[element] if value != filled[element]]
        changed = filled | {element: others[i // len(ELEMENTS) % len(others)]}
        yield element, TEMPLATE.format(style=style, **filled), TEMPLATE.format(style=style, **changed)


def located(images: Path, prompt: str) -> Path:
    """The prompt's picture: .jpg if that is there, else .png."""
    stem = images / slug(prompt.lower(), "a prompt").replace(".", "-")
    found = stem.with_suffix(".jpg")
    return found if os.path.isfile(found) else stem.with_suffix(".png")
