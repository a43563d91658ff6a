"""The edits of some pictures at all points of a sweep, nothing computed twice.

One encoding serves every smaller encoding ratio, as its prefix; one difference map serves every threshold. DiffEdit at
encoding ratios of k_1 > k_2 > ... levels, with n noises, costs 2n + k_1 + 2 (k_1 + k_2 + ...) U-Net rows a picture.
Variants that are `alone` neither give nor take: 2n + 3k each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from ..methods import Edit
from ..model.stable_diffusion import StableDiffusion
from .datasets.item import Item
from .variants import Variant, sharing

Shared = dict[tuple, list[Any]]     # by `sharing`'s key: what earlier edits hold, one for each picture


def sweep(
    model: StableDiffusion, items: Sequence[Item], pictures: Sequence[Image.Image], variants: Sequence[Variant],
    size: int | None = None,
) -> Iterator[tuple[Variant, list[Edit], float]]:
    """Each variant's edits of all items, as one batch, with the seconds that they took; the largest ratio first.

    An Edit's rows are what was evaluated for it here: those of a shared encoding or map are with the edit that made it.
    """
    shared: dict[str, Shared] = {"encoded": {}, "mask_map": {}}
    for variant in sorted(variants, key=lambda variant: -variant.strength(model)):
        keys = {name: sharing(variant, model, name) for name in shared if name in variant.method.uses}
        given = {name: shared[name][key] for name, key in keys.items() if key in shared[name]}
        started = time.perf_counter()
        queries, references = zip(*map(variant.words, items), strict=True)
        edits = variant.method(model, list(pictures), queries, references, seed=[item.seed for item in items],
                               size=size, preset=variant.preset, **given, **variant.options)
        seconds = time.perf_counter() - started
        for name, key in keys.items():
            made = [getattr(edit, name) for edit in edits]
            if not any(thing is None or len(thing) == 0 for thing in made):    # an empty mask leaves nothing encoded
                shared[name].setdefault(key, made)
        yield variant, edits, seconds
