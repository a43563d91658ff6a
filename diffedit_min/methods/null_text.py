"""Null-text inversion, arXiv:2211.09794: tune the empty text's embedding until guided decoding returns to the picture.

    pivot       z*_0, ..., z*_k = DDIM inversion of the picture, conditioned on the reference C, without guidance
    tuning      for j = k, ..., 1:   min over null_j of | z*_{j-1} - z_{j-1}(z_j, null_j, C) |^2, with guidance scale s
                                     z_{j-1} = z_{j-1}(z_j, null_j, C),   null_{j-1} starts at null_j
    editing     Prompt-to-Prompt from z*_k, with null_j in place of the empty text, in both branches

The network and C don't change. The embeddings at all L token positions of null_j are tuned, as in the paper. The paper
doesn't say which optimiser it uses; the authors' code makes a new Adam for every j, and so does this file.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..core.coding import encode
from ..core.ddim import step
from ..core.guidance import classifier_free_guidance, conditional
from ..core.options import option
from ..core.schedule import Level
from ..core.state import State, Trajectory
from ..core.task import Outcome, Step, Task
from ..networks.stable_diffusion import at_least_float32
from .help import Text
from .method import Method
from .prompt_to_prompt import ATTENTION, BRANCHES, BY_ATTENTION, AttentionOptions, branches, prepare
from .words import without_weights


@dataclass(frozen=True)
class NullTextOptions(AttentionOptions):
    """The paper's numbers."""

    iterations: int = option(10, "the iterations of the tuning at each level", least=0, most=1000,
                             usual=(0, 50), stage="decoding")
    learning_rate: float = option(0.01, "the learning rate of the tuning", least=0, stage="decoding")
    stop_at: float = option(1e-5, "the mean squared error below which a level's tuning stops", least=0,
                            stage="decoding")
    authors_schedule: bool = option(False, "as in the authors' code: step i has learning_rate (1 - i/100) and stop_at "
                                    "+ 2e-5 i", stage="decoding")
    checkpointing: bool = option(False, "needs less memory but more time, for full-size models", stage="cost")


def run(task: Task, options: NullTextOptions) -> Generator[Step, None, Outcome]:
    """k + (2 + iterations) k + 4k rows a picture at most, and iterations k backward."""
    control = prepare(task, options)
    encoded = yield from encode(task, options, task.reference, control.levels)
    null = yield from tune(task, options, control.levels, encoded)
    return (yield from branches(task, options, control, encoded,
                                negatives=lambda j: replace(task.negative, tokens=null[j])))


def tune(
    task: Task, options: NullTextOptions, levels: tuple[Level, ...], pivot: Trajectory
) -> Generator[Step, None, dict[int, Tensor]]:
    """null_j (B, L, D) for j = k, ..., 1. Without iterations, each is the negative prompt's embedding."""
    k, z, found = len(levels) - 1, pivot[-1].latent, {}
    null = at_least_float32(task.negative.tokens)
    for i, j in enumerate(range(k, 0, -1)):
        rate, enough = options.learning_rate, options.stop_at
        if options.authors_schedule:
            rate, enough = rate * max(0.0, 1 - i / 100), enough + 2e-5 * i
        guided_step = GuidedStep(task, options, levels[j], levels[j - 1], z)
        null = guided_step.tuned(null, pivot[j - 1], rate, enough)
        z, found[j] = guided_step(null, list(range(len(z)))), null
        yield Step("tune", i + 1, k, z)
    return found


class GuidedStep:
    """One guided DDIM step from z (B, C, h, w) at level_from, as a function of the empty text's embedding."""

    def __init__(self, task: Task, options: NullTextOptions, level_from: Level, level_to: Level, z: Tensor):
        self.task, self.options, self.level_from, self.level_to, self.z = task, options, level_from, level_to, z
        self.model_eps = partial(task.model.eps, checkpointing=options.checkpointing)
        self.eps_cond = conditional(task.model.eps, task.reference, task.rows, "tune")(z, level_from.t)

    def __call__(self, null: Tensor, pictures: list[int]) -> Tensor:
        """z_{j-1} of these pictures of the batch, for their null (len(pictures), L, D)."""
        context, z = replace(self.task.negative[pictures], tokens=null), self.z[pictures]
        eps_null = self.model_eps(z, self.level_from.t, context)
        for i in pictures:
            self.task.rows.alone[i].forward["tune"] += 1
        eps = classifier_free_guidance(eps_null, self.eps_cond[pictures], self.options.guidance_scale)
        return step(z, eps, self.level_from.abar, self.level_to.abar)

    @torch.enable_grad()
    def tuned(self, null: Tensor, wanted: State, rate: float, enough: float) -> Tensor:
        """null_j (B, L, D) from a first guess. Each picture stops on its own: it gets the same null_j in any batch."""
        each = [row.clone().requires_grad_() for row in null]               # B of (L, D)
        optimizer, active = torch.optim.Adam(each, lr=rate), list(range(len(each)))
        # At scale 1 the result doesn't depend on null_j.
        for _ in range(0 if self.options.guidance_scale == 1 else self.options.iterations):
            made = self(torch.stack([each[i] for i in active]), active)
            losses = (made - wanted.latent[active]).square().flatten(1).mean(dim=1)     # (number active,)
            going = losses.detach() >= enough
            stopped = [i for i, goes in zip(active, going.tolist(), strict=True) if not goes]
            if not going.any():
                break
            optimizer.zero_grad()
            losses[going].sum().backward(inputs=[each[i] for i in active])
            for i in active:
                self.task.rows.alone[i].backward["tune"] += 1
            for i in stopped:
                each[i].grad = None         # with a gradient of zeros, Adam's momentum would still change null_j
            optimizer.step()
            active = [i for i in active if i not in stopped]
        return torch.stack([row.detach() for row in each])


TUNED = Text(
    "First, at each level, an embedding of the empty text is tuned until guided decoding returns to the picture. (The "
    "embeddings are not kept.) Then both branches are decoded with them, as in Prompt-to-Prompt. The query's is shown.",
    ("min over ∅_j of |x_{j−1} − step(z_j, ε̃(∅_j))|^2", ATTENTION), (tune, *BRANCHES.functions),
    why="Why tune: with guidance, decoding leaves the path that encoding took; the tuned embeddings lead it back.")

null_text = Method("null_text", run, NullTextOptions, uses=frozenset({"reference", "encoded"}), needs_reference=True,
                   remakes=True, to_prompt=without_weights, texts={"mask": BY_ATTENTION, "decode": TUNED})
