"""The options of methods and samplers. Each one is declared once, as a field of a frozen dataclass:

    @dataclass(frozen=True)
    class MyOptions(DiffEditOptions):
        grow: int = option(0, "how many cells the mask is grown by", least=0, stage="mask")

This one line serves for the check and its message, `help`, the command's parsing, the page's widgets, the report's
tooltips, and for the question of what may be used again from an earlier edit (reuse.py).
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

# The first stage of an edit whose result depends on the option. "levels": it chooses the noise levels (each state of an
# encoding holds its own). "cost": no result depends on it. None, without a declaration: everything depends on it.
STAGES = ("levels", "encoding", "map", "mask", "decoding", "cost", None)


@dataclass(frozen=True)
class Option:
    """One option, as it was declared."""

    name: str
    kind: type                          # the type of its values: int, float, str, bool, dict, tuple or Sampler
    default: Any
    sentence: str = ""                  # what it does
    least: float | None = None          # the range of the number, or of each number of the tuple: value >= least,
    above: float | None = None          # value > above,
    most: float | None = None           # value <= most
    choices: tuple[Any, ...] = ()       # the allowed values; empty: any
    usual: tuple[float, float] | None = None    # a slider's ends, where the range has no end
    stage: str | None = None            # one of STAGES
    needs: Mapping[str, Any] = field(default_factory=dict)      # values of other options that it has no effect without
    file: bool = False                  # True: it names a file or a model
    optional: bool = False              # True: None is allowed too
    length: int | None = None           # the number of values in the tuple; None: any number

    @property
    def range(self) -> str:
        """The allowed values in words; "" if every value of its kind is allowed."""
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
        """The value itself; an int is made a float, and a list a tuple, where that is the kind.

        Raises ValueError, which names the option and the value, for a value that isn't allowed.
        """
        if value is None and self.optional:
            return None
        if self.kind is float and type(value) is int and abs(value) < 2**1023:      # larger than any float
            value = float(value)
        if self.kind is tuple and type(value) is list:      # as JSON has it
            value = tuple(value)
        of_kind = isinstance(value, Sampler) if self.kind is Sampler else type(value) is self.kind
        if not of_kind:
            raise ValueError(f"{self.name} must be {KINDS[self.kind]}, not {value!r:.60}")
        if self.length is not None and len(value) != self.length:
            raise ValueError(f"{self.name} must be {self.length} numbers, not {value!r:.60}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} {value!r:.60} is not known; known are {', '.join(map(str, self.choices))}")
        for number in value if self.kind is tuple else (value,) if self.kind in (int, float) else ():
            if type(number) not in (int, float):
                raise ValueError(f"{self.name} must be {KINDS[self.kind]}, not {value!r:.60}")
            if not self._holds(number):
                raise ValueError(f"{self.name} must be {self.range}, not {value!r:.60}")
            if type(number) is float and not math.isfinite(number):
                raise ValueError(f"{self.name} must be a finite number, not {value!r:.60}")
        return value

    def _holds(self, number: float) -> bool:
        return ((self.least is None or number >= self.least) and (self.above is None or number > self.above)
                and (self.most is None or number <= self.most))

    def parsed(self, text: str) -> Any:
        """The value that a text of the command line stands for. A sampler stays a text: samplers/ finds it by name."""
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
    """Declare an option, as a field of a dataclass: its default, one sentence on what it does, and fields of `Option`.

    least, above, most: the range of a number. choices: the allowed texts. stage: the first stage that depends on it,
    one of `STAGES`. needs: values of other options that it has no effect without. file: True if it names a file or a
    model. usual: (low, high), the ends of a slider where the range has no end.
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
    """The options of a dataclass by name. A field that is declared without `option` is one too, without a range."""
    hints, found = get_type_hints(options), {}
    if inspect.get_annotations(options) and "__dataclass_fields__" not in vars(options):
        raise ValueError(f"{options.__name__} must be a dataclass: write @dataclass(frozen=True) above it")
    for f in fields(options):
        if f.default is MISSING and f.default_factory is MISSING:
            raise ValueError(f"option {f.name!r} of {options.__name__} has no default: give it one")
        default = f.default_factory() if f.default is MISSING else f.default
        kind, optional, length = parsed_annotation(hints[f.name])
        if kind not in KINDS:
            raise ValueError(f"option {f.name!r} of {options.__name__} is of type {hints[f.name]!r}; known are int, "
                             "float, str, bool, dict, tuples of numbers, samplers, and each of these or None")
        found[f.name] = Option(f.name, kind, default, optional=optional, length=length, **f.metadata)
        try:
            found[f.name].checked(default)
        except ValueError as error:
            raise ValueError(f"the default of {options.__name__}.{f.name} can't be: {error}") from None
    return found


def parsed_annotation(hint: Any) -> tuple[Any, bool, int | None]:
    """What a field's annotation says: `Option`'s kind, optional and length."""
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
    """The base class of dataclasses whose fields are options. Each option is checked when an object is made."""

    def __post_init__(self) -> None:
        for name, own in declared(type(self)).items():
            object.__setattr__(self, name, own.checked(getattr(self, name)))

    def record(self) -> dict[str, Any]:
        """All options, ready for JSON: a sampler becomes its name, for example "edict:p=0.9"."""
        return {name: written(value) if declared(type(self))[name].kind is Sampler else value
                for name, value in vars(self).items()}


def written(sampler: Sampler) -> str:
    """A sampler as a person types it: its name, then each option whose value isn't the default."""
    values = {f: getattr(sampler, f.name) for f in fields(sampler)} if is_dataclass(sampler) else {}
    return ":".join([name_of(sampler), *(f"{f.name}={value}" for f, value in values.items() if value != f.default)])


def name_of(sampler: Sampler) -> str:
    """The sampler's attribute `name`; if it has none, its class's name in small letters."""
    name = getattr(sampler, "name", None)
    return name if isinstance(name, str) else type(sampler).__name__.lower()
