"""What a method says of itself: to `help`, to `inspect.signature`, and to a report."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.options import Option, written
from ..core.state import Sampler


class Described(Protocol):
    """What this file asks of a `Method` (method.py)."""

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
    """One step of an edit, for a report: in plain words, as equations, and the functions that do it.

    In an equation what follows _ or ^, a letter or a {group}, stands below or above: x_t, x_{t+1}.
    """

    words: str
    equations: tuple[str, ...] = ()
    functions: tuple[Callable, ...] = ()


# Equations of several methods: classifier-free guidance, and a step with it.
GUIDED = "ε̃ = ε(x, t, ∅) + s (ε(x, t, query) − ε(x, t, ∅))"
GUIDED_STEP = ("y_{j−1} = step(y_j, ε̃)", GUIDED)

# What every call takes, and what it is.
ALWAYS = {
    "model": "what `dm.load` returns",
    "image": "a picture, or a list of pictures, which gives a list of Edits",
    "query": "what the edited picture should show; one for all pictures, or one each",
    "reference": "what the picture shows now; one for all pictures, or one each",
}
# What a call takes besides, by keyword: default, and what it is.
BESIDES: dict[str, tuple[Any, str]] = {
    "seed": (0, "of the random noise; one for all pictures, or one each"),
    "size": (None, "edit at about size x size pixels; left out: at most the model's own size"),
    "preset": ("paper", "a set of settings by its name"),
    "keep": ("result", '"trace" keeps every intermediate, for a report'),
    "mask": (None, "a mask of your own, white = edit: a picture, a bool (h, w), or a list of one each"),
    "mask_map": (None, "an earlier Edit's `mask_map`; refused if something else would make it now"),
    "encoded": (None, "an earlier Edit's `encoded`; refused if something else would make it now"),
    "reuse": (None, "an earlier Edit, or several: what they hold is used again where the same would make it"),
    "on_step": (None, "is called with each `Step`; by raising, it stops the edit"),
}


def check_names(method: Described) -> None:
    """ValueError for an option whose name every call has already."""
    for name in method.known:
        if name in ALWAYS or name in BESIDES:
            raise ValueError(f"method {method.name!r}: every call has a {name!r} already; give the option another name")


def parameters(method: Described) -> Iterator[tuple[str, Any, str]]:
    """What may be given besides model, picture and words: name, default, what it is."""
    for name, (default, what) in BESIDES.items():
        if name in method.uses or name not in ("mask", "mask_map", "encoded"):
            yield name, default, what
    for option in method.known.values():
        yield option.name, option.default, sentence_of(option)


def sentence_of(option: Option) -> str:
    """What an option does, and which values it takes."""
    return "; ".join(filter(None, [option.sentence, option.range]))


def signature(method: Described) -> inspect.Signature:
    """As `inspect.signature` and editors show it."""
    plain, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    first = [inspect.Parameter(name, plain) for name in ("model", "image")]
    texts = [inspect.Parameter(name, plain, default="") for name in ("query", "reference")]
    rest = [inspect.Parameter(name, keyword, default=default) for name, default, _ in parameters(method)]
    return inspect.Signature([*first, *texts, *rest])


def help_text(method: Described) -> str:
    """What `help` shows."""
    lines = [about(method), "", f"{method.name}(model, image, query, reference, **options) -> Edit", ""]
    told = [*ALWAYS.items(),
            *((f"{name}={shown(default)}", what) for name, default, what in parameters(method))]
    lines += [line for name, what in told for line in wrapped(name, what)]
    lines += ["", "What a call leaves out is as the model's card recommends it (model.defaults), else as shown here."]
    lines += [f"preset={name!r}: " + ", ".join(f"{option}={value!r}" for option, value in options.items())
              for name, options in method.presets.items()]
    return "\n".join(lines)


def wrapped(name: str, what: str) -> list[str]:
    """A name and what it is, in lines of a screen's width."""
    return textwrap.wrap(f"{name:<26} {what}", 110, initial_indent="  ", subsequent_indent=" " * 29)


def shown(value: Any) -> str:
    """A default as one would type it in a call."""
    return repr(written(value) if isinstance(value, Sampler) else value)


def about(method: Described) -> str:
    """What a method is, in one sentence: of the file that has its name, or of its `run`."""
    if method.based_on is not None and method.run is method.based_on.run:
        return about(method.based_on)
    module = getattr(method.run, "__module__", None) or ""
    own_file = sys.modules.get(module) if module.rpartition(".")[2] == method.name else None
    doc = getattr(own_file, "__doc__", None) or method.run.__doc__ or f"{method.name}."
    return re.split(r"(?<=\.)\s", " ".join(doc.partition("\n\n")[0].split()))[0]
