"""Networks of no use, models with a known answer, and what a sampler makes of them: round trips and orders.

What holds for any network holds for a random one, so a sampler that claims to be invertible can be tested here in a
second. `python -m diffedit_min.testing` prints what the samplers of this package do.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import linear_regression

import torch
from torch import Tensor

from ..core.guidance import EpsFn
from ..core.options import Declared, declared, name_of
from ..core.schedule import Level, Schedule, eps_from_x0, generator, levels_used, log_snr, tau, u_from_x, x_from_u
from ..core.state import Sampler, State
from ..networks.unet import UNet, UNetConfig
from ..samplers import SAMPLERS, sampler_of

LEVELS = Schedule.from_config({})       # Stable Diffusion's

# Two levels with attention at the finer one, as small as it gets: 0.2 M weights, some 3 ms a call for 8 x 8 cells.
TOKENS, WIDTH = 5, 16
TINY_UNET = UNetConfig(
    block_out_channels=(16, 32), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), layers_per_block=1,
    attention_head_dim=2, cross_attention_dim=WIDTH, norm_num_groups=8, sample_size=8,
)


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
) -> float:
    """|decode(encode(x0)) - x0| / |x0|, Euclidean norms of the whole batch.

    sampler: a name ("ddim", "edict:p=0.9") or an object of one's own. steps, ratio: of Stable Diffusion's levels. seed,
    dtype: of the random network and of the random x0, which is at least float32 as all latents are. eps_fn, x0
    (B, C, h, w), levels: in place of these. Raises ValueError for a sampler that isn't known.
    """
    sampler = sampler_of(sampler)
    eps_fn = random_eps_fn(seed, dtype) if eps_fn is None else eps_fn
    x0 = random_latent(seed, dtype) if x0 is None else x0
    levels = LEVELS.levels(steps, ratio) if levels is None else levels
    *_, noisy = sampler.encode(eps_fn, x0, levels)
    *_, clean = sampler.decode(eps_fn, noisy, levels)
    return distance(clean.latent, x0)


def distance(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|, Euclidean norms of the whole batch."""
    return ((found - expected).norm() / expected.norm()).item()


class Order(float):
    """An order of convergence: a number, with the errors that it was fitted to."""

    steps: tuple[int, ...]
    errors: tuple[float, ...]       # one for each number of steps

    def __new__(cls, steps: Sequence[int], errors: Sequence[float]) -> "Order":
        order = super().__new__(cls, fitted_order(steps, errors))
        order.steps, order.errors = tuple(steps), tuple(errors)
        return order

    def __repr__(self) -> str:
        pairs = zip(self.steps, self.errors, strict=True)
        return f"{float(self):.2f} ({', '.join(f'{n} steps: {error:.1e}' for n, error in pairs)})"


def order_of_convergence(
    sampler: str | Sampler,
    steps: Sequence[int] = (25, 50, 100, 200),
    ratio: float = 0.8,
    direction: str = "encode",
    mu: float | Tensor = 1.0,
    s: float = 0.7,
    grid: str = "leading",
) -> Order:
    """How fast the error falls as steps grow, on Gaussian data N(mu, s^2), whose exact solution is known: p in (1/N)^p.

    steps: divisors of 1000, so that all grids reach the same level up to a step. direction: "encode" or "decode".
    mu, s: not 0 and 1, where the solution stands still and many a wrong sampler looks right. grid: levels evenly in t
    ("leading"), or evenly in log(signal / noise) ("lambda"), where samplers that look back a step show their order.
    The result is a number whose repr shows the errors too.
    """
    if direction not in ("encode", "decode"):
        raise ValueError(f"direction {direction!r} is not known; known are encode and decode")
    sampler, x0, errors = sampler_of(sampler), random_latent(0), []
    for N in steps:
        schedule, levels = grid_of(grid, N, ratio)
        eps_fn, k = gaussian_eps(mu, s, schedule), len(levels) - 1
        if direction == "encode":
            *_, last = sampler.encode(eps_fn, x0, levels)
            exact = gaussian_solution(x0, mu, s, levels[0].abar, levels[k].abar)
        else:
            *_, last = sampler.decode(eps_fn, State(k, levels[k], x0), levels)
            exact = gaussian_solution(x0, mu, s, levels[k].abar, levels[0].abar)
        errors.append(distance(last.latent, exact))
    return Order(steps, errors)


def grid_of(grid: str, N: int, ratio: float) -> tuple[Schedule, tuple[Level, ...]]:
    """A schedule, and the clean one and k noisier ones of its levels."""
    if grid == "leading":
        return LEVELS, LEVELS.levels(N, ratio)
    if grid != "lambda":
        raise ValueError(f"grid {grid!r} is not known; known are leading and lambda")
    return EVEN, tuple(EVEN.at(i * (EVEN.T - 1) // N) for i in range(levels_used(ratio, N) + 1))


def even_schedule(T: int) -> Schedule:
    """Stable Diffusion's range of noise, with T + 1 times evenly in log-SNR.

    `schedule.even_in_log_snr` chooses among the 1000 times that a network knows, which near the clean end are further
    apart than the steps of a fine grid: too coarse to measure an order. An analytic eps knows any time.
    """
    first, last = log_snr(LEVELS.at(0)), log_snr(LEVELS.at(LEVELS.T - 1))
    return Schedule(tuple(1 / (1 + math.exp(-2 * (first + (last - first) * t / T))) for t in range(T + 1)))


EVEN = even_schedule(10_000)


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
    """Markdown: the worst round trip over random networks, by the network's dtype, and the orders on data N(0, 1)."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    yield f"| sampler | {' | '.join(str(dtype).split('.')[1] for dtype in dtypes)} | order, encoding | decoding |"
    yield "|---" * 6 + "|"
    for sampler in SAMPLERS.values():
        errors = [max(roundtrip_error(sampler, seed=seed, dtype=dtype) for seed in seeds) for dtype in dtypes]
        orders = [order_of_convergence(sampler, direction=way, mu=0.0, s=1.0) for way in ("encode", "decode")]
        yield (f"| {with_numbers(sampler)} | {' | '.join(f'{error:.0e}' for error in errors)} | "
               f"{' | '.join(f'{order:.1f}' for order in orders)} |")


def with_numbers(sampler: Sampler) -> str:
    """A sampler's name and those of its options that are numbers: "edict, p = 0.93"."""
    numbers = {name: getattr(sampler, name) for name, own in declared(type(sampler)).items() if own.kind in (int, float)
               } if isinstance(sampler, Declared) else {}
    return ", ".join([name_of(sampler), *(f"{name} = {number}" for name, number in numbers.items())])
