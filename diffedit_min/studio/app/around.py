"""What is done around the method, as `diffedit-min edit` does it: the mask grown, a part cut out and put back, the
input's own pixels outside the mask. The controls say what the command's options say.

On the page the mask lies on the canvas, over the whole picture. So with `crop`, where the command would look for a mask
in the part alone, the mask on the canvas counts as given, also one that was found there; the saved mask repeats it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, get_args

import gradio as gr
from gradio.components import Component
from PIL import Image
from torch import Tensor

from ...methods import Asked, Edit
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.compositing import grow
from ...pictures.picture import mask_image
from ..jobs.editing import Opened, cut_out, finished, nothing_left, settings_of, with_map_of
from ..jobs.job import Job
from ..options import Composite, Crop, MaskFeather, MaskGrow
from .components import Slider
from .session import Progress, Run, Session

FARTHEST = 100      # px; growing and feathering take longer the farther they go
CANVAS = "the canvas"       # what messages call the mask's place


def put_controls() -> dict[str, Component]:
    """The controls, by the names of the command's options."""
    def says(name: str, option: Any) -> dict[str, Any]:
        return {"label": name.replace("_", " ").capitalize(), "info": get_args(option)[1].help,
                "elem_id": f"around-{name}"}

    return {
        "mask_grow": Slider(-32, 32, 0, step=1, **says("mask_grow", MaskGrow)),
        "composite": gr.Checkbox(False, **says("composite", Composite)),
        "mask_feather": Slider(0, 32, 0, step=1, **says("mask_feather", MaskFeather)),
        "crop": gr.Textbox("", placeholder="mask, or 10,20,300,200", **says("crop", Crop)),
    }


def told_by(controls: Mapping[str, Component], told: Mapping[Any, Any]) -> dict[str, Any]:
    """What the controls say, as a Job takes it. ValueError for what can't be meant."""
    held = {name: told[control] for name, control in controls.items()}
    for name in ("mask_grow", "mask_feather"):
        if not float(held[name]).is_integer() or abs(held[name]) > FARTHEST:
            raise ValueError(f"{name} must be a whole number of pixels, at most {FARTHEST}, not {held[name]:g}")
        held[name] = int(held[name])
    crop = (held["crop"] or "").strip()
    return held | {"crop": None if crop in ("", "none") else crop}


def shown(controls: Mapping[str, Component], settings: Mapping[str, Any]) -> dict[Component, Any]:
    """The controls as an earlier edit has them, by its settings."""
    nothing = {"mask_grow": 0, "composite": False, "mask_feather": 0, "crop": ""}
    return {control: settings.get(name) or nothing[name] for name, control in controls.items()}


def edited(
    session: Session, model: StableDiffusion, source: Mapping[str, Any], asked: Asked, run: Run, mask: Tensor | None,
    around: Mapping[str, Any],
) -> Generator[Progress, None, tuple[Edit, Image.Image, Image.Image | None]]:
    """The edit, the picture to save, and the mask as it lay on the canvas: before it was grown, of the whole picture.

    mask: bool (h, w), what was painted; None: it is found. source: as `settings_of` takes it. around: see `told_by`.
    """
    if around.get("crop") and mask is None and "mask_map" in asked.method.uses:
        found = yield from session.find(model, asked, run)
        if not found.mask.any():
            raise ValueError("nothing to change was found, so there is no mask to crop to: paint one, or leave "
                             "crop empty")
        mask = found.mask
    given = None if mask is None else mask_image(mask, session.frame(model), model.factor)
    job = Job(asked, session.name, Path("result.png"), None if given is None else CANVAS, **around)
    opened = cut_out(job, session.opened(), given)
    edit, inside = yield from within(session, model, opened, run)
    edit = session.finish(edit, settings_of(opened, model, source))
    if given is None and edit.mask is not None:
        given = session.found.mask_image if job.grows_found else edit.mask_image
    return edit, finished(opened, edit, inside), given


def within(
    session: Session, model: StableDiffusion, opened: Opened, run: Run
) -> Generator[Progress, None, tuple[Edit, Image.Image | None]]:
    """The edit of what was cut out, and the mask that it took, as a picture."""
    job, part = opened.job, opened.cut if opened.job.crop else None
    if job.gives_mask:
        edit = yield from session.run(model, job.asked, run, opened.mask, part)
        return edit, opened.mask
    if not job.grows_found:
        edit = yield from session.run(model, job.asked, run, part=part)
        return edit, None if edit.mask is None else edit.mask_image
    found = yield from session.find(model, job.asked, run)
    grown = grow(found.mask_image, job.mask_grow)
    if not grown.getbbox():
        return nothing_left(found), grown
    edit = yield from session.run(model, job.asked, run, grown)
    return with_map_of(found, edit), grown
