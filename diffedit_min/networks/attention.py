"""The U-Net's attention layers, and `attend`: the argument by which a caller can read or replace attention.

`AttentionRecorder` is a ready `attend` that keeps the attention maps. The modules' attributes have the names that
published checkpoints use. Shapes: B batch, C channels, h x w cells of a feature map, L tokens, D the width of a token,
d the width of one head.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6     # epsilon of the norm before attention; the residual blocks use the config's `norm_eps`
TILE = 2**21        # `attention_in_tiles` holds this many scores at a time: 4 MB in bfloat16, which fit into caches


@dataclass(frozen=True)
class Place:
    """Which attention layer of the U-Net is running: what `attend` is given beside q, k and v."""

    name: str       # the module's path, e.g. "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    cross: bool     # True: keys and values come from the text; False: from the feature map itself
    height: int     # of the feature map that the queries come from: height * width = the number of queries
    width: int


class Attend(Protocol):
    """A function that replaces attention at chosen places during one call of the U-Net.

    The caller makes one for each call, so it can know t and what each row of the batch is.
    """

    def wants(self, place: Place) -> bool:
        """Whether this function replaces attention at this place; elsewhere PyTorch's fast kernel runs."""
        ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        """q (B, heads, hw, d), k and v (B, heads, hw or L, d) -> (B, heads, hw, d).

        It replaces softmax(q k^T / sqrt(d)) v.
        """
        ...


class Attention(nn.Module):
    """Multi-head attention, arXiv:1706.03762: from the cells of x to the cells of x, or to the text's tokens."""

    name = ""   # the module's path; the U-Net sets it

    def __init__(self, width: int, context_width: int | None, heads: int, upcast: bool):
        super().__init__()
        self.heads, self.cross, self.upcast = heads, context_width is not None, upcast
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width or width, width, bias=False)
        self.to_v = nn.Linear(context_width or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor, size: tuple[int, int], attend: Attend | None) -> Tensor:
        """x (B, hw, C), context (B, L, D) -> (B, hw, C)."""
        source = context if self.cross else x
        q, k, v = self._split(self.to_q(x)), self._split(self.to_k(source)), self._split(self.to_v(source))
        if self.upcast and q.dtype in (torch.float16, torch.bfloat16):
            q, k, v = q.float(), k.float(), v.float()
        place = Place(self.name, self.cross, *size)
        if attend is not None and attend.wants(place):
            out = attend(q, k, v, place)
        else:
            out = attention(q, k, v)
        return self.to_out[0](out.transpose(1, 2).flatten(2).to(x.dtype))       # (B, hw, C)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)                 # (B, heads, n, d)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: q (B, heads, n, d), k and v (B, heads, L, d) -> (B, heads, n, d).

    PyTorch's own kernel is used, except on a CPU in bfloat16: there it does not use the processor's fast bfloat16
    products, and `attention_in_tiles` is faster.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and not torch.compiler.is_compiling():
        return attention_in_tiles(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


def attention_in_tiles(q: Tensor, k: Tensor, v: Tensor, tile: int = TILE) -> Tensor:
    """The same by plain matrix products, for some heads and some queries at a time.

    At most about `tile` scores exist at once, so that they stay in the processor's caches.
    """
    n, L, scale = q.shape[2], k.shape[2], 1 / math.sqrt(q.shape[3])
    heads, queries = max(1, tile // (n * L)), max(1, tile // L)                 # per tile
    outputs = []
    for q_, k_, v_ in zip(*(x.flatten(0, 1).split(heads) for x in (q, k, v)), strict=True):
        scores = (torch.baddbmm(q.new_zeros(()), some, k_.transpose(1, 2), beta=0, alpha=scale)
                  for some in q_.split(queries, dim=1))                         # (heads, queries, L) each
        outputs.append(torch.cat([torch.bmm(each.softmax(dim=2), v_) for each in scores], dim=1))
    return torch.cat(outputs).unflatten(0, q.shape[:2])                         # (B, heads, n, d)


def attention_maps(q: Tensor, k: Tensor) -> Tensor:
    """The attention weights softmax(q k^T / sqrt(d)), with the softmax in at least float32.

    q (B, heads, n, d), k (B, heads, L, d) -> (B, heads, n, L).
    """
    scores = (q / math.sqrt(q.shape[3])) @ k.transpose(2, 3)        # dividing first avoids overflow in float16
    return scores.to(torch.promote_types(q.dtype, torch.float32)).softmax(dim=3)


class Transformer(nn.Module):
    """Runs the cells of a feature map, as a sequence, through `depth` transformer blocks; adds the result to the map.

    linear: whether the projections before and after are linear layers on the sequence, or 1 x 1 convolutions on the
    map. Both compute the same function; they differ in the shape of the weights.
    """

    def __init__(
        self, width: int, heads: int, depth: int, context_width: int, groups: int, *, linear: bool, upcast: bool
    ):
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, width, eps=NORM_EPS)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, context_width, heads, upcast) for _ in range(depth)
        )
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor, attend: Attend | None) -> Tensor:
        """x (B, C, h, w), context (m B, L, D) -> (m B, C, h, w)."""
        size = x.shape[-2:]
        h = self.norm(x)
        h = self.proj_in(cells(h)) if self.linear else cells(self.proj_in(h))   # (B, hw, C)
        for block in self.transformer_blocks:
            h = block(h, context, size, attend)
        h = grid(self.proj_out(h), size) if self.linear else self.proj_out(grid(h, size))
        return repeat_rows(x, len(h)) + h


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward: each has a norm before it, and is added to its input."""

    def __init__(self, width: int, context_width: int, heads: int, upcast: bool):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = Attention(width, None, heads, upcast)
        self.attn2 = Attention(width, context_width, heads, upcast)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor, size: tuple[int, int], attend: Attend | None) -> Tensor:
        """x (B, hw, C), context (m B, L, D) -> (m B, hw, C)."""
        x = x + self.attn1(self.norm1(x), context, size, attend)
        x = repeat_rows(x, len(context))    # from here on, rows with the same x differ by their text
        x = x + self.attn2(self.norm2(x), context, size, attend)
        return x + self.ff(self.norm3(x))


class FeedForward(nn.Module):
    """GEGLU, arXiv:2002.05202: (a, b) = W1 x, then W2 (a * gelu(b)).

    The identity in the middle stands where the published networks have dropout, so that the names agree.
    """

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(width, 8 * width)}), nn.Identity(),
                                  nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.net[0]["proj"](x).chunk(2, dim=-1)
        return self.net[2](a * F.gelu(b))


def repeat_rows(x: Tensor, rows: int) -> Tensor:
    """The whole batch repeated until it has `rows` rows, a multiple of B: (B, ...) -> (rows, ...)."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def cells(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, hw, C), copied once here: of a view, every layer that follows would make its own copy."""
    return x.flatten(2).transpose(1, 2).contiguous()


def grid(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, hw, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, size)


class AttentionRecorder:
    """An `Attend` that keeps the attention maps. It does not change the result, except for rounding.

    maps: from the place's name to its map (B, heads, hw, L), in the network's order; on the network's device, in at
    least float32, without gradients. If several calls of the U-Net use one recorder (several noises or steps, say), it
    keeps the mean of their maps; these calls must have the same rows and sizes. To keep the maps of a single call, use
    a new recorder for it.

    Maps are large: self-attention on a feature map of 64 x 64 cells takes 67 MB per row and head, in float32.
    """

    def __init__(self, wants: Callable[[Place], bool] = lambda place: place.cross):
        """wants: at which places maps are kept; by default, at all places with attention to the text."""
        self.wants = wants
        self.maps: dict[str, Tensor] = {}
        self.places: dict[str, Place] = {}
        self.calls: dict[str, int] = {}         # how many calls each map is the mean of

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        """q (B, heads, hw, d), k and v (B, heads, hw or L, d) -> (B, heads, hw, d)."""
        maps = attention_maps(q, k)
        name, earlier, mean = place.name, self.calls.get(place.name, 0), maps.detach()
        if earlier:
            if self.maps[name].shape != maps.shape:
                raise ValueError(f"{name}: maps of {tuple(maps.shape)} after maps of {tuple(self.maps[name].shape)}: "
                                 "only calls with the same rows and sizes can be averaged")
            mean = self.maps[name].lerp(mean, 1 / (earlier + 1))
        self.maps[name], self.places[name], self.calls[name] = mean, place, earlier + 1
        return maps.to(v.dtype) @ v

    def mean(self, size: tuple[int, int]) -> Tensor:
        """The mean over heads and places (B, L, h, w), after each place's map was resized to `size` = (h, w).

        Maps are enlarged bilinearly and shrunk by averaging cells, so in every cell the sum over L is still 1. Raises
        ValueError if nothing was kept, or if the maps have different L (as those of self-attention have).
        """
        lengths = {maps.shape[3] for maps in self.maps.values()}
        if len(lengths) != 1:
            raise ValueError(f"a mean needs maps over the same tokens, not over {sorted(lengths) or 'none'}")
        resized = []
        for name, maps in self.maps.items():
            height, width = self.places[name].height, self.places[name].width
            each = maps.mean(dim=1).transpose(1, 2).unflatten(2, (height, width))       # (B, L, h', w')
            resized.append(F.interpolate(each, size, mode="area" if height > size[0] else "bilinear"))
        return torch.stack(resized).mean(dim=0)
