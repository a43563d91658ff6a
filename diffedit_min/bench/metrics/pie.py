"""PIE-Bench's own metrics, arXiv:2310.01506, with the quirks of its published evaluation, to compare with its tables.

    structure       1000 x structure distance (arXiv:2201.00424): mean squared difference of two pictures' matrices of
                    cosines between the keys of layer 11 of DINO ViT-B/8
    psnr_unedited, mse_unedited (x 10^4), ssim_unedited (x 100), lpips_unedited (x 1000, SqueezeNet), each of input
                    and result
    clip_whole, clip_edited     CLIPScore (see clip.py) of the result, whole and in the mask

Quirks: of the "unedited" part, both pictures are multiplied by 1 - mask and all pixels count, so that the edited area
counts as perfect. Of the edited part, the rest is black. DINO sees pixels of 0..255, normalised as if they were in
[0, 1], resized without antialiasing (torchvision's default for tensors when the tables were made, not today's). PSNR
is averaged in dB. The mask is white on the picture's border too, which is the dataset's part. nan where a mask is full
or empty.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from . import clip
from .base import Column, Metric, Shown
from .lpips import LpipsMetric
from .networks import VIT, missing_model, model_folder, model_said, to_bytes, without_bars
from .pictures import white

LAYER = 11
SIDE, LONGEST = 224, 480
MEAN, STD = ([[[v]] for v in values] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))     # ImageNet's


def unedited(shown: Shown) -> tuple[Tensor, Tensor] | None:
    """Result and input, (1, 3, H, W) in [0, 1], black where the mask is white; None if that leaves nothing."""
    if shown.mask is None or white(shown.mask).all():
        return None
    keep = torch.from_numpy(~white(shown.mask)).float()
    return to_bytes(shown.result) / 255 * keep, to_bytes(shown.input) / 255 * keep


class PiePicturesMetric(Metric):
    columns = (Column("psnr_unedited", "PSNR unedited, dB", "higher"),
               Column("mse_unedited", "MSE unedited x 10^4", "lower"),
               Column("ssim_unedited", "SSIM unedited x 100", "higher"))

    def about(self) -> str:
        return ("PSNR (mean of dB), mean squared error and SSIM (Gaussian window, sigma 1.5), torchmetrics', on [0, 1];"
                " result and input black in the mask, all pixels counted")

    def measure(self, shown: Shown) -> dict[str, float]:
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        pair = unedited(shown)
        if pair is None:
            return {column.name: math.nan for column in self.columns}
        return {"psnr_unedited": peak_signal_noise_ratio(*pair, data_range=1.0).item(),
                "mse_unedited": 1e4 * F.mse_loss(*pair).item(),
                "ssim_unedited": 100 * structural_similarity_index_measure(*pair, data_range=1.0).item()}


class PieLpipsMetric(LpipsMetric):
    columns = (Column("lpips_unedited", "LPIPS unedited x 1000", "lower"),)
    net = "squeeze"

    def about(self) -> str:
        return f"1000 x {self.said()}; result and input at their own size, black in the mask"

    def measure(self, shown: Shown) -> dict[str, float]:
        pair = unedited(shown)
        return {"lpips_unedited": 1000 * self.distance(*pair) if pair else math.nan}


class PieClipMetric(clip.ClipScoreMetric):
    columns = (Column("clip_whole", "CLIPScore whole", "higher"), Column("clip_edited", "CLIPScore edited", "higher"))

    def about(self) -> str:
        return ("max(100 cos(result, query), 0) of CLIP's vectors, of the whole result and of the result black outside "
                f"the mask; {clip.said(self.files)}")

    def measure(self, shown: Shown) -> dict[str, float]:
        query, edited = shown.item.query, math.nan
        if shown.mask is not None and (mask := white(shown.mask)).any():
            only = Image.fromarray(np.asarray(shown.result) * mask[:, :, None])
            edited = clip.score(self.files, only, query)
        return {"clip_whole": clip.score(self.files, shown.result, query), "clip_edited": edited}


class PieStructureMetric(Metric):
    columns = (Column("structure", "structure distance x 1000", "lower"),)

    def why_not(self) -> str | None:
        return missing_model("--dino", self.files.dino, VIT)

    def about(self) -> str:
        return (f"1000 x mean squared difference of result's and input's cosines between keys of layer {LAYER}; "
                f"{model_said(self.files.dino)}, shorter side scaled to {SIDE} pixels "
                f"(longer at most {LONGEST}), 0..255 normalised as if in [0, 1]")

    def measure(self, shown: Shown) -> dict[str, float]:
        vit = dino(model_folder(self.files.dino))
        a, b = (self_similarity(vit, dino_pixels(image)) for image in (shown.result, shown.input))
        return {"structure": 1000 * F.mse_loss(a, b).item()}


@lru_cache(maxsize=1)
def dino(folder: Path) -> nn.Module:
    from transformers import ViTModel

    try:
        with without_bars():
            vit, found = ViTModel.from_pretrained(folder, add_pooling_layer=False, use_safetensors=True,
                                                  output_loading_info=True, local_files_only=True)
        if found["missing_keys"]:       # the library makes them up: random weights
            raise ValueError(f"{len(found['missing_keys'])} weights are missing")
        if vit.config.num_hidden_layers <= LAYER:
            raise ValueError(f"it has {vit.config.num_hidden_layers} layers, and layer {LAYER} is needed")
    except Exception as error:          # the library raises errors of many kinds, in several lines
        raise ValueError(f"--dino {str(folder)!r} can't be read as a ViT model with weights in safetensors: "
                         f"{' '.join(str(error).split())}") from None
    return vit.eval().requires_grad_(False)


def dino_pixels(image: Image.Image) -> Tensor:
    """A picture as that evaluation gives it to DINO: (1, 3, h, w)."""
    short, long = SIDE, SIDE * max(image.size) // min(image.size)
    if long > LONGEST:
        short, long = LONGEST * short // long, LONGEST
    size = (long, short) if image.height > image.width else (short, long)
    pixels = F.interpolate(to_bytes(image).float(), size, mode="bilinear", align_corners=False)
    return (pixels - torch.tensor(MEAN)) / torch.tensor(STD)


@torch.no_grad()
def self_similarity(vit: nn.Module, pixels: Tensor) -> Tensor:
    """Cosines between the keys, all heads together, of all tokens: (1, 3, h, w) -> (tokens, tokens)."""
    # The keys' projections by their name, in versions of the transformers library.
    projections = [module for name, module in vit.named_modules() if name.endswith((".k_proj", ".key"))]
    kept = []
    hook = projections[LAYER].register_forward_hook(lambda _module, _inputs, keys: kept.append(keys[0]))
    try:
        vit(pixels, interpolate_pos_encoding=True)
    finally:
        hook.remove()
    keys = F.normalize(kept[0], dim=-1)
    return keys @ keys.T
