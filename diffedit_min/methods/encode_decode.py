"""Encode-Decode, the paper's ablation without a mask (section 4.1): D_r(E_r(x_0), query). And the plain round trip."""

from collections.abc import Generator
from dataclasses import dataclass

from ..core.coding import CodingOptions, IntervalOptions, decode, encode, eps_of_query
from ..core.guidance import guided
from ..core.options import option
from ..core.task import Outcome, Step, Task
from .help import GUIDED_STEP, Text
from .method import Method


def run(task: Task, options: IntervalOptions) -> Generator[Step, None, Outcome]:
    """Encode with the empty text, decode under the query. k + 2k rows a picture."""
    levels = options.levels(task.model.schedule)
    encoded = yield from encode(task, options, task.empty, levels)
    decoded = yield from decode(task, options, eps_of_query(task, options), encoded[-1], levels)
    return Outcome(decoded[0].latent, encoded=encoded, decoded=decoded)


encode_decode = Method("encode_decode", run, IntervalOptions, uses=frozenset({"encoded"}), texts={"decode": Text(
    "From the noisiest latent back to a picture, guided towards the query. This is DiffEdit without its mask.",
    GUIDED_STEP)})


@dataclass(frozen=True)
class InvertOptions(CodingOptions):
    """The round trip has no guidance: s = 1."""

    guidance_scale: float = option(1.0, "s, how much the text counts while decoding; 1 means no guidance",
                                   least=0, usual=(0, 40), stage="decoding")


def round_trip(task: Task, options: InvertOptions) -> Generator[Step, None, Outcome]:
    """Encode and decode under the reference, to see how well the picture comes back. k + k rows a picture."""
    levels = options.levels(task.model.schedule)
    encoded = yield from encode(task, options, task.reference, levels)
    eps_fn = guided(task.model.eps, task.reference, task.negative, options.guidance_scale, task.rows, "decode")
    decoded = yield from decode(task, options, eps_fn, encoded[-1], levels)
    return Outcome(decoded[0].latent, encoded=encoded, decoded=decoded)


invert = Method("invert", round_trip, InvertOptions, uses=frozenset({"reference", "encoded"}), takes_query=False,
                texts={"decode": Text(
                    "Back along the same levels, under the same text. A difference from the picture at the end is the "
                    "error of the steps.", ("y_{j−1} = step(y_j, ε(y_j, t_j, reference))",))})
