"""What samplers have in common that make a latent out of the two before it: z_{i-1} from z_i and z_{i+1}.

Such a formula, linear in z_{i+1}, can be solved for z_{i+1}: that is its exact inverse, with the same noise prediction
eps(z_i, t_i). The first encoding step, x0 -> x1, has no second latent yet and is a plain DDIM step; from then on the
state is a pair of neighbours. So decoding gets its first latent for nothing and makes one call fewer than it takes
steps: at k = 1 nothing is left for it to decide.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from ..core.ddim import step
from ..core.guidance import EpsFn
from ..core.schedule import Level
from ..core.state import Blend, State


class Formula(Protocol):
    """One of the neighbours of z at `at`, given the other and eps(z, at.t)."""

    def __call__(self, other: Tensor, z: Tensor, eps: Tensor, below: Level, at: Level, above: Level) -> Tensor: ...


def encode(eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level], up: Formula) -> Iterator[State]:
    """From x0 up to levels[-1]; each state's partner is the latent one level below. 1 call a step."""
    yield State(0, levels[0], x0)
    below, z = x0, None
    for index in range(1, len(levels)):
        if z is None:
            above = step(x0, eps_fn(x0, levels[1].t), levels[0].abar, levels[1].abar)
        else:
            at = levels[index - 1]
            above = up(below, z, eps_fn(z, at.t), levels[index - 2], at, levels[index])
            below = z
        z = above
        yield State(index, levels[index], z, partners=((index - 1, below),))


def decode(
    eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None, down: Formula
) -> Iterator[State]:
    """From `state` down to levels[0]; each state's partner is the latent one level above.

    A state of an encoding brings the next latent along. One without a partner starts with a plain DDIM step. `blend` is
    applied once to each latent that is made, at its own level.
    """
    yield state
    above, z, index = None, state.latent, state.index
    partner = dict(state.partners)
    if index and index - 1 in partner:                      # from an encoding: the pair (z_{k-1}, z_k)
        above, z, index = z, partner[index - 1], index - 1
        yield State(index, levels[index], z, partners=((index + 1, above),))
    elif index + 1 in partner:                              # from a decoding that goes on
        above = partner[index + 1]
    while index > 0:
        at, below = levels[index], levels[index - 1]
        eps = eps_fn(z, at.t)
        if above is None:
            made = step(z, eps, at.abar, below.abar)
        else:
            made = down(above, z, eps, below, at, levels[index + 1])
        above, z, index = z, made if blend is None else blend(made, index - 1), index - 1
        yield State(index, below, z, partners=((index + 1, above),))
