"""CycleDiffusion, arXiv:2210.05559: find the noises with which a stochastic sampler would make the picture, and use
them again under another text.

    DPM-Encoder   x_k ~ q(x_k | x_0),   x_{j-1} ~ q(x_{j-1} | x_j, x_0),   x_0 is the picture's own latent
                  e_j = (x_{j-1} - mean(x_j, reference)) / sigma_j         for j = k, ..., 1
    decoding      y_k = x_k,   y_{j-1} = mean(y_j, query) + sigma_j e_j

With the same text and guidance on both sides the picture comes back exactly. mean and sigma are in
samplers/stochastic.py.

For the published results, the best of 540 candidates is kept, according to directional CLIP similarity: the same metric
that is reported. Here there is one candidate. With `trials` and `clip` the best of several is kept; only their noises
differ.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..core.coding import RatioOptions, kept
from ..core.guidance import EpsFn, guided
from ..core.options import option
from ..core.schedule import Level, add_noise, eps_from_x0, standard_noise
from ..core.state import State, Trajectory
from ..core.task import Outcome, Step, Task
from ..samplers.stochastic import mean, sigma, toward
from .directional_clip import DirectionalClip
from .help import GUIDED, Text
from .method import Method

Code = tuple[Tensor, list[Tensor]]      # x_k and the noises e_k, ..., e_1; (B, C, h, w) each


@dataclass(frozen=True)
class StochasticOptions(RatioOptions):
    """For methods that find a stochastic sampler's noises."""

    steps: int = option(100, "N, the number of noise levels on the whole timeline, of which the encoding ratio takes a "
                        "part", least=1, usual=(1, 200), stage="levels")
    source_guidance_scale: float = option(1.0, "how much the reference counts while the noises are found", least=0,
                                          usual=(0, 40), stage="encoding")
    eta: float = option(0.1, "how stochastic the sampler is, DDIM's eta; at 0 there would be no noise to find", above=0,
                        most=1, stage="encoding")


@dataclass(frozen=True)
class CycleOptions(StochasticOptions):
    """With Stable Diffusion the paper tries ratios of 0.5 to 0.85, guidance of 1 to 5 (here, values in between)."""

    encoding_ratio: float = option(0.7, "r, the part of the steps that is used; in the authors' code (steps - skip) "
                                   "/ steps", least=0, most=1, stage="levels")
    guidance_scale: float = option(3.0, "s, how much the query counts while decoding", least=0, usual=(0, 40),
                                   stage="decoding")
    trials: int = option(1, "how many sets of noises to try; `clip` keeps the best", least=1, most=1000, usual=(1, 20),
                         stage="decoding", needs={"clip": "a CLIP model"})
    clip: str = option("", "a CLIP model's folder or Hub id", file=True, stage="decoding")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials > 1 and not self.clip:
            raise ValueError(f"trials = {self.trials} needs clip=, a CLIP model's folder or Hub id, to choose by")


def run(task: Task, options: CycleOptions) -> Generator[Step, None, Outcome]:
    """k rows for the encoding and 2k for the decoding, for each picture and trial; 2k for a guided encoding."""
    levels, deviations = levels_and_deviations(task, options)
    source, target = eps_of_both_texts(task, options)
    clip = DirectionalClip(options.clip) if options.clip else None
    best, best_score = task.x0, torch.full((len(task.x0),), -torch.inf)
    for trial in range(options.trials):
        code = yield from dpm_encoder(source, task, levels, deviations, trial)
        decoded = yield from replay(target, code, levels, deviations, task.keep)
        y = decoded[0].latent
        if clip is None:
            return Outcome(y, decoded=decoded)
        score = clip.similarity(task.pixels, task.model.decode(y), task.references, task.queries)       # (B,)
        better = score > best_score
        best, best_score = torch.where(better.to(y.device)[:, None, None, None], y, best), score.maximum(best_score)
        yield Step("trials", trial + 1, options.trials)
    return Outcome(best, decoded=Trajectory([State(0, levels[0], best)]))


def dpm_encoder(
    eps_fn: EpsFn, task: Task, levels: Sequence[Level], deviations: list[float], trial: int = 0
) -> Generator[Step, None, Code]:
    """A random path from x_k to x_0, and the noises with which the sampler would take it."""
    k, x0 = len(levels) - 1, task.x0
    noise = partial(standard_noise, x0, task.seeds, f"cycle {trial}")
    x = add_noise(x0, noise(k), levels[k].abar) if k else x0
    path = [x]                                                  # x_k, ..., x_0
    for j, deviation in zip(range(k, 1, -1), deviations, strict=False):
        x = toward(x0, eps_from_x0(x, x0, levels[j].abar), levels[j - 1], deviation) + deviation * noise(j - 1)
        path.append(x)
    path = [*path, x0] if k else path
    return path[0], (yield from noises_of(eps_fn, path[::-1], levels, deviations))


def noises_of(
    eps_fn: EpsFn, path: Sequence[Tensor], levels: Sequence[Level], deviations: list[float]
) -> Generator[Step, None, list[Tensor]]:
    """The noises e_k, ..., e_1 with which the stochastic sampler would decode along a path of latents.

        e_j = (x_{j-1} - mean(x_j)) / sigma_j

    path: x_0, ..., x_k, (B, C, h, w) each. One call of eps_fn for each j.
    """
    k, noises = len(path) - 1, []
    for j, deviation in zip(range(k, 0, -1), deviations, strict=True):
        expected = mean(path[j], eps_fn(path[j], levels[j].t), levels[j], levels[j - 1], deviation)
        noises.append((path[j - 1] - expected) / deviation)
        yield Step("encode", k - j + 1, k, path[j - 1])
    return noises


def replay(
    eps_fn: EpsFn, code: Code, levels: Sequence[Level], deviations: list[float], keep: str = "result"
) -> Generator[Step, None, Trajectory]:
    """Decode from x_k to y_0 with given noises: the states by level; only the clean one unless `keep` is "trace"."""
    (y, noises), k = code, len(levels) - 1
    decoded = [State(k, levels[k], y)]
    for j, deviation, z in zip(range(k, 0, -1), deviations, noises, strict=True):
        y = mean(y, eps_fn(y, levels[j].t), levels[j], levels[j - 1], deviation) + deviation * z
        decoded = kept(decoded, State(j - 1, levels[j - 1], y), keep)
        yield Step("decode", k - j + 1, k, y)
    return Trajectory(decoded)


def levels_and_deviations(task: Task, options: StochasticOptions) -> tuple[tuple[Level, ...], list[float]]:
    """Levels 0 to k, and sigma_k, ..., sigma_1. ValueError if a sigma is 0: then the noise can't be found."""
    levels = options.levels(task.model.schedule)
    deviations = [sigma(options.eta, levels[j], levels[j - 1]) for j in range(len(levels) - 1, 0, -1)]
    for deviation, level in zip(deviations, reversed(levels[1:]), strict=True):
        if deviation == 0:
            raise ValueError(f"the step from t = {level.t} has zero variance, so its noise can't be found: it needs a "
                             "schedule whose clean level is not quite clean (set_alpha_to_one: false)")
    return levels, deviations


def eps_of_both_texts(task: Task, options: StochasticOptions) -> tuple[EpsFn, EpsFn]:
    """The noise predictions conditioned on the reference and on the query, each with its own guidance scale."""
    eps_of = partial(guided, task.model.eps, negative=task.negative, rows=task.rows)
    return (eps_of(task.reference, s=options.source_guidance_scale, label="find the noises"),
            eps_of(task.query, s=options.guidance_scale, label="decode"))


FOUND = Text(
    "A stochastic sampler adds noise at every step. Here a random path from noise to the picture is drawn. Then the "
    "noises are computed with which the sampler would take this path under the reference. (They are not kept.)",
    ("x_k ∼ q(x_k | x_0),  x_{j−1} ∼ q(x_{j−1} | x_j, x_0)", "e_j = (x_{j−1} − mean(x_j, reference)) / σ_j"),
    (dpm_encoder, mean),
    why="Why these noises: a sampler that takes the same noises under two texts makes two pictures that are alike "
    "wherever the texts are.")
REPLAYED = Text(
    "From the noisiest latent back to a picture with the noises that were found, now under the query. What the texts "
    "don't say stays as it was.", ("y_{j−1} = mean(y_j, query) + σ_j e_j", GUIDED),
    (replay, mean))

cycle_diffusion = Method("cycle_diffusion", run, CycleOptions, uses=frozenset({"reference"}), needs_reference=True,
                         texts={"start": FOUND, "decode": REPLAYED})
