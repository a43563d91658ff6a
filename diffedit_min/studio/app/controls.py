"""The options of methods as controls of the page. What a control is and says stands in the option's declaration, and
nowhere else: methods that share an option share its control.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import gradio as gr
from gradio.components import Component

from ...core.coding import Options
from ...core.options import KINDS, Option, declared, name_of
from ...core.state import Sampler
from ...methods import METHODS, Method
from ...methods.help import sentence_of
from ...samplers import SAMPLERS, files_named_by, sampler_of
from .components import Slider

Key = tuple[str, type[Component]]       # which control: two options of one name that look different have two


def offered(method: Method) -> dict[Key, Option]:
    """The options that a person may set: none that names a file, which are the server's, or that needs such a one.

    Behind an option that takes a sampler come the options of each sampler, as "sampler:edict:p".
    """
    known, found = method.known, {}
    for option in known.values():
        if not option.file and not any(name in known and known[name].file for name in option.needs):
            found[key_of(option)] = option
            found |= {key_of(part): part for part in parts_of(option)}
    return found


def parts_of(option: Option) -> list[Option]:
    """If the option takes a sampler: the options that the known samplers have themselves, but for files."""
    samplers = SAMPLERS.items() if option.kind is Sampler else ()
    return [replace(own, name=f"{option.name}:{name}:{own.name}") for name, sampler in samplers
            if is_dataclass(sampler) for own in declared(type(sampler)).values() if not own.file]


def of_all_methods() -> dict[Key, Option]:
    """Those of all methods that are registered by now; of those that share a control, the first."""
    found: dict[Key, Option] = {}
    for method in METHODS.values():
        for key, option in offered(method).items():
            found.setdefault(key, option)
    return found


def key_of(option: Option) -> Key:
    return option.name, kind_of(option)


def kind_of(option: Option) -> type[Component]:
    """What kind of control it is."""
    if option.kind is Sampler or option.choices or (option.kind is bool and option.optional):
        return gr.Dropdown
    if option.kind is bool:
        return gr.Checkbox
    if option.kind in (int, float):
        return Slider if span_of(option) else gr.Number
    return gr.Textbox


def looks(option: Option, value: Any) -> dict[str, Any]:
    """What the control says and offers, showing a value as `to_control` gives it."""
    kind = kind_of(option)
    says = sentence_of(option) if kind in (gr.Number, gr.Textbox) else option.sentence      # others show the range
    label = option.name.partition(":")[2].replace(":", ": ") or option.name.capitalize()
    looks = {"label": label.replace("_", " "), "info": says, "value": value}
    if kind is gr.Dropdown:
        of_kind = SAMPLERS if option.kind is Sampler else option.choices or ("true", "false")
        choices = [*of_kind, *(["none"] if option.optional else [])]
        looks["choices"] = choices if value in choices else [*choices, value]       # a sampler of somebody's own
    if kind is Slider:
        low, high, step = span_of(option)       # a card's value may lie outside what is usual
        looks |= {"minimum": min(low, value), "maximum": max(high, value), "step": step}
    if kind is gr.Textbox:
        looks["placeholder"] = "" if option.kind is str else KINDS[option.kind]
    return looks


def span_of(option: Option) -> tuple[float, float, float] | None:
    """From where to where a slider goes, and its step. None for what has no two ends: a text, or a number or None."""
    low = option.above if option.least is None else option.least
    ends = option.usual or ((low, option.most) if low is not None and option.most is not None else None)
    if option.kind not in (int, float) or option.optional or ends is None or not ends[0] < ends[1]:
        return None
    low, high = ends
    step = 1 if option.kind is int else 10.0 ** math.floor(math.log10((high - low) / 50))
    low = low + step if low == option.above else low
    return (low, high, step) if low < high else None


def to_control(option: Option, value: Any) -> Any:
    """An option's value as its control holds it."""
    if kind_of(option) in (Slider, gr.Number, gr.Checkbox):
        return value
    if value is None:
        return "none"
    if option.kind is Sampler:
        return name_of(value)
    if option.kind is dict:
        return ", ".join(f"{word}:{number}" for word, number in value.items())
    if option.kind is tuple:
        return ", ".join(map(str, value))
    return str(value).lower() if option.kind is bool else value


def from_control(option: Option, held: Any) -> Any:
    """What a control holds as the option's value. ValueError, in one line, for what can't be one."""
    if held is None or (isinstance(held, str) and not held.strip() and option.kind is not str):
        if not option.optional and option.kind not in (dict, tuple, str):
            raise ValueError(f"{option.name} is empty: give {KINDS[option.kind]}")
        return option.checked(None if option.optional else option.kind())
    value = option.parsed(held) if isinstance(held, str) else held
    if files := files_named_by(option, value):
        raise ValueError(f"{files[0]} names a file, which can't be chosen from the page")
    if option.kind is Sampler:
        return value if value is None else sampler_of(value)
    if option.kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    return option.checked(value)


def values_of(method: Method, settings: Options) -> dict[Key, Any]:
    """What the controls of a method hold where these settings are in force."""
    found = {}
    for key, option in offered(method).items():
        name, _, part = option.name.partition(":")
        value = getattr(settings, name)
        if part:
            sampler, _, own = part.partition(":")
            value = getattr(value if name_of(value) == sampler else SAMPLERS[sampler], own)
        found[key] = to_control(option, value)
    return found


def chosen(method: Method, settings: Options, held: Mapping[Key, Any]) -> dict[str, Any]:
    """The options that controls hold with another value than the settings. ValueError for what can't be one."""
    holds, found = values_of(method, settings), {}
    for key, option in offered(method).items():
        if key not in held or ":" in option.name:
            continue
        changed = held[key] != holds[key]
        if option.kind is Sampler and held[key] in SAMPLERS:
            own = {part.name.rpartition(":")[2]: part for part in parts_of(option)
                   if part.name.startswith(f"{option.name}:{held[key]}:")}
            told = {name: from_control(part, held[key_of(part)]) for name, part in own.items() if key_of(part) in held}
            value = replace(SAMPLERS[held[key]], **told) if told else SAMPLERS[held[key]]
            if changed or value != getattr(settings, option.name):
                found[option.name] = value
        elif changed:
            found[option.name] = from_control(option, held[key])
    return found


def mattering(method: Method, held: Mapping[Key, Any]) -> set[Key]:
    """The controls that can change a result as the others stand: those of the sampler that is chosen, and no option
    that has no effect without another one.
    """
    options = offered(method)
    by_name = {option.name: held.get(key) for key, option in options.items()}
    without = {option.name: to_control(option, option.default) for option in options.values()}
    found = set()
    for key, option in options.items():
        name, _, part = option.name.partition(":")
        if part and by_name[name] != part.partition(":")[0]:
            continue
        if all(by_name.get(needed) != without.get(needed) for needed in option.needs):
            found.add(key)
    return found


def narrowing(options: Mapping[Key, Option]) -> set[Key]:
    """The controls that decide whether others are seen."""
    needed = {name for option in options.values() for name in option.needs}
    return {key for key, option in options.items() if option.kind is Sampler or option.name in needed}


@dataclass
class Kept:
    """What a person has chosen, for when a method or a model comes back."""

    method: str = "diffedit"
    presets: dict[str, str] = field(default_factory=dict)       # by method
    given: dict[Key, Any] = field(default_factory=dict)         # what controls were given last
    own: dict[Key, Any] = field(default_factory=dict)           # what a person has made of that

    def notice(self, held: Mapping[Key, Any]) -> None:
        """What the controls hold now."""
        self.own |= {key: value for key, value in held.items() if key in self.given and value != self.given[key]}

    def give(self, option: Option, value: Any) -> Any:
        """What a control is to show where `value` holds: what a person has set, if this option can have it."""
        key = key_of(option)
        self.given[key] = value
        if key in self.own:
            try:
                from_control(option, self.own[key])
                self.given[key] = self.own[key]
            except ValueError:
                pass
        return self.given[key]
