"""What a job is told by an earlier result: the settings in its picture, checked as anything from outside is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ...core import __version__
from ...methods import METHODS, find_method
from ...pictures.metadata import read
from ...samplers import files_named_by
from .job import TOLD

# What the settings hold besides the method's options: what a job can be told, what is the model's, and what only tells
# this edit's inputs and program apart from others.
OF_MODEL = {"model": str, "prediction_type": str, "config": str, "revision": str, "dtype": str}
RECORDED = {"given": list, "input_sha256": str, "mask_sha256": str, "weights": str, "version": str}
KNOWN = {**{name: kind for name, kind in TOLD.items() if name != "mask"}, **OF_MODEL, **RECORDED}


def told_by(path: str | os.PathLike) -> dict[str, Any]:
    """What the settings in a picture say, as `job_of` takes it, its `OF_MODEL`, and the weights that made it.

    Raises ValueError, in one line that names the path, for names and types that this version doesn't know.
    """
    name, settings = repr(os.fspath(path)), read(path)
    if not isinstance(settings.get("method"), str) or settings["method"] not in METHODS:
        raise ValueError(f"{name} was made by {str(settings.get('method'))[:40]!r}, which `edit` doesn't have")
    method = METHODS[settings["method"]]
    names = list(method.known)
    unknown = ", ".join(sorted(set(settings) - {*KNOWN, *names}))
    if unknown:
        raise ValueError(f"{name} has settings that diffedit_min {__version__} doesn't know: {unknown[:80]}; "
                         f"it was made with {str(settings.get('version', 'another version'))[:20]}")
    for key, kind in KNOWN.items():
        if key not in names and settings.get(key) is not None and type(settings[key]) is not kind:
            raise ValueError(f"{name} has damaged settings: {key} must be a {kind.__name__}, "
                             f"not {str(settings[key])[:40]!r}")
    options = {key: settings[key] for key in names if key in settings}
    try:
        method.made(options)
    except Exception as error:      # of any kind, as the values may be anything
        raise ValueError(f"{name} has damaged settings: {str(error)[:200]}") from None
    # What else may be `given`, a map or an encoding of the same picture and settings, is made again.
    by_hand = "mask" in (settings.get("given") or ()) or settings.get("mask_sha256") is not None
    told = {key: settings[key] for key in (*TOLD, *OF_MODEL, "weights")
            if key not in names and settings.get(key) is not None}
    return {**told, "options": options, "needs_mask": by_hand}


def over(earlier: Mapping[str, Any], typed: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier result says, with what was typed over it: a preset, which belongs to a method, over its options.

    Raises ValueError if those name a file or a model besides `model`, which no picture is to decide.
    """
    told, method = {**earlier, **typed}, find_method(typed.get("method", earlier["method"]))
    named = {text.partition("=")[0].strip() for text in typed.get("option") or ()}
    for name, value in earlier["options"].items():
        option = method.known.get(name)
        if option is not None and name not in named and files_named_by(option, value):
            yours = f"-o {name}=FILE, or -o {name}= for none" if option.file else f"-o {name}= and your own"
            raise ValueError(f"the earlier edit was made with {name}={value!r}, but a picture is not to say which "
                             f"files are read or written: add {yours}")
    if OF_MODEL.keys() & typed:
        told.pop("weights", None)
    if "preset" in typed:
        replaced = {*(method.preset(typed["preset"]) or method.known)} - {"negative_prompt"}    # those are words
        told["options"] = {name: value for name, value in earlier["options"].items() if name not in replaced}
    elif method.name != earlier["method"]:
        told.pop("preset", None)
    return told
