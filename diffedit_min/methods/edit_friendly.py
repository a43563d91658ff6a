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
from functools import partial

import torch

from ..guidance import guided
from ..samplers.stochastic import check_eta, mean, sigma
from ..schedule import add_noise, levels_used, standard_noise
from .base import Method, Outcome, RatioOptions, Step, Task
from .cycle_diffusion import check_deviations, replay


@dataclass(frozen=True)
class EditFriendlyOptions(RatioOptions):
    """The paper's for Stable Diffusion."""

    steps: int = 100
    encoding_ratio: float = 0.64        # 36 of 100 steps are skipped
    guidance_scale: float = 15.0
    source_guidance_scale: float = 3.5
    eta: float = 1.0
    zero_last_noise: bool = False       # the authors' code sets z_1 = 0: the picture no longer comes back exactly

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)
        if self.eta == 0:
            raise ValueError("eta = 0 leaves no noise to find: edit-friendly inversion needs eta above 0")
        if not 0 <= self.source_guidance_scale < float("inf"):
            raise ValueError(f"source_guidance_scale must be a number from 0 up, not {self.source_guidance_scale}")


def run(task: Task, options: EditFriendlyOptions) -> Generator[Step, None, Outcome]:
    """2k + 2k rows a picture, both sides being guided."""
    k = levels_used(options.encoding_ratio, options.steps)
    levels = task.model.schedule.levels(options.steps)[: k + 1]
    deviations = check_deviations([sigma(options.eta, levels[j], levels[j - 1]) for j in range(k, 0, -1)], levels)
    eps_of = partial(guided, task.model.eps, negative=task.negative, rows=task.rows)
    source = eps_of(task.reference, s=options.source_guidance_scale)
    target = eps_of(task.query, s=options.guidance_scale)

    x = [task.x0] + [add_noise(task.x0, standard_noise(task.x0, task.seeds, "edit-friendly", j), levels[j].abar)
                     for j in range(1, k + 1)]
    noises = []
    for j, deviation in zip(range(k, 0, -1), deviations, strict=True):
        left, reached = levels[j], levels[j - 1]
        z = (x[j - 1] - mean(x[j], source(x[j], left.t), left, reached, deviation)) / deviation
        noises.append(torch.zeros_like(z) if j == 1 and options.zero_last_noise else z)
        yield Step("encode", k - j + 1, k, x[j - 1])
    y = yield from replay(target, (x[k], noises), levels, deviations)
    return Outcome(y)


edit_friendly = Method("edit_friendly", run, EditFriendlyOptions, uses=frozenset({"reference"}), needs_reference=True)
