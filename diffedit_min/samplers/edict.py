"""EDICT, arXiv:2211.12446: two latents take steps in turn, each with the noise predicted from the other one, so that
every step can be undone exactly.

    decoding from level j to level j-1:     x~ = step(x, eps(y));    y~ = step(y, eps(x~))      x first, for even j
                                            y~ = step(y, eps(x));    x~ = step(x, eps(y~))      y first, for odd j
    mixing keeps x and y close:             x' = p x~ + (1 - p) y~;  y' = p y~ + (1 - p) x'     x first, always

Encoding solves these equations in the reverse order, without approximation. The result is x. The authors' code
(salesforce/EDICT) counts the steps from the noisiest level, and x goes first in the first one. For an even number of
steps k this is the same; for an odd one it is what x_first="odd" does. Here the level decides and not k: otherwise an
encoding wouldn't serve smaller ratios.

In decoding, mixing multiplies the difference between x and y by p^2 at each step; encoding divides it by p^2. So with a
small p or many steps the latents of an encoding become too large.
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

    p: float = option(0.93, "each latent's own part when the two are mixed; at 1 there is no mixing", above=0, most=1)
    x_first: str = option("even", "in decoding steps from which levels x goes first, even or odd ones; to do as the "
                          "authors' code does, as k is", choices=("even", "odd"))

    name, title, source = "edict", "EDICT", "arXiv:2211.12446"
    equation = "x̃ = step(x, ε(y)),  ỹ = step(y, ε(x̃)),  x′ = p x̃ + (1 − p) ỹ,  y′ = p ỹ + (1 − p) x′"
    straight, exact, order = False, True, 1

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r, from x = y = x0. Each state's latent is x and its partner is y."""
        p, pair = self.p, (x0, x0)
        yield state_of(pair, 0, levels)
        for index in range(1, len(levels)):
            level_from, level_to = levels[index - 1], levels[index]
            x, y = pair
            y = (y - (1 - p) * x) / p                                           # undo the mixing
            x = (x - (1 - p) * y) / p
            first, other = self.in_turn((x, y), index)                               # undo the two steps
            other = step(other, eps_fn(first, level_to.t), level_from.abar, level_to.abar)
            first = step(first, eps_fn(other, level_to.t), level_from.abar, level_to.abar)
            pair = self.in_turn((first, other), index)
            yield state_of(pair, index, levels)

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r. For a state without a partner, y = x at the start. `blend` gets both latents, as in `State.latents`."""
        yield state
        p, pair = self.p, (state.latent, state.partners[0][1] if state.partners else state.latent)
        for index in range(state.index - 1, -1, -1):
            level_from, level_to = levels[index + 1], levels[index]
            first, other = self.in_turn(pair, index + 1)
            first = step(first, eps_fn(other, level_from.t), level_from.abar, level_to.abar)
            other = step(other, eps_fn(first, level_from.t), level_from.abar, level_to.abar)
            x, y = self.in_turn((first, other), index + 1)
            x = p * x + (1 - p) * y
            pair = x, p * y + (1 - p) * x
            if blend is not None:
                pair = blend(torch.cat(pair, dim=1), index).chunk(2, dim=1)
            yield state_of(pair, index, levels)

    def in_turn(self, pair: Pair, index: int) -> Pair:
        """The pair in the order of a step: the latent that goes first, then the other. A second call restores the pair.

        index: that of the step's noisier level. It alone decides, so that encoding and decoding use the same order,
        also where decoding starts from a lower level than the encoding's last.
        """
        return pair if (index % 2 == 0) == (self.x_first == "even") else (pair[1], pair[0])


def state_of(pair: Pair, index: int, levels: Sequence[Level]) -> State:
    """The state at levels[index]: x, and y as its partner at the same level."""
    return State(index, levels[index], pair[0], partners=((index, pair[1]),))
