"""BDIA, arXiv:2307.10829: the average of a step up and a step down from z_i, which gives an exactly invertible sampler.

    z_{i-1} = step(z_i, to i-1) + gamma (z_{i+1} - step(z_i, to i+1))           eps(z_i, t_i) in both steps

With gamma = 0 it is DDIM's decoding, which can't be inverted like this. Each encoding step divides by gamma: below 0.9,
the rounding error of 50 steps grows until decoding doesn't undo encoding any more.
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
    """Exact inversion by steps in both directions. 1 call a step; the first step of a decoding needs none."""

    gamma: float = option(0.96, "the part of the step up that is taken back; to encode, above 0", least=0, most=1)

    name, title, source = "bdia", "BDIA", "arXiv:2307.10829"
    equation = "z_{i−1} = step(z_i, to i − 1) + γ (z_{i+1} − step(z_i, to i + 1))"
    straight, exact, order = False, True, 1

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r. ValueError for gamma = 0."""
        if self.gamma == 0:
            raise ValueError("gamma = 0 is DDIM's decoding; an encoding that undoes it needs gamma above 0")

        def up(
            z_before: Tensor, z: Tensor, eps: Tensor, level_before: Level, level_from: Level, level_to: Level
        ) -> Tensor:
            taken_back = z_before - step(z, eps, level_from.abar, level_before.abar)
            return step(z, eps, level_from.abar, level_to.abar) + taken_back / self.gamma

        return two_step.encode(eps_fn, x0, levels, up)

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r."""
        def down(
            z_before: Tensor, z: Tensor, eps: Tensor, level_before: Level, level_from: Level, level_to: Level
        ) -> Tensor:
            taken_back = z_before - step(z, eps, level_from.abar, level_before.abar)
            return step(z, eps, level_from.abar, level_to.abar) + self.gamma * taken_back

        return two_step.decode(eps_fn, state, levels, blend, down)
