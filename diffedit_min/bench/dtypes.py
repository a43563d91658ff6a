"""What a dtype costs an edit, `diffedit-min bench --dataset scenes --preset dtype`: the ground of dtype "auto".

Each picture is edited by DiffEdit, and encoded and decoded without a query, with the networks in each dtype, from the
same noises. Does rounding change more than the method does by itself? So the round trip in float32 is held against what
the VAE alone makes of the picture (the error of the steps) and against the round trip in the other dtype (the error of
rounding); the mask in float32 against the mask from other noises, and against the mask in the other dtype.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..methods import METHODS, Edit
from ..networks.stable_diffusion import StableDiffusion
from .datasets.item import Dataset, Item
from .measures import iou, measure, squared_error
from .store import BATCH, hash_of, measure_all, write
from .tables import as_markdown

DTYPES = ("float32", "bfloat16", "float16")     # the first is what the others are held against
THE_METHODS = "float32, the method's own error"
COLUMNS = {"round trip": "round trip: PSNR to the input, dB", "rounding": "to the round trip in float32, dB",
           "mask": "mask IoU with float32's", "correct": "edit accuracy", "answer": "PSNR to the answer, dB",
           "seconds": "seconds an edit"}
IN_DB = ("round trip", "rounding", "answer")    # mean squared errors, averaged before they are shown in dB


def edits(model: StableDiffusion, items: Sequence[Item], other: int = 0, **options: Any) -> list[Edit]:
    """DiffEdit at the model's recommended settings. other: added to the seeds, for other noises."""
    queries, references = [item.query for item in items], [item.reference for item in items]
    return METHODS["diffedit"](model, [item.image() for item in items], queries, references,
                               seed=[item.seed + other for item in items], **options)


def overlaps(ours: Sequence[Edit], theirs: Sequence[Edit]) -> list[float]:
    """IoU of the masks."""
    return [iou(a.mask.cpu().numpy(), b.mask.cpu().numpy()) for a, b in zip(ours, theirs, strict=True)]


def measure_batch(models: dict[str, StableDiffusion], items: Sequence[Item]) -> dict[str, dict[str, list[float]]]:
    """By dtype and column, one number a picture."""
    pictures, found = [item.image() for item in items], {}
    for dtype, model in models.items():
        started = time.perf_counter()
        edited = edits(model, items)
        seconds = (time.perf_counter() - started) / len(items)
        returned = [edit.image for edit in METHODS["invert"](model, pictures)]
        if not found:
            exact, plain = edited, returned
            vae = [edit.image for edit in METHODS["invert"](model, pictures, encoding_ratio=0.0)]
            found[THE_METHODS] = {"rounding": list(map(squared_error, plain, vae)),
                                  "mask": overlaps(exact, edits(model, items, 1, encoding_ratio=0.0))}
        measured = [measure(edit, *item.truth) for edit, item in zip(edited, items, strict=True)]
        found[dtype] = {"round trip": list(map(squared_error, returned, pictures)),
                        "rounding": list(map(squared_error, returned, plain)), "mask": overlaps(edited, exact),
                        "correct": [float(one["correct"]) for one in measured],
                        "answer": [one["answer"] for one in measured], "seconds": [seconds] * len(items)}
    return found


def table(entries: Sequence[dict[str, dict[str, list[float]]]]) -> list[list[str]]:
    """The cells, the head first."""
    rows = [["dtype", *COLUMNS.values()]]
    for dtype in (*(name for name in entries[0] if name != THE_METHODS), THE_METHODS):
        cells = []
        for column in COLUMNS:
            numbers = [number for entry in entries for number in entry[dtype].get(column, ())]
            mean = float(np.mean(numbers)) if numbers else math.nan
            decibel = column in IN_DB and mean > 0
            cells.append("" if math.isnan(mean) else "equal" if column in IN_DB and mean == 0 else
                         f"{-10 * math.log10(mean):.1f}" if decibel else f"{mean:.3g}")
        rows.append([dtype, *cells])
    return rows


def main(models: dict[str, StableDiffusion], dataset: Dataset, out: Path, quiet: bool) -> list[str]:
    """Measure with the model in each dtype, and write out/dtypes.csv and dtypes.md; returns what to tell."""
    found = measure_all("dtypes", dataset, [hash_of(models[DTYPES[0]]), *models],
                        lambda items: measure_batch(models, items), out, quiet)
    cells = table(found)
    text = [*as_markdown(cells), "", f"Means of {len(dataset.items)} edits ({dataset.about}), in batches of {BATCH}; "
            f"{torch.get_num_threads()} threads."]
    return write("dtypes", out, text, cells)
