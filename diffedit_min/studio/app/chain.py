"""The edit at a glance: input, noised, two guesses, where they differ, mask, result; each with one sentence of why."""

from __future__ import annotations

import html
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ...core.schedule import x0_from_eps
from ...methods import Edit, Method
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.drawing import overlay
from ...pictures.picture import heat, mask_image
from ..report.pictures import Shot, at_most, develop
from ..report.rendering import data_uri
from .session import Session

SIDE = 176      # px, at most

# The name of each step, why it is taken, and what its pictures show, for those who can't see them.
INPUT = ("Input", "What the query does not ask for must stay as it is here.", ("The input picture",))
NOISED = ("Noised", "Noise hides the details, so that words decide what could be below it.",
          ("The input picture under heavy noise",))
GUESSES = ("Two guesses", "The model predicts the noise; what is left without it is its guess of the picture. Told the "
           "reference, and told the query.",
           ("A blurred picture as the reference tells it", "A blurred picture as the query tells it"))
DIFFER = ("Where they differ", "Elsewhere both texts say the same. Several noises are averaged, as one alone misleads.",
          ("A map over the picture, bright where the guesses differ",))
MASK = ("Mask", "The largest differences: only here may the picture change.",
        ("The input picture, darkened where it must not change",))
GIVEN_BACK = ("Input", "What must come back, in every detail.", ("The input picture",))
MASKED = ("Result", "Decoding starts from the input's own noise, which leads back to it; new noise would not. Inside "
          "the mask the query leads; outside the input comes back.",
          ("The edited picture",))
TAKEN_TO_NOISE = ("Noised", "The picture is taken towards noise: its details go, what is large stays.",
                  ("What decoding starts from",))
NOISE_ALONE = ("Noise", "Nothing of the picture: the network was trained to look at the input at every step.",
               ("The noise that decoding starts from",))
WHOLE = ("Result", "The noise is taken away again, step by step, as the query tells: everywhere.",
         ("The edited picture",))
BACK = ("Result", "The noise is taken away again, step by step, without a query: what was lost on the way?",
        ("The picture, encoded and decoded",))


def steps_of(method: Method) -> list[tuple[str, str, tuple[str, ...]]]:
    """The steps of a method that can be shown."""
    if "mask_map" in method.uses:
        return [INPUT, NOISED, GUESSES, DIFFER, MASK, MASKED]
    if "mask" in method.uses:
        return [INPUT, TAKEN_TO_NOISE, MASK, MASKED]
    if not method.takes_query:
        return [GIVEN_BACK, TAKEN_TO_NOISE, BACK]
    if method.needs_instruction:
        return [(name, why.replace("query", "instruction"), alts) for name, why, alts in (INPUT, NOISE_ALONE, WHOLE)]
    return [INPUT, TAKEN_TO_NOISE, WHOLE]


def chain(method: Method, pictures: dict[str, Sequence[Image.Image]]) -> str:
    """The row of pictures, by the names of their steps; a step that has none yet has an empty place."""
    items = []
    for name, why, alts in steps_of(method):
        shown = "".join(f'<img src="{data_uri(picture)}" alt="{alt}">' for picture, alt
                        in zip(pictures.get(name, ()), alts, strict=False))
        shown = shown or "<span></span>" * len(alts)
        items.append(f'<li><div class="pictures">{shown}</div><b>{html.escape(name)}</b><br>{html.escape(why)}</li>')
    return f'<ol tabindex="0" aria-label="How the edit is made">{"".join(items)}</ol>'


def so_far(method: Method, session: Session, model: StableDiffusion | None = None) -> str:
    """The row before an edit: the picture, and what was found for it. model: that found it; None: nothing new was."""
    pictures = {} if session.picture is None else of_input(session.picture)
    if session.found is not None and "mask_map" in method.uses:
        if model is not None and session.glimpse[0] is not session.found:
            session.glimpse = session.found, of_map(session.found, model)
        pictures |= session.glimpse[1] if session.glimpse[0] is session.found else of_mask(session.found)
    return chain(method, pictures)


def of_input(picture: Image.Image) -> dict[str, Sequence[Image.Image]]:
    """What there is to show of a picture before it is edited."""
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    return {INPUT[0]: [small]}


@torch.no_grad()
def of_map(found: Edit, model: StableDiffusion) -> dict[str, Sequence[Image.Image]]:
    """What there is to show of step 1; it decodes three latents."""
    small, trace, pictures = at_most(found.frame, SIDE), found.trace, {}
    if "noised" in trace:
        noised = trace["noised"][:1]
        abar = model.schedule.noised(found.settings["mask_noise_ratio"]).abar
        latents = [noised, *(x0_from_eps(noised, trace[f"eps_{text}"][:1], abar) for text in ("reference", "query"))]
        decoded = decode(latents, found, model)
        pictures |= {NOISED[0]: decoded[:1], GUESSES[0]: decoded[1:]}
    if found.mask_map is not None:
        pictures[DIFFER[0]] = [heat(found.mask_map, small, found.factor)]
    return pictures | of_mask(found)


def of_mask(edit: Edit) -> dict[str, Sequence[Image.Image]]:
    """The mask over the input, if there is one."""
    if edit.mask is None:
        return {}
    small = at_most(edit.frame, SIDE)
    return {MASK[0]: [overlay(edit.input.resize(small.size), mask_image(edit.mask, small, edit.factor))]}


@torch.no_grad()
def of_edit(edit: Edit, model: StableDiffusion) -> dict[str, Sequence[Image.Image]]:
    """What there is to show of the rest of an edit."""
    small, pictures = at_most(edit.frame, SIDE), of_mask(edit)
    if "mask_map" not in edit.method.uses and len(edit.decoded) > 1:
        pictures[TAKEN_TO_NOISE[0]] = pictures[NOISE_ALONE[0]] = decode([edit.decoded[-1].latent], edit, model)
    return {**pictures, MASKED[0]: [edit.image.resize(small.size)]}


def decode(latents: Sequence[Tensor], edit: Edit, model: StableDiffusion) -> list[Image.Image]:
    """Latents (1, C, h, w) as small pictures."""
    shots = [Shot(latent, "") for latent in latents]
    develop(shots, model, at_most(edit.frame, SIDE))
    return [shot.image for shot in shots]
