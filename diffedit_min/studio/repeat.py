"""What makes an edit again: a line for a shell, and the same in Python, from the edit's settings.

    command_of(edit.settings, "bowl.png", model)    diffedit-min edit bowl.png --query 'a basket of pears' --seed 3
    python_of(edit.settings, "bowl.png", model)     import diffedit_min as dm ...

Only what would not hold anyway is spelled out: options that differ from the model's card and from the preset, a seed
that is not 0, and so on. A mask of your own is not in the settings, so the file that holds it is named (`mask`).
"""

from __future__ import annotations

import shlex
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any

from ..core.options import Option
from ..loading import best_dtype, usable_device
from ..methods import METHODS
from ..methods.call import Call
from ..networks.stable_diffusion import StableDiffusion
from ..samplers import SAMPLERS
from .jobs.job import AROUND

SOURCE = ("prediction_type", "config", "revision")              # where a model's files come from besides its name


def command_of(settings: Mapping[str, Any], image: str | None, model: StableDiffusion, mask: str = "mask.png") -> str:
    """The command line that makes the edit again, quoted for a POSIX shell (of 2024, which has $'...', where a text has
    control characters).

    settings: `Edit.settings`, or those in a picture (`pictures.metadata.read`). image: the picture's file; None: the
    method makes one. model: the one that made the edit. An option that no command line can say is told below it, in a
    comment.
    """
    method, called = METHODS[settings["method"]], words(settings)
    called.setdefault("query", "")      # the command wants one, also for methods that take none
    if method.name != "diffedit":
        called["method"] = method.dashed
    if settings["model"] != method.embedded_model:
        called["model"] = settings["model"]
    called |= loaded_with(settings, model) | called_with(settings) | around(settings)
    if masked(settings):
        called["mask"] = mask
    line = ["diffedit-min", "edit"]
    if image is not None:
        line.append(f"./{image}" if image.startswith("-") else image)
    for name, value in called.items():
        line += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    for file in plugins(settings):
        line += ["--plugin", file]
    unsaid = ""
    for name, value in options(settings, model).items():
        text = typed(method.known[name], value)
        if text is None:
            unsaid += f"\n# {name}={value!r} can be told in Python only"
        else:
            line += ["-o", f"{name}={text}"]
    return " ".join(map(quoted, line)) + unsaid


def python_of(settings: Mapping[str, Any], image: str | None, model: StableDiffusion, mask: str = "mask.png") -> str:
    """The same in Python. The edit is `edit`; the picture, which is written to result.png, is `result`."""
    method, own = METHODS[settings["method"]], [f"dm.methods.load_plugin({file!r})" for file in plugins(settings)]
    name = [] if settings["model"] == "tiny" else [repr(settings["model"])]
    own.append(call("model = dm.load", *name, **loaded_with(settings, model)))
    if around(settings) or settings.get("mask_sha256"):
        return as_job([*own, ""], settings, image, model, mask)
    imports = ["import diffedit_min as dm", ""]
    if image is not None:
        imports = ["from PIL import Image", "", *imports]
        own.append(f"picture = Image.open({image!r})")
    positional = ["model", "None" if image is None else "picture"]
    if masked(settings):
        own.append(f"mask = Image.open({mask!r})")
        positional.append("mask=mask")
    made = call(f"edit = dm.{method.name}", *positional, **words(settings), **called_with(settings),
                **options(settings, model))
    return "\n".join([*imports, *own, made, "result = edit.image", 'result.save("result.png")', ""])


def both(
    settings: Mapping[str, Any], image: str | None, model: StableDiffusion, mask: str | None = None
) -> dict[str, str]:
    """Both texts, by the headings that the report gives them. {} for a method that isn't registered: neither a command
    nor Python finds it by its name.
    """
    if settings["method"] not in METHODS:
        return {}
    told = settings, image, model, mask or "mask.png"
    return {"As a command": command_of(*told), "In Python": python_of(*told)}


def as_job(
    own: list[str], settings: Mapping[str, Any], image: str | None, model: StableDiffusion, mask: str
) -> str:
    """The Python of an edit with something done around the method: it does as the command does, by a job."""
    told = {"method": settings["method"]} | words(settings) | called_with(settings)
    told |= around(settings) | ({"mask": mask} if masked(settings) else {}) | {"options": options(settings, model)}
    return "\n".join([
        "from pathlib import Path", "", "import diffedit_min as dm",
        "from diffedit_min.studio.jobs.editing import edit_jobs, open_job",
        "from diffedit_min.studio.jobs.job import job_of", "", *own,
        "told = {", *(f"    {name!r}: {value!r}," for name, value in told.items()), "}",
        f'job = job_of(told, {image!r}, Path("result.png"))',
        "[(edit, result)] = edit_jobs(model, {}, [open_job(job)])",
        "result.save(job.out)", ""])


# ---------------------------------------------------------------- what is spelled out


def options(settings: Mapping[str, Any], model: StableDiffusion) -> dict[str, Any]:
    """The method's options that differ from what holds with this model and this preset anyway."""
    method = METHODS[settings["method"]]
    anyway = method.settings(model, {}, preset_of(settings)).record()
    return {name: settings[name] for name in method.known
            if name in settings and as_json(settings[name]) != as_json(anyway[name])}


def words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Query and reference, where there are any."""
    return {name: settings[name] for name in ("query", "reference") if settings[name]}


def called_with(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seed, size and preset, where they are not the usual ones."""
    told = {"seed": settings["seed"], "size": settings["size"], "preset": preset_of(settings)}
    return {name: value for name, value in told.items() if value != getattr(Call(), name)}


def preset_of(settings: Mapping[str, Any]) -> str:
    """The preset; an edit that was made in Python doesn't tell it, and so has all its options spelled out."""
    return settings.get("preset") or Call().preset


def loaded_with(settings: Mapping[str, Any], model: StableDiffusion) -> dict[str, Any]:
    """How the model was loaded, where `load` would do otherwise if it were not told."""
    told = {name: settings[name] for name in SOURCE if settings.get(name) is not None}
    if model.dtype != best_dtype(model.unet, model.device):
        told["dtype"] = str(model.dtype).removeprefix("torch.")
    if model.device.type != usable_device("auto").type:
        told["device"] = str(model.device)
    return told


def around(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the command did before and after the method, but for the mask that it was given."""
    return {name: settings[name] for name in AROUND if name != "mask" and settings.get(name)}


def masked(settings: Mapping[str, Any]) -> bool:
    """Whether the edit was given a mask."""
    return "mask" in settings["given"] or bool(settings.get("mask_sha256"))


def plugins(settings: Mapping[str, Any]) -> list[str]:
    """The files of --plugin that the method and its sampler come from."""
    sampler = SAMPLERS.get(str(settings.get("sampler")).partition(":")[0])
    modules = [getattr(made, "__module__", "") or "" for made in (METHODS[settings["method"]].run, sampler)]
    return list(dict.fromkeys(sys.modules[name].__file__ for name in modules
                              if name.startswith("diffedit_min_plugin_")))


# ---------------------------------------------------------------- how it is written


def typed(option: Option, value: Any) -> str | None:
    """An option's value as -o takes it; None if there is no text for it."""
    texts = {dict: lambda: ",".join(f"{word}:{number}" for word, number in value.items()),
             tuple: lambda: ",".join(map(repr, value)), bool: lambda: str(value).lower()}
    text = "none" if value is None else texts.get(option.kind, lambda: str(value))()
    try:
        return text if as_json(option.parsed(text)) == as_json(value) else None
    except ValueError:
        return None


def quoted(word: str) -> str:
    """A word for a shell. What steers a terminal, which could end a paste and run the rest, is written as numbers."""
    steers = {c for c in word if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    if not steers:
        return shlex.quote(word)
    plain = word.replace("\\", r"\\").replace("'", r"\'")
    return "$'" + "".join("".join(f"\\{byte:03o}" for byte in c.encode()) if c in steers else c for c in plain) + "'"


def call(what: str, *positional: str, **named: Any) -> str:
    """A call in Python: in one line, or with a line for each argument if that gets too long."""
    texts = [*positional, *(f"{name}={value!r}" for name, value in named.items())]
    line = f"{what}({', '.join(texts)})"
    return line if len(line) <= 100 else f"{what}(\n    " + ",\n    ".join(texts) + ",\n)"


def as_json(value: Any) -> Any:
    """A value as it comes back from JSON: a tuple as a list."""
    if isinstance(value, dict):
        return {name: as_json(each) for name, each in value.items()}
    return [as_json(each) for each in value] if isinstance(value, tuple | list) else value
