"""DDIM without noise, the paper's sampler, both ways: Eq. (2) of arXiv:2210.11427, Eq. (12) of arXiv:2010.02502.

It is Euler's method on Eq. (3), du = eps d(tau), hence of first order. Decoding undoes encoding only approximately: for
the same step, encoding asks the network about the cleaner latent and decoding about the noisier one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from .guidance import EpsFn
from .options import Declared, option
from .schedule import Level, x0_from_eps
from .state import Blend, State


def step(x: Tensor, eps: Tensor, abar_from: float, abar_to: float) -> Tensor:
    """Move a latent along the deterministic path, to less noise (decoding) or to more (encoding). Eq. (2):

        x_to = sqrt(abar_to) (x - sqrt(1 - abar_from) eps) / sqrt(abar_from) + sqrt(1 - abar_to) eps

    x, eps (B, C, h, w) -> (B, C, h, w).
    """
    return math.sqrt(abar_to) * x0_from_eps(x, eps, abar_from) + math.sqrt(1 - abar_to) * eps


@dataclass(frozen=True)
class DDIM(Declared):
    """The sampler of the paper."""

    time: str = option("destination", "the t that the network sees while encoding: that of the level that the step "
                       "goes to (destination) or comes from (source)", choices=("destination", "source"))

    name, title, source = "ddim", "DDIM", "arXiv:2010.02502"
    equation = "x_{to} = √ᾱ_{to} (x_{from} − √(1 − ᾱ_{from}) ε) / √ᾱ_{from} + √(1 − ᾱ_{to}) ε"
    straight, exact, order = True, False, 1

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r: from x0 at levels[0] up to levels[-1]. 1 call a step.

        time="source" is exactly Euler's method. time="destination" is the convention of public inversion code: then the
        step is the first iteration of the exact inverse of decoding (samplers/fixed_point.py).
        """
        x = x0
        yield State(0, levels[0], x)
        for index, (level_from, level_to) in enumerate(pairwise(levels), start=1):
            t = level_to.t if self.time == "destination" else level_from.t
            x = step(x, eps_fn(x, t), level_from.abar, level_to.abar)
            yield State(index, level_to, x)

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r: from `state` down to levels[0]. 1 call a step; the network sees the t of level_from.

        `blend` is applied to each new latent: it is the mask-guided update of section 3.2.
        """
        yield state
        y = state.latent
        for index in range(state.index - 1, -1, -1):
            level_from, level_to = levels[index + 1], levels[index]
            y = step(y, eps_fn(y, level_from.t), level_from.abar, level_to.abar)
            if blend is not None:
                y = blend(y, index)
            yield State(index, level_to, y)
