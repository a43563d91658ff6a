"""Edit-friendly DDPM inversion, arXiv:2304.06140: a variant of CycleDiffusion whose noises hold more of the picture's
layout.

    x_j = sqrt(abar_j) x_0 + sqrt(1 - abar_j) e_j       with independent noises e_j, for j = 1, ..., k
    z_j = (x_{j-1} - mean(x_j, reference)) / sigma_j    where x_0 is the picture's own latent
    y_k = x_k,   y_{j-1} = mean(y_j, query) + sigma_j z_j

The sampler itself would never take this path: its neighbouring x_j would differ less. So the z_j are larger than the
sampler's noises, and have more influence on the result. Since the x_j don't depend on each other, all k predictions
could be made at once.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch

from ..core.options import option
from ..core.schedule import add_noise, standard_noise
from ..core.task import Outcome, Step, Task
from ..samplers.stochastic import mean
from .cycle_diffusion import REPLAYED, StochasticOptions, eps_of_both_texts, levels_and_deviations, noises_of, replay
from .help import Text
from .method import Method


@dataclass(frozen=True)
class EditFriendlyOptions(StochasticOptions):
    """The paper's numbers for Stable Diffusion."""

    encoding_ratio: float = option(0.64, "r, the part of the steps that is used; the paper skips 36 of 100", least=0,
                                   most=1, stage="levels")
    guidance_scale: float = option(15.0, "s, how much the query counts while decoding", least=0, usual=(0, 40),
                                   stage="decoding")
    source_guidance_scale: float = option(3.5, "how much the reference counts while the noises are found", least=0,
                                          usual=(0, 40), stage="encoding")
    eta: float = option(1.0, "how stochastic the sampler is, DDIM's eta; at 0 there would be no noise to find", above=0,
                        most=1, stage="encoding")
    zero_last_noise: bool = option(False, "as in the authors' code, z_1 = 0: then the picture no longer comes back "
                                   "exactly", stage="decoding")


def run(task: Task, options: EditFriendlyOptions) -> Generator[Step, None, Outcome]:
    """2k + 2k rows a picture, since both sides are guided."""
    levels, deviations = levels_and_deviations(task, options)
    source, target = eps_of_both_texts(task, options)
    path = [task.x0] + [add_noise(task.x0, standard_noise(task.x0, task.seeds, "edit-friendly", j), levels[j].abar)
                        for j in range(1, len(levels))]
    noises = yield from noises_of(source, path, levels, deviations)
    if options.zero_last_noise and noises:
        noises[-1] = torch.zeros_like(noises[-1])
    decoded = yield from replay(target, (path[-1], noises), levels, deviations, task.keep)
    return Outcome(decoded[0].latent, decoded=decoded)


FOUND = Text(
    "The picture is noised to every level, each time with another noise. Then the noises are computed with which a "
    "stochastic sampler would go from each of these latents to the next under the reference. (They are not kept.)",
    ("x_j = √ᾱ_j x_0 + √(1 − ᾱ_j) e_j", "z_j = (x_{j−1} − mean(x_j, reference)) / σ_j"), (add_noise, mean),
    why="Why another noise for every level: the noises that are found then hold more of the picture's layout, and keep "
    "it under the query.")

edit_friendly = Method("edit_friendly", run, EditFriendlyOptions, uses=frozenset({"reference"}), needs_reference=True,
                       texts={"start": FOUND, "decode": REPLAYED})
