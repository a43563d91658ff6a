"""A method and its options as a person types them: --method null-text -o iterations=5 -o reweight=apples:2.

Every refusal is a ValueError of one line. torch is imported inside the functions only, as in cli.py.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .methods import Method


def dashed(name: str) -> str:
    """A method's name as it is typed."""
    return name.replace("_", "-")


def find_method(name: str) -> Method:
    """The method of that name, typed with dashes or underscores."""
    from .methods import METHODS

    if name.replace("-", "_") not in METHODS:
        raise ValueError(f"--method {name!r} is not known; known are {', '.join(map(dashed, METHODS))}")
    return METHODS[name.replace("-", "_")]


def embedded_model(method: Method) -> str:
    """The embedded model that a method is for."""
    return "tiny-instruct" if method.needs_instruction else "tiny"


def option_kinds(method: Method) -> dict[str, type]:
    """A method's options, each with the type of its values."""
    from .methods.options import kind_of

    return {f.name: kind_of(f) for f in fields(method.options)}


def parse_options(method: Method, texts: list[str] | None) -> dict[str, Any]:
    """["steps=25", ...] -> {"steps": 25, ...}, each of its option's type and in its range."""
    kinds = option_kinds(method)
    options: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"-o {text!r} has no value: write it as name=value, for example steps=25")
        if name not in kinds:
            raise ValueError(f"{dashed(method.name)} has no option {name!r}; it has {', '.join(sorted(kinds))}")
        options[name] = parse_value(name, value, kinds[name])
    method.options(**options)       # refuses, before a model is loaded, what is out of range
    return options


def parse_value(name: str, text: str, kind: type) -> Any:
    """A value as its option's type has it."""
    words = {int: "a whole number", float: "a number", bool: "true or false",
             dict: "words with numbers, for example apples:2,red bowl:0.5"}
    try:
        if kind is dict:
            return {word.strip(): float(number) for word, number in (pair.split(":") for pair in text.split(","))}
        return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"{name} must be {words[kind]}, not {text!r}") from None
