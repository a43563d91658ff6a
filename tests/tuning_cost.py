"""What a step of tuning costs at Stable Diffusion's size, on random weights: the process's peak memory, and seconds.

    python tests/tuning_cost.py --method null_text            one iteration on the empty text's embedding
    python tests/tuning_cost.py --method unitune --checkpointing

The U-Net is SD 1.5's; latents are 32 x 32, those of a 256-px picture. Needs about 10 GB for null_text, 20 GB for
unitune, which holds the weights twice, their gradients, and Adam's two averages.
"""

import argparse
import dataclasses
import resource
import time

import torch
from PIL import Image

import diffedit_min as dm
from diffedit_min.networks.text import TextModel, make_text_encoder
from diffedit_min.networks.unet import UNet, UNetConfig

ONE_STEP = {"null_text": {"steps": 1, "iterations": 1, "stop_at": 0.0, "encoding_ratio": 1.0},
            "unitune": {"steps": 1, "tuning_steps": 1, "batch": 1, "encoding_ratio": 1.0}}


def full_size_model() -> dm.StableDiffusion:
    """SD 1.5's U-Net and text width; the VAE is tiny and shrinks pictures by 4 instead of 8."""
    small = dm.load("random", device="cpu")
    tokenizer = small.tokenizer
    config = UNetConfig()
    text = make_text_encoder({
        "vocab_size": len(tokenizer), "hidden_size": config.cross_attention_dim, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 12, "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }).requires_grad_(False)
    torch.manual_seed(0)
    return dataclasses.replace(small, unet=UNet(config).eval().requires_grad_(False),
                               texts=(TextModel(text, tokenizer),), name="random SD 1.5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=ONE_STEP, default="null_text")
    parser.add_argument("--checkpointing", action="store_true")
    arguments = parser.parse_args()
    model, picture = full_size_model(), Image.linear_gradient("L").resize((128, 128)).convert("RGB")
    weights = sum(p.numel() * p.element_size() for p in model.unet.parameters())
    started = time.perf_counter()
    edit = dm.METHODS[arguments.method](model, picture, "a bowl of pears", "a bowl of apples", keep="trace",
                                        checkpointing=arguments.checkpointing, **ONE_STEP[arguments.method])
    seconds = time.perf_counter() - started
    assert edit.backward_rows == 1 and edit.decoded[0].latent.isfinite().all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{arguments.method}, checkpointing {arguments.checkpointing}: peak {peak / 1e6:,.0f} MB "
          f"({weights / 1e6:,.0f} MB of weights), {seconds:.1f} s")


if __name__ == "__main__":
    main()
