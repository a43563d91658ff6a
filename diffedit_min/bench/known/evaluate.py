"""Known answers: how well does each method, as its model recommends it, edit scenes whose true edits are known?

    python -m diffedit_min.bench.known.evaluate --methods diffedit sdedit encode_decode

It prints the table in bench/README.md, and draws pictures of the best and the worst. It is a run of the benchmark
(`diffedit-min bench --dataset scenes`, whose metrics these are), and goes on where it was stopped. To choose settings,
or to sweep them, use that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...loading import load
from ...loading.held import Models
from ...methods import METHODS, Edit
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.drawing import overlay, stacked, strip
from ...pictures.picture_files import save
from ...tiny import scenes
from ..datasets.item import Item, Location
from ..datasets.scenes import read
from ..measures import KINDS, SPLITS, squared_error
from ..metrics.base import Files
from ..metrics.pictures import ScenesMetric
from ..report import cost, lines, results
from ..run import Entry, Plan, begin, work
from ..store import read_all
from ..tables import as_markdown
from ..variants import Variant, sweep

SLOW = ("null_text", "unitune")     # methods that optimise for each picture
SHOWN = ("iou", "correct", "outside", "answer", "source")
HEAD = ["method", "edits", "mask IoU", "accuracy", *KINDS, "outside, dB", "to the answer, dB", "source, dB", "rows",
        "seconds"]


def plan(methods: Sequence[str], split: str, count: int, out: Path, model: str | None = None) -> Plan:
    """A run of the methods at their model's recommendations; of the embedded model that each is for, or of `model`."""
    dataset, models = read(Location(split=split)), Models()
    return Plan(replace(dataset, items=dataset.items[:count]), tuple(Variant(METHODS[name]) for name in methods),
                lambda variant: models.get(model or variant.method.embedded_model), {"scenes": ScenesMetric(Files())},
                out, pictures=0)


def run(planned: Plan, quiet: bool = False) -> list[Entry]:
    """Every result of a run, in the items' order, what is there already taken from there."""
    begin(planned)
    work(planned, quiet=quiet)
    return results(planned)


# ---------------------------------------------------------------- tables


def rows(planned: Plan, entries: Sequence[Entry]) -> list[list[Any]]:
    """The cells below HEAD, a row for each method; those after accuracy are of each kind of edit alone."""
    timings, columns, found = read_all(planned.out, "timings"), {column.name: column for column in planned.columns}, []
    for line in lines(planned, entries):
        own = [entry for entry in entries if entry["method"] == line.variant.name]
        by_kind = [[entry["correct"] for entry in own if entry["group"] == kind] for kind in KINDS]
        seconds = np.mean([timings[entry["key"]]["seconds"] for entry in own])
        cells = [line.value(columns[name]).text(columns[name].digits) for name in SHOWN]
        found.append([line.variant.method.name, line.edits, *cells[:2],
                      *(f"{np.mean(right):.2f}" if right else "-" for right in by_kind), *cells[2:], cost(line),
                      f"{seconds:.1f}"])
    return found


# Round trips to show: under which text, as far as which ratio, how.
TRIPS: tuple[tuple[str, float, str, dict[str, str]], ...] = (
    ("none", 0.0, "the VAE alone", {}),
    ("caption", 0.6, "ddim", {}),
    ("caption", 0.8, "ddim", {}),
    ("none", 0.6, "ddim", {}),
    ("none", 0.8, "ddim", {}),
    ("none", 0.8, "ddim, source times", {"sampler": "ddim:time=source"}),
    ("none", 0.8, "dpm_solver", {"sampler": "dpm_solver"}),
)


def reconstruction_table(model: StableDiffusion, split: str, count: int) -> list[list[str]]:
    """The cells, the head first: what is lost without any query, on each of `TRIPS`, as PSNR and, of latents, as
    |decode(encode(x0)) - x0| / |x0|."""
    drawn = [scenes.sample(SPLITS[split][i]) for i in range(count)]
    found = [["text", "encoding ratio", "sampler", "PSNR, dB", "latent error, %", "of the median scene",
              "of the worst"]]
    for text, ratio, how, options in TRIPS:
        parts = (drawn[i : i + 10] for i in range(0, count, 10))
        edits = [edit for part in parts for edit in METHODS["invert"](
            model, [scene.render() for scene in part],
            reference=[scene.caption if text == "caption" else "" for scene in part], encoding_ratio=ratio, **options,
        )]
        error = np.mean([squared_error(edit.image, edit.input) for edit in edits])
        lost, each = latent_error(edits)
        found.append([text, f"{ratio:g}", how, f"{-10 * np.log10(error):.1f}", f"{100 * lost:.1f}",
                      f"{100 * np.median(each):.1f}", f"{100 * max(each):.1f}"])
    return found


def latent_error(edits: list[Edit]) -> tuple[float, list[float]]:
    """How far round trips end from where they began, relative to the latents' norm: over all edits, and of each."""
    before, after = (torch.cat([state.latent for state in states]).flatten(1) for states in
                     zip(*((edit.encoded[0], edit.decoded[0]) for edit in edits), strict=True))    # (B, C h w) each
    lost = after - before
    return (lost.norm() / before.norm()).item(), (lost.norm(dim=1) / before.norm(dim=1)).tolist()


# ---------------------------------------------------------------- pictures


def worst(planned: Plan, entries: Sequence[Entry], count: int) -> list[Item]:
    """Edits that missed the asked value first, then by the mask's IoU from below."""
    items = {item.id: item for item in planned.dataset.items}
    ranked = sorted(entries, key=lambda entry: (entry["correct"], entry.get("iou", 0.0)))
    return [items[entry["item"]] for entry in ranked[:count]]


def draw(planned: Plan, items: Sequence[Item], path: Path, masks: bool) -> None:
    """A row for each item: input, each variant's mask (if `masks`) and edit, true answer."""
    drawn = []
    for item in items:
        pictures, captions = [item.image()], [item.reference]
        for variant in planned.variants:
            (_, (edit,), _), = sweep(planned.model_of(variant), [item], pictures[:1], [variant])
            if masks and edit.mask is not None:
                pictures, captions = [*pictures, overlay(edit.input, edit.mask_image)], [*captions, "mask"]
            pictures.append(edit.image)
            captions.append(item.query if len(planned.variants) == 1 else variant.method.name.replace("_", " "))
        answer = "true answer" if masks else f"true answer: {item.query}"
        drawn.append(strip([*pictures, item.answer()], [*captions, answer], scale=2))
    save(stacked(drawn), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="left out: for each method the embedded one that it is for")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--slow-scenes", type=int, default=30, help=f"for {' and '.join(SLOW)}")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS),
                        default=[name for name, method in METHODS.items() if method.takes_query])
    parser.add_argument("--out", type=Path, default=Path("runs/known"))
    parser.add_argument("--reconstructions", type=int, default=60, help="scenes for the table without a query; 0: none")
    parser.add_argument("--failures", type=Path, help="a picture to write: the first method's six worst edits")
    parser.add_argument("--gallery", type=Path, help="a picture to write: three scenes, edited by every method")
    arguments = parser.parse_args()
    answers: list[list[Any]] = [HEAD]
    for method in arguments.methods:
        count = min(arguments.scenes, arguments.slow_scenes) if method in SLOW else arguments.scenes
        planned = plan([method], arguments.split, count, arguments.out, arguments.model)
        entries = run(planned)
        answers += rows(planned, entries)
        if arguments.failures and method == arguments.methods[0]:
            draw(planned, worst(planned, entries, 6), arguments.failures, masks=True)
    print("\n".join(as_markdown(answers)), end="\n\n")
    if arguments.reconstructions:
        lost = reconstruction_table(load(arguments.model or "tiny"), arguments.split, arguments.reconstructions)
        print("\n".join(as_markdown(lost)))
    if arguments.gallery:
        shown_by_all = plan(arguments.methods, arguments.split, len(KINDS), arguments.out, arguments.model)
        draw(shown_by_all, shown_by_all.dataset.items, arguments.gallery, masks=False)


if __name__ == "__main__":
    main()
