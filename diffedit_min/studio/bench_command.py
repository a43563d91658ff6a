"""`diffedit-min bench`, and under torchrun, which gives each process its rank, `python -m diffedit_min bench`.

torch is imported inside the functions only, so that --help answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from .console import check_known
from .options import MODEL_HELP, Quiet, Size

if TYPE_CHECKING:
    from ..bench.datasets.item import Dataset
    from ..bench.metrics.base import Files, Metric
    from ..bench.presets import Preset
    from ..bench.run import Plan
    from ..bench.variants import Variant

RATIOS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
METHODS = ("diffedit", "sdedit", "encode-decode")


def bench(
    dataset: Annotated[str, Option(help="scenes (embedded), imagenet, coco, imagen, pie, or pairs: your own.")],
    data: Annotated[Path | None, Option(help="The dataset's list of edits: a file.")] = None,
    images: Annotated[Path | None, Option(help="The folder with its pictures.")] = None,
    split: Annotated[str | None, Option(help="A part of it, by its name.")] = None,
    limit: Annotated[int | None, Option(min=1, help="Only its first LIMIT items.")] = None,
    methods: Annotated[list[str] | None, Option(help=f"The methods. Left out: {' '.join(METHODS)}.")] = None,
    ratios: Annotated[list[float] | None, Option(help="Encoding ratios, for the methods that have one. Left out: "
                                                 f"{' '.join(map(str, RATIOS))}.")] = None,
    option: Annotated[list[str] | None, Option("-o", "--option", metavar="[METHOD:]NAME=VALUE[,VALUE...]",
                      help="An option of a method, or of all that have it; several values are tried in turn.")] = None,
    preset: Annotated[str | None, Option(help="In place of --methods: comparison, which runs if nothing is said; "
                                         "parts, threshold, reference, noise, samples, guidance: the paper's "
                                         "ablations; fast: what fewer U-Net rows cost; theory: Proposition 1 and "
                                         "Figure 3, measured; or dtype: what rounding changes.")] = None,
    model: Annotated[str | None, Option(help=f"{MODEL_HELP} Left out, with scenes: the embedded ones.")] = None,
    out: Annotated[Path | None, Option(help="The folder to write to; a run that was stopped there goes on. "
                                       "Left out: runs/DATASET.")] = None,
    metrics: Annotated[list[str] | None, Option(help="What is measured. Left out: the dataset's own metrics.")] = None,
    weights: Annotated[Path | None, Option("--metric-weights", help="The folder with the files of AlexNet (LPIPS) and "
                                           "Inception (FID). Left out: torch's cache.")] = None,
    clip: Annotated[str, Option(help="CLIPScore's model: a folder, or a Hub id in the cache.")] =
        "openai/clip-vit-large-patch14",
    dino: Annotated[str, Option(help="The model of PIE-Bench's structure distance, likewise.")] = "facebook/dino-vitb8",
    class_means: Annotated[Path | None, Option(help="What CSFID compares with: bench/metrics/class_means.py.")] = None,
    batch: Annotated[int, Option(min=1, max=1000, help="How many pictures are edited at once.")] = 10,
    pictures: Annotated[int, Option(min=0, help="Of how many pictures the results are kept and shown as sheets.")] = 6,
    retry_failed: Annotated[bool, Option("--retry-failed", help="Try again what failed before.")] = False,
    size: Size = None, quiet: Quiet = False, **how_loaded: Any,
) -> None:
    """Measure methods on a dataset: a table and trade-off curves. A run can be stopped, and taken up again."""
    import torch

    from ..bench.datasets import DATASETS
    from ..bench.datasets.item import Location
    from ..bench.metrics.base import Files
    from ..bench.run import Plan
    from ..bench.store import alone
    from ..loading.held import Models

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if find_spec("matplotlib") is None or find_spec("torchmetrics") is None:
        raise ValueError("bench needs matplotlib and torchmetrics: pip install 'diffedit-min[bench]'")
    check_known([dataset], DATASETS, "--dataset")
    read = DATASETS[dataset]
    out = out or Path("runs") / dataset
    if model is None and dataset != "scenes":
        raise ValueError(f"--model is missing: the embedded model knows its own scenes only, not {dataset}")
    if how_loaded["device"] == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        how_loaded["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
    models = Models(**how_loaded)
    if preset and (methods or option):
        raise ValueError(f"--preset {preset!r} brings its own methods and options: leave out --methods and -o")
    if preset in ("theory", "dtype"):
        from ..bench import dtypes, theory

        if world > 1:
            raise ValueError(f"--preset {preset} is for one process: start it without torchrun")
        found, name = read(Location(data, images, split)), model or "tiny"
        found = replace(found, items=found.items[: limit or 30])
        with alone(out, preset):
            told = (theory.main(models.get(name), found, out, quiet) if preset == "theory" else
                    dtypes.main({each: models.in_dtype(each).get(name) for each in dtypes.DTYPES}, found, out, quiet))
        print("\n".join(told))
        return
    wanted = chosen(methods, option, preset)
    variants = wanted.variants(ratios or RATIOS)
    found = read(Location(data, images, split))
    found = replace(found, items=found.items[:limit], panels=wanted.panels or found.panels)
    check(variants, found)
    measured, left_out = usable(metrics or found.metrics, Files(weights, clip, dino, class_means), bool(metrics))
    for line in left_out if rank == 0 else ():
        print(line, flush=True)
    plan = Plan(found, tuple(variants), lambda variant: models.get(model or variant.method.embedded_model),
                measured, out, batch, size, pictures, wanted.paired)
    with alone(out, "results", rank):
        run(plan, rank, world, retry_failed, quiet)


def chosen(methods: list[str] | None, option: list[str] | None, preset: str | None) -> Preset:
    """What --preset names, or the grid that the other options make."""
    from ..bench.presets import PRESETS, Preset
    from ..bench.variants import grid

    if preset is None:
        return Preset(lambda ratios: grid(methods or METHODS, ratios, option or ()))
    check_known([preset], PRESETS, "--preset")
    return PRESETS[preset]


def check(variants: Sequence[Variant], dataset: Dataset) -> None:
    """Refuse, before any work, a method that the dataset has no words for."""
    for method in {variant.method.name: variant.method for variant in variants}.values():
        if method.needs_instruction and not any(item.instruction for item in dataset.items):
            raise ValueError(f"{method.dashed} needs instructions, and {dataset.name} has none")
        if method.needs_reference and not any(item.reference for item in dataset.items):
            raise ValueError(f"{method.dashed} needs references, and {dataset.name} has none")


def usable(names: Sequence[str], files: Files, asked: bool) -> tuple[dict[str, Metric], list[str]]:
    """The metrics that can be computed here, and a line for each that can't: which and why."""
    from ..bench.metrics import FAMILIES

    check_known(names, FAMILIES, "--metrics")
    found = {name: FAMILIES[name](files) for name in names}
    reasons = {name: metric.why_not() for name, metric in found.items()}
    for name, reason in reasons.items():
        if reason and asked:
            raise ValueError(f"{name}: {reason}")
    measured = {name: metric for name, metric in found.items() if not reasons[name]}
    if not measured:
        raise ValueError(f"no metric can be computed here: {'; '.join(f'{n}: {r}' for n, r in reasons.items())}")
    columns = [column.name for metric in measured.values() for column in metric.columns]
    for name in columns:
        if columns.count(name) > 1:
            raise ValueError(f"--metrics: two of {' '.join(measured)} have a column {name!r}: choose one of them")
    return measured, [f"left out: {name}: {reason}" for name, reason in reasons.items() if reason]


def run(plan: Plan, rank: int, world: int, retry_failed: bool, quiet: bool) -> None:
    """This process's share; then, if no other has anything left to do, the table and the curves."""
    from ..bench import curves, report
    from ..bench.run import begin, work

    begin(plan)
    try:
        work(plan, rank, world, retry_failed, quiet or rank > 0)
    except KeyboardInterrupt:
        print(f"stopped: what is done is in {plan.out}, and the same command goes on from there", file=sys.stderr)
        raise
    entries = report.results(plan)
    if entries is None:
        return      # the process that is last will do it
    found = report.write(plan, entries)
    drawn = curves.draw(found, report.drawable(plan), plan.dataset.panels, plan.out)
    failed = sum("error" in entry for entry in entries)
    print((plan.out / "table.md").read_text(encoding="utf-8"))
    tables = [path for name in report.FILES if (path := plan.out / name).exists()]
    print(f"wrote {', '.join(map(str, [*tables, *drawn]))}")
    for folder, pattern, what in (("sheets", "*.png", "sheets"), ("pictures", "*/*.png", "results and masks")):
        if count := len(list((plan.out / folder).glob(pattern))):
            print(f"wrote {plan.out / folder} ({count} {what})")
    print(f"{len(entries) - failed} edits measured, {failed} failed"
          + (": --retry-failed tries them again" if failed else ""))
    if failed == len(entries):
        raise ValueError(f"no edit succeeded; the first failed with: {entries[0]['error']}")
