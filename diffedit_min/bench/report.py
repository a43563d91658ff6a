"""From a run's results to what one reads: results.jsonl, table.csv, table.md, groups.csv, timings.csv, sheets.

Everything is made anew from OUT/parts, in the order of items and variants, so that nothing depends on who computed what
when. Only timings.csv differs from run to run.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..pictures.drawing import overlay, stacked, strip
from ..pictures.picture_files import open_mask, open_picture, save, to_rgb
from ..pictures.writing import make_folder
from .metrics.base import Column
from .run import Entry, Plan, finished, picture_path
from .store import read_all, unpacked
from .tables import as_csv, as_markdown, put
from .variants import Variant

RESAMPLES = 1000
FILES = ("table.md", "table.csv", "groups.csv", "timings.csv", "results.jsonl")     # what `write` makes, and sheets
ROWS = Column("rows", "U-Net rows", "lower", 0)         # what may be drawn as the metrics' columns are


@dataclass(frozen=True)
class Value:
    """A column's value of one variant, with its 95 % bootstrap interval over items, where it has one. nan: no value."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    def text(self, digits: int, signed: bool = False) -> str:
        """For a table; signed: as a difference is written."""
        if math.isnan(self.value):
            return "-"
        form, between = (f"+.{digits}f", " to ") if signed else (f".{digits}f", "–")
        point, low, high = (f"{number:{form}}" for number in (self.value, self.low, self.high))
        return point if math.isnan(self.low) else f"{point} ({low}{between}{high})"


@dataclass(frozen=True)
class Line:
    """A variant's line of the table."""

    variant: Variant
    edits: int
    failures: tuple[str, ...]
    empty: int                          # edits that changed nothing, as nothing to change was found
    rows: float                         # mean of an edit, as evaluated: what it shared is with the edit that made it
    backward_rows: float
    values: dict[str, Value]            # by column, the rows' too

    def value(self, column: Column) -> Value:
        return self.values.get(column.name, Value())


def results(plan: Plan) -> list[Entry] | None:
    """All results of a run in order, each item's variants together; None as long as there are some missing."""
    found = finished(plan)
    keys = [plan.keys[item.id, variant.title] for item in plan.dataset.items for variant in plan.variants]
    return [found[key] for key in keys] if all(key in found for key in keys) else None


def lines(plan: Plan, entries: Sequence[Entry]) -> list[Line]:
    """The table: a line for each variant."""
    features = {name: read_all(plan.out, name) for name in plan.features}
    return [line(plan, variant, entries[i :: len(plan.variants)], features) for i, variant in enumerate(plan.variants)]


def line(plan: Plan, variant: Variant, entries: Sequence[Entry], features: dict[str, dict[str, Entry]]) -> Line:
    good = [entry for entry in entries if "error" not in entry]
    values = {column.name: average(measures(good, column), column) for column in plan.columns if not column.of_set}
    succeeded = {entry["item"] for entry in good}
    items = [item for item in plan.dataset.items if item.id in succeeded]
    for metric in plan.metrics.values():
        if metric.feature_name and items:
            stored = features[metric.feature_name]
            vectors = np.stack([unpacked(stored[entry["key"]]["vector"]) for entry in good])        # (N, D)
            inputs = {item.id: unpacked(stored[f"input {item.id}"]["vector"]) for item in items}
            values.update({name: Value(number) for name, number in metric.of_set(items, vectors, inputs).items()})
    rows, back = (np.mean([entry[name] for entry in good]) if good else math.nan for name in ("rows", "backward_rows"))
    values["rows"] = Value(float(rows))
    return Line(variant, len(good), tuple(entry["error"] for entry in entries if "error" in entry),
                sum(entry["empty_mask"] for entry in good), float(rows), float(back), values)


def measures(entries: Sequence[Entry], column: Column) -> list[float]:
    """A column's value of each edit; nan where it has none, or failed."""
    return [entry.get(column.name, math.nan) for entry in entries]


# ---------------------------------------------------------------- averages


def average(values: Sequence[float], column: Column) -> Value:
    """Over the edits where it is defined. Mean squared errors are averaged before they are shown in dB."""
    defined = np.array([value for value in values if not math.isnan(value)], float)
    if not len(defined):
        return Value()
    numbers = np.array([defined.mean(), *np.percentile(defined[resamples(len(defined))].mean(axis=1), (2.5, 97.5))])
    if column.average == "psnr":
        numbers = decibels(numbers)[[0, 2, 1]]
    return Value(*map(float, numbers))


def difference(values: Sequence[float], baseline: Sequence[float], column: Column) -> Value:
    """How much larger the average of `values` is than the baseline's, over the items where both are defined.

    It is paired: item i of one is item i of the other, and each resample takes the same items of both, so that what
    makes an item hard for both cancels out. Averages are those of `average`: in dB, of the mean squared errors.
    """
    both = np.array([values, baseline], float)                                          # (2, items)
    both = both[:, ~np.isnan(both).any(axis=0)]
    count = both.shape[1]
    if not count:
        return Value()
    means = np.column_stack([both.mean(axis=1), both[:, resamples(count)].mean(axis=2)])        # (2, 1 + RESAMPLES)
    one, other = decibels(means) if column.average == "psnr" else means
    with np.errstate(invalid="ignore"):         # where there is no error in either, they are equal too
        differences = np.where(one == other, 0.0, one - other)
        return Value(*map(float, (differences[0], *np.percentile(differences[1:], (2.5, 97.5)))))


def resamples(count: int) -> np.ndarray:
    """Which of so many items each resample takes, (RESAMPLES, count): always the same ones."""
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def decibels(errors: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):          # no error at all is infinitely many dB
        return -10 * np.log10(errors)


# ---------------------------------------------------------------- files


def write(plan: Plan, entries: Sequence[Entry]) -> list[Line]:
    """All files but the curves; returns the table's lines."""
    found = lines(plan, entries)
    put(plan.out / "results.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    put(plan.out / "table.csv", as_csv(table_rows(found, columns(plan, found))))
    if len({item.group for item in plan.dataset.items}) > 1:
        put(plan.out / "groups.csv", groups_csv(plan, entries))
    put(plan.out / "table.md", table_markdown(plan, found) + differences(plan, entries))
    put(plan.out / "timings.csv", timings_csv(plan))
    for item in plan.dataset.items[: plan.pictures]:
        sheet(plan, item)
    return found


def drawable(plan: Plan) -> dict[str, Column]:
    """What a panel's axes may be, by name."""
    return {column.name: column for column in (ROWS, *plan.columns)}


def columns(plan: Plan, found: Sequence[Line]) -> list[Column]:
    """Those in which any variant has a value."""
    return [column for column in plan.columns if any(not math.isnan(line.value(column).value) for line in found)]


def groups_csv(plan: Plan, entries: Sequence[Entry]) -> str:
    """The table of each group of items by itself: kinds of edit, target classes."""
    groups = dict.fromkeys(item.group for item in plan.dataset.items)
    found = {group: lines(plan, [entry for entry in entries if entry["group"] == group]) for group in groups}
    shown = columns(plan, [line for own in found.values() for line in own])
    rows = {group: table_rows(own, shown) for group, own in found.items()}
    head = next(iter(rows.values()))[0]
    return as_csv([["group", *head], *([group, *row] for group, own in rows.items() for row in own[1:])])


def table_rows(found: Sequence[Line], shown: Sequence[Column]) -> list[list[Any]]:
    """The table's cells, its head first."""
    head = ["method", "settings", "edits", "failed", "empty masks", "rows", "backward rows",
            *(f"{column.name}{end}" for column in shown for end in ("", "_low", "_high"))]
    rows = []
    for line in found:
        values = [line.value(column) for column in shown]
        rows.append([line.variant.name, line.variant.label, line.edits, len(line.failures), line.empty,
                     *(number(n) for n in (line.rows, line.backward_rows)),
                     *(number(n) for value in values for n in (value.value, value.low, value.high))])
    return [head, *rows]


def number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def table_markdown(plan: Plan, found: Sequence[Line]) -> str:
    """The table, what its columns mean, and what it cost."""
    shown = columns(plan, found)
    rows = [["method", "settings", "edits", *(column.title for column in shown), "rows"]]
    rows += [[line.variant.name, line.variant.label, line.edits,
              *(line.value(column).text(column.digits) for column in shown), cost(line)] for line in found]
    sweeps: dict[str, float] = defaultdict(float)           # rows of each curve's points together
    for line in found:
        sweeps[line.variant.name] += line.rows
    text = [*as_markdown(rows), "",
            f"{plan.dataset.about}; {len(plan.dataset.items)} in this run, 95 % bootstrap intervals over them.", "",
            *(f"- {name}: {about}" for name, about in plan.abouts.items()), "",
            f"rows: U-Net rows evaluated for an edit, on average. {who_pays(found)} An item's whole sweep: "
            + ", ".join(f"{name} {total:.0f}" for name, total in sweeps.items()) + "."]
    text += [f"{line.variant.title}: {len(line.failures)} failed, the first with: {line.failures[0]}"
             for line in found if line.failures]
    return "\n".join(text) + "\n"


def who_pays(found: Sequence[Line]) -> str:
    """In which edit's rows those of encodings and difference maps are."""
    if all(line.variant.alone for line in found):
        return "Nothing is shared: they are all that the edit costs."
    return ("An encoding serves all smaller ratios, a difference map all thresholds, and their rows are with the edit "
            "that made them.")


def differences(plan: Plan, entries: Sequence[Entry]) -> str:
    """The second table, of a plan that is `paired`: how far the other variants' averages are from the first's."""
    if not plan.paired:
        return ""
    shown = [column for column in plan.columns if not column.of_set]
    first, *others = (entries[i :: len(plan.variants)] for i in range(len(plan.variants)))
    found = [{column: difference(measures(own, column), measures(first, column), column) for column in shown}
             for own in others]
    shown = [column for column in shown if any(not math.isnan(values[column].value) for values in found)]
    rows = [["method", "settings", "edits", *(column.title for column in shown)]]
    text = ["", f"Differences from {plan.variants[0].title}, over the items that both have, with paired 95 % bootstrap "
            "intervals: each resample takes the same items of both.", ""]
    for variant, own, values in zip(plan.variants[1:], others, found, strict=True):
        if all(math.isnan(values[column].value) for column in shown):
            continue        # it measures nothing that the first does
        both = sum("error" not in one and "error" not in other for one, other in zip(own, first, strict=True))
        rows.append([variant.name, variant.label, both,
                     *(values[column].text(column.digits, signed=True) for column in shown)])
    return "\n".join([*text, *as_markdown(rows)]) + "\n"


def cost(line: Line) -> str:
    """Its rows, and those that went back for gradients."""
    if not line.edits:
        return "-"
    return f"{line.rows:.0f}" + (f" + {line.backward_rows:.0f} back" if line.backward_rows else "")


def timings_csv(plan: Plan) -> str:
    """Seconds of an edit; of a shared encoding or map, in the edit that made it."""
    found = read_all(plan.out, "timings")
    rows: list[Sequence[Any]] = [["method", "settings", "edits", "seconds an edit", "median", "total"]]
    for variant in plan.variants:
        keys = [plan.keys[item.id, variant.title] for item in plan.dataset.items]
        seconds = [found[key]["seconds"] for key in keys if key in found]
        if seconds:
            rows.append([variant.name, variant.label, len(seconds), f"{np.mean(seconds):.3f}",
                         f"{np.median(seconds):.3f}", f"{sum(seconds):.1f}"])
    return as_csv(rows)


# ---------------------------------------------------------------- pictures to look at


def sheet(plan: Plan, item: Any) -> None:
    """An item's edits on one page, OUT/sheets/ITEM.png: the input, the answer; then a row for each curve."""
    try:
        image = to_rgb(item.image())
    except ValueError:
        return      # it failed, and the table says so
    first, captions = [image], [item.reference or "input"]
    if item.answer is not None:
        first, captions = [*first, item.answer()], [*captions, f"the true answer: {item.query}"]
    rows = [strip(first, captions if item.answer else [f"{captions[0]} -> {item.query}"])]
    for name in dict.fromkeys(variant.name for variant in plan.variants):
        row = [shown for variant in plan.variants if variant.name == name for shown in kept(plan, item, image, variant)]
        if row:
            rows.append(strip(*zip(*row, strict=True)))
    path = plan.out / "sheets" / f"{item.id}.png"
    make_folder(path.parent)
    save(stacked(rows), path)


def kept(plan: Plan, item: Any, image: Image.Image, variant: Variant) -> list[tuple[Image.Image, str]]:
    """A variant's result as it was kept, after its mask if it has one and it is the first of its curve."""
    path = picture_path(plan, item, variant)
    if not path.exists():
        return []
    pictures = [(open_picture(path), variant.title)]
    mask = path.with_suffix(".mask.png")
    if mask.exists() and variant is next(v for v in plan.variants if v.name == variant.name):
        pictures.insert(0, (overlay(image, open_mask(mask)), f"{variant.name}: mask"))
    return pictures
