"""What a checkpoint is, from its configs and the headers of its files: `diffedit-min info`.

No weights are read, except to verify them and for the files' hashes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..core.options import Declared, declared, name_of
from ..core.schedule import Schedule
from ..core.state import Sampler
from ..loading import empty_networks, random_model
from ..loading.files import WEIGHTS_ARE, Weights, check_finite, open_weights
from ..loading.known import LICENCES, MOVED, known_file, sha256
from ..loading.names import LEFTOVER, PARTS, check_exactly
from ..loading.sources import Checkpoint, Family, family_of, find
from ..methods import METHODS, Method
from ..methods.help import about, sentence_of, shown, wrapped
from ..networks.unet import UNetConfig
from ..networks.vae import VAEConfig
from ..samplers import SAMPLERS

NAMES = {"unet": "U-Net", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}


def describe(name: str = "tiny", *, verify: bool = False, **where: Any) -> dict[str, Any]:
    """A record that JSON can hold: family, networks, pictures, schedule, files with their hashes, defaults.

    verify: read every number too. where: prediction_type, config, revision, token, as `load` takes them. A single file
    is described by itself, without the configs that it needs to be loaded. Raises ValueError as `load` does.
    """
    if name == "random":
        return describe_random()
    path = Path(name).expanduser()
    if path.is_file():
        opened = [open_weights([path])]
        record, files = describe_single_file(opened[0], where.get("prediction_type")), {path: path.name}
    else:
        checkpoint = find(name, **where)
        record = describe_checkpoint(checkpoint, name)
        files = {file: f"{part}/{file.name}" for part, network in checkpoint.networks.items() for file in network.files}
        opened = [network.weights for network in checkpoint.networks.values()]
    hashes = {label: sha256(file) for file, label in files.items()}
    record["files"] = [
        {"name": label, "bytes": file.stat().st_size, "sha256": hashes[label],
         "known": " of ".join(known[:2]) if (known := known_file(hashes[label])) else None}
        for file, label in files.items()
    ]
    owners = [name, MOVED.get(name), *(known.repository for h in hashes.values() if (known := known_file(h)))]
    record["licence"] = next((LICENCES[owner] for owner in owners if owner in LICENCES), None)
    if path.is_file() and (known := known_file(hashes[path.name])) and known.prediction_type:
        record["predicts"] = known.prediction_type
    if verify:
        for weights in opened:
            verify_weights(weights)
        record["verified"] = True
    return record


def describe_checkpoint(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """All but the files. Raises ValueError if the weights don't fit the configs."""
    modules = empty_networks(checkpoint)
    networks = {}
    for part, module in modules.items():
        network = checkpoint.networks[part]
        check_exactly(module, network.origins, network.weights.header, str(network.weights.path))
        used = [network.weights.header[origin.name] for origin in network.origins.values()]
        networks[part] = {"parameters": sum(p.numel() for p in module.parameters()), "dtypes": dtypes(used)}
    return {
        "name": name, "family": family_name(modules["unet"].config), "predicts": checkpoint.prediction_type,
        "networks": networks, **sizes(modules["unet"].config, modules["vae"].config),
        "schedule": schedule(checkpoint.scheduler),
        "defaults": defaults(checkpoint.card.get("defaults", {}), modules["unet"].config.in_channels),
    }


def describe_single_file(weights: Weights, prediction_type: str | None) -> dict[str, Any]:
    family = family_of(weights)
    networks: dict[str, dict[str, Any]] = {}
    for prefix, part in PARTS.items():
        used = [t for name, t in weights.header.items() if name.startswith(prefix) and not LEFTOVER.fullmatch(name)]
        if used:
            networks[part] = {"parameters": sum(t.numel() for t in used), "dtypes": dtypes(used)}
    predicts = prediction_type or ("epsilon" if family.name != "SD 2.x" else None)
    return {"name": str(weights.path), "family": with_purpose(family), "predicts": predicts, "networks": networks}


def describe_random() -> dict[str, Any]:
    model = random_model(0, "epsilon", torch.device("cpu"), torch.float32)
    modules = {"unet": model.unet, "vae": model.vae, "text_encoder": model.text_encoder}
    networks = {part: {"parameters": sum(p.numel() for p in module.parameters()), "dtypes": ["float32"]}
                for part, module in modules.items()}
    return {"name": "random", "family": family_name(model.unet.config), "predicts": "epsilon", "networks": networks,
            **sizes(model.unet.config, model.vae.config), "schedule": schedule({}), "defaults": defaults({}, 4),
            "files": [], "licence": None}


def family_name(unet: UNetConfig) -> str:
    """By the U-Net's sizes."""
    kind = "SD XL" if unet.told_sizes else {768: "SD 1.x", 1024: "SD 2.x"}.get(unet.cross_attention_dim)
    if kind is None:
        return "Stable Diffusion's make, of its own size"
    small = unet.layers_per_block == 1
    return with_purpose(Family(kind, unet.in_channels)) + (", made smaller (as bk-sdm is)" if small else "")


def with_purpose(family: Family) -> str:
    return family.name + {4: "", 8: ", InstructPix2Pix", 9: ", inpainting"}.get(family.channels, ", of unknown purpose")


def sizes(unet: UNetConfig, vae: VAEConfig) -> dict[str, Any]:
    return {"pixels": unet.sample_size * vae.factor, "multiple": unet.multiple * vae.factor,
            "latents": [vae.latent_channels, unet.sample_size, unet.sample_size], "factor": vae.factor}


def schedule(raw: dict[str, Any]) -> dict[str, Any]:
    made = Schedule.from_config(raw)
    return {"times": made.T, "first abar": made.abar[0], "last abar": made.abar[-1], "offset": made.steps_offset,
            "clean abar": made.levels(1)[0].abar}


def defaults(card: dict[str, Any], channels: int) -> dict[str, Any]:
    """The settings of the method that this model is for, DiffEdit if it can, and which of them are its card's."""
    method = next((method for method in METHODS.values() if method.channels == channels), METHODS["diffedit"])
    own = method.recommended(card)
    return {"method": method.name, "values": method.made(own).record(), "from the card": sorted(own)}


def dtypes(weights: list[torch.Tensor]) -> list[str]:
    return sorted({str(weight.dtype).split(".")[1] for weight in weights})


def verify_weights(weights: Weights) -> None:
    """Read every number. ValueError naming the first tensor with one that is infinite or none at all."""
    for name, empty in weights.header.items():
        if empty.dtype in WEIGHTS_ARE:
            check_finite(weights.get(name), f"{weights.path}: {name}")


# ---------------------------------------------------------------- for people


def lines(record: dict[str, Any]) -> Iterator[str]:
    """What `describe` found, then the methods with their options."""
    yield f"diffedit_min {__version__}, torch {torch.__version__}"
    predicts = record["predicts"] or "epsilon or v, which the file doesn't say"
    yield f"model        {record['name']}: {record['family']}; predicts {predicts}"
    yield f"licence      {record['licence'] or 'not known'}"
    counts = [f"{NAMES[part]} {network['parameters']:,} ({' and '.join(network['dtypes'])})"
              for part, network in record["networks"].items()]
    yield f"parameters   {', '.join(counts)}"
    if "pixels" in record:      # of a single file, only its configs would tell
        channels, side, _ = record["latents"]
        yield (f"pictures     {record['pixels']} x {record['pixels']} px at their best; sides are padded to a multiple "
               f"of {record['multiple']}")
        yield f"latents      {channels} x {side} x {side}; a cell is {record['factor']} px wide"
        yield f"schedule     {', '.join(f'{name} {value:.6g}' for name, value in record['schedule'].items())}"
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


def sampler_lines(sampler: Sampler) -> Iterator[str]:
    """What a sampler is, and what each of its options does."""
    yield f"{name_of(sampler)} (-o sampler=name:option=value): {getattr(sampler, 'title', '')}"
    for option in declared(type(sampler)).values() if is_dataclass(sampler) else ():
        yield from wrapped(f"{option.name}={shown(option.default)}", sentence_of(option))


def method_lines(method: Method) -> Iterator[str]:
    """What a method is, and what each of its options does."""
    yield f"{method.dashed} (--method)"
    yield from textwrap.wrap(about(method), 110, initial_indent="  ", subsequent_indent="  ")
    yield "\noptions (-o name=value), with the values where no card says otherwise"
    for option in method.known.values():
        yield from wrapped(f"{option.name}={shown(option.default)}", sentence_of(option))
    for name, options in method.presets.items():
        yield f"--preset {name}: {listed(options)}"


def listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
