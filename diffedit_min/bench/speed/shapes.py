"""Full-size networks with random weights. What a network costs depends on its shape only, not on what it has learnt.

    sd15-shape   Stable Diffusion 1.x       sd21-shape   2.x (the 512-px one)       sdxl-shape   XL

The text encoders are full-size too; only the words are the embedded model's, padded to CLIP's 77 places.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...core.schedule import Schedule
from ...loading import HALF, memory_format_of
from ...loading.sources import TINY
from ...networks.stable_diffusion import StableDiffusion
from ...networks.text import TextModel, make_text_encoder, make_tokenizer
from ...networks.unet import UNet, UNetConfig
from ...networks.vae import VAE, VAEConfig

PLACES = 77     # L, CLIP's

# text_encoder/config.json of CLIP ViT-L/14, of OpenCLIP ViT-H/14 as SD 2.x has it, and of OpenCLIP ViT-bigG/14.
VIT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
         "max_position_embeddings": PLACES, "vocab_size": 49408, "hidden_act": "quick_gelu"}
VIT_H = {**VIT_L, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23,
         "hidden_act": "gelu"}
VIT_G = {**VIT_L, "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
         "hidden_act": "gelu", "projection_dim": 1280, "architectures": ["CLIPTextModelWithProjection"]}


@dataclass(frozen=True)
class Shape:
    """The configs of one family; the defaults are SD 1.x's."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    texts: tuple[dict[str, Any], ...] = (VIT_L,)
    zero_empty_prompt: bool = False

    @property
    def side(self) -> int:
        """Pixels along each side of the pictures that it is for."""
        return self.unet.sample_size * self.vae.factor


SHAPES = {
    "sd15-shape": Shape(),
    "sd21-shape": Shape(
        UNetConfig(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True),
        texts=(VIT_H,),
    ),
    "sdxl-shape": Shape(
        UNetConfig(block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
                   down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                   transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
                   addition_embed_type="text_time", sample_size=128),
        VAEConfig(scaling_factor=0.13025, force_upcast=True), (VIT_L, VIT_G), zero_empty_prompt=True,
    ),
}


def make(name: str, dtype: torch.dtype) -> StableDiffusion:
    """The model of that shape in memory, on the CPU, each network in the dtype and layout that `load` would give it."""
    shape = SHAPES[name]
    unet, vae, *texts = empty_networks(shape)
    in_full = shape.vae.force_upcast and dtype in HALF
    for network in (unet, vae, *texts):
        fill_randomly(network, torch.float32 if in_full and network is vae else dtype)
    tokenizer = make_tokenizer(TINY / "tokenizer")
    tokenizer.model_max_length = PLACES
    return StableDiffusion(unet, vae, tuple(TextModel(text, tokenizer) for text in texts), Schedule.from_config({}),
                           zero_empty_prompt=shape.zero_empty_prompt, name=name)


def empty_networks(shape: Shape) -> list[nn.Module]:
    """U-Net, VAE and text encoders on the meta device: shapes without memory."""
    tokenizer = make_tokenizer(TINY / "tokenizer")
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.device("meta"):
        return [UNet(shape.unet), VAE(shape.vae), *(make_text_encoder({**text, **ends}) for text in shape.texts)]


@torch.no_grad()
def fill_randomly(network: nn.Module, dtype: torch.dtype) -> None:
    """Give an empty network weights with which what goes through it keeps its size: normal, of variance 1 / inputs."""
    network.to(dtype).to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, 1 / math.sqrt(weight[0].numel()), generator=random)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)       # of norms; biases
        weight.data = weight.contiguous(memory_format=memory_format_of(weight, dtype))
    for buffer in network.buffers():        # CLIP counts its token places in one
        buffer.copy_(torch.arange(buffer.shape[-1]))
    network.eval().requires_grad_(False)
