"""Several pictures at once: what belongs to which, and which of them can run as one batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..samplers import State

Trajectory = tuple[State, ...]      # by level: trajectory[j] is at levels[j]


def spread(value: Any, count: int, name: str) -> list[Any]:
    """One value for all pictures, or one each."""
    if isinstance(value, str | int):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{count} pictures but {len(values)} {name}: give one for all, or one each")
    return values


def each_ones(value: Any, single: bool, count: int, name: str) -> list[Any]:
    """What earlier Edits hold, one for each picture; None for each if there is nothing."""
    if single and count > 1:
        raise ValueError(f"{name} belongs to one picture, but {count} are given")
    return [None] * count if value is None else [value] if single else spread(value, count, name)


def joined(trajectories: Sequence[Trajectory | None]) -> Trajectory | None:
    """Pictures' trajectories as their batch's, as far as the shortest goes; None if one of them has none."""
    if not all(trajectories):
        return None
    batch = []
    for states in zip(*trajectories, strict=False):     # at one level each
        first = states[0]
        partners = tuple((index, torch.cat([state.partners[i][1] for state in states]))
                         for i, (index, _) in enumerate(first.partners))
        latent = torch.cat([state.latent for state in states])      # (B, C, h, w)
        memory = first.memory and (first.memory[0], torch.cat([state.memory[1] for state in states]))
        batch.append(State(first.index, first.level, latent, partners, memory))
    return tuple(batch)


def same_shapes(tensors: list[Tensor]) -> list[list[int]]:
    """The indices, grouped by shape: what can run as one batch."""
    groups: dict[torch.Size, list[int]] = {}
    for i, tensor in enumerate(tensors):
        groups.setdefault(tensor.shape, []).append(i)
    return list(groups.values())
