"""Edit-friendly DDPM inversion, arXiv:2304.06140: a relative of CycleDiffusion whose noises hold the
picture's layout.

    x_j = sqrt(abar_j) x_0 + sqrt(1 - abar_j) e_j       with e_j independent of each other     j = 1, ..., k
    z_j = (x_{j-1} - mean(x_j, source)) / sigma_j       and x_0 the picture's own latent
    y_k = x_k,   y_{j-1} = mean(y_j, query) + sigma_j z_j

These x_j are no path that the sampler would take: neighbours differ more, so the z_j are larger than its noises and
have more to say than them. As the x_j don't depend on each other, all k predictions could be made at once.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch

from ..samplers.stochastic import mean
from ..schedule import add_noise, standard_noise
from .base import Method, Outcome, Step, Task
from .cycle_diffusion import StochasticOptions, both_sides, replay, way_down


@dataclass(frozen=True)
class EditFriendlyOptions(StochasticOptions):
    """The paper's for Stable Diffusion."""

    encoding_ratio: float = 0.64        # 36 of 100 steps are skipped
    guidance_scale: float = 15.0
    source_guidance_scale: float = 3.5
    eta: float = 1.0
    zero_last_noise: bool = False       # the authors' code sets z_1 = 0: the picture no longer comes back exactly


def run(task: Task, options: EditFriendlyOptions) -> Generator[Step, None, Outcome]:
    """2k + 2k rows a picture, both sides being guided."""
    levels, deviations = way_down(task, options)
    source, target = both_sides(task, options)
    k = len(levels) - 1

    x = [task.x0] + [add_noise(task.x0, standard_noise(task.x0, task.seeds, "edit-friendly", j), levels[j].abar)
                     for j in range(1, k + 1)]
    noises = []
    for j, deviation in zip(range(k, 0, -1), deviations, strict=True):
        left, reached = levels[j], levels[j - 1]
        z = (x[j - 1] - mean(x[j], source(x[j], left.t), left, reached, deviation)) / deviation
        noises.append(torch.zeros_like(z) if j == 1 and options.zero_last_noise else z)
        yield Step("encode", k - j + 1, k, x[j - 1])
    decoded = yield from replay(target, (x[k], noises), levels, deviations, task.keep)
    return Outcome(decoded[0].latent, decoded=decoded)


edit_friendly = Method("edit_friendly", run, EditFriendlyOptions, uses=frozenset({"reference"}), needs_reference=True)
