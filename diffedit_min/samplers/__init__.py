"""The samplers by name. Each is one file here; DDIM, the paper's sampler, is in core/. They are compared in README.md.

    SAMPLERS["edict"]               EDICT() with its default options
    sampler_of("edict:p=0.9")       EDICT(p=0.9)
"""

from dataclasses import is_dataclass, replace
from importlib import import_module
from typing import Any

from ..core.options import Declared, Option, declared, name_of
from ..core.state import Sampler

# The one list of the package's samplers: the files that hold them.
FILES = ("..core.ddim", ".fixed_point", ".edict", ".bdia", ".belm", ".dpm_solver")

SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler() for file in FILES for sampler in vars(import_module(file, __name__)).values()
    if isinstance(sampler, type) and issubclass(sampler, Declared) and issubclass(sampler, Sampler)}


def sampler_of(value: Any) -> Sampler:
    """The sampler that a text stands for: its name, with or without options. A sampler is returned as it is.

    Raises ValueError, which names it, for anything else and for a name or an option that isn't known.
    """
    if not isinstance(value, str):
        if not isinstance(value, Sampler) or isinstance(value, type):
            call = ": call it, to make an object of the class" if isinstance(value, type) else ""
            raise ValueError(f"sampler must be a name or an object with encode and decode, not {value!r}{call}")
        return value
    name, *texts = value.strip().split(":")
    if (sampler := SAMPLERS.get(name.strip().replace("-", "_"))) is None:
        raise ValueError(f"sampler {name!r} is not known; known are {', '.join(SAMPLERS)}")
    known = declared(type(sampler)) if is_dataclass(sampler) else {}
    options = {}
    for text in texts:
        option, equals, setting = text.partition("=")
        if not equals or option.strip() not in known:
            has = f"it has {', '.join(known)}: write {value.split(':')[0]}:name=value" if known else "it has none"
            raise ValueError(f"sampler {name_of(sampler)} has no option {text!r}; {has}")
        options[option.strip()] = known[option.strip()].parsed(setting)
    return replace(sampler, **options) if options else sampler


def files_named_by(option: Option, value: Any) -> list[str]:
    """What names a file or a model in an option's value, unless it is the default: the option itself, or a sampler's.

    Whoever made a checkpoint or a picture, or visits a page, is not to decide which files are read and written.
    """
    if option.kind is not Sampler or value is None:
        return [option.name] if option.file and value != option.default else []
    sampler = sampler_of(value)
    own = declared(type(sampler)) if is_dataclass(sampler) else {}
    return [f"{option.name} {name}" for name, one in own.items() if files_named_by(one, getattr(sampler, name))]
