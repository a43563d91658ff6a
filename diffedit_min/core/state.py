"""What a sampler is: it goes both ways, with `encode` from a picture's latent to noise, and with `decode` back.

    encode(eps_fn, x0, levels)                  -> states at levels[0], levels[1], ..., levels[-1]
    decode(eps_fn, state, levels, blend=None)   -> states at the state's level, ..., levels[1], levels[0]

Both are generators of `State`s; the first one is the state that they start from. `levels` rise in noise. levels[0] is
the clean level, whose abar is 1 or a little less. Decoding can go on from any state, since a sampler remembers nothing
from one call to the next. Any object with these two methods will do. DDIM, the paper's sampler, is in ddim.py; the
others are in samplers/.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .guidance import EpsFn
from .schedule import Level


@dataclass(frozen=True)
class State:
    """A latent at a noise level, and whatever else its sampler needs to go on (DDIM: nothing)."""

    index: int                                      # of the level: it is levels[index]
    level: Level
    latent: Tensor                                  # (B, C, h, w), at that level
    partners: tuple[tuple[int, Tensor], ...] = ()   # further latents, each with the index of its level
    memory: tuple[int, Tensor] | None = None        # the index of an earlier level, and what was predicted there

    @property
    def latents(self) -> Tensor:
        """The latent and its partners at the same level, side by side as channels: (B, m C, h, w), mostly m = 1."""
        others = [partner for index, partner in self.partners if index == self.index]
        return torch.cat([self.latent, *others], dim=1) if others else self.latent

    def map(self, change: Callable[[Tensor], Tensor]) -> "State":
        """A new state whose tensors are `change` of this one's: for example, only some rows of the batch."""
        memory = None if self.memory is None else (self.memory[0], change(self.memory[1]))
        partners = tuple((index, change(partner)) for index, partner in self.partners)
        return State(self.index, self.level, change(self.latent), partners, memory)

    @classmethod
    def join(cls, states: Sequence["State"]) -> "State":
        """The states of several pictures at one level, joined to one state of the whole batch."""
        first = states[0]
        partners = tuple((index, torch.cat([state.partners[i][1] for state in states]))
                         for i, (index, _) in enumerate(first.partners))
        memory = first.memory and (first.memory[0], torch.cat([state.memory[1] for state in states]))
        return cls(first.index, first.level, torch.cat([state.latent for state in states]), partners, memory)


class Blend(Protocol):
    """A change of each latent while decoding, for example DiffEdit's blend.

    It is called once for each new latent, and decoding goes on with what it returns.
    """

    def __call__(self, latent: Tensor, index: int) -> Tensor:
        """latent (B, C, h, w) at levels[index] -> the same shape.

        A sampler with two latents at one level passes both together, as `State.latents` holds them. If the first state
        has a partner at a lower level, that latent was encoded or blended before, so it isn't blended again.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """Any object with these two methods. `testing.check_sampler` checks that it does what is said here.

    It may also have attributes for reports: the texts `title`, `equation` and `source`; `straight`, True if two
    neighbouring states have the same predicted clean image and noise, as with DDIM; `exact`, True if decoding undoes
    encoding up to rounding; and `order`, its order of convergence.
    """

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r: from x0 (B, C, h, w) at levels[0] up to levels[-1]; the first state holds x0 itself.

        In a step, the network sees the t of level_from, of level_to, or of a level between them.
        """
        ...

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r: from `state`, at any level, down to levels[0]; the first state is the given one.

        The network sees each latent with the t of that latent's own level.
        """
        ...


class Trajectory(tuple):
    """States by level: trajectory[j] is at levels[j]. An encoding also keeps a record of what made it (reuse.py)."""

    made: tuple[dict, ...] = ()     # the record of each row of the batch; empty if there is none

    def __new__(cls, states=(), made=()):
        trajectory = super().__new__(cls, states)
        trajectory.made = tuple(made)
        return trajectory

    def __getitem__(self, chosen):
        """The state at a level; for a slice, a Trajectory with the same record."""
        found = super().__getitem__(chosen)
        return Trajectory(found, self.made) if isinstance(chosen, slice) else found

    @classmethod
    def join(cls, several: Sequence["Trajectory"]) -> "Trajectory":
        """The trajectories of several pictures, of equal length, joined to one of the whole batch."""
        made = [getattr(each, "made", ()) for each in several]      # a plain tuple of states has none
        return cls(map(State.join, zip(*several, strict=True)), sum(made, ()) if all(made) else ())

    def rows(self, chosen: slice) -> "Trajectory":
        """The trajectory of some rows of the batch."""
        return Trajectory((state.map(lambda latent: latent[chosen]) for state in self), self.made[chosen])
