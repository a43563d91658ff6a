"""DPM-Solver++ (2M), arXiv:2211.01095: order 2 for DDIM's price, one call a step. It is no inverse.

In lambda = log(sqrt(abar) / sqrt(1 - abar)), the ODE is linear but for the prediction D of x0, and a DDIM step is exact
as long as D doesn't change on the way. Here D follows the line through the last two predictions, half a step ahead:

    D = D_from + (D_from - D_before) (lambda_to - lambda_from) / (2 (lambda_from - lambda_before))       (algorithm 2)
    x_to = step(x_from, the noise that D implies)                                                     DDIM's step itself

in either direction. The first step has no D_before and is DDIM's; so is one to or from a level without noise, where
lambda is infinite. Order 2 needs steps in lambda that change smoothly: the usual grid, even in t, has about 1.5
(`even_in_lambda` is one that has 2), and while encoding the network has to see the t of the level left.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ..guidance import EpsFn
from ..schedule import Level, Schedule, eps_from_x0, x0_from_eps
from . import Blend, State
from .ddim import step


def encode(eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
    """E_r: from x0 at levels[0] up to levels[-1]. 1 call a step; the network sees the t of the level left."""
    return walk(eps_fn, State(0, levels[0], x0), levels, range(1, len(levels)))


def decode(eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None) -> Iterator[State]:
    """D_r: from `state` down to levels[0]; `blend` is applied to each new latent. 1 call a step."""
    return walk(eps_fn, state, levels, range(state.index - 1, -1, -1), blend)


def walk(
    eps_fn: EpsFn, state: State, levels: Sequence[Level], path: Iterable[int], blend: Blend | None = None
) -> Iterator[State]:
    """Along the indices of `path`; each state remembers the level before it and what x0 was predicted from there."""
    yield state
    for index in path:
        x, left, reached = state.latent, state.level, levels[index]
        eps = eps_fn(x, left.t)
        D = x0_from_eps(x, eps, left.abar)
        if state.memory and abs(state.memory[0] - index) == 2:      # it comes from the same direction
            before, D_before = state.memory
            eps = extrapolated(x, D, D_before, levels[before], left, reached, eps)
        x = step(x, eps, left.abar, reached.abar)
        state = State(index, reached, x if blend is None else blend(x, index), memory=(state.index, D))
        yield state


def extrapolated(
    x: Tensor, D: Tensor, D_before: Tensor, before: Level, left: Level, reached: Level, eps: Tensor
) -> Tensor:
    """The noise that the extrapolated prediction implies; eps itself where a level has none to measure by."""
    if 1.0 in (before.abar, left.abar, reached.abar):
        return eps
    ahead = (log_snr(reached) - log_snr(left)) / (2 * (log_snr(left) - log_snr(before)))
    return eps_from_x0(x, D + ahead * (D - D_before), left.abar)


def log_snr(level: Level) -> float:
    """lambda = log(sqrt(abar) / sqrt(1 - abar)): half the log of the signal-to-noise ratio."""
    return math.log(level.abar / (1 - level.abar)) / 2


def even_in_lambda(schedule: Schedule, levels: Sequence[Level]) -> tuple[Level, ...]:
    """As many levels between the same two ends, evenly in lambda as far as the training times allow.

    Fewer where two fall on one time: near the clean end times are further apart in lambda.
    """
    first = levels[0] if levels[0].abar < 1 else schedule.at(0)
    wanted = torch.linspace(log_snr(first), log_snr(levels[-1]), len(levels), dtype=torch.float64)
    known = torch.tensor([log_snr(schedule.at(t)) for t in range(levels[-1].t + 1)], dtype=torch.float64)
    times = (known[:, None] - wanted).abs().argmin(dim=0).unique().tolist()     # rising
    return (levels[0], *(schedule.at(t) for t in times if t > 0))
