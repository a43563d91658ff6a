"""DDIM with noise, Eq. (12) of arXiv:2010.02502: eta = 0 is the paper's sampler, eta = 1 is DDPM's ancestral one.

    x_to = mean(x_from, eps) + sigma z                      z ~ N(0, I)
    mean = sqrt(abar_to) x0(x_from, eps) + sqrt(1 - abar_to - sigma^2) eps
    sigma = eta sqrt((1 - abar_to) / (1 - abar_from)) sqrt(1 - abar_from / abar_to)

Its noises z determine the picture that comes out. For a given picture, they can be found: methods/cycle_diffusion.py.
With eta = 1 it is also k-diffusion's "Euler ancestral" sampler, which is written in u and tau (schedule.py). Only the
last step differs: here it ends at the clean level's abar, there at abar = 1.
"""

import math

from torch import Tensor

from ..core.schedule import Level, x0_from_eps


def sigma(eta: float, level_from: Level, level_to: Level) -> float:
    """The standard deviation of the noise that a decoding step adds."""
    return eta * math.sqrt((1 - level_to.abar) / (1 - level_from.abar) * (1 - level_from.abar / level_to.abar))


def mean(x: Tensor, eps: Tensor, level_from: Level, level_to: Level, deviation: float) -> Tensor:
    """The mean of x_to: the step without the noise that it adds. x, eps (B, C, h, w) -> (B, C, h, w)."""
    return toward(x0_from_eps(x, eps, level_from.abar), eps, level_to, deviation)


def toward(x0: Tensor, eps: Tensor, level_to: Level, deviation: float) -> Tensor:
    """`mean`, given x0 and eps instead of x. With the true x0 and eps it is the mean of q(x_to | x_from, x0)."""
    return math.sqrt(level_to.abar) * x0 + math.sqrt(1 - level_to.abar - deviation**2) * eps
