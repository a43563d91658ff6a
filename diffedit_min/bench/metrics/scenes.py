"""Of the embedded scenes, whose true answers and true regions are known: nothing is judged by another network."""

from __future__ import annotations

from ..measures import measure
from .base import Column, Metric, Shown


class ScenesMetric(Metric):
    """The measures of `bench.measures`. They are at the scenes' own 64 x 64 px."""

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
