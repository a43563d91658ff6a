"""DDIM whose encoding is the exact inverse of its decoding, found by fixed-point iteration, arXiv:2309.04907.

A decoding step asks the network about x_from, the noisier latent. So an encoding step that undoes it has to ask about
x_to, which is not known yet:

    x_to = step(x_from, eps(x_to, t_to))

This equation is solved by iteration, from the guess x_to = x_from. Each iteration multiplies the error by (Lipschitz
constant of eps in x) times (coefficient of eps in the step). If this product is above 1, the error grows.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ..core.ddim import DDIM, step
from ..core.guidance import EpsFn
from ..core.options import Declared, option
from ..core.schedule import Level
from ..core.state import Blend, State

STILL_MOVES = 0.01      # if the last iteration changed the latent by this part or more, it has not converged


@dataclass(frozen=True)
class FixedPoint(Declared):
    """DDIM whose encoding steps are solved by iteration; with 0 iterations it is plain DDIM."""

    iterations: int = option(20, "the number of iterations in each encoding step", least=0, most=1000)

    name, title, source = "fixed_point", "Fixed-point DDIM", "arXiv:2309.04907"
    equation = "x_{to} = step(x_{from}, ε(x_{to}, t_{to})), solved for x_{to} by iteration"
    straight, order = True, 1

    @property
    def exact(self) -> bool:
        """For smooth networks, about 10 iterations solve a step up to rounding."""
        return self.iterations >= 10

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r. 1 + iterations calls a step. Warns if a step doesn't converge."""
        x = x0
        yield State(0, levels[0], x)
        for index, (level_from, level_to) in enumerate(pairwise(levels), start=1):
            guess, change = x, 0.0
            for _ in range(1 + self.iterations):
                solved = step(x, eps_fn(guess, level_to.t), level_from.abar, level_to.abar)
                change = ((solved - guess).norm() / solved.norm()).item()
                guess = solved
            if self.iterations and not change < STILL_MOVES:     # written so that NaN warns too
                warnings.warn(f"the fixed-point iteration does not converge at t = {level_to.t}: the last one still "
                              f"moved the latent by {change:.0%}; take more steps, or another sampler", stacklevel=2)
            x = guess
            yield State(index, level_to, x)

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r, the same as DDIM's."""
        return DDIM().decode(eps_fn, state, levels, blend)
