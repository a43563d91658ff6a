"""The autoencoder (KL-VAE) between pictures and latents, arXiv:2112.10752 section 3.1.

    Stable Diffusion: block_out_channels (128, 256, 512, 512), 2 layers a block, 4 latent channels, f = 8
    pixels (B, 3, 512, 512) -> moments (B, 8, 64, 64): the mean and log-variance of the latent's Gaussian

The modules' attributes have the names that published checkpoints use.
Shapes: B batch, H x W pixels, h x w = H/f x W/f latent cells, C latent channels.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .bands import conv_in_bands, norm_and_silu
from .blocks import Downsample, ResnetBlock, Upsample
from .config import check_groups, check_sizes, list_of_names, read_config

NORM_EPS = 1e-6     # epsilon of every norm of the VAE; the U-Net's residual blocks have 1e-5

# Switches of config.json that this network does not implement, and the values that turn them off.
NEUTRAL = {
    "_class_name": ("AutoencoderKL", "FlaxAutoencoderKL"),
    "act_fn": ("silu",),
    "use_quant_conv": (True, None),
    "use_post_quant_conv": (True, None),
    "mid_block_add_attention": (True, None),
    "shift_factor": (None, 0),
    "latents_mean": (None,),
    "latents_std": (None,),
}


@dataclass(frozen=True)
class VAEConfig:
    """The fields of vae/config.json; the defaults are Stable Diffusion's, whose files lack `scaling_factor`."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)    # finest level first
    layers_per_block: int = 2           # the decoder has one more
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215     # latents are multiplied by this, so that their variance is about 1
    force_upcast: bool = False          # True for SD XL's VAE, which overflows in half precision: keep it in float32

    def __post_init__(self) -> None:
        check_sizes(self, {"in_channels": 2**10, "out_channels": 2**10, "block_out_channels": 2**14,
                           "layers_per_block": 16, "latent_channels": 2**10, "norm_num_groups": 2**10})
        check_groups(self)
        if not 0 < self.scaling_factor < float("inf"):
            raise ValueError(f"scaling_factor = {self.scaling_factor!r} is not a number above 0")

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "vae/config.json") -> "VAEConfig":
        """Read a parsed config.json; ValueError for a switch that this network does not implement."""
        for key, name in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
            for kind in list_of_names(raw, key, (), where):
                if kind != name:
                    raise ValueError(f"{where}: {key} holds {kind!r}; only {name!r} is supported")
        return read_config(cls, raw, NEUTRAL, where)

    @property
    def factor(self) -> int:
        """f: the side of a latent cell in pixels."""
        return 2 ** (len(self.block_out_channels) - 1)


class VAE(nn.Module):
    """encode: pixels -> moments; decode: latents -> pixels. `scaling_factor` is applied by `StableDiffusion`."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels (B, 3, H, W) in [-1, 1] -> mean and log-variance of q(z | picture), each (B, C, H/f, W/f).

        The mean is also the posterior's mode. Raises ValueError if H or W is not a multiple of f.
        """
        (H, W), f = pixels.shape[-2:], self.config.factor
        if H % f or W % f:
            raise ValueError(f"pictures of {H}x{W}: the VAE needs sides that are multiples of {f}")
        mean, log_variance = self.quant_conv(self.encoder(pixels)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)      # the published code's bounds: exp() stays finite

    def decode(self, latents: Tensor) -> Tensor:
        """latents (B, C, h, w), unscaled -> pixels (B, 3, f h, f w), about [-1, 1] (not clamped)."""
        return self.decoder(self.post_quant_conv(latents))


class Encoder(nn.Module):
    """conv_in, levels from fine to coarse with halving in between, a middle with attention, conv_out."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Block(before, width, config.layers_per_block, groups, resize="down" if i < len(widths) - 1 else None)
            for i, (before, width) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True))
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 2C, H/f, W/f)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            for layer in block.layers():
                x = layer(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """The encoder mirrored: a middle with attention, levels from coarse to fine with doubling in between."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            Block(before, width, config.layers_per_block + 1, groups, resize="up" if i < len(widths) - 1 else None)
            for i, (before, width) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True))
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, f h, f w)."""
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            for layer in block.layers():    # not block(x): its caller would keep the block's large input in memory
                x = layer(x)
        return conv_in_bands(self.conv_out, norm_and_silu(self.conv_norm_out, x), x)


class Block(nn.Module):
    """One level of the encoder or the decoder: residual blocks, and then a change of size."""

    def __init__(self, channels_in: int, channels_out: int, layers: int, groups: int, resize: str | None):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(channels_in if i == 0 else channels_out, channels_out, None, groups, NORM_EPS)
            for i in range(layers)
        )
        self.downsamplers = nn.ModuleList(
            [Downsample(channels_out, pad_right_bottom=True)] if resize == "down" else []
        )
        self.upsamplers = nn.ModuleList([Upsample(channels_out)] if resize == "up" else [])

    def layers(self) -> tuple[nn.Module, ...]:
        """The layers in the order in which they run."""
        return *self.resnets, *self.downsamplers, *self.upsamplers


class MidBlock(nn.Module):
    """Residual block, self-attention, residual block, at the coarsest level."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, None, groups, NORM_EPS) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class SpatialAttention(nn.Module):
    """Self-attention over the cells of a feature map, with one head of width C, added to its input."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        B, C, h, w = x.shape
        cells = self.group_norm(x).flatten(2).transpose(1, 2)                     # (B, hw, C)
        q, k, v = (to(cells).unsqueeze(1) for to in (self.to_q, self.to_k, self.to_v))    # (B, 1, hw, C)
        out = self.to_out[0](F.scaled_dot_product_attention(q, k, v).squeeze(1))    # (B, hw, C)
        return x + out.transpose(1, 2).reshape(B, C, h, w)
