"""Models of published shapes with random weights: what a network costs depends on its shape only.

    sd15-shape    Stable Diffusion 1.5      sd21-shape    2.1, for 768 px      sdxl-shape    XL
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..core.schedule import Schedule
from ..loading import dtype_of, memory_format_of
from ..loading.sources import TINY
from ..networks.stable_diffusion import StableDiffusion
from ..networks.text import TextModel, make_text_encoder
from ..networks.tokenizer import make_tokenizer
from ..networks.unet import UNet, UNetConfig
from ..networks.vae import VAE, VAEConfig

PLACES = 77                                     # L, CLIP's
VIT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
         "max_position_embeddings": PLACES, "vocab_size": 49408, "hidden_act": "quick_gelu"}
VIT_H = {**VIT_L, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
         "hidden_act": "gelu"}
VIT_G = {**VIT_L, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
         "hidden_act": "gelu", "projection_dim": 1280, "architectures": ["CLIPTextModelWithProjection"]}


@dataclass(frozen=True)
class Shape:
    """What a model is made of."""

    name: str
    unet: UNetConfig = UNetConfig()
    vae: VAEConfig = VAEConfig()
    texts: tuple[dict[str, Any], ...] = (VIT_L,)
    zeros: bool = False                         # whether the empty text is embedded as zeros


SHAPES = {shape.name: shape for shape in (
    Shape("sd15-shape"),
    Shape("sd21-shape", UNetConfig(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, sample_size=96,
                                   use_linear_projection=True, upcast_attention=True), texts=(VIT_H,)),
    Shape("sdxl-shape",
          UNetConfig(block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), sample_size=128,
                     down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                     transformer_layers_per_block=(1, 2, 10), cross_attention_dim=2048, use_linear_projection=True,
                     addition_embed_type="text_time"),
          VAEConfig(scaling_factor=0.13025, force_upcast=True), (VIT_L, VIT_G), True),
)}


@torch.no_grad()
def make(shape: Shape, dtype: torch.dtype, device: str = "cpu") -> StableDiffusion:
    """A model of that shape, in the layout that `load` would give it, with normal weights of variance 1 / inputs: the
    size of what goes through the networks stays the same."""
    tokenizer, random = make_tokenizer(TINY / "tokenizer"), torch.Generator(device).manual_seed(0)
    tokenizer.model_max_length = PLACES
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.device("meta"):
        networks = UNet(shape.unet), VAE(shape.vae), *(make_text_encoder({**text, **ends}) for text in shape.texts)
    for network in networks:
        network.to(dtype_of(network, dtype)).to_empty(device=device).eval().requires_grad_(False)
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1 / math.sqrt(weight[0].numel()), generator=random)
            else:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)   # 1-dim weights are those of norms; biases are 0
            weight.data = weight.contiguous(memory_format=memory_format_of(weight, weight.dtype))
        for buffer in network.buffers():        # the only one: in CLIP, the numbers of the token places
            buffer.copy_(torch.arange(buffer.shape[-1]))
    texts = tuple(TextModel(encoder, tokenizer) for encoder in networks[2:])
    return StableDiffusion(*networks[:2], texts, Schedule.from_config({}), zero_empty_prompt=shape.zeros,
                           name=shape.name)
