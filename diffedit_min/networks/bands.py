"""Convolutions that save memory on large feature maps, such as the VAE's for pictures of 1024 x 1024 pixels.

A large map is worked on in bands of rows. Each band also gets the row above it and the row below it, and group norms
use the statistics of the whole map. The result is that of the plain convolution, except for rounding.
Shapes: B pictures, C channels, h x w a feature map.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 2**28       # bytes; a feature map larger than this is worked on in bands
BAND = 2**25        # bytes of one band


def large(x: Tensor, scale: int = 1) -> bool:
    """Whether x, enlarged by `scale` along each side, is worked on in bands.

    Not while torch.compile makes a graph: there a size may be a symbol, which has no number of bytes.
    """
    return not torch.compiler.is_compiling() and scale**2 * x.nbytes > LARGE


def norm_and_silu(norm: nn.GroupNorm, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The function silu(norm(.)), to be called on x or on some rows of it; it uses the statistics of the whole x."""
    if not large(x):
        return lambda part: F.silu(norm(part))
    at_least_float32 = torch.promote_types(x.dtype, torch.float32)
    groups = x.unflatten(1, (norm.num_groups, -1))                              # (B, groups, C / groups, h, w)
    moments = [torch.var_mean(group.to(at_least_float32), dim=(1, 2, 3), correction=0)
               for group in groups.unbind(1)]
    variance, mean = (torch.stack(each, dim=1) for each in zip(*moments, strict=True))      # (B, groups) each
    variance, mean = (each.repeat_interleave(groups.shape[2], dim=1) for each in (variance, mean))      # (B, C)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    scale, shift = (each.to(x.dtype)[:, :, None, None] for each in (scale, shift))
    return lambda part: F.silu(torch.addcmul(shift, part, scale))


def conv_in_bands(
    conv: nn.Conv2d, prepare: Callable[[Tensor], Tensor] | None, x: Tensor, scale: int = 1, onto: Tensor | None = None
) -> Tensor:
    """conv(prepare(x)), without holding the whole prepare(x) of a large map in memory.

    x (B, C, h, w) -> (B, C', scale h, scale w). conv: a 3 x 3 or 1 x 1 convolution. prepare: takes some rows of the
    map and may enlarge them by `scale` (nearest neighbour); None leaves them as they are. onto: a tensor of the
    result's shape to which the result is added in place.
    """
    prepare = prepare or (lambda part: part)
    if not large(x, scale):
        return conv(prepare(x)) if onto is None else onto.add_(conv(prepare(x)))
    B, _, h, w = x.shape
    if onto is None:
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        onto = torch.empty(B, conv.out_channels, scale * h, scale * w, dtype=x.dtype, device=x.device,
                           memory_format=layout).zero_()
    rows, halo = max(1, h * BAND // (scale**2 * x.nbytes)), conv.kernel_size[0] // 2
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        above, below = min(top, halo), min(h - bottom, halo)                    # rows of x taken beyond the band
        band = prepare(x[:, :, top - above : bottom + below])
        first, last = above * (scale - 1), band.shape[2] - below * (scale - 1)  # keep `halo` enlarged rows beyond it
        band = F.pad(band[:, :, first:last], (0, 0, halo - above, halo - below))        # zeros only at the map's edges
        onto[:, :, scale * top : scale * bottom] += F.conv2d(band, conv.weight, conv.bias, padding=(0, halo))
    return onto
