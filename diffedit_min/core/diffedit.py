"""DiffEdit, arXiv:2210.11427: find where to edit, encode the picture, decode it under the query inside the mask.

    1  mask      M = 1 where the noise predictions under query and reference differ                       section 3.2
    2  encode    x_0 = picture's latent, x_1, ..., x_k = reverse DDIM, with the empty text, without guidance   E_r
    3  decode    y_k = x_k;   y_j = M D(y_{j+1}, query) + (1 - M) x_j   for j = k-1, ..., 0                    D_r

Both sides of the blend are at the same level j, also at j = 0, where x_0 is the picture's own latent. So the result
outside the mask is always the VAE's reconstruction of the input, whatever the query says.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .coding import IntervalOptions, decode, encode, eps_of_query
from .guidance import conditional, join
from .mask import (
    AVERAGES,
    CLIPS,
    NORMS,
    RESCALES,
    binarise,
    ceilings,
    check_clip,
    difference_map,
    predictions,
    remove_extremes,
    rescale,
)
from .options import option
from .reuse import earlier_maps, made_of_map
from .schedule import add_noise, standard_noise
from .task import Outcome, Step, Task


@dataclass(frozen=True)
class MapOptions(IntervalOptions):
    """How the map of step 1 is made. The defaults are the paper's, where it names a value. Otherwise they are those of
    public code: together with the threshold 0.5 they mean "map > 1.5 x its mean"."""

    mask_noise_ratio: float = option(0.5, "how noisy the latents of step 1 are, as a part of the training timeline",
                                     least=0, most=1, stage="map")
    mask_samples: int = option(10, "n, the noises that the map is averaged over: 2n U-Net rows", least=1,
                               most=1000, usual=(1, 20), stage="map")
    # What the paper leaves open:
    mask_norm: str = option("l1", "how the differences of the channels become one number", choices=NORMS, stage="map")
    mask_average: str = option("maps", "what is averaged over the noises: the norms (maps), or the differences before "
                               "the norm", choices=AVERAGES, stage="map")
    mask_clip: str = option("mean", "how extreme values are removed: above a multiple of the mean, above a quantile, "
                            "or not at all", choices=CLIPS, stage="map")
    mask_clip_at: float = option(3.0, "the multiple or the quantile for mask_clip", least=0, stage="map")
    mask_rescale: str = option("ceiling", "how the map is brought to [0, 1]: divided by the ceiling of mask_clip (if "
                               "that is none, by the maximum), divided by its own maximum (max), or from its minimum "
                               "to its maximum (minmax)", choices=RESCALES, stage="map")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_clip(self.mask_clip, self.mask_clip_at)


@dataclass(frozen=True)
class DiffEditOptions(MapOptions):
    """How the map of step 1 is made, and how it becomes a mask."""

    mask_threshold: float = option(0.5, "the picture is edited where the rescaled map is above it", least=0, most=1,
                                   stage="mask")


def run(task: Task, options: DiffEditOptions) -> Generator[Step, None, Outcome]:
    """The algorithm: its three steps in order. 2n + k + 2k rows a picture, for n noises and k steps."""
    levels = options.levels(task.model.schedule)

    # Step 1, unless the caller gives a mask.
    if task.mask is not None:
        mask, mask_map, trace = task.mask, None, {}
    else:
        mask_map, trace = find_map(task, options)
        mask = binarise(mask_map, options.mask_threshold)                   # (B, 1, h, w)
        yield Step("mask", 1, 1)
        if not mask.any():
            return Outcome(None, mask, mask_map, trace=trace)

    # Step 2. Every x_j is kept, since the blend needs them all.
    x = yield from encode(task, options, task.empty, levels)

    # Step 3.
    def blend(y: Tensor, j: int) -> Tensor:
        """y_j inside the mask, x_j outside. (With `where` and not with products: so x_j stays the same to the bit.)"""
        return torch.where(mask, y, x[j].latents)

    y = yield from decode(task, options, eps_of_query(task, options), x[-1], levels, blend)
    return Outcome(y[0].latent, mask, mask_map, x, y, trace)


def find_map(task: Task, options: MapOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """Step 1 without the threshold: the map in [0, 1] (B, h, w); and its intermediates with keep="trace", else none.

    The noises are the same under query and reference. Guidance isn't used: it would only multiply the difference, which
    the rescaling undoes. Equal prompts need no prediction, since their map is 0. An earlier edit's map is used if the
    same things would make it again; ValueError for one from the caller that something else has made.
    """
    model, x0, made = task.model, task.x0, made_of_map(task, options)
    if (earlier := earlier_maps(task.offers, made)) is not None:
        return earlier, {}
    same = (task.query.tokens == task.reference.tokens).flatten(1).all(dim=1)           # (B,)
    if same.all():
        mask_map = torch.zeros(x0[:, 0].shape, device=x0.device)
        mask_map.made = made
        return mask_map, {}
    level, n = model.schedule.noised(options.mask_noise_ratio), options.mask_samples
    noises = torch.stack([standard_noise(x0, task.seeds, "mask", i) for i in range(n)])
    noised = add_noise(x0, noises, level.abar)                              # (n, B, C, h, w)
    both = join(task.query.repeat(n), task.reference.repeat(n))
    eps_query, eps_reference = predictions(conditional(model.eps, both, task.rows, "mask"), noised, level.t)
    raw = difference_map(eps_query, eps_reference, options.mask_norm, options.mask_average)
    raw = torch.where(same[:, None, None], 0.0, raw)                        # (B, h, w)
    rule = options.mask_clip, options.mask_clip_at, task.valid
    clipped = remove_extremes(raw, *rule)
    mask_map = rescale(clipped, options.mask_rescale, task.valid, ceilings(raw, *rule))     # (B, h, w)
    mask_map.made = made
    if task.keep == "result":
        return mask_map, {}
    return mask_map, {"noised": noised, "eps_query": eps_query, "eps_reference": eps_reference,
                      "raw_map": raw[None], "clipped_map": clipped[None]}


def edit_inside(
    task: Task, options: MapOptions, mask: Tensor, mask_map: Tensor | None = None
) -> Generator[Step, None, Outcome]:
    """Steps 2 and 3, for variants that find the mask in their own way: bool (B, 1, h, w).

    mask_map (B, h, w): the map that the mask was made of, for the Edit. ValueError for a mask of another type or shape.
    """
    if mask.dtype != torch.bool or mask.shape != task.x0[:, :1].shape:
        raise ValueError(f"a mask must be bool, of the shape {tuple(task.x0[:, :1].shape)}, not {mask.dtype} of "
                         f"{tuple(mask.shape)}")
    if task.mask is None and not mask.any():
        return Outcome(None, mask, mask_map)
    outcome = yield from run(replace(task, mask=mask), options)
    return replace(outcome, mask_map=mask_map)
