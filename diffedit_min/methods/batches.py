"""From what a person gives to what a method is given: pictures and texts -> batches of latents and contexts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..core.coding import Options
from ..core.guidance import Rows
from ..core.reuse import earlier_x0
from ..core.state import State, Trajectory
from ..core.task import Context, Offers, Task
from ..networks.finite import NotFinite
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.picture import Frame, fit, fit_mask
from ..pictures.picture_files import to_rgb
from .call import Call
from .edit import Edit, as_trajectory

# ---------------------------------------------------------------- one request for each picture


@dataclass(frozen=True, eq=False)
class Request:
    """One picture of a call, and what is given for it."""

    index: int                          # its place among the pictures of the call
    picture: Image.Image | None         # None: it is to be made from the seed
    query: str
    reference: str
    seed: int
    mask: Any                           # a picture, a bool (h, w), or None
    encoded: Sequence[Trajectory]       # of earlier edits
    mask_maps: Sequence[Tensor]


def requests(pictures: Sequence[Image.Image | None], query: Any, reference: Any, call: Call) -> list[Request]:
    """One for each picture. What is given is one value for all pictures, or a list with one for each.

    Raises ValueError for a list of another length.
    """
    count = len(pictures)
    encoded, maps = (earlier(call, name, count) for name in ("encoded", "mask_map"))
    queries, references = spread(query, count, "queries"), spread(reference, count, "references")
    seeds = spread(call.seed, count, "seeds")
    masks = spread(call.mask, count, "masks") if isinstance(call.mask, list) else [call.mask] * count
    each = zip(pictures, queries, references, seeds, masks, encoded, maps, strict=True)
    return [Request(i, *given) for i, given in enumerate(each)]


def spread(value: Any, count: int, name: str) -> list[Any]:
    """A list with one value for each picture, from such a list or from one value for all."""
    if isinstance(value, str | int):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise ValueError(f"{count} pictures but {len(values)} {name}: give one for all, or one each")
    return values


def earlier(call: Call, name: str, count: int) -> list[list[Any]]:
    """For each picture, the earlier `encoded` or `mask_map` to choose from: the given one, else those of `reuse`."""
    value = getattr(call, name)
    if isinstance(value, Edit):
        raise ValueError(f"{name} takes an Edit's `{name}`, not the Edit itself: write reuse=edit")
    if name == "encoded":
        given = one_each(value, bool(value) and isinstance(value[0], State), count, name)
        given = [None if each is None else as_trajectory(each) for each in given]
    else:
        given = one_each(value, isinstance(value, Tensor), count, name)
    held = [[getattr(edit, name) for edit in edits] for edits in earlier_edits(call.reuse, count)]
    return [[own] if own is not None else [each for each in others if each is not None and len(each)]
            for own, others in zip(given, held, strict=True)]


def earlier_edits(reuse: Any, count: int) -> list[list[Edit]]:
    """The Edits of `reuse` for each picture: of one picture an Edit or several, of several pictures a list of these."""
    of_one = isinstance(reuse, Edit) or (count == 1 and all(isinstance(edit, Edit) for edit in reuse or ()))
    return [[edits] if isinstance(edits, Edit) else list(edits or ())
            for edits in one_each(reuse, of_one, count, "reuse")]


def one_each(value: Any, of_one: bool, count: int, name: str) -> list[Any]:
    """A list with one value for each picture: of a value that belongs to one picture, of such a list, or of None."""
    if of_one and count > 1:
        raise ValueError(f"{name} belongs to one picture, but {count} are given")
    return [None] * count if value is None else [value] if of_one else spread(value, count, name)


# ---------------------------------------------------------------- batches of one size


@dataclass(frozen=True, eq=False)
class Fitted:
    """A request whose picture is fitted to the network."""

    request: Request
    pixels: Tensor                      # (1, 3, H, W) in [-1, 1]
    frame: Frame


def batches(model: StableDiffusion, wanted: Sequence[Request], size: int | None) -> list[list[Fitted]]:
    """The requests in groups whose pictures have one size in the network, so that each group can run as one batch."""
    side = math.isqrt(model.native_area)
    groups: dict[torch.Size, list[Fitted]] = {}
    for request in wanted:
        picture = Image.new("RGB", (side, side)) if request.picture is None else to_rgb(request.picture)
        fitted = Fitted(request, *fit(picture, model.multiple, model.native_area, size))
        groups.setdefault(fitted.pixels.shape, []).append(fitted)
    return list(groups.values())


@contextmanager
def naming_pictures(places: Sequence[int], count: int) -> Iterator[None]:
    """Let an error about numbers that are not finite say in which pictures of the batch they are.

    places: of the batch's pictures, among the `count` of the call. A network's rows are those of the pictures, several
    times in a row; where they aren't, as in a tuning of each picture alone, no picture is named.
    """
    try:
        yield
    except NotFinite as error:
        if count == 1 or error.of % len(places):
            raise
        which = sorted({1 + places[row % len(places)] for row in error.rows})
        raise NotFinite(f"{error} (picture {', '.join(map(str, which))} of {count})", error.rows, error.of) from None


# ---------------------------------------------------------------- the task


def make_task(
    model: StableDiffusion, batch: Sequence[Fitted], options: Options, call: Call, to_prompt: Callable[[str], str] = str
) -> Task:
    """The task of one batch. to_prompt: a query -> the prompt that is embedded for it.

    Raises ValueError for an encoding, a map or a mask that doesn't fit the pictures.
    """
    asked = [fitted.request for fitted in batch]
    pixels = torch.cat([fitted.pixels for fitted in batch])
    valid = torch.stack([fitted.frame.valid(model.factor) for fitted in batch])                 # (B, h, w)
    offers = offers_of(model, asked, call)
    check_sizes(offers, tuple(valid.shape[-2:]))
    mask = fit_masks(model, batch)
    query, reference, negative, empty = contexts_of(model, asked, options.negative_prompt, to_prompt)
    x0 = earlier_x0(offers, model, pixels)
    return Task(
        model=model,
        pixels=pixels,
        x0=model.encode(pixels) if x0 is None else x0,
        queries=tuple(request.query for request in asked),
        references=tuple(request.reference for request in asked),
        query=query,
        reference=reference,
        negative=negative,
        empty=empty,
        seeds=tuple(request.seed for request in asked),
        valid=valid.to(model.device),
        rows=Rows(),
        keep=call.keep,
        generate=asked[0].picture is None,
        mask=mask,
        offers=offers,
    )


def offers_of(model: StableDiffusion, asked: Sequence[Request], call: Call) -> Offers:
    """The earlier encodings and maps that the batch may use."""
    maps = [[mask_map.to(model.device) for mask_map in request.mask_maps] for request in asked]
    return Offers([request.encoded for request in asked], maps, call.given & {"encoded", "mask_map"})


def check_sizes(offers: Offers, size: tuple[int, ...]) -> None:
    """Raise ValueError if the caller gave an encoding or a map whose size isn't the latents' (h, w)."""
    for trajectory in chain(*offers.encoded) if "encoded" in offers.strict else ():
        if (has := tuple(trajectory[0].latent.shape[-2:])) != size:
            raise ValueError(f"encoded is of latents of {has}, but the picture's are {size}")
    for mask_map in chain(*offers.mask_map) if "mask_map" in offers.strict else ():
        if tuple(mask_map.shape) != size:
            raise ValueError(f"mask_map is {tuple(mask_map.shape)}, but the picture's latents are {size}")


def fit_masks(model: StableDiffusion, batch: Sequence[Fitted]) -> Tensor | None:
    """The caller's masks at the latents' size, bool (B, 1, h, w); None if there are none."""
    if batch[0].request.mask is None:
        return None
    masks = [fit_mask(fitted.request.mask, fitted.frame, model.factor) for fitted in batch]
    return torch.cat(masks).to(model.device)


def contexts_of(
    model: StableDiffusion, asked: Sequence[Request], negative_prompt: str, to_prompt: Callable[[str], str]
) -> tuple[Context, Context, Context, Context]:
    """The contexts of the queries, the references, the negative prompt and the empty text, of B prompts each."""
    count = len(asked)
    prompts = [to_prompt(request.query) for request in asked] + [request.reference for request in asked]
    prompts += [negative_prompt] * count + [""] * count
    contexts = model.embed(prompts)             # all at once
    return tuple(contexts[i * count : (i + 1) * count] for i in range(4))
