"""What the clauses of `check_sampler` are made of: data whose answer is known, walks along it, and what is seen there.

On most of them the network always predicts the same noise. Then every latent is exactly sqrt(abar) picture +
sqrt(1 - abar) noise, whatever the sampler, and how much noise is in it tells at which level it stands.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from ..core.guidance import EpsFn
from ..core.schedule import Level, add_noise, even_in_log_snr, generator
from ..core.state import Blend, Sampler, State
from ..samplers import sampler_of
from .kit import LEVELS, distance

SHAPE = (2, 3, 4, 6)                    # (B, C, h, w), small: a whole check takes a second

# The usual levels, and some whose steps in t grow: a sampler has no grid of its own. 7 steps, an odd number, each.
GRID = LEVELS.levels(10, 0.7)
UNEVEN_GRID = even_in_log_snr(LEVELS, LEVELS.levels(8, 0.9))
FINE_GRID = even_in_log_snr(LEVELS, LEVELS.levels(40, 0.8))


def drawn(name: str) -> Tensor:
    """N(0, I), the same for the same name."""
    return torch.randn(SHAPE, dtype=torch.float64, generator=generator(0, name, 0))


PICTURE, NOISE, OTHER_PICTURE = drawn("picture"), drawn("noise"), drawn("other picture")
X0 = add_noise(PICTURE, NOISE, GRID[0].abar)


def require(holds: bool, message: str) -> None:
    """AssertionError unless it holds. (`assert` would be silent under python -O.)"""
    if not holds:
        raise AssertionError(message)


# ---------------------------------------------------------------- networks


def same_noise(x: Tensor, t: int) -> Tensor:
    """The network that always predicts NOISE."""
    return NOISE.to(x.dtype).clone()


def waves(number: int = 0) -> EpsFn:
    """A network that depends on x and t, smoothly: each cell on its neighbours, no row on another. Others have others.

    In x its slope is below 1, so that a fixed-point iteration converges quickly.
    """

    def eps_fn(x: Tensor, t: int) -> Tensor:
        around = 2 * x + x.roll(1, dims=1) - x.roll(1, dims=2)
        return 0.2 * torch.sin(around + number) + math.cos(t / 200 + number)

    return eps_fn


@dataclass
class Watched:
    """A network, and what it was asked."""

    eps_fn: EpsFn
    asked: list[tuple[Tensor, int]] = field(default_factory=list)

    def __call__(self, x: Tensor, t: int) -> Tensor:
        self.asked.append((x, t))
        return self.eps_fn(x, t)

    def between(self, states: Iterable[State]) -> Iterator[tuple[State, list[tuple[Tensor, int]]]]:
        """Each state, with what was asked to make it."""
        for state in states:
            asked, self.asked = self.asked, []
            yield state, asked


# ---------------------------------------------------------------- walks


def encoded(sampler: str | Sampler, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> list[State]:
    """The states of an encoding, of a copy of x0: a wrong sampler may change it."""
    return list(going_up(sampler, eps_fn, x0.clone(), levels))


def decoded(
    sampler: str | Sampler, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
) -> list[State]:
    """The states of a decoding, the cleanest last."""
    return list(going_down(sampler, eps_fn, state, levels, blend))


def going_up(sampler: str | Sampler, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
    """The same one by one."""
    return states_of("encode", sampler_of(sampler).encode(eps_fn, x0, levels), len(levels))


def going_down(
    sampler: str | Sampler, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
) -> Iterator[State]:
    """The same one by one."""
    return states_of("decode", sampler_of(sampler).decode(eps_fn, state, levels, blend), len(levels))


def states_of(name: str, states: Iterable[State], count: int) -> Iterator[State]:
    """States along so many levels, and one more if there are more: a wrong sampler may never end."""
    for state in islice(states, count + 1):
        require(isinstance(state, State), f"{name} must yield States, not {type(state).__name__}")
        require(state.index in range(count), f"{name} yields a state of an index that no level has")
        yield state


def top(levels: Sequence[Level], picture: Tensor = PICTURE) -> State:
    """The noisiest level's state, with nothing but a latent."""
    return State(len(levels) - 1, levels[-1], add_noise(picture, NOISE, levels[-1].abar))


def parts(state: State) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state, each with its name in words."""
    yield f"the latent of state {state.index}", state.latent
    for index, partner in state.partners:
        yield f"the partner at level {index} of state {state.index}", partner
    if state.memory is not None:
        yield f"the memory of state {state.index}", state.memory[1]


# ---------------------------------------------------------------- what is seen


def require_levels(states: Sequence[State], indices: Iterable[int], levels: Sequence[Level]) -> None:
    """States at these indices, in this order, each with its level."""
    expected, seen = list(indices), [state.index for state in states]
    require(seen == expected, f"expected states of the indices {expected}, but got {seen}")
    for state in states:
        require(state.level == levels[state.index],
                f"the state of index {state.index} says {state.level}, but levels[{state.index}] is "
                f"{levels[state.index]}")


def require_equal(found: Tensor, expected: Tensor, what: str, within: float = 0.0) -> None:
    """Equal to the last bit, or within this part of the expected one's size."""
    require(found.shape == expected.shape, f"{what}: expected shape {tuple(expected.shape)}, got {tuple(found.shape)}")
    if not torch.equal(found, expected):
        away = distance(found, expected)
        require(within > 0 and away <= within, f"{what}: differs by {away:.1e} of its size "
                f"({'it must be equal to the last bit' if within == 0 else f'at most {within:.0e} is allowed'})")


def require_same_states(found: Sequence[State], expected: Sequence[State], what: str) -> None:
    """The same states to the last bit, partners and memory included."""
    require(len(found) == len(expected), f"{what}: expected {len(expected)} states, got {len(found)}")
    for one, other in zip(found, expected, strict=True):
        require([name for name, _ in parts(one)] == [name for name, _ in parts(other)],
                f"{what}: state {one.index} is made of other parts than state {other.index} was")
        for (name, tensor), (_, wanted) in zip(parts(one), parts(other), strict=True):
            require_equal(tensor, wanted, f"{what}: {name}")


def require_stands(latent: Tensor, index: int, levels: Sequence[Level], what: str, picture: Tensor = PICTURE) -> None:
    """A latent of this picture and NOISE stands at levels[index]."""
    abar = levels[index].abar
    require(latent.shape == SHAPE, f"{what}: expected shape {SHAPE}, got {tuple(latent.shape)}")
    if not distance(latent, add_noise(picture, NOISE, abar)) <= 1e-5:         # not a number counts too
        signal, noise, rest = contents(latent, picture)
        t = time_of(latent, picture)
        require(False, f"{what} must stand at levels[{index}], t = {levels[index].t}, and be {abar**0.5:.4f} picture + "
                f"{(1 - abar) ** 0.5:.4f} noise; it is {signal:.4f} picture + {noise:.4f} noise"
                + (f" (and {rest:.0%} of it is neither)" if rest >= 0.01 else "" if t is None else f", as near t = {t}"))


def contents(latent: Tensor, picture: Tensor = PICTURE) -> tuple[float, float, float]:
    """How much of the picture and of NOISE is in a latent, and which part of it is neither."""
    if latent.shape != SHAPE or not latent.isfinite().all():
        return math.nan, math.nan, math.nan
    both = torch.stack([picture.flatten(), NOISE.flatten()], dim=1)
    signal, noise = torch.linalg.lstsq(both, latent.double().flatten()[:, None]).solution.flatten().tolist()
    return signal, noise, distance(signal * picture + noise * NOISE, latent)


def time_of(latent: Tensor, picture: Tensor = PICTURE) -> int | None:
    """The time whose level a latent is nearest to; None if it is no picture with some noise."""
    signal, noise, rest = contents(latent, picture)
    if not (rest < 0.01 and signal > 0):
        return None
    abar = 1 / (1 + (noise / signal) ** 2)
    return min(range(LEVELS.T), key=lambda t: abs(LEVELS.abar[t] - abar))


@dataclass
class Blending:
    """A blend that does `change` (latent, index -> latent), and what it was given and gave back."""

    change: Callable[[Tensor, int], Tensor] = lambda latent, index: latent
    given: list[tuple[int, Tensor]] = field(default_factory=list)
    returned: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, latent: Tensor, index: int) -> Tensor:
        self.given.append((index, latent.clone()))
        self.returned[index] = self.change(latent, index)
        return self.returned[index]
