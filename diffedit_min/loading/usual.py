"""What checkpoints of a family usually have: it fills in what a config leaves out, and shows what is unusual.

What is unusual may be right, so it is followed, with a warning that names the value and the way out.
"""

import re
import warnings
from collections.abc import Mapping
from typing import Any

from .sayings import Original, distilled, entry

# What SD XL's configs say, where they say nothing: its VAE isn't that of SD 1 and 2.
XL_VAE = {"scaling_factor": 0.13025, "force_upcast": True}
XL_INDEX = {"force_zeros_for_empty_prompt": True}
OTHER_SCALINGS = {"SD XL": 0.18215, "SD 1.x or 2.x": 0.13025}     # a family -> what only the other one's VAE has

# The defaults of diffusers' scheduler classes, which no Stable Diffusion was trained with.
CLASS_DEFAULTS = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}


def filled_in(config: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The config with `usual` where it has no value, or null."""
    return {**config, **{key: value for key, value in usual.items() if config.get(key) is None}}


def is_xl(unet: Mapping[str, Any]) -> bool:
    """Whether this parsed unet/config.json is SD XL's."""
    return unet.get("addition_embed_type") == "text_time"


def warn_if_unusual(name: str, unet: Mapping[str, Any], vae: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Warn of numbers in parsed configs that are usual for another family, or for none."""
    family = "SD XL" if is_xl(unet) else "SD 1.x or 2.x"
    if vae.get("scaling_factor") == OTHER_SCALINGS[family]:
        right = next(value for other, value in OTHER_SCALINGS.items() if other != family)
        warnings.warn(f"{name}: its VAE's scaling_factor is {vae['scaling_factor']}, but that of {family} is {right}: "
                      "the VAE, or its config.json, seems to be another family's", stacklevel=4)
    if all(scheduler.get(key) == value for key, value in CLASS_DEFAULTS.items()):
        warnings.warn(f"{name}: its scheduler's betas are linear from 0.0001 to 0.02, the defaults of scheduler "
                      "classes; Stable Diffusion has scaled_linear from 0.00085 to 0.012. Mend scheduler_config.json, "
                      "unless the model was trained with these", stacklevel=4)


def warn_if_distilled(name: str, scheduler: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    """Warn of a model that was distilled for few steps, and say which settings fit."""
    if why := distilled(scheduler, names):
        warnings.warn(f"{name} was distilled to paint in a few steps ({why}): steps=8 and guidance_scale=1 fit it, the "
                      "usual 50 steps and scale 7.5 don't", stacklevel=3)


def warn_of_clip_skip(name: str, metadata: Mapping[str, str], original: Original | None) -> None:
    """Warn of a file of SD 1.x that was trained on an inner layer of the text encoder ("clip skip")."""
    found = {f"its metadata ({key})": metadata.get(key) for key in ("modelspec.encoder_layer", "ss_clip_skip")}
    skips = [where for where, value in found.items() if re.fullmatch(r"[2-9]|1\d", str(value))]
    layer = entry(original.model if original else {}, "cond_stage_config", "params", "layer")
    skips += [original.path.name] if layer not in (None, "last") else []
    if skips:
        warnings.warn(f"{name} was trained on an inner layer of the text encoder, says {skips[0]} (\"clip skip\"). It "
                      "is read with the last one, so prompts mean something a little different", stacklevel=3)
