"""EDICT, arXiv:2211.12446: two latents that step in turn, each with the noise predicted from the other, so that every
step can be undone exactly.

    decoding, x and y from level j+1 to j:      x~ = step(x, eps(y));    y~ = step(y, eps(x~))
    mixing keeps them together:                 x' = p x~ + (1 - p) y~;  y' = p y~ + (1 - p) x'

Encoding solves these four equations backwards; nothing is approximated. Which of the two goes first alternates with the
level's number. Mixing shrinks the gap between x and y by p^2 a step while decoding, so encoding widens it: with small p
or many steps the latents grow out of bounds.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from ..guidance import EpsFn
from ..schedule import Level
from . import Blend, State
from .ddim import step


def encode(eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level], p: float = 0.93) -> Iterator[State]:
    """E_r from x = y = x0: the states hold x, and y as their partner. 2 calls a step."""
    check_p(p)
    pair = x0, x0
    yield state_of(pair, 0, levels)
    for index in range(1, len(levels)):
        left, reached = levels[index - 1], levels[index]
        x, y = in_turn(pair, index)
        y = (y - (1 - p) * x) / p                                           # mixing undone
        x = (x - (1 - p) * y) / p
        y = step(y, eps_fn(x, reached.t), left.abar, reached.abar)          # the two steps undone
        x = step(x, eps_fn(y, reached.t), left.abar, reached.abar)
        pair = in_turn((x, y), index)
        yield state_of(pair, index, levels)


def decode(
    eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None, p: float = 0.93
) -> Iterator[State]:
    """D_r. A state without a partner starts with y = x. `blend` is told x as 0 and y as 1. 2 calls a step."""
    check_p(p)
    yield state
    pair = state.latent, state.partners[0][1] if state.partners else state.latent
    for index in range(state.index - 1, -1, -1):
        left, reached = levels[index + 1], levels[index]
        x, y = in_turn(pair, index + 1)
        x = step(x, eps_fn(y, left.t), left.abar, reached.abar)
        y = step(y, eps_fn(x, left.t), left.abar, reached.abar)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        pair = in_turn((x, y), index + 1)
        if blend is not None:
            pair = blend(pair[0], index, 0), blend(pair[1], index, 1)
        yield state_of(pair, index, levels)


def in_turn(pair: tuple[Tensor, Tensor], level: int) -> tuple[Tensor, Tensor]:
    """Who goes first when the step leaves this level (or, encoding, reaches it): by the level's parity, so that both
    directions agree, whatever the ratio. Swaps twice = not at all."""
    return pair if level % 2 == 0 else (pair[1], pair[0])


def state_of(pair: tuple[Tensor, Tensor], index: int, levels: Sequence[Level]) -> State:
    return State(index, levels[index], pair[0], partners=((index, pair[1]),))


def check_p(p: float) -> None:
    """ValueError unless 0 < p <= 1: at 0 mixing can't be undone."""
    if not 0 < p <= 1:
        raise ValueError(f"p must be above 0 and at most 1, not {p}")
