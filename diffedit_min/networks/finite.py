"""Numbers that are not finite (NaN, infinity) are an error where they first appear, never a result.

Every network's output is checked: that is one reduction a call. Only if it fails, the causes are looked for, nearest
first: what went into the network, its weights, the range of its dtype.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

LARGEST_HALF = 65504        # the largest number in float16
LARGEST_INPUT = 1000        # of pixels, latents and embeddings; usual ones are below 100


class NotFinite(ValueError):
    """A network gave NaN or infinity. `rows` of the batch of `of` rows have such numbers, counted from 0."""

    def __init__(self, message: str, rows: list[int], of: int):
        super().__init__(message)
        self.rows, self.of = rows, of


def finite(numbers: Tensor) -> bool:
    """Whether every number is finite.

    If the sum is finite, all numbers are. The sum can also overflow by itself; only then is every number tested, which
    takes longer than reading the file.
    """
    return bool(numbers.sum().isfinite()) or bool(numbers.isfinite().all())


def check_output(out: Tensor, network: nn.Module, name: str, inputs: Mapping[str, Tensor], hooks: bool = False) -> None:
    """Raise NotFinite if the network's output (B, ...) isn't finite; it says why, and the way out.

    name: the network, and what it was asked, for example "the U-Net at t=501". inputs: what went in, by name, before it
    was converted to the network's dtype. hooks: whether a caller's `attend` or `features` had a part in it.
    """
    if finite(out.detach()):
        return
    rows = [i for i, row in enumerate(out) if not finite(row)]
    written = str(out.dtype).removeprefix("torch.")
    why = cause(network, out.dtype, inputs, hooks)
    raise NotFinite(f"{name} gave numbers that are not finite, in {written}: {why}", rows, len(out))


def cause(network: nn.Module, dtype: torch.dtype, inputs: Mapping[str, Tensor], hooks: bool) -> str:
    """Why, as far as can be seen, and the way out."""
    for name, numbers in inputs.items():
        if not finite(numbers):
            return f"{name} that went in were not finite already, so what made them is wrong"
        if (largest := numbers.abs().max()) > LARGEST_INPUT:
            return f"{name} that went in reach {largest:.3g}, far above what is usual, so what made them is wrong"
    for name, weight in network.named_parameters():
        if not finite(weight):
            return (f"its weights are not finite ({name}): the file is damaged, which diffedit-min info MODEL --verify "
                    "shows; or a tuning went wrong")
    changed = ", or attend or features returned such numbers" if hooks else ""
    if dtype == torch.float16:
        return f"numbers inside it are above {LARGEST_HALF:,}{changed}: use dtype bfloat16 or float32"
    return f"its files are damaged or of another model{changed}: diffedit-min info MODEL --verify reads them all"
