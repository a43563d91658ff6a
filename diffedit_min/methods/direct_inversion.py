"""Direct inversion (PnP inversion), arXiv:2310.01506: keep the inversion's latents, and set the source branch to them
at every level.

    source:  z*_j, exactly as encoded, for j = k, ..., 0
    target:  decoded as usual, with attention from the source

The paper adds z*_j - z_j to the source's z_j. Here z*_j takes its place, which is the same without rounding error. So
the source's guided prediction isn't needed, only the attention of its conditional row.
"""

from collections.abc import Generator
from dataclasses import replace

from ..core.coding import encode
from ..core.task import Outcome, Step, Task
from .method import Method
from .prompt_to_prompt import BRANCHES, BY_ATTENTION, PromptToPromptOptions, branches, prepare
from .words import without_weights


def run(task: Task, options: PromptToPromptOptions) -> Generator[Step, None, Outcome]:
    """k + 3k rows a picture."""
    control = prepare(task, options)
    encoded = yield from encode(task, options, task.reference, control.levels)
    return (yield from branches(task, options, control, encoded, source_scale=1.0, pinned=True))


PINNED = replace(BRANCHES, words=(
    "As in Prompt-to-Prompt, but the reference's branch is set to the encoding at every level, so that it returns to "
    "the picture exactly. The query's branch is shown."))

direct_inversion = Method("direct_inversion", run, PromptToPromptOptions, uses=frozenset({"reference", "encoded"}),
                          needs_reference=True, remakes=True, to_prompt=without_weights,
                          texts={"mask": BY_ATTENTION, "decode": PINNED})
