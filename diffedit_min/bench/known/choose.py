"""Choose, on validation scenes, how a mask is made of noise differences: what the paper leaves open.

    python -m diffedit_min.bench.known.choose

Tries every rule (the differences are computed once for each noise ratio; the rules are arithmetic on them) and prints a
table in Markdown. Encoding ratios, guidance scales and other methods' options are tried by the benchmark instead:

    diffedit-min bench --dataset scenes --split validation --limit 30 --methods sdedit -o guidance_scale=2,3,5

What comes out best is written by hand into checkpoint/diffedit.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ...core.mask import RESCALES, binarise, ceilings, difference_map, remove_extremes, rescale
from ...loading import load
from ...methods import METHODS
from ...networks.stable_diffusion import StableDiffusion
from ...tiny import scenes
from ..measures import KINDS, cases, cell_mask, iou
from ..tables import as_markdown

NOISE_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CLIPS = (("none", 0.0), ("mean", 2.0), ("mean", 3.0), *(("quantile", q) for q in (0.75, 0.8, 0.85, 0.9, 0.95)))
THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
USUAL = ("l1", "maps", "mean", 3.0, "ceiling", 0.5)      # map > 1.5 x its mean
BATCH = 10

Rule = tuple[str, str, str, float, str, float]      # norm, average, clip, clip at, rescale, threshold


@torch.no_grad()
def raw_maps(model: StableDiffusion, count: int, noise_ratio: float) -> dict[tuple[str, str], torch.Tensor]:
    """The raw difference maps (count, h, w) of the first validation scenes, for each norm and average."""
    maps = defaultdict(list)
    todo = list(cases("validation", count))
    for i in tqdm(range(0, count, BATCH), f"noise ratio {noise_ratio}"):
        inputs, _, answers = zip(*todo[i : i + BATCH], strict=True)
        edits = METHODS["diffedit"](        # at ratio 0: step 1 only
            model, [scene.render() for scene in inputs], [scene.caption for scene in answers],
            [scene.caption for scene in inputs], seed=[scene.seed for scene in inputs], keep="trace",
            encoding_ratio=0.0, mask_noise_ratio=noise_ratio)
        trace = {name: torch.stack([edit.trace[name] for edit in edits], dim=1)
                 for name in ("eps_query", "eps_reference")}
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
            for (clip, at), how in itertools.product(CLIPS, RESCALES):
                mask_map = rescale(remove_extremes(raw, clip, at), how, ceiling=ceilings(raw, clip, at))
                for threshold in THRESHOLDS:
                    masks = binarise(mask_map, threshold)[:, 0].numpy()
                    by_kind = defaultdict(list)
                    for mask, (kind, changed) in zip(masks, truth, strict=True):
                        by_kind[kind].append(iou(mask, changed))
                    rule = (norm, average, clip, at, how, threshold)
                    scores[ratio, rule] = {kind: float(np.mean(values)) for kind, values in by_kind.items()}
    return scores


def mask_table(scores: dict[tuple[float, Rule], dict[str, float]]) -> list[list[Any]]:
    """The cells, the head first: the usual rule at each noise ratio, the best rule at each, and the best of all, by
    the mean over kinds."""
    ranked = sorted(scores, key=lambda key: -np.mean(list(scores[key].values())))
    chosen = [(ratio, USUAL) for ratio in NOISE_RATIOS]
    chosen += [next(key for key in ranked if key[0] == ratio) for ratio in NOISE_RATIOS]
    rows: list[list[Any]] = [["noise", "norm", "average", "clip", "rescale", "threshold", "mean IoU", *KINDS]]
    for ratio, rule in [*chosen, *ranked[:12]]:
        norm, average, clip, at, how, threshold = rule
        by_kind = [scores[ratio, rule][kind] for kind in KINDS]
        rows.append([ratio, norm, average, f"{clip} {at}", how, threshold, f"{np.mean(by_kind):.3f}",
                     *(f"{value:.2f}" for value in by_kind)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=90)
    arguments = parser.parse_args()
    scores = mask_scores(load(), arguments.scenes)
    print("\n".join(as_markdown(mask_table(scores))), flush=True)
    ratio, best = max(scores, key=lambda key: np.mean(list(scores[key].values())))
    names = ("mask_norm", "mask_average", "mask_clip", "mask_clip_at", "mask_rescale", "mask_threshold")
    print(json.dumps({**dict(zip(names, best, strict=True)), "mask_noise_ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()
