"""The edits of some pictures at all points of a sweep, nothing computed twice.

One encoding serves every smaller encoding ratio, as its prefix; one difference map serves every threshold. DiffEdit at
encoding ratios of k_1 > k_2 > ... levels, with n noises, costs 2n + k_1 + 2 (k_1 + k_2 + ...) U-Net rows a picture.
Variants that are `alone` neither give nor take: 2n + 3k each.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from PIL import Image

from ..methods import Edit, edit_together
from ..networks.stable_diffusion import StableDiffusion
from .datasets.item import Item
from .variants import Variant

MAKE = {"encode", "mask"}        # labels of rows: an edit that has any made something that others may use


def sweep(
    model: StableDiffusion, items: Sequence[Item], pictures: Sequence[Image.Image], variants: Sequence[Variant],
    size: int | None = None,
) -> Iterator[tuple[Variant, list[Edit], float]]:
    """Each variant's edits of all items, as one batch, with the seconds that they took; the largest ratio first.

    An Edit's rows are what was evaluated for it here: those of a shared encoding or map are with the edit that made it.
    """
    earlier: list[list[Edit]] = [[] for _ in items]
    for variant in sorted(variants, key=lambda variant: -getattr(variant.settings(model), "encoding_ratio", 0.0)):
        started = time.perf_counter()
        edits = edit_together([variant.asked(item, size) for item in items], model, pictures,
                              reuse=None if variant.alone else earlier)
        seconds = time.perf_counter() - started
        for own, edit in zip(earlier, edits, strict=True):
            if MAKE & edit.rows_for.keys():
                own.append(edit)
        yield variant, edits, seconds
