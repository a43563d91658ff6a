"""What a checkpoint says of its U-Net's prediction: epsilon or v; and which kinds can't be read at all.

Nothing in the weights' shapes shows it, and programs write it in different places: a scheduler's config (folders), keys
without weights, the metadata of a .safetensors file, a .yaml beside it. Each of them that says something is a `Saying`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..core.schedule import READINGS

PREDICTIONS = tuple(READINGS)


class Saying(NamedTuple):
    """That the U-Net predicts this."""

    prediction_type: str        # one of `READINGS`
    by: str                     # what says it, in words for messages


def known(prediction_type: Any, by: str) -> Saying:
    """The saying; ValueError unless it is a prediction that can be read."""
    if prediction_type not in PREDICTIONS:
        raise ValueError(f"prediction_type {prediction_type!r} is not known; known are {', '.join(PREDICTIONS)}")
    return Saying(prediction_type, by)


def of_option(prediction_type: str | None) -> Saying | None:
    """What the caller says."""
    return None if prediction_type is None else known(prediction_type, "the option prediction_type")


def of_scheduler(scheduler: Mapping[str, Any], where: str) -> Saying | None:
    """What a scheduler's config says; None if it holds no prediction_type."""
    value = scheduler.get("prediction_type")
    return None if value is None else known(value, where)


def agreed(sayings: Iterable[Saying], where: str) -> Saying | None:
    """What all of them say, or None if there are none. Raises ValueError if they contradict each other."""
    sayings = list(sayings)
    for other in sayings[1:]:
        if other.prediction_type != sayings[0].prediction_type:
            raise ValueError(f"{where}: {sayings[0].by} says that it predicts {sayings[0].prediction_type}, {other.by} "
                             f"says {other.prediction_type}: give prediction_type=, the one that is right")
    return sayings[0] if sayings else None
