"""EDICT, arXiv:2211.12446: two latents that step in turn, each with the noise predicted from the other, so that every
step can be undone exactly.

    decoding, x and y from level j+1 to j:      x~ = step(x, eps(y));    y~ = step(y, eps(x~))
    mixing keeps them together:                 x' = p x~ + (1 - p) y~;  y' = p y~ + (1 - p) x'

Encoding solves these four equations backwards; nothing is approximated. Which of the two goes first alternates with the
level's number. Mixing shrinks the gap between x and y by p^2 a step while decoding, so encoding widens it: with small p
or many steps the latents grow out of bounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.ddim import step
from ..core.guidance import EpsFn
from ..core.options import Declared, option
from ..core.schedule import Level
from ..core.state import Blend, State

Pair = tuple[Tensor, Tensor]        # x and y, (B, C, h, w) each


@dataclass(frozen=True)
class EDICT(Declared):
    """Exact inversion by two latents. 2 calls a step."""

    p: float = option(0.93, "how little the two latents are mixed; at 0 mixing could not be undone", above=0, most=1)

    name, title, source = "edict", "EDICT", "arXiv:2211.12446"
    equation = "x̃ = step(x, ε(y)),  ỹ = step(y, ε(x̃)),  x′ = p x̃ + (1 − p) ỹ,  y′ = p ỹ + (1 − p) x′"
    straight, exact, order = False, True, 1

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r from x = y = x0: the states hold x, and y as their partner."""
        p, pair = self.p, (x0, x0)
        yield state_of(pair, 0, levels)
        for index in range(1, len(levels)):
            level_from, level_to = levels[index - 1], levels[index]
            x, y = in_turn(pair, index)
            y = (y - (1 - p) * x) / p                                           # mixing undone
            x = (x - (1 - p) * y) / p
            y = step(y, eps_fn(x, level_to.t), level_from.abar, level_to.abar)  # the two steps undone
            x = step(x, eps_fn(y, level_to.t), level_from.abar, level_to.abar)
            pair = in_turn((x, y), index)
            yield state_of(pair, index, levels)

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r. A state without a partner starts with y = x. `blend` is given both latents as `State.latents` has them.
        """
        yield state
        p, pair = self.p, (state.latent, state.partners[0][1] if state.partners else state.latent)
        for index in range(state.index - 1, -1, -1):
            level_from, level_to = levels[index + 1], levels[index]
            x, y = in_turn(pair, index + 1)
            x = step(x, eps_fn(y, level_from.t), level_from.abar, level_to.abar)
            y = step(y, eps_fn(x, level_from.t), level_from.abar, level_to.abar)
            x = p * x + (1 - p) * y
            y = p * y + (1 - p) * x
            pair = in_turn((x, y), index + 1)
            if blend is not None:
                pair = blend(torch.cat(pair, dim=1), index).chunk(2, dim=1)
            yield state_of(pair, index, levels)


def in_turn(pair: Pair, level: int) -> Pair:
    """The latent that goes first, then the other: by the parity of the noisier level's number.

    So both directions agree, whatever the ratio. Applied twice it gives the pair back.
    """
    return pair if level % 2 == 0 else (pair[1], pair[0])


def state_of(pair: Pair, index: int, levels: Sequence[Level]) -> State:
    return State(index, levels[index], pair[0], partners=((index, pair[1]),))
