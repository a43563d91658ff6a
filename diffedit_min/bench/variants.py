"""Methods with settings, the points of a sweep; and the sweep.

A `Variant` is one way to edit, a line of the table and a point of a curve. Points of one `name` make one curve.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..core.coding import Options
from ..methods import Asked, Edit, Method, edit_together, find_method
from ..methods.call import RECOMMENDED
from ..networks.stable_diffusion import StableDiffusion
from .datasets.item import Item

MAKE = {"encode", "mask"}        # labels of rows: an edit that has any made something that others may use


@dataclass(frozen=True)
class Variant:
    method: Method
    options: Mapping[str, Any] = field(default_factory=dict)    # what differs from the model's recommendations
    curve: str = ""                     # its name in the table; "": the method's
    told: bool = True                   # of the dataset's reference; else the reference is the empty text
    preset: str = RECOMMENDED
    alone: bool = False                 # it shares no encoding and no map, so that its rows are all that it costs

    @property
    def name(self) -> str:
        return self.curve or self.method.dashed

    @property
    def label(self) -> str:
        """The point's settings, for example "encoding_ratio=0.5"."""
        return ", ".join(f"{name}={value}" for name, value in self.options.items())

    @property
    def title(self) -> str:
        """What tells it from every other of a run."""
        return f"{self.name} {self.label}".strip()

    def words(self, item: Item) -> tuple[str, str]:
        """The query, or the instruction, and the reference that the method is given."""
        return (item.instruction if self.method.needs_instruction else item.query,
                item.reference if self.told else "")

    @property
    def family(self) -> tuple[str, bool, str]:
        """Equal for variants that may share encodings and maps: of one method, told alike, and not alone."""
        return self.method.name, self.told, self.title if self.alone else ""

    def asked(self, item: Item, size: int | None = None) -> Asked:
        """What it asks for of an item. Raises ValueError if the item lacks the words that the method needs."""
        return Asked(self.method, *self.words(item), item.seed, size, self.preset, self.options)

    def settings(self, model: StableDiffusion) -> Options:
        return self.method.settings(model, self.options, self.preset)


def grid(methods: Sequence[str], ratios: Sequence[float], given: Sequence[str] = ()) -> list[Variant]:
    """Every combination of the values of each method's options, in the order in which they are given.

    ratios: for the methods that have an encoding ratio. given: "[method:]option=value[,value...]", for one method or
    for all that have the option; it goes before ratios. Raises ValueError for what no method knows, or can't be told.
    """
    chosen = [find_method(name) for name in methods]
    if len(set(names := [method.name for method in chosen])) < len(chosen):
        raise ValueError(f"--methods names a method twice: {' '.join(method.dashed for method in chosen)}")
    values: dict[str, dict[str, list[Any]]] = {name: {} for name in names}
    for method in chosen:
        if "encoding_ratio" in method.known:
            values[method.name]["encoding_ratio"] = parsed(method, "encoding_ratio", map(str, ratios))
    for text in given:
        whose, name, tail = parts(text)
        takers = [find_method(whose)] if whose else [method for method in chosen if name in method.known]
        for method in takers or chosen[:1]:     # if it is nobody's, the first will say so
            if method not in chosen:
                raise ValueError(f"-o {text!r} is for {method.dashed}, which is not among --methods")
            whole = name in method.known and method.known[name].kind in (dict, tuple)      # commas belong to the value
            several = [tail] if whole else tail.split(",")
            earlier = values[method.name].get(name, []) if whole else []       # -o again: another value
            values[method.name][name] = earlier + parsed(method, name, several)
    variants = []
    for method in chosen:
        options = {name: several for name, several in values[method.name].items() if several}
        variants += [Variant(method, dict(zip(options, point, strict=True)))
                     for point in itertools.product(*options.values())]
    return variants


def parts(text: str) -> tuple[str, str, str]:
    """"diffedit:steps=20,50" -> ("diffedit", "steps", "20,50")."""
    head, equals, tail = text.partition("=")
    if not equals:
        raise ValueError(f"-o {text!r} has no value: write it as option=value, or option=value,value for several")
    whose, _, name = head.rpartition(":")
    return whose.strip(), name.strip().replace("-", "_"), tail


def parsed(method: Method, name: str, values: Iterable[str]) -> list[Any]:
    """An option's values as its type has them, each checked."""
    return [method.parsed([f"{name}={value}"])[name] for value in values]


def sweep(
    model: StableDiffusion, items: Sequence[Item], pictures: Sequence[Image.Image], variants: Sequence[Variant],
    size: int | None = None,
) -> Iterator[tuple[Variant, list[Edit], float]]:
    """Each variant's edits of all items, as one batch, with the seconds that they took; nothing is computed twice.

    One encoding serves every smaller encoding ratio, as its prefix, so the largest ratio comes first; one difference
    map serves every threshold. DiffEdit at encoding ratios of k_1 > k_2 > ... levels, with n noises, costs
    2n + k_1 + 2 (k_1 + k_2 + ...) U-Net rows a picture; variants that are `alone` neither give nor take: 2n + 3k each.
    An Edit's rows are what was evaluated for it here: those of a shared encoding or map are with the edit that made it.
    """
    earlier: list[list[Edit]] = [[] for _ in items]
    for variant in sorted(variants, key=lambda variant: -getattr(variant.settings(model), "encoding_ratio", 0.0)):
        started = time.perf_counter()
        edits = edit_together([variant.asked(item, size) for item in items], model, pictures,
                              reuse=None if variant.alone else earlier)
        seconds = time.perf_counter() - started
        for own, edit in zip(earlier, edits, strict=True):
            if MAKE & edit.rows_for.keys():
                own.append(edit)
        yield variant, edits, seconds
