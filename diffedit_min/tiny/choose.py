"""Choose, on validation scenes, what the paper leaves open: `python -m diffedit_min.tiny.choose --out runs/choose`.

Tables in Markdown. The first tries every rule that makes a mask from noise differences (the differences are computed
once for each noise ratio; the rules are arithmetic on them). The others try encoding ratios and guidance scales, for
DiffEdit with the first one's best rule, or any options of other methods (`--methods sdedit --grid
encoding_ratio=0.5,0.6 guidance_scale=3`). What comes out best is written by hand into checkpoint/diffedit.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..guidance import Rows
from ..loading import load
from ..mask import binarise, difference_map, remove_extremes, rescale
from ..methods import METHODS
from ..methods.base import make_task
from ..methods.diffedit import DiffEditOptions, find_map
from ..model.stable_diffusion import StableDiffusion
from ..picture import fit
from . import scenes
from .evaluate import interval, model_of, run, summary
from .measures import KINDS, cases, cell_mask, iou

NOISE_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CLIPS = (("none", 0.0), ("mean", 2.0), ("mean", 3.0), *(("quantile", q) for q in (0.75, 0.8, 0.85, 0.9, 0.95)))
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
USUAL = ("l1", "maps", "mean", 3.0, "max", 0.5)      # map > 1.5 x its mean
BATCH = 10

Rule = tuple[str, str, str, float, str, float]      # norm, average, clip, clip at, rescale, threshold


@torch.no_grad()
def raw_maps(model: StableDiffusion, count: int, noise_ratio: float) -> dict[tuple[str, str], torch.Tensor]:
    """The raw difference maps (count, h, w) of the first validation scenes, for each norm and average."""
    options = DiffEditOptions(mask_noise_ratio=noise_ratio)
    maps = defaultdict(list)
    todo = list(cases("validation", count))
    for i in tqdm(range(0, count, BATCH), f"noise ratio {noise_ratio}"):
        inputs, _, answers = zip(*todo[i : i + BATCH], strict=True)
        fitted = [fit(scene.render(), model.multiple, model.native_area) for scene in inputs]
        task = make_task(model, fitted, [scene.caption for scene in answers], [scene.caption for scene in inputs],
                         tuple(scene.seed for scene in inputs), options, "trace")
        _, trace = find_map(replace(task, rows=Rows()), options)
        for norm, average in itertools.product(("l1", "l2"), ("maps", "differences")):
            maps[norm, average].append(difference_map(trace["eps_query"], trace["eps_reference"], norm, average))
    return {key: torch.cat(parts) for key, parts in maps.items()}


def mask_scores(model: StableDiffusion, count: int) -> dict[tuple[float, Rule], dict[str, float]]:
    """Mean IoU with the changed cells by kind of edit, for every noise ratio and rule."""
    truth = [(kind, cell_mask(scenes.changed(scene, answer), model.factor))
             for scene, kind, answer in cases("validation", count)]
    scores = {}
    for ratio in NOISE_RATIOS:
        for (norm, average), raw in raw_maps(model, count, ratio).items():
            for (clip, at), how in itertools.product(CLIPS, ("minmax", "max")):
                mask_map = rescale(remove_extremes(raw, clip, at), how)
                for threshold in THRESHOLDS:
                    masks = binarise(mask_map, threshold)[:, 0].numpy()
                    by_kind = defaultdict(list)
                    for mask, (kind, changed) in zip(masks, truth, strict=True):
                        by_kind[kind].append(iou(mask, changed))
                    rule = (norm, average, clip, at, how, threshold)
                    scores[ratio, rule] = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
    return scores


def mask_table(scores: dict[tuple[float, Rule], dict[str, float]], shown: int = 12) -> str:
    """The usual rule at each noise ratio, the best rule at each, and the best of all, by the mean over kinds."""
    ranked = sorted(scores, key=lambda key: -np.mean(list(scores[key].values())))
    rows = [(ratio, USUAL) for ratio in NOISE_RATIOS]
    rows += [next(key for key in ranked if key[0] == ratio) for ratio in NOISE_RATIOS]
    rows += ranked[:shown]
    lines = [f"| noise | norm | average | clip | rescale | threshold | mean IoU | {' | '.join(KINDS)} |",
             "|---|---|---|---|---|---|---|" + "---|" * len(KINDS)]
    for ratio, rule in rows:
        norm, average, clip, at, how, threshold = rule
        by_kind = [scores[ratio, rule][kind] for kind in KINDS]
        lines.append(f"| {ratio} | {norm} | {average} | {clip} {at} | {how} | {threshold} | {np.mean(by_kind):.3f} | "
                     f"{' | '.join(f'{value:.2f}' for value in by_kind)} |")
    return "\n".join(lines)


def edit_table(
    method: str, count: int, out: Path, rule: dict[str, Any], grid: dict[str, list[Any]]
) -> Iterator[str]:
    """Accuracy and PSNRs for every point of a grid of options, a line each."""
    yield f"| method | {' | '.join(grid)} | accuracy | outside, dB | to the answer, dB |"
    yield "|---" * (4 + len(grid)) + "|"
    model = load(model_of(method))
    for point in itertools.product(*grid.values()):
        s = summary(run(model, method, "validation", count, out, {**rule, **dict(zip(grid, point, strict=True))}))
        yield (f"| {method} | {' | '.join(map(str, point))} | {interval(s['correct'], 2)} | "
               f"{interval(s['outside'], 1)} | {interval(s['answer'], 1)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mask-scenes", type=int, default=90, help="0: no first table, and the card's rule")
    parser.add_argument("--edit-scenes", type=int, default=30)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["diffedit"])
    parser.add_argument("--grid", nargs="+", metavar="OPTION=VALUE,VALUE,...",
                        default=["encoding_ratio=0.6,0.7,0.8,0.9", "guidance_scale=3.0,5.0,7.5"])
    parser.add_argument("--out", type=Path, default=Path("runs/choose"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rule: dict[str, Any] = {}
    if arguments.mask_scenes:
        scores = mask_scores(load(), arguments.mask_scenes)
        print(mask_table(scores), flush=True)
        ratio, best = max(scores, key=lambda key: np.mean(list(scores[key].values())))
        names = ("mask_norm", "mask_average", "mask_clip", "mask_clip_at", "mask_rescale", "mask_threshold")
        rule = {**dict(zip(names, best, strict=True)), "mask_noise_ratio": ratio}
        print(json.dumps(rule), flush=True)
    grid = {name: [parse(value) for value in values.split(",")]
            for name, _, values in (entry.partition("=") for entry in arguments.grid)}
    for method in arguments.methods:
        used = rule if method == "diffedit" else {}
        for line in edit_table(method, arguments.edit_scenes, arguments.out, used, grid):
            print(line, flush=True)


def parse(value: str) -> Any:
    """A number or true or false as it is typed, else the text."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


if __name__ == "__main__":
    main()
