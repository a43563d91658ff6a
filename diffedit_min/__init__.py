"""diffedit_min: the readable reference implementation of DiffEdit (arXiv:2210.11427).

    import diffedit_min as dm
    edit = dm.diffedit(dm.load(), image, query="a basket of apples", reference="a bowl of apples")

The names below are imported when they are first used, so that `import diffedit_min` costs nothing. Every method that is
registered (`dm.METHODS`) is a name here too: dm.diffedit, dm.sdedit, ...
"""

import importlib
from typing import TYPE_CHECKING, Any

from .core import __version__

_HOME = {
    "load": "loading",
    "StableDiffusion": "networks.stable_diffusion",
    "Context": "networks.text",
    "Level": "core.schedule",
    "State": "core.state",
    "Task": "core.task",
    "Step": "core.task",
    "Outcome": "core.task",
    "option": "core.options",
    "SAMPLERS": "samplers",
    "METHODS": "methods",
    "Method": "methods",
    "Edit": "methods",
    "register": "methods",
    "check": "bench.check",
    "grid": "studio.comparisons",
    "compare": "studio.comparisons",
}
_ROOMS = ("core", "samplers", "methods", "networks", "loading", "pictures", "tiny", "testing", "bench", "studio")

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:       # for type checkers, which do not see names that are looked up when they are used
    # ruff: noqa: F401
    from . import bench, core, loading, methods, networks, pictures, samplers, studio, testing, tiny
    from .bench.check import check
    from .core.options import option
    from .core.schedule import Level
    from .core.state import State
    from .core.task import Outcome, Step, Task
    from .loading import load
    from .methods import METHODS, Edit, Method, register
    from .networks.stable_diffusion import StableDiffusion
    from .networks.text import Context
    from .samplers import SAMPLERS
    from .studio.comparisons import compare, grid

    def __getattr__(name: str) -> Method: ...       # any other name is a method's

else:

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            if name == "load":
                _methods()      # they check what the card of a checkpoint recommends for their options
            return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        if name in _ROOMS:
            return importlib.import_module(f".{name}", __name__)
        if not name.startswith("_") and name in _methods():
            return _methods()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _methods() -> "dict[str, Method]":
    return importlib.import_module(".methods", __name__).METHODS


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, *_methods()})
