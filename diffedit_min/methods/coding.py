"""E_r and D_r as methods use them: a picture's encoding, taken up where an earlier edit left one, and a decoding.

Both are generators that yield a `Step` for each step taken.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..guidance import EpsFn, conditional, guided
from ..samplers import Blend, State, bdia, belm, ddim, dpm_solver, edict, fixed_point
from ..schedule import Level, Schedule, check_ratio
from .base import Step, Task
from .batches import Trajectory
from .options import Options, RatioOptions


@dataclass(frozen=True)
class CodingOptions(RatioOptions):
    """Which sampler encodes and decodes, and what it can be told: each of the other options is for one sampler."""

    sampler: str = "ddim"               # the paper's; or fixed_point, edict, bdia, belm, which decoding undoes exactly,
                                        # or dpm_solver, which is of order 2
    time: str = "destination"           # ddim: the t that the network sees while encoding, see samplers/ddim.py
    iterations: int = 20                # fixed_point: of each encoding step
    p: float = 0.93                     # edict: how little the two latents are mixed
    gamma: float = 0.96                 # bdia: how much of the step up is taken back
    grid: str = "leading"               # levels evenly in t, as the paper's; or "lambda": evenly in log(signal / noise)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler {self.sampler!r} is not known; known are {', '.join(SAMPLERS)}")
        ddim.check_time(self.time)
        fixed_point.check_iterations(self.iterations)
        edict.check_p(self.p)
        bdia.check_gamma(self.gamma)
        if self.grid not in GRIDS:
            raise ValueError(f"grid {self.grid!r} is not known; known are {', '.join(GRIDS)}")

    def levels(self, schedule: Schedule) -> tuple[Level, ...]:
        """Those that are walked. On both grids a smaller encoding ratio's are the first ones of a larger's."""
        if self.grid == "leading":
            return super().levels(schedule)
        evenly = dpm_solver.even_in_lambda(schedule, schedule.levels(self.steps))
        return tuple(level for level in evenly if level.t <= self.encoding_ratio * schedule.T)


@dataclass(frozen=True)
class IntervalOptions(CodingOptions):
    """Guidance in a limited interval of noise levels, arXiv:2404.07724: elsewhere the query's own prediction, 1 row."""

    guidance_from: float = 0.0          # the interval's ends, as parts t / T of the training timeline
    guidance_until: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ratio(self.guidance_from, "guidance_from")
        check_ratio(self.guidance_until, "guidance_until")


GRIDS = ("leading", "lambda")

# For each sampler, its encode and its decode with their options filled in.
SAMPLERS: dict[str, Callable[[CodingOptions], tuple[Any, Any]]] = {
    "ddim": lambda o: (partial(ddim.encode, time=o.time), ddim.decode),
    "fixed_point": lambda o: (partial(fixed_point.encode, iterations=o.iterations), fixed_point.decode),
    "edict": lambda o: (partial(edict.encode, p=o.p), partial(edict.decode, p=o.p)),
    "bdia": lambda o: (partial(bdia.encode, gamma=o.gamma), partial(bdia.decode, gamma=o.gamma)),
    "belm": lambda o: (belm.encode, belm.decode),
    "dpm_solver": lambda o: (dpm_solver.encode, dpm_solver.decode),
}

# At which level, from its own, each sampler's second latent stands while encoding.
PARTNERS = {"ddim": [], "fixed_point": [], "edict": [0], "bdia": [-1], "belm": [-1], "dpm_solver": []}


def encode(task: Task, options: CodingOptions, levels: Sequence[Level]) -> Generator[Step, None, Trajectory]:
    """E_r(x_0), under the task's empty text and unguided: the states at all levels, x_0 first. DDIM: k rows a picture.

    An earlier encoding of the same picture that goes as far or further serves as it is: a smaller ratio is a prefix.
    Raises ValueError if the task's `encoded` stands at other levels, or is another kind of sampler's.
    """
    run, _ = SAMPLERS[options.sampler](options)
    states = run(conditional(task.model.eps, task.empty, task.rows), task.x0, levels)
    if task.encoded:
        given = task.encoded[: len(levels)]
        if [state.level for state in given] != list(levels[: len(given)]):
            raise ValueError("encoded was made with another number of steps or grid: pass one made with the same")
        if given[-1].index > 0 and [i - given[-1].index for i, _ in given[-1].partners] != PARTNERS[options.sampler]:
            raise ValueError(f"encoded was made by another sampler than {options.sampler}: pass one made by the same")
        if len(given) == len(levels):
            return given
    encoded: list[State] = []
    for state in states:
        encoded.append(state)
        if state.index > 0:
            yield Step("encode", state.index, len(levels) - 1, state.latent)
    return tuple(encoded)


def decode(
    task: Task, options: Options, start: State, levels: Sequence[Level], blend: Blend | None = None,
    eps_fn: EpsFn | None = None, shown: slice = slice(None),
) -> Generator[Step, None, Trajectory]:
    """D_r(start, query), guided: the states at all levels, the clean one first; only that one if no trace is kept.

    DDIM, which methods without a choice of samplers use: 2k rows a picture; k at guidance scale 1. eps_fn: in place of
    the guided prediction under the query. shown: which latents of the batch the steps show.
    """
    run = SAMPLERS[options.sampler](options)[1] if isinstance(options, CodingOptions) else ddim.decode
    decoded: list[State] = []
    if eps_fn is None:
        eps_fn = guided_as_told(task, options)
    for state in run(eps_fn, start, levels, blend):
        decoded = kept(decoded, state, task.keep)
        if state.index < start.index:
            yield Step("decode", start.index - state.index, start.index, state.latent[shown])
    return tuple(decoded)


def guided_as_told(task: Task, options: Options) -> EpsFn:
    """The guided prediction under the query; that of the query alone outside the interval, where there is one."""
    everywhere = guided(task.model.eps, task.query, task.negative, options.guidance_scale, task.rows)
    if not isinstance(options, IntervalOptions):
        return everywhere
    plain, T = conditional(task.model.eps, task.query, task.rows), task.model.schedule.T
    return lambda x, t: (everywhere if options.guidance_from <= t / T <= options.guidance_until else plain)(x, t)


def kept(decoded: list[State], state: State, keep: str) -> list[State]:
    """A decoding's states so far, by level, with the one below them; only that one if no trace is kept."""
    return [state, *decoded] if keep == "trace" else [state]
