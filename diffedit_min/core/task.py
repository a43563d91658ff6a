"""What a method is given and what it returns.

A method is a generator `run(task, options)` that yields a `Step` for each step taken and returns an `Outcome`. All that
it sees is a latent, a context or a number. From pictures and words to a Task, and from an Outcome to pictures:
methods/method.py. Shapes: B pictures of one size, C channels, h x w latent cells, H x W pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from .guidance import Rows
from .schedule import Schedule
from .state import Trajectory

Context = Any       # what the network is told: of B prompts, as `model.embed` makes it


class Model(Protocol):
    """A checkpoint, as far as methods see it; model/stable_diffusion.py is one."""

    schedule: Schedule

    def embed(self, prompts: list[str]) -> Context:
        """Prompts -> what the network is told."""
        ...

    def eps(self, x: Tensor, t: int, context: Context) -> Tensor:
        """The noise in x (B, C, h, w) at time t."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W)."""
        ...


@dataclass(frozen=True)
class Step:
    """Progress: `index` of `total` steps of `stage` are done; `latent` (B, C, h, w) is what the step made, if any."""

    stage: str
    index: int
    total: int
    latent: Tensor | None = None


@dataclass(frozen=True)
class Offers:
    """What earlier edits hold, for each picture of a batch the ones to choose from."""

    encoded: Sequence[Sequence[Trajectory]] = ()
    mask_map: Sequence[Sequence[Tensor]] = ()       # (h, w) each
    strict: frozenset[str] = frozenset()            # of these names: given by the caller, who is told if they don't fit


@dataclass(frozen=True, eq=False)
class Task:
    """One batch for a method: pictures of one size, as latents."""

    model: Model
    pixels: Tensor                      # (B, 3, H, W) in [-1, 1]
    x0: Tensor                          # (B, C, h, w)
    queries: tuple[str, ...]
    references: tuple[str, ...]
    query: Context                      # B prompts each
    reference: Context
    negative: Context
    empty: Context
    seeds: tuple[int, ...]              # one a picture
    valid: Tensor                       # bool (B, h, w): cells with picture in them, not only padding
    rows: Rows
    keep: str                           # "result" or "trace"
    generate: bool                      # there is no picture (x0 tells the shape only): make one from the seed
    mask: Tensor | None = None          # bool (B, 1, h, w), given by the caller
    offers: Offers = field(default_factory=Offers)      # encodings and maps of earlier edits

    def texts_of(self, told: Context) -> tuple[str, ...]:
        """The words of one of the contexts above; of another one, a hash of its numbers."""
        for context, texts in ((self.empty, ("",) * len(self.queries)), (self.reference, self.references),
                               (self.query, self.queries)):
            if told is context:
                return texts
        tokens = told if isinstance(told, Tensor) else told.tokens
        return tuple(f"context {hashlib.sha256(row.cpu().float().numpy().tobytes()).hexdigest()[:16]}"
                     for row in tokens)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method returns: final latents, and what it found on the way."""

    latent: Tensor | None               # (B, C, h, w); None: nothing to change in any picture
    mask: Tensor | None = None          # bool (B, 1, h, w)
    mask_map: Tensor | None = None      # (B, h, w) in [0, 1]
    encoded: Trajectory = Trajectory()
    decoded: Trajectory = Trajectory()
    trace: dict[str, Tensor] = field(default_factory=dict)   # each (n, B, ...)
    source: Tensor | None = None        # (B, C, h, w), the picture itself, of methods that make it anew beside the edit
