"""DDIM with an encoding that is solved for, so that decoding undoes it: fixed-point iteration, arXiv:2309.04907.

A decoding step asks the network at the latent that it leaves. Its exact inverse asks at the latent that it *reaches*,
which is not known yet:

    x_to = step(x_from, eps(x_to, t_to))

so the equation is iterated, from x_to = x_from. Each iteration shrinks the error by (Lipschitz constant of eps in x) x
(coefficient of eps in the step); above 1 it grows instead.
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from ..guidance import EpsFn
from ..schedule import Level
from . import State, ddim
from .ddim import decode as decode  # decoding is DDIM's

STILL_MOVES = 0.01      # a last change of this part of the latent is no convergence


def encode(eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level], iterations: int = 20) -> Iterator[State]:
    """E_r with every step solved by `iterations` iterations; without any it is DDIM's, told the level reached.

    1 + iterations calls a step. Warns of steps that don't converge. ValueError for fewer than 0 iterations.
    """
    check_iterations(iterations)
    x = x0
    yield State(0, levels[0], x)
    for index, (left, reached) in enumerate(pairwise(levels), start=1):
        guess, change = x, 0.0
        for _ in range(1 + iterations):
            solved = ddim.step(x, eps_fn(guess, reached.t), left.abar, reached.abar)
            change = ((solved - guess).norm() / solved.norm()).item()
            guess = solved
        if iterations and not change < STILL_MOVES:     # not a number counts too
            warnings.warn(f"the fixed-point iteration does not converge at t = {reached.t}: the last one still "
                          f"moved the latent by {change:.0%}; take more steps, or another sampler", stacklevel=2)
        x = guess
        yield State(index, reached, x)


def check_iterations(iterations: int) -> None:
    """ValueError for fewer than 0."""
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, not {iterations}")
