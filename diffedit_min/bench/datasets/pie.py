"""PIE-Bench (arXiv:2310.01506): 700 pictures of 512 x 512, each with one edit of one of ten types, and its region.

data: mapping_file.json, from a picture's number to what is to be done:

    {"000000000000": {"image_path": "0_random_140/000000000000.jpg",
                      "original_prompt": "a slanted mountain bicycle on the road in front of a building",
                      "editing_prompt": "a slanted [rusty] mountain bicycle on the road in front of a building",
                      "editing_instruction": "Make the frame of the bike rusty",
                      "editing_type_id": "0", "blended_word": "bicycle bicycle", "mask": [...]}, ...}

images: its folder annotation_images. split: a type's number or name; all of them if nothing is said.

Brackets show people the difference, and are left out of the prompts. `mask` has pairs of a start and a length, runs of
pixels to edit in the order of reading, row by row; then, as that benchmark's own evaluation has it, the picture's
outermost pixels count as to be edited too. Runs are checked when a mask is opened, so that a mistake in one costs one
item, not the set. (That evaluation cuts a run off at the picture's end; here it is refused.) Every item has the seed
1234, as there.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...pictures.picture_files import open_picture
from .item import Dataset, Item, Location, as_large, check_items, check_pictures, need, slug
from .lists import brief, field, of_kind, read_json, said

TYPES = ("random", "change object", "add object", "delete object", "change content", "change pose", "change color",
         "change material", "change background", "change style")
GROUPS = tuple(f"{number} {name}" for number, name in enumerate(TYPES))
SIDE = 512
SEED = 1234


def read(location: Location) -> Dataset:
    asked = "its authors send it to who asks: github.com/cure-lab/PnPInversion"
    data = need(location.data, "--data", "PIE-Bench's mapping_file.json", asked)
    images = need(location.images, "--images", "PIE-Bench's folder annotation_images", asked, folder=True)
    wanted = None if location.split is None else chosen_group(location.split)
    mapping = of_kind(read_json(data), dict, repr(str(data)))
    items, paths = [], []
    for key, entry in mapping.items():
        where = f"{str(data)!r}, entry {brief(key)}"
        group = read_group(entry, where)
        if wanted in (None, group):
            path = images / field(entry, "image_path", str, where)
            items.append(read_item(key, entry, group, path, where))
            paths.append(path)
    check_pictures(paths, images)
    part = "" if wanted is None else f"of type {wanted}"
    check_items(items, data, part)
    return Dataset("pie", tuple(items), f"PIE-Bench by {data.name}: {len(items)} of {len(mapping)} edits"
                   f"{part and ', those ' + part}",
                   metrics=("pie_structure", "pie_pictures", "pie_lpips", "pie_clip"),
                   panels=(("clip_whole", "structure"), ("clip_edited", "psnr_unedited")))


def chosen_group(split: str) -> str:
    """A group by its number, its name or both."""
    for number, (name, group) in enumerate(zip(TYPES, GROUPS, strict=True)):
        if split in (str(number), name, group):
            return group
    raise ValueError(f"--split {split!r} is not known; pie has {', '.join(GROUPS)}")


def read_group(entry: Any, where: str) -> str:
    number = field(entry, "editing_type_id", str, where)
    if number not in map(str, range(len(TYPES))):
        raise ValueError(f"{where}: editing_type_id is {brief(number)}, not from 0 to {len(TYPES) - 1}: is it the "
                         "right file?")
    return GROUPS[int(number)]


def read_item(key: str, entry: Any, group: str, path: Path, where: str) -> Item:
    image = partial(open_picture, path)
    mask = partial(open_runs, field(entry, "mask", list, where), f"{where}: mask")
    return Item(
        id=slug(key, where), image=image, query=prompt(entry, "editing_prompt", where),
        reference=prompt(entry, "original_prompt", where, may_be_empty=True),
        instruction=prompt(entry, "editing_instruction", where, may_be_empty=True),
        group=group, seed=SEED, mask=partial(as_large, mask, image, f"{where}: mask"),
    )


def prompt(entry: Any, key: str, where: str, may_be_empty: bool = False) -> str:
    text = field(entry, key, str, where).replace("[", "").replace("]", "")
    return said(text, f"{where}: {key}", may_be_empty)


# ---------------------------------------------------------------- run-length masks


def open_runs(runs: list[Any], where: str) -> Image.Image:
    """The mask's picture, "L", white = edit, with the border that the benchmark's evaluation adds."""
    white = decode(runs, SIDE, SIDE, where)
    white[[0, -1]] = white[:, [0, -1]] = True
    return Image.fromarray(white).convert("L")


def decode(runs: list[Any], width: int, height: int, where: str) -> np.ndarray:
    """Bool (height, width) of [start, length, start, length, ...]; ValueError for runs that don't fit."""
    if len(runs) % 2:
        raise ValueError(f"{where} has {len(runs)} numbers, which are no pairs of start and length: obtain the file "
                         "again")
    white = np.zeros(width * height, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        run = f"{where}: the run of {brief(length)} pixels from {brief(start)} on"
        if type(start) is not int or type(length) is not int or start < 0 or length < 0:
            raise ValueError(f"{run} is no run: obtain the file again")
        if start + length > white.size:
            raise ValueError(f"{run} ends after the picture's last of {white.size}: obtain the file again")
        if white[start : start + length].any():
            raise ValueError(f"{run} overlaps another: obtain the file again")
        white[start : start + length] = True
    return white.reshape(height, width)
