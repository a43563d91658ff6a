"""Proposition 1 of arXiv:2210.11427: how far from the input can an edit end up? Two bounds, their constants measured.

    (4)  SDEdit:   E |x0 - D_r(G_r(x0, eps), Q)| <= (C + 1) tau
    (5)  DiffEdit: E |x0 - D_r(E_r(x0), Q)|      <= K2 tau / sqrt(tau^2 + 1) (tau + sqrt(tau^2 + 1))^K1     [as printed]

    C   bounds |eps(x_t, Q, t)|
    K1  is a Lipschitz constant of eps(., empty text, t), for every t
    K2  is the mean over pictures and queries of max_t |eps(x, Q, t) - eps(x, empty text, t)|
    tau = sqrt(1 / abar_r - 1) at the encoding ratio r (`schedule.tau`)

|.| is the root of the mean square over a latent's numbers (`rms`): with the Euclidean norm (4) would fail, since a
standard normal of d dimensions has norm sqrt(d), not 1. No mask. Figure 3 draws them for C = 1, K2 = 0.02, K1 = 3.

(5) as printed does not hold for large tau; `diffedit_bound` is the form that does, and that can't be improved. Both
speak of the ODE (3), not of its steps: encoding and decoding in N steps differ even for Q = the empty text, by an error
that no bound here covers. What K2 and K1 add to it is covered at any N, however: for every latent z

    |D_r(z, empty text) - D_r(z, Q)| <= diffedit_bound(tau, K1, K2)      also for Euler's steps,

and hence the whole error is at most the bound plus the round trip's own |x0 - D_r(E_r(x0), empty text)|.
Under guidance eps(., Q, .) is the guided prediction, so K2 grows with the guidance scale.
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
    """Bound (4), (C + 1) tau: tau from the noise that SDEdit adds, C tau from decoding. tau, C >= 0.

    Holds for Euler's steps too, and is attained: eps(x, Q, t) = -C n, where n is the noise that was added.
    """
    return (C + 1) * tau


def diffedit_bound_printed(tau: float, K1: float, K2: float) -> float:
    """Bound (5) as the paper prints it: K2 tau / sqrt(tau^2 + 1) (tau + sqrt(tau^2 + 1))^K1. tau, K1, K2 >= 0.

    Not valid for large tau: `counter_example` exceeds it beyond tau = 0.52, 1.13, 2.47, 3.66, 5.81 for K1 = 0.5, 1, 2,
    3, 5. With K1 = 3 and K2 = 1 its error is 560.4 at tau = 4, against 520.0 here, and 2700 at tau = 6, against 1740.
    (Stable Diffusion has tau = 3.3 at r = 0.7 and 5.1 at r = 0.8.)
    """
    return K2 * tau / math.hypot(tau, 1) * exponential(K1 * math.asinh(tau))


def diffedit_bound(tau: float, K1: float, K2: float) -> float:
    """Bound (5) in a form that holds, and is sharp: K2 * integral_0^tau (s + sqrt(1 + s^2))^K1 ds. tau, K1, K2 >= 0.

    A difference of K2 ds made at s grows, on the way down to 0, by exp(integral_0^s K1 dr / sqrt(1 + r^2)), which is
    the integrand. With theta = asinh(tau), hence s + sqrt(1 + s^2) = e^asinh(s), the integral is

        ( (e^((K1 + 1) theta) - 1) / (K1 + 1)  +  (e^((K1 - 1) theta) - 1) / (K1 - 1) ) / 2

    whose second term is theta for K1 = 1. For K1 = 0 the bound is K2 tau.
    """
    theta = math.asinh(tau)
    return K2 * (growth(K1 + 1, theta) + growth(K1 - 1, theta)) / 2


def growth(a: float, theta: float) -> float:
    """integral_0^theta e^(a r) dr = (e^(a theta) - 1) / a, exact to rounding at and around a = 0 as well."""
    if a == 0:
        return theta
    return math.inf if a * theta > 700 else math.expm1(a * theta) / a


def exponential(x: float) -> float:
    """e^x, infinite where a float can't hold it."""
    return math.inf if x > 700 else math.exp(x)


def crossing(C: float, K1: float, K2: float, bound: Callable[[float, float, float], float] = diffedit_bound) -> float:
    """The tau up to which DiffEdit's bound is tighter than SDEdit's, bound(tau, K1, K2) = (C + 1) tau, by bisection.

    For C = 1, K2 = 0.02, K1 = 3 it is 3.547 (train step 716 of Stable Diffusion's 1000), and 3.500 with the printed
    bound: the paper's encoding ratios, 0.8 and up, lie beyond both. 0 if SDEdit's is tighter from the start
    (K2 >= C + 1); infinite if it never is (K1 = 0), or not below tau = 1e9. bound(tau) / tau must rise with tau, as it
    does for `diffedit_bound`, and for `diffedit_bound_printed` if K1 >= 1.
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

    Encoding shrinks u by e^(-K1 asinh(tau)) and decoding undoes that, so nothing softens what K2 does on the way: the
    error is `diffedit_bound` itself, for any x0. It breaks the printed bound for whatever K2 > 0.
    """
    return (lambda x, t: -K1 * x - K2), (lambda x, t: -K1 * x)


# ---------------------------------------------------------------- the constants of a model


@dataclass(frozen=True)
class Constants:
    """What Proposition 1 knows of a model, as measured along some paths."""

    C: float
    K1: float       # a lower estimate: the true Lipschitz constant may be larger, and (5) with it
    K2: float


def rms(x: Tensor) -> Tensor:
    """Each picture's norm as Proposition 1 needs it, |x|_2 / sqrt(d): (B, C, h, w) -> (B,)."""
    return x.flatten(1).square().mean(dim=1).sqrt()


def measure_constants(
    eps_query: EpsFn, eps_uncond: EpsFn, trajectory: Sequence[State], iterations: int = 4, seed: int = 0,
) -> Constants:
    """C, K1 and K2 along a decoding path: `list(ddim.decode(eps_query, ...))`, B pictures of (C, h, w) each.

        C  = max over levels and pictures of |eps_query|         K1 = max of `lipschitz` over levels
        K2 = mean over pictures of the max over levels of |eps_query - eps_uncond|

    At the levels where decoding asks the network, that is, all but levels[0]. Each costs iterations + 2 calls, all of B
    rows. Raises ValueError if there is no such level.
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

    d is random at first and then, scaled to |d| = `size`, the last difference itself: power iteration, which turns d
    into the direction that eps stretches most where eps's Jacobian is symmetric (a true score's is). Any pair
    of points gives a lower estimate, so a d that has not converged makes it lower, not wrong. at_x: eps(x, t), of x's
    shape. On random U-Nets 4 iterations find 0.8 to 0.9 of what 16 do. The network needs float32 at least: in half
    precision the difference would be rounding.
    """
    d, found = standard_noise(x, (seed,) * len(x), "lipschitz", index=t), 0.0
    for _ in range(iterations):
        d = d * (size / rms(d).clamp_min(1e-30))[:, None, None, None]           # where eps is flat d stays 0
        difference = eps_fn(x + d, t) - at_x
        found = max(found, (rms(difference).max() / size).item())
        d = difference
    return found
