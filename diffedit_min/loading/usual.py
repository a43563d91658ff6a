"""What checkpoints of a family usually have: it fills in what a config leaves out, and shows what is unusual.

What is unusual may be right, so it is followed, with a warning that names the value and the way out.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..networks.unet import UNetConfig
from .files import Weights
from .sayings import ZERO_SNR, Original, distilled, entry

# What SD XL's configs say, where they say nothing: its VAE isn't that of SD 1 and 2.
XL_VAE = {"scaling_factor": 0.13025, "force_upcast": True}
XL_INDEX = {"force_zeros_for_empty_prompt": True}
OTHER_SCALINGS = {"SD XL": 0.18215, "SD 1.x or 2.x": 0.13025}     # a family -> what only the other one's VAE has

# The defaults of diffusers' scheduler classes, which no Stable Diffusion was trained with.
CLASS_DEFAULTS = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}


# The tokens' width -> the heads of attention: as many at each level (SD 1), or each 64 wide (SD 2, SD XL).
HEADS, HEAD_WIDTH = {768: 8, 1024: None, 2048: None}, 64
ACTIVATIONS = {768: "quick_gelu", 1024: "gelu", 1280: "gelu"}   # a text encoder's width -> CLIP's, OpenCLIP's

# Names without a dot that training leaves in single files, or that are read elsewhere.
KNOWN_MARKS = re.compile(r"betas|\w*alphas_cumprod\w*|posterior_\w+|lvlb_weights|logvar|scale_factor|(log_)?sigmas"
                         r"|ddim_\w+|v_pred|ztsnr|model_ema\w*|global_step|epoch|step|iteration")


LEAST_ABAR_HELD = 1e-4      # of the last level in a single file; Stable Diffusion's is 0.0047, zero SNR's 5e-8 or 0
MOST_APART = 0.01           # of a level from another one; in half precision they are 0.0005 apart


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


def warn_of_heads(name: str, unet: UNetConfig, texts: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn of sizes that weights don't show (numbers of heads, activations) and that no published model has.

    texts: the text encoders' checked configs, by part.
    """
    if unet.cross_attention_dim in HEADS:
        one = HEADS[unet.cross_attention_dim]
        right = tuple(one or width // HEAD_WIDTH for width in unet.block_out_channels)
        if unet.heads != right:
            warnings.warn(f"{name}: unet/config.json says (attention_head_dim, num_attention_heads) that its levels "
                          f"have {unet.heads} heads; models with its sizes have {right}", stacklevel=4)
    for part, config in texts.items():
        width, act = config["hidden_size"], config["hidden_act"]
        if width in ACTIVATIONS and act != ACTIVATIONS[width]:
            warnings.warn(f"{name}: {part}/config.json says hidden_act = {act!r}, or nothing; text encoders that are "
                          f"{width} wide have {ACTIVATIONS[width]!r}", stacklevel=4)
        if width in ACTIVATIONS and config["num_attention_heads"] != width // HEAD_WIDTH:
            warnings.warn(f"{name}: {part}/config.json says num_attention_heads = {config['num_attention_heads']}, or "
                          f"nothing; text encoders that are {width} wide have {width // HEAD_WIDTH}", stacklevel=4)


def warn_of_marks(name: str, names: Iterable[str]) -> None:
    """Warn of a tensor outside the networks that isn't known here: some programs say by it what a model is."""
    if marks := [each for each in names if "." not in each and not KNOWN_MARKS.fullmatch(each)]:
        warnings.warn(f"{name} holds {marks[0]!r:.60}, which belongs to no network and isn't known here; it may say "
                      "that the model is of another kind", stacklevel=3)


def check_levels(name: str, weights: Weights, abar: Sequence[float]) -> None:
    """Compare the noise levels that a single file holds with abar, those that it is read with.

    Raises ValueError if they end at 0, and warns if they differ. Tables that don't fall are no noise levels.
    """
    table = weights.header.get("alphas_cumprod")
    if table is None or table.shape != (len(abar),) or not table.is_floating_point():
        return
    own = weights.get("alphas_cumprod").double()
    if not own[0] > own[-1]:
        return
    if own[-1] < LEAST_ABAR_HELD:
        raise ValueError(f"{name} {ZERO_SNR} (its alphas_cumprod end at {own[-1]:.2g})")
    if (apart := (own - torch.tensor(abar, dtype=torch.float64)).abs().max()) > MOST_APART:
        warnings.warn(f"{name} holds other noise levels (alphas_cumprod) than its configs, by up to {apart:.2g}; it is "
                      "read with those of the configs: give the configs of its own model with config=", stacklevel=3)


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
