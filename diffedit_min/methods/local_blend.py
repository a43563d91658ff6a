"""Prompt-to-Prompt's local blend: change a picture only around chosen words, as cross-attention sees them.

The paper takes "a mask, directly extracted from the attention maps". What that means is from its authors' code: the
words' maps in either branch, averaged over heads, layers of one size and the steps so far, their 3 x 3 maxima, cut at a
part of the largest.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.task import Task
from ..networks.attention import Place
from .words import Prompt, changed_words


def blend_tokens(source: Prompt, target: Prompt, words: str) -> Tensor:
    """The tokens to blend around, in source and target: (2, L) in {0, 1}. Words need be in one of the two only."""
    chosen = torch.zeros(2, source.length)
    if words == "changed":
        for row, places in zip(chosen, changed_words(source, target), strict=True):
            row[places] = 1
        return chosen
    named = [word.strip() for word in words.split(",")]
    if not all(named):
        raise ValueError(f"local_blend {words!r} must be words, by commas, or changed")
    for word in named:
        places = [prompt.places_of(word) for prompt in (source, target)]
        if not any(places):
            raise ValueError(f"{word!r} is in neither prompt: {source.text!r}, {target.text!r}")
        for row, own in zip(chosen, places, strict=True):
            row[own] = 1
    return chosen


@dataclass(eq=False)
class LocalBlend:
    """Where the attention of chosen words is, in either branch, averaged over heads, layers and the steps so far.

    It keeps two small maps a picture, not the attention itself.
    """

    tokens: Tensor                  # (2B, L) in {0, 1}
    threshold: float
    first: int                      # steps without blending
    height: int                     # of the feature maps that are read
    valid: Tensor                   # bool (B, h, w)
    total: Tensor | None = None     # (2B, h', w'), summed so far

    @classmethod
    def of(cls, task: Task, tokens: Tensor, size: float, threshold: float, first: int) -> "LocalBlend":
        """ValueError if the U-Net has no attention to the text in maps of that size, relative to the latents'."""
        config = task.model.unet.config
        sizes = [0.5**i for i, kind in enumerate(config.down_block_types) if kind.startswith("CrossAttn")]
        sizes += [0.5 ** (len(config.down_block_types) - 1)] if config.mid_block_type else []
        if size not in sizes:
            raise ValueError(f"blend_size must be one of {', '.join(f'{known:g}' for known in sizes)}, where "
                             f"{task.model.name!r} has attention to the text, not {size:g}")
        return cls(tokens.to(task.x0), threshold, first, int(size * task.x0.shape[-2]), task.valid)

    def add(self, maps: Tensor, place: Place) -> None:
        """(2B, heads, hw, L) of one layer."""
        words = (maps.mean(dim=1) * self.tokens[:, None].to(maps.dtype)).sum(dim=-1)            # (2B, hw)
        words = words.unflatten(1, (place.height, place.width))
        self.total = words if self.total is None else self.total + words

    def mask(self) -> Tensor:
        """bool (B, 1, h, w): above the threshold in either branch, one cell around included."""
        size = tuple(self.valid.shape[-2:])
        near = F.max_pool2d(self.total[:, None], 3, stride=1, padding=1)                        # (2B, 1, h', w')
        near = F.interpolate(near, size) * self.valid.repeat(2, 1, 1)[:, None]
        above = near > self.threshold * near.amax(dim=(2, 3), keepdim=True)
        source, target = above.chunk(2)
        return source | target
