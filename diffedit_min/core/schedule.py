"""Noise levels: how much of a latent is picture and how much is noise; the variables in which DDIM is Euler's method.

    x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps        abar_t = prod_{s <= t} (1 - beta_s)

`abar` (DDPM's alpha-bar) is what the DiffEdit and DDIM papers call alpha. Schedules are Python floats (float64).
Shapes: x, x0, eps and v are (B, C, h, w); any other shape will do, if it is the same for all.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .betas import noise_levels


@dataclass(frozen=True)
class Level:
    """A noise level: the time that the network sees, an int, and abar, the part of the variance that is signal."""

    t: int
    abar: float


@dataclass(frozen=True)
class Schedule:
    """abar at the T training times, and from it the levels at which a sampler stops."""

    abar: tuple[float, ...] = field(repr=False)     # abar[t], which falls from about 1 to about 0
    steps_offset: int = 1               # t of the first noisy level
    clean_abar: float | None = None     # of the clean level; None: abar[0], as Stable Diffusion has it

    @classmethod
    def from_config(cls, raw: Mapping[str, Any], where: str = "scheduler_config.json") -> "Schedule":
        """From a parsed scheduler_config.json. What it doesn't say is as in Stable Diffusion.

        Raises ValueError, which names the file `where`, the key and the value, for what can't be (betas.py).
        """
        return cls(*noise_levels(raw, where))

    @property
    def T(self) -> int:
        """The number of training times."""
        return len(self.abar)

    def at(self, t: int) -> Level:
        """The level at training time t. Raises ValueError unless 0 <= t < T."""
        if not 0 <= t < self.T:
            raise ValueError(f"t must be from 0 to {self.T - 1}, not {t}")
        return Level(t, self.abar[t])

    def levels(self, N: int, ratio: float = 1.0) -> tuple[Level, ...]:
        """The clean level and N noisy ones, by rising noise: t_i = offset + floor(i T / N), i = 0..N-1.

        Where N divides T this is the usual "leading" grid. ratio: of the N levels only the first k (`levels_used`).
        Where the clean level has abar[0], the offset is at least 1: no two levels are equally noisy.
        Raises ValueError unless 1 <= N < T.
        """
        if not 1 <= N < self.T:
            raise ValueError(f"steps must be from 1 to {self.T - 1}, not {N}")
        offset = max(self.steps_offset, 1) if self.clean_abar is None else self.steps_offset
        clean = Level(0, self.abar[0] if self.clean_abar is None else self.clean_abar)
        return (clean, *(self.at(offset + i * self.T // N) for i in range(levels_used(ratio, N))))

    def noised(self, ratio: float) -> Level:
        """The level at part `ratio` (0..1) of the training timeline: t = ratio T, rounded."""
        return self.at(min(math.floor(check_ratio(ratio, "noise ratio") * self.T + 0.5), self.T - 1))


def levels_used(ratio: float, N: int) -> int:
    """k = round(r N), the number of steps that encoding ratio r in [0, 1] takes (halves are rounded up).

    floor(r N + 0.5) is right also where floating point makes r N a little too small: 0.29 * 100 is 28.999...
    """
    return math.floor(check_ratio(ratio, "encoding ratio") * N + 0.5)


def check_ratio(ratio: float, name: str) -> float:
    """The ratio itself; ValueError unless it is in [0, 1]."""
    if not 0 <= ratio <= 1:
        raise ValueError(f"{name} must be from 0 to 1, not {ratio}")
    return ratio


# ---------------------------------------------------------------- x0, eps and v


def add_noise(x0: Tensor, eps: Tensor, abar: float | Tensor) -> Tensor:
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) eps: training's forward process, and SDEdit's encoder G_r (section 3.2).

    abar: a number, or a tensor that broadcasts against x0, as training has it.
    """
    return abar**0.5 * x0 + (1 - abar) ** 0.5 * eps


def x0_from_eps(x: Tensor, eps: Tensor, abar: float) -> Tensor:
    """The predicted clean image's latent: `add_noise` solved for x0."""
    return (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)


def eps_from_x0(x: Tensor, x0: Tensor, abar: float) -> Tensor:
    """The noise in x, if x0 is its clean latent: `add_noise` solved for eps."""
    return (x - math.sqrt(abar) * x0) / math.sqrt(1 - abar)


def v_from_eps(x: Tensor, eps: Tensor, abar: float) -> Tensor:
    """v = sqrt(abar) eps - sqrt(1 - abar) x0, arXiv:2202.00512, written in x and eps."""
    return (eps - math.sqrt(1 - abar) * x) / math.sqrt(abar)


def eps_from_v(x: Tensor, v: Tensor, abar: float) -> Tensor:
    """eps = sqrt(abar) v + sqrt(1 - abar) x: `v_from_eps` solved for eps."""
    return math.sqrt(abar) * v + math.sqrt(1 - abar) * x


# What a network may predict -> the noise in x from it: `READINGS[prediction_type](x, predicted, abar)`.
READINGS = {"epsilon": lambda x, eps, abar: eps, "v_prediction": eps_from_v, "sample": eps_from_x0}


# ---------------------------------------------------------------- Eq. (3): the ODE variables


def tau(abar: float) -> float:
    """tau = sqrt(1 / abar - 1), noise over signal: the time of Eq. (3), du = eps(u / sqrt(1 + tau^2), t) dtau."""
    return math.sqrt(1 / abar - 1)


def u_from_x(x: Tensor, abar: float) -> Tensor:
    """u = x / sqrt(abar), the state of Eq. (3)."""
    return x / math.sqrt(abar)


def x_from_u(u: Tensor, abar: float) -> Tensor:
    """`u_from_x` solved for x."""
    return u * math.sqrt(abar)


def log_snr(level: Level) -> float:
    """lambda = log(sqrt(abar) / sqrt(1 - abar)): half the log of the signal-to-noise ratio."""
    return math.log(level.abar / (1 - level.abar)) / 2


def even_in_log_snr(schedule: Schedule, levels: Sequence[Level]) -> tuple[Level, ...]:
    """As many levels between the same ends, at even distances in `log_snr`, each moved to the nearest training time.

    Near the clean end, where training times are far apart in lambda, some can fall on the same time: then fewer levels.
    """
    first = levels[0] if levels[0].abar < 1 else schedule.at(0)
    wanted = torch.linspace(log_snr(first), log_snr(levels[-1]), len(levels), dtype=torch.float64)
    known = torch.tensor([log_snr(schedule.at(t)) for t in range(levels[-1].t + 1)], dtype=torch.float64)
    times = (known[:, None] - wanted).abs().argmin(dim=0).unique().tolist()     # rising
    return (levels[0], *(schedule.at(t) for t in times if t > 0))


# ---------------------------------------------------------------- randomness


def generator(seed: int, stream: str, index: int) -> torch.Generator:
    """Random numbers for one use (stream: "mask", "noise", ...) and for the sample of this index, always on the CPU.

    Each (seed, stream, index) has its own. So with more samples the first ones stay the same, a picture gets the same
    noise alone or in a batch, and a seed means the same on every device.
    """
    digest = hashlib.sha256(f"{seed} {stream} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def standard_noise(like: Tensor, seeds: tuple[int, ...], stream: str, index: int = 0) -> Tensor:
    """eps ~ N(0, I), shaped like `like` (B, C, h, w), with one seed for each row; drawn in float32 on the CPU."""
    if len(seeds) != len(like):
        raise ValueError(f"{len(like)} latents but {len(seeds)} seeds")
    rows = [torch.randn(like.shape[1:], generator=generator(seed, stream, index)) for seed in seeds]
    return torch.stack(rows).to(like)
