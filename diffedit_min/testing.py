"""A kit for testing samplers: networks of no use, models with a known answer, round trips and orders.

    import diffedit_min.testing as kit

    kit.roundtrip_error("edict")                # how far encode, then decode ends from where it began: 1e-14
    kit.roundtrip_error(my_sampler, steps=20)   # a module of one's own
    kit.order_of_convergence("ddim")            # 0.96: of first order

A sampler is a module with `encode` and `decode` (`samplers/__init__.py`). What holds for any network holds for a random
one, so a sampler that claims to be invertible can be tested here in a second. `python -m diffedit_min.testing` prints
what the samplers here do.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import linear_regression
from typing import Any, Protocol

import torch
from torch import Tensor

from .guidance import EpsFn
from .model.unet import UNet, UNetConfig
from .samplers import State
from .schedule import Level, Schedule, eps_from_x0, generator, tau, u_from_x, x_from_u

LEVELS = Schedule.from_config({})       # Stable Diffusion's

# The samplers here, and the options with which their table is made.
CASES: dict[str, dict[str, Any]] = {
    "ddim": {}, "fixed_point": {"iterations": 20}, "edict": {"p": 0.93}, "bdia": {"gamma": 0.96}, "belm": {},
    "dpm_solver": {},
}

# Two levels with attention at the finer one, as small as it gets: 0.2 M weights, some 3 ms a call for 8 x 8 cells.
TOKENS, WIDTH = 5, 16
TINY_UNET = UNetConfig(
    block_out_channels=(16, 32), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=1,
    attention_head_dim=2, cross_attention_dim=WIDTH, norm_num_groups=8, sample_size=8,
)



class Sampler(Protocol):
    """A module, or anything else, with these two."""

    encode: Callable[..., Iterator[State]]
    decode: Callable[..., Iterator[State]]


# ---------------------------------------------------------------- eps_fns


def random_eps_fn(seed: int, dtype: torch.dtype = torch.float64, channels: int = 4, text: int = 0) -> EpsFn:
    """eps(x, t) of a tiny U-Net with random weights and a random text, the same for the same numbers; on the CPU.

    text: its number; the same seed with another text is the same network under another query. dtype: of the network;
    eps comes in x's. x (B, channels, h, w) with even h and w (ValueError otherwise), t in 0..999. The global random
    state stays as it was.
    """
    config = UNetConfig(**{**vars(TINY_UNET), "in_channels": channels, "out_channels": channels})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet(config).to(dtype).eval().requires_grad_(False)
    context = torch.randn(1, TOKENS, WIDTH, generator=generator(seed, "text", text)).to(dtype)     # (1, L, D)
    return lambda x, t: unet(x.to(dtype), t, context.expand(len(x), -1, -1)).to(x.dtype)


def random_latent(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """x0 ~ N(0, I), (2, 4, 8, 8), in `dtype` but at least float32."""
    x0 = torch.randn(2, 4, 8, 8, generator=generator(seed, "latent", 0), dtype=torch.float64)
    return x0.to(torch.promote_types(dtype, torch.float32))


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


def points_eps(points: Tensor, schedule: Schedule) -> EpsFn:
    """The best possible eps for data that is one of a few points, each as likely:

        eps(x, t) = (x - sqrt(abar) E[x0 | x]) / sqrt(1 - abar),
        P(x0 = p | x) ~ exp(-|x - sqrt(abar) p|^2 / (2 (1 - abar)))

    points (n, C, h, w), in x's dtype. Between the points it turns sharply, which is hard on every sampler.
    """

    def eps_fn(x: Tensor, t: int) -> Tensor:
        abar = schedule.abar[t]
        away = x[:, None] - math.sqrt(abar) * points                                    # (B, n, C, h, w)
        weights = torch.softmax(-away.square().flatten(2).sum(dim=2) / (2 * (1 - abar)), dim=1)
        return eps_from_x0(x, torch.einsum("bn,nchw->bchw", weights, points), abar)

    return eps_fn


# ---------------------------------------------------------------- what a sampler makes of them


def roundtrip_error(
    sampler: str | Sampler,
    steps: int = 50,
    ratio: float = 0.8,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    *,
    eps_fn: EpsFn | None = None,
    x0: Tensor | None = None,
    levels: Sequence[Level] | None = None,
    **options: Any,
) -> float:
    """|decode(encode(x0)) - x0| / |x0|, Euclidean norms of the whole batch.

    sampler: a name ("ddim") or a module of one's own. steps, ratio: of Stable Diffusion's levels. seed, dtype: of the
    random network and of the random x0, which is at least float32 as all latents are. eps_fn, x0 (B, C, h, w), levels:
    in place of these. options go to `encode` and to `decode`, to each those that it has a name for.
    Raises TypeError for an option that neither has, ValueError for a sampler that isn't known.
    """
    sampler = sampler_of(sampler)
    eps_fn = random_eps_fn(seed, dtype) if eps_fn is None else eps_fn
    x0 = random_latent(seed, dtype) if x0 is None else x0
    levels = LEVELS.levels(steps, ratio) if levels is None else levels
    up, down = options_of(sampler, options)
    *_, noisy = sampler.encode(eps_fn, x0, levels, **up)
    *_, clean = sampler.decode(eps_fn, noisy, levels, **down)
    return ((clean.latent - x0).norm() / x0.norm()).item()


def order_of_convergence(
    sampler: str | Sampler,
    steps: Sequence[int] = (25, 50, 100, 200),
    ratio: float = 0.8,
    direction: str = "encode",
    mu: float = 0.0,
    s: float = 1.0,
    **options: Any,
) -> float:
    """How fast the error falls as steps grow, on Gaussian data N(mu, s^2), whose exact solution is known: p in (1/N)^p.

    steps: divisors of 1000, so that all grids reach the same level up to a step. direction: "encode" or "decode".
    """
    if direction not in ("encode", "decode"):
        raise ValueError(f"direction {direction!r} is not known; known are encode and decode")
    sampler, errors = sampler_of(sampler), []
    eps_fn, x0 = gaussian_eps(mu, s, LEVELS), random_latent(0, torch.float64)
    up, down = options_of(sampler, options)
    for N in steps:
        levels = LEVELS.levels(N, ratio)
        clean, noisy = levels[0].abar, levels[-1].abar
        if direction == "encode":
            *_, last = sampler.encode(eps_fn, x0, levels, **up)
            exact = gaussian_solution(x0, mu, s, clean, noisy)
        else:
            *_, last = sampler.decode(eps_fn, State(len(levels) - 1, levels[-1], x0), levels, **down)
            exact = gaussian_solution(x0, mu, s, noisy, clean)
        errors.append(((last.latent - exact).norm() / exact.norm()).item())
    return fitted_order(steps, errors)


def sampler_of(sampler: str | Sampler) -> Sampler:
    """A sampler by its name, or itself."""
    if not isinstance(sampler, str):
        return sampler
    if sampler not in CASES:
        raise ValueError(f"sampler {sampler!r} is not known; known are {', '.join(CASES)}")
    return importlib.import_module(f".samplers.{sampler}", __package__)


def options_of(sampler: Sampler, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """For `encode` and for `decode`, those that each has a parameter for."""
    parts = tuple({name: value for name, value in options.items() if takes(function, name)}
                  for function in (sampler.encode, sampler.decode))
    for name in options:
        if not any(name in part for part in parts):
            raise TypeError(f"neither encode nor decode takes {name!r}")
    return parts


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


# ---------------------------------------------------------------- the samplers here


def table(seeds: Sequence[int] = (0, 1, 2)) -> Iterator[str]:
    """Markdown: the worst round trip over random networks, by the network's dtype, and the orders on Gaussian data."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    yield f"| sampler | {' | '.join(str(dtype).split('.')[1] for dtype in dtypes)} | order, encoding | decoding |"
    yield "|---" * 6 + "|"
    for name, options in CASES.items():
        errors = [max(roundtrip_error(name, seed=seed, dtype=dtype, **options) for seed in seeds) for dtype in dtypes]
        orders = [order_of_convergence(name, direction=direction, **options) for direction in ("encode", "decode")]
        typed = "".join(f", {option} = {value}" for option, value in options.items())
        yield (f"| {name}{typed} | {' | '.join(f'{error:.0e}' for error in errors)} | "
               f"{' | '.join(f'{order:.1f}' for order in orders)} |")


if __name__ == "__main__":
    print("\n".join(table()))
