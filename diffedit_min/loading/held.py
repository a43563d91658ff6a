"""Loaded models, each of them loaded once: for programs that need several of them, or one of them again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from .. import loading
from ..networks.stable_diffusion import StableDiffusion


class Models:
    """Models by name, each loaded when it is first asked for. It may be asked by several threads at once.

    names: if given, only these may be asked for. any_name: others may too, and of those only the last one is kept.
    device, dtype and source (`prediction_type`, `config`, `revision`) are as `load` takes them. load: in place of it.
    """

    def __init__(
        self, names: Sequence[str] | None = None, *, any_name: bool = False, device: str = "auto", dtype: str = "auto",
        load: Callable[..., StableDiffusion] | None = None, **source: Any,
    ) -> None:
        self.names = None if names is None else tuple(dict.fromkeys(names))
        self.any_name = any_name or names is None
        self.device, self.dtype, self.source = device, dtype, source
        self._load = load or loading.load
        self._loaded: dict[str, StableDiffusion] = {}
        self._one_at_a_time = Lock()            # two threads that want a model at once don't load it twice

    def get(self, name: str) -> StableDiffusion:
        """The model. Raises ValueError for a name that may not be asked for, and what loading it raises."""
        if name not in (self.names or ()) and not self.any_name:
            raise ValueError(f"model {name!r} is not one of those offered here: {', '.join(self.names)}")
        with self._one_at_a_time:
            if name not in self._loaded:
                model = self._load(name, device=self.device, dtype=self.dtype, **self.source)
                if self.names is not None:
                    self._loaded = {kept: m for kept, m in self._loaded.items() if kept in self.names}
                self._loaded[name] = model
            return self._loaded[name]

    def in_dtype(self, dtype: str) -> Models:
        """The same, in another dtype; none is loaded yet."""
        return Models(self.names, any_name=self.any_name, device=self.device, dtype=dtype, load=self._load,
                      **self.source)
