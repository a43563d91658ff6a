"""FID and CSFID, from the features of Inception-v3's last pooling layer (2048 numbers a picture).

    FID     |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)),  m, S: mean and covariance of the results' features; m', S': of
            the inputs' (arXiv:1706.08500)
    CSFID   mean over target classes c of |m_c - m'_c|^2,  m_c: mean of the results edited towards c; m'_c: of real
            pictures of c

FID is biased, the more the fewer pictures there are (each covariance has a rank below their number, of 2048), so only
FIDs of the same number of edits compare. CSFID is DiffEdit's headline number on ImageNet, "class-wise simplified FID",
as FlexIT's evaluation (arXiv:2203.04705) computes it: of means only, without covariances.

The network is torch-fidelity's, with the weights that FID was first computed with, resizing as torchmetrics does. It
sees the middle square at 256 pixels, as in FlexIT's evaluation; what DiffEdit did for FID, the paper doesn't say.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..datasets.item import Item
from .base import Column, Files, Metric, Shown
from .networks import (
    missing_packages,
    missing_weights,
    read_weights,
    sha256,
    square,
    to_bytes,
    weights_file,
    weights_said,
)

URL = ("https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
       "weights-inception-2015-12-05-6726825d.pth")
SIDE = 256


@lru_cache(maxsize=1)
def network(path: Path) -> nn.Module:
    """uint8 (B, 3, H, W) -> (B, 2048)."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    # It would read the file by itself, and run a pickle's code. So it gets weights that are tensors already.
    clean = io.BytesIO()
    torch.save(read_weights(path, URL), clean)
    clean.seek(0)
    with torch.random.fork_rng(devices=[]):     # its first weights, random, are not to change what others draw
        try:
            return NoTrainInceptionV3("inception-v3-compat", ["2048"], clean)
        except RuntimeError as error:
            raise ValueError(f"{str(path)!r} holds other weights than Inception-v3's "
                             f"({' '.join(str(error).split())[:200]}): download {URL} again") from None


@torch.no_grad()
def features(files: Files, images: Iterable[Image.Image], device: str = "cpu") -> np.ndarray:
    """Pictures of any sizes -> float32 (B, 2048)."""
    pixels = torch.cat([to_bytes(square(image, SIDE)) for image in images])
    return network(weights_file(files, URL)).to(device)(pixels.to(device)).float().cpu().numpy()


def why_not(files: Files) -> str | None:
    return missing_packages("torchmetrics", "torchvision", "torch_fidelity") or missing_weights(files, URL)


class InceptionMetric(Metric):
    """What FID and CSFID share: the feature, computed once for both."""

    feature_name = "inception"

    def why_not(self) -> str | None:
        return why_not(self.files)

    def feature(self, shown: Shown) -> np.ndarray:
        return features(self.files, [shown.result])[0]

    def said(self) -> str:
        return ("Inception-v3's 2048 pooled features, torch-fidelity's network with "
                f"{weights_said(weights_file(self.files, URL), URL)}; shorter side scaled to {SIDE} pixels, centre "
                "crop, then scaled to 299 as torchmetrics does")


class FidMetric(InceptionMetric):
    """Of all results against all their inputs; nan of fewer than two. Takes seconds: a 2048 x 2048 matrix's root."""

    columns = (Column("fid", "FID", "lower", 1, of_set=True),)

    def about(self) -> str:
        return ("FID of all results against all inputs, biased by their number: compare equal numbers only; "
                f"{self.said()}")

    def of_set(self, items: Sequence[Item], features: np.ndarray, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        if len(items) < 2:
            return {"fid": math.nan}
        return {"fid": fid(features, np.stack([inputs[item.id] for item in items]))}


def fid(results: np.ndarray, real: np.ndarray) -> float:
    """Of features (N, D) and (M, D), by torchmetrics, whose network is one that passes features through."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    passing = nn.Identity()
    passing.num_features = results.shape[1]
    distance = FrechetInceptionDistance(feature=passing)
    for values, is_real in ((real, True), (results, False)):
        distance.update(torch.from_numpy(values.astype(np.float64)), real=is_real)
    return distance.compute().item()


class CsfidMetric(InceptionMetric):
    """An item's target class is its group. The classes' means are made by `class_means.py`, beside this file."""

    columns = (Column("csfid", "CSFID", "lower", 1, of_set=True),)

    def why_not(self) -> str | None:
        means = self.files.class_means
        if means is None or not means.is_file():
            missing = "it needs --class-means" if means is None else f"--class-means {str(means)!r} is no file"
            return (f"{missing}: make it with `python -m diffedit_min.bench.metrics.class_means --images "
                    "FOLDER_OF_CLASS_FOLDERS --out means.npz`")
        return super().why_not()

    def about(self) -> str:
        return ("mean over target classes of |mean feature of results - mean feature of the class|^2 (FlexIT's CSFID, "
                f"no FID), class means {sha256(self.files.class_means)[:8]}; {self.said()}")

    def of_set(self, items: Sequence[Item], features: np.ndarray, inputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"csfid": csfid([item.group for item in items], features, read_means(self.files.class_means))}


def csfid(classes: Sequence[str], features: np.ndarray, means: Mapping[str, np.ndarray]) -> float:
    """classes: of each of the features (N, D). means: class -> (D,). nan of no features."""
    if missing := sorted(set(classes) - set(means)):
        raise ValueError(f"--class-means lacks {len(missing)} target classes, {missing[0]!r} first; it has "
                         f"{', '.join(map(repr, list(means)[:3]))}: make it from folders named as the classes are")
    values, of_class = features.astype(np.float64), np.array(classes)
    distances = [((values[of_class == name].mean(axis=0) - means[name]) ** 2).sum() for name in set(classes)]
    return float(np.mean(distances)) if distances else math.nan


@lru_cache(maxsize=1)
def read_means(path: Path) -> dict[str, np.ndarray]:
    """Class -> (D,). ValueError, in one line, for another file."""
    try:
        with np.load(path, allow_pickle=False) as means:
            return {name: means[name] for name in means.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError):
        raise ValueError(f"--class-means {str(path)!r} is no .npz file of arrays: make it with `python -m "
                         "diffedit_min.bench.metrics.class_means`") from None
