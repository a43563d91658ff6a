"""What a method says of itself in `help`, in `inspect.signature` and in a report."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from ..core.options import Option, written
from ..core.state import Sampler
from .call import Call


class Described(Protocol):
    """The part of a `Method` (method.py) that this file needs."""

    name: str
    run: Callable
    based_on: Described | None
    presets: Mapping[str, Mapping[str, Any]]
    uses: frozenset[str]
    texts: Mapping[str, Text]

    @property
    def known(self) -> dict[str, Option]: ...


@dataclass(frozen=True)
class Text:
    """One step of an edit, for a report: in plain words, as equations, and the functions that compute it.

    In an equation, _ and ^ make an index or an exponent of the letter or {group} that follows: x_t, x_{t+1}.
    """

    words: str
    equations: tuple[str, ...] = ()
    functions: tuple[Callable, ...] = ()
    why: str = ""       # one sentence: why the step is done, and done so
    paper: str = ""     # which step of which paper it is


# Equations of several methods: classifier-free guidance, and a step with it.
GUIDED = "ε̃ = ε(x, t, ∅) + s (ε(x, t, query) − ε(x, t, ∅))"
GUIDED_STEP = ("y_{j−1} = step(y_j, ε̃)", GUIDED)

# The arguments of every call, and what they are.
ALWAYS = {
    "model": "what `dm.load` returns",
    "image": "a picture, or a list of pictures, which gives a list of Edits",
    "query": "what the edited picture should show; one for all pictures, or one each",
    "reference": "what the picture shows now; one for all pictures, or one each",
}
# The keywords that every method has besides its options: the default, and what it is.
KEYWORDS: dict[str, tuple[Any, str]] = {
    **{f.name: (f.default, f.metadata["sentence"]) for f in fields(Call)},
    "on_step": (None, "a function that is called with each `Step`; if it raises an error, the edit stops"),
}


def check_names(method: Described) -> None:
    """Raise ValueError for an option that has the name of an argument of every call."""
    for name in method.known:
        if name in ALWAYS or name in KEYWORDS:
            raise ValueError(f"method {method.name!r}: every call has a {name!r} already; give the option another name")


def parameters(method: Described) -> Iterator[tuple[str, Any, str]]:
    """What a call may be given by keyword: name, default, and what it is."""
    for name, (default, what) in KEYWORDS.items():
        if name in method.uses or name not in ("mask", "mask_map", "encoded"):
            yield name, default, what
    for option in method.known.values():
        yield option.name, option.default, sentence_of(option)


def sentence_of(option: Option) -> str:
    """What an option does, which values it may have, and without which other options it does nothing."""
    needs = f"has no effect without {' and '.join(option.needs)}" if option.needs else ""
    return "; ".join(filter(None, [option.sentence, option.range, needs]))


def signature(method: Described) -> inspect.Signature:
    """The method's signature, for `inspect.signature` and for editors."""
    positional, by_keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    first = [inspect.Parameter(name, positional) for name in ("model", "image")]
    texts = [inspect.Parameter(name, positional, default="") for name in ("query", "reference")]
    rest = [inspect.Parameter(name, by_keyword, default=default) for name, default, _ in parameters(method)]
    return inspect.Signature([*first, *texts, *rest])


def help_text(method: Described) -> str:
    """The text that `help` shows."""
    lines = [about(method), "", f"{method.name}(model, image, query, reference, **options) -> Edit", ""]
    entries = [*ALWAYS.items(),
               *((f"{name}={shown(default)}", what) for name, default, what in parameters(method))]
    lines += [line for name, what in entries for line in wrapped(name, what)]
    lines += ["", "An option that is left out has the value that the model's card recommends (model.defaults),",
              "else the one that is shown here."]
    lines += [f"preset={name!r}: " + ", ".join(f"{option}={value!r}" for option, value in options.items())
              for name, options in method.presets.items()]
    return "\n".join(lines)


def wrapped(name: str, what: str, width: int = 110) -> list[str]:
    """A name and what it is, in lines that fit a screen."""
    return textwrap.wrap(f"{name:<26} {what}", width, initial_indent="  ", subsequent_indent=" " * 29,
                         break_on_hyphens=False)


def shown(value: Any) -> str:
    """A default as a person would write it in a call."""
    return repr(written(value) if isinstance(value, Sampler) else value)


def about(method: Described) -> str:
    """What a method is: the first sentence of the file that has the method's name, else of its `run`."""
    if method.based_on is not None and method.run is method.based_on.run:
        return about(method.based_on)
    module = getattr(method.run, "__module__", None) or ""
    own_file = sys.modules.get(module) if module.rpartition(".")[2] == method.name else None
    doc = getattr(own_file, "__doc__", None) or method.run.__doc__ or f"{method.name}."
    return re.split(r"(?<=\.)\s", " ".join(doc.partition("\n\n")[0].split()))[0]
