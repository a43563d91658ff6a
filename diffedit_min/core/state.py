"""What a sampler is: it goes both ways, `encode` from a latent to noise, `decode` back.

    encode(eps_fn, x0, levels)                  -> states at levels[0], levels[1], ..., levels[-1]
    decode(eps_fn, state, levels, blend=None)   -> states at the state's level, ..., levels[1], levels[0]

Both are generators of `State`s, the one that they start from first. `levels` rise in noise; `levels[0]` is clean, of
abar 1 or a little less. A state is all that decoding needs to go on: nothing is kept on the sampler from one call to
the next. Any object with these two methods will do. DDIM, the paper's, is in ddim.py; the others are in samplers/.
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
    """Where a sampler stands: a latent at a level, and what else its method carries along (DDIM: nothing)."""

    index: int                                      # of its level: levels[index]
    level: Level
    latent: Tensor                                  # (B, C, h, w), at that level
    partners: tuple[tuple[int, Tensor], ...] = ()   # further latents, each with its own level's index
    memory: tuple[int, Tensor] | None = None        # an earlier prediction (B, C, h, w), and its level's index

    @property
    def latents(self) -> Tensor:
        """All latents of this level, the partners' channels after the latent's own: (B, m C, h, w), mostly m = 1."""
        here = [partner for index, partner in self.partners if index == self.index]
        return torch.cat([self.latent, *here], dim=1) if here else self.latent

    def map(self, change: Callable[[Tensor], Tensor]) -> "State":
        """The same state with each of its tensors changed, for example to other rows of the batch."""
        memory = None if self.memory is None else (self.memory[0], change(self.memory[1]))
        partners = tuple((index, change(partner)) for index, partner in self.partners)
        return State(self.index, self.level, change(self.latent), partners, memory)

    @classmethod
    def join(cls, states: Sequence["State"]) -> "State":
        """Several pictures' states at one level as their batch's."""
        first = states[0]
        partners = tuple((index, torch.cat([state.partners[i][1] for state in states]))
                         for i, (index, _) in enumerate(first.partners))
        memory = first.memory and (first.memory[0], torch.cat([state.memory[1] for state in states]))
        return cls(first.index, first.level, torch.cat([state.latent for state in states]), partners, memory)


class Blend(Protocol):
    """What is done to latents while decoding: DiffEdit's blend, for example. Applied once to each latent, when it is
    made; what it returns is the latent from then on."""

    def __call__(self, latent: Tensor, index: int) -> Tensor:
        """latent (B, C, h, w) at levels[index] -> the same shape.

        A sampler with two latents at one level hands both over together, as `State.latents` holds them. A partner that
        the first state brings along for a lower level was blended, or encoded, before: it isn't blended again.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """Anything with these two methods. `testing.check_sampler` tells whether it keeps to what is said here.

    For reports it may also have attributes: `title`, `equation`, `source` (texts), `straight` (two neighbouring states
    share their x0 and eps, as in DDIM), `exact` (decoding undoes encoding up to rounding) and `order` (of convergence).
    """

    def encode(self, eps_fn: EpsFn, x0: Tensor, levels: Sequence[Level]) -> Iterator[State]:
        """E_r: from x0 (B, C, h, w) at levels[0] up to levels[-1]; the first state holds x0 itself.

        The network is asked with the t of the level left, of the level reached, or of one between.
        """
        ...

    def decode(
        self, eps_fn: EpsFn, state: State, levels: Sequence[Level], blend: Blend | None = None
    ) -> Iterator[State]:
        """D_r: from `state`, at whichever level it is, down to levels[0]; the first state is the given one.

        The network is asked with the t of the level at which the latent stands that it is asked about.
        """
        ...


class Trajectory(tuple):
    """States by level: trajectory[j] is at levels[j]. An encoding also says what made it (reuse.py)."""

    made: tuple[dict, ...] = ()     # one for each row of the batch; none if that is not known

    def __new__(cls, states=(), made=()):
        trajectory = super().__new__(cls, states)
        trajectory.made = tuple(made)
        return trajectory

    def __getitem__(self, chosen):
        """A state; or, of a slice, a Trajectory that was made by the same."""
        found = super().__getitem__(chosen)
        return Trajectory(found, self.made) if isinstance(chosen, slice) else found

    @classmethod
    def join(cls, several: Sequence["Trajectory"]) -> "Trajectory":
        """Several pictures' trajectories, of as many levels each, as their batch's."""
        made = [getattr(each, "made", ()) for each in several]      # a plain tuple of states has none
        return cls(map(State.join, zip(*several, strict=True)), sum(made, ()) if all(made) else ())

    def rows(self, chosen: slice) -> "Trajectory":
        """Some rows of the batch."""
        return Trajectory((state.map(lambda latent: latent[chosen]) for state in self), self.made[chosen])
