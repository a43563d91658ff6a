"""Metrics that need no network: how far the result is from the input, and from the true answer where there is one.

PSNR of mean squared errors e on the [0, 1] scale is 10 log10(1 / e) dB. The errors are averaged over edits, and their
mean is shown in dB: a mean of dB would be infinite as soon as one picture came back unchanged.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from ...pictures.picture import WHITE_FROM
from ..measures import measure, overlap, squared_error
from .base import Column, Metric, Shown


def white(mask: Image.Image) -> np.ndarray:
    """A mask's picture as bool (H, W): white, True, is where the edit is meant to be."""
    return np.asarray(mask.convert("L")) >= WHITE_FROM


class PicturesMetric(Metric):
    """What the edit changed: PSNR of the result to the input, over all pixels and over those outside the mask."""

    columns = (Column("changed", "PSNR to the input, dB", "higher", 1, "psnr"),
               Column("outside", "PSNR outside the mask, dB", "higher", 1, "psnr"))

    def about(self) -> str:
        return ("PSNR = 10 log10(1 / mean squared difference of result and input on [0, 1]), of the mean over edits; "
                "outside: over the pixels that the dataset's mask leaves black")

    def measure(self, shown: Shown) -> dict[str, float]:
        outside = math.nan if shown.mask is None else squared_error(shown.result, shown.input, ~white(shown.mask))
        return {"changed": squared_error(shown.result, shown.input), "outside": outside}


class AnswersMetric(Metric):
    """Against what is known of a perfect edit: PSNR to the true answer, and the method's mask against the true mask."""

    columns = (Column("answer", "PSNR to the answer, dB", "higher", 1, "psnr"), Column("iou", "mask IoU", "higher"),
               Column("precision", "mask precision", "higher"), Column("recall", "mask recall", "higher"))

    def about(self) -> str:
        return ("PSNR of result and true answer, of the mean over edits; of the method's mask M and the dataset's T in "
                "pixels: IoU |M & T| / |M | T|, precision |M & T| / |M|, recall |M & T| / |T|")

    def measure(self, shown: Shown) -> dict[str, float]:
        answer = math.nan if shown.answer is None else squared_error(shown.result, shown.answer)
        found = None if shown.edit is None else shown.edit.mask_image
        if found is None or shown.mask is None:
            return {"answer": answer, "iou": math.nan, "precision": math.nan, "recall": math.nan}
        return {"answer": answer, **overlap(white(found), white(shown.mask))}


class ScenesMetric(Metric):
    """Of the embedded scenes, whose true answers and true regions are known: the measures of `bench.measures`. They are
    at the scenes' own 64 x 64 px."""

    columns = (
        Column("correct", "edit accuracy", "higher", 2),
        Column("outside", "PSNR outside, dB", "higher", 1, "psnr"),
        Column("answer", "PSNR to the answer, dB", "higher", 1, "psnr"),
        Column("iou", "mask IoU", "higher", 2),
        Column("precision", "mask precision", "higher", 2),
        Column("recall", "mask recall", "higher", 2),
        Column("source", "PSNR of the input made anew, dB", "higher", 1, "psnr"),
    )

    def about(self) -> str:
        return ("edit accuracy: share of results that over the truly changed pixels are nearest to the true answer "
                "among the pictures of all values of the attribute; PSNR outside: against the input where the true "
                "answer equals it; PSNRs are of mean squared errors averaged over edits; mask IoU, precision and "
                "recall: on the latent grid")

    def measure(self, shown: Shown) -> dict[str, float]:
        return {name: float(value) for name, value in measure(shown.edit, *shown.item.truth).items()}
