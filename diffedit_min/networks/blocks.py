"""The pieces that the U-Net and the VAE share: the residual block and the two changes of size; and the seam through
which the U-Net's residual blocks can be watched and changed: `features`.

Attribute names are the published checkpoints' (norm1, conv1, time_emb_proj, ...), so that a state dict loads by name.
Shapes: B batch, C channels, h x w a feature map, E the width of the time embedding.
"""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from .bands import conv_in_bands, norm_and_silu


@dataclass(frozen=True)
class BlockPlace:
    """One residual block of the U-Net, as `features` is told of it."""

    name: str       # the module's path, e.g. "up_blocks.1.resnets.1"
    height: int     # of the feature map
    width: int


class Features(Protocol):
    """What may read and change the features at chosen residual blocks during one call of the U-Net.

    A residual block computes features of its input and adds the input to them (through a 1 x 1 convolution, where the
    numbers of channels differ). Here they are seen before that sum, which is where Plug-and-Play, arXiv:2211.12572,
    puts another picture's in their place. It is made for that call: it knows t, and which row of the batch is which.
    """

    def wants(self, place: BlockPlace) -> bool:
        """Whether it is to be called at this place."""
        ...

    def __call__(self, x: Tensor, place: BlockPlace) -> Tensor:
        """x (B, C, h, w), what the last convolution gave -> (B, C, h, w), to which the block's input is added.

        It may keep x and may return it, but must not change it in place.
        """
        ...


class ResnetBlock(nn.Module):
    """GroupNorm -> SiLU -> conv, twice, added to the input; in the U-Net the time embedding is added in between.

    The VAE has no time (`time_channels=None`) and a smaller epsilon in its norms (1e-6 against 1e-5).
    """

    name = ""   # its path in the U-Net, which writes it here

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
            h = features(h, place).clone()      # `features` may keep its own, and the shortcut is added in place
        return conv_in_bands(self.conv_shortcut, None, x, onto=h) if hasattr(self, "conv_shortcut") else h + x


class Downsample(nn.Module):
    """Halve height and width with a strided convolution.

    The U-Net pads all four sides by 1. The VAE pads the right and the bottom only, as it was trained: with symmetric
    padding it still gives a picture, shifted by half a pixel at each level.
    """

    def __init__(self, channels: int, pad_right_bottom: bool):
        super().__init__()
        self.pad_right_bottom = pad_right_bottom
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if pad_right_bottom else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h/2, w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad_right_bottom else x)


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, 2h, 2w)."""
        return conv_in_bands(self.conv, lambda part: F.interpolate(part, scale_factor=2.0, mode="nearest"), x, scale=2)
