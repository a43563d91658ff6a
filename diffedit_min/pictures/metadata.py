"""What an edit was made with, as text in its picture: written so that other tools show it, and read back.

    parameters     query, negative prompt and the usual numbers in the form that other tools write, for people
    diffedit       JSON with everything that the result depends on, for `diffedit-min edit --like`

A PNG has them as text chunks, JPEG and WebP in EXIF (`picture.save`).
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from .. import __version__
from .picture_files import read_text

LONGEST = 10**6     # characters of JSON; what an edit writes is a thousandth of that


def texts(settings: Mapping[str, Any], size: tuple[int, int]) -> dict[str, str]:
    """What `picture.save` is to put into an edit's picture: settings, as `Edit.settings`; size, the picture's in px."""
    return {"parameters": parameters(settings, size), "diffedit": json.dumps(settings)}


def parameters(settings: Mapping[str, Any], size: tuple[int, int]) -> str:
    """The query, the negative prompt if there is one, and a line of `Name: value, ...`: the form of other tools."""
    told = {"Steps": settings["steps"], "Sampler": settings.get("sampler", "ddim").upper(),
            "CFG scale": settings["guidance_scale"], "Seed": settings["seed"], "Size": f"{size[0]}x{size[1]}",
            "Model": settings["model"], "Denoising strength": settings.get("encoding_ratio"),
            "Method": settings["method"], "Reference": settings["reference"],
            "Version": f"diffedit_min {settings.get('version', __version__)}"}
    numbers = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in told.items() if value not in (None, ""))
    negative = f"Negative prompt: {settings['negative_prompt']}\n" if settings["negative_prompt"] else ""
    return f"{settings['query']}\n{negative}{numbers}"


def _quoted(value: str) -> str:
    """As it is, or in quotes where it would end too soon."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The settings in a picture's `diffedit` text, of whatever names and types they are.

    Raises ValueError, in one line that names the path, if it has none or they are damaged.
    """
    name, text = repr(os.fspath(path)), read_text(path).get("diffedit")
    if text is None:
        raise ValueError(f"{name} holds no settings of diffedit_min: give a picture that it wrote")
    if len(text) > LONGEST:
        raise ValueError(f"{name} holds {len(text):,} characters of settings: give a picture that diffedit_min wrote")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{name} holds settings that are damaged: give another picture")
    return settings
