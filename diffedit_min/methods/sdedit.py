"""SDEdit, arXiv:2108.01073, the paper's first baseline: add noise to the picture, decode it under the query.

    x_k = G_r(x_0, eps) = sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps;   y = D_r(x_k, query)
"""

from collections.abc import Generator

from ..core.coding import RatioOptions, decode, eps_of_query
from ..core.schedule import add_noise, standard_noise
from ..core.state import State
from ..core.task import Outcome, Step, Task
from .help import GUIDED_STEP, Text
from .method import Method


def run(task: Task, options: RatioOptions) -> Generator[Step, None, Outcome]:
    """2k rows a picture. Ratio 0 adds no noise: it gives the VAE's reconstruction."""
    levels = options.levels(task.model.schedule)
    k = len(levels) - 1
    x_k = add_noise(task.x0, standard_noise(task.x0, task.seeds, "noise"), levels[k].abar) if k else task.x0
    decoded = yield from decode(task, options, eps_of_query(task, options), State(k, levels[k], x_k), levels)
    return Outcome(decoded[0].latent, decoded=decoded)


NOISED = Text(
    "Nothing is encoded: the picture's latent is noised to level k at once. The noise hides the picture's details.",
    ("x_k = √ᾱ_k x_0 + √(1 − ᾱ_k) ε,  ε ∼ N(0, 1)",), (add_noise,),
    why="Why noise: what it hides is made anew as the query says, so the more noise, the more can change.")

sdedit = Method("sdedit", run, RatioOptions, texts={"start": NOISED, "decode": Text(
    "From there back to a picture, guided towards the query. Only what the noise has left of the picture keeps its "
    "coarse layout.", GUIDED_STEP)})
