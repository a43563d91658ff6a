"""The settings of an edit, stored as text in its picture and read from it again.

    parameters     query, negative prompt and the usual numbers, in the format of other tools, which show it to people
    diffedit       JSON with everything that the result depends on, for `diffedit-min edit --like`

`picture_files.save` writes these texts: into a PNG as text chunks, into JPEG and WebP as EXIF.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

from ..core import __version__
from .picture_files import read_text

LONGEST = 10**6     # characters of JSON that are read; an edit writes about a thousand


def texts(settings: Mapping[str, Any], size: tuple[int, int]) -> dict[str, str]:
    """The texts for an edit's picture, by their names. settings: `Edit.settings`; size: of the picture, in pixels."""
    return {"parameters": parameters(settings, size), "diffedit": json.dumps(settings)}


def parameters(settings: Mapping[str, Any], size: tuple[int, int]) -> str:
    """The query, the negative prompt if there is one, and a line `Name: value, ...`: the format of other tools."""
    values = {"Steps": settings["steps"], "Sampler": settings.get("sampler", "ddim").upper(),
              "CFG scale": settings["guidance_scale"], "Seed": settings["seed"], "Size": f"{size[0]}x{size[1]}",
              "Model": settings["model"], "Denoising strength": settings.get("encoding_ratio"),
              "Method": settings["method"], "Reference": settings["reference"],
              "Version": f"diffedit_min {settings.get('version', __version__)}"}
    numbers = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in values.items() if value not in (None, ""))
    negative = f"Negative prompt: {settings['negative_prompt']}\n" if settings["negative_prompt"] else ""
    return f"{settings['query']}\n{negative}{numbers}"


def _quoted(value: str) -> str:
    """The value, in quotes if it holds a character at which a reader would take it to end."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ',:\n"') else value


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The settings in a picture's `diffedit` text. Their names and values are not checked here.

    Raises ValueError, in one line that names the path, if there are none or they are damaged.
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
