"""Direct inversion (PnP inversion), arXiv:2310.01506: keep the inversion's latents and put the source branch back on
them at every level.

    source:  z*_j, exactly as encoded, j = k, ..., 0        target: decoded as it is, its attention from the source's

The paper adds z*_{j} - z_{j} to the source's z_{j}; here z*_{j} is simply put in its place, which is the same without
the rounding. The source's guided prediction is then never needed, only the attention of its conditional row.
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
    levels, control = prepare(task, options)
    encoded = yield from encode(task, options, task.reference, levels)
    return (yield from branches(task, options, control, levels, encoded, source_scale=1.0,
                                pinned=True))


PINNED = replace(BRANCHES, words=(
    "As Prompt-to-Prompt, but the reference's branch is put back on the encoding at every level, so that it returns to "
    "the picture exactly. The query's branch is shown."))

direct_inversion = Method("direct_inversion", run, PromptToPromptOptions, uses=frozenset({"reference", "encoded"}),
                          needs_reference=True, remakes=True, plain=without_weights,
                          texts={"mask": BY_ATTENTION, "decode": PINNED})
