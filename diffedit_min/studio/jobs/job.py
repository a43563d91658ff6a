"""One edit of files: what is asked for, on the command line, in a line of a table or by an earlier result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from PIL import Image

from ...core.options import KINDS, parsed_annotation
from ...methods import Asked, find_method
from ...pictures.compositing import Box, crop_box, mask_box


@dataclass(frozen=True, eq=False)
class Job:
    """Everything about an edit of files but the model. Making one refuses, in one line, what could not be done."""

    asked: Asked
    image: str | None               # its file; None: the method makes one from the seed
    out: Path
    mask: str | None = None         # its file; any size, white = edit
    mask_grow: int = 0              # px of the picture; of a given mask or the one that is found
    mask_feather: int = 0           # px of the picture; of composite's seam
    composite: bool = False         # put back what is outside the mask
    crop: str | None = None         # "left,top,width,height" or "mask": edit that part alone
    line: int | None = None         # of the table

    def __post_init__(self) -> None:
        method, given = self.asked.method, self.mask is not None
        name, takes_mask = method.dashed, "mask" in method.uses
        if self.image is None and not method.generates:
            raise ValueError(f"{name} needs a picture to edit: give its file, IMAGE")
        if self.image is None and (given or self.composite or self.crop):
            raise ValueError("--mask, --composite and --crop need a picture: give its file, IMAGE")
        if given and not (takes_mask or self.composite):
            raise ValueError(f"{name} takes no mask: add --composite to put back what is outside it, or leave it out")
        # A variant's Edit may have a mask; prompt-to-prompt's has one with this option.
        may_find = takes_mask or method.based_on is not None or bool(self.asked.options.get("local_blend"))
        if self.composite and not (given or may_find):
            raise ValueError(f"{name} finds no mask: give --composite one with --mask, or leave it out")
        if self.mask_grow and not (given or takes_mask):
            raise ValueError(f"{name} finds no mask that --mask-grow could grow: leave it out")
        if self.mask_feather < 0:
            raise ValueError(f"--mask-feather must be 0 pixels or more, not {self.mask_feather}")
        if self.mask_feather and not self.composite:
            raise ValueError("--mask-feather softens the seam of --composite: add that, or leave it out")
        if self.crop == "mask" and not given:
            raise ValueError("--crop mask needs a mask: give one with --mask")
        self.corner_and_sides()

    @property
    def gives_mask(self) -> bool:
        """The mask goes into the method, in place of the one that it finds."""
        return self.mask is not None and "mask" in self.asked.method.uses

    @property
    def grows_found(self) -> bool:
        """The mask that the method finds is grown before it goes on."""
        return self.mask is None and self.mask_grow != 0

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for jobs that can go through the method together."""
        return *self.asked.kind, self.gives_mask, self.grows_found

    def corner_and_sides(self) -> tuple[int, int, int, int] | None:
        """What `crop` says in numbers: left, top, width, height."""
        if self.crop in (None, "mask"):
            return None
        try:
            left, top, width, height = map(int, self.crop.split(","))
        except ValueError:
            raise ValueError(f"--crop must be LEFT,TOP,WIDTH,HEIGHT in pixels, or mask, not {self.crop!r}") from None
        return left, top, width, height

    def box(self, size: tuple[int, int], mask: Image.Image | None) -> Box:
        """The part of a picture of that size that is edited; all of it if `crop` says nothing."""
        if self.crop == "mask":
            return mask_box(mask, size)
        return crop_box(*(self.corner_and_sides() or (0, 0, *size)), size)


def told_kinds(record: type) -> dict[str, type]:
    """The fields of a dataclass that can be told as a text or a number: names, and types of values."""
    kinds = {name: parsed_annotation(hint)[0] for name, hint in get_type_hints(record).items()}
    return {name: kind for name, kind in kinds.items() if kind in KINDS}


# What a job can be told by name besides its method's options: what is asked for, and what is done around it.
ASKED = told_kinds(Asked)
AROUND = {name: kind for name, kind in told_kinds(Job).items() if name not in ("image", "line")}
TOLD: dict[str, type] = {"method": str, **ASKED, **AROUND}


def job_of(told: Mapping[str, Any], image: str | None, out: Path, line: int | None = None) -> Job:
    """A Job by what it is told by name: those of `TOLD`, where None says nothing, and the method's options.

    "options" are those of an earlier result: a dict, of which those count that the method has; "option" the ones typed,
    a list of "name=value", which go over them. "needs_mask": that result was made with a mask from a file.
    """
    method = find_method(told.get("method") or "diffedit")
    earlier = {name: value for name, value in (told.get("options") or {}).items() if name in method.known}
    options = {**earlier, **method.parsed(told.get("option") or ())}
    asked, around = ({name: told[name] for name in names if told.get(name) is not None} for names in (ASKED, AROUND))
    if around.get("crop") == "none":
        del around["crop"]
    if told.get("needs_mask") and "mask" not in around:
        raise ValueError("the earlier edit was made with a mask of your own, which is not in its picture: give --mask")
    return Job(Asked(method, options=options, **asked), image, out, line=line, **around)
