"""The parts that the U-Net and the VAE share: residual block, downsampling, upsampling.

`Features` is the argument by which a caller can read or change what the U-Net's residual blocks compute. The modules'
attributes have the names that published checkpoints use (norm1, conv1, time_emb_proj, ...), so that weights load by
name. Shapes: B batch, C channels, h x w a feature map, E the width of the time embedding.
"""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from .bands import conv_in_bands, norm_and_silu


@dataclass(frozen=True)
class BlockPlace:
    """Which residual block of the U-Net is running: what `features` is given beside the feature map."""

    name: str       # the module's path, e.g. "up_blocks.1.resnets.1"
    height: int     # of the feature map
    width: int


class Features(Protocol):
    """A function that reads or replaces the features at chosen residual blocks during one call of the U-Net.

    A residual block computes features of its input, then adds the input to them (through a 1 x 1 convolution if the
    numbers of channels differ). This function gets the features before that sum: there Plug-and-Play,
    arXiv:2211.12572, puts in the features of another picture. The caller makes one for each call, so it can know t and
    what each row of the batch is.
    """

    def wants(self, place: BlockPlace) -> bool:
        """Whether this function is called at this place."""
        ...

    def __call__(self, x: Tensor, place: BlockPlace) -> Tensor:
        """The features x (B, C, h, w), as the last convolution made them -> the features to use, (B, C, h, w).

        It may keep x and may return it, but must not change it in place.
        """
        ...


class ResnetBlock(nn.Module):
    """GroupNorm -> SiLU -> conv, twice, added to the input; the U-Net adds the time embedding in between.

    The VAE has no time embedding (`time_channels=None`) and a smaller epsilon in its norms (1e-6 instead of 1e-5).
    """

    name = ""   # the module's path; the U-Net sets it

    def __init__(self, channels_in: int, channels_out: int, time_channels: int | None, groups: int, norm_eps: float):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in, eps=norm_eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        if time_channels is not None:
            self.time_emb_proj = nn.Linear(time_channels, channels_out)
        self.norm2 = nn.GroupNorm(groups, channels_out, eps=norm_eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out:
            self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor | None = None, features: Features | None = None) -> Tensor:
        """x (B, C_in, h, w), time (B or 1, E) -> (B, C_out, h, w)."""
        h = conv_in_bands(self.conv1, norm_and_silu(self.norm1, x), x)
        if time is not None:
            h = h + self.time_emb_proj(F.silu(time))[:, :, None, None]
        h = conv_in_bands(self.conv2, norm_and_silu(self.norm2, h), h)
        if features is not None and features.wants(place := BlockPlace(self.name, *h.shape[-2:])):
            h = features(h, place).clone()      # a copy, since the shortcut is added in place and x may be kept
        return conv_in_bands(self.conv_shortcut, None, x, onto=h) if hasattr(self, "conv_shortcut") else h + x


class Downsample(nn.Module):
    """Halves height and width with a strided convolution.

    The U-Net pads all four sides by 1. The VAE was trained with padding on the right and at the bottom only; with
    symmetric padding it would still return a picture, but shifted by half a pixel at each level.
    """

    def __init__(self, channels: int, pad_right_bottom: bool):
        super().__init__()
        self.pad_right_bottom = pad_right_bottom
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if pad_right_bottom else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad_right_bottom else x)


class Upsample(nn.Module):
    """Doubles height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        return conv_in_bands(self.conv, lambda part: F.interpolate(part, scale_factor=2.0, mode="nearest"), x, scale=2)
