"""ImageNet as FlexIT has it (arXiv:2203.04705, section 4) and the paper's section 4.2: turn a thing into a near class.

data: FlexIT's dataset/queries.csv, 2184 rows, one edit each, 8 for each of 273 target classes:

    ,path,source,source_id,target,target_id,is_test
    3741,n02091032/ILSVRC2012_val_00042240.JPEG,Italian greyhound,171,Afghan hound,160,False

images: ILSVRC2012's validation pictures, 50000, in a folder for each class as `path` has it, or all in one folder as
they come. split "test" (the rows with is_test True, 1092; if nothing is said) or "dev" (the others).

The query is the target's name and the reference is empty, as in the paper's figure 4. The group is target_id, 0..999 in
the order of the classes' WordNet ids. An item's id and seed are its row's number from 1 on, of either split.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from ...pictures.picture_files import open_picture
from .item import Dataset, Item, Location, check_items, check_pictures, chosen_split, need
from .lists import brief, line_of, read_csv, said

COLUMNS = ("path", "target", "target_id", "is_test")    # source and source_id aren't used
SPLITS = {"test": "true", "dev": "false"}               # -> is_test; spreadsheets write TRUE for pandas' True
CLASSES = {str(number) for number in range(1000)}


def read(location: Location) -> Dataset:
    data = need(location.data, "--data", "FlexIT's dataset/queries.csv",
                "from github.com/facebookresearch/SemanticImageTranslation")
    images = need(location.images, "--images", "the folder with ImageNet's validation pictures",
                  "ILSVRC2012, from image-net.org with an account", folder=True)
    split = chosen_split(location, "imagenet", SPLITS, "test")
    rows = [(line_of(data, line), row) for line, row in read_csv(data, COLUMNS)]
    for where, row in rows:
        check(where, row)
    chosen = [(number, where, row) for number, (where, row) in enumerate(rows, 1)
              if row["is_test"].lower() == SPLITS[split]]
    paths = [located(images, row["path"]) for _, _, row in chosen]
    check_pictures(paths, images)
    items = tuple(
        Item(id=f"{number:04}", image=partial(open_picture, path), query=said(row["target"], f"{where}: target"),
             group=row["target_id"], seed=number)
        for (number, where, row), path in zip(chosen, paths, strict=True)
    )
    check_items(items, data, f"of the {split} split")
    return Dataset("imagenet", items, f"ImageNet by {data.name}, {split} split: {len(items)} of {len(rows)} queries",
                   metrics=("lpips", "csfid", "clipscore"), panels=(("lpips", "csfid"),))


def check(where: str, row: dict[str, str]) -> None:
    if not row["path"]:
        raise ValueError(f"{where}: path is empty: give the picture's")
    if row["target_id"] not in CLASSES:
        raise ValueError(f"{where}: target_id is {brief(row['target_id'])}, not a class's number from 0 to 999")
    if row["is_test"].lower() not in SPLITS.values():
        raise ValueError(f"{where}: is_test is {brief(row['is_test'])}, neither True nor False")


def located(images: Path, path: str) -> Path:
    """Where a picture is: in its class's folder, or straight in `images`."""
    flat = images / Path(path).name
    return flat if os.path.isfile(flat) else images / path
