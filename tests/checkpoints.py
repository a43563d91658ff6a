"""Checkpoints to test loading with: random weights in the layouts and under the names that people have.

    REAL        the configs of the families that can be loaded, as published
    small(...)  the same shape, a few channels wide
    write_folder, write_single_file

The original names are spelled out here block by block, the other way round than diffedit_min/loading/names.py does it.
"""

import copy
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffedit_min import loading
from diffedit_min.loading.layout import NETWORKS
from diffedit_min.loading.sources import Checkpoint, Network

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
SCHEDULER = {
    "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "clip_sample": False, "num_train_timesteps": 1000, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "trained_betas": None,
}
UNET = {
    "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False, "cross_attention_dim": 768,
    "down_block_types": [CROSS, CROSS, CROSS, PLAIN], "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0,
    "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05, "norm_num_groups": 32,
    "out_channels": 4, "sample_size": 64,
}
UNET_2 = {**UNET, "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True}
UNET_XL = {
    **UNET_2, "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
    "down_block_types": [PLAIN, CROSS, CROSS], "sample_size": 128, "transformer_layers_per_block": [1, 2, 10],
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "upcast_attention": None,
}
VAE = {
    "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "in_channels": 3,
    "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3, "sample_size": 512,
}
TEXT = {
    "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "hidden_act": "quick_gelu", "hidden_size": 768,
    "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12, "max_position_embeddings": 77,
    "vocab_size": 49408, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "layer_norm_eps": 1e-05,
}
TEXT_2 = {**TEXT, "hidden_act": "gelu", "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
          "num_hidden_layers": 23, "projection_dim": 512}
TEXT_XL = {**TEXT, "architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu", "hidden_size": 1280,
           "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32, "projection_dim": 1280}
BK = {**UNET, "layers_per_block": 1}

SD1 = {"unet": UNET, "vae": VAE, "text_encoder": TEXT, "scheduler": SCHEDULER, "index": {}}
SD2 = {**SD1, "unet": UNET_2, "text_encoder": TEXT_2, "scheduler": {**SCHEDULER, "prediction_type": "epsilon"}}
REAL = {
    "sd15": SD1,
    "sd15-inpainting": {**SD1, "unet": {**UNET, "in_channels": 9}},
    "instruct-pix2pix": {**SD1, "unet": {**UNET, "in_channels": 8}},
    "sd21-base": SD2,
    "sd21-768": {**SD2, "unet": {**UNET_2, "sample_size": 96, "upcast_attention": True},
                 "scheduler": {**SCHEDULER, "prediction_type": "v_prediction"}},
    "bk-sdm-base": {**SD1, "unet": BK},
    "bk-sdm-small": {**SD1, "unet": {**BK, "mid_block_type": None}},
    "bk-sdm-tiny": {**SD1, "unet": {**BK, "mid_block_type": None, "block_out_channels": [320, 640, 1280],
                                    "down_block_types": [CROSS] * 3}},
    "sdxl": {"unet": UNET_XL, "vae": {**VAE, "scaling_factor": 0.13025, "force_upcast": True}, "text_encoder": TEXT,
             "text_encoder_2": TEXT_XL, "scheduler": {**SCHEDULER, "prediction_type": "epsilon"},
             "index": {"force_zeros_for_empty_prompt": True}},
}


def small(family: str) -> dict:
    """The family's configs, with few channels and the embedded model's words."""
    configs = copy.deepcopy(REAL[family])
    unet, vae = configs["unet"], configs["vae"]
    widths = (32, 64, 64, 64)[: len(unet["block_out_channels"])]
    unet |= {"block_out_channels": list(widths), "sample_size": 8}
    if isinstance(unet["attention_head_dim"], list):
        unet["attention_head_dim"] = [2, 4, 4, 4][: len(widths)]
    if "transformer_layers_per_block" in unet:
        unet |= {"transformer_layers_per_block": [1, 2, 3], "addition_time_embed_dim": 8,
                 "projection_class_embeddings_input_dim": 24 + 6 * 8}
    vae |= {"block_out_channels": [32, 32, 64, 64], "sample_size": 64}
    width = 0
    for part in ("text_encoder", "text_encoder_2"):
        if part in configs:
            own = 16 if part == "text_encoder" else 24
            configs[part] |= {"hidden_size": own, "intermediate_size": 32, "num_attention_heads": 2,
                              "num_hidden_layers": 3, "vocab_size": 655, "max_position_embeddings": 24,
                              "projection_dim": own, "eos_token_id": 654, "bos_token_id": 653, "pad_token_id": 654}
            width += own
    unet["cross_attention_dim"] = width
    return configs


# ---------------------------------------------------------------- a folder


def full_config(part: str, config: dict) -> dict:
    if part == "unet":
        ups = [kind.replace("Down", "Up") for kind in reversed(config["down_block_types"])]
        return {**config, "up_block_types": ups}
    return config


def write_configs(folder: Path, configs: dict) -> Path:
    """Everything but the weights."""
    parts = [part for part in NETWORKS if part in configs]
    xl = "text_encoder_2" in configs
    index = {
        "_class_name": "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline", "_diffusers_version": "0.30.0",
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"], **configs["index"],
    }
    index |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
              "tokenizer_2": ["transformers", "CLIPTokenizer"]} if xl else {
              "safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    files = {f"{part}/config.json": full_config(part, configs[part]) for part in parts}
    files |= {"model_index.json": index,
              "scheduler/scheduler_config.json": {**configs["scheduler"], "_class_name": "DDIMScheduler"}}
    for name, config in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    for part in parts:
        if "text" in part:
            shutil.copytree(loading.TINY / "tokenizer", folder / part.replace("text_encoder", "tokenizer"),
                            dirs_exist_ok=True)
    return folder


def random_weights(configs: dict, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, dict[str, Tensor]]:
    """By network, under the folder's names."""
    parts = [part for part in NETWORKS if part in configs]
    empty = loading.empty_networks(Checkpoint(
        "", {part: Network(full_config(part, configs[part]), None, {}, ()) for part in parts}, (), {}, {}, "epsilon",
    ))
    random, weights = torch.Generator().manual_seed(seed), {}
    for part, module in empty.items():
        weights[part] = {}
        for name, weight in module.named_parameters():
            numbers = torch.randn(weight.shape, generator=random)
            if weight.ndim > 1:
                numbers /= weight[0].numel() ** 0.5         # keeps what goes through at its size
            elif name.endswith("weight"):
                numbers = 1 + 0.1 * numbers                 # of a norm
            else:
                numbers *= 0.1
            weights[part][name] = numbers.to(dtype)
    return weights


def write_folder(
    folder: Path, configs: dict, weights: dict[str, dict[str, Tensor]] | None = None, variant: str = ""
) -> Path:
    """A checkpoint in the usual layout."""
    write_configs(folder, configs)
    for part, state in (weights or random_weights(configs)).items():
        save_file(state, folder / part / f"{NETWORKS[part]}{variant}.safetensors", {"format": "pt"})
    return folder


# ---------------------------------------------------------------- one file, in the original names

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def unet_blocks(config: dict) -> dict[str, str]:
    """Our modules -> the original ones, without what is inside them."""
    kinds, layers = config["down_block_types"], config["layers_per_block"]
    names = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "conv_out": "out.2",
             "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
             "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
             "mid_block.resnets.1": "middle_block.2"}
    number = 1
    for level in range(len(kinds)):
        for i in range(layers):
            names[f"down_blocks.{level}.resnets.{i}"] = f"input_blocks.{number}.0"
            names[f"down_blocks.{level}.attentions.{i}"] = f"input_blocks.{number}.1"
            number += 1
        if level < len(kinds) - 1:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level, kind in enumerate(reversed(kinds)):
        for i in range(layers + 1):
            names[f"up_blocks.{level}.resnets.{i}"] = f"output_blocks.{number}.0"
            names[f"up_blocks.{level}.attentions.{i}"] = f"output_blocks.{number}.1"
            if i == layers:
                place = 2 if kind == CROSS else 1
                names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number}.{place}.conv"
            number += 1
    return names


def vae_blocks(config: dict) -> dict[str, str]:
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    names = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        names |= {f"{side}.conv_in": f"{side}.conv_in", f"{side}.conv_out": f"{side}.conv_out",
                  f"{side}.conv_norm_out": f"{side}.norm_out", f"{side}.mid_block.resnets.0": f"{side}.mid.block_1",
                  f"{side}.mid_block.resnets.1": f"{side}.mid.block_2"}
        inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
        for ours, theirs in inner.items():
            names[f"{side}.mid_block.attentions.0.{ours}"] = f"{side}.mid.attn_1.{theirs}"
    for level in range(levels):
        for i in range(layers + 1):
            names[f"encoder.down_blocks.{level}.resnets.{i}"] = f"encoder.down.{level}.block.{i}"
            names[f"decoder.up_blocks.{level}.resnets.{i}"] = f"decoder.up.{levels - 1 - level}.block.{i}"
        names[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = f"encoder.down.{level}.downsample.conv"
        names[f"decoder.up_blocks.{level}.upsamplers.0.conv"] = f"decoder.up.{levels - 1 - level}.upsample.conv"
    return names


def renamed(state: dict[str, Tensor], blocks: dict[str, str], inner: dict[str, str], prefix: str) -> dict[str, Tensor]:
    result = {}
    for name, weight in state.items():
        block = max((block for block in blocks if name.startswith(f"{block}.")), key=len)
        parts = name[len(block) + 1 :].split(".")
        rest = ".".join([inner.get(parts[0], parts[0]), *parts[1:]]) if ".resnets." in name else ".".join(parts)
        result[f"{prefix}{blocks[block]}.{rest}"] = weight
    return result


def openclip(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    state = {name.removeprefix("text_model."): weight for name, weight in state.items()}
    result = {f"{prefix}token_embedding.weight": state["embeddings.token_embedding.weight"],
              f"{prefix}positional_embedding": state["embeddings.position_embedding.weight"],
              f"{prefix}ln_final.weight": state["final_layer_norm.weight"],
              f"{prefix}ln_final.bias": state["final_layer_norm.bias"], f"{prefix}logit_scale": torch.tensor(4.6)}
    layers = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.layers."))
    for i in range(layers):
        ours, theirs = f"encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}"
        for leaf in ("weight", "bias"):
            joint = torch.cat([state[f"{ours}.self_attn.{to}_proj.{leaf}"] for to in "qkv"])
            result[f"{theirs}.attn.in_proj_{leaf}"] = joint
            for own, original in {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
                                  "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}.items():
                result[f"{theirs}.{original}.{leaf}"] = state[f"{ours}.{own}.{leaf}"]
    if "text_projection.weight" in state:       # SD XL
        result[f"{prefix}text_projection"] = state["text_projection.weight"].T.contiguous()
    else:                                       # SD 2.x: one more layer than is used, and a projection that isn't
        last, unused = f"{prefix}transformer.resblocks.{layers - 1}", f"{prefix}transformer.resblocks.{layers}"
        result |= {name.replace(last, unused): weight + 1 for name, weight in result.items() if name.startswith(last)}
        width = state["final_layer_norm.weight"].shape[0]
        result[f"{prefix}text_projection"] = torch.ones(width, width)
    return result


def original_state(configs: dict, weights: dict[str, dict[str, Tensor]], ema: bool = False) -> dict[str, Tensor]:
    """The single file's tensors, with what training left in it."""
    unet = renamed(weights["unet"], unet_blocks(configs["unet"]), RESNET, "model.diffusion_model.")
    vae = renamed(weights["vae"], vae_blocks(configs["vae"]), {"conv_shortcut": "nin_shortcut"}, "first_stage_model.")
    vae = {name: weight[:, :, None, None] if ".attn_1." in name and weight.ndim == 2 else weight
           for name, weight in vae.items()}
    text = {name.removeprefix("text_model."): weight for name, weight in weights["text_encoder"].items()}
    text = {f"text_model.{name}": weight for name, weight in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(configs["text_encoder"]["max_position_embeddings"])[None]
    if "text_encoder_2" in configs:
        texts = {f"conditioner.embedders.0.transformer.{name}": weight for name, weight in text.items()}
        texts |= openclip(weights["text_encoder_2"], "conditioner.embedders.1.model.")
    elif configs["text_encoder"]["hidden_act"] == "gelu":
        texts = openclip(weights["text_encoder"], "cond_stage_model.model.")
    else:
        texts = {f"cond_stage_model.transformer.{name}": weight for name, weight in text.items()}
    rest = {"betas": torch.ones(1000), "alphas_cumprod": torch.ones(1000)}
    if ema:
        for name, weight in unet.items():
            rest[f"model_ema.{name.removeprefix('model.').replace('.', '')}"] = weight + 1
        rest |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1)}
    return {**unet, **vae, **texts, **rest}


def write_single_file(path: Path, configs: dict, weights: dict[str, dict[str, Tensor]], ema: bool = False) -> Path:
    """By the file's name: .safetensors, or a PyTorch file with the weights as its `state_dict`."""
    state = {name: weight.contiguous() for name, weight in original_state(configs, weights, ema).items()}
    if path.suffix == ".safetensors":
        save_file({name: weight.clone() for name, weight in state.items()}, path, {"format": "pt"})
    else:
        torch.save({"state_dict": state, "global_step": 470000, "epoch": 0}, path)
    return path
