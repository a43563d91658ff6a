"""Prompt-to-Prompt, arXiv:2208.01626: edit through cross-attention, which holds what goes where in a picture.

Two branches are decoded side by side from the same noise, the source under the reference and the target under the
query. While M = softmax(Q K^T / sqrt(d)) are the source's maps and M* the target's, the target uses (section 3.2)

    word swap       M^ = M if step < tau, else M*                       with M's columns word for word
    refinement      M^[:, j] = M[:, A(j)] if j has a counterpart A(j), else M*[:, j]
    re-weighting    M^[:, j] = c M^[:, j] for chosen words j

with its own values V. The paper starts from a seed; a real picture starts from its inversion. Beyond the paper, after
its authors' code (google/prompt-to-prompt): windows for single words, self-attention taken from the source in the first
steps, and the threshold of the local blend, which the paper leaves open.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.coding import CodingOptions, RatioOptions, decode, encode
from ..core.guidance import EpsFn, classifier_free_guidance
from ..core.options import option
from ..core.schedule import Level, check_ratio, levels_used, standard_noise
from ..core.state import State, Trajectory
from ..core.task import Outcome, Step, Task
from ..networks.attention import Place, attention_maps
from ..networks.text import Context
from .help import GUIDED, Text
from .local_blend import LocalBlend, blend_tokens
from .method import Method
from .words import Prompt, align, parse_weights, without_weights


@dataclass(frozen=True)
class AttentionOptions(RatioOptions):
    """What is done to attention. Parts of the steps count from the noisiest: 0.4 of 50 steps are the first 20."""

    encoding_ratio: float = option(1.0, "r, how far towards noise a real picture is encoded", least=0, most=1,
                                   stage="levels")
    align: str = option("auto", "how the words of reference and query correspond: one by one (swap), as far as they "
                        "are equal (refine), or swap where both have as many words (auto)",
                        choices=("auto", "swap", "refine"), stage="decoding")
    cross_replace: float = option(0.8, "tau, the first part of the steps, in which words take the source's attention",
                                  least=0, most=1, stage="decoding")
    word_windows: dict = option({}, "the same by words of the query, for example bowl:0.4; in Python also from and "
                                "until, {'red': (0.2, 1)}", stage="decoding")
    self_replace: float = option(0.4, "the first part of the steps, in which self-attention is the source's", least=0,
                                 most=1, stage="decoding")
    self_size: float = option(0.5, "self-attention is replaced in feature maps of at most this part of the latents' "
                              "sides", least=0, stage="decoding")
    reweight: dict = option({}, "factors for the attention to words of the query, for example apples:2; the same as "
                            "(apples:2) in the query", stage="decoding")
    reweight_until: float = option(1.0, "the first part of the steps, in which attention is re-weighted; the authors' "
                                   "code has cross_replace", least=0, most=1, stage="decoding",
                                   needs={"reweight": {"a": 4.0}})
    local_blend: str = option("", "words, with commas between them, around which alone the picture may change; or "
                              "changed, for those that differ", stage="decoding")
    blend_threshold: float = option(0.3, "where the words' attention is above this part of its maximum, the picture "
                                    "may change", least=0, most=1, stage="decoding", needs={"local_blend": "changed"})
    blend_start: float = option(0.2, "the first part of the steps, in which nothing is blended", least=0, most=1,
                                stage="decoding", needs={"local_blend": "changed"})
    blend_size: float = option(0.25, "the side of the attention maps that are read, as a part of the latents' side",
                               above=0, stage="decoding", needs={"local_blend": "changed"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, window in self.word_windows.items():
            for edge in window_of(window, f"word_windows of {word!r}"):
                check_ratio(edge, f"word_windows of {word!r}")
        for word, weight in self.reweight.items():
            if not isinstance(weight, int | float) or not abs(weight) < float("inf"):
                raise ValueError(f"reweight of {word!r} must be a number, not {weight!r}")


@dataclass(frozen=True)
class PromptToPromptOptions(AttentionOptions, CodingOptions):
    """With a choice of samplers, for the inversion and for both branches."""


def run(task: Task, options: PromptToPromptOptions) -> Generator[Step, None, Outcome]:
    """k rows for the inversion of a real picture under the reference, 4k for the branches."""
    levels, control = prepare(task, options)
    encoded = Trajectory() if task.generate else (yield from encode(task, options, task.reference, levels))
    return (yield from branches(task, options, control, levels, encoded))


def prepare(task: Task, options: AttentionOptions) -> tuple[tuple[Level, ...], "Control"]:
    """The levels, to generate all of them; and what is done to attention, which refuses words that don't fit."""
    options = replace(options, encoding_ratio=1.0) if task.generate else options
    levels = options.levels(task.model.schedule)
    return levels, Control.of(task, options, len(levels) - 1)


def twice(task: Task, encoded: Trajectory, levels: tuple[Level, ...]) -> State:
    """Where both branches start, 2B latents: at the end of the inversion, or at noise from the seed."""
    if not encoded:
        noise = standard_noise(task.x0, task.seeds, "generate")
        return State(len(levels) - 1, levels[-1], noise.repeat(2, 1, 1, 1))
    return encoded[-1].map(lambda latent: latent.repeat(2, 1, 1, 1))


# ---------------------------------------------------------------- two branches


def branches(
    task: Task,
    options: AttentionOptions,
    control: "Control",
    levels: tuple[Level, ...],
    encoded: Trajectory,
    *,
    source_scale: float | None = None,
    negatives: Callable[[int], Context] | None = None,
    pinned: bool = False,
) -> Generator[Step, None, Outcome]:
    """Decode source and target, 2B latents in one batch, with the target's attention edited.

    source_scale: the source's guidance, by default the target's. negatives: level's index -> what stands in for the
    empty text there. pinned: the source branch is set back to `encoded` at every level.
    """
    B = len(task.x0)
    eps_fn = eps_of_branches(task, levels, control, negatives or (lambda j: task.negative),
                             (options.guidance_scale if source_scale is None else source_scale, options.guidance_scale))

    def blend(latent: Tensor, j: int) -> Tensor:
        """The source pinned, and the target held to it away from the blended words. (2B, C, h, w)"""
        source, target = latent.chunk(2)
        if pinned:
            source = encoded[j].latents
        if (mask := control.blend_mask(len(levels) - 1 - j)) is not None:
            target = torch.where(mask, target, source)
        return torch.cat([source, target])

    start = twice(task, encoded, levels)
    decoded = yield from decode(task, options, eps_fn, start, levels, blend, shown=slice(B, None))
    source, target = decoded[0].latent.split(B)
    of_target = Trajectory(state.map(lambda latent: latent[B:]) for state in decoded)
    return Outcome(target, control.blend_mask(len(levels) - 1), encoded=encoded, decoded=of_target, source=source)


def eps_of_branches(
    task: Task, levels: tuple[Level, ...], control: "Control", negatives: Callable[[int], Context],
    scales: tuple[float, float],
) -> EpsFn:
    """eps (2B, C, h, w) of both branches, each guided at its own scale; at scale 1 the unconditional rows are spared.

    Only the conditional rows' attention is edited, as in the authors' code.
    """
    B, index = len(task.x0), {level.t: j for j, level in enumerate(levels)}
    conditions, guided = task.reference.join(task.query), [i for i, scale in enumerate(scales) if scale != 1]

    def eps_fn(x: Tensor, t: int) -> Tensor:
        j, x_of = index[t], x.split(B)
        rows = torch.cat([x, *(x_of[i] for i in guided)])
        context = conditions.join(negatives(j).repeat(len(guided))) if guided else conditions
        task.rows.forward["both branches"] += len(rows)
        eps = list(task.model.eps(rows, t, context, control.at(len(levels) - 1 - j)).split(B))
        for place, i in enumerate(guided, start=2):
            eps[i] = classifier_free_guidance(eps[place], eps[i], scales[i])
        return torch.cat(eps[:2])

    return eps_fn


# ---------------------------------------------------------------- attention


@dataclass(eq=False)
class Control:
    """What is done to the attention of B pictures' conditional rows, source and target, at each of k steps."""

    pictures: int                   # B
    table: Tensor                   # (B, L, L): which source token's map each target token takes
    taken: Tensor                   # (k, B, L) in {0, 1}: whether it does, at that step
    weights: Tensor                 # (B, L): c of each target token
    weighted_steps: int
    self_steps: int
    self_height: float              # the tallest feature map whose self-attention is replaced
    blend: LocalBlend | None

    @classmethod
    def of(cls, task: Task, options: AttentionOptions, k: int) -> "Control":
        """Raises ValueError, naming them, for prompts that don't align or words that aren't there."""
        tables, taken, weights, words = [], [], [], []
        for query, reference in zip(task.queries, task.references, strict=True):
            plain, typed = parse_weights(query)
            source, target = (Prompt(text, task.model.tokenizer) for text in (reference, plain))
            table, shared = align(source, target, options.align)
            tables.append(table)
            taken.append(shared * windows(target, options, k))          # (k, L)
            weights.append(weights_of(target, {**options.reweight, **typed}))
            if options.local_blend:
                words.append(blend_tokens(source, target, options.local_blend))             # (2, L)
        stacked = (torch.stack(parts, dim).to(task.x0) for parts, dim in ((tables, 0), (taken, 1), (weights, 0)))
        blend = None
        if words:
            tokens = torch.stack(words, dim=1).flatten(0, 1)            # (2B, L), all sources first
            blend = LocalBlend.of(task, tokens, options.blend_size, options.blend_threshold,
                                  levels_used(options.blend_start, k))
        return cls(len(tables), *stacked, levels_used(options.reweight_until, k), levels_used(options.self_replace, k),
                   options.self_size * task.x0.shape[-2], blend)

    def at(self, step: int) -> "EditedAttention | None":
        """The `attend` of one call of the U-Net, at that step; None if nothing is to be done."""
        weights = self.weights if step < self.weighted_steps else torch.ones_like(self.weights)
        taken = self.taken[step]
        cross = bool(taken.any() or (weights != 1).any())
        if not cross and step >= self.self_steps and self.blend is None:
            return None
        return EditedAttention(self, cross, step < self.self_steps, taken, weights)

    def blend_mask(self, steps: int) -> Tensor | None:
        """Where the target may differ from the source after so many steps, bool (B, 1, h, w); None: anywhere."""
        if self.blend is None or self.blend.total is None or steps <= self.blend.first:
            return None
        return self.blend.mask()


@dataclass(frozen=True, eq=False)
class EditedAttention:
    """Attention in which the target's rows, B .. 2B, use the source's maps, 0 .. B. Other rows are left alone."""

    control: Control
    cross: bool                     # whether cross-attention is edited
    own: bool                       # whether self-attention is replaced
    taken: Tensor                   # (B, L)
    weights: Tensor                 # (B, L)

    def wants(self, place: Place) -> bool:
        """Where a map is edited or read; everywhere else the fast kernel runs."""
        if not place.cross:
            return self.own and place.height <= self.control.self_height
        return self.cross or self.reads(place)

    def reads(self, place: Place) -> bool:
        blend = self.control.blend
        return blend is not None and place.height == blend.height

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        """q (rows, heads, hw, d), k and v (rows, heads, hw or L, d) -> (rows, heads, hw, d)."""
        B = self.control.pictures
        if not place.cross:     # the source's map with the target's values: no map need be written out for that
            q, k = (torch.cat([x[:B], x[:B], x[2 * B :]]) for x in (q, k))
            return F.scaled_dot_product_attention(q, k, v)
        out = F.scaled_dot_product_attention(q, k, v)
        maps = attention_maps(q[: 2 * B], k[: 2 * B])                           # (2B, heads, hw, L)
        source, target = maps.split(B)
        if self.cross:
            target = self.edited(source, target)
            out = torch.cat([out[:B], target.to(v.dtype) @ v[B : 2 * B], out[2 * B :]])
        if self.reads(place):
            self.control.blend.add(torch.cat([source, target]), place)
        return out

    def edited(self, source: Tensor, target: Tensor) -> Tensor:
        """M^ of both maps (B, heads, hw, L). As in the paper, its rows are not made to sum to 1 again."""
        table, taken, weights = (x.to(source.dtype) for x in (self.control.table, self.taken, self.weights))
        mapped = source @ table[:, None]                                        # M[:, A(j)]
        taken, weights = taken[:, None, None], weights[:, None, None]           # (B, 1, 1, L)
        return weights * (taken * mapped + (1 - taken) * target)


def windows(target: Prompt, options: AttentionOptions, k: int) -> Tensor:
    """At which steps each target token may take the source's attention: (k, L) in {0, 1}."""
    open_at, steps = torch.zeros(k, target.length), torch.arange(k)

    def window(places: Any, edges: Any) -> None:
        first, last = (levels_used(edge, k) for edge in window_of(edges, "a window"))
        open_at[:, places] = ((steps >= first) & (steps < last)).float()[:, None]

    window(slice(None), options.cross_replace)
    for word, edges in options.word_windows.items():
        window(target.find(word), edges)
    return open_at


def window_of(value: Any, name: str) -> tuple[float, float]:
    """A window's ends: of 0.4 from 0 to 0.4, of a pair themselves. ValueError, with its name, for anything else."""
    edges = (0.0, value) if isinstance(value, int | float) else tuple(value) if isinstance(value, tuple | list) else ()
    if len(edges) != 2 or not all(isinstance(edge, int | float) for edge in edges):
        raise ValueError(f"{name} must be a number or two, from 0 to 1, not {value!r}")
    return edges


def weights_of(target: Prompt, weights: dict[str, float]) -> Tensor:
    """c of each target token, (L,)."""
    c = torch.ones(target.length, dtype=torch.float64)
    for phrase, weight in weights.items():
        c[target.find(phrase)] = weight
    return c


ATTENTION = "M̂ = M (the reference's attention) in the first steps, M* (the query's own) after"
BRANCHES = Text(
    "Reference and query are decoded side by side. In the first steps the query's branch, which is shown here, takes "
    "the reference's attention, which holds what goes where.",
    (ATTENTION, GUIDED), (branches, EditedAttention.edited))
BY_ATTENTION = Text("There is no map of noise differences: this mask is where the network attends to the words of "
                    "local_blend.", (), (LocalBlend.mask,))
NO_PICTURE = Text("There was no picture to encode: decoding starts from the seed's noise, and the reference makes the "
                  "input.", ("x_N = ε ∼ N(0, 1)",))

prompt_to_prompt = Method("prompt_to_prompt", run, PromptToPromptOptions, uses=frozenset({"reference", "encoded"}),
                          needs_reference=True, remakes=True, generates=True, plain=without_weights,
                          texts={"start": NO_PICTURE, "mask": BY_ATTENTION, "decode": BRANCHES})
