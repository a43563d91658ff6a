"""The options that commands share, each declared once; and what makes a function a command.

torch is not imported here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from typer import Argument, Option

from .console import one_line_errors

Picture = Annotated[str, Argument(metavar="IMAGE", help="The picture: a file that Pillow can read, of any size.")]
Query = Annotated[str, Option(help="What the edited picture should show.")]
Reference = Annotated[str, Option(help="What the picture shows now. With it, diffedit finds a better mask; some other "
                                  "methods need it.")]
MODEL_HELP = """"tiny" or "tiny-instruct" (the embedded models), "random" (random weights), a checkpoint's folder, a
.safetensors or .ckpt file, or a Hub id, owner/name."""
Model = Annotated[str, Option(help=MODEL_HELP)]
Prediction = Annotated[str | None, Option(metavar="TYPE", help="epsilon, v_prediction or sample, if no file says it.")]
Config = Annotated[str | None, Option(help="For a single file: a folder or Hub id with its configs; or its .yaml.")]
Revision = Annotated[str | None, Option(help="A branch, tag or commit on the Hub.")]
Seed = Annotated[int, Option(help="The seed of the random noise: the same one gives the same result.")]
Size = Annotated[int | None, Option(help="Edit at about SIZE x SIZE pixels. Left out: at most the model's own size.")]
Preset = Annotated[str, Option(help="recommended: the values of the model's card, else the paper's. paper: the "
                               "paper's, whatever a card says. fast, for diffedit: 2.7 times fewer U-Net rows.")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
DType = Annotated[str, Option("--dtype", help="auto, float32, float64, float16 or bfloat16.")]
Options = Annotated[list[str] | None, Option("-o", "--option", metavar="NAME=VALUE",
                    help="An option of the method, for example steps=25. Can be repeated; `info` lists them all.")]
MaskGrow = Annotated[int, Option(metavar="PX", help="Grow the mask, given or found, by so many of the picture's "
                                 "pixels; negative: shrink it.")]
Composite = Annotated[bool, Option("--composite/--no-composite", show_default=False, help="Put the input's own pixels "
                                   "back outside the mask, bit for bit (in a .png). Methods that find no mask need one "
                                   "of your own.")]
MaskFeather = Annotated[int, Option(metavar="PX", help="Soften the seam of composite over so many pixels inside the "
                                    "mask.")]
Crop = Annotated[str | None, Option(metavar="LEFT,TOP,WIDTH,HEIGHT", help="Edit this part of the picture alone, at its "
                                    "full resolution, and put it back; or mask: the part around your mask.")]
Report = Annotated[Path | None, Option("--report", help="A page, .html, that shows every step: pictures, equations, "
                   "settings.")]
Strip = Annotated[Path | None, Option("--strip", help="The pictures of every step on one sheet: .png, .jpg or .webp.")]
Film = Annotated[Path | None, Option("--film", help="The steps as an animation that plays: .gif or .webp.")]
Quiet = Annotated[bool, Option("--quiet", help="No progress bars. (There are none either if stderr is no terminal.)")]
Debug = Annotated[bool, Option("--debug", help="Show the whole traceback of an error.")]
Plugins = Annotated[list[str] | None, Option("--plugin", metavar="FILE.py", help="A Python file that registers methods "
                    "or samplers of your own with dm.register. Can be repeated.")]

# What `shared` adds, with defaults: where a model's files come from besides its name, how it is loaded, and the rest.
SOURCE = {"prediction_type": (Prediction, None), "config": (Config, None), "revision": (Revision, None)}
LOADING = {"device": (Device, "auto"), "dtype": (DType, "auto"), **SOURCE}
EVERYWHERE = {"plugin": (Plugins, None), "debug": (Debug, False)}


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """A command that also takes --plugin, which is loaded before anything else, and --debug. Its errors are one line.

    In place of a parameter `**source` it has those of `SOURCE`, in place of `**how_loaded` those of `LOADING`.
    """
    own, hints = inspect.signature(command).parameters, get_type_hints(command, include_extras=True)

    @wraps(command)
    def run(*arguments: Any, plugin: Plugins = None, debug: Debug = False, **told: Any) -> None:
        with one_line_errors(debug):
            if plugin:
                from ..methods import load_plugin

                for file in plugin:
                    load_plugin(file)
            command(*arguments, **told)

    stand_for = {"source": SOURCE, "how_loaded": LOADING}
    more = {**next((stand_for[name] for name in own if name in stand_for), {}), **EVERYWHERE}
    parameters = [p.replace(annotation=hints[name]) for name, p in own.items() if name not in stand_for]
    parameters += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                   for name, (kind, default) in more.items()]
    # typer reads both of these; in a file with `from __future__ import annotations` they would be texts.
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
