"""DPM-Solver++ (2M), arXiv:2211.01095: order 2 for DDIM's price, one call a step. It is no inverse.

In lambda = log(sqrt(abar) / sqrt(1 - abar)), the ODE is linear but for the prediction D of x0, and a DDIM step is exact
as long as D doesn't change on the way. Here D follows the line through the last two predictions, half a step ahead:

    D = D_from + (D_from - D_before) (lambda_to - lambda_from) / (2 (lambda_from - lambda_before))       (algorithm 2)
    x_to = step(x_from, the noise that D implies)                                                     DDIM's step itself

in either direction. The first step has no D_before and is DDIM's; so is one to or from a level without noise, where
lambda is infinite. Order 2 needs steps in lambda that change smoothly: the usual grid, even in t, has about 1.5
(`schedule.even_in_log_snr` is one that has 2), and while encoding the network has to see the t of the level left.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.ddim import step
from ..core.guidance import EpsFn
from ..core.options import Declared
from ..core.schedule import Level, eps_from_x0, log_snr, x0_from_eps
from ..core.state import Blend, State


@dataclass(frozen=True)
class DPMSolver(Declared):
    """Second order for one call a step, in either direction; the network sees the t of the level left."""

    name, title, source = "dpm_solver", "DPM-Solver++ (2M)", "arXiv:2211.01095"
    equation = "x̂_0 = D_{from} + (D_{from} − D_{before}) (λ_{to} − λ_{from}) / (2 (λ_{from} − λ_{before}))"
    straight, exact, order = True, False, 2

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r: from x0 at levels[0] up to levels[-1]."""
        return walk(eps_fn, State(0, levels[0], x0), levels, range(1, len(levels)))

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r: from `state` down to levels[0]; `blend` is applied to each new latent."""
        return walk(eps_fn, state, levels, range(state.index - 1, -1, -1), blend)


def walk(
    eps_fn: EpsFn, state: State, levels: Sequence[Level], path: Iterable[int], blend: Blend | None = None
) -> Iterator[State]:
    """Along the indices of `path`; each state remembers the level before it and what x0 was predicted from there."""
    yield state
    for index in path:
        x, level_from, level_to = state.latent, state.level, levels[index]
        eps = eps_fn(x, level_from.t)
        D = x0_from_eps(x, eps, level_from.abar)
        if state.memory and abs(state.memory[0] - index) == 2:      # it comes from the same direction
            before, D_before = state.memory
            eps = extrapolated(x, D, D_before, levels[before], level_from, level_to, eps)
        x = step(x, eps, level_from.abar, level_to.abar)
        state = State(index, level_to, x if blend is None else blend(x, index), memory=(state.index, D))
        yield state


def extrapolated(
    x: Tensor, D: Tensor, D_before: Tensor, before: Level, level_from: Level, level_to: Level, eps: Tensor
) -> Tensor:
    """The noise that the extrapolated prediction implies; eps itself where a level has none to measure by."""
    if 1.0 in (before.abar, level_from.abar, level_to.abar):
        return eps
    ahead = (log_snr(level_to) - log_snr(level_from)) / (2 * (log_snr(level_from) - log_snr(before)))
    return eps_from_x0(x, D + ahead * (D - D_before), level_from.abar)
