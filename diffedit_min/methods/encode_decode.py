"""Encode-Decode, the paper's ablation without a mask (section 4.1): D_r(E_r(x_0), query). And the plain round trip."""

from collections.abc import Generator
from dataclasses import dataclass, replace

from .base import Method, Outcome, Step, Task
from .coding import CodingOptions, IntervalOptions, decode, encode


@dataclass(frozen=True)
class InvertOptions(CodingOptions):
    """The round trip is unguided: s = 1."""

    guidance_scale: float = 1.0


def run(task: Task, options: IntervalOptions | InvertOptions) -> Generator[Step, None, Outcome]:
    """Encode with the empty text, decode under the query. k + 2k rows a picture."""
    levels = options.levels(task.model.schedule)
    encoded = yield from encode(task, options, levels)
    decoded = yield from decode(task, options, encoded[-1], levels)
    return Outcome(decoded[0].latent, encoded=encoded, decoded=decoded)


encode_decode = Method("encode_decode", run, IntervalOptions, uses=frozenset({"encoded"}))


def round_trip(task: Task, options: InvertOptions) -> Generator[Step, None, Outcome]:
    """Encode and decode under the same text, the reference: how well does the picture come back? k + k rows."""
    return (yield from run(replace(task, query=task.reference, empty=task.reference), options))


invert = Method("invert", round_trip, InvertOptions, uses=frozenset({"reference", "encoded"}), takes_query=False)
