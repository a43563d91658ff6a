"""A method and its options as a person types them: --method null-text -o iterations=5 -o reweight=apples:2.

Every refusal is a ValueError of one line. torch is imported inside the functions only, as in cli.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .method import Method


def dashed(name: str) -> str:
    """A method's name as it is typed."""
    return name.replace("_", "-")


def find_method(name: str) -> Method:
    """The method of that name, typed with dashes or underscores."""
    from . import METHODS

    if name.replace("-", "_") not in METHODS:
        raise ValueError(f"--method {name!r} is not known; known are {', '.join(map(dashed, METHODS))}; one in a file of "
                         "your own needs --plugin FILE")
    return METHODS[name.replace("-", "_")]


def embedded_model(method: Method) -> str:
    """The embedded model that a method is for."""
    return "tiny-instruct" if method.needs_instruction else "tiny"


def parse_options(method: Method, texts: list[str] | None) -> dict[str, Any]:
    """["steps=25", ...] -> {"steps": 25, ...}, each of its option's type and in its range."""
    options: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"-o {text!r} has no value: write it as name=value, for example steps=25")
        if name not in method.known:
            raise ValueError(f"{dashed(method.name)} has no option {name!r}; it has {', '.join(sorted(method.known))}")
        options[name] = method.known[name].parsed(value)
    method.made(options)        # refuses, before a model is loaded, what is out of range
    return options
