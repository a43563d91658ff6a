"""InstructPix2Pix, arXiv:2211.09800: a U-Net that was trained to edit. It sees the input's latent c_I in four more
channels, and its text c_T says what to do, not what to show. Two guidance scales (Eq. (3) of the paper):

    eps~ = eps(0, empty) + s_I [eps(c_I, empty) - eps(0, empty)] + s_T [eps(c_I, c_T) - eps(c_I, empty)]

c_I is the posterior's mode, not scaled as latents are. Sampling starts from noise; k-diffusion's Euler ancestral, which
the authors use, is DDIM with eta = 1 but for the last step (samplers/stochastic.py).
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..guidance import EpsFn
from ..samplers import State
from ..samplers.stochastic import check_eta, mean, sigma
from ..schedule import standard_noise
from .base import Method, Outcome, Step, Task
from .coding import kept
from .options import Options


@dataclass(frozen=True)
class InstructOptions(Options):
    """The authors' settings."""

    steps: int = 100
    guidance_scale: float = 7.5             # s_T: how much the instruction counts
    image_guidance_scale: float = 1.5       # s_I: how much the input picture counts
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_eta(self.eta)
        if not 0 <= self.image_guidance_scale < float("inf"):
            raise ValueError(f"image_guidance_scale must be a number from 0 up, not {self.image_guidance_scale}")


def run(task: Task, options: InstructOptions) -> Generator[Step, None, Outcome]:
    """3 rows a step and picture; 1 if both scales are 1."""
    model = task.model
    levels = model.schedule.levels(options.steps)
    picture = task.x0 / model.vae.config.scaling_factor                     # c_I
    eps_fn = instructed(task, picture, options.guidance_scale, options.image_guidance_scale)
    x = standard_noise(task.x0, task.seeds, "instruct", options.steps)      # (B, C, h, w)
    decoded = [State(options.steps, levels[-1], x)]
    for j in range(options.steps, 0, -1):
        left, reached = levels[j], levels[j - 1]
        deviation = sigma(options.eta, left, reached)
        x = mean(x, eps_fn(x, left.t), left, reached, deviation)
        x = x + deviation * standard_noise(x, task.seeds, "instruct", j - 1)
        decoded = kept(decoded, State(j - 1, reached, x), task.keep)
        yield Step("decode", options.steps - j + 1, options.steps, x)
    return Outcome(x, decoded=tuple(decoded))


def instructed(task: Task, picture: Tensor, s_T: float, s_I: float) -> EpsFn:
    """The guided prediction, its three rows a sample in one call."""
    nothing = torch.zeros_like(picture)

    def one(x: Tensor, t: int) -> Tensor:
        task.rows.count += len(x)
        return task.model.eps(torch.cat([x, picture], dim=1), t, task.query)

    def three(x: Tensor, t: int) -> Tensor:
        seen = torch.cat([nothing, picture, picture])                       # (3B, C, h, w)
        told = task.negative.repeat(2).join(task.query)
        task.rows.count += len(seen)
        eps = task.model.eps(torch.cat([x.repeat(3, 1, 1, 1), seen], dim=1), t, told)
        return two_scale_guidance(*eps.chunk(3), s_T, s_I)

    return one if s_T == s_I == 1 else three


def two_scale_guidance(eps_none: Tensor, eps_picture: Tensor, eps_both: Tensor, s_T: float, s_I: float) -> Tensor:
    """Eq. (3): predictions told nothing, the picture only, and the picture and the instruction."""
    return eps_none + s_I * (eps_picture - eps_none) + s_T * (eps_both - eps_picture)


instruct_pix2pix = Method("instruct_pix2pix", run, InstructOptions, knob="image_guidance_scale",
                          needs_instruction=True, channels=8)
