"""What a model's card (loading/card.py) may recommend: numbers and rules, but no files and no models."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from ..core.options import Option, declared
from ..core.state import Sampler
from ..samplers import sampler_of


def numbers_and_rules(values: Mapping[str, Any], known: Mapping[str, Option]) -> dict[str, Any]:
    """The values that a card recommends for the options `known`, as a new dict.

    Raises ValueError for an option that names a file or a model, of the method or of the sampler: whoever made the
    checkpoint is not to decide which files are read and written.
    """
    for name, value in values.items():
        option, files = known.get(name), []
        if option is not None and option.kind is Sampler:
            sampler = sampler_of(value)
            own = declared(type(sampler)) if is_dataclass(sampler) else {}
            files = [field for field, one in own.items() if one.file and getattr(sampler, field) != one.default]
        if files or option is not None and option.file:
            raise ValueError(f"{' '.join([name, *files])} names a file or a model, which a card must not choose "
                             f"(here {value!r}): remove it from the card, and give it with the call if you want it")
    return dict(values)
