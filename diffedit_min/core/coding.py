"""E_r and D_r as methods use them, and the options that these need. Both are generators that yield a `Step` a step.

An encoding is taken up where an earlier edit left one: `encode` asks reuse.py.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from .ddim import DDIM
from .guidance import EpsFn, conditional, guided
from .options import Declared, option
from .reuse import earlier_encoding, made_of_encoding
from .schedule import Level, Schedule, even_in_log_snr
from .state import Blend, Sampler, State, Trajectory
from .task import Context, Step, Task


@dataclass(frozen=True)
class Options(Declared):
    """What every method can be told. Defaults are the papers'."""

    steps: int = option(50, "N, the levels of the whole timeline, of which the encoding ratio's part is walked; more "
                        "are finer and slower", least=1, usual=(1, 200), stage="levels")
    guidance_scale: float = option(7.5, "s, how much the query counts while decoding; 1 is its plain prediction",
                                   least=0, usual=(0, 40), stage="decoding")
    negative_prompt: str = option("", "stands in for the empty text in guidance", stage="decoding")

    sampler = DDIM()        # of methods that offer no choice

    def check_count(self, pictures: int) -> None:
        """ValueError if so many pictures at once are too many for these options."""


@dataclass(frozen=True)
class RatioOptions(Options):
    """Of methods that start from the picture's own latent, brought to some level of noise."""

    encoding_ratio: float = option(0.8, "r, how far towards noise the picture goes; more changes more", least=0, most=1,
                                   stage="levels")

    def levels(self, schedule: Schedule) -> tuple[Level, ...]:
        """Those that are walked: the clean one, and k noisier ones."""
        return schedule.levels(self.steps, self.encoding_ratio)


@dataclass(frozen=True)
class CodingOptions(RatioOptions):
    """Of methods that encode the picture: with which sampler, along which levels."""

    sampler: Sampler = option(DDIM(), "walks to noise and back: a name, or an object with encode and decode",
                              stage="encoding")
    grid: str = option("leading", "levels evenly in t, as the paper's (leading), or evenly in log(signal / noise) "
                       "(lambda)", choices=("leading", "lambda"), stage="levels")

    def levels(self, schedule: Schedule) -> tuple[Level, ...]:
        """Those that are walked. On both grids a smaller encoding ratio's are the first ones of a larger's."""
        if self.grid == "leading":
            return super().levels(schedule)
        evenly = even_in_log_snr(schedule, schedule.levels(self.steps))
        return tuple(level for level in evenly if level.t <= self.encoding_ratio * schedule.T)


@dataclass(frozen=True)
class IntervalOptions(CodingOptions):
    """Guidance in a limited interval of noise levels, arXiv:2404.07724: elsewhere the query's own prediction, 1 row."""

    guidance_from: float = option(0.0, "guide from this part t / T of the training timeline on", least=0, most=1,
                                  stage="decoding")
    guidance_until: float = option(1.0, "guide up to this part of it", least=0, most=1, stage="decoding")


def encode(
    task: Task, options: Options, told: Context, levels: Sequence[Level]
) -> Generator[Step, None, Trajectory]:
    """E_r(x_0) under `told`, unguided: the states at all levels, x_0 first. DDIM: k rows a picture.

    told: one of the task's contexts, as a rule `task.empty`. An earlier edit's encoding that the same has made, as long
    or longer, serves as it is. Raises ValueError for one that the caller gave and that something else has made.
    """
    made = made_of_encoding(task, options, task.texts_of(told))
    if earlier := earlier_encoding(task.offers, made, task.x0, levels):
        return earlier
    eps_fn, encoded = conditional(task.model.eps, told, task.rows, "encode"), []
    for state in options.sampler.encode(eps_fn, task.x0, levels):
        encoded.append(state)
        if state.index > 0:
            yield Step("encode", state.index, len(levels) - 1, state.latent)
    return Trajectory(encoded, made)


def decode(
    task: Task, options: Options, eps_fn: EpsFn, start: State, levels: Sequence[Level], blend: Blend | None = None,
    shown: slice = slice(None),
) -> Generator[Step, None, Trajectory]:
    """D_r(start) with this prediction: the states at all levels, the clean one first; that one alone without a trace.

    shown: which latents of the batch the steps show.
    """
    decoded: list[State] = []
    for state in options.sampler.decode(eps_fn, start, levels, blend):
        decoded = kept(decoded, state, task.keep)
        if state.index < start.index:
            yield Step("decode", start.index - state.index, start.index, state.latent[shown])
    return Trajectory(decoded)


def eps_of_query(task: Task, options: Options) -> EpsFn:
    """The guided prediction under the query: DDIM takes 2k rows a picture with it, or k at guidance scale 1.

    With `IntervalOptions` it is the query's own prediction outside the interval.
    """
    everywhere = guided(task.model.eps, task.query, task.negative, options.guidance_scale, task.rows, "decode")
    if not isinstance(options, IntervalOptions):
        return everywhere
    plain, T = conditional(task.model.eps, task.query, task.rows, "decode"), task.model.schedule.T
    return lambda x, t: (everywhere if options.guidance_from <= t / T <= options.guidance_until else plain)(x, t)


def kept(decoded: list[State], state: State, keep: str) -> list[State]:
    """A decoding's states so far, by level, with the one below them; only that one if no trace is kept."""
    return [state, *decoded] if keep == "trace" else [state]
