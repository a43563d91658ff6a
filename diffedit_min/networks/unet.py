"""The noise predictor: Stable Diffusion's U-Net, arXiv:2112.10752 section 3.3.

    SD 1.x: block_out_channels (320, 640, 1280, 1280), 2 layers a block, 8 heads, 768-wide text, conv projections
    SD 2.x: the same widths, heads (5, 10, 20, 20), 1024-wide text, linear projections
    SD XL:  (320, 640, 1280), heads (5, 10, 20), up to 10 transformer blocks in a row, 2048-wide text; also conditioned
            on a vector for the whole prompt and on the picture's size, which are added to the time embedding

    x (B, 4, h, w) --conv_in--> down_blocks --> mid_block --> up_blocks --conv_out--> (B, 4, h, w)
                                 `--- every layer's output is kept, and concatenated on the way up ---^

The modules' attributes have the names that published checkpoints use. A caller can read or change attention through
`attend` (attention.py) and the residual blocks through `features` (blocks.py).
Shapes: B batch, C channels, h x w cells of a feature map, E the width of the time embedding, L tokens, D their width.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import Attend, Attention, Transformer, repeat_rows
from .blocks import Downsample, Features, ResnetBlock, Upsample
from .config import check_groups, check_sizes, list_of_names, read_config

# Switches of config.json that this network does not implement, and the values that turn them off.
NEUTRAL = {
    "_class_name": ("UNet2DConditionModel", "FlaxUNet2DConditionModel"),
    "act_fn": ("silu",),
    "addition_embed_type": (None, "text_time"),
    "attention_type": ("default", None),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": (None,),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
}


@dataclass(frozen=True)
class UNetConfig:
    """The fields of unet/config.json; the defaults are those of SD 1.x."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)   # finest level first
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    mid_block_type: str | None = "UNetMidBlock2DCrossAttn"         # None: no middle block (bk-sdm)
    layers_per_block: int = 2                                      # the up blocks have one more
    attention_head_dim: int | tuple[int, ...] = 8                  # a wrong name in the files: the NUMBER of heads
    transformer_layers_per_block: int | tuple[int, ...] = 1        # transformer blocks in a row
    cross_attention_dim: int = 768                                 # D, the width of the text's tokens
    use_linear_projection: bool = False                            # around attention: linear layers or 1x1 convs
    upcast_attention: bool = False                                 # attention in float32 in half-precision networks
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    addition_embed_type: str | None = None                         # "text_time": SD XL's additional conditioning
    addition_time_embed_dim: int = 256                             # length of the encoding of each of the six sizes
    projection_class_embeddings_input_dim: int = 2816              # the pooled vector's width + 6 of these
    sample_size: int = 64                                          # side of the latents it was trained on

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "unet/config.json") -> "UNetConfig":
        """Read a parsed config.json; ValueError for a switch that this network does not implement."""
        downs = list_of_names(raw, "down_block_types", cls.down_block_types, where)
        mirrored = tuple(kind.replace("Down", "Up") for kind in reversed(downs))
        ups = list_of_names(raw, "up_block_types", mirrored, where)
        if ups != mirrored:
            raise ValueError(f"{where}: up_block_types {ups} do not mirror down_block_types {downs}")
        if raw.get("num_attention_heads") is not None:             # the right name, in newer files
            raw = {**raw, "attention_head_dim": raw["num_attention_heads"]}
        config = read_config(cls, raw, NEUTRAL, where)
        # For this key null is a value of its own: no middle block. Elsewhere null means that the default holds.
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
        check_sizes(self, {"in_channels": 2**10, "out_channels": 2**10, "layers_per_block": 16, "sample_size": 2**12,
                           "block_out_channels": 2**14, "cross_attention_dim": 2**14, "attention_head_dim": 2**10,
                           "transformer_layers_per_block": 64, "addition_time_embed_dim": 2**12,
                           "projection_class_embeddings_input_dim": 2**16, "norm_num_groups": 2**10})
        check_groups(self)
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps = {self.norm_eps!r} is not a number between 0 and 1")
        for name in ("attention_head_dim", "transformer_layers_per_block"):
            if len(self.at_each_level(name)) != len(self.block_out_channels):
                raise ValueError(f"{name} {getattr(self, name)} and block_out_channels differ in length")
        for width, heads in zip(self.block_out_channels, self.heads, strict=True):
            if width % heads:
                raise ValueError(f"a level of {width} channels can't be split into {heads} heads")

    def at_each_level(self, name: str) -> tuple[int, ...]:
        """One number for each level, of a field that may also hold a single number for all levels."""
        value = getattr(self, name)
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)

    @property
    def heads(self) -> tuple[int, ...]:
        """The number of attention heads at each level."""
        return self.at_each_level("attention_head_dim")

    @property
    def has_summary(self) -> bool:
        """Whether the network is also conditioned on a `Summary` (SD XL)."""
        return self.addition_embed_type == "text_time"

    @property
    def multiple(self) -> int:
        """The sides of a latent must be multiples of this, since every level halves them."""
        return 2 ** (len(self.block_out_channels) - 1)


# ---------------------------------------------------------------- the network


@dataclass(frozen=True)
class Summary:
    """SD XL's conditioning besides the tokens."""

    pooled: Tensor      # (B, D'), one vector for the whole prompt
    sizes: Tensor       # (B, 6), in pixels: height and width before cropping, top and left of the crop, height and
                        # width of the result

    def __getitem__(self, rows: Tensor) -> "Summary":
        """The Summary of some of the rows."""
        return Summary(self.pooled[rows], self.sizes[rows])


class UNet(nn.Module):
    """UNet(x_t, t, text) = eps or v, whichever the checkpoint was trained to predict."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], 4 * widths[0])
        if config.has_summary:
            self.add_embedding = TimeEmbedding(config.projection_class_embeddings_input_dim, 4 * widths[0])

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
            if isinstance(module, Attention | ResnetBlock):
                module.name = name

    def forward(
        self,
        x: Tensor,
        t: int | Tensor,
        context: Tensor,
        attend: Attend | None = None,
        summary: Summary | None = None,
        checkpointing: bool = False,
        features: Features | None = None,
    ) -> Tensor:
        """x (B, C_in, h, w), t an int or (B,) ints in 0..T-1, context (B, L, D) -> (B, C_out, h, w).

        For guidance, context may hold m prompts for each x: (m B, L, D), where prompts i, B + i, 2B + i, ... all see
        x[i]; then t is one int, and the layers before the first attention to the text run once for each x. If attend,
        features or summary is given, all layers run on all m B rows.
        checkpointing: keep only the input of each layer, and compute the layer again in the backward pass; attend and
        features are then called twice.
        Raises ValueError if h or w is not a multiple of `config.multiple`.
        """
        (h, w), multiple = x.shape[-2:], self.config.multiple
        if h % multiple or w % multiple:
            raise ValueError(f"latents of {h}x{w}: the U-Net needs sides that are multiples of {multiple}")
        call = partial(checkpoint, use_reentrant=False) if checkpointing else lambda layer, *inputs: layer(*inputs)
        if attend is not None or features is not None or summary is not None:
            x = repeat_rows(x, len(context))
        time = self.embed_time(t, summary, x.device)        # (1 or B, E)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = call(block.layer, i, x, time, context, attend, features)
                skips.append(x)
            for resize in block.downsamplers:
                x = resize(x)                               # (B, C, h/2, w/2)
                skips.append(x)
        if self.mid_block is not None:
            x = call(self.mid_block, x, time, context, attend, features)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = torch.cat([x, repeat_rows(skips.pop(), len(x))], dim=1)     # (m B, C + C_skip, h, w)
                x = call(block.layer, i, x, time, context, attend, features)
            for resize in block.upsamplers:
                x = resize(x)                               # (B, C, 2h, 2w)
        return self.conv_out(F.silu(self.conv_norm_out(x)))

    def embed_time(self, t: int | Tensor, summary: Summary | None, device: torch.device) -> Tensor:
        """The embedding that every residual block adds: of the time, and in SD XL of the summary too.

        -> (B, E), or (1, E) if t is one int and there is no summary.
        """
        t = torch.as_tensor(t, device=device).reshape(-1)
        time = self.time_embedding(sinusoids(t, self.config.block_out_channels[0]))
        if not self.config.has_summary:
            return time
        count = self.config.addition_time_embed_dim
        sizes = sinusoids(summary.sizes.flatten(), count).unflatten(0, (-1, 6)).flatten(1)     # (B, 6 count)
        return time + self.add_embedding(torch.cat([summary.pooled, sizes.to(summary.pooled.dtype)], dim=1))


class TimeEmbedding(nn.Module):
    """Two linear layers, from an encoding of numbers to E."""

    def __init__(self, length: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(length, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, length) -> (B, E), in the network's dtype."""
        return self.linear_2(F.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))


def sinusoids(numbers: Tensor, count: int) -> Tensor:
    """The sinusoidal encoding of numbers (n,): cosines and sines at count/2 frequencies, 1 down to 1/10,000 (n, count).

    Always in float32, whatever the network's dtype: so the checkpoints were trained, and so diffusers computes it.
    """
    half = count // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=numbers.device) / half)
    angles = numbers[:, None].float() * frequencies                         # (n, count / 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Block(nn.Module):
    """One level, down or up: residual blocks, at some levels each followed by attention, and then a change of size."""

    def __init__(self, config: UNetConfig, level: int, inputs: list[int], resize: str | None):
        super().__init__()
        width, time = config.block_out_channels[level], 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, width, time, config.norm_num_groups, config.norm_eps) for channels in inputs
        )
        has_attention = config.down_block_types[level].startswith("CrossAttn")
        self.attentions = nn.ModuleList(make_transformer(config, level) for _ in inputs if has_attention)
        self.downsamplers = nn.ModuleList([Downsample(width, pad_right_bottom=False)] if resize == "down" else [])
        self.upsamplers = nn.ModuleList([Upsample(width)] if resize == "up" else [])

    def layer(
        self, i: int, x: Tensor, time: Tensor, context: Tensor, attend: Attend | None, features: Features | None
    ) -> Tensor:
        """The i-th residual block, then its attention if there is one: (B, C_in, h, w) -> (B, C, h, w)."""
        x = self.resnets[i](x, time, features)
        return self.attentions[i](x, context, attend) if self.attentions else x


class MidBlock(nn.Module):
    """Residual block, attention, residual block, at the coarsest level."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        width, time = config.block_out_channels[-1], 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(
            ResnetBlock(width, width, time, config.norm_num_groups, config.norm_eps) for _ in range(2)
        )
        self.attentions = nn.ModuleList([make_transformer(config, len(config.block_out_channels) - 1)])

    def forward(
        self, x: Tensor, time: Tensor, context: Tensor, attend: Attend | None, features: Features | None
    ) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        x = self.attentions[0](self.resnets[0](x, time, features), context, attend)
        return self.resnets[1](x, time, features)


def make_transformer(config: UNetConfig, level: int) -> Transformer:
    """The transformer that follows a residual block at this level."""
    return Transformer(
        config.block_out_channels[level], config.heads[level],
        config.at_each_level("transformer_layers_per_block")[level], config.cross_attention_dim, config.norm_num_groups,
        linear=config.use_linear_projection, upcast=config.upcast_attention,
    )
