"""What the clauses of `check_sampler` are made of: networks whose answers are known, walks, and what is seen there.

Mostly the network always predicts the same noise. Then every latent is exactly sqrt(abar) picture + sqrt(1 - abar)
noise, whatever the sampler, and how much noise is in it tells at which level it stands.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.guidance import EpsFn
from ..core.schedule import Level, add_noise, even_in_log_snr, generator
from ..core.state import Blend, Sampler, State
from ..samplers import sampler_of
from .kit import LEVELS, distance

Told = str | Sampler                    # a sampler or its name

SHAPE = (2, 3, 4, 6)                    # (B, C, h, w), small, so that a whole check takes a second

# The usual levels; some whose steps in t grow, since a sampler has no grid of its own; and many. The first two have 7
# steps, an odd number.
GRID = LEVELS.levels(10, 0.7)
UNEVEN_GRID = even_in_log_snr(LEVELS, LEVELS.levels(8, 0.9))
FINE_GRID = even_in_log_snr(LEVELS, LEVELS.levels(40, 0.8))


class Contract(list):
    """Clauses in the order in which they stand in their file: functions that raise AssertionError."""

    def clause(self, function: Callable[[Any], None]) -> Callable[[Any], None]:
        """Decorates a clause: adds it to the contract."""
        self.append(function)
        return function


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
    return NOISE.to(x.dtype, copy=True)


def waves(number: int = 0) -> EpsFn:
    """A network that depends on x and on t, another for each number: each cell on its neighbours, no row on another.

    It changes slowly with x, so that a fixed-point iteration converges quickly.
    """

    def eps_fn(x: Tensor, t: int) -> Tensor:
        around = 2 * x + x.roll(1, dims=1) - x.roll(1, dims=2)
        return 0.2 * torch.sin(around + number) + math.cos(t / 200 + number)

    return eps_fn


@dataclass
class Watched:
    """A network, and what it was asked since the last state."""

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


@dataclass
class Blending:
    """A blend that does `change` (latent, index -> latent), with what it was given and what it gave back."""

    change: Callable[[Tensor, int], Tensor] = lambda latent, index: latent
    given: list[tuple[int, Tensor]] = field(default_factory=list)
    returned: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, latent: Tensor, index: int) -> Tensor:
        self.given.append((index, latent.clone()))
        self.returned[index] = self.change(latent, index)
        return self.returned[index]


# ---------------------------------------------------------------- walks


def encoded(sampler: Told, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> list[State]:
    """The states of an encoding, of a copy of x0: a wrong sampler may change it."""
    return list(going_up(sampler, eps_fn, x0.clone(), levels))


def decoded(
    sampler: Told, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
) -> list[State]:
    """The states of a decoding, the cleanest last."""
    return list(going_down(sampler, eps_fn, state, levels, blend))


def going_up(sampler: Told, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
    """The states of an encoding, one by one."""
    return states_of("encode", sampler_of(sampler).encode(eps_fn, x0, levels), len(levels))


def going_down(
    sampler: Told, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
) -> Iterator[State]:
    """The states of a decoding, one by one."""
    return states_of("decode", sampler_of(sampler).decode(eps_fn, state, levels, blend), len(levels))


def states_of(name: str, states: Iterable[State], count: int) -> Iterator[State]:
    """The states along so many levels, and one more if there are more: a wrong sampler may never end."""
    for state in islice(states, count + 1):
        require(isinstance(state, State), f"{name} must yield States, not {type(state).__name__}")
        require(state.index in range(count), f"{name} yields a state of an index that no level has")
        yield state


def top(levels: Sequence[Level]) -> State:
    """The state at the noisiest level of PICTURE and NOISE, with nothing but a latent."""
    return State(len(levels) - 1, levels[-1], add_noise(PICTURE, NOISE, levels[-1].abar))


def parts(state: State) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state, each with its name in words."""
    yield f"the latent of state {state.index}", state.latent
    for index, partner in state.partners:
        yield f"the partner at level {index} of state {state.index}", partner
    if state.memory is not None:
        yield f"the memory of state {state.index}", state.memory[1]


# ---------------------------------------------------------------- what must be seen


def require_levels(states: Sequence[State], indices: Iterable[int], levels: Sequence[Level]) -> None:
    """States of these indices, in this order, each with its level."""
    expected, seen = list(indices), [state.index for state in states]
    require(seen == expected, f"the states must have the indices {expected}, but they have {seen}")
    for state in states:
        require(state.level == levels[state.index], f"the state of index {state.index} says {state.level}, but "
                f"levels[{state.index}] is {levels[state.index]}")


def require_equal(found: Tensor, expected: Tensor, what: str, within: float = 0.0) -> None:
    """Equal to the last bit, or within this part of the expected one's size."""
    require(found.shape == expected.shape,
            f"{what}: the shape must be {tuple(expected.shape)}, not {tuple(found.shape)}")
    if not torch.equal(found, expected):
        away = distance(found, expected)
        require(away <= within if within else False, f"{what}: they differ by {away:.1e} of their size, "
                + (f"and at most {within:.0e} is allowed" if within else "but must be equal to the last bit"))


def require_same_states(found: Sequence[State], expected: Sequence[State], what: str) -> None:
    """The same states to the last bit, partners and memory included."""
    require(len(found) == len(expected), f"{what}: there must be {len(expected)} states, not {len(found)}")
    for one, other in zip(found, expected, strict=True):
        names, wanted = [name for name, _ in parts(one)], [name for name, _ in parts(other)]
        require(names == wanted, f"{what}: expected were {', '.join(wanted)}, but there are {', '.join(names)}")
        for (name, tensor), (_, twin) in zip(parts(one), parts(other), strict=True):
            require_equal(tensor, twin, f"{what}, {name}")


def require_stands(latent: Tensor, index: int, levels: Sequence[Level], what: str) -> None:
    """A latent of PICTURE and NOISE stands at levels[index]."""
    abar = levels[index].abar
    require(latent.shape == SHAPE, f"{what}: the shape must be {SHAPE}, not {tuple(latent.shape)}")
    if distance(latent, add_noise(PICTURE, NOISE, abar)) <= 1e-5:
        return
    picture, noise, rest = contents(latent)
    near = "" if (t := time_of(latent)) is None else f", as near t = {t}"
    require(False, f"{what} must be {abar**0.5:.4f} picture + {(1 - abar) ** 0.5:.4f} noise, as at levels[{index}], "
            f"t = {levels[index].t}; but it is {picture:.4f} picture + {noise:.4f} noise"
            + (f", and {rest:.0%} of it is neither" if rest >= 0.01 else near))


def require_states_stand(states: Sequence[State], levels: Sequence[Level]) -> None:
    """The latents of all states stand at their levels, and so do the partners."""
    for state in states:
        require_stands(state.latent, state.index, levels, f"the latent of state {state.index}")
        for index, partner in state.partners:
            require_stands(partner, index, levels, f"the partner at level {index} of state {state.index}")


def contents(latent: Tensor, picture: Tensor = PICTURE) -> tuple[float, float, float]:
    """How much of a picture and how much of NOISE is in a latent, and which part of it is neither."""
    if latent.shape != SHAPE or not latent.isfinite().all():
        return math.nan, math.nan, math.nan
    both = torch.stack([picture.flatten(), NOISE.flatten()], dim=1)
    found = torch.linalg.lstsq(both, latent.to(both.dtype).flatten()[:, None]).solution     # (2, 1)
    return found[0].item(), found[1].item(), distance((both @ found).view(SHAPE), latent)


def time_of(latent: Tensor) -> int | None:
    """The time whose level a latent of PICTURE and NOISE is nearest to; None if it is nothing of the kind."""
    picture, noise, rest = contents(latent)
    if not (rest < 0.01 and picture > 0):
        return None
    abar = 1 / (1 + (noise / picture) ** 2)
    return min(range(LEVELS.T), key=lambda t: abs(LEVELS.abar[t] - abar))


# ---------------------------------------------------------------- what all of a process shares


def global_state() -> dict[str, Any]:
    """By name, in a form that can be compared."""
    return {"torch's random numbers": torch.get_rng_state().tolist(), "Python's random numbers": random.getstate(),
            "numpy's random numbers": repr(np.random.get_state()), "torch's default dtype": torch.get_default_dtype(),
            "whether gradients are recorded": torch.is_grad_enabled()}


@contextmanager
def global_state_kept() -> Iterator[None]:
    """Meanwhile random numbers from a seed that nobody else takes, and gradients; afterwards all as it was before."""
    ours, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(22_101_127)
        torch.set_grad_enabled(True)
        yield
    finally:
        torch.set_rng_state(ours)
        np.random.set_state(numpys)
        random.setstate(pythons)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
