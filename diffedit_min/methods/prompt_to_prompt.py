"""Prompt-to-Prompt, arXiv:2208.01626: edit through cross-attention, which decides where in a picture each word appears.

Two branches are decoded side by side from the same noise: the source, conditioned on the reference, and the target,
conditioned on the query. M = softmax(Q K^T / sqrt(d)) are the source's attention maps, and M* are the target's. In the
target's attention, M* is replaced by M^ (section 3.2), which is multiplied by the target's own values V:

    word swap       M^ = M if step < tau, else M*                       the columns of M are those of the swapped words
    refinement      M^[:, j] = M[:, A(j)] if j has a counterpart A(j), else M*[:, j]
    re-weighting    M^[:, j] = c M^[:, j] for chosen words j

The paper starts from a seed; a real picture starts from its inversion. These are not in the paper, but in its authors'
code (google/prompt-to-prompt): windows for single words, self-attention taken from the source in the first steps, and
the threshold of the local blend.
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
    """How attention is edited. A part of the steps begins at the noisiest one: 0.4 of 50 steps are the first 20."""

    encoding_ratio: float = option(1.0, "r, how far towards noise a real picture is encoded", least=0, most=1,
                                   stage="levels")
    align: str = option("auto", "how the words of reference and query correspond: one by one (swap), only equal ones "
                        "(refine), or swap if both have the same number of words, else refine (auto)",
                        choices=("auto", "swap", "refine"), stage="decoding")
    cross_replace: float = option(0.8, "tau, the first part of the steps, in which words take the source's attention",
                                  least=0, most=1, stage="decoding")
    word_windows: dict = option({}, "cross_replace for single words of the query, for example bowl:0.4; in Python also "
                                "with both ends, {'red': (0.2, 1)}", stage="decoding")
    self_replace: float = option(0.4, "the first part of the steps, in which self-attention is the source's", least=0,
                                 most=1, stage="decoding")
    self_size: float = option(0.5, "self-attention is replaced in feature maps of at most this part of the latents' "
                              "sides", least=0, stage="decoding")
    reweight: dict = option({}, "factors for the attention to words of the query, for example apples:2; the same as "
                            "(apples:2) in the query", stage="decoding")
    reweight_until: float = option(1.0, "the first part of the steps, in which attention is re-weighted; the authors' "
                                   "code has cross_replace", least=0, most=1, stage="decoding",
                                   needs={"reweight": {"a": 4.0}})
    local_blend: str = option("", "words, with commas between them, near which alone the picture may change; or "
                              "changed: the words that differ", stage="decoding")
    blend_threshold: float = option(0.3, "the picture may change where the words' attention is above this part of its "
                                    "maximum", least=0, most=1, stage="decoding", needs={"local_blend": "changed"})
    blend_start: float = option(0.2, "the first part of the steps, in which nothing is blended", least=0, most=1,
                                stage="decoding", needs={"local_blend": "changed"})
    blend_size: float = option(0.25, "the side of the attention maps that are read, as a part of the latents' side",
                               above=0, stage="decoding", needs={"local_blend": "changed"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, window in self.word_windows.items():
            for end in window_of(window, f"word_windows of {word!r}"):
                check_ratio(end, f"word_windows of {word!r}")
        for word, weight in self.reweight.items():
            if not isinstance(weight, int | float) or not abs(weight) < float("inf"):
                raise ValueError(f"reweight of {word!r} must be a number, not {weight!r}")


@dataclass(frozen=True)
class PromptToPromptOptions(AttentionOptions, CodingOptions):
    """How attention is edited, and which sampler is used for the inversion and for both branches."""


def run(task: Task, options: PromptToPromptOptions) -> Generator[Step, None, Outcome]:
    """k rows for the inversion of a real picture under the reference, 4k for the branches."""
    control = prepare(task, options)
    encoded = Trajectory() if task.generate else (yield from encode(task, options, task.reference, control.levels))
    return (yield from branches(task, options, control, encoded))


def prepare(task: Task, options: AttentionOptions) -> "Control":
    """How attention is edited at which levels. Without a picture, these are all levels, whatever the encoding ratio."""
    options = replace(options, encoding_ratio=1.0) if task.generate else options
    return Control.of(task, options, options.levels(task.model.schedule))


def start_of_branches(task: Task, encoded: Trajectory, levels: tuple[Level, ...]) -> State:
    """The state from which both branches start, 2B latents: the end of the inversion, or noise from the seed."""
    if not encoded:
        noise = standard_noise(task.x0, task.seeds, "generate")
        return State(len(levels) - 1, levels[-1], noise.repeat(2, 1, 1, 1))
    return encoded[-1].map(lambda latent: latent.repeat(2, 1, 1, 1))


# ---------------------------------------------------------------- two branches


def branches(
    task: Task,
    options: AttentionOptions,
    control: "Control",
    encoded: Trajectory,
    *,
    source_scale: float | None = None,
    negatives: Callable[[int], Context] | None = None,
    pinned: bool = False,
) -> Generator[Step, None, Outcome]:
    """Decode source and target, 2B latents in one batch, with the target's attention edited.

    source_scale: the source's guidance scale; None: the target's. negatives: the context that takes the place of the
    empty text at levels[j], for each j; None: the negative prompt's. pinned: True if the source's latent is replaced by
    the encoded one at every level.
    """
    B, k = len(task.x0), len(control.levels) - 1
    eps_fn = eps_of_branches(task, control, negatives or (lambda j: task.negative),
                             (options.guidance_scale if source_scale is None else source_scale, options.guidance_scale))

    def blend(latent: Tensor, j: int) -> Tensor:
        """Replace the source by its encoding if it is pinned, and the target by the source outside the local blend."""
        source, target = latent.chunk(2)
        if pinned:
            source = encoded[j].latents
        if (mask := control.blend_mask(k - j)) is not None:
            target = torch.where(mask, target, source)
        return torch.cat([source, target])                                      # (2B, C, h, w)

    start = start_of_branches(task, encoded, control.levels)
    decoded = yield from decode(task, options, eps_fn, start, control.levels, blend, shown=slice(B, None))
    source, target = decoded[0].latent.split(B)
    of_target = Trajectory(state.map(lambda latent: latent[B:]) for state in decoded)
    return Outcome(target, control.blend_mask(k), encoded=encoded, decoded=of_target, source=source)


def eps_of_branches(
    task: Task, control: "Control", negatives: Callable[[int], Context], scales: tuple[float, float]
) -> EpsFn:
    """eps (2B, C, h, w) of both branches, each guided at its own scale. At scale 1 there are no unconditional rows.

    Attention is edited in the conditional rows only, as in the authors' code.
    """
    B, levels = len(task.x0), control.levels
    index = {level.t: j for j, level in enumerate(levels)}
    conditions, guided = task.reference.join(task.query), [i for i, scale in enumerate(scales) if scale != 1]

    def eps_fn(x: Tensor, t: int) -> Tensor:
        j, x_of = index[t], x.split(B)
        rows = torch.cat([x, *(x_of[i] for i in guided)])
        context = conditions.join(negatives(j).repeat(len(guided))) if guided else conditions
        task.rows.forward["both branches"] += len(rows)
        eps = list(task.model.eps(rows, t, context, control.at(len(levels) - 1 - j)).split(B))
        for unconditional, i in enumerate(guided, start=2):
            eps[i] = classifier_free_guidance(eps[unconditional], eps[i], scales[i])
        return torch.cat(eps[:2])

    return eps_fn


# ---------------------------------------------------------------- attention


@dataclass(eq=False)
class Control:
    """How attention is edited in the conditional rows of B pictures, source and target, at each of k steps."""

    levels: tuple[Level, ...]       # the clean one and k noisier ones
    pictures: int                   # B
    table: Tensor                   # (B, L, L): of which source token each target token can take the map
    taken: Tensor                   # (k, B, L) in {0, 1}: whether it takes it, at each step
    weights: Tensor                 # (B, L): c of each target token
    weighted_steps: int             # the number of first steps in which the weights are used
    self_steps: int                 # the number of first steps in which self-attention is replaced
    self_height: float              # the largest height of a feature map whose self-attention is replaced
    blend: LocalBlend | None

    @classmethod
    def of(cls, task: Task, options: AttentionOptions, levels: tuple[Level, ...]) -> "Control":
        """Raises ValueError, which names them, for prompts that don't correspond or words that aren't in them."""
        tables, taken, weights, words, k = [], [], [], [], len(levels) - 1
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
        return cls(levels, len(tables), *stacked, levels_used(options.reweight_until, k),
                   levels_used(options.self_replace, k), options.self_size * task.x0.shape[-2], blend)

    def at(self, step: int) -> "EditedAttention | None":
        """The `attend` for the call of the U-Net at that step; None if there is nothing to edit or to read."""
        weights = self.weights if step < self.weighted_steps else torch.ones_like(self.weights)
        taken = self.taken[step]
        cross = bool(taken.any() or (weights != 1).any())
        if not cross and step >= self.self_steps and self.blend is None:
            return None
        return EditedAttention(self, cross, step < self.self_steps, taken, weights)

    def blend_mask(self, steps: int) -> Tensor | None:
        """Where the target may differ from the source after `steps` steps, bool (B, 1, h, w); None: everywhere."""
        if self.blend is None or self.blend.total is None or steps <= self.blend.first:
            return None
        return self.blend.mask()


@dataclass(frozen=True, eq=False)
class EditedAttention:
    """Attention in which the target's rows, B .. 2B, use maps of the source's, 0 .. B. Other rows stay as they are."""

    control: Control
    cross: bool                     # whether cross-attention is edited
    own: bool                       # whether self-attention is replaced
    taken: Tensor                   # (B, L)
    weights: Tensor                 # (B, L)

    def wants(self, place: Place) -> bool:
        """Whether maps are edited or read at this place. Everywhere else the fast kernel is used."""
        if not place.cross:
            return self.own and place.height <= self.control.self_height
        return self.cross or self.reads(place)

    def reads(self, place: Place) -> bool:
        blend = self.control.blend
        return blend is not None and place.height == blend.height

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, place: Place) -> Tensor:
        """q (rows, heads, hw, d), k and v (rows, heads, hw or L, d) -> (rows, heads, hw, d)."""
        B = self.control.pictures
        if not place.cross:     # the source's queries and keys make the source's map, for the target's values too
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
        """M^ from M and M*, (B, heads, hw, L) each. As in the paper, its rows need not sum to 1."""
        table, taken, weights = (x.to(source.dtype) for x in (self.control.table, self.taken, self.weights))
        mapped = source @ table[:, None]                                        # M[:, A(j)]
        taken, weights = taken[:, None, None], weights[:, None, None]           # (B, 1, 1, L)
        return weights * (taken * mapped + (1 - taken) * target)


def windows(target: Prompt, options: AttentionOptions, k: int) -> Tensor:
    """At which steps each target token may take the source's attention: (k, L) in {0, 1}."""
    allowed, steps = torch.zeros(k, target.length), torch.arange(k)

    def window(positions: Any, ends: Any) -> None:
        first, end = (levels_used(part, k) for part in window_of(ends, "a window"))
        allowed[:, positions] = ((steps >= first) & (steps < end)).float()[:, None]

    window(slice(None), options.cross_replace)
    for word, ends in options.word_windows.items():
        window(target.find(word), ends)
    return allowed


def window_of(value: Any, name: str) -> tuple[float, float]:
    """The two ends of a window: 0.4 means from 0 to 0.4, and a pair is taken as it is.

    Raises ValueError, which has the name, for anything else.
    """
    ends = (0.0, value) if isinstance(value, int | float) else tuple(value) if isinstance(value, tuple | list) else ()
    if len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        raise ValueError(f"{name} must be a number or two, from 0 to 1, not {value!r}")
    return ends


def weights_of(target: Prompt, weights: dict[str, float]) -> Tensor:
    """The factor c of each target token, (L,)."""
    c = torch.ones(target.length, dtype=torch.float64)
    for phrase, weight in weights.items():
        c[target.find(phrase)] = weight
    return c


ATTENTION = "M̂ = M (the reference's attention) in the first steps, M* (the query's own) after"
BRANCHES = Text(
    "Reference and query are decoded side by side. In the first steps the query's branch, which is shown here, takes "
    "the reference's attention, which decides where each word appears.",
    (ATTENTION, GUIDED), (branches, EditedAttention.edited),
    why="Why attention: it decides in which cells each word counts, so with the reference's attention the new words "
    "count where the old ones did.")
BY_ATTENTION = Text("There is no map of noise differences. This mask is where the network's attention to the words of "
                    "local_blend is high.", (), (LocalBlend.mask,),
                    why="Why attention: it shows where in the picture the network sees each word.")
NO_PICTURE = Text("There was no picture to encode: decoding starts from the seed's noise, and the reference's branch "
                  "makes the input.", ("x_N = ε ∼ N(0, 1)",))

prompt_to_prompt = Method("prompt_to_prompt", run, PromptToPromptOptions, uses=frozenset({"reference", "encoded"}),
                          needs_reference=True, remakes=True, generates=True, to_prompt=without_weights,
                          texts={"start": NO_PICTURE, "mask": BY_ATTENTION, "decode": BRANCHES})
