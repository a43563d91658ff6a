"""One edit as it is asked for, on the command line, in a line of a table or by an earlier result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ...methods import Method, find_method
from ...pictures.compositing import Box, crop_box, mask_box
from ...pictures.picture import check_size

# What a job can be told besides its files and its method's options: names, and types of values.
TOLD: dict[str, type] = {"query": str, "reference": str, "method": str, "seed": int, "size": int, "preset": str,
                         "mask": str, "mask_grow": int, "mask_feather": int, "composite": bool, "crop": str}


@dataclass(frozen=True, eq=False)
class Job:
    """Everything about an edit but the model. Making one refuses, in one line, what could not be done."""

    image: str | None               # its file; None: `method` makes one from the seed
    out: Path
    method: Method
    query: str = ""
    reference: str = ""
    seed: int = 0
    size: int | None = None
    preset: str = "paper"
    options: Mapping[str, Any] = field(default_factory=dict)
    mask: str | None = None         # its file; any size, white = edit
    mask_grow: int = 0              # px of the picture; of a given mask or the one that is found
    mask_feather: int = 0           # px of the picture; of composite's seam
    composite: bool = False         # put back what is outside the mask
    crop: str | None = None         # "left,top,width,height" or "mask": edit that part alone
    line: int | None = None         # of the table

    def __post_init__(self) -> None:
        name = self.method.dashed
        if self.image is None and not self.method.generates:
            raise ValueError(f"{name} needs a picture to edit: give its file, IMAGE")
        self.method.made(self.options)      # refuses what is out of range
        self.method.check_words([self.query], [self.reference])
        check_size(self.size)
        given = self.mask is not None
        if self.image is None and (given or self.composite or self.crop):
            raise ValueError("--mask, --composite and --crop need a picture: give its file, IMAGE")
        if given and not (self.takes_mask or self.composite):
            raise ValueError(f"{name} takes no mask: add --composite to put back what is outside it, or leave it out")
        if self.composite and not (given or self.finds_mask):
            raise ValueError(f"{name} finds no mask: give --composite one with --mask, or leave it out")
        if self.mask_grow and not (given or self.takes_mask):
            raise ValueError(f"{name} finds no mask that --mask-grow could grow: leave it out")
        if self.mask_feather < 0:
            raise ValueError(f"--mask-feather must be 0 pixels or more, not {self.mask_feather}")
        if self.mask_feather and not self.composite:
            raise ValueError("--mask-feather softens the seam of --composite: add that, or leave it out")
        if self.crop == "mask" and not given:
            raise ValueError("--crop mask needs a mask: give one with --mask")
        self.corner_and_sides()

    @property
    def takes_mask(self) -> bool:
        """A given mask goes into the method, in place of the one that it finds."""
        return "mask" in self.method.uses

    @property
    def finds_mask(self) -> bool:
        """An Edit of it has a mask, if none is given; of a variant only the Edit tells."""
        return self.takes_mask or self.method.based_on is not None or bool(self.options.get("local_blend"))

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


def job_of(told: Mapping[str, Any], image: str | None, out: Path, line: int | None = None) -> Job:
    """A Job by what it is told by name: those of `TOLD`, where None says nothing, and the method's options.

    "options" are those of an earlier result: a dict, of which those count that the method has; "option" the ones typed,
    a list of "name=value", which go over them. "needs_mask": that result was made with a mask from a file.
    """
    method = find_method(told.get("method") or "diffedit")
    method.preset(told.get("preset") or "paper")        # refuses one that isn't known
    earlier = {name: value for name, value in (told.get("options") or {}).items() if name in method.known}
    options = {**earlier, **method.parsed(told.get("option") or ())}
    values = {name: told[name] for name in TOLD if told.get(name) is not None and name != "method"}
    if values.get("crop") == "none":
        del values["crop"]
    if told.get("needs_mask") and "mask" not in values:
        raise ValueError("the earlier edit was made with a mask of your own, which is not in its picture: give --mask")
    return Job(image, out, method, options=options, line=line, **values)
