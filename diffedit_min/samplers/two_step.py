"""What the two-step samplers have in common: they make a latent from the last two, z_{i-1} from z_{i+1} and z_i.

Such a formula is linear in z_{i+1} and can be solved for it. This is its exact inverse, since both directions need the
same noise prediction, eps(z_i, t_i). The first encoding step, from x0 to x1, has only one latent to start from and is a
plain DDIM step. From then on each state holds two neighbouring latents. So decoding takes its first step without a
call, since the noisiest state of an encoding already holds the next latent. (With k = 1 decoding makes no call at all,
and the result doesn't depend on the query.)
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from ..core.ddim import step
from ..core.guidance import EpsFn
from ..core.schedule import Level
from ..core.state import Blend, State


class Formula(Protocol):
    """The latent at level_to, from the last two: z_before at level_before, then z at level_from with eps(z, t_from).

    The three levels are neighbours: encoding goes up through them, decoding down.
    """

    def __call__(
        self, z_before: Tensor, z: Tensor, eps: Tensor, level_before: Level, level_from: Level, level_to: Level
    ) -> Tensor: ...


def encode(eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level], up: Formula) -> Iterator[State]:
    """From x0 up to levels[-1]; each state's partner is the latent one level below. 1 call a step."""
    yield State(0, levels[0], x0)
    z_before, z = None, x0
    for index in range(1, len(levels)):
        level_from, level_to = levels[index - 1], levels[index]
        if z_before is None:
            z_to = step(z, eps_fn(z, level_to.t), level_from.abar, level_to.abar)
        else:
            z_to = up(z_before, z, eps_fn(z, level_from.t), levels[index - 2], level_from, level_to)
        z_before, z = z, z_to
        yield State(index, level_to, z, partners=((index - 1, z_before),))


def decode(
    eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None, down: Formula
) -> Iterator[State]:
    """From `state` down to levels[0]; each state's partner is the latent one level above.

    A state of an encoding holds the next latent already. A state without a partner starts with a plain DDIM step.
    `blend` is called once for each new latent, with the index of that latent's level.
    """
    yield state
    z_before, z, index = None, state.latent, state.index
    partner = dict(state.partners)
    if index and index - 1 in partner:                      # a state of an encoding, with the latent of the level below
        z_before, z, index = z, partner[index - 1], index - 1
        yield State(index, levels[index], z, partners=((index + 1, z_before),))
    elif index + 1 in partner:                              # a state of an earlier decoding, which goes on
        z_before = partner[index + 1]
    while index > 0:
        level_from, level_to = levels[index], levels[index - 1]
        eps = eps_fn(z, level_from.t)
        if z_before is None:
            z_to = step(z, eps, level_from.abar, level_to.abar)
        else:
            z_to = down(z_before, z, eps, levels[index + 1], level_from, level_to)
        index -= 1
        z_before, z = z, z_to if blend is None else blend(z_to, index)
        yield State(index, level_to, z, partners=((index + 1, z_before),))
