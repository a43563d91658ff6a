"""Direct inversion (PnP inversion), arXiv:2310.01506: keep the inversion's latents and put the source branch back on
them at every level.

    source:  z*_j, exactly as encoded, j = k, ..., 0        target: decoded as it is, its attention from the source's

The paper adds z*_{j} - z_{j} to the source's z_{j}; here z*_{j} is simply put in its place, which is the same without
the rounding. The source's guided prediction is then never needed, only the attention of its conditional row.
"""

from collections.abc import Generator

from .base import Method, Outcome, Step, Task
from .prompt_to_prompt import PromptToPromptOptions, branches, invert, prepare
from .words import without_weights


def run(task: Task, options: PromptToPromptOptions) -> Generator[Step, None, Outcome]:
    """k + 3k rows a picture."""
    levels, control = prepare(task, options)
    encoded = yield from invert(task, options, levels)
    return (yield from branches(task, options, control, levels, encoded, source_scale=1.0,
                                pinned=True))


direct_inversion = Method("direct_inversion", run, PromptToPromptOptions, knob="cross_replace",
                          uses=frozenset({"reference", "encoded"}), needs_reference=True,
                          remakes=True, plain=without_weights)
