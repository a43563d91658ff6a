"""Which models the page may load: those named when it was started, since a page must not open any path it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from ...networks.stable_diffusion import StableDiffusion


class Shelf:
    """Models by name, each loaded when it is first wanted. Those of `names` are kept, of others the last."""

    def __init__(self, names: Sequence[str], load: Callable[[str], StableDiffusion], any_name: bool = False) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.any_name = any_name                # the page has a field for other names
        self._load = load
        self._loaded: dict[str, StableDiffusion] = {}
        self._one_at_a_time = Lock()            # two people who want a model at once don't load it twice

    def get(self, name: str) -> StableDiffusion:
        """The model. Raises ValueError for a name that isn't on the list, and what loading it raises."""
        if name not in self.names and not self.any_name:
            raise ValueError(f"model {name!r} is not one of this page's, {', '.join(self.names)}")
        with self._one_at_a_time:
            if name not in self._loaded:
                model = self._load(name)
                self._loaded = {kept: m for kept, m in self._loaded.items() if kept in self.names} | {name: model}
            return self._loaded[name]
