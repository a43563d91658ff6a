"""Samplers that go both ways: `encode` from a latent to noise, `decode` back.

A sampler is a module with those two functions, both generators of `State`s in level order:

    encode(eps_fn, x0, levels)              -> states at levels[0], levels[1], ..., levels[-1]
    decode(eps_fn, state, levels, blend)    -> states at the state's level, ..., levels[1], levels[0]

`levels` rise in noise; `levels[0]` is clean. `blend(latent, index)` is applied once to each latent that decoding makes,
with the index of the level that it stands at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..schedule import Level

Blend = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class State:
    """Where a sampler stands: a latent at a level, and what else its method carries along (DDIM: nothing)."""

    index: int                                      # of its level: levels[index]
    level: Level
    latent: Tensor                                  # (B, C, h, w), standing at that level
    partners: tuple[tuple[int, Tensor], ...] = ()   # further latents, each with its own level's index
    memory: Any = None                              # whatever isn't a latent
