"""When the encoding or the difference map of an earlier edit may be used again: when the same things would make it.

What made it is kept with it, for each picture: the picture, the model, the words, and the options that matter for it by
the stage that they were declared with. All who use something again ask here.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .options import Declared, declared, written
from .schedule import Level
from .state import Sampler, Trajectory
from .task import Offers, Task

Made = dict[str, Any]       # what made an encoding or a map, by name
OTHER_PICTURE = "of another picture, or of this one at another size"


def made_of_encoding(task: Task, options: Declared, texts: Sequence[str]) -> list[Made]:
    """What makes an encoding of each picture, but for its levels, which its states tell."""
    return [{**common, "text": text, "sampler": options.sampler, **of_stage(options, "encoding")}
            for common, text in zip(pictures(task.model, task.pixels), texts, strict=True)]


def made_of_map(task: Task, options: Declared) -> list[Made]:
    """What makes a map of noise differences of each picture."""
    words = zip(pictures(task.model, task.pixels), task.queries, task.references, task.seeds, strict=True)
    return [{**common, "query": query, "reference": reference, "seed": seed, **of_stage(options, "map")}
            for common, query, reference, seed in words]


def pictures(model: Any, pixels: Tensor) -> list[Made]:
    """The model, and each picture by its pixels' hash; pixels (B, 3, H, W)."""
    name = getattr(model, "identity", model)
    digests = [hashlib.sha256(row.cpu().numpy().tobytes()).hexdigest()[:16] for row in pixels]
    return [{"model": name, "picture": digest} for digest in digests]


def of_stage(options: Declared, stage: str) -> Made:
    """The options that matter from this stage on, or from the start."""
    return {name: getattr(options, name) for name, own in declared(type(options)).items() if own.stage in (stage, None)}


def earlier_x0(offers: Offers, model: Any, pixels: Tensor) -> Tensor | None:
    """The pictures' own latents (B, C, h, w), if encodings of all of them are offered: the VAE need not run again."""
    if not all(offers.encoded):
        return None
    found = []
    for offered, own in zip(offers.encoded, pictures(model, pixels), strict=True):
        same = [trajectory[0].latent for trajectory in offered
                if getattr(trajectory, "made", ()) and {**trajectory.made[0], **own} == trajectory.made[0]]
        if not same:
            return None
        found.append(same[0])
    return torch.cat(found)


def earlier_encoding(
    offers: Offers, made: Sequence[Made], x0: Tensor, levels: Sequence[Level]
) -> Trajectory | None:
    """An earlier encoding of all pictures, up to levels[-1], if there is one. A longer one serves: ours is its prefix.

    ValueError for a strict one that was made by something else, or stands at other levels. Of one that doesn't say what
    made it, such as a list of States, only the levels and the picture's own latent x0 (B, C, h, w) can be compared.
    """
    chosen, strict = [], "encoded" in offers.strict
    for offered, own, latent in zip(offers.encoded, made, x0, strict=bool(offers.encoded)):
        fitting = [trajectory for trajectory in offered if _fits(trajectory, own, latent, levels, strict)]
        if not fitting:
            return None
        chosen.append(fitting[0][: len(levels)])
    return Trajectory.join(chosen) if chosen else None


def _fits(trajectory: Trajectory, own: Made, x0: Tensor, levels: Sequence[Level], strict: bool) -> bool:
    known = trajectory.made[0] if getattr(trajectory, "made", ()) else None
    both = min(len(trajectory), len(levels))
    differs = "" if known is None else difference(known, own)
    if known is None and (trajectory[0].latent[0] - x0).norm() > 1e-2 * x0.norm():
        differs = OTHER_PICTURE
    if not differs and [state.level for state in trajectory[:both]] != list(levels[:both]):
        differs = "at other levels (another number of steps, or another grid)"
    if differs and strict:
        raise ValueError(f"encoded was made {differs}: leave it out, or pass one that was made the same way")
    return not differs and len(trajectory) >= len(levels) and (strict or known is not None)


def earlier_maps(offers: Offers, made: Sequence[Made]) -> Tensor | None:
    """Earlier maps of all pictures (B, h, w), if there are any. ValueError for a strict one that doesn't fit."""
    chosen, strict = [], "mask_map" in offers.strict
    for offered, own in zip(offers.mask_map, made, strict=bool(offers.mask_map)):
        fitting = [mask_map for mask_map in offered if _serves(mask_map, own, strict)]
        if not fitting:
            return None
        chosen.append(fitting[0])
    if not chosen:
        return None
    maps = torch.stack(chosen)
    maps.made = [getattr(mask_map, "made", None) for mask_map in chosen]
    return maps


def _serves(mask_map: Tensor, own: Made, strict: bool) -> bool:
    known = getattr(mask_map, "made", None)
    differs = "" if known is None else difference(known, own)
    if differs and strict:
        raise ValueError(f"mask_map was made {differs}: leave it out, or pass one that was made the same way")
    return not differs and (strict or known is not None)


def difference(known: Made, own: Made) -> str:
    """What made it that would not make it now, in words; "" if there is nothing."""
    for name in (*own, *known):
        before, now = known.get(name), own.get(name)
        if before == now:
            continue
        if name == "picture":
            return OTHER_PICTURE
        before, now = (written(each) if isinstance(each, Sampler) else each for each in (before, now))
        same_name = ", another object of that name" if before == now else ""
        return f"with {name} {before!r}, but this edit has {now!r}{same_name}"
    return ""
