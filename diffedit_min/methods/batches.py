"""From what a person gives to what methods are given: pictures and words -> batches of latents and contexts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.coding import Options
from ..core.guidance import Rows
from ..core.reuse import earlier_x0
from ..core.state import State, Trajectory
from ..core.task import Offers, Task
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.picture import Frame, fit, fit_mask
from ..pictures.picture_files import to_rgb
from .edit import Edit, as_trajectory


@dataclass(frozen=True, eq=False)
class Request:
    """One picture, and what is wanted of it."""

    picture: Image.Image | None         # None: it is to be made from the seed
    query: str
    reference: str
    seed: int
    mask: Any = None                    # a picture, or a bool (h, w)
    encoded: Sequence[Trajectory] = ()  # of earlier edits
    mask_maps: Sequence[Tensor] = ()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A request, its picture fitted to the network."""

    request: Request
    pixels: Tensor                      # (1, 3, H, W) in [-1, 1]
    frame: Frame


def requests(
    pictures: Sequence[Image.Image | None], *, query: Any, reference: Any, seed: Any, mask: Any, encoded: Any,
    mask_map: Any, reuse: Any,
) -> list[Request]:
    """One for each picture, from what is given for all of them or for each. ValueError for numbers that differ."""
    count = len(pictures)
    for name, value in (("encoded", encoded), ("mask_map", mask_map)):
        if isinstance(value, Edit):
            raise ValueError(f"{name} takes an Edit's `{name}`, not the Edit itself: write reuse=edit")
    of_one = isinstance(reuse, Edit) or (count == 1 and all(isinstance(edit, Edit) for edit in reuse or ()))
    earlier = each_ones(reuse, of_one, count, "reuse")
    offered = [[edit] if isinstance(edit, Edit) else list(edit or ()) for edit in earlier]
    trajectories = each_ones(encoded, bool(encoded) and isinstance(encoded[0], State), count, "encoded")
    maps = each_ones(mask_map, isinstance(mask_map, Tensor), count, "mask_map")
    masks = spread(mask, count, "masks") if isinstance(mask, list) else [mask] * count
    columns = (pictures, spread(query, count, "queries"), spread(reference, count, "references"),
               spread(seed, count, "seeds"), masks)
    return [Request(*told,
                    [as_trajectory(own)] if own is not None else [edit.encoded for edit in edits if edit.encoded],
                    [made] if made is not None else [edit.mask_map for edit in edits if edit.mask_map is not None])
            for *told, own, made, edits in zip(*columns, trajectories, maps, offered, strict=True)]


def spread(value: Any, count: int, name: str) -> list[Any]:
    """One value for all pictures, or one each."""
    if isinstance(value, str | int):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{count} pictures but {len(values)} {name}: give one for all, or one each")
    return values


def each_ones(value: Any, single: bool, count: int, name: str) -> list[Any]:
    """What earlier Edits hold, one for each picture; None for each if there is nothing."""
    if single and count > 1:
        raise ValueError(f"{name} belongs to one picture, but {count} are given")
    return [None] * count if value is None else [value] if single else spread(value, count, name)


def batches(model: StableDiffusion, wanted: Sequence[Request], size: int | None) -> list[list[tuple[int, Fitted]]]:
    """The requests with their numbers, grouped by their size in the network: what can run as one batch."""
    side = math.isqrt(model.native_area)
    groups: dict[torch.Size, list[tuple[int, Fitted]]] = {}
    for i, request in enumerate(wanted):
        picture = Image.new("RGB", (side, side)) if request.picture is None else to_rgb(request.picture)
        fitted = Fitted(request, *fit(picture, model.multiple, model.native_area, size))
        groups.setdefault(fitted.pixels.shape, []).append((i, fitted))
    return list(groups.values())


def make_task(
    model: StableDiffusion, batch: Sequence[Fitted], options: Options, keep: str, *,
    plain: Callable[[str], str] = str, strict: frozenset[str] = frozenset(),
) -> Task:
    """Pictures -> latents, words -> contexts, and what earlier edits offer, checked against the pictures.

    plain: a query -> what the network is told of it. strict: which offers the caller gave by name.
    """
    frames, asked, device = [each.frame for each in batch], [each.request for each in batch], model.device
    pixels = torch.cat([each.pixels for each in batch])
    valid = torch.stack([frame.valid(model.factor) for frame in frames])        # (B, h, w)
    check_offers(asked, tuple(valid.shape[-2:]), strict)
    mask = None
    if asked[0].mask is not None:
        fitting = [fit_mask(each.mask, frame, model.factor) for each, frame in zip(asked, frames, strict=True)]
        mask = torch.cat(fitting).to(device)                                    # (B, 1, h, w)
    queries, references = (tuple(getattr(each, name) for each in asked) for name in ("query", "reference"))
    count = len(asked)
    contexts = model.embed([*map(plain, queries), *references, *([options.negative_prompt] * count), *([""] * count)])
    query, reference, negative, empty = (contexts[i * count : (i + 1) * count] for i in range(4))
    maps = [[mask_map.to(device) for mask_map in each.mask_maps] for each in asked]
    offers = Offers([each.encoded for each in asked], maps, strict)
    x0 = earlier_x0(offers, model, pixels)
    x0 = model.encode(pixels) if x0 is None else x0
    return Task(model, pixels, x0, queries, references, query, reference, negative, empty,
                tuple(each.seed for each in asked), valid.to(device), Rows(), keep,
                generate=asked[0].picture is None, mask=mask, offers=offers)


def check_offers(asked: Sequence[Request], own: tuple[int, ...], strict: frozenset[str]) -> None:
    """ValueError for an encoding or a map of another size (h, w), given by name."""
    for each in asked:
        for trajectory in each.encoded if "encoded" in strict else ():
            if (has := tuple(trajectory[0].latent.shape[-2:])) != own:
                raise ValueError(f"encoded is of latents of {has}, but the picture's are {own}")
        for mask_map in each.mask_maps if "mask_map" in strict else ():
            if tuple(mask_map.shape) != own:
                raise ValueError(f"mask_map is {tuple(mask_map.shape)}, but the picture's latents are {own}")
