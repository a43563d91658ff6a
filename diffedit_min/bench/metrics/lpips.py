"""LPIPS, arXiv:1801.03924: how differently a network sees two pictures.

    sum over layers l of the mean over positions of  w_l . (f_l(a) - f_l(b))^2

with f_l a layer's features, scaled to length 1 at each position, and w_l >= 0 learned from people's judgements. The
network and w are torchmetrics'. FlexIT and DiffEdit report it x 100, with AlexNet, of the middle square at 256 pixels.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from .base import Column, Metric, Shown
from .networks import missing_packages, missing_weights, read_weights, square, to_bytes, weights_file, weights_said

# The networks as torchvision publishes them.
BACKBONES = {"alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
             "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"}
SIDE = 256


@lru_cache(maxsize=2)
def network(path: Path, net: str) -> nn.Module:
    """torchmetrics' network with the backbone of this file. Asked for a trained one, torchmetrics would download it."""
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    published = read_weights(path, BACKBONES[net])
    with torch.random.fork_rng(devices=[]):     # its random weights are not to change what others draw
        lpips = _NoTrainLpips(net=net, pnet_rand=True)
    # Layers keep their number: "slice2.3.weight", or "slices.1.3.weight", is torchvision's "features.3.weight".
    names = {name: re.sub(r"^slices?\.?\d+\.", "features.", name) for name in lpips.net.state_dict()}
    try:
        lpips.net.load_state_dict({name: published[name_there] for name, name_there in names.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r} holds other weights than LPIPS's {net} network needs "
                         f"({' '.join(str(error).split())}): download {BACKBONES[net]} again") from None
    return lpips.requires_grad_(False)


class LpipsMetric(Metric):
    """Of the result against the input, and against the true answer where there is one.

    Pictures smaller than 256 pixels are enlarged, as FlexIT's evaluation would.
    """

    columns = (Column("lpips", "LPIPS x 100", "lower"), Column("lpips_answer", "LPIPS to the answer x 100", "lower"))
    net = "alex"

    def why_not(self) -> str | None:
        return missing_packages("torchmetrics", "torchvision") or missing_weights(self.files, BACKBONES[self.net])

    def said(self) -> str:
        path, url = weights_file(self.files, BACKBONES[self.net]), BACKBONES[self.net]
        return f"LPIPS with the {self.net} network of torchmetrics and {weights_said(path, url)}"

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> float:
        """LPIPS of two pictures (1, 3, H, W) in [0, 1]."""
        return network(weights_file(self.files, BACKBONES[self.net]), self.net)(2 * a - 1, 2 * b - 1).item()

    def about(self) -> str:
        return (f"100 x {self.said()}, of result and input (or true answer); shorter side scaled to {SIDE} pixels, up "
                "or down, centre crop")

    def measure(self, shown: Shown) -> dict[str, float]:
        others = {"lpips": shown.input, "lpips_answer": shown.answer}
        result = to_bytes(square(shown.result, SIDE)) / 255
        return {name: math.nan if other is None else
                100 * self.distance(result, to_bytes(square(other, SIDE)) / 255)
                for name, other in others.items()}
