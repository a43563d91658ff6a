"""`diffedit-min info`: a description of a checkpoint, from its configs and the headers of its files.

The weights themselves are read only to compute the files' hashes, and with --verify.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import __version__
from ..core.options import Declared, Option, declared, name_of
from ..core.schedule import Schedule
from ..core.state import Sampler
from ..loading import checked_parts, random_model
from ..loading.family import Family, family_of
from ..loading.files import WEIGHT_DTYPES, Weights, check_finite, open_weights
from ..loading.known import LICENCES, MOVED, known_file, sha256
from ..loading.names import PARTS, UNUSED
from ..loading.sources import (
    Checkpoint,
    file_names,
    find,
    local_path,
    original_of,
    said_by_file,
    what_is,
)
from ..loading.usual import warn_if_distilled
from ..methods import METHODS, Method
from ..methods.help import about, sentence_of, shown, wrapped
from ..networks.unet import UNetConfig
from ..samplers import SAMPLERS

NAMES = {"unet": "U-Net", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}


def describe(name: str = "tiny", *, verify: bool = False, **where: Any) -> dict[str, Any]:
    """A record that JSON can hold: family, networks, pictures, schedule, files with their hashes, defaults.

    verify: also read all weights and check that every number is finite. where: prediction_type, config, revision and
    token, as in `load`. A single file is described without the configs that are needed to load it. Raises ValueError
    as `load` does.
    """
    path, files, opened = local_path(name), {}, []
    alone = name != "random" and what_is(path) == "file"
    if name == "random":
        model = random_model(0, "epsilon", torch.device("cpu"), torch.float32)
        modules = {"unet": model.unet, "vae": model.vae, "text_encoder": model.text_encoder}
        stored = {part: list(module.parameters()) for part, module in modules.items()}
        record = describe_networks(name, modules, stored, "epsilon", model.schedule)
    elif alone:
        opened, files = [open_weights([path])], {path: path.name}
        record = describe_single_file(opened[0], path, where.get("prediction_type"), where.get("config"))
    else:
        checkpoint = find(name, **where)
        record = describe_checkpoint(checkpoint, name)
        files = {file: f"{part}/{file.name}" for part, network in checkpoint.networks.items() for file in network.files}
        opened = [network.weights for network in checkpoint.networks.values()]
    record["files"], found = [], []
    for file, label in files.items():
        digest = sha256(file)
        known = known_file(digest)
        record["files"].append({"name": label, "bytes": file.stat().st_size, "sha256": digest,
                                "known": f"{known.name} of {known.repository}" if known else None})
        if known:
            found.append(known)
    repositories = [name, MOVED.get(name), *(known.repository for known in found)]
    record["licence"] = next((LICENCES[owner] for owner in repositories if owner in LICENCES), None)
    if alone and found and found[0].prediction_type and not record["said by"]:
        record |= {"predicts": found[0].prediction_type, "said by": "its hash"}
    if verify:
        for weights in opened:
            for key, empty in weights.header.items():
                if empty.dtype in WEIGHT_DTYPES:
                    check_finite(weights.get(key), f"{weights.path}: {key}")
        record["verified"] = True
    return record


def describe_checkpoint(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A checkpoint without its files. Raises ValueError if the weights don't fit the configs."""
    schedule, modules, _ = checked_parts(checkpoint)
    stored = {part: [network.weights.header[origin.name] for origin in network.origins.values()]
              for part, network in checkpoint.networks.items()}
    return describe_networks(name, modules, stored, checkpoint.prediction_type, schedule,
                             checkpoint.card.get("defaults", {})) | {
        "said by": checkpoint.said_by, "vocabulary": checkpoint.card.get("vocabulary", {})}


def describe_networks(
    name: str, modules: Mapping[str, nn.Module], stored: Mapping[str, list[torch.Tensor]], prediction_type: str,
    schedule: Schedule, card: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """A model with these networks; `stored` holds the weights of each as they are in the files.

    Its defaults are those of the first method whose U-Net takes this number of channels: DiffEdit, if it can run that.
    """
    unet, vae = modules["unet"].config, modules["vae"].config
    method = next((method for method in METHODS.values() if method.channels == unet.in_channels), METHODS["diffedit"])
    own, (clean, noisy) = method.recommended(card), schedule.levels(1)
    return {
        "name": name, "family": family_name(unet), "predicts": prediction_type,
        "networks": {part: {"parameters": sum(p.numel() for p in module.parameters()), "dtypes": dtypes(stored[part])}
                     for part, module in modules.items()},
        "pixels": unet.sample_size * vae.factor, "multiple": unet.multiple * vae.factor,
        "latents": [vae.latent_channels, unet.sample_size, unet.sample_size], "factor": vae.factor,
        "schedule": {"times": schedule.T, "first abar": schedule.abar[0], "last abar": schedule.abar[-1],
                     "offset": noisy.t, "clean abar": clean.abar},
        "defaults": {"method": method.name, "values": method.made(own).record(), "from the card": sorted(own)},
    }


def describe_single_file(
    weights: Weights, path: Path, prediction_type: str | None, config: str | None
) -> dict[str, Any]:
    """A single file without its hash."""
    family = family_of(weights)
    said = said_by_file(weights, original_of(path, config), prediction_type)
    warn_if_distilled(str(path), {}, file_names(path, weights))
    networks: dict[str, dict[str, Any]] = {}
    for prefix, part in PARTS.items():
        used = [t for name, t in weights.header.items() if name.startswith(prefix) and not UNUSED.fullmatch(name)]
        if used:
            networks[part] = {"parameters": sum(t.numel() for t in used), "dtypes": dtypes(used)}
    return {"name": str(weights.path), "family": with_purpose(family), "networks": networks,
            "predicts": said.prediction_type if said else family.usual, "said by": said.by if said else ""}


def family_name(unet: UNetConfig) -> str:
    """The family and purpose of a model, as the sizes of its U-Net show them."""
    kind = "SD XL" if unet.has_summary else {768: "SD 1.x", 1024: "SD 2.x"}.get(unet.cross_attention_dim)
    if kind is None:
        return "Stable Diffusion's architecture, in a size of its own"
    small = unet.layers_per_block == 1
    return with_purpose(Family(kind, unet.in_channels)) + (", made smaller (as bk-sdm is)" if small else "")


def with_purpose(family: Family) -> str:
    """The family's name, followed by what its U-Net's input channels are for."""
    return family.name + {4: "", 8: ", InstructPix2Pix", 9: ", inpainting"}.get(family.channels, ", of unknown purpose")


def dtypes(weights: list[torch.Tensor]) -> list[str]:
    """The names of the dtypes that occur, each once."""
    return sorted({str(weight.dtype).split(".")[1] for weight in weights})


# ---------------------------------------------------------------- as text


def lines(record: dict[str, Any]) -> Iterator[str]:
    """The record of `describe`, then all methods and samplers with their options."""
    yield f"diffedit_min {__version__}, torch {torch.__version__}"
    predicts = record["predicts"] or "epsilon or v, which the file doesn't say"
    by = f" (says {record['said by'].rstrip(',')})" if record.get("said by") else ""
    yield f"model        {record['name']}: {record['family']}; predicts {predicts}{by}"
    yield f"licence      {record['licence'] or 'not known'}"
    counts = [f"{NAMES[part]} {network['parameters']:,} ({' and '.join(network['dtypes'])})"
              for part, network in record["networks"].items()]
    yield f"parameters   {', '.join(counts)}"
    if "pixels" in record:      # a single file lacks the configs that contain these sizes
        channels, side, _ = record["latents"]
        yield (f"pictures     {record['pixels']} x {record['pixels']} px at their best; sides are padded to a multiple "
               f"of {record['multiple']}")
        yield f"latents      {channels} x {side} x {side}; a cell is {record['factor']} px wide"
        yield f"schedule     {', '.join(f'{name} {value:.6g}' for name, value in record['schedule'].items())}"
    if record.get("vocabulary"):
        yield "words        it was trained on these; others mean nothing to it"
        yield from (f"  {kind:<12}{', '.join(words)}" for kind, words in record["vocabulary"].items())
    for file in record["files"]:
        yield f"file         {file['name']}, {file['bytes']:,} bytes, {file['known'] or 'not a published one'}"
        yield f"  sha256     {file['sha256']}"
    if "verified" in record:
        yield "verified     every number is finite"
    if "defaults" in record:
        method = record["defaults"]["method"]
        yield f"\ndefaults of {method} with this model (* from its card, the others the method's own)"
        for name, value in record["defaults"]["values"].items():
            yield f"  {name:<20} {value!r}{' *' if name in record['defaults']['from the card'] else ''}"
    yield "\nmethods (--method) and their options (-o), with the values where no card says otherwise"
    for method in METHODS.values():
        yield f"  {method.dashed}: {listed(method.options().record())}"
        yield from (f"    --preset {name}: {listed(options)}" for name, options in method.presets.items())
    yield "\nsamplers (-o sampler=name, or with options name:option=value)"
    for name, sampler in SAMPLERS.items():
        options = sampler.record() if isinstance(sampler, Declared) else {}
        yield f"  {name}: {listed(options) or 'no options'}"
    yield "\nwhat the options of a method or a sampler do: diffedit-min info NAME"


# What the options of a stage are for, in the order in which help shows them.
STAGE_TITLES = {"levels": "the noise levels", "encoding": "encoding", "map": "the map of differences",
                "mask": "the mask", "decoding": "decoding", None: "others", "cost": "what changes no result"}


def lines_of(one: Method | Sampler, width: int | None = None) -> Iterator[str]:
    """A method or a sampler: what it is, and what each of its options does. width: of the lines; None: the terminal's.
    """
    width = width or min(110, shutil.get_terminal_size().columns)
    if isinstance(one, Method):
        yield f"{one.dashed} (--method)"
        yield from textwrap.wrap(about(one), width, initial_indent="  ", subsequent_indent="  ")
        yield f"  takes {takes(one)}"
        yield "\noptions (-o name=value), with the values where no card says otherwise"
        options = one.known
    else:
        yield f"{name_of(one)} (-o sampler=name:option=value): {getattr(one, 'title', '')}"
        options = declared(type(one)) if is_dataclass(one) else {}
    by_stage = {stage: [option for option in options.values() if option.stage == stage] for stage in STAGE_TITLES}
    for stage, own in by_stage.items():
        if own and isinstance(one, Method):
            yield f"\n{STAGE_TITLES[stage]}"
        for option in own:
            names = f"; one of {', '.join(SAMPLERS)}" if option.kind is Sampler else ""
            yield from wrapped(f"{option.name}={default_of(option)}", sentence_of(option) + names, width)
    if isinstance(one, Method):
        yield "\npresets (--preset)"
        presets = {"recommended": "the values of the model's card, else those above", "paper": "those above",
                   **{name: listed(values) for name, values in one.presets.items()}}
        for name, what in presets.items():
            yield from wrapped(name, what, width)


def default_of(option: Option) -> str:
    """An option's default as it is typed after -o."""
    return option.default if option.kind is str else shown(option.default)


def takes(method: Method) -> str:
    """What a method is given besides the picture."""
    query = ["an instruction as the query" if method.needs_instruction else "a query"] if method.takes_query else []
    reference = ["a reference (which it needs)"] if method.needs_reference else [
        "a reference"] if "reference" in method.uses else []
    return ", ".join([*query, *reference, *(["a mask of your own"] if "mask" in method.uses else [])]) or "no words"


def listed(options: Mapping[str, Any]) -> str:
    """Options in one line: "name=value, name=value"."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
