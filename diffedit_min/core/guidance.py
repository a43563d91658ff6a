"""From a network to a noise prediction: the `EpsFn` contract, and classifier-free guidance.

Samplers and masks see nothing of the model but an eps_fn. The ones built here bind what the network is told (the text)
and count every row that goes through it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


class EpsFn(Protocol):
    """The noise in x at time t."""

    def __call__(self, x: Tensor, t: int) -> Tensor:
        """x (B, C, h, w), t an int in 0..T-1 -> eps (B, C, h, w)."""
        ...


ModelEps = Callable[[Tensor, int, Any], Tensor]     # model.eps: (x, t, context) -> eps; a row for each prompt


@dataclass
class Rows:
    """Counts the samples that went through the U-Net during one edit, and those that went back for a gradient.

    Each with a label of what it was for: "mask", "encode", "decode", ...
    """

    forward: Counter[str] = field(default_factory=Counter)
    backward: Counter[str] = field(default_factory=Counter)


def classifier_free_guidance(eps_uncond: Tensor, eps_cond: Tensor, s: float) -> Tensor:
    """eps_uncond + s (eps_cond - eps_uncond), arXiv:2207.12598. s = 1: the text alone; s = 0: the empty text alone.

    (That paper's w, and some codes' "0 is off", is s - 1.)
    """
    return eps_uncond + s * (eps_cond - eps_uncond)


def conditional(model_eps: ModelEps, context: Any, rows: Rows, label: str) -> EpsFn:
    """eps(x, t | context): one row a sample. With the empty text's context it is the unconditional prediction.

    With a context of m prompts for each sample, as `join` makes it: m rows each, (m B, C, h, w). label: what for.
    """

    def eps_fn(x: Tensor, t: int) -> Tensor:
        eps = model_eps(x, t, context)
        rows.forward[label] += len(eps)
        return eps

    return eps_fn


def guided(model_eps: ModelEps, context: Any, negative: Any, s: float, rows: Rows, label: str) -> EpsFn:
    """The guided prediction: two rows a sample, in one call; only one where s = 1 or s = 0 needs no more.

    `context` and `negative` hold one entry a sample and can be joined by `torch.cat` or have a method `join`.
    """
    if s == 1:
        return conditional(model_eps, context, rows, label)
    if s == 0:
        return conditional(model_eps, negative, rows, label)
    both_eps = conditional(model_eps, join(negative, context), rows, label)

    def eps_fn(x: Tensor, t: int) -> Tensor:
        eps_uncond, eps_cond = both_eps(x, t).chunk(2)
        return classifier_free_guidance(eps_uncond, eps_cond, s)

    return eps_fn


def join(first: Any, second: Any) -> Any:
    """Two contexts (plain tensors or `Context`s) as one."""
    return torch.cat([first, second]) if isinstance(first, Tensor) else first.join(second)
