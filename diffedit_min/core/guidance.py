"""From a network to a noise prediction: the `EpsFn` contract, and classifier-free guidance.

Samplers and masks see nothing of the model but an eps_fn. Those built here hold the context that the prediction is
conditioned on (the text), and count the rows: a row is one sample that goes through the U-Net once.
"""

from collections import Counter, defaultdict
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


ModelEps = Callable[[Tensor, int, Any], Tensor]     # model.eps: (x, t, context) -> eps, one row for each prompt


@dataclass
class Rows:
    """The number of function evaluations for one batch: rows that went through the U-Net, by what they were for.

    Labels are "mask", "encode", "decode", ... Every picture of the batch has an equal part of these rows. Where the
    pictures need different numbers of rows (a tuning that stops early, for example), the rows of picture i are counted
    in alone[i] instead.
    """

    forward: Counter[str] = field(default_factory=Counter)
    backward: Counter[str] = field(default_factory=Counter)     # rows of which a gradient was computed
    alone: defaultdict[int, "Rows"] = field(default_factory=lambda: defaultdict(Rows))


def classifier_free_guidance(eps_uncond: Tensor, eps_cond: Tensor, s: float) -> Tensor:
    """eps_uncond + s (eps_cond - eps_uncond), arXiv:2207.12598 (its w is s - 1). s = 1: eps_cond; s = 0: eps_uncond."""
    return eps_uncond + s * (eps_cond - eps_uncond)


def conditional(model_eps: ModelEps, context: Any, rows: Rows, label: str) -> EpsFn:
    """eps(x, t | context): one row a sample. With the empty text's context it is the unconditional prediction.

    m prompts for each sample, as `join` makes them, give m rows a sample, (m B, C, h, w). label: for `Rows`.
    """

    def eps_fn(x: Tensor, t: int) -> Tensor:
        eps = model_eps(x, t, context)
        rows.forward[label] += len(eps)
        return eps

    return eps_fn


def guided(model_eps: ModelEps, context: Any, negative: Any, s: float, rows: Rows, label: str) -> EpsFn:
    """The guided prediction: two rows a sample, in one call. With s = 1 or s = 0 one row is enough.

    context and negative hold one prompt a sample; both are plain tensors, or both have a method `join`.
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
