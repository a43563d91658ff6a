"""What the parts share: the model at hand, a rival, the ceilings; programs that take turns, timed."""

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...loading import load
from ...networks.stable_diffusion import StableDiffusion
from . import rival, shapes
from .machine import Ceilings

OURS = "diffedit_min"   # as the tables have it
LEAST = 0.2             # seconds: what is faster is called several times in a round

Case = dict[str, Any]               # what is measured: its part, model, dtype, size, ...
Entry = dict[str, Any]              # what was found
Round = Callable[[int], Entry]      # measures once more, given the round's number


class Bench:
    """What the cases of one model and dtype share, each made when it is first used."""

    def __init__(self, name: str, dtype: str, against: Path | None = None):
        self.name, self.dtype, self.against = name, dtype, against

    @cached_property
    def model(self) -> StableDiffusion:
        if self.name in shapes.SHAPES:
            return shapes.make(self.name, getattr(torch, self.dtype))
        return load(self.name, device="cpu", dtype=self.dtype)

    @cached_property
    def rival(self) -> rival.Rival | None:
        return rival.load(self.against)(self.model) if self.against else None

    @cached_property
    def ceilings(self) -> Ceilings:
        return Ceilings(getattr(torch, self.dtype))

    def forget(self) -> None:
        """Give the memory back; what is used again is made again."""
        for name in ("model", "rival", "ceilings"):
            self.__dict__.pop(name, None)

    def sides(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Of the pictures, in pixels; by default the model's own. Raises ValueError for one that it can't take."""
        shape = shapes.SHAPES.get(self.name)        # tells without the networks
        unet, vae = (shape.unet, shape.vae) if shape else (self.model.unet.config, self.model.vae.config)
        multiple = vae.factor * unet.multiple
        for side in wanted:
            if side < multiple or side % multiple:
                raise ValueError(f"--size {side}: {self.name} takes multiples of {multiple} pixels")
        return tuple(dict.fromkeys(wanted)) or (unet.sample_size * vae.factor,)

    def turns(self, programs: Mapping[str, Callable[[], Any]], index: int, least: float | None = None) -> Entry:
        """One round: each program in turn, another one first in the next round, the ceilings measured in between.

        What is faster than `least` seconds is called again until they have passed. Seconds are of one call.
        """
        names, found = list(programs), {}
        first, rates = index % len(names), [self.ceilings.measure()]
        for name in names[first:] + names[:first]:
            found[name] = timed(programs[name], LEAST if least is None else least)
            rates.append(self.ceilings.measure())
        return {"seconds": {name: found[name][0] for name in names},
                "said": {name: found[name][1] for name in names},
                "ceilings": {kind: [rate[kind] for rate in rates] for kind in rates[0]}}


def timed(call: Callable[[], Any], least: float) -> tuple[float, Any]:
    """Seconds of one call, and what it returned if that is a record of something."""
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < least:
        result, calls = call(), calls + 1
    return (time.perf_counter() - started) / calls, result if isinstance(result, dict) else {}
