"""A run: every variant on every item, each result on disk as it comes.

Items go through in fixed batches, in order; a batch with one method's variants is the unit that is done whole or again.
So the same arguments give the same bytes, wherever a run was stopped and over however many processes it was spread (on
one kind of machine, with as many threads each).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import __version__
from ..core.state import Sampler
from ..methods import Edit, Method
from ..networks.stable_diffusion import StableDiffusion
from ..pictures.picture_files import replacing, save, to_rgb
from .datasets.item import Dataset, Item
from .metrics.base import Metric, Shown
from .store import Appender, packed, read_all
from .sweep import sweep
from .variants import Variant

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

    @cached_property
    def batches(self) -> list[tuple[Item, ...]]:
        items = self.dataset.items
        return [items[i : i + self.batch] for i in range(0, len(items), self.batch)]

    @cached_property
    def hashes(self) -> dict[str, str]:
        """Of each model's weights, by the model's name."""
        models = {id(model): model for model in map(self.model_of, self.variants)}.values()
        return {model.name: hash_of(model) for model in models}

    @cached_property
    def keys(self) -> dict[tuple[str, str], str]:
        """The key of each result, by its item's id and its variant's title. What is equal needn't be done again."""
        abouts = {name: metric.about() for name, metric in self.metrics.items()}
        told = {}
        for variants in self.groups:
            model = self.model_of(variants[0])
            sweep = [self.settings(variant) for variant in variants]    # an edit's rows depend on who came before
            told.update({variant.title: [
                self.settings(variant), sweep, code_of(variant, model), self.hashes[model.name], str(model.dtype),
                model.device.type, self.size, abouts]
                         for variant in variants})
        words = {item.id: [self.dataset.name, item.id, item.query, item.reference, item.instruction, item.seed]
                 for item in self.dataset.items}
        return {(item.id, title): digest([words[item.id], told[title]])
                for item in self.dataset.items for title in told}

    def settings(self, variant: Variant) -> Entry:
        return {"method": variant.method.name, "curve": variant.name, "told": variant.told,
                **variant.settings(self.model_of(variant)).record()}

    def record(self) -> Entry:
        """What OUT/run.json says of the run."""
        return {
            "dataset": self.dataset.about, "items": len(self.dataset.items), "batch": self.batch, "size": self.size,
            "models": self.hashes, "metrics": {name: metric.about() for name, metric in self.metrics.items()},
            "variants": [{"label": variant.label, **self.settings(variant)} for variant in self.variants],
            "versions": versions(), "threads": torch.get_num_threads(),
        }


def versions() -> dict[str, str]:
    return {"diffedit_min": __version__, "torch": torch.__version__, "transformers": version("transformers"),
            "python": platform.python_version(), "processor": platform.machine()}


# This package's own code, as far as results depend on it.
CODE = ("core", "samplers", "methods", "model", "loading", "picture.py", "picture_files.py", "bench/datasets",
        "bench/metrics", "bench/sweep.py", "tiny/scenes.py", "tiny/paint.py", "tiny/measures.py")


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


def digest(thing: Any) -> str:
    return hashlib.sha256(json.dumps(thing, sort_keys=True).encode()).hexdigest()[:16]


def hash_of(model: StableDiffusion) -> str:
    """Of all weights, whatever the file they came from."""
    found = hashlib.sha256()
    for network in (model.unet, model.vae, *(text.encoder for text in model.texts)):
        for tensor in network.state_dict().values():
            found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


# ---------------------------------------------------------------- the loop


def begin(plan: Plan) -> None:
    """Write what the run is; refuse to mix results of different versions in one folder."""
    path, record = plan.out / "run.json", plan.record()
    if path.exists():
        try:
            before = json.loads(path.read_text())["versions"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{str(path)!r} is not a run's record: give another --out") from None
        for name, version in record["versions"].items():
            if before.get(name) != version:
                raise ValueError(f"{str(plan.out)!r} holds results made with {name} {before.get(name)}, and this is "
                                 f"{version}: give another --out")
    try:
        plan.out.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write((json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise ValueError(f"--out {str(plan.out)!r} can't be written to ({error.strerror}): give another folder"
                         ) from None


def work(plan: Plan, rank: int = 0, world: int = 1, retry: bool = False, quiet: bool = False) -> None:
    """One process's share: every world-th batch. What is on disk, from whichever process, is not done again."""
    done = {key for key, entry in finished(plan).items() if not (retry and "error" in entry)}
    files = {name: Appender(plan.out, name, rank) for name in ("results", "timings", *feature_names(plan))}
    batches = plan.batches[rank::world]
    with tqdm(total=sum(map(len, batches)) * len(plan.variants), unit="edit", disable=quiet or None) as bar:
        for items in batches:
            units = [variants for variants in plan.groups
                     if not all(plan.keys[item.id, v.title] in done for item in items for v in variants)]
            bar.update(len(items) * (len(plan.variants) - sum(map(len, units))))
            opened = open_all(items) if units else {}
            for name, entries in (input_features(plan, items, opened) if units else {}).items():
                files[name].append(entries)
            for variants in units:
                results, timings, features = do(plan, items, opened, variants)
                for name, entries in features.items():
                    files[name].append(entries)
                files["timings"].append(timings)
                files["results"].append(results)        # last: what stands there is done
                bar.update(len(items) * len(variants))


def feature_names(plan: Plan) -> list[str]:
    return sorted({metric.feature_name for metric in plan.metrics.values()} - {""})


def finished(plan: Plan) -> dict[str, Entry]:
    """The results on disk by key: those whose features are there too, and their inputs' features."""
    stored = [read_all(plan.out, name).keys() for name in feature_names(plan)]
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


def input_features(plan: Plan, items: Sequence[Item], opened: Opened) -> dict[str, list[Entry]]:
    """Those of the inputs, which some metrics compare with."""
    makers = {metric.feature_name: metric for metric in plan.metrics.values() if metric.feature_name}
    return {name: [{"key": f"input {item.id}", "vector": packed(metric.feature(opened[item.id]))}
                   for item in items if isinstance(opened[item.id], Shown)] for name, metric in makers.items()}


Done = tuple[list[Entry], list[Entry], dict[str, list[Entry]]]      # results, timings, features by name


def do(plan: Plan, items: Sequence[Item], opened: Opened, variants: Sequence[Variant]) -> Done:
    """One batch with one method's variants. If it can't be done as a batch, each item is done alone."""
    results, timings = [], []
    features: dict[str, list[Entry]] = {name: [] for name in feature_names(plan)}
    good = [item for item in items if isinstance(opened[item.id], Shown)]
    for item in items:
        if isinstance(error := opened[item.id], Exception):
            results += [failure(plan, item, variant, error) for variant in variants]
    try:
        edited = list(edit_all(plan, good, opened, variants)) if good else []
    except Exception as error:
        if len(good) == 1:
            return results + [failure(plan, good[0], variant, error) for variant in variants], timings, features
        for item in good:
            more = do(plan, [item], opened, variants)
            results, timings = results + more[0], timings + more[1]
            features = {name: features[name] + more[2][name] for name in features}
        return results, timings, features
    for variant, edits, seconds in edited:
        for item, edit in zip(good, edits, strict=True):
            key = plan.keys[item.id, variant.title]
            try:
                entry, vectors = measured(plan, variant, edit, opened[item.id])
            except Exception as error:
                results.append(failure(plan, item, variant, error))
                continue
            results.append(entry)
            timings.append({"key": key, "seconds": round(seconds / len(good), 4)})
            for name, vector in vectors.items():
                features[name].append({"key": key, "vector": vector})
    return results, timings, features


def edit_all(
    plan: Plan, items: Sequence[Item], opened: Opened, variants: Sequence[Variant]
) -> Iterator[tuple[Variant, list[Edit], float]]:
    pictures = [opened[item.id].input for item in items]
    return sweep(plan.model_of(variants[0]), items, pictures, variants, plan.size)


def measured(plan: Plan, variant: Variant, edit: Edit, inputs: Shown) -> tuple[Entry, dict[str, str]]:
    """An edit's result as it is kept, and its features; its picture is kept too, of the first items."""
    item = inputs.item
    shown = Shown(item, inputs.input, edit.image, edit, inputs.mask, inputs.answer)
    entry = {**identity(plan, item, variant), "rows": edit.rows, "backward_rows": edit.backward_rows,
             "empty_mask": edit.empty_mask}
    vectors: dict[str, str] = {}
    for metric in plan.metrics.values():
        entry.update(metric.measure(shown))
        if metric.feature_name and metric.feature_name not in vectors:
            vectors[metric.feature_name] = packed(metric.feature(shown))
    if item in plan.dataset.items[: plan.pictures]:
        path = picture_path(plan, item, variant)
        path.parent.mkdir(parents=True, exist_ok=True)
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


