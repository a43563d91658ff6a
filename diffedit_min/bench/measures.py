"""What can be measured of an edit whose true answer is known, and the edits that are measured.

    changed     the pixels whose largest channel difference between input and true answer is > 0.1; a latent cell is
                changed if any of its pixels is
    iou         of the method's mask and the changed cells, and its precision and recall
    correct     is the result, over the changed pixels, nearest (mean squared error) to the true answer among the
                pictures of all values of the attribute, the old one included?
    outside     mean squared error against the input over the pixels that are not changed
    answer      mean squared error against the true answer over the whole picture
    source      that of the input as the method makes it anew, over the whole picture, for methods with two branches;
                and for the round trip, which makes nothing else: it has no other measure
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from ..methods import Edit
from ..pictures.picture import fit_mask, psnr
from ..tiny import scenes

SPLITS = {"validation": scenes.VALIDATION, "test": scenes.TEST}
KINDS = tuple(scenes.VALUES)


def cases(split: str, count: int) -> Iterator[tuple[scenes.Scene, str, scenes.Scene]]:
    """(scene, kind, true answer): the split's first scenes; the kind goes round, the new value follows the seed."""
    for i in range(count):
        scene, kind = scenes.sample(SPLITS[split][i]), KINDS[i % len(KINDS)]
        others = [value for value in scenes.VALUES[kind] if value != getattr(scene, kind)]
        yield scene, kind, scene.replace(**{kind: others[(i // len(KINDS)) % len(others)]})


def cell_mask(changed: np.ndarray, factor: int) -> np.ndarray:
    """Pixels to latent cells: bool (H, W) -> bool (H/factor, W/factor), True if any pixel of the cell is."""
    h, w = (side // factor for side in changed.shape)
    return changed[: h * factor, : w * factor].reshape(h, factor, w, factor).any(axis=(1, 3))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks; 1 if both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 1.0


def overlap(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """IoU, recall and precision of a mask. An empty mask has no precision, an empty truth no recall: nan."""
    def share(of: np.ndarray, inside: np.ndarray) -> float:
        return float(inside[of].mean()) if of.any() else math.nan

    return {"iou": iou(mask, truth), "recall": share(truth, mask), "precision": share(mask, truth)}


def squared_error(a: Image.Image, b: Image.Image, where: np.ndarray | None = None) -> float:
    """Mean squared difference on the [0, 1] scale over the pixels `where` (H, W), or all; nan if there is none."""
    difference = (np.asarray(a, np.float64) - np.asarray(b, np.float64)) / 255
    chosen = difference if where is None else difference[where]
    return float((chosen**2).mean()) if chosen.size else math.nan


def nearest_value(result: Image.Image, scene: scenes.Scene, kind: str, where: np.ndarray) -> str:
    """Which value of the attribute `kind` makes the scene look most like the result over the pixels `where`?"""
    errors = {value: squared_error(result, scene.replace(**{kind: value}).render(), where)
              for value in scenes.VALUES[kind]}
    return min(errors, key=errors.__getitem__)


def against_truth(edit: Edit, truth: Image.Image) -> list[tuple[str, str, str]]:
    """An edit against its true answer, as it is told to people: for each figure its name, its value, what it is."""
    region = scenes.changed(edit.input, truth)      # bool (H, W)
    figures = [("true answer", f"{psnr(edit.image, truth):.1f} dB", "PSNR against the true answer, everywhere")]
    if not region.all():
        figures.insert(0, ("outside the true region", f"{psnr(edit.image, edit.input, where=~region):.1f} dB",
                           "PSNR against the input, where nothing should change"))
    if edit.mask is not None:
        share = iou(edit.mask.cpu().numpy(), fit_mask(Image.fromarray(region), edit.frame, edit.factor)[0, 0].numpy())
        figures.insert(0, ("mask", f"{share:.2f}", "intersection over union with the region that truly changes"))
    return figures


def measure(edit: Edit, scene: scenes.Scene, kind: str, answer: scenes.Scene) -> dict[str, Any]:
    """One edit against its true answer; all measures of the module's docstring."""
    before, after = scene.render(), answer.render()
    changed = scenes.changed(before, after)
    if edit.settings.get("method") == "invert":
        return {"source": squared_error(edit.image, before)}
    found = {}
    if edit.mask is not None:
        truth = fit_mask(Image.fromarray(changed), edit.frame, edit.factor)[0, 0].numpy()      # any pixel of a cell
        found = overlap(edit.mask.cpu().numpy(), truth)
    return {
        **found,
        "correct": nearest_value(edit.image, scene, kind, changed) == getattr(answer, kind),
        "outside": squared_error(edit.image, before, ~changed),
        "answer": squared_error(edit.image, after),
        **({} if edit.source is None else {"source": squared_error(edit.source, before)}),
    }
