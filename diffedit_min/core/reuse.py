"""When may the encoding or the difference map of an earlier edit be used again? When the same things would make it now.

Each keeps a record of what made it: the picture, the model, the texts, and the options that it depends on (according to
the stages that they are declared with). No other place decides this.
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

Made = dict[str, Any]       # the record of what made one picture's encoding or map, by name
OTHER_PICTURE = "of another picture, or of this one at another size"


def made_of_encoding(task: Task, options: Declared, texts: Sequence[str]) -> list[Made]:
    """The record of an encoding, for each picture. The levels aren't in it, since the states hold them."""
    return [{**common, "text": text, "sampler": options.sampler, **of_stage(options, "encoding")}
            for common, text in zip(pictures(task.model, task.pixels), texts, strict=True)]


def made_of_map(task: Task, options: Declared) -> list[Made]:
    """The record of a map of noise differences, for each picture."""
    each = zip(pictures(task.model, task.pixels), task.queries, task.references, task.seeds, strict=True)
    return [{**common, "query": query, "reference": reference, "seed": seed, **of_stage(options, "map")}
            for common, query, reference, seed in each]


def pictures(model: Any, pixels: Tensor) -> list[Made]:
    """What all records hold: the model, and the picture by a hash of its pixels; pixels (B, 3, H, W)."""
    name = getattr(model, "identity", model)
    digests = [hashlib.sha256(row.cpu().numpy().tobytes()).hexdigest()[:16] for row in pixels]
    return [{"model": name, "picture": digest} for digest in digests]


def of_stage(options: Declared, stage: str) -> Made:
    """The options that a result of this stage depends on: those declared with it, and those without any stage."""
    return {name: getattr(options, name) for name, own in declared(type(options)).items() if own.stage in (stage, None)}


def earlier_x0(offers: Offers, model: Any, pixels: Tensor) -> Tensor | None:
    """The pictures' own latents (B, C, h, w), from earlier encodings of all of them; None if the VAE has to run."""
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
    """An earlier encoding of all pictures, up to levels[-1], if there is one. A longer one is cut off there.

    ValueError for one that the caller gave, if something else made it or if its levels are other ones. A plain list of
    States has no record of what made it: then only the levels and the latent x0 (B, C, h, w) are compared.
    """
    strict, found = "encoded" in offers.strict, []
    for offered, own, latent in zip(offers.encoded, made, x0, strict=bool(offers.encoded)):
        found.append(next((each for each in offered if _encoding_fits(each, own, latent, levels, strict)), None))
    if not found or None in found:
        return None
    return Trajectory.join([trajectory[: len(levels)] for trajectory in found])


def _encoding_fits(trajectory: Trajectory, own: Made, x0: Tensor, levels: Sequence[Level], strict: bool) -> bool:
    known = trajectory.made[0] if getattr(trajectory, "made", ()) else None
    both = min(len(trajectory), len(levels))
    differs = "" if known is None else difference(known, own)
    if known is None and (trajectory[0].latent[0] - x0).norm() > 1e-2 * x0.norm():
        differs = OTHER_PICTURE
    if not differs and [state.level for state in trajectory[:both]] != list(levels[:both]):
        differs = "at other levels (another number of steps, or another grid)"
    return _usable("encoded", known, differs, strict) and len(trajectory) >= len(levels)


def earlier_maps(offers: Offers, made: Sequence[Made]) -> Tensor | None:
    """Earlier maps of all pictures (B, h, w), if there are any. ValueError if the caller gave one that doesn't fit."""
    strict, found = "mask_map" in offers.strict, []
    for offered, own in zip(offers.mask_map, made, strict=bool(offers.mask_map)):
        found.append(next((each for each in offered if _map_fits(each, own, strict)), None))
    if not found or any(each is None for each in found):
        return None
    maps = torch.stack(found)
    maps.made = [getattr(mask_map, "made", None) for mask_map in found]
    return maps


def _map_fits(mask_map: Tensor, own: Made, strict: bool) -> bool:
    known = getattr(mask_map, "made", None)
    return _usable("mask_map", known, "" if known is None else difference(known, own), strict)


def _usable(name: str, known: Made | None, differs: str, strict: bool) -> bool:
    """Whether an earlier result may be used. One without a record may be if the caller gave it (strict)."""
    if differs and strict:
        raise ValueError(f"{name} was made {differs}: leave it out, or pass one that was made the same way")
    return not differs and (strict or known is not None)


def difference(known: Made, own: Made) -> str:
    """The first difference between an earlier record and the one of this edit, in words; "" if they are equal."""
    for name in (*own, *known):
        earlier, now = known.get(name), own.get(name)
        if earlier == now:
            continue
        if name == "picture":
            return OTHER_PICTURE
        earlier, now = (written(each) if isinstance(each, Sampler) else each for each in (earlier, now))
        same_name = ", another object of that name" if earlier == now else ""
        return f"with {name} {earlier!r}, but this edit has {now!r}{same_name}"
    return ""
