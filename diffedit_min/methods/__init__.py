"""The methods by name. Each is one paper and one file; README.md describes their contract, and how to write one.

`METHODS`, in registry.py, is the one list of them: the functions in `dm`, --method, the benchmark, the report and the
page all use it.
"""

from .asked import Asked, edit_together
from .edit import Edit
from .method import Method
from .registry import METHODS, find_method, load_plugin, register

__all__ = ["METHODS", "Asked", "Edit", "Method", "edit_together", "find_method", "load_plugin", "register"]
