"""The means of real pictures' Inception features by class, which CSFID compares with.

    python -m diffedit_min.bench.metrics.class_means --images FOLDER_OF_CLASS_FOLDERS --out means.npz

FlexIT took them from all of ImageNet's training pictures. Classes are named as their folders, or with --numbered 0, 1,
... in the order of the names, which gives ImageNet's usual numbers if all its 1000 folders are there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ...pictures.picture_files import FORMATS, open_picture
from ...pictures.writing import replacing
from .base import Files
from .inception import features, why_not

BATCH = 16


def find(images: Path) -> dict[str, list[Path]]:
    """Class -> its pictures, in the order of their names. ValueError if there is a class without, or none at all."""
    if not images.is_dir():
        raise ValueError(f"--images {str(images)!r} is no folder: give one that holds a folder for each class")
    classes = {folder.name: sorted(path for path in folder.iterdir() if path.suffix.lower() in FORMATS)
               for folder in sorted(images.iterdir()) if folder.is_dir()}
    empty = [name for name, paths in classes.items() if not paths]
    if empty or not classes:
        raise ValueError(f"--images {str(images)!r} has no pictures in {repr(empty[0]) if empty else 'folders'}: give "
                         "a folder that holds a folder of pictures for each class")
    return classes


def mean(files: Files, paths: list[Path], device: str, bar: tqdm) -> np.ndarray:
    """The mean feature of these pictures: float64 (2048,)."""
    total = 0.0
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        total = total + features(files, map(open_picture, part), device).astype(np.float64).sum(axis=0)
        bar.update(len(part))
    return total / len(paths)


def make(images: Path, out: Path, files: Files, numbered: bool, device: str) -> None:
    if reason := why_not(files):
        raise ValueError(reason)
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {str(out)!r} can't be written: give a file in a folder that exists")
    classes = find(images)
    with tqdm(total=sum(map(len, classes.values())), unit="picture") as bar:
        means = {str(i) if numbered else name: mean(files, paths, device, bar)
                 for i, (name, paths) in enumerate(classes.items())}
    with replacing(out) as file:
        np.savez(file, **means)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder that holds a folder for each class")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    parser.add_argument("--metric-weights", type=Path, help="the folder of Inception's weights; else torch's cache")
    parser.add_argument("--numbered", action="store_true", help="name classes 0, 1, ... in the folders' order")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    try:
        make(given.images, given.out, Files(weights=given.metric_weights), given.numbered, given.device)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
