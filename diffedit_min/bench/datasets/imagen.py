"""The paper's set of Imagen's pictures (section 4.3): a prompt's picture is edited to show one other element.

The prompts are all 2 x 5 x 2 x 2 x 3 x 3 = 360 of imagen.research.google's template (the paper says 300):

    A photo of a | An oil painting of a  <animal>  <accessory>  and  <clothes>  <activity>  <place> .

images: a folder with a picture for each, named by its prompt in lower case, with "-" for all that is not a letter or a
digit, .png or .jpg: a-photo-of-a-raccoon-wearing-a-cowboy-hat-and-red-shirt-riding-a-bike-on-a-beach.png

The reference is the prompt. Which one element the paper changed in each, and to what, is not published. The rule here:
the i-th prompt, i = 0, 1, ... in the order of the template (the last element changing first), changes element i mod 5
of animal, accessory, clothes, activity and place (not the style, which has no place in the picture), each 72 times, to
another value, all of them in turn. The group is the element's name; id and seed are the prompt's number from 1 on.

data, if it is given, says other changes: the format of InstDiffEdit's dataset_txt/Imagen_list.txt (github.com/
xiaotianqing/InstDiffEdit), of which the seed is the line's number:

    id <> prompt <> phrase in it <> what takes its place

An article before the phrase goes if what takes its place brings its own ("a Shiba Inu dog", "a raccoon").
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...pictures.picture_files import open_picture
from .item import Dataset, Item, Location, check_items, check_pictures, need, need_folder, need_nothing, slug
from .lists import line_of, read_text, said

STYLES = ("A photo of a", "An oil painting of a")
ELEMENTS = {
    "animal": ("fuzzy panda", "British Shorthair cat", "Persian cat", "Shiba Inu dog", "raccoon"),
    "accessory": ("wearing a cowboy hat", "wearing a sunglasses"),      # its own English
    "clothes": ("red shirt", "black leather jacket"),
    "activity": ("playing a guitar", "riding a bike", "skateboarding"),
    "place": ("in a garden", "on a beach", "on top of a mountain"),
}
TEMPLATE = "{style} {animal} {accessory} and {clothes} {activity} {place}."
SEPARATOR = "<>"


def read(location: Location) -> Dataset:
    need_nothing(location.split, "--split", "imagen", "it has one part")
    images = need_folder(location.images, "--images", "a folder with a picture for each prompt",
                         "Imagen's, from imagen.research.google with consent, named by their prompts")
    if location.data is None:
        source, prompts = images, list(template())
    else:
        source = need(location.data, "--data", "a list of changes",
                      "such as InstDiffEdit's dataset_txt/Imagen_list.txt")
        prompts = list(read_list(source))
    paths = [located(images, prompt, name) for name, _, prompt, _ in prompts]
    check_pictures(paths, images)
    items = tuple(Item(id=name, image=partial(open_picture, path), query=query, reference=prompt, group=element,
                       seed=number)
                  for number, ((name, element, prompt, query), path) in enumerate(zip(prompts, paths, strict=True), 1))
    check_items(items, source)
    changes = "one element changed by the fixed rule" if location.data is None else f"changed by {location.data.name}"
    return Dataset("imagen", items, f"Imagen's pictures of {len(items)} prompts, {changes}",
                   metrics=("fid", "clipscore", "lpips"), panels=(("clipscore", "lpips"), ("clipscore", "fid")))


Prompt = tuple[str, str, str, str]      # id, changed element, prompt, changed prompt


def template() -> Iterator[Prompt]:
    for i, (style, *values) in enumerate(itertools.product(STYLES, *ELEMENTS.values())):
        filled = dict(zip(ELEMENTS, values, strict=True))
        element = list(ELEMENTS)[i % len(ELEMENTS)]
        others = [value for value in ELEMENTS[element] if value != filled[element]]
        changed = filled | {element: others[i // len(ELEMENTS) % len(others)]}
        yield (f"{i + 1:03}", element, TEMPLATE.format(style=style, **filled),
               TEMPLATE.format(style=style, **changed))


def read_list(path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        where = line_of(path, number)
        parts = [part.strip() for part in line.split(SEPARATOR)]
        if parts == [""]:
            continue
        if len(parts) != 4:
            raise ValueError(f"{where} has {len(parts)} parts, not 4: write id {SEPARATOR} prompt {SEPARATOR} phrase "
                             f"{SEPARATOR} what takes its place")
        name, *texts = parts
        prompt, old, new = (said(text, f"{where}: {what}") for what, text in zip(
            ("the prompt", "the phrase", "what takes its place"), texts, strict=True))
        element = next((element for element, values in ELEMENTS.items() if old in values), "")
        yield slug(name, where), element, prompt, replaced(prompt, old, new, where)


def replaced(prompt: str, old: str, new: str, where: str) -> str:
    """The prompt with one phrase for another, which may bring its own article."""
    article = r"(?:\b(?:an?|the) )?" if re.match(r"(an?|the) ", new, re.IGNORECASE) else ""
    found = re.findall(rf"{article}(?<!\w){re.escape(old)}(?!\w)", prompt)
    if len(found) != 1:
        raise ValueError(f"{where}: {old!r} is {len(found)} times in the prompt, not once: quote it as it stands there")
    return prompt.replace(found[0], new)


def located(images: Path, prompt: str, name: str) -> Path:
    """The prompt's picture: .jpg if that is there, else .png."""
    stem = images / slug(prompt.lower(), f"prompt {name}").replace(".", "-")
    found = stem.with_suffix(".jpg")
    return found if os.path.isfile(found) else stem.with_suffix(".png")
