"""A name -> files -> a checked model.

    load()                  the embedded model, also "tiny"
    load("random")          tiny random weights, for tests of samplers
    load("path/to/folder")  a checkpoint in the usual layout: unet/ vae/ text_encoder/ tokenizer/ scheduler/

Weights are read from safetensors only (no pickle is executed), and strictly: every name and shape must fit.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .model.names import load_strictly, text_weights, unet_weights, vae_weights
from .model.stable_diffusion import StableDiffusion
from .model.text import make_text_encoder, make_tokenizer
from .model.unet import UNet, UNetConfig
from .model.vae import VAE, VAEConfig
from .schedule import Schedule

TINY = Path(__file__).parent / "tiny" / "checkpoint"
DTYPES = ("float32", "float64", "float16", "bfloat16")

# What a folder in the usual layout must hold.
INDEX, CARD = "model_index.json", "diffedit.json"
CONFIGS = {part: f"{part}/config.json" for part in ("unet", "vae", "text_encoder")}
WEIGHTS = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
SCHEDULER, TOKENIZER = "scheduler/scheduler_config.json", ("tokenizer/vocab.json", "tokenizer/merges.txt")


def load(
    name: str | Path = "tiny",
    *,
    device: str = "auto",
    dtype: str = "auto",
    prediction_type: str | None = None,
    seed: int = 0,
) -> StableDiffusion:
    """The model called `name`, ready to use, gradients of its weights off.

    device: "auto" (cuda, mps or cpu) or a torch device. dtype: "auto" (float32), "float32", "float64", "float16",
    "bfloat16". prediction_type: "epsilon" or "v_prediction", over what the scheduler's config says. seed: of the
    weights of "random". Raises ValueError, in one line that names what is wrong and the way out.
    """
    if str(name) == "random":
        model = random_model(seed, prediction_type or "epsilon")
    else:
        model = load_folder(TINY if str(name) == "tiny" else Path(name), prediction_type)
        model.name = str(name)
    return place(model, device, dtype)


def load_folder(folder: Path, prediction_type: str | None = None) -> StableDiffusion:
    """Read a folder in the usual layout, on the CPU, in float32."""
    if not folder.is_dir():
        raise ValueError(f'{str(folder)!r} is not a folder: give a checkpoint folder, or "tiny" for the embedded model')
    needed = (INDEX, *CONFIGS.values(), *WEIGHTS.values(), SCHEDULER, *TOKENIZER)
    missing = [file for file in needed if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"{str(folder)!r} is not a complete checkpoint folder; missing: {', '.join(missing)}")
    raw = {part: read_json(folder / file) for part, file in CONFIGS.items()}
    scheduler = read_json(folder / SCHEDULER)
    unet_config = UNetConfig.from_dict(raw["unet"], str(folder / CONFIGS["unet"]))
    vae_config = VAEConfig.from_dict(raw["vae"], str(folder / CONFIGS["vae"]))
    with torch.random.fork_rng(devices=[]):     # modules draw weights, only for them to be replaced
        unet, vae, text_encoder = UNet(unet_config), VAE(vae_config), make_text_encoder(raw["text_encoder"])
    for part, module, rename in (
        ("unet", unet, unet_weights), ("vae", vae, vae_weights), ("text_encoder", text_encoder, text_weights),
    ):
        load_strictly(module, rename(read_weights(folder / WEIGHTS[part])), str(folder / WEIGHTS[part]))
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    return StableDiffusion(
        unet, vae, text_encoder, make_tokenizer(folder / "tokenizer"), Schedule.from_config(scheduler),
        prediction_type or scheduler.get("prediction_type", "epsilon"), card.get("defaults", {}), str(folder),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A parsed JSON object; ValueError naming the file if it isn't one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds {type(value).__name__} instead of a JSON object")
    return value


def read_weights(path: Path) -> dict[str, Tensor]:
    """A safetensors file's tensors, in float32; ValueError naming the file if it is damaged."""
    try:
        return {name: weight.float() for name, weight in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): copy it again") from None


def random_model(seed: int = 0, prediction_type: str = "epsilon") -> StableDiffusion:
    """A model of Stable Diffusion's make with tiny random weights: two levels, 32-px pictures, 8 x 8 latents.

    Its pictures are noise; it is for tests of what must hold for *any* network.
    """
    levels = ("CrossAttnDownBlock2D", "DownBlock2D")
    unet = UNetConfig(block_out_channels=(16, 32), down_block_types=levels, layers_per_block=1, attention_head_dim=2,
                      cross_attention_dim=16, norm_num_groups=8, sample_size=8)
    vae = VAEConfig(block_out_channels=(8, 8, 16), layers_per_block=1, norm_num_groups=4)
    tokenizer = make_tokenizer(TINY / "tokenizer")
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = UNet(unet), VAE(vae), make_text_encoder(text)
    return StableDiffusion(*networks, tokenizer, Schedule.from_config({}), prediction_type, name="random")


def place(model: StableDiffusion, device: str, dtype: str) -> StableDiffusion:
    """Move the networks to a device and a dtype, for use."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "auto":
        dtype = "float32"
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not known; known are auto, {', '.join(DTYPES)}")
    try:
        for network in (model.unet, model.vae, model.text_encoder):
            network.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} can't be used: {str(error).splitlines()[0]}") from None
    return model
