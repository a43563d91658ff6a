"""Prompt-to-Prompt's local blend: change a picture only where cross-attention to chosen words is high.

The paper uses "a mask, directly extracted from the attention maps". How it is extracted follows the authors' code: in
each branch, the words' maps are averaged over heads, layers of one size and all steps so far. Each cell takes the
maximum of its 3 x 3 neighbourhood. The mask is where this is above a part of its largest value.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.task import Task
from ..networks.attention import Place
from .words import Prompt, changed_words


def blend_tokens(source: Prompt, target: Prompt, words: str) -> Tensor:
    """The tokens of the words, in source and target: (2, L) in {0, 1}.

    words: with commas between them, or "changed". Raises ValueError for a word that is in neither prompt.
    """
    chosen = torch.zeros(2, source.length)
    if words == "changed":
        for row, positions in zip(chosen, changed_words(source, target), strict=True):
            row[positions] = 1
        return chosen
    named = [word.strip() for word in words.split(",")]
    if not all(named):
        raise ValueError(f"local_blend {words!r} must be words, by commas, or changed")
    for word in named:
        positions = [prompt.positions_of(word) for prompt in (source, target)]
        if not any(positions):
            raise ValueError(f"{word!r} is in neither prompt: {source.text!r}, {target.text!r}")
        for row, own in zip(chosen, positions, strict=True):
            row[own] = 1
    return chosen


@dataclass(eq=False)
class LocalBlend:
    """Where attention to the chosen words is high, in each branch, averaged over heads, layers and all steps so far.

    It keeps two small maps for each picture, not the attention itself.
    """

    tokens: Tensor                  # (2B, L) in {0, 1}: the chosen words' tokens
    threshold: float                # a part of the largest value
    first: int                      # the number of first steps without blending
    height: int                     # of the feature maps whose attention is read
    valid: Tensor                   # bool (B, h, w): False for padding
    total: Tensor | None = None     # (2B, h', w'): the sum over layers and all steps so far

    @classmethod
    def of(cls, task: Task, tokens: Tensor, size: float, threshold: float, first: int) -> "LocalBlend":
        """size: the feature maps' side, as a part of the latents'. ValueError if none of these attends to the text."""
        config = task.model.unet.config
        sizes = [0.5**i for i, kind in enumerate(config.down_block_types) if kind.startswith("CrossAttn")]
        sizes += [0.5 ** (len(config.down_block_types) - 1)] if config.mid_block_type else []
        if size not in sizes:
            raise ValueError(f"blend_size must be one of {', '.join(f'{known:g}' for known in sizes)}, where "
                             f"{task.model.name!r} has attention to the text, not {size:g}")
        return cls(tokens.to(task.x0), threshold, first, int(size * task.x0.shape[-2]), task.valid)

    def add(self, maps: Tensor, place: Place) -> None:
        """Add the attention maps of one layer, (2B, heads, hw, L)."""
        words = (maps.mean(dim=1) * self.tokens[:, None].to(maps.dtype)).sum(dim=-1)            # (2B, hw)
        words = words.unflatten(1, (place.height, place.width))
        self.total = words if self.total is None else self.total + words

    def mask(self) -> Tensor:
        """bool (B, 1, h, w): True where source or target is above the threshold, or a neighbour cell is."""
        size = tuple(self.valid.shape[-2:])
        near = F.max_pool2d(self.total[:, None], 3, stride=1, padding=1)                        # (2B, 1, h', w')
        near = F.interpolate(near, size) * self.valid.repeat(2, 1, 1)[:, None]
        above = near > self.threshold * near.amax(dim=(2, 3), keepdim=True)
        source, target = above.chunk(2)
        return source | target
