"""The methods by name. Each is one paper and one file."""

from .base import Edit, Method, Options, Step
from .diffedit import diffedit
from .encode_decode import encode_decode, invert
from .sdedit import sdedit

METHODS: dict[str, Method] = {method.name: method for method in (diffedit, sdedit, encode_decode)}

__all__ = ["METHODS", "Edit", "Method", "Options", "Step", "diffedit", "encode_decode", "invert", "sdedit"]
