"""Samplers that go both ways: `encode` from a latent to noise, `decode` back.

A sampler is a module with those two functions, both generators of `State`s in level order:

    encode(eps_fn, x0, levels)              -> states at levels[0], levels[1], ..., levels[-1]
    decode(eps_fn, state, levels, blend)    -> states at the state's level, ..., levels[1], levels[0]

`levels` rise in noise; `levels[0]` is clean. DDIM is the paper's; its decoding undoes its encoding only up to the step
size, and so does dpm_solver, of order 2. The others undo theirs exactly: fixed_point solves each encoding step, edict,
bdia and belm carry a second latent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..schedule import Level


class Blend(Protocol):
    """What is done to latents on the way down. It is applied once to each latent that decoding makes."""

    def __call__(self, latent: Tensor, index: int, which: int = 0) -> Tensor:
        """latent (B, C, h, w) at levels[index] -> the same shape. which: 1 for the second of two at that level."""
        ...


@dataclass(frozen=True)
class State:
    """Where a sampler stands: a latent at a level, and what else its method carries along (DDIM: nothing)."""

    index: int                                      # of its level: levels[index]
    level: Level
    latent: Tensor                                  # (B, C, h, w), standing at that level
    partners: tuple[tuple[int, Tensor], ...] = ()   # further latents, each with its own level's index
    memory: tuple[int, Tensor] | None = None        # a prediction of x0 (B, C, h, w), and its level's index

    @property
    def latents(self) -> tuple[Tensor, ...]:
        """Those that stand at this level: the latent, and the partners that do."""
        return self.latent, *(partner for index, partner in self.partners if index == self.index)

    def map(self, change: Callable[[Tensor], Tensor]) -> "State":
        """The same state of other rows: each tensor changed."""
        memory = None if self.memory is None else (self.memory[0], change(self.memory[1]))
        partners = tuple((index, change(partner)) for index, partner in self.partners)
        return State(self.index, self.level, change(self.latent), partners, memory)
