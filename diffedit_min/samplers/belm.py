"""O-BELM, arXiv:2410.07273: the two-step formula with an exact inverse whose local error is smallest.

In the ODE's variables, u = x / sqrt(abar) and tau (schedule.py), with h_i = tau_i - tau_{i-1} and r = h_i / h_{i+1}:

    u_{i-1} = r^2 u_{i+1} + (1 - r^2) u_i - h_i (1 + r) eps(x_i, t_i)

It is of second order; but encoding divides by r^2, which on Stable Diffusion's grid amplifies the first step 68-fold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.guidance import EpsFn
from ..core.options import Declared
from ..core.schedule import Level, tau, u_from_x, x_from_u
from ..core.state import Blend, State
from . import two_step


@dataclass(frozen=True)
class BELM(Declared):
    """Exact inversion of second order. 1 call a step; none for the first of a decoding."""

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


def down(z_above: Tensor, z: Tensor, eps: Tensor, below: Level, at: Level, above: Level) -> Tensor:
    """z_{i-1} from z_{i+1} and z_i."""
    h, r = steps_of(below, at, above)
    u_above, u = u_from_x(z_above, above.abar), u_from_x(z, at.abar)
    return x_from_u(r**2 * u_above + (1 - r**2) * u - h * (1 + r) * eps, below.abar)


def up(z_below: Tensor, z: Tensor, eps: Tensor, below: Level, at: Level, above: Level) -> Tensor:
    """`down`, solved for z_{i+1}."""
    h, r = steps_of(below, at, above)
    u_below, u = u_from_x(z_below, below.abar), u_from_x(z, at.abar)
    return x_from_u((u_below - (1 - r**2) * u + h * (1 + r) * eps) / r**2, above.abar)


def steps_of(below: Level, at: Level, above: Level) -> tuple[float, float]:
    """h_i and r = h_i / h_{i+1}."""
    h = tau(at.abar) - tau(below.abar)
    return h, h / (tau(above.abar) - tau(at.abar))


def check_spacing(levels: Sequence[Level]) -> None:
    """ValueError if two levels are equally noisy: r would be 0, or infinite."""
    for below, above in zip(levels, levels[1:], strict=False):
        if above.abar >= below.abar:
            raise ValueError(f"O-BELM needs rising noise, but t = {below.t} and t = {above.t} are equally noisy")
