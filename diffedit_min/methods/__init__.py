"""The methods by name. Each is one paper and one file; README.md beside this has their table.

`METHODS` is the one list: the functions in `dm`, --method, the benchmark, the report and the page ask here. A method of
one's own is added by `register`, by --plugin FILE, or by an installed package's entry point "diffedit_min.methods".
"""

from importlib import import_module

from .edit import Edit
from .method import Method
from .registry import Registry, find_method, load_plugin, register

# A method of this package is known everywhere by its file's name here.
FILES = ("paper", "sdedit", "encode_decode", "prompt_to_prompt", "null_text", "negative_prompt_inversion",
         "direct_inversion", "plug_and_play", "cycle_diffusion", "edit_friendly", "unitune", "instruct_pix2pix")

METHODS = Registry(method for file in FILES for method in vars(import_module(f".{file}", __name__)).values()
                   if isinstance(method, Method))

__all__ = ["METHODS", "Edit", "Method", "find_method", "load_plugin", "register"]
