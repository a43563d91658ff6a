"""DPM-Solver++ (2M), arXiv:2211.01095: order 2 with one call a step, as many as DDIM. It has no exact inverse.

D is the predicted clean image. With lambda = log(sqrt(abar) / sqrt(1 - abar)) as the time, a DDIM step would be exact
if D did not change during the step. Here D is extrapolated from the last two predictions to the middle of the step:

    D = D_from + (D_from - D_before) (lambda_to - lambda_from) / (2 (lambda_from - lambda_before))       (algorithm 2)
    x_to = step(x_from, the noise that D implies)                                                     DDIM's step itself

in both directions. `before` is the level that the last step came from. The first step has no D_before and is a DDIM
step; so is a step to or from a level without noise, where lambda is infinite. Order 2 needs levels whose distances in
lambda change smoothly: those at even distances in t give about 1.5, those of `schedule.even_in_log_snr` give 2. It also
needs the network to see the t of level_from while encoding.
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
    """Second order with one call a step, in both directions; the network sees the t of level_from."""

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
    """The states at the indices in `path`. Each remembers the level that its step came from, and D at that level."""
    yield state
    for index in path:
        x, level_from, level_to = state.latent, state.level, levels[index]
        eps = eps_fn(x, level_from.t)
        D = x0_from_eps(x, eps, level_from.abar)
        if state.memory and abs(state.memory[0] - index) == 2:      # the step before this one had the same direction
            before, D_before = state.memory
            eps = extrapolated(x, D, D_before, levels[before], level_from, level_to, eps)
        x = step(x, eps, level_from.abar, level_to.abar)
        state = State(index, level_to, x if blend is None else blend(x, index), memory=(state.index, D))
        yield state


def extrapolated(
    x: Tensor, D: Tensor, D_before: Tensor, level_before: Level, level_from: Level, level_to: Level, eps: Tensor
) -> Tensor:
    """The noise in x according to the extrapolated D; eps itself if one of the levels is without noise."""
    if 1.0 in (level_before.abar, level_from.abar, level_to.abar):
        return eps
    ahead = (log_snr(level_to) - log_snr(level_from)) / (2 * (log_snr(level_from) - log_snr(level_before)))
    return eps_from_x0(x, D + ahead * (D - D_before), level_from.abar)
