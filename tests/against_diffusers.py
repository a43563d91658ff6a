"""The same work through diffusers, for `diffedit-min speed --against diffusers`; see diffedit_min/bench/programs.py.

It is no test; test_speed.py tests it. Its networks are made of our weights, as the very same tensors where dtype and
layout allow. "as made" is how a pipeline comes from `from_pretrained`; "channels_last" is its networks in that memory
format. The edit is StableDiffusionDiffEditPipeline's, in its three documented calls with default arguments:

    default   in float32, as it comes
    tuned     in our dtype, channels_last
"""

import warnings
from dataclasses import asdict
from functools import partial

import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, StableDiffusionDiffEditPipeline
from diffusers import UNet2DConditionModel as TheirUNet
from diffusers.utils import logging
from PIL import Image
from torch import Tensor, nn

from diffedit_min.networks.stable_diffusion import StableDiffusion

LAYOUTS = {"as made": torch.contiguous_format, "channels_last": torch.channels_last}


def rival(model: StableDiffusion) -> tuple[dict, dict]:
    """What makes its networks and its editors, by the names that the tables have."""
    ours = str(model.dtype).removeprefix("torch.")
    networks = {f"diffusers, {variant}": partial(with_our_weights, model, layout)
                for variant, layout in LAYOUTS.items()}
    editors = {"diffusers, default": partial(Editor, model, "as made", "float32"),
               "diffusers, tuned": partial(Editor, model, "channels_last", ours)}
    return networks, {} if len(model.texts) > 1 else editors       # its pipeline is for models with one text encoder


class Networks:
    """Single calls, as `Ours` of diffedit_min/bench/programs.py has them."""

    def __init__(self, unet: nn.Module, vae: nn.Module, layout: torch.memory_format):
        self._unet, self._vae, self.layout = unet, vae, layout

    def unet(self, x: Tensor, t: Tensor, tokens: Tensor, summary=None) -> Tensor:
        kind = self._unet.dtype
        repeated = x.repeat(len(tokens) // len(x), 1, 1, 1).to(kind, memory_format=self.layout)
        told = None if summary is None else {"text_embeds": summary.pooled, "time_ids": summary.sizes}
        return self._unet(repeated, t, tokens.to(kind), added_cond_kwargs=told, return_dict=False)[0]

    def encode(self, pixels: Tensor) -> Tensor:
        return self._vae.encode(pixels.to(self._vae.dtype, memory_format=self.layout)).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        return self._vae.decode(latents.to(self._vae.dtype, memory_format=self.layout), return_dict=False)[0]


def with_our_weights(model: StableDiffusion, layout: torch.memory_format) -> Networks:
    return Networks(take_over(make_unet(model), model.unet, None, layout),
                    take_over(make_vae(model), model.vae, None, layout), layout)


class Editor(Networks):
    """The pipeline as one calls it."""

    def __init__(self, model: StableDiffusion, variant: str, dtype: str):
        kind, layout = getattr(torch, dtype), LAYOUTS[variant]
        super().__init__(take_over(make_unet(model), model.unet, kind, layout),
                         take_over(make_vae(model), model.vae, kind, layout), layout)
        text = take_over(empty(type(model.text_encoder), model.text_encoder.config), model.text_encoder, kind, layout)
        self.networks = self._unet, self._vae, [text]
        scheduler = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
                     "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": model.prediction_type}
        with quiet():
            self.pipeline = StableDiffusionDiffEditPipeline(
                vae=self._vae, text_encoder=text, tokenizer=model.tokenizer, unet=self._unet,
                scheduler=DDIMScheduler(**scheduler), safety_checker=None, feature_extractor=None,
                inverse_scheduler=DDIMInverseScheduler(**scheduler), requires_safety_checker=False,
            )
        self.pipeline.set_progress_bar_config(disable=True)

    def edit(self, image: Image.Image, query: str, reference: str, steps: int | None = None) -> Image.Image:
        told = {} if steps is None else {"num_inference_steps": steps}
        mask = self.pipeline.generate_mask(image=image, source_prompt=reference, target_prompt=query, **told)
        latents = self.pipeline.invert(prompt=reference, image=image, **told).latents
        return self.pipeline(prompt=query, mask_image=mask, image_latents=latents, **told).images[0]


# ---------------------------------------------------------------- networks of our weights


def make_unet(model: StableDiffusion) -> nn.Module:
    config = asdict(model.unet.config)
    config["up_block_types"] = tuple(kind.replace("Down", "Up") for kind in reversed(config["down_block_types"]))
    config["upcast_attention"] = bool(config["upcast_attention"])
    if not model.unet.config.has_summary:
        config["addition_time_embed_dim"] = config["projection_class_embeddings_input_dim"] = None
    return empty(TheirUNet, **config)


def make_vae(model: StableDiffusion) -> nn.Module:
    levels, side = len(model.vae.config.block_out_channels), model.unet.config.sample_size * model.factor
    return empty(AutoencoderKL, **asdict(model.vae.config), sample_size=side,
                 down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels)


def empty(kind: type[nn.Module], *arguments, **config) -> nn.Module:
    """A network on the meta device: shapes without memory."""
    with torch.device("meta"), quiet():
        return kind(*arguments, **config)


def take_over(
    theirs: nn.Module, ours: nn.Module, dtype: torch.dtype | None, layout: torch.memory_format
) -> nn.Module:
    """Give an empty network our weights, in that dtype (None: each network's own) and layout; ours stay as they are."""
    theirs.load_state_dict(ours.state_dict(), assign=True)
    for (name, buffer), (_, own) in zip(list(theirs.named_buffers()), ours.named_buffers(), strict=True):
        place, _, last = name.rpartition(".")
        setattr(theirs.get_submodule(place), last, own if buffer.is_meta else buffer)
    with quiet():
        theirs.to(dtype=dtype or next(ours.parameters()).dtype, memory_format=layout)
    return theirs.eval().requires_grad_(False)


class quiet(warnings.catch_warnings):
    """Without what diffusers says of its own age and of dtypes."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
        self.before = logging.get_verbosity()
        logging.set_verbosity_error()

    def __exit__(self, *what):
        logging.set_verbosity(self.before)
        super().__exit__(*what)
