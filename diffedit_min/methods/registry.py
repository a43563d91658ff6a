"""How methods and samplers become known by name, those in a person's own files too.

    dm.register(my_method)                      in Python
    diffedit-min edit --plugin my_methods.py    any command; the file calls `dm.register`
    [project.entry-points."diffedit_min.methods"]   mine = "my_package:my_method"       in an installed package
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..core.options import name_of
from ..core.state import Sampler
from ..loading.card import CHECKS
from ..samplers import SAMPLERS
from .call import PAPER, RECOMMENDED
from .method import Method

# The one list of the package's methods: the files that hold them.
FILES = ("paper", "sdedit", "encode_decode", "prompt_to_prompt", "null_text", "negative_prompt_inversion",
         "direct_inversion", "plug_and_play", "cycle_diffusion", "edit_friendly", "unitune", "instruct_pix2pix")

GROUP = "diffedit_min.methods"      # of entry points


class Registry(Mapping[str, Method]):
    """The methods by name. Those of installed packages are added when the list is first used."""

    def __init__(self, own: Iterable[Method]):
        self._methods = {method.name: method for method in own}
        self._own = frozenset(self._methods)
        self._looked = False

    def __getitem__(self, name: str) -> Method:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return f"methods: {', '.join(self)}"

    def add(self, method: Method) -> None:
        """Add a method; it replaces an earlier one of its name. Raises ValueError for a name that diffedit_min uses."""
        package = sys.modules[__name__.partition(".")[0]]
        if method.name in self._own or method.name in package.__all__ or method.name in package._ROOMS:
            raise ValueError(f"{method.name!r} is a name of diffedit_min's own: give the method another one")
        self._methods[method.name] = method

    def _all(self) -> dict[str, Method]:
        if not self._looked:
            self._looked = True         # already here, since a package may use the list while it is loaded
            for entry in entry_points(group=GROUP):
                try:
                    register(entry.load())
                except Exception as error:      # any error at all: a broken package must not stop the other ones
                    warnings.warn(f"the method {entry.name!r} of package {entry.dist.name} can't be used: {error}",
                                  stacklevel=2)
        return self._methods


METHODS = Registry(method for file in FILES for method in vars(import_module(f".{file}", __package__)).values()
                   if isinstance(method, Method))
OWN_SAMPLERS = frozenset(SAMPLERS)


def check_card(defaults: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Raise ValueError, which names the card `where`, the key and the value, for what no method can be told.

    A method that isn't known may be in a file that isn't loaded now, so there is only a warning.
    """
    for key in defaults:
        name, comma, preset = key.partition(", ")
        if name not in METHODS:
            warnings.warn(f"{where}: {key!r} is not a method here, so what the card recommends for it is not used",
                          stacklevel=2)
            continue
        method = METHODS[name]
        try:
            if comma and preset in (RECOMMENDED, PAPER):
                raise ValueError(f"preset {preset!r} is no card's to say; {name!r} alone is what holds by default")
            in_preset = {**method.preset(preset), **method.recommended(defaults, f", {preset}")} if comma else {}
            method.made({**method.recommended(defaults), **in_preset})
        except ValueError as error:
            raise ValueError(f"{where}: {key!r}: {error}") from None


CHECKS.append(check_card)


def find_method(name: str) -> Method:
    """The method of that name, written with dashes or underscores. Raises ValueError for a name that isn't known."""
    if name.replace("-", "_") not in METHODS:
        raise ValueError(f"--method {name!r} is not known (one of your own needs --plugin FILE); known are "
                         f"{', '.join(method.dashed for method in METHODS.values())}")
    return METHODS[name.replace("-", "_")]


def register(thing: Any, name: str | None = None) -> Any:
    """Make your own method or sampler known everywhere by its name. Returns it, so this is a decorator too.

    thing: a Method, a sampler, or a sampler's class if it needs no arguments. name: for a sampler without a name.
    Raises ValueError for anything else, and for a name that diffedit_min uses itself.
    """
    if isinstance(thing, Method):
        METHODS.add(thing)
        return thing
    if not isinstance(thing, Sampler):
        raise ValueError(f"register takes a Method, or a sampler with encode and decode, not {thing!r}")
    try:
        sampler = thing() if isinstance(thing, type) else thing
    except TypeError as error:
        raise ValueError(f"{thing.__name__} can't be made without arguments ({error}): register an object of it"
                         ) from None
    if name is not None and name_of(sampler) != name:
        try:
            sampler.name = name         # settings and messages use it
        except AttributeError:
            raise ValueError(f"{type(sampler).__name__} can't be renamed: give its class an attribute name") from None
    name = name_of(sampler)
    if name in OWN_SAMPLERS:
        raise ValueError(f"{name!r} is a sampler of diffedit_min's own: give yours another name")
    SAMPLERS[name] = sampler
    return thing


def load_plugin(path: str | Path) -> None:
    """Run a Python file that registers methods or samplers. Raises ValueError, in one line, if it fails or doesn't."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"--plugin {str(path)!r} is not there: give a Python file that calls dm.register")
    name = f"diffedit_min_plugin_{file.stem}"
    known_before = known()
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise ValueError(f"--plugin {str(path)!r} is not a Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module      # dataclasses and inspect look for it there
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))       # it may import other files of its folder
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else f", line {lines[-1]}" if lines else ""
        text = " ".join(str(error).split())
        raise ValueError(f"--plugin {str(path)!r}{where}: {type(error).__name__}: {text}") from None
    if known_before == known():
        raise ValueError(f"--plugin {str(path)!r} registers nothing: end it with dm.register(my_method)")


def known() -> list[tuple[str, Any]]:
    """The names and objects of everything that is registered now."""
    return [*METHODS.items(), *SAMPLERS.items()]
