"""From a name to the files of a checkpoint: the configs are parsed, the weights not read yet.

    tiny            the embedded model; tiny-instruct has its own U-Net, and shares everything else with tiny
    a folder        in the usual layout: unet/ vae/ text_encoder/ [text_encoder_2/] tokenizer/ scheduler/
    a Hub id        owner/name: a repository in the same layout; only the files that are needed are downloaded
    one file        .safetensors or .ckpt with all networks. It holds no configs and no tokenizer: they are taken from
                    the folder or Hub id `config`, by default from the repository that published this family of models;
                    a .yaml beside it, or as `config`, may say more (sayings.py)
"""

import stat
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.schedule import Schedule
from ..networks.config import read_json
from ..networks.text import PROJECTED, checked_text_config
from ..networks.unet import UNetConfig
from ..networks.vae import VAEConfig
from ..pictures.picture_files import short
from .card import read_card
from .family import Family, family_of
from .files import Weights, open_weights
from .hub import WHAT_TO_GIVE, hub_folder, is_hub_id
from .known import known_file, sha256
from .layout import CARD, INDEX, SCHEDULER, files_in, missing_files, small_files, tokenizers_of, weight_files
from .names import Origins, single_file_origins, text_origins, unet_origins, vae_origins
from .pipelines import absent, check_index
from .sayings import (
    Original,
    Saying,
    agreed,
    check_keys,
    check_metadata,
    check_scheduler,
    of_keys,
    of_metadata,
    of_option,
    of_scheduler,
)
from .usual import (
    XL_INDEX,
    XL_VAE,
    check_levels,
    filled_in,
    is_xl,
    warn_if_distilled,
    warn_if_unusual,
    warn_of_clip_skip,
    warn_of_marks,
)

TINY = Path(__file__).parent.parent / "tiny" / "checkpoint"
EMBEDDED = {"tiny": TINY, "tiny-instruct": TINY.parent / "checkpoint_instruct"}


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint."""

    config: dict[str, Any]
    weights: Weights
    origins: Origins
    files: tuple[Path, ...]             # of the weights
    described_by: str = "its config.json"   # what its config is, for messages


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
    path = local_path(name)
    kind = what_is(path)
    if kind == "folder":
        return folder(path, name, half, prediction_type)
    if kind == "file":
        return single_file(path, name, half, prediction_type, config, revision, token)
    if is_hub_id(name):
        return folder(hub_folder(name, half, revision, token), name, half, prediction_type)
    raise ValueError(f"{name!r} is neither a folder nor a file here: {WHAT_TO_GIVE}")


def local_path(name: str) -> Path:
    """The name as a path, with ~ replaced."""
    try:
        return Path(name).expanduser()
    except RuntimeError:                    # ~ followed by an unknown user's name
        return Path(name)


def what_is(path: Path) -> str:
    """"folder", "file" or "nothing". Raises ValueError for a path that can't be looked up, a device, a FIFO."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):     # ValueError: a zero byte in the path
        return "nothing"
    except OSError as error:
        raise ValueError(f"{short(path)} can't be opened ({error.strerror})") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise ValueError(f"{str(path)!r} is a device, a FIFO or a socket, not a file: {WHAT_TO_GIVE}")
    return "folder" if stat.S_ISDIR(mode) else "file"


# ---------------------------------------------------------------- a folder


def folder(path: Path, name: str, half: bool, prediction_type: str | None) -> Checkpoint:
    """A checkpoint from a folder in the usual layout."""
    listing, missing = files_in(path), []
    if INDEX in listing:
        index = read_json(path / INDEX)
        check_index(index, str(path / INDEX))
        missing = absent(index, listing, str(path / INDEX))
    if missing := list(dict.fromkeys(missing_files(listing, half, weights=True) + missing)):
        raise ValueError(f"{str(path)!r} is not a complete checkpoint folder; missing: {', '.join(missing)}"
                         f"{hint(path, listing)}")
    networks = {part: network(path, part, files) for part, files in weight_files(listing, half)[0].items()}
    scheduler = read_json(path / SCHEDULER)
    told = of_option(prediction_type)
    check_scheduler(scheduler, str(path / SCHEDULER), told is not None)
    said = told or of_scheduler(scheduler, SCHEDULER, path) or Saying(
        "epsilon", f"{SCHEDULER}, which has no prediction_type,")
    made = with_configs(name, networks, path, scheduler, said, "epsilon")
    warn_if_distilled(name, scheduler, {"its name": name, "model_index.json": made.index.get("_name_or_path", ""),
                                        "unet/config.json": networks["unet"].config.get("_name_or_path", "")})
    return replace(made, card=read_card(path / CARD)) if CARD in listing else made


def with_configs(
    name: str, networks: dict[str, Network], path: Path, scheduler: dict[str, Any], said: Saying | None,
    usual: str | None,
) -> Checkpoint:
    """These networks with the tokenizers and index of the folder `path`."""
    index, vae = read_json(path / INDEX), networks["vae"]
    if is_xl(networks["unet"].config):
        index, vae = filled_in(index, XL_INDEX), replace(vae, config=filled_in(vae.config, XL_VAE))
    warn_if_unusual(name, networks["unet"].config, vae.config, scheduler)
    tokenizers = tuple(path / tokenizer for tokenizer in tokenizers_of(networks))
    prediction_type, said_by = said or (None, "")
    return Checkpoint(name, networks | {"vae": vae}, tokenizers, scheduler, index, prediction_type, said_by, usual)


def network(path: Path, part: str, files: Sequence[str]) -> Network:
    """The network of a folder that is called `part`, with its weights in `files`."""
    rule = {"unet": unet_origins, "vae": vae_origins}.get(part, text_origins)
    paths = tuple(path / file for file in files)
    stored, config = open_weights(paths), read_json(path / part / "config.json")
    origins = rule(stored.header)
    if part == "text_encoder" and PROJECTED not in str(config.get("architectures")):
        origins.pop("text_projection.weight", None)     # the first text encoder's is never used
    return Network(config, stored, origins, paths)


def embedded(name: str, half: bool, prediction_type: str | None) -> Checkpoint:
    """A checkpoint that comes with the package."""
    tiny = folder(EMBEDDED["tiny"], name, half, prediction_type)
    if name == "tiny":
        return tiny
    own = EMBEDDED[name]
    unet = network(own, "unet", ["unet/diffusion_pytorch_model.safetensors"])
    return replace(tiny, networks={**tiny.networks, "unet": unet}, card=read_card(own / CARD))


def hint(path: Path, listing: Collection[str]) -> str:
    """The end of the error about an incomplete folder: it describes a weights file that lies directly in the folder."""
    alone = sorted(file for file in listing if "/" not in file and file.endswith(".safetensors"))
    if not alone:
        return ""
    try:
        return f"; {alone[0]} there is a checkpoint of {family_of(open_weights([path / alone[0]])).name}: give its path"
    except ValueError as error:
        return f"; {error}"


# ---------------------------------------------------------------- one file


def single_file(
    path: Path, name: str, half: bool, prediction_type: str | None, config: str | Path | None, revision: str | None,
    token: str | None,
) -> Checkpoint:
    """A checkpoint whose networks are all in one file, with configs from a folder or the Hub."""
    weights = open_weights([path])
    family = family_of(weights)
    original = original_of(path, config)
    own = said_by_file(weights, original, prediction_type)
    if original and config is not None and original.path == local_path(str(config)):
        config = None
    said = own or (of_hash(path, family) if config is None else None)
    where, described_by = config_folder(path, family, said, config, half, revision, token)
    scheduler = read_json(where / SCHEDULER) | (original.scheduler() if original else {})
    if config is not None:
        check_scheduler(scheduler, str(where / SCHEDULER), said is not None)
        theirs = None if prediction_type else of_scheduler(scheduler, str(where / SCHEDULER), Path())
        if said and theirs and said.prediction_type != theirs.prediction_type:
            warnings.warn(f"{path}: {said.by} says that it predicts {said.prediction_type}, and so it is read; "
                          f"{theirs.by} says {theirs.prediction_type}. If that is right, give prediction_type=",
                          stacklevel=2)
        said = said or theirs
    warn_of_marks(name, weights.header)
    check_levels(name, weights, Schedule.from_config(scheduler, str(where / SCHEDULER)).abar)
    warn_if_distilled(name, scheduler if config is not None else {}, file_names(path, weights))
    if family.name == "SD 1.x":
        warn_of_clip_skip(name, weights.metadata, original)
    networks = single_networks(weights, path, where, family, described_by)
    if original:
        networks["vae"] = replace(networks["vae"], config=networks["vae"].config | original.vae())
    return with_configs(name, networks, where, scheduler, said, family.usual)


def original_of(path: Path, config: str | Path | None) -> Original | None:
    """The original program's config: the .yaml given as `config`, or one beside the file that is called as it is."""
    given = None if config is None else local_path(str(config))
    if given is not None and what_is(given) == "file":
        if given.suffix not in (".yaml", ".yml") or (original := Original.read(given)) is None:
            raise ValueError(f"config {str(config)!r} is no original config (a .yaml with model: params:): give such a "
                             "file, a folder or a Hub id")
        return original
    beside = path.with_suffix(".yaml")
    return Original.read(beside) if what_is(beside) == "file" else None


def said_by_file(weights: Weights, original: Original | None, prediction_type: str | None) -> Saying | None:
    """What a single file predicts: what the caller says, or its keys, its metadata and its .yaml.

    Raises ValueError if they contradict each other, or for a kind that can't be read.
    """
    check_keys(weights.header, str(weights.path))
    check_metadata(weights.metadata, str(weights.path))
    if original:
        original.check()
    return of_option(prediction_type) or agreed(
        [*of_keys(weights.header), *of_metadata(weights.metadata), *(original.said() if original else [])],
        str(weights.path))


def file_names(path: Path, weights: Weights) -> dict[str, str]:
    """What a single file is called: by its own name, and in its metadata."""
    keys = ("modelspec.title", "modelspec.architecture", "modelspec.merged_from", "ss_sd_model_name", "ss_output_name")
    return {"its name": path.stem} | {f"its metadata ({key})": weights.metadata.get(key, "") for key in keys}


def config_folder(
    path: Path, family: Family, said: Saying | None, config: str | Path | None, half: bool, revision: str | None,
    token: str | None,
) -> tuple[Path, str]:
    """A local folder with the configs and the tokenizer for a single file; and what it is, in words."""
    if config is None:
        owner = family.repository(said.prediction_type if said else None)
        words = f"the configs of {owner} (config= gives others)"
        try:
            return hub_folder(owner, half, revision, token, weights=False), words
        except ValueError as error:
            raise ValueError(f"{path} holds no configs and no tokenizer: give config=, a folder or Hub id that has "
                             f"them ({error})") from None
    local = local_path(str(config))
    where = local if what_is(local) == "folder" else hub_folder(str(config), half, revision, token, weights=False)
    return where, f"the configs of {str(config)!r} (config= gives others)"


def single_networks(weights: Weights, path: Path, where: Path, family: Family, described_by: str) -> dict[str, Network]:
    """The networks in a single file, with the configs in the folder `where`."""
    listing = files_in(where)
    parts = ["unet", "vae", "text_encoder", *(["text_encoder_2"] if family.name == "SD XL" else [])]
    if missing := [file for file in small_files([*listing, *(f"{part}/config.json" for part in parts)])
                   if file not in listing]:
        raise ValueError(f"config {str(where)!r} is no folder of {family.name}; missing: {', '.join(missing)}")
    configs = {part: read_json(where / part / "config.json") for part in parts}
    configs["unet"]["in_channels"] = family.channels        # inpainting models have the family's other sizes
    unet = UNetConfig.from_dict(configs["unet"], str(where / "unet/config.json"))
    vae = VAEConfig.from_dict(configs["vae"], str(where / "vae/config.json"))
    layers = {}
    for part in parts[2:]:
        layers[part] = checked_text_config(configs[part], str(where / part / "config.json"))["num_hidden_layers"]
    try:
        origins = single_file_origins(weights.header, unet.layers_per_block, len(vae.block_out_channels), layers)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    return {part: Network(configs[part], weights, origins[part], (path,), described_by) for part in parts}


def of_hash(path: Path, family: Family) -> Saying | None:
    """What is known of a published file of SD 2.x, of which there are both kinds; the hash takes a while."""
    found = known_file(sha256(path)) if family.usual is None else None
    return Saying(found.prediction_type, "its hash") if found and found.prediction_type else None
