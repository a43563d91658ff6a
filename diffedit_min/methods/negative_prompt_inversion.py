"""Negative-prompt inversion, arXiv:2305.16807: an approximation of null-text inversion that needs no tuning.

The picture is encoded conditioned on the reference C, without guidance. In guided decoding, C also takes the place of
the empty text. So the source's guided prediction eps(C) + s (eps(C) - eps(C)) is eps(C) for any s, and decoding returns
to the picture up to DDIM's own error. The target's prediction is eps(C) + s (eps(query) - eps(C)). Attention is edited
as in Prompt-to-Prompt.
"""

from collections.abc import Generator
from dataclasses import dataclass

from ..core.coding import encode
from ..core.options import option
from ..core.task import Outcome, Step, Task
from .help import Text
from .method import Method
from .prompt_to_prompt import ATTENTION, BRANCHES, BY_ATTENTION, PromptToPromptOptions, branches, prepare
from .words import without_weights


@dataclass(frozen=True)
class NegativePromptOptions(PromptToPromptOptions):
    """There can be no negative prompt, since the reference takes its place."""

    negative_prompt: str = option("", "has to be empty: the reference takes its place", stage="decoding")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.negative_prompt:
            raise ValueError(f"negative_prompt {self.negative_prompt!r}: here the reference takes its place; leave it "
                             "out")


def run(task: Task, options: NegativePromptOptions) -> Generator[Step, None, Outcome]:
    """k + 3k rows a picture."""
    control = prepare(task, options)
    encoded = yield from encode(task, options, task.reference, control.levels)
    return (yield from branches(task, options, control, encoded, source_scale=1.0, negatives=lambda j: task.reference))


TWO_TEXTS = Text(
    "As in Prompt-to-Prompt, but with the reference in place of the empty text. So the reference's branch returns to "
    "the picture, up to DDIM's own error. The query's branch is shown.",
    ("ε̃ = ε(x, t, reference) + s (ε(x, t, query) − ε(x, t, reference))", ATTENTION), BRANCHES.functions,
    why="Why the reference and not the empty text: then guidance changes nothing in the reference's branch, which is "
    "decoded as it was encoded.")

negative_prompt_inversion = Method("negative_prompt_inversion", run, NegativePromptOptions,
                                   uses=frozenset({"reference", "encoded"}), needs_reference=True, remakes=True,
                                   to_prompt=without_weights, texts={"mask": BY_ATTENTION, "decode": TWO_TEXTS})
