"""COCO with BISON's captions (arXiv:1901.06595), as in the paper's section 4.3: a caption that contradicts the picture.

data: BISON's bison_annotations.cocoval2014.json, 54253 entries, each a caption and two similar pictures of which it
describes one, the "true" one:

    {"info": {...}, "data": [{"bison_id": 0, "caption_id": number, "true_image_id": 50965,
                              "image_candidates": [{"image_id": 50965, ...}, {"image_id": number, ...}]}, ...]}

images: the folder val2014, with COCO_val2014_000000050965.jpg and so on. COCO's captions_val2014.json, beside `data` or
in the folder annotations beside `images`, has the captions: {"annotations": [{"id", "image_id", "caption"}, ...]}.

The picture to edit is the other one, and the query is the caption that describes the true one. The reference is the
caption of the picture itself (it has five or more) that differs least from the query, the first of those that do.

split "filtered" (if nothing is said) keeps an entry if its query and reference differ by a quarter of their words or
less; "all" keeps every one. The paper reports 272 filtered queries, and leaves open which of the captions it compared
and what it counted as a word and as their number. Here: words are parted by white space, without case and without
punctuation at their ends; the number is that of the longer text.

An item's id is bison_id, its seed the entry's number from 0 on.
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ...pictures.picture_files import open_picture
from .item import Dataset, Item, Location, check_items, check_pictures, chosen_split, need, slug
from .lists import brief, field, read_json, said

FILTER = 0.25
SPLITS = {"filtered": FILTER, "all": 1.0}       # -> the largest difference
CAPTIONS = "captions_val2014.json"


def read(location: Location) -> Dataset:
    data = need(location.data, "--data", "BISON's bison_annotations.cocoval2014.json", "hexiang-hu.github.io/bison")
    images = need(location.images, "--images", "the folder with COCO's val2014 pictures", "cocodataset.org",
                  folder=True)
    split = chosen_split(location, "coco", SPLITS, "filtered")
    captions = read_captions(captions_file(data, images))
    given = field(read_json(data), "data", list, repr(str(data)))
    paths: list[Path] = []
    items: list[Item] = []
    for number, entry in enumerate(given):
        where = f"{str(data)!r}, entry {number}"
        name, image, query, reference, differs = read_entry(entry, captions, where)
        if differs <= SPLITS[split]:
            paths.append(images / f"COCO_val2014_{image:012d}.jpg")
            items.append(Item(id=name, image=partial(open_picture, paths[-1]), query=query, seed=number,
                              reference=said(reference, f"{where}: caption of {image}")))
    check_pictures(paths, images)
    check_items(items, data, f"of the split {split}")
    why = f", whose texts differ by at most {FILTER:.0%} of their words" if split == "filtered" else ""
    return Dataset("coco", tuple(items),
                   f"COCO val2014 by {data.name}, {split}: {len(items)} of {len(given)} queries{why}",
                   metrics=("clipscore", "fid", "lpips"), panels=(("clipscore", "lpips"), ("clipscore", "fid")))


class Captions(NamedTuple):
    path: Path
    by_id: dict[int, str]
    of_image: dict[int, list[str]]


def captions_file(data: Path, images: Path) -> Path:
    """COCO's captions, in the first place that has them."""
    places = [data.parent / CAPTIONS, images.parent / "annotations" / CAPTIONS]
    found = [path for path in places if path.is_file()]
    if not found:
        raise ValueError(f"there is no {str(places[0])!r} and no {str(places[1])!r}: put COCO's captions in one of the "
                         "two (the 2014 train/val annotations of cocodataset.org)")
    return found[0]


def read_captions(path: Path) -> Captions:
    by_id, of_image = {}, defaultdict(list)
    for number, entry in enumerate(field(read_json(path), "annotations", list, repr(str(path)))):
        where = f"{str(path)!r}, annotation {number}"
        caption = field(entry, "caption", str, where)
        by_id[field(entry, "id", int, where)] = caption
        of_image[field(entry, "image_id", int, where)].append(caption)
    return Captions(path, by_id, of_image)


def read_entry(entry: Any, captions: Captions, where: str) -> tuple[str, int, str, str, float]:
    """Of one of BISON's entries: id, picture, query and reference, and by how much these two differ."""
    name, caption = field(entry, "bison_id", int, where), field(entry, "caption_id", int, where)
    image = other_image(entry, where)
    for key, known in ((caption, captions.by_id), (image, captions.of_image)):
        if key not in known:
            what = "caption" if known is captions.by_id else "picture"
            raise ValueError(f"{where}: its {what} {key} is not in {str(captions.path)!r}: is that of val2014, and "
                             "whole?")
    query = said(captions.by_id[caption], f"{where}: caption {caption}")
    differs, reference = nearest(query, captions.of_image[image])
    return slug(str(name), where), image, query, reference, differs


def other_image(entry: Any, where: str) -> int:
    """The candidate that the caption does not describe."""
    true = field(entry, "true_image_id", int, where)
    candidates = field(entry, "image_candidates", list, where)
    ids = [field(candidate, "image_id", int, f"{where}: candidate {i}") for i, candidate in enumerate(candidates)]
    others = [image for image in ids if image != true]
    if len(ids) != 2 or len(others) != 1:
        raise ValueError(f"{where}: of two candidates one has to be the true {true}, and they are {brief(ids)}: is it "
                         "the right file?")
    return others[0]


# ---------------------------------------------------------------- how much two texts differ


def nearest(query: str, captions: Sequence[str]) -> tuple[float, str]:
    """The caption that differs least from the query, the first of several; and how much."""
    sought = words(query)
    differences = [difference(sought, words(caption)) for caption in captions]
    least = min(differences)
    return least, captions[differences.index(least)]


def words(text: str) -> list[str]:
    """In lower case, without punctuation at their ends."""
    stripped = (word.strip(string.punctuation) for word in text.lower().split())
    return [word for word in stripped if word]


def difference(a: Sequence[str], b: Sequence[str]) -> float:
    """Edits per word of the longer text: 0 for equal texts, 1 if no word stays."""
    return edit_distance(a, b) / max(len(a), len(b), 1)


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """How many words have to be put in, left out or replaced to make one text of the other (Levenshtein)."""
    row = list(range(len(b) + 1))       # from a's first i words to b's first j
    for i, word in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            kept = before + (word != other)
            before, row[j] = row[j], min(kept, row[j] + 1, row[j - 1] + 1)
    return row[-1]
