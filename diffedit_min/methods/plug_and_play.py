"""Plug-and-Play, arXiv:2211.12572: decode under the query, but with the picture's own features and self-attention.

    x_0, ..., x_k = DDIM inversion of the picture under the empty text;     y_k = x_k
    f_j, A_j      = features and self-attention in eps(x_j, t_j, empty): the picture's layout at level j
    y_{j-1}       = step(y_j, eps~(y_j, t_j, query; f_j, A_j))

The features are those of one residual block in the middle of the U-Net's decoder. They are replaced in the first
`feature_part` of the steps. Self-attention is replaced in this layer and all later ones, in the first `attention_part`
of the steps. The paper calls them, for Stable Diffusion, layer 4 and layers 4 to 11.
"""

from collections.abc import Generator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.coding import CodingOptions, decode, encode
from ..core.guidance import classifier_free_guidance
from ..core.options import option
from ..core.task import Outcome, Step, Task
from ..networks.attention import Place
from ..networks.blocks import BlockPlace
from .help import Text
from .method import Method


@dataclass(frozen=True)
class PlugAndPlayOptions(CodingOptions):
    """The paper's numbers for real pictures."""

    encoding_ratio: float = option(1.0, "r, how far towards noise the picture goes", least=0, most=1, stage="levels")
    feature_part: float = option(0.8, "the first part of the steps, in which a residual block takes the picture's "
                                 "features", least=0, most=1, stage="decoding")
    attention_part: float = option(0.5, "the first part of the steps, in which self-attention is the picture's",
                                   least=0, most=1, stage="decoding")


def run(task: Task, options: PlugAndPlayOptions) -> Generator[Step, None, Outcome]:
    """k + 3k rows a picture: at each decoding step one for the picture's own latent and two for guidance."""
    levels = options.levels(task.model.schedule)
    x = yield from encode(task, options, task.empty, levels)
    context, B, k = task.empty.join(task.negative).join(task.query), len(task.x0), len(levels) - 1
    index = {level.t: j for j, level in enumerate(levels)}

    def eps_fn(y: Tensor, t: int) -> Tensor:
        done = k - index[t]                                                 # the number of steps before this one
        attend = SourceAttention(B) if done < options.attention_part * k else None
        features = SourceFeatures(B) if done < options.feature_part * k else None
        rows = torch.cat([x[index[t]].latent, y, y])                        # (3B, C, h, w)
        task.rows.forward["decode"] += len(rows)
        _, eps_uncond, eps_cond = task.model.eps(rows, t, context, attend=attend, features=features).chunk(3)
        return classifier_free_guidance(eps_uncond, eps_cond, options.guidance_scale)

    y = yield from decode(task, options, eps_fn, x[-1], levels)
    return Outcome(y[0].latent, encoded=x, decoded=y)


@dataclass(frozen=True)
class SourceFeatures:
    """The features of the picture's own rows, 0 .. B, for all rows."""

    B: int

    def wants(self, place: BlockPlace) -> bool:
        return place.name == "up_blocks.1.resnets.1"

    def __call__(self, x: Tensor, place: BlockPlace) -> Tensor:
        return x[: self.B].repeat(3, 1, 1, 1)


@dataclass(frozen=True)
class SourceAttention:
    """The self-attention maps of the picture's own rows, 0 .. B, for all rows: their q and k, with each row's own v."""

    B: int

    def wants(self, place: Place) -> bool:
        if place.cross or not place.name.startswith("up_blocks"):
            return False
        _, block, _, layer, *_ = place.name.split(".")      # up_blocks.1.attentions.1.transformer_blocks.0.attn1
        return (int(block), int(layer)) >= (1, 1)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        q, k = (x[: self.B].repeat(3, 1, 1, 1) for x in (q, k))
        return F.scaled_dot_product_attention(q, k, v)


PLUGGED = Text(
    "From the noisiest latent back to a picture, guided towards the query. In the first steps, the features of one "
    "residual block and the self-attention of later layers are those of the picture's own latent: its layout.",
    ("f, A from ε(x_j, t_j, ∅)", "ε̃ = ε(y_j, t_j, ∅; f, A) + s (ε(y_j, t_j, query; f, A) − ε(y_j, t_j, ∅; f, A))"),
    (SourceFeatures.__call__, SourceAttention.__call__),
    why="Why features and self-attention: they hold where things are and which parts belong together, whatever the "
    "things are.")

plug_and_play = Method("plug_and_play", run, PlugAndPlayOptions, uses=frozenset({"encoded"}), texts={"decode": PLUGGED})
