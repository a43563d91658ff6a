"""E_r and D_r as methods use them: a picture's encoding, taken up where an earlier edit left one, and a decoding.

Both are generators that yield a `Step` for each step taken.
"""

from collections.abc import Generator, Sequence

from ..guidance import conditional, guided
from ..samplers import Blend, State, ddim
from ..schedule import Level
from .base import Options, Step, Task, Trajectory


def encode(task: Task, levels: Sequence[Level], time: str) -> Generator[Step, None, Trajectory]:
    """E_r(x_0), under the task's empty text and unguided: the states at all levels, x_0 first. k rows a picture.

    An earlier encoding of the same picture that goes as far or further serves as it is: a smaller ratio is a prefix.
    Raises ValueError if the task's `encoded` stands at other levels.
    """
    if task.encoded:
        given = [state.level for state in task.encoded[: len(levels)]]
        if given != list(levels[: len(given)]):
            raise ValueError("encoded was made with another number of steps: pass one made with the same")
        if len(given) == len(levels):
            return task.encoded[: len(levels)]
    encoded: list[State] = []
    for state in ddim.encode(conditional(task.model.eps, task.empty, task.rows), task.x0, levels, time):
        encoded.append(state)
        if state.index > 0:
            yield Step("encode", state.index, len(levels) - 1, state.latent)
    return tuple(encoded)


def decode(
    task: Task, options: Options, start: State, levels: Sequence[Level], blend: Blend | None = None
) -> Generator[Step, None, Trajectory]:
    """D_r(start, query), guided: the states at all levels, the clean one first; only that one if no trace is kept.

    2k rows a picture; k at guidance scale 1.
    """
    decoded: list[State] = []
    under_query = guided(task.model.eps, task.query, task.negative, options.guidance_scale, task.rows)
    for state in ddim.decode(under_query, start, levels, blend):
        decoded = [state, *decoded] if task.keep == "trace" else [state]
        if state.index < start.index:
            yield Step("decode", start.index - state.index, start.index, state.latent)
    return tuple(decoded)
