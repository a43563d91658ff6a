"""A run: every variant on every item, each result on disk as it comes.

Items go through in fixed batches, in order; a batch with one method's variants is the unit that is done whole or again.
So the same arguments give the same bytes, wherever a run was stopped and over however many processes it was spread (on
one kind of machine, with as many threads each).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..core.state import Sampler
from ..methods import Edit, Method
from ..methods.cost import Estimate, StandIn, small_picture
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.picture_files import save, to_rgb
from ..pictures.writing import NotWritten, make_folder
from .datasets.item import Dataset, Item
from .metrics.base import Column, Metric, Shown
from .store import Appender, digest, hash_of, packed, read_all, versions
from .tables import put
from .variants import Variant, sweep

Entry = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a run's results depend on, and where they go."""

    dataset: Dataset
    variants: tuple[Variant, ...]
    model_of: Callable[[Variant], StableDiffusion]      # the same object for the same model
    metrics: dict[str, Metric]
    out: Path
    batch: int = 10
    size: int | None = None
    pictures: int = 6                   # of how many items the results are kept as pictures
    paired: bool = False                # the first variant is a baseline: the others are compared with it item by item

    @cached_property
    def groups(self) -> list[list[Variant]]:
        """Variants that may share encodings."""
        found: dict[tuple, list[Variant]] = {}
        for variant in self.variants:
            found.setdefault(variant.family, []).append(variant)
        return list(found.values())

    @property
    def columns(self) -> list[Column]:
        return [column for metric in self.metrics.values() for column in metric.columns]

    @cached_property
    def features(self) -> dict[str, Metric]:
        """By each feature's name, a metric that makes it."""
        return {name: metric for metric in self.metrics.values() if (name := metric.feature_name)}

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Of each model's weights, by the model's name."""
        models = {id(model): model for model in map(self.model_of, self.variants)}.values()
        return {model.name: hash_of(model) for model in models}

    @cached_property
    def keys(self) -> dict[tuple[str, str], str]:
        """The key of each result, by its item's id and its variant's title. What is equal needn't be done again."""
        told = {}
        for variants in self.groups:
            model = self.model_of(variants[0])
            sweep = [self.settings(variant) for variant in variants]    # an edit's rows depend on who came before
            told.update({variant.title: [
                self.settings(variant), sweep, code_of(variant, model), self.hashes[model.name], str(model.dtype),
                model.device.type, self.size, self.abouts] for variant in variants})
        words = {item.id: [self.dataset.name, item.id, item.query, item.reference, item.instruction, item.seed]
                 for item in self.dataset.items}
        return {(item.id, title): digest([words[item.id], told[title]])
                for item in self.dataset.items for title in told}

    @cached_property
    def abouts(self) -> dict[str, str]:
        """What each metric says of itself."""
        return {name: metric.about() for name, metric in self.metrics.items()}

    def settings(self, variant: Variant) -> Entry:
        return {"method": variant.method.name, "curve": variant.name, "told": variant.told,
                **variant.settings(self.model_of(variant)).record()}

    def record(self) -> Entry:
        """What OUT/run.json says of the run."""
        return {
            "dataset": self.dataset.about, "items": len(self.dataset.items), "batch": self.batch, "size": self.size,
            "models": self.hashes, "metrics": self.abouts,
            "variants": [{"label": variant.label, **self.settings(variant)} for variant in self.variants],
            "versions": versions(), "threads": torch.get_num_threads(),
        }


# This package's own code, as far as results depend on it.
CODE = ("core", "samplers", "methods", "networks", "loading", "pictures", "tiny/scenes.py", "tiny/scene.py",
        "tiny/paint.py", "bench/datasets", "bench/metrics", "bench/measures.py", "bench/variants.py")


def code_of(variant: Variant, model: StableDiffusion) -> str:
    """A hash of the code that makes a variant's results: the package's, and the files of one's own methods and
    samplers. (What such a file imports from others of one's own is not looked at.)"""
    settings = variant.settings(model)
    objects = [type(settings), *(type(value) for value in vars(settings).values() if isinstance(value, Sampler))]
    method: Method | None = variant.method
    while method is not None:
        objects, method = [*objects, method.run], method.based_on
    return digest([package_code(), sorted({source_of(thing) for thing in objects})])


@cache
def package_code() -> str:
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for place in CODE:
        for file in sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place]:
            found.update(file.read_bytes())
    return found.hexdigest()


def source_of(thing: Any) -> str:
    """The text of the file that a function or class is in; in a notebook there is only its own."""
    try:
        file = inspect.getsourcefile(thing)
        return Path(file).read_text(encoding="utf-8") if file and Path(file).is_file() else inspect.getsource(thing)
    except (OSError, TypeError):        # neither: made at run time
        return repr(thing)


# ---------------------------------------------------------------- the loop


def begin(plan: Plan) -> None:
    """Write what the run is; refuse to mix results of different versions in one folder."""
    path, record = plan.out / "run.json", plan.record()
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))["versions"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{str(path)!r} is not a run's record: give another --out") from None
        for name, version in record["versions"].items():
            if before.get(name) != version:
                raise ValueError(f"{str(plan.out)!r} holds results made with {name} {before.get(name)}, and this is "
                                 f"{version}: give another --out")
    make_folder(plan.out)
    put(path, json.dumps(record, indent=2) + "\n")


def work(plan: Plan, rank: int = 0, world: int = 1, retry: bool = False, quiet: bool = False) -> None:
    """One process's share: every world-th batch. What is on disk, from whichever process, is not done again.

    Unless quiet, a bar on stderr, and a line there that says how long it will take, if that is long.
    """
    done = {key for key, entry in finished(plan).items() if not (retry and "error" in entry)}
    files = {name: Appender(plan.out, name, rank) for name in ("results", "timings", *plan.features)}
    batches = plan.dataset.batches(plan.batch)[rank::world]
    shares = [[variants for variants in plan.groups
               if not all(plan.keys[item.id, v.title] in done for item in items for v in variants)]
              for items in batches]
    rows = 0 if quiet else rows_left(plan, batches, shares)
    with tqdm(total=sum(map(len, batches)) * len(plan.variants), unit="edit", disable=quiet or None) as bar:
        estimate = Estimate(rows, partial(bar.write, file=sys.stderr))
        for items, units in zip(batches, shares, strict=True):
            bar.update(len(items) * (len(plan.variants) - sum(map(len, units))))
            if not units:
                continue
            opened = open_all(items)
            for name, metric in plan.features.items():      # of the inputs, which some metrics compare with
                files[name].append({"key": f"input {key}", "vector": packed(metric.feature(shown))}
                                   for key, shown in opened.items() if isinstance(shown, Shown))
            for variants in units:
                made = do(plan, items, opened, variants, estimate.add)
                for name in reversed(files):        # results last: what stands there is done
                    files[name].append(made[name])
                bar.update(len(items) * len(variants))


def rows_left(plan: Plan, batches: Sequence[Sequence[Item]], shares: Sequence[Sequence[Sequence[Variant]]]) -> int:
    """The rows, forward and back, that batches of items take, each with its groups of variants; 0: not known."""
    of_one = {variants[0].title: rows_of_one(plan, variants) for variants in plan.groups}
    rows = [len(items) * of_one[variants[0].title]
            for items, units in zip(batches, shares, strict=True) for variants in units]
    return sum(rows) if all(rows) else 0


def rows_of_one(plan: Plan, variants: Sequence[Variant]) -> int:
    """The rows of one item's edits, with what they share: their own sweep, on a stand-in (methods/cost.py)."""
    model = StandIn.of(plan.model_of(variants[0]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            edited = list(sweep(model, plan.dataset.items[:1], [small_picture(model)], variants))
    except Exception:       # on the stand-in only: the edits themselves will say what is wrong
        return 0
    return sum(edit.rows + edit.backward_rows for _, [edit], _ in edited)


def finished(plan: Plan) -> dict[str, Entry]:
    """The results on disk by key: those whose features are there too, and their inputs' features."""
    stored = [read_all(plan.out, name).keys() for name in plan.features]
    return {key: entry for key, entry in read_all(plan.out, "results").items()
            if "error" in entry or all(key in keys and f"input {entry['item']}" in keys for keys in stored)}


Opened = dict[str, Shown | Exception]      # by item's id: its pictures, or why they can't be opened


def open_all(items: Sequence[Item]) -> Opened:
    opened: Opened = {}
    for item in items:
        try:
            image = to_rgb(item.image())
            mask, answer = (None if opens is None else opens() for opens in (item.mask, item.answer))
            opened[item.id] = Shown(item, image, image, None, mask, answer)
        except Exception as error:      # of any kind: the run goes on without this item
            opened[item.id] = error
    return opened


def do(
    plan: Plan, items: Sequence[Item], opened: Opened, variants: Sequence[Variant], measured: Callable[[int], None]
) -> dict[str, list[Entry]]:
    """One batch with one method's variants: results, timings, and features by their names.

    If it can't be done as a batch, each item is done alone. measured: is told of rows as soon as they are through.
    """
    made: dict[str, list[Entry]] = {name: [] for name in ("results", "timings", *plan.features)}
    good = [item for item in items if isinstance(opened[item.id], Shown)]
    for item in items:
        if isinstance(error := opened[item.id], Exception):
            made["results"] += [failure(plan, item, variant, error) for variant in variants]
    try:
        pictures = [opened[item.id].input for item in good]
        edited = []
        for one in sweep(plan.model_of(variants[0]), good, pictures, variants, plan.size) if good else ():
            edited.append(one)
            measured(sum(edit.rows + edit.backward_rows for edit in one[1]))
    except NotWritten:
        raise
    except Exception as error:
        if len(good) == 1:
            made["results"] += [failure(plan, good[0], variant, error) for variant in variants]
            return made
        for item in good:
            for name, entries in do(plan, [item], opened, variants, measured).items():
                made[name] += entries
        return made
    for variant, edits, seconds in edited:
        for item, edit in zip(good, edits, strict=True):
            try:
                entry, vectors = evaluated(plan, variant, edit, opened[item.id])
            except NotWritten:      # the item isn't to blame: nothing is stored of it, and the run ends
                raise
            except Exception as error:
                made["results"].append(failure(plan, item, variant, error))
                continue
            timing = {"seconds": round(seconds / len(good), 4)}
            for name, found in {"results": entry, "timings": timing, **vectors}.items():
                made[name].append({"key": plan.keys[item.id, variant.title], **found})
    return made


def evaluated(plan: Plan, variant: Variant, edit: Edit, inputs: Shown) -> tuple[Entry, dict[str, Entry]]:
    """An edit's result as it is kept, and its features; its picture is kept too, of the first items."""
    item = inputs.item
    shown = Shown(item, inputs.input, edit.image, edit, inputs.mask, inputs.answer)
    entry = {**identity(plan, item, variant), "rows": edit.rows, "backward_rows": edit.backward_rows,
             "empty_mask": edit.empty_mask}
    for metric in plan.metrics.values():
        entry.update(metric.measure(shown))
    vectors = {name: {"vector": packed(metric.feature(shown))} for name, metric in plan.features.items()}
    if item in plan.dataset.items[: plan.pictures]:
        path = picture_path(plan, item, variant)
        make_folder(path.parent)
        save(edit.image, path, {"diffedit": json.dumps(edit.settings)})
        if edit.mask_image is not None:
            save(edit.mask_image, path.with_suffix(".mask.png"))
    return entry, vectors


def failure(plan: Plan, item: Item, variant: Variant, error: Exception) -> Entry:
    text = " ".join(str(error).split())
    return {**identity(plan, item, variant),
            "error": text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"}


def identity(plan: Plan, item: Item, variant: Variant) -> Entry:
    return {"key": plan.keys[item.id, variant.title], "dataset": plan.dataset.name, "item": item.id,
            "group": item.group, **dict(zip(("query", "reference"), variant.words(item), strict=True)),
            "seed": item.seed, "method": variant.name, "settings": variant.label}


def picture_path(plan: Plan, item: Item, variant: Variant) -> Path:
    """Where a result is kept: OUT/pictures/ITEM/METHOD SETTINGS.png."""
    return plan.out / "pictures" / item.id / f"{variant.title.replace('/', '_')}.png"


