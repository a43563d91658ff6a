"""A kit for testing samplers: networks of no use, models with a known answer, round trips and orders.

    import diffedit_min.testing as kit
    from diffedit_min.samplers import ddim
    from diffedit_min.schedule import Schedule

    levels = Schedule.from_config({}).levels(50)
    x0 = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    kit.round_trip_error(ddim, kit.random_eps_fn(seed=0), x0, levels)       # how far encode, then decode ends from x0

A sampler is a module with `encode` and `decode` (`samplers/__init__.py`). What holds for any network holds for a random
one, so a sampler that claims to be invertible can be tested here in a second.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from statistics import linear_regression
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .guidance import EpsFn
from .model.unet import UNet, UNetConfig
from .schedule import Level, Schedule, generator, tau, u_from_x, x_from_u

# Two levels with attention at the finer one, as small as it gets: 0.2 M weights, some 3 ms a call for 8 x 8 cells.
TOKENS, WIDTH = 5, 16
TINY_UNET = UNetConfig(
    block_out_channels=(16, 32), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=1,
    attention_head_dim=2, cross_attention_dim=WIDTH, norm_num_groups=8, sample_size=8,
)


# ---------------------------------------------------------------- eps_fns


def random_eps_fn(seed: int, dtype: torch.dtype = torch.float64, channels: int = 4, text: int = 0) -> EpsFn:
    """eps(x, t) of a tiny U-Net with random weights and a random text, the same for the same numbers; on the CPU.

    text: its number; the same seed with another text is the same network under another query. x (B, channels, h, w) in
    `dtype`, with even h and w (ValueError otherwise), t in 0..999. The global random state stays as it was.
    """
    config = UNetConfig(**{**vars(TINY_UNET), "in_channels": channels, "out_channels": channels})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet(config).to(dtype).eval().requires_grad_(False)
    context = torch.randn(1, TOKENS, WIDTH, generator=generator(seed, "text", text)).to(dtype)     # (1, L, D)
    return lambda x, t: unet(x, t, context.expand(len(x), -1, -1))


def gaussian_eps(mu: float | Tensor, s: float, schedule: Schedule) -> EpsFn:
    """The best possible eps for data x0 ~ N(mu, s^2 I), the mean of the noise given x:

        eps(x, t) = sqrt(1 - abar) (x - sqrt(abar) mu) / (abar s^2 + 1 - abar)        abar = schedule.abar[t]

    mu: a number, or a tensor that broadcasts against x (B, C, h, w); s >= 0.
    """

    def eps_fn(x: Tensor, t: int) -> Tensor:
        abar = schedule.abar[t]
        return math.sqrt(1 - abar) * (x - math.sqrt(abar) * mu) / (abar * s**2 + 1 - abar)

    return eps_fn


def gaussian_solution(x: Tensor, mu: float | Tensor, s: float, abar_from: float, abar_to: float) -> Tensor:
    """Where Eq. (3) with `gaussian_eps` takes x exactly, from one level to another, in either direction:

        u_to = mu + (u_from - mu) sqrt((s^2 + tau_to^2) / (s^2 + tau_from^2))         u = x / sqrt(abar)

    x (B, C, h, w) -> (B, C, h, w). Start at the clean level's own abar, which need not be 1: a solution from tau = 0
    differs by more than a fine grid's error. s may be 0 (a single picture, mu) unless abar_from is 1.
    """
    scale = math.sqrt((s**2 + tau(abar_to) ** 2) / (s**2 + tau(abar_from) ** 2))
    return x_from_u(mu + (u_from_x(x, abar_from) - mu) * scale, abar_to)


# ---------------------------------------------------------------- what a sampler makes of them


def round_trip_error(
    sampler: ModuleType | SimpleNamespace, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level], **options: Any,
) -> float:
    """|decode(encode(x0)) - x0| / |x0|, Euclidean norms of the whole batch (B, C, h, w); x0 not all zeros.

    options go to `encode` and to `decode`, to each those that it has a name for (time="source" is DDIM's encoding's).
    Raises TypeError for an option that neither has.
    """
    for name in options:
        if not takes(sampler.encode, name) and not takes(sampler.decode, name):
            raise TypeError(f"neither encode nor decode takes {name!r}")
    *_, noisy = sampler.encode(eps_fn, x0, levels, **{n: v for n, v in options.items() if takes(sampler.encode, n)})
    *_, clean = sampler.decode(eps_fn, noisy, levels, **{n: v for n, v in options.items() if takes(sampler.decode, n)})
    return ((clean.latent - x0).norm() / x0.norm()).item()


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of that name."""
    return name in inspect.signature(function).parameters


def fitted_order(steps: Sequence[int], errors: Sequence[float]) -> float:
    """The order p in error ~ (1 / steps)^p: the least-squares slope of log(error) over log(1 / steps).

    Raises ValueError for fewer than two points, lengths that differ, or an error that isn't positive and finite.
    """
    for error in errors:
        if not 0 < error < math.inf:
            raise ValueError(f"an order is fitted to positive, finite errors, not {error}")
    return linear_regression([-math.log(n) for n in steps], [math.log(error) for error in errors]).slope
