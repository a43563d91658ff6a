"""For people: the command `diffedit-min`, its jobs, the report, the film and the page. No algorithm is here."""

import importlib
from typing import TYPE_CHECKING, Any

from . import report

__all__ = ["film", "repeat", "report"]

if TYPE_CHECKING:
    from . import film, repeat


def __getattr__(name: str) -> Any:      # these two import torch, which takes a second
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
