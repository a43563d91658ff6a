"""E_r and D_r, encoding and decoding, as methods call them, and the options that they need.

Both are generators that yield a `Step` for each step taken. Where reuse.py allows it, `encode` takes an earlier edit's
encoding instead.
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
    """The options that every method has. The defaults are the papers'."""

    steps: int = option(50, "N, the number of noise levels on the whole timeline, of which the encoding ratio takes a "
                        "part; more are finer and slower", least=1, usual=(1, 200), stage="levels")
    guidance_scale: float = option(7.5, "s, how much the query counts while decoding; 1 means no guidance",
                                   least=0, usual=(0, 40), stage="decoding")
    negative_prompt: str = option("", "takes the place of the empty text in guidance", stage="decoding")

    sampler = DDIM()        # for methods without an option `sampler`

    def check_count(self, pictures: int) -> None:
        """Raise ValueError if these options don't allow so many pictures in one call."""


@dataclass(frozen=True)
class RatioOptions(Options):
    """For methods that bring the picture's own latent to some noise level and start from there."""

    encoding_ratio: float = option(0.8, "r, how far towards noise the picture goes; more changes more", least=0, most=1,
                                   stage="levels")

    def levels(self, schedule: Schedule) -> tuple[Level, ...]:
        """The levels of the encoding: the clean one, and k noisier ones."""
        return schedule.levels(self.steps, self.encoding_ratio)


@dataclass(frozen=True)
class CodingOptions(RatioOptions):
    """For methods that encode the picture: with which sampler, at which levels."""

    sampler: Sampler = option(DDIM(), "encodes and decodes: a name, or an object with encode and decode",
                              stage="encoding")
    grid: str = option("leading", "levels at even distances in t, as in the paper (leading), or in log(signal / noise) "
                       "(lambda)", choices=("leading", "lambda"), stage="levels")

    def levels(self, schedule: Schedule) -> tuple[Level, ...]:
        """The levels of the encoding. A smaller encoding ratio gives the first ones of those of a larger ratio."""
        if self.grid == "leading":
            return super().levels(schedule)
        evenly = even_in_log_snr(schedule, schedule.levels(self.steps))
        return tuple(level for level in evenly if level.t <= self.encoding_ratio * schedule.T)


@dataclass(frozen=True)
class IntervalOptions(CodingOptions):
    """Guidance in a limited interval of noise levels only, arXiv:2404.07724.

    Elsewhere the prediction is the one conditioned on the query, without guidance: one row instead of two.
    """

    guidance_from: float = option(0.0, "the lowest t / T, as a part of the training timeline, with guidance", least=0,
                                  most=1, stage="decoding")
    guidance_until: float = option(1.0, "the highest t / T with guidance", least=0, most=1, stage="decoding")


def encode(
    task: Task, options: Options, context: Context, levels: Sequence[Level]
) -> Generator[Step, None, Trajectory]:
    """E_r(x_0) conditioned on `context`, without guidance: the states at all levels, x_0 first. DDIM: k rows a picture.

    context: one of the task's contexts, in the paper `task.empty`. An earlier edit's encoding is used instead, if the
    same things would make it again and it goes far enough. Raises ValueError for one that the caller gave and that
    something else has made.
    """
    made = made_of_encoding(task, options, task.texts_of(context))
    if earlier := earlier_encoding(task.offers, made, task.x0, levels):
        return earlier
    eps_fn, encoded = conditional(task.model.eps, context, task.rows, "encode"), []
    for state in options.sampler.encode(eps_fn, task.x0, levels):
        encoded.append(state)
        if state.index > 0:
            yield Step("encode", state.index, len(levels) - 1, state.latent)
    return Trajectory(encoded, made)


def decode(
    task: Task, options: Options, eps_fn: EpsFn, start: State, levels: Sequence[Level], blend: Blend | None = None,
    shown: slice = slice(None),
) -> Generator[Step, None, Trajectory]:
    """D_r(start) with this noise prediction: the states at all levels, the clean one first.

    Only the clean one is kept unless the task keeps a trace. shown: the part of the batch that a `Step` shows.
    """
    decoded: list[State] = []
    for state in options.sampler.decode(eps_fn, start, levels, blend):
        decoded = kept(decoded, state, task.keep)
        if state.index < start.index:
            yield Step("decode", start.index - state.index, start.index, state.latent[shown])
    return Trajectory(decoded)


def eps_of_query(task: Task, options: Options) -> EpsFn:
    """The guided noise prediction, conditioned on the query: 2k rows a picture with DDIM, or k at guidance scale 1.

    With `IntervalOptions` there is guidance in the interval only.
    """
    everywhere = guided(task.model.eps, task.query, task.negative, options.guidance_scale, task.rows, "decode")
    if not isinstance(options, IntervalOptions):
        return everywhere
    plain, T = conditional(task.model.eps, task.query, task.rows, "decode"), task.model.schedule.T
    return lambda x, t: (everywhere if options.guidance_from <= t / T <= options.guidance_until else plain)(x, t)


def kept(decoded: list[State], state: State, keep: str) -> list[State]:
    """The states of a decoding so far, by level, and the next one before them; only that one if no trace is kept."""
    return [state, *decoded] if keep == "trace" else [state]
