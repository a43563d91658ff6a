"""The usual layout of a checkpoint folder: which files a checkpoint needs, and which of them are there.

The functions work on a listing: the relative paths of all files of a local folder or of a repository on the Hub.
"""

import re
from collections.abc import Collection, Iterable
from pathlib import Path

INDEX, CARD = "model_index.json", "diffedit.json"
SCHEDULER = "scheduler/scheduler_config.json"
NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
            "text_encoder_2": "model"}         # each network's folder -> the name of its weights


def files_in(path: Path) -> set[str]:
    """The files of a folder and of its subfolders, as paths relative to it."""
    return {file.relative_to(path).as_posix() for file in (*path.glob("*"), *path.glob("*/*")) if file.is_file()}


def parts_of(listing: Collection[str]) -> list[str]:
    """The names of the networks of a checkpoint with these files."""
    two = any(f"{folder}/{file}" in listing for folder, file in (
        ("text_encoder_2", "config.json"), ("tokenizer_2", "vocab.json"), ("tokenizer_2", "tokenizer.json")))
    return [part for part in NETWORKS if part != "text_encoder_2" or two]


def tokenizers_of(parts: Iterable[str]) -> list[str]:
    """The tokenizers' folders, one for each text encoder among the networks `parts`."""
    return [part.replace("text_encoder", "tokenizer") for part in parts if "text" in part]


def small_files(listing: Collection[str]) -> list[str]:
    """The files that a checkpoint must hold besides the weights."""
    parts = parts_of(listing)
    return [INDEX, *(f"{part}/config.json" for part in parts), SCHEDULER,
            *(f"{folder}/{file}" for folder in tokenizers_of(parts) for file in tokenizer_files(listing, folder))]


def tokenizer_files(listing: Collection[str], folder: str) -> tuple[str, ...]:
    """The files that hold a tokenizer's tables: two, or the one that today's transformers saves."""
    two, one = ("vocab.json", "merges.txt"), "tokenizer.json"
    return (one,) if f"{folder}/{one}" in listing and not all(f"{folder}/{file}" in listing for file in two) else two


def weight_files(listing: Collection[str], half: bool) -> tuple[dict[str, list[str]], list[str]]:
    """For each network the files of its weights; and the names of the weights that are missing.

    safetensors are preferred to .bin, then the wanted precision to the other one. Weights in several files
    (-00001-of-00002) count only if all of them are there.
    """
    chosen, missing = {}, []
    variants = (".fp16", ".bf16", "") if half else ("", ".fp16", ".bf16")
    for part in parts_of(listing):
        stems = {"safetensors": NETWORKS[part], "bin": NETWORKS[part].replace("model", "pytorch_model")
                 if "text" in part else NETWORKS[part]}
        candidates = [(f"{part}/{stem}", variant, kind) for kind, stem in stems.items() for variant in variants]
        found = next(filter(None, (shards(listing, *candidate) for candidate in candidates)), None)
        if found is None:
            missing.append(f"{part}/{NETWORKS[part]}.safetensors{others(listing, part)}")
        else:
            chosen[part] = found
    return chosen, missing


def shards(listing: Collection[str], stem: str, variant: str, kind: str) -> list[str] | None:
    """The file stem.variant.kind, or all of its shards; None if they aren't (all) there.

    Shards are called stem.variant-00001-of-0000N.kind, before diffusers 0.31 stem-00001-of-0000N.variant.kind.
    """
    if f"{stem}{variant}.{kind}" in listing:
        return [f"{stem}{variant}.{kind}"]
    number, variant = r"-\d{5}-of-(\d{5})", re.escape(variant)
    for name in (variant + number, number + variant):
        pattern = re.compile(rf"{re.escape(stem)}{name}\.{kind}")
        parts = sorted(file for file in listing if pattern.fullmatch(file))
        if parts and len(parts) == int(pattern.fullmatch(parts[0])[1]):
            return parts
    return None


def others(listing: Collection[str], part: str) -> str:
    """What there is in a network's folder in place of the weights that are missing: the end of a message."""
    files = sorted(file.partition("/")[2] for file in listing if file.startswith(f"{part}/")
                   and file.endswith((".safetensors", ".bin", ".msgpack", ".onnx", ".h5", ".gguf")))
    variants = [file for file in files if re.fullmatch(r"\w+\.[\w.]+\.(safetensors|bin)", file)]
    if variants:
        return f" (there is the variant {', '.join(variants[:4])}: to use it, remove the variant from its name)"
    if any("-of-" in file for file in files):
        return f" (there is {', '.join(files[:4])}, which is not all of it)"
    return f" (there is {', '.join(files[:4])}, which is not read)" if files else ""


def missing_files(listing: Collection[str], half: bool, weights: bool) -> list[str]:
    """The files that a checkpoint with this listing lacks; weights=False: of configs and tokenizers only."""
    missing = [file for file in small_files(listing) if file not in listing]
    return missing + (weight_files(listing, half)[1] if weights else [])
