"""What a method or a sampler can be told: each option is declared once, as a field of a frozen dataclass.

    @dataclass(frozen=True)
    class MyOptions(DiffEditOptions):
        grow: int = option(0, "the mask is grown by so many cells", least=0, stage="mask")

From that one line come the check and its message, `help`, the command's parsing, the page's widgets, the report's
tooltips, and what of an earlier edit may be used again (reuse.py).
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from .state import Sampler

# From where on an option matters. "levels": it chooses the levels, which the states of an encoding tell by themselves.
# "cost": the result doesn't depend on it. None, if nothing is said: it matters from the start.
STAGES = ("levels", "encoding", "map", "mask", "decoding", "cost", None)


@dataclass(frozen=True)
class Option:
    """One option, as it was declared."""

    name: str
    kind: type                          # of its values: int, float, str, bool, dict, tuple or Sampler
    default: Any
    sentence: str = ""                  # what it does
    least: float | None = None          # the range of a number, or of each number of a tuple
    above: float | None = None
    most: float | None = None
    choices: tuple[Any, ...] = ()
    usual: tuple[float, float] | None = None    # what a slider offers of a range that is open
    stage: str | None = None
    needs: Mapping[str, Any] = field(default_factory=dict)      # values of other options with which it matters
    file: bool = False                  # it names a file or a model
    optional: bool = False              # None is a value too
    length: int | None = None           # of a tuple; None: any

    @property
    def range(self) -> str:
        """Which values it takes, in words; "" if any of its kind."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        low = "" if self.above is None else f"above {self.above:g}"
        low = low if self.least is None else f"at least {self.least:g}"
        if self.most is None:
            return low
        if self.least is not None:
            return f"from {self.least:g} to {self.most:g}"
        return f"{low} and at most {self.most:g}" if low else f"at most {self.most:g}"

    def checked(self, value: Any) -> Any:
        """The value, an int as a float where that is its kind. ValueError, naming both, for one that it can't have."""
        if value is None and self.optional:
            return None
        if self.kind is float and type(value) is int:
            value = float(value)
        if self.kind is tuple and type(value) is list:      # as JSON has it
            value = tuple(value)
        right = isinstance(value, Sampler) if self.kind is Sampler else type(value) is self.kind
        if not right:
            raise ValueError(f"{self.name} must be {KINDS[self.kind]}, not {value!r}")
        if self.length is not None and len(value) != self.length:
            raise ValueError(f"{self.name} must be {self.length} numbers, not {value!r}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} {value!r} is not known; known are {', '.join(map(str, self.choices))}")
        for number in value if self.kind is tuple else (value,) if self.kind in (int, float) else ():
            if type(number) not in (int, float):
                raise ValueError(f"{self.name} must be {KINDS[self.kind]}, not {value!r}")
            if not self._holds(number):
                raise ValueError(f"{self.name} must be {self.range}, not {value}")
            if not math.isfinite(number):
                raise ValueError(f"{self.name} must be a finite number, not {value}")
        return value

    def _holds(self, number: float) -> bool:
        return ((self.least is None or number >= self.least) and (self.above is None or number > self.above)
                and (self.most is None or number <= self.most))

    def parsed(self, text: str) -> Any:
        """The value that a text at a command line means. A sampler's stays a text: samplers/ knows their names."""
        text = text.strip() if self.kind is not str else text
        if self.optional and text.lower() == "none":
            return None
        if not text and self.kind in (dict, tuple):
            return self.kind()
        try:
            if self.kind is dict:
                return {word.strip(): float(number) for word, number in (pair.split(":") for pair in text.split(","))}
            if self.kind is tuple:
                return tuple(float(number) for number in text.split(","))
            if self.kind is bool:
                return {"true": True, "false": False}[text.lower()]
            return text if self.kind is Sampler else self.kind(text)
        except (ValueError, KeyError):
            raise ValueError(f"{self.name} must be {KINDS[self.kind]}, not {text!r}") from None


KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false",
         dict: "words with numbers, for example apples:2,red bowl:0.5", tuple: "numbers with commas between them",
         Sampler: "a sampler: a name, or an object with encode and decode"}


def option(default: Any, sentence: str, **declared: Any) -> Any:
    """A field of an options' dataclass: its default, what it does in one sentence, and what `Option` has besides.

    least, above, most: the range of a number. choices: the texts that it can be. stage: from where on it matters, one
    of `STAGES`. needs: values of other options with which it matters. file: it names a file or a model. usual: what a
    slider offers where the range is open, (low, high).
    """
    known = [f.name for f in fields(Option) if f.name not in ("name", "kind", "default", "sentence")]
    for name in declared:
        if name not in known:
            raise ValueError(f"an option is declared with {', '.join(known)}, not with {name!r}")
    if declared.get("stage") not in STAGES:
        raise ValueError(f"stage {declared['stage']!r} is not known; known are {', '.join(filter(None, STAGES))}")
    metadata = {"sentence": sentence, **declared}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def declared(options: type) -> dict[str, Option]:
    """The options of a dataclass by name. A field without `option` is one too: of any value of its type."""
    hints, found = get_type_hints(options), {}
    if inspect.get_annotations(options) and "__dataclass_fields__" not in vars(options):
        raise ValueError(f"{options.__name__} must be a dataclass: write @dataclass(frozen=True) above it")
    for f in fields(options):
        if f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"option {f.name!r} of {options.__name__} has no default: give it one")
        default = f.default_factory() if f.default is MISSING else f.default
        kind, optional, length = kind_of(hints[f.name])
        if kind not in KINDS:
            raise ValueError(f"option {f.name!r} of {options.__name__} is of type {hints[f.name]!r}; known are int, "
                             "float, str, bool, dict, tuples of numbers, samplers, and each of these or None")
        found[f.name] = Option(f.name, kind, default, optional=optional, length=length, **f.metadata)
        try:
            found[f.name].checked(default)
        except ValueError as error:
            raise ValueError(f"the default of {options.__name__}.{f.name} can't be: {error}") from None
    return found


def kind_of(hint: Any) -> tuple[Any, bool, int | None]:
    """What values an annotation means, whether None is one of them, and how many numbers a tuple has, if it says."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = [part for part in parts if part is not types.NoneType]
    kind, inside = get_origin(kinds[0]) or kinds[0], get_args(kinds[0])
    numbers = [part for part in inside if part is not Ellipsis]
    if len(kinds) > 1 or kind is tuple and not set(numbers) <= {int, float}:
        return None, False, None
    length = len(inside) if kind is tuple and inside and Ellipsis not in inside else None
    return kind, types.NoneType in parts, length


@dataclass(frozen=True)
class Declared:
    """The base of dataclasses whose fields are options: making one checks each of them."""

    def __post_init__(self) -> None:
        for name, own in declared(type(self)).items():
            object.__setattr__(self, name, own.checked(getattr(self, name)))

    def record(self) -> dict[str, Any]:
        """All options as JSON can hold them: a sampler as its name, for example "edict:p=0.9"."""
        return {name: written(value) if declared(type(self))[name].kind is Sampler else value
                for name, value in vars(self).items()}


def written(sampler: Sampler) -> str:
    """A sampler as one types it: its name, and those of its options that are not at their default."""
    told = {f.name: getattr(sampler, f.name) for f in fields(sampler) if getattr(sampler, f.name) != f.default} \
        if is_dataclass(sampler) else {}
    return ":".join([name_of(sampler), *(f"{name}={value}" for name, value in told.items())])


def name_of(sampler: Sampler) -> str:
    """Its `name`; else its class's, in small letters."""
    name = getattr(sampler, "name", None)
    return name if isinstance(name, str) else type(sampler).__name__.lower()
