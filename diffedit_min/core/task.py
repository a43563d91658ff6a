"""What a method is given and what it returns.

A method is a generator `run(task, options)` that yields a `Step` for each step taken and returns an `Outcome`. It works
with latents, contexts and numbers only; methods/method.py makes the Task from pictures and words, and pictures from the
Outcome. Shapes: B pictures of one size, C channels, h x w latent cells, H x W pixels.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from .guidance import Rows
from .schedule import Schedule
from .state import Trajectory

Context = Any       # the embeddings of B prompts, on which noise predictions are conditioned; `model.embed` makes it


class Model(Protocol):
    """What methods need of a model; networks/stable_diffusion.py has one."""

    schedule: Schedule

    def embed(self, prompts: list[str]) -> Context:
        """B prompts -> their context."""
        ...

    def eps(self, x: Tensor, t: int, context: Context) -> Tensor:
        """The prediction of the noise in x (B, C, h, w) at time t, conditioned on the context."""
        ...

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, h, w)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W)."""
        ...


@dataclass(frozen=True)
class Step:
    """Progress: `index` of `total` steps of `stage` are done. The last one made `latent` (B, C, h, w), if not None."""

    stage: str
    index: int
    total: int
    latent: Tensor | None = None


@dataclass(frozen=True)
class Offers:
    """Encodings and maps of earlier edits: for each picture of a batch, those that may be used again."""

    encoded: Sequence[Sequence[Trajectory]] = ()
    mask_map: Sequence[Sequence[Tensor]] = ()       # (h, w) each
    strict: frozenset[str] = frozenset()            # names of what the caller gave: if it doesn't fit, an error


@dataclass(frozen=True, eq=False)
class Task:
    """One batch for a method: pictures of one size, as latents."""

    model: Model
    pixels: Tensor                      # (B, 3, H, W) in [-1, 1]
    x0: Tensor                          # (B, C, h, w)
    queries: tuple[str, ...]            # the texts, one for each picture
    references: tuple[str, ...]
    query: Context                      # and their embeddings, B prompts in each Context
    reference: Context
    negative: Context
    empty: Context
    seeds: tuple[int, ...]              # one for each picture
    valid: Tensor                       # bool (B, h, w): False for cells that hold nothing but padding
    rows: Rows                          # counts the rows of this task
    keep: str                           # "trace": keep every intermediate; "result": only what is needed
    generate: bool                      # True: there is no picture, and x0 has the shape only: make one from the seed
    mask: Tensor | None = None          # bool (B, 1, h, w), if the caller gives one
    offers: Offers = field(default_factory=Offers)      # of earlier edits

    def texts_of(self, context: Context) -> tuple[str, ...]:
        """The texts of one of the task's contexts; for any other context, hashes of its numbers."""
        for own, texts in ((self.empty, ("",) * len(self.queries)), (self.reference, self.references),
                           (self.query, self.queries)):
            if context is own:
                return texts
        tokens = context if isinstance(context, Tensor) else context.tokens
        return tuple(f"context {hashlib.sha256(row.cpu().float().numpy().tobytes()).hexdigest()[:16]}"
                     for row in tokens)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method returns: the final latents, and what it computed on the way to them."""

    latent: Tensor | None               # (B, C, h, w); None: there is nothing to change in any picture
    mask: Tensor | None = None          # bool (B, 1, h, w)
    mask_map: Tensor | None = None      # (B, h, w) in [0, 1]
    encoded: Trajectory = Trajectory()
    decoded: Trajectory = Trajectory()
    trace: dict[str, Tensor] = field(default_factory=dict)      # intermediates by name, each (n, B, ...)
    source: Tensor | None = None        # (B, C, h, w): the input picture, if the method decodes it too, beside the edit
