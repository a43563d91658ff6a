"""InstructPix2Pix, arXiv:2211.09800: a U-Net that was trained to edit. It sees the input picture's latent c_I in four
more channels. Its text c_T says what to do, not what to show. It has two guidance scales (Eq. (3) of the paper):

    eps~ = eps(0, empty) + s_I [eps(c_I, empty) - eps(0, empty)] + s_T [eps(c_I, c_T) - eps(c_I, empty)]

c_I is the mode of the VAE's posterior, without the scaling factor of latents. Sampling starts from noise. The authors'
sampler, k-diffusion's Euler ancestral, is DDIM with eta = 1, except for the last step (samplers/stochastic.py).
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.coding import Options, kept
from ..core.guidance import EpsFn
from ..core.options import option
from ..core.schedule import standard_noise
from ..core.state import State, Trajectory
from ..core.task import Outcome, Step, Task
from ..samplers.stochastic import mean, sigma
from .help import Text
from .method import Method


@dataclass(frozen=True)
class InstructOptions(Options):
    """The authors' settings."""

    steps: int = option(100, "N, the number of noise levels; more are finer and slower", least=1, usual=(1, 200),
                        stage="levels")
    guidance_scale: float = option(7.5, "s_T, how much the instruction counts", least=0, usual=(0, 40),
                                   stage="decoding")
    image_guidance_scale: float = option(1.5, "s_I, how much the input picture counts", least=0, usual=(0, 5),
                                         stage="decoding")
    eta: float = option(1.0, "how stochastic the sampler is, DDIM's eta", least=0, most=1, stage="decoding")


def run(task: Task, options: InstructOptions) -> Generator[Step, None, Outcome]:
    """3 rows for each step and picture; 1 if both scales are 1."""
    model = task.model
    levels = model.schedule.levels(options.steps)
    picture = task.x0 / model.vae.config.scaling_factor                     # c_I
    eps_fn = instructed(task, picture, options.guidance_scale, options.image_guidance_scale)
    x = standard_noise(task.x0, task.seeds, "instruct", options.steps)      # (B, C, h, w)
    decoded = [State(options.steps, levels[-1], x)]
    for j in range(options.steps, 0, -1):
        level_from, level_to = levels[j], levels[j - 1]
        deviation = sigma(options.eta, level_from, level_to)
        x = mean(x, eps_fn(x, level_from.t), level_from, level_to, deviation)
        x = x + deviation * standard_noise(x, task.seeds, "instruct", j - 1)
        decoded = kept(decoded, State(j - 1, level_to, x), task.keep)
        yield Step("decode", options.steps - j + 1, options.steps, x)
    return Outcome(x, decoded=Trajectory(decoded))


def instructed(task: Task, picture: Tensor, s_T: float, s_I: float) -> EpsFn:
    """The guided noise prediction, from three rows a sample in one call."""
    nothing = torch.zeros_like(picture)

    def one(x: Tensor, t: int) -> Tensor:
        task.rows.forward["decode"] += len(x)
        return task.model.eps(torch.cat([x, picture], dim=1), t, task.query)

    def three(x: Tensor, t: int) -> Tensor:
        seen = torch.cat([nothing, picture, picture])                       # (3B, C, h, w)
        context = task.negative.repeat(2).join(task.query)
        task.rows.forward["decode"] += len(seen)
        eps = task.model.eps(torch.cat([x.repeat(3, 1, 1, 1), seen], dim=1), t, context)
        return two_scale_guidance(*eps.chunk(3), s_T, s_I)

    return one if s_T == s_I == 1 else three


def two_scale_guidance(eps_none: Tensor, eps_picture: Tensor, eps_both: Tensor, s_T: float, s_I: float) -> Tensor:
    """Eq. (3), from predictions conditioned on nothing, on the picture only, and on the picture and the instruction."""
    return eps_none + s_I * (eps_picture - eps_none) + s_T * (eps_both - eps_picture)


FROM_NOISE = Text(
    "Nothing is encoded: decoding starts from noise, and the network sees the picture's latent at every step, in "
    "channels of its own.", ("x_N = ε ∼ N(0, 1)",),
    why="Why not encode: this network was trained to look at the input picture while it makes the new one.")
TWICE_GUIDED = Text(
    "From noise to a picture, with two guidances: towards the input picture I, and towards what the instruction T asks "
    "for.", ("ε̃ = ε(∅, ∅) + s_I (ε(I, ∅) − ε(∅, ∅)) + s_T (ε(I, T) − ε(I, ∅))",), (two_scale_guidance, mean),
    why="Why two guidances: one says how much of the input picture stays, the other how far the instruction is "
    "followed.")

instruct_pix2pix = Method("instruct_pix2pix", run, InstructOptions, needs_instruction=True, channels=8,
                          texts={"start": FROM_NOISE, "decode": TWICE_GUIDED})
