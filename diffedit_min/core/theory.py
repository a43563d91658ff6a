"""Proposition 1 of arXiv:2210.11427: how far from the input can an edit end up? Two bounds, and how to measure the
constants in them.

    (4)  SDEdit:   E |x0 - D_r(G_r(x0, eps), Q)| <= (C + 1) tau
    (5)  DiffEdit: E |x0 - D_r(E_r(x0), Q)|      <= K2 tau / sqrt(tau^2 + 1) (tau + sqrt(tau^2 + 1))^K1     [as printed]

    C   bounds |eps(x_t, Q, t)|
    K1  is a Lipschitz constant of eps(., empty text, t), for every t
    K2  is the mean over pictures and queries of max_t |eps(x, Q, t) - eps(x, empty text, t)|
    tau = sqrt(1 / abar_r - 1) at the encoding ratio r (`schedule.tau`)

|.| is the root of the mean square over a latent's numbers (`rms`). With the Euclidean norm, bound (4) would not hold:
a standard normal vector of d dimensions has norm sqrt(d), not 1. The proposition is about editing without a mask.
Figure 3 of the paper draws the bounds for C = 1, K2 = 0.02, K1 = 3.

Bound (5) as printed does not hold for large tau. `diffedit_bound` is a form of it that holds, and no smaller one does.
Both are about the exact solution of the ODE (3). In N steps, decoding doesn't return exactly to x0 even if Q is the
empty text, and no bound here covers this error. But the bound covers what changing the text adds to it, for any N: for
every latent z

    |D_r(z, empty text) - D_r(z, Q)| <= diffedit_bound(tau, K1, K2)      also for Euler's steps,

so the whole error is at most this bound plus the error of the round trip, |x0 - D_r(E_r(x0), empty text)|.
With guidance, eps(., Q, .) is the guided prediction, so K2 grows with the guidance scale.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .guidance import EpsFn
from .schedule import standard_noise
from .state import State

# ---------------------------------------------------------------- the bounds


def sdedit_bound(tau: float, C: float) -> float:
    """Bound (4), (C + 1) tau: tau comes from the noise that SDEdit adds, C tau from decoding. tau, C >= 0.

    It holds for Euler's steps too. It is reached by eps(x, Q, t) = -C n, where n is the noise that was added.
    """
    return (C + 1) * tau


def diffedit_bound_printed(tau: float, K1: float, K2: float) -> float:
    """Bound (5) as the paper prints it: K2 tau / sqrt(tau^2 + 1) (tau + sqrt(tau^2 + 1))^K1. tau, K1, K2 >= 0.

    It does not hold for large tau: the error of `counter_example` is larger where tau is above 0.52, 1.13, 2.47, 3.66,
    5.81 for K1 = 0.5, 1, 2, 3, 5. For K1 = 3 and K2 = 1 this error is 560.4 at tau = 4, where the printed bound is
    520.0, and 2700 at tau = 6, where it is 1740. (Stable Diffusion has tau = 3.3 at r = 0.7 and 5.1 at r = 0.8.)
    """
    return K2 * tau / math.hypot(tau, 1) * exponential(K1 * math.asinh(tau))


def diffedit_bound(tau: float, K1: float, K2: float) -> float:
    """Bound (5) in a form that holds and is sharp: K2 * integral_0^tau (s + sqrt(1 + s^2))^K1 ds. tau, K1, K2 >= 0.

    Around the time s, the two predictions push the decodings apart by K2 ds. From s down to 0 this difference grows by
    the factor exp(integral_0^s K1 dr / sqrt(1 + r^2)) at most, which is the integrand. Since s + sqrt(1 + s^2) is
    e^asinh(s), the integral is, with theta = asinh(tau),

        ( (e^((K1 + 1) theta) - 1) / (K1 + 1)  +  (e^((K1 - 1) theta) - 1) / (K1 - 1) ) / 2

    For K1 = 1 the second term is theta. For K1 = 0 the bound is K2 tau.
    """
    theta = math.asinh(tau)
    return K2 * (growth(K1 + 1, theta) + growth(K1 - 1, theta)) / 2


def growth(a: float, theta: float) -> float:
    """integral_0^theta e^(a r) dr = (e^(a theta) - 1) / a, accurate also where a is 0 or near 0."""
    if a == 0:
        return theta
    return math.inf if a * theta > 700 else math.expm1(a * theta) / a


def exponential(x: float) -> float:
    """e^x; infinite where it is too large for a float."""
    return math.inf if x > 700 else math.exp(x)


def crossing(C: float, K1: float, K2: float, bound: Callable[[float, float, float], float] = diffedit_bound) -> float:
    """The tau where bound(tau, K1, K2) = (C + 1) tau: for a smaller tau, DiffEdit's bound is below SDEdit's.

    For C = 1, K2 = 0.02, K1 = 3 it is 3.547 (t = 716 of Stable Diffusion's 1000), and 3.500 with the printed bound. The
    paper's encoding ratios, 0.8 and more, have a larger tau. The result is 0 if SDEdit's bound is smaller everywhere
    (K2 >= C + 1), and infinite if it is smaller nowhere (K1 = 0), or nowhere below tau = 1e9. It is found by bisection,
    for which bound(tau) / tau must rise with tau: this is so for `diffedit_bound`, and for `diffedit_bound_printed` if
    K1 >= 1.
    """
    if K2 >= C + 1:
        return 0.0
    low, high = 0.0, 1.0
    while bound(high, K1, K2) < sdedit_bound(high, C):
        low, high = high, 2 * high
        if high > 1e9:
            return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        if bound(middle, K1, K2) < sdedit_bound(middle, C):
            low = middle
        else:
            high = middle
    return high


def counter_example(K1: float, K2: float) -> tuple[EpsFn, EpsFn]:
    """The eps_fns (query, unconditional) of the worst model that (5) allows: -K1 x - K2 and -K1 x.

    Encoding shrinks u by e^(-K1 asinh(tau)), decoding grows it by the same factor, and every difference of K2 with it.
    So for any x0 the error is equal to `diffedit_bound`. For any K2 > 0 it is above the printed bound at large tau.
    """
    return (lambda x, t: -K1 * x - K2), (lambda x, t: -K1 * x)


# ---------------------------------------------------------------- the constants of a model


@dataclass(frozen=True)
class Constants:
    """The three constants of a model in Proposition 1, measured along some decodings."""

    C: float
    K1: float       # a lower estimate: the true Lipschitz constant, and so bound (5), may be larger
    K2: float


def rms(x: Tensor) -> Tensor:
    """Each picture's norm as Proposition 1 needs it, the Euclidean norm / sqrt(d): (B, C, h, w) -> (B,)."""
    return x.flatten(1).square().mean(dim=1).sqrt()


def measure_constants(
    eps_query: EpsFn, eps_uncond: EpsFn, trajectory: Sequence[State], iterations: int = 4, seed: int = 0,
) -> Constants:
    """C, K1 and K2 along a decoding of B pictures: trajectory is `list(DDIM().decode(eps_query, ...))`.

        C  = max over levels and pictures of |eps_query|         K1 = max of `lipschitz` over levels
        K2 = mean over pictures of the max over levels of |eps_query - eps_uncond|

    The levels are those at which decoding needs a prediction, that is, all but levels[0]. Each takes iterations + 2
    calls of B rows. Raises ValueError if there is no such level.
    """
    states = [state for state in trajectory if state.index > 0]
    if not states:
        raise ValueError("the trajectory holds no level above the clean one: nothing was decoded")
    sizes, differences, slopes = [], [], []
    for state in states:
        x, t = state.latent, state.level.t
        query, uncond = eps_query(x, t), eps_uncond(x, t)
        sizes.append(rms(query))                                    # (B,)
        differences.append(rms(query - uncond))                     # (B,)
        slopes.append(lipschitz(eps_uncond, x, t, uncond, iterations, seed))
    return Constants(
        C=torch.stack(sizes).max().item(),
        K1=max(slopes),
        K2=torch.stack(differences).amax(dim=0).mean().item(),
    )


def lipschitz(
    eps_fn: EpsFn, x: Tensor, t: int, at_x: Tensor, iterations: int = 4, seed: int = 0, size: float = 1e-2,
) -> float:
    """A lower estimate of the Lipschitz constant of eps(., t) around x: the largest |eps(x + d) - eps(x)| / |d| found.

    The first d is random. Each further d is the last difference eps(x + d) - eps(x), scaled to |d| = `size`. This is
    power iteration: if the Jacobian of eps is symmetric, as that of a true score is, d turns to the direction in which
    eps changes most. Every d gives a lower estimate, so after too few iterations the estimate is only lower, not wrong:
    on random U-Nets, 4 iterations find 0.8 to 0.9 of what 16 find. at_x: eps(x, t), of x's shape. The network needs
    float32 at least: in half precision the difference would be nothing but rounding error.
    """
    d, found = standard_noise(x, (seed,) * len(x), "lipschitz", index=t), 0.0
    for _ in range(iterations):
        d = d * (size / rms(d).clamp_min(1e-30))[:, None, None, None]           # where eps is flat d stays 0
        difference = eps_fn(x + d, t) - at_x
        found = max(found, (rms(difference).max() / size).item())
        d = difference
    return found
