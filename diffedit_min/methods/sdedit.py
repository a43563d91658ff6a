"""SDEdit, arXiv:2108.01073, the paper's first baseline: noise the picture to level r, decode it under the query.

    x_k = G_r(x_0, eps) = sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps;   y = D_r(x_k, query)
"""

from collections.abc import Generator

from ..samplers import State
from ..schedule import add_noise, standard_noise
from .base import Method, Outcome, Step, Task
from .coding import decode
from .options import RatioOptions


def run(task: Task, options: RatioOptions) -> Generator[Step, None, Outcome]:
    """2k rows a picture. Ratio 0 adds no noise: it gives the VAE's reconstruction."""
    levels = options.levels(task.model.schedule)
    k = len(levels) - 1
    x_k = add_noise(task.x0, standard_noise(task.x0, task.seeds, "noise"), levels[k].abar) if k else task.x0
    decoded = yield from decode(task, options, State(k, levels[k], x_k), levels)
    return Outcome(decoded[0].latent, decoded=decoded)


sdedit = Method("sdedit", run, RatioOptions)
