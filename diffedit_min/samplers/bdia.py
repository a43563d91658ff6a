"""BDIA, arXiv:2307.10829: the step up from z_i and the step down average out to one that can be undone exactly.

    z_{i-1} = step(z_i, to i-1) + gamma (z_{i+1} - step(z_i, to i+1))           eps(z_i, t_i) in both steps

gamma = 0 is DDIM's decoding, which has no such inverse. gamma below 0.9 loses the inverse to rounding in 50 steps,
because encoding divides by it each time.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..guidance import EpsFn
from ..schedule import Level
from . import Blend, State, two_step
from .ddim import step


def encode(eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level], gamma: float = 0.96) -> Iterator[State]:
    """E_r. 1 call a step; ValueError unless 0 < gamma <= 1."""
    check_gamma(gamma)
    if gamma == 0:
        raise ValueError("gamma = 0 is DDIM's decoding; an encoding that undoes it needs gamma above 0")

    def up(z_below: Tensor, z: Tensor, eps: Tensor, below: Level, at: Level, above: Level) -> Tensor:
        return step(z, eps, at.abar, above.abar) + (z_below - step(z, eps, at.abar, below.abar)) / gamma

    return two_step.encode(eps_fn, x0, levels, up)


def decode(
    eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None, gamma: float = 0.96
) -> Iterator[State]:
    """D_r. 1 call a step, none for the first; ValueError unless 0 <= gamma <= 1."""
    check_gamma(gamma)

    def down(z_above: Tensor, z: Tensor, eps: Tensor, below: Level, at: Level, above: Level) -> Tensor:
        return step(z, eps, at.abar, below.abar) + gamma * (z_above - step(z, eps, at.abar, above.abar))

    return two_step.decode(eps_fn, state, levels, blend, down)


def check_gamma(gamma: float) -> None:
    """ValueError unless 0 <= gamma <= 1."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, not {gamma}")
