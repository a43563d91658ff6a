"""`Edit`, what a call returns for each picture, and how it is made from a method's Outcome once that is checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image
from torch import Tensor

from ..core.coding import Options
from ..core.state import State, Trajectory
from ..core.task import Outcome, Task
from ..pictures.picture import Frame, mask_image
from .help import Described


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit of one picture. Its tensors have no batch dimension; only those in states have: (1, C, h, w)."""

    image: Image.Image                  # the result, as large as the input, with its colour profile in `info`
    mask: Tensor | None                 # bool (h, w); None for methods without a mask
    mask_map: Tensor | None             # (h, w) in [0, 1], without the threshold; a later call takes it as `mask_map=`
    encoded: Trajectory                 # encoded[0] is the picture's own latent; a later call takes it as `encoded=`
    decoded: Trajectory                 # by level too; with keep="result" only the last state, at level 0
    settings: dict[str, Any]            # everything that the result depends on, ready for JSON
    rows_for: dict[str, int]            # the rows that went through the U-Net for "mask", "encode", ...
    backward_rows: int                  # the rows of which a gradient was computed
    empty_mask: bool                    # True: the method found nothing to change, and `image` is the input picture
    input: Image.Image                  # without a given picture: the one that the method made from the seed
    source: Image.Image | None          # the input picture as the method decoded it beside the edit, if it does
    frame: Frame                        # how the picture was fitted to the network
    factor: int                         # pixels per latent cell
    method: Described
    options: Options                    # all options of this edit
    trace: dict[str, Tensor] = field(default_factory=dict)      # with keep="trace": the intermediates of step 1

    @property
    def rows(self) -> int:
        """The number of rows that went through the U-Net."""
        return sum(self.rows_for.values())

    @property
    def covered(self) -> str:
        """How much of the picture, padding not counted, the mask covers, for example "12.5%"; "" without a mask."""
        return "" if self.mask is None else f"{self.frame.share(self.mask, self.factor):.1%}"

    @property
    def shrunk(self) -> str:
        """In words, at which size the picture was edited; "" if it wasn't shrunk for that."""
        return self.frame.shrunk

    @property
    def mask_image(self) -> Image.Image | None:
        """The mask at the picture's size: white where the picture was edited."""
        return None if self.mask is None else mask_image(self.mask, self.frame, self.factor)

    def __repr__(self) -> str:
        covers = f", mask {self.covered}" if self.covered else ""
        shrunk = f", {self.shrunk}" if self.shrunk else ""
        return f"<Edit by {self.method.name}: {self.settings['query']!r}, {self.rows} rows{covers}{shrunk}>"


def make_edit(
    method: Described, task: Task, options: Options, outcome: Outcome, row: int, pictures: Pictures,
    record: dict[str, Any],
) -> Edit:
    """One picture's part of the outcome. If the method found an empty mask, the result is the input picture itself."""
    mask = None if outcome.mask is None else outcome.mask[row, 0]
    empty = mask is not None and task.mask is None and not mask.any().item()
    mask_map = None if outcome.mask_map is None else outcome.mask_map[row]
    if mask_map is not None and (made := getattr(outcome.mask_map, "made", None)):
        mask_map.made = made[row]
    only, count, alone = slice(row, row + 1), len(task.x0), task.rows.alone[row]
    return Edit(
        image=pictures.input.copy() if empty else pictures.result,
        mask=mask,
        mask_map=mask_map,
        encoded=outcome.encoded.rows(only),
        decoded=outcome.decoded.rows(only),
        settings=record,
        rows_for=dict(rows_of_one(task.rows.forward, count, alone.forward)),
        backward_rows=rows_of_one(task.rows.backward, count, alone.backward).total(),
        empty_mask=empty,
        input=pictures.input,
        source=pictures.source,
        frame=pictures.frame,
        factor=task.model.factor,
        method=method,
        options=options,
        trace={name: value[:, row] for name, value in outcome.trace.items()},
    )


def rows_of_one(rows: Counter[str], pictures: int, alone: Counter[str]) -> Counter[str]:
    """One picture's rows by label: its equal part of its batch's rows, and those that were counted for it alone."""
    own = Counter({label: count // pictures for label, count in rows.items()})
    own.update(alone)
    return own


@dataclass(frozen=True, eq=False)
class Pictures:
    """One picture, its edit, and how it was fitted to the network."""

    input: Image.Image
    result: Image.Image | None          # None: there was nothing to change
    source: Image.Image | None          # the input picture, decoded beside the edit
    frame: Frame


def checked(outcome: Any, task: Task, name: str) -> Outcome:
    """What a method's `run` returned. Raises ValueError, which says what is expected, if it isn't a right Outcome."""
    if not isinstance(outcome, Outcome):
        raise ValueError(f"{name}: run must end with `return Outcome(...)`, but it returned "
                         f"{type(outcome).__name__} ({outcome!r:.60})")
    B, C, h, w = task.x0.shape
    for field_, value, shape in (("latent", outcome.latent, (B, C, h, w)), ("source", outcome.source, (B, C, h, w)),
                                 ("mask", outcome.mask, (B, 1, h, w)), ("mask_map", outcome.mask_map, (B, h, w))):
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"{name}: Outcome.{field_} must be a tensor, not {type(value).__name__}")
        if tuple(value.shape) != shape:
            raise ValueError(f"{name}: Outcome.{field_} must have the shape {shape}, not {tuple(value.shape)}")
        if not value.isfinite().all():
            raise ValueError(f"{name}: Outcome.{field_} holds numbers that are not finite, though every network's were")
    if outcome.latent is None and (outcome.mask is None or outcome.mask.any()):
        raise ValueError(f"{name}: Outcome.latent is None, which means that no picture is to be changed, but "
                         + ("there is no mask" if outcome.mask is None else "the mask is not empty"))
    if outcome.mask is not None and outcome.mask.dtype.is_floating_point:
        raise ValueError(f"{name}: Outcome.mask must be bool, not {outcome.mask.dtype}: compare it with a threshold")
    for field_ in ("encoded", "decoded"):
        states = getattr(outcome, field_)
        if not all(isinstance(state, State) and state.index == j for j, state in enumerate(states)):
            raise ValueError(f"{name}: Outcome.{field_} must hold States by level, the clean one first")
        if any(len(state.latent) != B for state in states):
            raise ValueError(f"{name}: Outcome.{field_} must hold a row for each of the {B} pictures")
    return replace(outcome, encoded=as_trajectory(outcome.encoded), decoded=as_trajectory(outcome.decoded))


def as_trajectory(states: Sequence[State]) -> Trajectory:
    """The states as a Trajectory: a method may also keep them in a plain sequence."""
    return states if isinstance(states, Trajectory) else Trajectory(states)
