"""Jobs to pictures: open, cut out, edit, put back.

    mask --grown--> cut out --> the method --> put back --> composed with the input by the mask

A mask that the method finds is grown between its steps 1 and 2, so that it is also what the decoding blends by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from ...core import __version__
from ...methods import Asked, Edit, edit_together
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.compositing import Box, at_size, composite, grow, put_back
from ...pictures.masks import open_white
from ...pictures.picture_files import check_fits, open_upright, to_rgb
from .job import AROUND, Job


@dataclass(frozen=True, eq=False)
class Opened:
    """A job and its pictures."""

    job: Job
    original: Image.Image | None = None     # RGB, or RGBA if it can be transparent; None: there is no picture
    cut: Image.Image | None = None          # what the method is to edit: the part of the original in the box, RGB
    mask: Image.Image | None = None         # the given one, grown, of that part
    box: Box = (0, 0, 0, 0)
    input_sha256: str | None = None         # of the original's pixels; the first digits
    mask_sha256: str | None = None          # of the whole mask before it is grown


def open_job(job: Job) -> Opened:
    """Read a job's files. Raises ValueError, in one line, for those that can't be read or don't go together."""
    if job.image is None:
        return Opened(job)
    original = open_upright(job.image)
    check_fits(original.size, job.out)
    return cut_out(job, original, None if job.mask is None else open_white(job.mask, original.size))


def cut_out(job: Job, original: Image.Image, given: Image.Image | None) -> Opened:
    """The part of a picture that a job edits, and the same of the mask that is given, which is grown first.

    Raises ValueError if nothing of the mask is left.
    """
    mask = mask_sha256 = None
    if given is not None:
        given = at_size(given, original.size)
        mask, mask_sha256 = grow(given, job.mask_grow), sha256(given)
        if not mask.getbbox():
            raise ValueError(f"--mask-grow {job.mask_grow} leaves nothing white in {job.mask!r}")
    box = job.box(original.size, mask)
    if mask is not None:
        mask = mask.crop(box)
        if not mask.getbbox():
            raise ValueError(f"there is nothing white in {job.mask!r} within --crop {job.crop}")
    return Opened(job, original, to_rgb(original.crop(box)), mask, box, sha256(original), mask_sha256)


def sha256(image: Image.Image) -> str:
    """What tells its pixels from others: 16 digits."""
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()[:16]


def settings_of(opened: Opened, model: StableDiffusion, source: Mapping[str, Any]) -> dict[str, Any]:
    """All that a job's result depends on, as its picture will hold it; known before the work.

    source: where the model's files come from, as `load` takes it besides the name, and a hash of what is in them.
    """
    job = opened.job
    around = {name: getattr(job, name) for name in AROUND if name != "mask"}
    record = job.asked.record(model, ["mask"] if job.gives_mask else [])
    rest = {"preset": job.asked.preset, **around, "input_sha256": opened.input_sha256,
            "mask_sha256": opened.mask_sha256, "dtype": str(model.dtype).removeprefix("torch."), **source,
            "version": __version__}
    return record | {name: value for name, value in rest.items() if name not in record}     # an option goes first


def edit_jobs(
    model: StableDiffusion, source: Mapping[str, Any], opened: Sequence[Opened], **rest: Any
) -> list[tuple[Edit, Image.Image]]:
    """Jobs of one kind, in one batch where their pictures have one size. rest: `keep` and `on_step` of a method.

    Of each, the edit of what was cut out, whose `settings` are the whole job's, and the picture to write.
    """
    asked, pictures = [o.job.asked for o in opened], [o.cut for o in opened]
    masks = [o.mask for o in opened]
    if opened[0].job.gives_mask:
        edits = edit_together(asked, model, pictures, mask=masks, **rest)
    elif opened[0].job.grows_found:
        edits, masks = edit_in_grown_masks(asked, model, pictures, [o.job.mask_grow for o in opened], **rest)
    else:
        edits = edit_together(asked, model, pictures, **rest)
        masks = [edit.mask_image if mask is None else mask for mask, edit in zip(masks, edits, strict=True)]
    return [(replace(edit, settings=settings_of(o, model, source)), finished(o, edit, mask))
            for o, edit, mask in zip(opened, edits, masks, strict=True)]


def edit_in_grown_masks(
    asked: Sequence[Asked], model: StableDiffusion, pictures: Sequence[Image.Image], by: Sequence[int], **rest: Any
) -> tuple[list[Edit], list[Image.Image]]:
    """Step 1, then steps 2 and 3 inside the masks that it found, each grown by so many pixels: edits, masks.

    It takes no more rows than one call does.
    """
    found = edit_together([one.without_levels() for one in asked], model, pictures, **rest)
    masks = [grow(edit.mask_image, pixels) for edit, pixels in zip(found, by, strict=True)]
    edits = [nothing_left(edit) for edit in found]
    left = [i for i, mask in enumerate(masks) if mask.getbbox()]
    if left:
        inside = edit_together([asked[i] for i in left], model, [pictures[i] for i in left],
                               mask=[masks[i] for i in left], **rest)
        for i, edit in zip(left, inside, strict=True):
            edits[i] = with_map_of(found[i], edit)
    return edits, masks


def nothing_left(found: Edit) -> Edit:
    """What becomes of an edit whose mask was shrunk until nothing was left of it: the input."""
    return replace(found, image=found.input, mask=torch.zeros_like(found.mask), empty_mask=True)


def with_map_of(found: Edit, edit: Edit) -> Edit:
    """An edit in a mask that was grown, with the map that it was cut from, and the rows that this took."""
    return replace(edit, rows_for=found.rows_for | edit.rows_for, mask_map=found.mask_map, trace=found.trace)


def finished(opened: Opened, edit: Edit, mask: Image.Image | None) -> Image.Image:
    """The picture to write: the edit, put back into what it was cut out of, and by the mask if that was asked for."""
    job, original = opened.job, opened.original
    if original is None:
        return edit.image
    if edit.empty_mask:
        return original.copy()
    if not (job.crop or job.composite):
        return edit.image
    whole = put_back(original, edit.image, opened.box)
    if not job.composite:
        return whole
    if mask is None:
        raise ValueError(f"{job.asked.method.dashed} found no mask: give --composite one with --mask, or leave it out")
    placed = Image.new("L", original.size)
    placed.paste(mask, opened.box)
    return composite(original, whole, placed, job.mask_feather)
