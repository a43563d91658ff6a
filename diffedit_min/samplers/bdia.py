"""BDIA, arXiv:2307.10829: the step up from z_i and the step down average out to one that can be undone exactly.

    z_{i-1} = step(z_i, to i-1) + gamma (z_{i+1} - step(z_i, to i+1))           eps(z_i, t_i) in both steps

gamma = 0 is DDIM's decoding, which has no such inverse. gamma below 0.9 loses the inverse to rounding in 50 steps,
because encoding divides by it each time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.ddim import step
from ..core.guidance import EpsFn
from ..core.options import Declared, option
from ..core.schedule import Level
from ..core.state import Blend, State
from . import two_step


@dataclass(frozen=True)
class BDIA(Declared):
    """Exact inversion by a step in both directions. 1 call a step; none for the first of a decoding."""

    gamma: float = option(0.96, "how much of the step up is taken back; at 0 nothing could be encoded", least=0, most=1)

    name, title, source = "bdia", "BDIA", "arXiv:2307.10829"
    equation = "z_{i−1} = step(z_i, to i − 1) + γ (z_{i+1} − step(z_i, to i + 1))"
    straight, exact, order = False, True, 1

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r. ValueError for gamma = 0."""
        if self.gamma == 0:
            raise ValueError("gamma = 0 is DDIM's decoding; an encoding that undoes it needs gamma above 0")

        def up(z_below: Tensor, z: Tensor, eps: Tensor, below: Level, at: Level, above: Level) -> Tensor:
            return step(z, eps, at.abar, above.abar) + (z_below - step(z, eps, at.abar, below.abar)) / self.gamma

        return two_step.encode(eps_fn, x0, levels, up)

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r."""
        def down(z_above: Tensor, z: Tensor, eps: Tensor, below: Level, at: Level, above: Level) -> Tensor:
            return step(z, eps, at.abar, below.abar) + self.gamma * (z_above - step(z, eps, at.abar, above.abar))

        return two_step.decode(eps_fn, state, levels, blend, down)
