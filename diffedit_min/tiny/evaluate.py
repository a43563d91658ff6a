"""Known answers: how well does a method edit scenes whose true edits are known?

    python -m diffedit_min.tiny.evaluate --methods diffedit sdedit encode_decode

Each scene gets one edit, of the container, the fruit and the surface in turn, with its caption as the reference and the
changed scene's caption as the query, or an instruction for a method that wants one. Results append to OUT/results.jsonl
as they come and a killed run goes on from there; the table is made from that file.

    changed     the pixels whose largest channel difference between input and true answer is > 0.1; a latent cell is
                changed if any of its pixels is
    mask IoU    of the method's mask and the changed cells
    accuracy    share of edits whose result is, over the changed pixels, nearest (mean squared error) to the true
                answer among the pictures of all values of the attribute, the old one included
    outside     PSNR against the input over the pixels that are not changed, from the mean squared error of all edits
    answer      PSNR against the true answer over the whole picture, likewise
    source      PSNR of the input as the method makes it anew, over the whole picture, for methods with two branches
    rows        samples that went through the U-Net, and + those that went back for gradients
    seconds     of an edit, in batches of ten
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..drawing import overlay, stacked, strip
from ..loading import load
from ..methods import METHODS, Edit, invert
from ..model.stable_diffusion import StableDiffusion
from ..picture import save
from . import scenes
from .instructions import instruction
from .measures import KINDS, SPLITS, cases, measure, squared_error

RESAMPLES = 1000        # of the bootstrap
SLOW = ("null_text", "unitune")     # methods that optimise for each picture


# ---------------------------------------------------------------- the run


def run(model: StableDiffusion, method: str, split: str, count: int, out: Path, options: dict[str, Any],
        batch: int = 10) -> list[dict[str, Any]]:
    """Measure one method on the first `count` scenes, skipping what `out`/results.jsonl holds already."""
    settings = METHODS[method].settings(model, options)
    key = hashlib.sha256(f"{model_hash(model)} {method} {settings}".encode()).hexdigest()[:16]
    path = out / "results.jsonl"
    done = {entry["seed"]: entry for entry in read_results(path) if entry["key"] == key}
    todo = [case for case in cases(split, count) if case[0].seed not in done]
    with tqdm(total=count, initial=count - len(todo), desc=f"{method} {split}") as bar:
        for i in range(0, len(todo), batch):
            part = todo[i : i + batch]
            started = time.perf_counter()
            edits = edit_all(method, model, part, **options)
            seconds = (time.perf_counter() - started) / len(part)
            lines = []
            for (scene, kind, answer), edit in zip(part, edits, strict=True):
                done[scene.seed] = {"key": key, "seed": scene.seed, "method": method, "kind": kind,
                                    "query": edit.settings["query"], **measure(edit, scene, kind, answer),
                                    "rows": edit.rows, "backward_rows": edit.backward_rows,
                                    "seconds": round(seconds, 3)}
                lines.append(json.dumps(done[scene.seed]) + "\n")
            with path.open("a") as file:
                file.writelines(lines)
            bar.update(len(part))
    return [done[scene.seed] for scene, _, _ in cases(split, count)]


def edit_all(
    method: str, model: StableDiffusion, part: list[tuple[scenes.Scene, str, scenes.Scene]], **options: Any
) -> list[Edit]:
    """Cases of `cases`, edited as one batch, each with its scene's seed."""
    queries = [instruction(kind, scene, answer) if METHODS[method].needs_instruction else answer.caption
               for scene, kind, answer in part]
    return METHODS[method](
        model, [scene.render() for scene, _, _ in part], queries, [scene.caption for scene, _, _ in part],
        seed=[scene.seed for scene, _, _ in part], **options,
    )


def model_of(method: str) -> str:
    """The embedded model that a method is for."""
    return "tiny-instruct" if METHODS[method].needs_instruction else "tiny"


def read_results(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a results file; a last line that a killed run left unfinished is cut off."""
    if not path.exists():
        return []
    text = path.read_text()
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text)
    return [json.loads(line) for line in text.splitlines()]


def model_hash(model: StableDiffusion) -> str:
    """Of all weights: results of another model are other results."""
    digest = hashlib.sha256()
    for network in (model.unet, model.vae, *(text.encoder for text in model.texts)):
        for tensor in network.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- the table


def summary(entries: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Each measure's value over the edits with its 95 % bootstrap interval: (value, low, high)."""
    rng = np.random.default_rng(0)
    picks = rng.integers(len(entries), size=(RESAMPLES, len(entries)))
    result = {}
    for name in ("iou", "recall", "correct", "outside", "answer", "source"):
        if name not in entries[0]:
            continue
        values = np.array([entry[name] for entry in entries], float)
        point, resampled = values.mean(), values[picks].mean(axis=1)
        if name in ("outside", "answer", "source"):     # mean squared errors -> PSNR
            point, resampled = -10 * np.log10(point), -10 * np.log10(resampled)
        result[name] = (float(point), *map(float, np.percentile(resampled, (2.5, 97.5))))
    return result


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row for each method; the three columns after accuracy are of each kind of edit alone."""
    lines = [f"| method | edits | mask IoU | accuracy | {' | '.join(KINDS)} | outside, dB | to the answer, dB | "
             "source, dB | rows | seconds |", "|---" * (9 + len(KINDS)) + "|"]
    for method, entries in results.items():
        s = summary(entries)
        rows, back, seconds = (np.mean([entry[name] for entry in entries])
                               for name in ("rows", "backward_rows", "seconds"))
        by_kind = [[entry["correct"] for entry in entries if entry["kind"] == kind] for kind in KINDS]
        columns = [str(len(entries)), interval(s.get("iou"), 2), interval(s["correct"], 2),
                   *(f"{np.mean(right):.2f}" if right else "-" for right in by_kind), interval(s["outside"], 1),
                   interval(s["answer"], 1), interval(s.get("source"), 1),
                   f"{rows:.0f}" + (f" + {back:.0f}" if back else ""), f"{seconds:.1f}"]
        lines.append(f"| {method} | {' | '.join(columns)} |")
    return "\n".join(lines)


def interval(value: tuple[float, float, float] | None, digits: int) -> str:
    if value is None:
        return "-"
    point, low, high = (f"{v:.{digits}f}" for v in value)
    return f"{point} ({low}–{high})"


def reconstruction_table(model: StableDiffusion, split: str, count: int) -> str:
    """What is lost without any query: PSNR, and |decode(encode(x0)) - x0| / |x0| of latents, by text and ratio."""
    drawn = [scenes.sample(SPLITS[split][i]) for i in range(count)]
    lines = ["| text | encoding ratio | PSNR, dB | latent error, % | of the median scene | of the worst |",
             "|---|---|---|---|---|---|"]
    for text, ratio in (("none", 0.0), ("caption", 0.6), ("caption", 0.8), ("none", 0.6), ("none", 0.8)):
        parts = (drawn[i : i + 10] for i in range(0, count, 10))
        edits = [edit for part in parts for edit in invert(
            model, [scene.render() for scene in part],
            reference=[scene.caption if text == "caption" else "" for scene in part], encoding_ratio=ratio,
        )]
        everywhere = np.ones((edits[0].input.height, edits[0].input.width), bool)
        error = np.mean([squared_error(edit.image, edit.input, everywhere) for edit in edits])
        lost, each = latent_error(edits)
        lines.append(f"| {text} | {ratio or '0 (the VAE alone)'} | {-10 * np.log10(error):.1f} | {100 * lost:.1f} | "
                     f"{100 * np.median(each):.1f} | {100 * max(each):.1f} |")
    return "\n".join(lines)


def latent_error(edits: list[Edit]) -> tuple[float, list[float]]:
    """How far round trips end from where they began, relative to the latents' norm: over all edits, and of each."""
    before, after = (torch.cat([state.latent for state in states]).flatten(1) for states in
                     zip(*((edit.encoded[0], edit.decoded[0]) for edit in edits), strict=True))    # (B, C h w) each
    lost = after - before
    return (lost.norm() / before.norm()).item(), (lost.norm(dim=1) / before.norm(dim=1)).tolist()


# ---------------------------------------------------------------- failures


def worst(entries: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Edits that missed the asked value first, then by the mask's IoU from below."""
    return sorted(entries, key=lambda entry: (entry["correct"], entry.get("iou", 0.0)))[:count]


def draw(model: StableDiffusion, method: str, entries: list[dict[str, Any]], path: Path) -> None:
    """Edit these scenes again and write them as rows: input, mask, edit, true answer."""
    queries = {entry["seed"]: entry["query"] for entry in entries}
    rows = []
    for scene, _, answer in cases_of(set(queries)):
        query = queries[scene.seed]
        edit = METHODS[method](model, scene.render(), query, scene.caption, seed=scene.seed)
        mask = [] if edit.mask is None else [overlay(edit.input, edit.mask_image)]
        captions = [scene.caption, *(["mask"] if mask else []), query, "true answer"]
        rows.append(strip([edit.input, *mask, edit.image, answer.render()], captions, scale=2))
    save(stacked(rows), path)


def draw_gallery(methods: list[str], split: str, path: Path) -> None:
    """The split's first three scenes, a row each: input, every method's edit, true answer."""
    rows = []
    for scene, kind, answer in cases(split, len(KINDS)):
        edits = {method: edit_all(method, load(model_of(method)), [(scene, kind, answer)])[0] for method in methods}
        pictures = [scene.render(), *(edit.image for edit in edits.values()), answer.render()]
        rows.append(strip(pictures, [scene.caption, *edits, answer.caption], scale=2))
    save(stacked(rows), path)


def cases_of(seeds: set[int]) -> list[tuple[scenes.Scene, str, scenes.Scene]]:
    """The cases of `cases` with these seeds, which are of one split."""
    split = next(name for name, span in SPLITS.items() if min(seeds) in span)
    last = max(seeds) - SPLITS[split].start
    return [case for case in cases(split, last + 1) if case[0].seed in seeds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="left out: for each method the embedded one that it is for")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--slow-scenes", type=int, default=30, help=f"for {' and '.join(SLOW)}")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("runs/known"))
    parser.add_argument("--reconstructions", type=int, default=60, help="scenes for the table without a query; 0: none")
    parser.add_argument("--failures", type=Path, help="a picture to write: the first method's six worst edits")
    parser.add_argument("--gallery", type=Path, help="a picture to write: three scenes, edited by every method")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for method in arguments.methods:
        model, count = load(arguments.model or model_of(method)), arguments.scenes
        results[method] = run(model, method, arguments.split, min(count, arguments.slow_scenes) if method in SLOW else
                              count, arguments.out, {})
    print(table(results), end="\n\n")
    if arguments.reconstructions:
        print(reconstruction_table(load(arguments.model or "tiny"), arguments.split, arguments.reconstructions))
    if arguments.gallery:
        draw_gallery(arguments.methods, arguments.split, arguments.gallery)
    if arguments.failures:
        method = arguments.methods[0]
        draw(load(arguments.model or model_of(method)), method, worst(results[method], 6), arguments.failures)


if __name__ == "__main__":
    main()
