"""Jobs to pictures: open, cut out, edit, put back.

    mask --grown--> cut out --> the method --> put back --> composed with the input by the mask

A mask that the method finds is grown between its steps 1 and 2, so that it is also what the decoding blends by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from ... import __version__
from ...core.task import Step
from ...methods import Edit, Method
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.compositing import Box, at_size, composite, grow, put_back
from ...pictures.picture_files import open_mask, open_upright, to_rgb
from .job import Job

OnStep = Callable[[Step], None] | None


@dataclass(frozen=True, eq=False)
class Opened:
    """A job and its pictures."""

    job: Job
    original: Image.Image | None = None     # RGB, or RGBA if it can be transparent; None: there is no picture
    mask: Image.Image | None = None         # the given one, grown, as large as the original
    box: Box = (0, 0, 0, 0)                 # what is edited of it
    input_sha256: str | None = None         # of the pixels; the first digits
    mask_sha256: str | None = None          # of the mask before it is grown

    @property
    def cut(self) -> Image.Image:
        """What the method is to edit."""
        return to_rgb(self.original.crop(self.box))

    @property
    def cut_mask(self) -> Image.Image | None:
        """The mask of that."""
        return None if self.mask is None else self.mask.crop(self.box)


def open_job(job: Job) -> Opened:
    """Read a job's files. Raises ValueError, in one line, for those that can't be read or don't go together."""
    if job.image is None:
        return Opened(job)
    original = open_upright(job.image)
    given = None if job.mask is None else at_size(open_mask(job.mask), original.size)
    mask = None if given is None else grow(given, job.mask_grow)
    if mask is not None and job.mask_grow < 0 and not mask.getbbox():
        raise ValueError(f"--mask-grow {job.mask_grow} leaves nothing white in {job.mask!r}")
    box = job.box(original.size, mask)
    if mask is not None and job.crop and not mask.crop(box).getbbox():
        raise ValueError(f"there is nothing white in {job.mask!r} within --crop {job.crop}")
    return Opened(job, original, mask, box, sha256(original), None if given is None else sha256(given))


def sha256(image: Image.Image) -> str:
    """What tells its pixels from others: 16 digits."""
    return hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()[:16]


def settings_of(opened: Opened, model: StableDiffusion, source: Mapping[str, Any]) -> dict[str, Any]:
    """All that a job's result depends on, as its picture will hold it; known before the work.

    source: where the model's files come from, as `load` takes it besides the name.
    """
    job = opened.job
    given = ["mask"] if job.mask is not None and job.takes_mask else []
    options = job.method.settings(model, job.options, job.preset)
    told = {"model": model.name, "query": job.query, "reference": job.reference, "seed": job.seed, "size": job.size,
            "given": given}
    return {**job.method.record(told, options),
            "preset": job.preset, "mask_grow": job.mask_grow, "mask_feather": job.mask_feather,
            "composite": job.composite, "crop": job.crop, "input_sha256": opened.input_sha256,
            "mask_sha256": opened.mask_sha256, "dtype": str(model.dtype).removeprefix("torch."), **source,
            "version": __version__}


@dataclass(frozen=True, eq=False)
class Made:
    """A job's result."""

    job: Job
    edit: Edit                  # of what was cut out; its `settings` are the whole job's
    image: Image.Image          # what is to be written


def kind(job: Job) -> tuple:
    """Jobs of one kind can go through the method together: told the same, but for what each picture has of its own."""
    given = job.mask is not None and job.takes_mask
    found_is_grown = not given and job.mask_grow != 0
    return job.method.name, repr(sorted(job.options.items())), job.size, job.preset, given, found_is_grown


def edit_jobs(
    model: StableDiffusion, source: Mapping[str, Any], opened: Sequence[Opened], *, on_step: OnStep = None,
    keep: str = "result",
) -> list[Made]:
    """Jobs of one kind, in one batch where their pictures have one size."""
    first = opened[0].job
    if first.image is None:
        edit = first.method(model, None, first.query, first.reference, seed=first.seed, size=first.size,
                            preset=first.preset, keep=keep, on_step=on_step, **first.options)
        return [Made(first, replace(edit, settings=settings_of(opened[0], model, source)), edit.image)]
    told = {"query": [o.job.query for o in opened], "reference": [o.job.reference for o in opened],
            "seed": [o.job.seed for o in opened]}
    rest = {"size": first.size, "preset": first.preset, "keep": keep, "on_step": on_step, **first.options}
    pictures = [o.cut for o in opened]
    if first.mask is not None and first.takes_mask:
        masks = [o.cut_mask for o in opened]
        edits = first.method(model, pictures, mask=masks, **told, **rest)
    elif first.mask_grow and first.takes_mask:
        edits, masks = edit_in_grown_masks(first.method, model, pictures, told, [o.job.mask_grow for o in opened], rest)
    else:
        edits = first.method(model, pictures, **told, **rest)
        masks = [edit.mask_image if o.mask is None else o.cut_mask for o, edit in zip(opened, edits, strict=True)]
    return [Made(o.job, replace(edit, settings=settings_of(o, model, source)), finished(o, edit, mask))
            for o, edit, mask in zip(opened, edits, masks, strict=True)]


def edit_in_grown_masks(
    method: Method, model: StableDiffusion, pictures: list[Image.Image], told: dict[str, list], by: list[int],
    rest: dict[str, Any],
) -> tuple[list[Edit], list[Image.Image]]:
    """Step 1, then steps 2 and 3 inside the masks that it found, each grown by so many pixels: edits, masks.

    No more rows than in one go: the first call has no level to go to.
    """
    found = method(model, pictures, **told, **{**rest, "encoding_ratio": 0.0})
    masks = [grow(edit.mask_image, pixels) for edit, pixels in zip(found, by, strict=True)]
    edits = [replace(edit, image=edit.input, mask=torch.zeros_like(edit.mask), empty_mask=True) for edit in found]
    left = [i for i, mask in enumerate(masks) if mask.getbbox()]

    def those(values: list) -> list:
        return [values[i] for i in left]

    if left:
        inside = method(model, those(pictures), **{name: those(values) for name, values in told.items()},
                        mask=those(masks), **rest)
        for i, edit in zip(left, inside, strict=True):
            edits[i] = replace(edit, rows_for=found[i].rows_for | edit.rows_for, mask_map=found[i].mask_map,
                               trace=found[i].trace)
    return edits, masks


def finished(opened: Opened, edit: Edit, mask: Image.Image | None) -> Image.Image:
    """The picture to write: the edit, put back into what it was cut out of, and by the mask if that was asked for."""
    job, original = opened.job, opened.original
    if edit.empty_mask:
        return original.copy()
    if not (job.crop or job.composite):
        image = edit.image.copy()
        image.info.update(original.info)        # the colour profile
        return image
    whole = put_back(original, edit.image, opened.box)
    if not job.composite:
        return whole
    if mask is None:
        raise ValueError(f"{job.method.dashed} found no mask: give --composite one with --mask, or leave it out")
    placed = Image.new("L", original.size)
    placed.paste(mask, opened.box)
    return composite(original, whole, placed, job.mask_feather)
