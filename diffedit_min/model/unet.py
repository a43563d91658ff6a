"""The noise predictor: Stable Diffusion's U-Net, arXiv:2112.10752 section 3.3.

    SD 1.x: block_out_channels (320, 640, 1280, 1280), 2 layers a block, 8 heads, 768-wide text, conv projections
    SD 2.x: the same widths, heads (5, 10, 20, 20), 1024-wide text, linear projections

    x (B, 4, h, w) --conv_in--> down_blocks --> mid_block --> up_blocks --conv_out--> (B, 4, h, w)
                                 `--- every layer's output is kept, and concatenated on the way up ---^

Attribute names are the published checkpoints'. Shapes: B batch, C channels, h x w cells, E time embedding,
L tokens, D their width, d one head's width. Attention can be watched and changed through `attend`.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Downsample, ResnetBlock, Upsample
from .config import read_config

TRANSFORMER_NORM_EPS = 1e-6     # the norm before attention; the residual blocks have `norm_eps`

# Switches of config.json that this network leaves out, and the values that mean "left out".
NEUTRAL = {
    "act_fn": ("silu",),
    "addition_embed_type": (None,),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}


@dataclass(frozen=True)
class UNetConfig:
    """unet/config.json; the defaults are SD 1.x's."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)   # finest level first
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"         # None: there is no middle (bk-sdm)
    layers_per_block: int = 2                                      # one more on the way up
    attention_head_dim: int | tuple[int, ...] = 8                  # misnamed upstream: the NUMBER of heads
    cross_attention_dim: int = 768                                 # D, the width of the text's tokens
    use_linear_projection: bool = False                            # into and out of attention: nn.Linear or 1x1 conv
    upcast_attention: bool = False                                 # attention in float32 when the net is in half
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    sample_size: int = 64                                          # latent side of the pictures it was trained on

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "unet/config.json") -> "UNetConfig":
        """Read a parsed config.json; raises ValueError for a switch that this network leaves out."""
        downs = tuple(raw.get("down_block_types", cls.down_block_types))
        ups = tuple(raw.get("up_block_types", [t.replace("Down", "Up") for t in reversed(downs)]))
        if ups != tuple(t.replace("Down", "Up") for t in reversed(downs)):
            raise ValueError(f"{where}: up_block_types {ups} do not mirror down_block_types {downs}")
        if raw.get("num_attention_heads") is not None:             # newer files say what they mean
            raw = {**raw, "attention_head_dim": raw["num_attention_heads"]}
        config = read_config(cls, raw, NEUTRAL, where)
        # `null` is a value here, not "left out".
        return config if raw.get("mid_block_type", "") is not None else cls(**{**vars(config), "mid_block_type": None})

    def __post_init__(self) -> None:
        known = ("CrossAttnDownBlock2D", "DownBlock2D")
        for kind in self.down_block_types:
            if kind not in known:
                raise ValueError(f"down_block_types holds {kind!r}; known are {' and '.join(known)}")
        if self.mid_block_type not in (None, "UNetMidBlock2DCrossAttn"):
            raise ValueError(f"mid_block_type {self.mid_block_type!r} is not known")
        if len(self.down_block_types) != len(self.block_out_channels):
            raise ValueError("down_block_types and block_out_channels differ in length")
        for name in ("layers_per_block", "cross_attention_dim", "norm_num_groups"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} = {getattr(self, name)!r} is not supported (only a whole number)")
        if len(self.heads) != len(self.block_out_channels):
            raise ValueError(f"attention_head_dim {self.heads} and block_out_channels differ in length")
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"a level of {width} channels can't be split into {heads} heads")

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads at each level."""
        n = self.attention_head_dim
        return n if isinstance(n, tuple) else (n,) * len(self.block_out_channels)

    @property
    def multiple(self) -> int:
        """Latent sides must be multiples of this: it is halved between levels."""
        return 2 ** (len(self.block_out_channels) - 1)


# ---------------------------------------------------------------- the seam for attention


@dataclass(frozen=True)
class Place:
    """One attention of the U-Net, as `attend` is told of it."""

    name: str       # the module's path, e.g. "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    cross: bool     # keys and values from the text (else: from the feature map itself)
    height: int     # of the feature map whose cells ask: height * width = the number of queries
    width: int


class Attend(Protocol):
    """What may stand in for attention at chosen places during one call of the U-Net.

    It is made for that call: it knows t, and which row of the batch is which.
    """

    def wants(self, place: Place) -> bool:
        """Whether it is to be called at this place; elsewhere the fast kernel runs."""
        ...

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        """q (B, heads, hw, d), k and v (B, heads, hw or L, d) -> (B, heads, hw, d); by default
        softmax(q k^T / sqrt(d)) v."""
        ...


class Attention(nn.Module):
    """Multi-head attention, arXiv:1706.03762: from the cells of x to themselves or to the text's tokens."""

    name = ""   # its path in the U-Net, which writes it here

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
            out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](out.transpose(1, 2).flatten(2).to(x.dtype))       # (B, hw, C)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)                 # (B, heads, n, d)


# ---------------------------------------------------------------- the network


class UNet(nn.Module):
    """eps or v = UNet(x_t, t, text): what the checkpoint was trained to predict."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0])

        self.down_blocks, skips, channels = nn.ModuleList(), [widths[0]], widths[0]
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            inputs = [channels] + [width] * (config.layers_per_block - 1)
            self.down_blocks.append(Block(config, level, inputs, resize=None if last else "down"))
            skips += [width] * (config.layers_per_block + (not last))
            channels = width

        self.mid_block = MidBlock(config) if config.mid_block_type else None

        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            inputs = []
            for _ in range(config.layers_per_block + 1):
                inputs.append(channels + skips.pop())
                channels = width
            self.up_blocks.append(Block(config, level, inputs, resize="up" if level > 0 else None))

        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                module.name = name

    def forward(self, x: Tensor, t: int | Tensor, context: Tensor, attend: Attend | None = None) -> Tensor:
        """x (B, C_in, h, w), t an int or (B,) ints in 0..T-1, context (B, L, D) -> (B, C_out, h, w).

        Raises ValueError if h or w is not a multiple of `config.multiple`.
        """
        (h, w), multiple = x.shape[-2:], self.config.multiple
        if h % multiple or w % multiple:
            raise ValueError(f"latents of {h}x{w}: the U-Net needs sides that are multiples of {multiple}")
        time = self.time_embedding(t, x)                    # (B, E)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, time, context, attend)
                skips.append(x)
            for resize in block.downsamplers:
                x = resize(x)                               # (B, C, h/2, w/2)
                skips.append(x)
        if self.mid_block is not None:
            x = self.mid_block(x, time, context, attend)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = torch.cat([x, skips.pop()], dim=1)      # (B, C + C_skip, h, w)
                x = block.layer(i, x, time, context, attend)
            for resize in block.upsamplers:
                x = resize(x)                               # (B, C, 2h, 2w)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class TimeEmbedding(nn.Module):
    """t -> cosines and sines of t at widths[0]/2 frequencies -> two linear layers."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, t: int | Tensor, x: Tensor) -> Tensor:
        """An int or (B,) ints -> (B, E = 4 widths[0]); x (B, ...) lends its batch size and device."""
        t = torch.as_tensor(t, device=x.device).expand(x.shape[0])
        # In float32 whatever the network's dtype, as the checkpoints were trained (and as diffusers has it).
        half = self.width // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=x.device) / half)
        angles = t[:, None].float() * frequencies                               # (B, widths[0]/2)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class Block(nn.Module):
    """One level, down or up: residual blocks, each followed by attention where the level has it, then a resize."""

    def __init__(self, config: UNetConfig, level: int, inputs: list[int], resize: str | None):
        super().__init__()
        width, time = config.block_out_channels[level], 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, width, time, config.norm_num_groups, config.norm_eps) for channels in inputs
        )
        has_attention = config.down_block_types[level].startswith("CrossAttn")
        self.attentions = nn.ModuleList(Transformer(config, level) for _ in inputs if has_attention)
        self.downsamplers = nn.ModuleList([Downsample(width, pad_right_bottom=False)] if resize == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(width)] if resize == "up" else [])

    def layer(self, i: int, x: Tensor, time: Tensor, context: Tensor, attend: Attend | None) -> Tensor:
        """The i-th residual block with its attention: (B, C_in, h, w) -> (B, C, h, w)."""
        x = self.resnets[i](x, time)
        return self.attentions[i](x, context, attend) if self.attentions else x


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the coarsest level."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        width, time = config.block_out_channels[-1], 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(width, width, time, config.norm_num_groups, config.norm_eps) for _ in range(2)
        )
        self.attentions = nn.ModuleList([Transformer(config, len(config.block_out_channels) - 1)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor, attend: Attend | None) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = self.attentions[0](self.resnets[0](x, time), context, attend)
        return self.resnets[1](x, time)


class Transformer(nn.Module):
    """The cells of a feature map as a sequence, through one transformer block, added to the map."""

    def __init__(self, config: UNetConfig, level: int):
        super().__init__()
        width = config.block_out_channels[level]
        self.linear = config.use_linear_projection
        self.norm = nn.GroupNorm(config.norm_num_groups, width, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(config, width, config.heads[level])])
        self.proj_out = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor, attend: Attend | None) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w). The two kinds of projection differ in layout only."""
        size = x.shape[-2:]
        h = self.norm(x)
        h = self.proj_in(cells(h)) if self.linear else cells(self.proj_in(h))   # (B, hw, C)
        for block in self.transformer_blocks:
            h = block(h, context, size, attend)
        h = grid(self.proj_out(h), size) if self.linear else self.proj_out(grid(h, size))
        return x + h


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward: each normalised before and added after."""

    def __init__(self, config: UNetConfig, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn1 = Attention(width, None, heads, config.upcast_attention)
        self.attn2 = Attention(width, config.cross_attention_dim, heads, config.upcast_attention)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Tensor, size: tuple[int, int], attend: Attend | None) -> Tensor:
        """x (B, hw, C), context (B, L, D) -> (B, hw, C)."""
        x = x + self.attn1(self.norm1(x), context, size, attend)
        x = x + self.attn2(self.norm2(x), context, size, attend)
        return x + self.ff(self.norm3(x))


class FeedForward(nn.Module):
    """GEGLU, arXiv:2002.05202: (a, b) = W1 x, then W2 (a * gelu(b)). The empty middle is upstream's dropout."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList([nn.ModuleDict({"proj": nn.Linear(width, 8 * width)}), nn.Identity(),
                                  nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.net[0]["proj"](x).chunk(2, dim=-1)
        return self.net[2](a * F.gelu(b))


def cells(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, hw, C)."""
    return x.flatten(2).transpose(1, 2)


def grid(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, hw, C) -> (B, C, h, w)."""
    return x.transpose(1, 2).unflatten(2, size)
