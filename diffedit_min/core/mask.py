"""Step 1 of DiffEdit: where would the query change the picture? Section 3.2 of arXiv:2210.11427.

    noise the latent n times -> predict the noise under the query and under the reference -> average the differences
    -> remove extreme values -> rescale to [0, 1] -> threshold

The paper doesn't say how the differences of channels become one number, what counts as extreme, or how it rescales.
Each of these is a named option. All statistics are taken within one picture, never across the batch.
Shapes: B pictures, n noises, C channels, h x w cells; maps are (B, h, w).
"""

import torch
from torch import Tensor

from .guidance import EpsFn

# A map whose largest value is below this part of the predictions' own size is only rounding error, and becomes 0:
# otherwise min-max rescaling would make half a mask of it. (In float32, rows of different batches agree to 1e-6.)
FLOOR = 1e-4

NORMS = ("l1", "l2")
AVERAGES = ("maps", "differences")
CLIPS = ("mean", "quantile", "none")
RESCALES = ("minmax", "max")


def predictions(eps_fn: EpsFn, noised: Tensor, t: int) -> Tensor:
    """eps(x_t, t) for n noised copies of each latent, as one batch: (n, B, C, h, w) -> (m, n, B, C, h, w).

    m: the number of prompts for which the eps_fn predicts the noise in each copy.
    """
    return eps_fn(noised.flatten(0, 1), t).unflatten(0, (-1, *noised.shape[:2]))


def difference_map(eps_query: Tensor, eps_reference: Tensor, norm: str = "l1", average: str = "maps") -> Tensor:
    """The raw map: how far the two predictions lie apart at each cell, averaged over the noises.

    eps_query, eps_reference (n, B, C, h, w) -> (B, h, w), in units of the noise's standard deviation.
    norm: "l1", the mean over channels of |difference|, or "l2", the root of the mean square.
    average: "maps", the norm first, then the mean over noises; or "differences", the mean over noises first, in which
    the random parts of the differences cancel.
    The map is 0 if a picture's differences are nothing but rounding error (`FLOOR`). Raises ValueError for predictions
    that are not finite.
    """
    check(norm, NORMS, "mask_norm")
    check(average, AVERAGES, "mask_average")
    difference = (eps_query - eps_reference).float()
    if average == "differences":
        difference = difference.mean(dim=0, keepdim=True)                       # (1, B, C, h, w)
    per_cell = difference.abs().mean(dim=2) if norm == "l1" else difference.square().mean(dim=2).sqrt()
    raw = per_cell.mean(dim=0)                                                  # (B, h, w)
    if not raw.isfinite().all():        # NaN is above no floor: the map would be 0, as if there were nothing to change
        raise ValueError("the noise predictions hold numbers that are not finite: what predicts the noise is wrong")
    size = eps_reference.float().square().mean(dim=(0, 2, 3, 4)).sqrt()         # (B,)
    significant = raw.amax(dim=(1, 2)) > FLOOR * size
    return torch.where(significant[:, None, None], raw, 0.0)


def remove_extremes(raw: Tensor, clip: str = "mean", at: float = 3.0, valid: Tensor | None = None) -> Tensor:
    """Replace values above a ceiling by the ceiling: (B, h, w) -> (B, h, w).

    clip: where the ceiling is: "mean", `at` times the picture's mean; "quantile", its `at`-quantile (0..1); "none".
    valid (B, h, w): False for padding, which doesn't count. The paper removes "extreme values in noise predictions";
    here they are removed in the *difference*, so that the mask doesn't depend on the guidance scale.
    """
    check_clip(clip, at)
    if clip == "none":
        return raw
    statistic = (lambda m: at * m.mean()) if clip == "mean" else (lambda m: torch.quantile(m, at))
    return torch.stack([m.clamp(max=statistic(c)) for m, c in zip(raw, cells(raw, valid), strict=True)])


def rescale(clipped: Tensor, how: str = "minmax", valid: Tensor | None = None) -> Tensor:
    """To [0, 1], per picture: "minmax", (m - min) / (max - min), or "max", m / max; 0 if the divisor is 0.

    (B, h, w) -> (B, h, w). A cell of padding (not `valid`) takes the value of the nearest cell of the picture.
    """
    check(how, RESCALES, "mask_rescale")
    rescaled = []
    for m, counted in zip(clipped, cells(clipped, valid), strict=True):
        low = counted.min() if how == "minmax" else torch.zeros_like(counted[0])
        spread = counted.max() - low
        rescaled.append(((m - low) / spread).clamp(0, 1) if spread > 0 else torch.zeros_like(m))
    result = torch.stack(rescaled)
    if valid is None:
        return result
    # Padding is on the right and at the bottom, so in rows and columns the valid cells come first.
    return torch.stack([m[nearest(v.any(dim=1))][:, nearest(v.any(dim=0))] for m, v in zip(result, valid, strict=True)])


def nearest(valid: Tensor) -> Tensor:
    """The index of the nearest valid cell, for each cell of a line that starts with valid ones: bool (n,) -> (n,)."""
    return torch.arange(len(valid), device=valid.device).clamp(max=int(valid.sum()) - 1)


def binarise(mask_map: Tensor, threshold: float = 0.5) -> Tensor:
    """The mask M: True where the rescaled map is above the threshold, hence edited. (B, h, w) -> bool (B, 1, h, w).

    Raises ValueError for a threshold outside [0, 1], and for a map with NaN, which is above no threshold.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"mask_threshold must be from 0 to 1, not {threshold}")
    if mask_map.isnan().any():
        raise ValueError("the map of differences holds NaN: what made it is wrong")
    return (mask_map > threshold).unsqueeze(1)


def cells(maps: Tensor, valid: Tensor | None) -> list[Tensor]:
    """Each picture's valid values as one flat tensor: (B, h, w) -> B tensors of at most h w numbers."""
    return [m.flatten() if valid is None else m[v] for m, v in zip(maps, maps if valid is None else valid, strict=True)]


def check_clip(clip: str, at: float) -> None:
    """Raise ValueError unless `clip` is a rule of `remove_extremes` and `at` is in its range."""
    check(clip, CLIPS, "mask_clip")
    if clip == "quantile" and not 0 <= at <= 1:
        raise ValueError(f"mask_clip_at must be from 0 to 1 for the quantile, not {at}")
    if clip == "mean" and at <= 0:
        raise ValueError(f"mask_clip_at must be above 0, not {at}")


def check(value: str, known: tuple[str, ...], name: str) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is not known; known are {', '.join(known)}")
