"""DiffEdit, arXiv:2210.11427: find where to edit, encode the picture, decode it under the query inside the mask.

    1  mask      M = 1 where the noise predictions under query and reference differ                       section 3.2
    2  encode    x_0 = picture's latent, x_1, ..., x_k = reverse DDIM, with the empty text, without guidance   E_r
    3  decode    y_k = x_k;   y_j = M D(y_{j+1}, query) + (1 - M) x_j   for j = k-1, ..., 0                    D_r

Both sides of the blend are at the same level j, the last one included, where x_0 is the picture's own latent: outside
the mask the result is what the VAE makes of the input, whatever the query.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..guidance import conditional, join
from ..mask import binarise, check_rule, difference_map, predictions, remove_extremes, rescale
from ..schedule import add_noise, check_ratio, standard_noise
from .base import Method, Outcome, Step, Task
from .coding import IntervalOptions, decode, encode


@dataclass(frozen=True)
class DiffEditOptions(IntervalOptions):
    """Defaults are the paper's where it names a value, and the usual rule (map > 1.5 x its mean) where it doesn't."""

    mask_noise_ratio: float = 0.5   # how noisy the latents of step 1 are, as a part of the training timeline
    mask_samples: int = 10          # n, noises averaged
    mask_threshold: float = 0.5     # of the rescaled map
    mask_norm: str = "l1"           # over channels: see mask.py for this and the following, which the paper leaves open
    mask_average: str = "maps"
    mask_clip: str = "mean"
    mask_clip_at: float = 3.0
    mask_rescale: str = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.mask_noise_ratio, "mask_noise_ratio")
        check_ratio(self.mask_threshold, "mask_threshold")
        if self.mask_samples < 1:
            raise ValueError(f"mask_samples must be at least 1, not {self.mask_samples}")
        check_rule(self.mask_norm, self.mask_average, self.mask_clip, self.mask_clip_at, self.mask_rescale)


def run(task: Task, options: DiffEditOptions) -> Generator[Step, None, Outcome]:
    """The algorithm: its three steps in order. 2n + k + 2k rows a picture, for n noises and k levels."""
    model = task.model
    levels = options.levels(model.schedule)

    # Step 1. A mask from the caller takes its place, or a map from an earlier edit a part of it.
    mask_map, trace = task.mask_map, {}
    if task.mask is not None:
        mask = task.mask
    else:
        if mask_map is None:
            mask_map, trace = find_map(task, options)
        mask = binarise(mask_map, options.mask_threshold)                   # (B, 1, h, w)
        yield Step("mask", 1, 1)
        if not mask.any():
            return Outcome(None, mask, mask_map, trace=trace)

    # Step 2. Every x_j is kept: the blend needs them all.
    x = yield from encode(task, options, levels)

    # Step 3.
    def blend(y: Tensor, j: int, which: int = 0) -> Tensor:
        """y_j inside the mask, x_j outside. (`where`, so that what is outside stays the same to the last bit.)"""
        return torch.where(mask, y, x[j].latents[which])

    decoded = yield from decode(task, options, x[-1], levels, blend)
    return Outcome(decoded[0].latent, mask, mask_map, x, decoded, trace)


def find_map(task: Task, options: DiffEditOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """Step 1 up to the threshold: the map in [0, 1] (B, h, w), and its intermediates if they are to be kept.

    Query and reference see the same noises. There is no guidance: it would multiply the difference, and the rescaling
    would divide it out again. Equal prompts need no prediction: their map is 0.
    """
    model, x0 = task.model, task.x0
    same = (task.query.tokens == task.reference.tokens).flatten(1).all(dim=1)           # (B,)
    if same.all():
        return torch.zeros(x0[:, 0].shape, device=x0.device), {}
    level, n = model.schedule.noised(options.mask_noise_ratio), options.mask_samples
    noises = torch.stack([standard_noise(x0, task.seeds, "mask", i) for i in range(n)])
    noised = add_noise(x0, noises, level.abar)                              # (n, B, C, h, w)
    both = join(task.query.repeat(n), task.reference.repeat(n))
    eps_query, eps_reference = predictions(conditional(model.eps, both, task.rows), noised, level.t)
    raw = difference_map(eps_query, eps_reference, options.mask_norm, options.mask_average)
    raw = torch.where(same[:, None, None], 0.0, raw)                        # (B, h, w)
    clipped = remove_extremes(raw, options.mask_clip, options.mask_clip_at, task.valid)
    mask_map = rescale(clipped, options.mask_rescale, task.valid)           # (B, h, w)
    if task.keep == "result":
        return mask_map, {}
    return mask_map, {"noised": noised, "eps_query": eps_query, "eps_reference": eps_reference,
                      "raw_map": raw[None], "clipped_map": clipped[None]}


# For a third of the rows; chosen on the embedded model's validation scenes (README, Speed). The k-th of few levels lies
# lower than the k-th of many, which the larger ratio makes up for.
FAST = {"steps": 14, "encoding_ratio": 0.9, "mask_samples": 4, "guidance_from": 0.5}

diffedit = Method("diffedit", run, DiffEditOptions, {"fast": FAST},
                  uses=frozenset({"reference", "mask", "mask_map", "encoded"}))
