"""The samplers by name. Each is one file; DDIM, the paper's, is in core/. What they are worth: README.md beside this.

    SAMPLERS["edict"]               EDICT() with its own defaults
    sampler_of("edict:p=0.9")       with others
"""

from dataclasses import is_dataclass, replace
from importlib import import_module
from typing import Any

from ..core.options import Declared, declared, name_of
from ..core.state import Sampler

# A sampler of this package is known everywhere by its file's name here.
FILES = ("..core.ddim", ".fixed_point", ".edict", ".bdia", ".belm", ".dpm_solver")

SAMPLERS: dict[str, Sampler] = {
    sampler.name: sampler() for file in FILES for sampler in vars(import_module(file, __name__)).values()
    if isinstance(sampler, type) and issubclass(sampler, Declared) and issubclass(sampler, Sampler)}


def sampler_of(told: Any) -> Sampler:
    """The sampler that a name means, options and all; an object with `encode` and `decode` is one itself.

    Raises ValueError naming what isn't known.
    """
    if not isinstance(told, str):
        if not isinstance(told, Sampler) or isinstance(told, type):
            call = ": call it, to make an object of the class" if isinstance(told, type) else ""
            raise ValueError(f"sampler must be a name or an object with encode and decode, not {told!r}{call}")
        return told
    name, *settings = told.strip().split(":")
    if (sampler := SAMPLERS.get(name.strip().replace("-", "_"))) is None:
        raise ValueError(f"sampler {name!r} is not known; known are {', '.join(SAMPLERS)}")
    known = declared(type(sampler)) if is_dataclass(sampler) else {}
    options = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or name.strip() not in known:
            has = f"it has {', '.join(known)}: write {told.split(':')[0]}:name=value" if known else "it has none"
            raise ValueError(f"sampler {name_of(sampler)} has no option {text!r}; {has}")
        options[name.strip()] = known[name.strip()].parsed(value)
    return replace(sampler, **options) if options else sampler
