"""O-BELM, arXiv:2410.07273: of all two-step formulas with an exact inverse, the one with the smallest local error.

In the ODE's variables, u = x / sqrt(abar) and tau (schedule.py), with h_i = tau_i - tau_{i-1} and r = h_i / h_{i+1}:

    u_{i-1} = r^2 u_{i+1} + (1 - r^2) u_i - h_i (1 + r) eps(x_i, t_i)

It is of second order. But encoding divides by r^2, which makes errors larger: with Stable Diffusion's levels, those of
the first step 68 times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from ..core.guidance import EpsFn
from ..core.options import Declared
from ..core.schedule import Level, tau, u_from_x, x_from_u
from ..core.state import Blend, State
from . import two_step


@dataclass(frozen=True)
class BELM(Declared):
    """Exact inversion of second order. 1 call a step; the first step of a decoding needs none."""

    name, title, source = "belm", "O-BELM", "arXiv:2410.07273"
    equation = "u_{i−1} = r^2 u_{i+1} + (1 − r^2) u_i − h_i (1 + r) ε(x_i, t_i)"
    straight, exact, order = False, True, 2

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r. ValueError if two levels are equally noisy."""
        check_spacing(levels)
        return two_step.encode(eps_fn, x0, levels, up)

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r. ValueError if two levels are equally noisy."""
        check_spacing(levels)
        return two_step.decode(eps_fn, state, levels, blend, down)


def down(
    z_before: Tensor, z: Tensor, eps: Tensor, level_before: Level, level_from: Level, level_to: Level
) -> Tensor:
    """z_{i-1} from z_{i+1} and z_i: the formula itself."""
    h, r = step_and_ratio(level_to, level_from, level_before)
    u_before, u = u_from_x(z_before, level_before.abar), u_from_x(z, level_from.abar)
    return x_from_u(r**2 * u_before + (1 - r**2) * u - h * (1 + r) * eps, level_to.abar)


def up(z_before: Tensor, z: Tensor, eps: Tensor, level_before: Level, level_from: Level, level_to: Level) -> Tensor:
    """z_{i+1} from z_{i-1} and z_i: the formula solved for u_{i+1}."""
    h, r = step_and_ratio(level_before, level_from, level_to)
    u_before, u = u_from_x(z_before, level_before.abar), u_from_x(z, level_from.abar)
    return x_from_u((u_before - (1 - r**2) * u + h * (1 + r) * eps) / r**2, level_to.abar)


def step_and_ratio(lowest: Level, middle: Level, highest: Level) -> tuple[float, float]:
    """h_i and r = h_i / h_{i+1}, for the levels i-1, i and i+1."""
    h = tau(middle.abar) - tau(lowest.abar)
    return h, h / (tau(highest.abar) - tau(middle.abar))


def check_spacing(levels: Sequence[Level]) -> None:
    """Raise ValueError if two levels are equally noisy: r would be 0 or infinite."""
    for first, second in pairwise(levels):
        if second.abar >= first.abar:
            raise ValueError(f"O-BELM needs rising noise, but t = {first.t} and t = {second.t} are equally noisy")
