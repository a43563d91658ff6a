"""CLIPScore, arXiv:2104.08718, in the form of the editing papers' tables (values of 24 to 32):

    max(100 cos(CLIP(result), CLIP(query)), 0)

as torchmetrics' CLIPScore has it. The first paper's own scale is 2.5 max(cos, 0) with captions prefixed "A photo
depicts". Which CLIP model matters more than most edits do: ViT-L/14 and ViT-B/32 differ by about 5.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

from ...methods.directional_clip import DirectionalClip
from ...pictures.picture import to_pixels
from .base import Column, Files, Metric, Shown
from .networks import CLIP, missing_model, model_folder, model_said, without_bars


@lru_cache(maxsize=1)       # one for all families: CLIP ViT-L/14 takes 1.7 GB
def network(folder: Path) -> DirectionalClip:
    with without_bars():
        return DirectionalClip(str(folder))


@torch.no_grad()
def score(files: Files, image: Image.Image, text: str) -> float:
    """100 cos, not below 0; nan of the empty text, which asks for nothing."""
    if not text:
        return math.nan
    clip = network(model_folder(files.clip))
    return max(100 * (clip.images(to_pixels(image)) @ clip.texts([text]).T).item(), 0.0)


def said(files: Files) -> str:
    backend = "torchvision" if find_spec("torchvision") else "PIL"     # the library's choice; they round differently
    return (f"{model_said(files.clip)}, pictures resized and cropped as its preprocessor_config.json says (by "
            f"{backend}), texts cut off at its number of tokens")


class ClipScoreMetric(Metric):
    columns = (Column("clipscore", "CLIPScore", "higher"),)

    def why_not(self) -> str | None:
        return missing_model("--clip", self.files.clip, CLIP)

    def about(self) -> str:
        return f"max(100 cos(result, query), 0) of CLIP's vectors; {said(self.files)}"

    def measure(self, shown: Shown) -> dict[str, float]:
        return {"clipscore": score(self.files, shown.result, shown.item.query)}
