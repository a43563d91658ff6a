"""The paper's comparison and ablations (section 4, figures 5 to 7 and the appendix), and what fewer U-Net rows cost.

Each is a list of variants, by the encoding ratios to try. Values not named here are the model's recommendations.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.coding import decode, eps_of_query
from ..core.diffedit import DiffEditOptions, find_map
from ..core.mask import binarise
from ..core.schedule import add_noise, standard_noise
from ..core.state import State
from ..core.task import Outcome, Step, Task
from ..methods import METHODS, Method
from .variants import Variant, grid

Panels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Preset:
    variants: Callable[[Sequence[float]], list[Variant]]    # of the encoding ratios
    panels: Panels = ()                                     # in place of the dataset's
    paired: bool = False                                    # the first variant is the others' baseline


def run_without_encoding(task: Task, options: DiffEditOptions) -> Generator[Step, None, Outcome]:
    """DiffEdit whose step 2 is SDEdit's: x_j is the input with one noise added, as much as level j has. 2n + 2k rows.

    Inside the mask it is SDEdit; outside the blend keeps the input all the same.
    """
    levels = options.levels(task.model.schedule)
    k = len(levels) - 1
    mask_map, _ = find_map(task, options)
    mask = binarise(mask_map, options.mask_threshold)                       # (B, 1, h, w)
    yield Step("mask", 1, 1)
    noise = standard_noise(task.x0, task.seeds, "noise")
    x = [task.x0, *(add_noise(task.x0, noise, level.abar) for level in levels[1:])]

    def blend(y: Tensor, j: int) -> Tensor:
        return torch.where(mask, y, x[j])

    decoded = yield from decode(task, options, eps_of_query(task, options), State(k, levels[k], x[k]), levels, blend)
    return Outcome(decoded[0].latent, mask, mask_map, decoded=decoded)


diffedit = METHODS["diffedit"]
without_encoding = Method("diffedit_without_encoding", run_without_encoding, based_on=diffedit,
                          uses=frozenset({"reference", "mask_map"}))


def comparison(ratios: Sequence[float]) -> list[Variant]:
    return grid(["diffedit", "sdedit", "encode_decode"], ratios)


def parts(ratios: Sequence[float]) -> list[Variant]:
    without = [Variant(without_encoding, {"encoding_ratio": ratio}, "diffedit without encoding") for ratio in ratios]
    names = {"encode-decode": "without mask (encode-decode)", "sdedit": "without either (sdedit)"}
    others = [replace(variant, curve=names.get(variant.name, "diffedit")) for variant in comparison(ratios)]
    return [*others[: len(ratios)], *without, *others[len(ratios) :]]


def threshold(ratios: Sequence[float]) -> list[Variant]:
    return [Variant(diffedit, {"encoding_ratio": ratio, "mask_threshold": at}, f"threshold {at}")
            for at in (0.25, 0.5, 0.75) for ratio in ratios]


def reference(ratios: Sequence[float]) -> list[Variant]:
    return [Variant(diffedit, {"encoding_ratio": ratio}, curve, told)
            for curve, told in (("reference: the caption", True), ("reference: empty", False)) for ratio in ratios]


def values_of(option: str, *values: float) -> Callable[[Sequence[float]], list[Variant]]:
    """DiffEdit at its recommended ratio, with some values of one option."""
    return lambda ratios: [Variant(diffedit, {option: value}) for value in values]


def by_steps(
    curve: str, steps: Sequence[int], ratio: float, method: Method = diffedit, **options: Any
) -> list[Variant]:
    """Points that cost all of their rows each; with 4 noises for the mask, if nothing else is said."""
    if method is diffedit:
        options = {"mask_samples": 4, **options}
    return [Variant(method, {"steps": N, "encoding_ratio": ratio, **options}, curve, alone=True) for N in steps]


def fast(ratios: Sequence[float]) -> list[Variant]:
    """The recommended settings, the preset, and other ways to need fewer rows; then what samplers' round trips lose."""
    solver = {"sampler": "dpm_solver", "grid": "lambda"}
    round_trips = [*by_steps("round trip, ddim", (10, 14, 20, 50), 0.8, METHODS["invert"]),
                   *by_steps("round trip, dpm_solver", (10, 14, 20, 50), 0.8, METHODS["invert"], **solver)]
    return [
        Variant(diffedit, {}, "recommended settings", alone=True),
        Variant(diffedit, {}, "preset fast", alone=True, preset="fast"),
        *by_steps("ddim, ratio 0.8", (10, 14, 20, 30), 0.8),
        *by_steps("ddim, ratio 0.9", (10, 14, 20), 0.9),
        *by_steps("dpm_solver, ratio 0.8", (10, 14, 20), 0.8, **solver),
        *by_steps("dpm_solver, usual grid, ratio 0.9", (10, 14, 20), 0.9, sampler="dpm_solver"),
        *by_steps("guidance 5 from 0.5, ratio 0.9", (10, 14, 20), 0.9, guidance_scale=5.0, guidance_from=0.5),
        *(Variant(diffedit, {"mask_samples": n}, "preset fast, n", alone=True, preset="fast") for n in (1, 2, 10)),
        *(replace(point, told=False) for point in round_trips),     # under the empty text, as DiffEdit encodes
    ]


MASKS: Panels = (("recall", "precision"), ("iou", "answer"))
ROWS: Panels = (("rows", "correct"), ("rows", "answer"), ("rows", "iou"), ("rows", "source"))

PRESETS: dict[str, Preset] = {
    "comparison": Preset(comparison),
    "parts": Preset(parts),
    "threshold": Preset(threshold),
    "reference": Preset(reference),
    "noise": Preset(values_of("mask_noise_ratio", 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), MASKS),
    "samples": Preset(values_of("mask_samples", 1, 2, 3, 5, 10, 20), MASKS),
    "guidance": Preset(values_of("guidance_scale", 1.0, 2.0, 3.0, 5.0, 7.5, 10.0)),
    "fast": Preset(fast, ROWS, paired=True),
}
