"""diffedit_min: the readable reference implementation of DiffEdit (arXiv:2210.11427).

    import diffedit_min as dm
    edit = dm.diffedit(dm.load(), image, query="a basket of apples", reference="a bowl of apples")

The names below are imported when they are first used, so that `import diffedit_min` costs nothing.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "load": "loading",
    "StableDiffusion": "model.stable_diffusion",
    "Context": "model.text",
    "METHODS": "methods",
    "Edit": "methods",
    "Method": "methods",
    "Step": "methods",
    "diffedit": "methods",
    "sdedit": "methods",
    "encode_decode": "methods",
    "prompt_to_prompt": "methods",
    "null_text": "methods",
    "negative_prompt_inversion": "methods",
    "direct_inversion": "methods",
    "cycle_diffusion": "methods",
    "edit_friendly": "methods",
    "unitune": "methods",
    "instruct_pix2pix": "methods",
    "invert": "methods",
}
_MODULES = (
    "compositing", "drawing", "guidance", "info", "loading", "mask", "metadata", "methods", "model", "picture",
    "samplers", "schedule", "testing", "theory", "tiny",
)

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
