"""The usual layout of a checkpoint's folder: which files it holds, out of those that are there.

Everything here works on a listing, the files' paths from the folder: of a folder here or of a repository on the Hub.
"""

import re
from collections.abc import Collection
from pathlib import Path

INDEX, CARD = "model_index.json", "diffedit.json"
SCHEDULER = "scheduler/scheduler_config.json"
NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
            "text_encoder_2": "model"}         # and what their weights are called


def files_in(path: Path) -> set[str]:
    """The files of a folder and its folders, as paths from there."""
    return {file.relative_to(path).as_posix() for file in (*path.glob("*"), *path.glob("*/*")) if file.is_file()}


def parts_of(listing: Collection[str]) -> list[str]:
    """The networks that a checkpoint with these files has."""
    two = "text_encoder_2/config.json" in listing or "tokenizer_2/vocab.json" in listing
    return [part for part in NETWORKS if part != "text_encoder_2" or two]


def small_files(listing: Collection[str]) -> list[str]:
    """What a checkpoint must hold besides the weights."""
    tokenizers = [part.replace("text_encoder", "tokenizer") for part in parts_of(listing) if "text" in part]
    return [INDEX, *(f"{part}/config.json" for part in parts_of(listing)), SCHEDULER,
            *(f"{folder}/{file}" for folder in tokenizers for file in ("vocab.json", "merges.txt"))]


def weight_files(listing: Collection[str], half: bool) -> tuple[dict[str, list[str]], list[str]]:
    """Each network's files out of those there are, and what is missing.

    safetensors before .bin; the wanted precision before the other; shards (-00001-of-00002) only if all are there.
    """
    chosen, missing = {}, []
    for part in parts_of(listing):
        stems = {"safetensors": NETWORKS[part], "bin": NETWORKS[part].replace("model", "pytorch_model")
                 if "text" in part else NETWORKS[part]}
        candidates = [(f"{part}/{stems[kind]}{variant}", kind) for kind in ("safetensors", "bin")
                      for variant in ((".fp16", "") if half else ("", ".fp16"))]
        found = next(filter(None, (shards(listing, stem, kind) for stem, kind in candidates)), None)
        if found is None:
            missing.append(f"{part}/{NETWORKS[part]}.safetensors")
        else:
            chosen[part] = found
    return chosen, missing


def shards(listing: Collection[str], stem: str, kind: str) -> list[str] | None:
    """stem.kind, or all of stem-00001-of-0000N.kind; None if they aren't there."""
    if f"{stem}.{kind}" in listing:
        return [f"{stem}.{kind}"]
    pattern = re.compile(rf"{re.escape(stem)}-\d{{5}}-of-(\d{{5}})\.{kind}")
    parts = sorted(file for file in listing if pattern.fullmatch(file))
    return parts if parts and len(parts) == int(pattern.fullmatch(parts[0])[1]) else None


def missing_files(listing: Collection[str], half: bool, weights: bool) -> list[str]:
    """What a checkpoint would lack, with these files; `weights`: not only configs and tokenizers count."""
    missing = [file for file in small_files(listing) if file not in listing]
    return missing + (weight_files(listing, half)[1] if weights else [])
