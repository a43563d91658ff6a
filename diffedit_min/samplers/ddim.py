"""DDIM without noise, the paper's sampler, both ways: Eq. (2) of arXiv:2210.11427, Eq. (12) of arXiv:2010.02502.

It is Euler's method on Eq. (3), du = eps d(tau), so it is of first order, and decoding undoes encoding only up to the
step size: the network is asked at x_from while encoding but at x_to while decoding.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from ..guidance import EpsFn
from ..schedule import Level, x0_from_eps
from . import Blend, State


def step(x: Tensor, eps: Tensor, abar_from: float, abar_to: float) -> Tensor:
    """Move a latent along the deterministic path, to less noise (decoding) or to more (encoding). Eq. (2):

        x_to = sqrt(abar_to) (x - sqrt(1 - abar_from) eps) / sqrt(abar_from) + sqrt(1 - abar_to) eps

    x, eps (B, C, h, w) -> (B, C, h, w).
    """
    return math.sqrt(abar_to) * x0_from_eps(x, eps, abar_from) + math.sqrt(1 - abar_to) * eps


def encode(eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level], time: str = "destination") -> Iterator[State]:
    """E_r: from x0 at levels[0] up to levels[-1], yielding every state on the way, x0 itself first.

    time: which t the network sees in a step. "destination", the level reached: the convention of public inversion
    code, which makes the step the first iterate of decoding's exact inverse. "source", the level left: literal Euler.
    """
    check_time(time)
    x = x0
    yield State(0, levels[0], x)
    for index, (left, reached) in enumerate(pairwise(levels), start=1):
        t = reached.t if time == "destination" else left.t
        x = step(x, eps_fn(x, t), left.abar, reached.abar)
        yield State(index, reached, x)


def check_time(time: str) -> None:
    """ValueError unless the word is known."""
    if time not in ("destination", "source"):
        raise ValueError(f"time {time!r} is not known; known are destination and source")


def decode(eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None) -> Iterator[State]:
    """D_r: from `state` down to levels[0], yielding every state on the way, the given one first.

    The network sees the t of the level left. `blend`, applied to each new latent, is section 3.2's mask-guided update.
    """
    yield state
    y = state.latent
    for index in range(state.index - 1, -1, -1):
        left, reached = levels[index + 1], levels[index]
        y = step(y, eps_fn(y, left.t), left.abar, reached.abar)
        if blend is not None:
            y = blend(y, index)
        yield State(index, reached, y)
