"""Run: python -m pytest tests/test_refusals.py

The table in weights.md of what is read, read with a warning, or refused: every row is built here and loaded, and the
table holds exactly the rows of `CASES`. To add a row: a line in the table, and a `Case` with the same first column.
"""

import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import checkpoints
import pytest
import torch
from learnt import learnt
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.core.schedule import Schedule
from diffedit_min.loading.layout import SCHEDULER

TABLE = Path(__file__).parent.parent / "weights.md"
UNET = "unet/diffusion_pytorch_model.safetensors"
SMALLEST = "bk-sdm-tiny"        # of SD 1.x, with half its blocks


class Case(NamedTuple):
    """One way to meet a row of the table."""

    title: str                          # the row's first column
    outcome: str                        # its second: "read", "warned" or "refused"
    make: Callable[[Path], Any]         # writes it into an empty folder -> its path, or (path, options of `load`)
    message: str = ""                   # a part of the warning or of the refusal; of what is read, what it predicts


# ---------------------------------------------------------------- builders


@cache
def weights_of(family: str) -> dict[str, dict[str, torch.Tensor]]:
    return checkpoints.random_weights(checkpoints.small(family))


def folder(path: Path, family: str = SMALLEST, scheduler: dict[str, Any] | None = None, **index: Any) -> Path:
    """A small folder; scheduler and index: entries of its configs."""
    made = checkpoints.write_folder(path / "folder", checkpoints.small(family), weights_of(family))
    for file, entries in ((SCHEDULER, scheduler or {}), ("model_index.json", index)):
        change_json(made / file, **entries)
    return made


def change_json(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def changed(path: Path, family: str = SMALLEST, file: str = UNET, **entries: Any) -> Path:
    """A small folder with entries of one of its configs, or of its weights, replaced."""
    made = folder(path, family)
    if file.endswith(".json"):
        change_json(made / file, **entries)
    else:
        save_file({**load_file(made / file), **entries}, made / file)
    return made


@cache
def learnt_v() -> tuple[dict, dict[str, dict[str, torch.Tensor]]]:
    with tempfile.TemporaryDirectory() as path:
        return learnt("v_prediction", Path(path))


def of_learnt_v(path: Path, single_file: bool = False) -> Any:
    """A small checkpoint that predicts v: in a folder that says epsilon, or in a file of SD 2.x that says nothing."""
    configs, weights = learnt_v()
    configs = {**configs, "scheduler": {**configs["scheduler"], "prediction_type": "epsilon"}}
    made = checkpoints.write_folder(path / "folder", configs, weights)
    if not single_file:
        return made
    change_json(made / SCHEDULER, prediction_type=None)
    return checkpoints.write_single_file(path / "x.safetensors", configs, weights), {"config": made}


def without(made: Path, *files: str) -> Path:
    for file in files:
        (made / file).unlink()
    return made


def single(
    path: Path, family: str = SMALLEST, name: str = "x.safetensors", add: dict[str, torch.Tensor] | None = None,
    metadata: dict[str, str] | None = None, rename: Callable[[str], str | None] = lambda name: name,
    config_says: str | None = None,
) -> tuple[Path, dict[str, Any]]:
    """A small checkpoint in one file, with names replaced (None: left out), then `add`ed tensors and metadata.

    Its configs are in a folder beside it. config_says: the prediction_type in them.
    """
    configs = checkpoints.small(family)
    state = checkpoints.original_state(configs, weights_of(family))
    state = {new: weight.clone().contiguous() for old, weight in state.items() if (new := rename(old))} | (add or {})
    file = path / name
    torch.save(state, file) if file.suffix == ".ckpt" else save_file(state, file, metadata)
    configs["scheduler"]["prediction_type"] = config_says
    return file, {"config": checkpoints.write_configs(path / "configs", configs)}


def plain(path: Path, family: str = SMALLEST, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """A single file whose configs say that it predicts epsilon."""
    return single(path, family, config_says="epsilon", **changes)


def inpainting_xl(path: Path) -> tuple[Path, dict[str, Any]]:
    """SD XL with nine input channels, and the configs of SD XL itself."""
    first = "model.diffusion_model.input_blocks.0.0.weight"
    return plain(path, "sdxl", add={first: torch.ones(32, 9, 3, 3)})


def with_yaml(path: Path, params: str, family: str = SMALLEST) -> tuple[Path, dict[str, Any]]:
    """A single file with an original config beside it, whose model.params are these lines."""
    made, options = single(path, family)
    (path / "x.yaml").write_text(f"model:\n  target: x.LatentDiffusion\n  params:\n{indent(params, ' ' * 4)}")
    return made, options


def denoiser(scaling: str, levels: str = "LegacyDDPMDiscretization", kind: str = "DiscreteDenoiser") -> str:
    """The part of SD XL's original config that shows what the U-Net predicts."""
    return (f"denoiser_config:\n  target: sgm.{kind}\n  params:\n    scaling_config:\n      target: sgm.{scaling}\n"
            f"    discretization_config:\n      target: sgm.{levels}")


def named(made: Path | tuple, name: str) -> Any:
    """The same checkpoint under another name."""
    path, options = made if isinstance(made, tuple) else (made, {})
    return path.rename(path.with_name(name)), options


def variant(path: Path, name: str, *names: str) -> Path:
    """A small folder whose U-Net's weights are in other files, spread over them."""
    made = folder(path)
    state = list(load_file(made / UNET).items())
    (made / UNET).unlink()
    for i, file in enumerate((name, *names)):
        save_file(dict(state[i :: 1 + len(names)]), made / "unet" / file)
    return made


def nested(path: Path, *keys: str) -> tuple[Path, dict[str, Any]]:
    """A .ckpt whose weights are in dicts under these keys, beside what training leaves."""
    made, options = plain(path, name="x.ckpt")
    state: dict[str, Any] = torch.load(made)
    for key in keys:
        state = {key: state, "epoch": 3}
    torch.save(state, made)
    return made, options


def tensors_in(path: Path, *names: str) -> Path:
    save_file({name: torch.zeros(2, 2) for name in names}, path / "x.safetensors")
    return path / "x.safetensors"


def bytes_in(path: Path, data: bytes, name: str = "x.safetensors") -> Path:
    (path / name).write_bytes(data)
    return path / name


def cut_off(path: Path) -> Path:
    file, _ = single(path)
    return bytes_in(path, file.read_bytes()[:-1])


def with_code(path: Path) -> Path:
    torch.save({"a": Path("x")}, path / "x.ckpt")
    return path / "x.ckpt"


def spanned_zip(path: Path) -> Path:
    """A .ckpt that says it is the second disk of a zip."""
    file, _ = single(path, name="x.ckpt")
    data = bytearray(file.read_bytes())
    locator = data.rfind(b"PK\x06\x07")
    data[locator + 16 : locator + 20] = (9).to_bytes(4, "little")
    return bytes_in(path, bytes(data), "x.ckpt")


def fifo(path: Path) -> Path:
    os.mkfifo(path / "x.safetensors")
    return path / "x.safetensors"


def loop(path: Path) -> Path:
    (path / "a").symlink_to(path / "a")
    return path / "a"


def without_start(*starts: str) -> Callable[[str], str | None]:
    return lambda name: None if name.startswith(starts) else name


NAN, HUGE = torch.full((4,), torch.nan, dtype=torch.float16), torch.full((4,), 1e30)
SD_ABAR = Schedule.from_config({}).abar
MARK, ONE = torch.zeros(0), torch.ones(1)
CLASS = "scheduler/scheduler_config.json"

def with_card(path: Path, **values: Any) -> Path:
    made = folder(path)
    (made / "diffedit.json").write_text(json.dumps({"defaults": values}))
    return made


def with_tokenizer(path: Path, family: str = "sd15", **files: dict[str, Any] | None) -> Path:
    """A small folder with entries of its tokenizer's files changed (vocab: of vocab.json), or without them (None)."""
    made = folder(path, family)
    for name, entries in files.items():
        file = made / "tokenizer" / f"{name}.json"
        if entries is None:
            file.unlink()
        else:
            change_json(file, **entries) if file.is_file() else file.write_text(json.dumps(entries))
    return made


def saved_today(path: Path, **changes: Any) -> Path:
    """A small folder with its tokenizer in tokenizer.json, and with these changes there."""
    made = folder(path)
    CLIPTokenizer.from_pretrained(made / "tokenizer").save_pretrained(path / "new")
    without(made, *(f"tokenizer/{file.name}" for file in (made / "tokenizer").iterdir()))
    for file in (path / "new").iterdir():
        file.rename(made / "tokenizer" / file.name)
    change_json(made / "tokenizer/tokenizer.json", **changes)
    return made


def without_a_letter(path: Path) -> Path:
    made = folder(path)
    vocabulary = json.loads((made / "tokenizer/vocab.json").read_text())
    del vocabulary["Q</w>"]
    (made / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    return made


def with_two_vocabularies(path: Path) -> Path:
    made = saved_today(path)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(loading.TINY / "tokenizer" / file, made / "tokenizer")
    change_json(made / "tokenizer/vocab.json", **{"bowl</w>": 540, "apples</w>": 525})
    return made


def with_another_text_encoder(path: Path) -> Path:
    """Of another width than the U-Net takes."""
    configs = checkpoints.small("sd15")
    configs["text_encoder"]["hidden_size"] = 24
    return checkpoints.write_folder(path / "folder", configs, checkpoints.random_weights(configs))


def without_entries(made: Path, file: str, *keys: str) -> Path:
    """The folder with these entries of one of its configs left out."""
    entries = json.loads((made / file).read_text())
    (made / file).write_text(json.dumps({key: value for key, value in entries.items() if key not in keys}))
    return made


def half_zeros(path: Path) -> Path:
    """A small folder whose U-Net's file ends in zeros, as of a download that was not finished."""
    made = folder(path)
    state = load_file(made / UNET)
    later = sorted(state)[len(state) // 2 :]
    save_file(state | {name: torch.zeros_like(state[name]) for name in later}, made / UNET)
    return made


def with_half_the_merges(path: Path) -> Path:
    made = folder(path)
    lines = (made / "tokenizer/merges.txt").read_text().splitlines()
    (made / "tokenizer/merges.txt").write_text("\n".join(lines[: len(lines) // 2]))
    return made


def with_a_stale_shard(path: Path) -> Path:
    """A small folder, one of whose shards also holds a weight that another one holds."""
    files = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    made = variant(path, *files)
    first, second = (load_file(made / "unet" / file) for file in files)
    save_file(second | {"conv_in.bias": first["conv_in.bias"] + 1}, made / "unet" / files[1])
    return made


def tiny_scaled_up(path: Path) -> Path:
    """The embedded checkpoint with the inverse of Stable Diffusion's scaling."""
    made = Path(shutil.copytree(loading.TINY, path / "folder"))
    change_json(made / "vae/config.json", scaling_factor=5.49)
    return made


def wide_text_of_two_heads(path: Path) -> Path:
    """A small folder whose text encoder has the width of SD 1.x's, but not its heads."""
    configs = checkpoints.small(SMALLEST)
    configs["text_encoder"] |= {"hidden_size": 768, "projection_dim": 768, "num_hidden_layers": 1}
    configs["unet"] |= {"cross_attention_dim": 768, "attention_head_dim": 8}
    return checkpoints.write_folder(path / "folder", configs, checkpoints.random_weights(configs))


def with_mark(path: Path) -> Path:
    """A small folder with a byte order mark before each of its texts, as some editors write it."""
    made = folder(path)
    for file in (*made.glob("*/*.json"), *made.glob("*/*.txt"), *made.glob("*.json")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    return made


def without_second_text(path: Path) -> Path:
    """SD XL without a file of its second text encoder, which only model_index.json tells of."""
    made = folder(path, "sdxl")
    for name in ("text_encoder_2", "tokenizer_2"):
        shutil.rmtree(made / name)
    return made


def with_channels(path: Path, channels: int) -> Path:
    """A small folder whose U-Net takes so many channels."""
    configs = checkpoints.small(SMALLEST)
    configs["unet"]["in_channels"] = channels
    return checkpoints.write_folder(path / "folder", configs, checkpoints.random_weights(configs))


# ---------------------------------------------------------------- the rows

FOLDER = "a folder with `.safetensors` or `.bin` files, whole or in shards, in variants fp16 and bf16, old or new names"
SINGLE = "a `.safetensors` or `.ckpt` file of SD 1.x, SD 2.x or SD XL, also inpainting and InstructPix2Pix"
SAYS = "a file that says what it predicts: a key (`v_pred`), metadata, a `.yaml` beside it or as `config=`"
FEW = "a model that was distilled for few steps: LCM, TCD, Turbo, Lightning, Hyper-SD, as class, spacing or name show"
DIFFERENT = "a single file and `config=` that say different predictions"
LACKS = "a folder that lacks needed files, or has its weights only in another variant (non_ema), or not all shards"
FIT = "weights that don't fit the config"
DAMAGED = "a file that is cut off or damaged"
OTHER = "a web page, a Git LFS pointer, a picture, an archive, ... in place of weights"
ADDITION = "a LoRA, a ControlNet, an IP-Adapter, a textual inversion, also together with a checkpoint"
PART = "one network of a folder; a single file without its VAE, U-Net or text encoder"
RELATED = ("a relative with other inputs: depth, upscaler, unCLIP, Zero123, GLIGEN, video, Marigold, a pictu"
           "re in place of the text, LCM that takes the scale")
CODE = "a pickle with more than tensors"
SWITCH = "a config with a switch that the networks here don't have, or an impossible size"
ZERO = ("zero terminal SNR: the key `ztsnr`, metadata, a `.yaml`, `rescale_betas_zero_snr`"
        ", a file's `alphas_cumprod`")
EDM = "EDM: the keys `edm_mean`, `edm_std`, `edm_vpred...` (Playground 2.5, CosXL), a `.yaml`, the classes `EDM...`"
FLOW = "flow matching: the classes `FlowMatch...`, `use_flow_sigmas`"
UNKNOWN = "another scheduler class than those of DDPM"
CONTRADICTION = "a file that says both epsilon and v"
NEITHER = "a prediction that is not epsilon, v or the clean latent (`sample`)"
SHOWN = "a file in which nothing says what it predicts, but whose network shows it"
CONTRADICTED = "a checkpoint whose network clearly contradicts what is said of it"
UNSAID = "a file of SD 1.x or SD XL in which nothing says what it predicts, and whose network doesn't show it"
UNSAID_2 = "the same of SD 2.x, of which there are both kinds"
YAML = "a `.yaml` that can't be read, or as `config=` is no original config"
NUMBERS = "weights that are no floats of 16, 32 or 64 bits (8-bit floats, integers, quantised)"
DEVICE = "a device, a FIFO, a symbolic link to itself, a path that is too long"

EPS, V = "epsilon", "v_prediction"
TODAY = "a tokenizer in `tokenizer.json` alone, as it is saved today; without a config; with any `model_max_length`"
SAMPLERS_OWN = "a scheduler's class, spacing, thresholds, clipping, `steps_offset` 0, values that are null"
CARD_FILE = "a card (`diffedit.json`) that names a file or a model, or says what its methods can't be told"
CARD_METHOD = "a card with a method that isn't known here"
KINDS = "a value in a config that is of a wrong kind or out of range"
PIPELINE = "another kind of model: a diffusion transformer, Kandinsky, video, SD XL's refiner, an upscaler"
TEXT_KIND = "another text encoder or tokenizer than CLIP's"
MIXED = "networks of different models: widths, channels or numbers of text encoders that don't fit together"
TOKENS = "a damaged tokenizer, tokens that the text encoder doesn't know, two different vocabularies"
SMALLER = ("a tokenizer with far fewer tokens than the text encoder knows, without tokens for some letters, "
           "or with its merges cut off")
XL = "SD XL whose configs lack `scaling_factor`, `force_upcast` or `force_zeros_for_empty_prompt`"
OTHERS = ("a VAE's `scaling_factor` that is another family's or far too large; betas that are the defaults o"
          "f scheduler classes")
TWICE = "a weight that is there twice: in one file under two names, or in two shards"
SKIP = "a file of SD 1.x trained on an inner layer of the text encoder (clip skip), as metadata or a `.yaml` say"
MARK_UNKNOWN = "a single file with a mark (a name without a dot) that isn't known here"
HEADS = ("a U-Net or text encoder whose config says other heads or another activation than published models "
         "of its sizes have")
LEVELS = "a single file whose own noise levels (`alphas_cumprod`) differ from those of its configs"
ZEROS = "weights that are all zeros"

CASES = [
    Case(XL, "read", lambda path: without_entries(folder(path, "sdxl"), "vae/config.json", "scaling_factor"), EPS),
    Case(XL, "read", lambda path: without_entries(folder(path, "sdxl"), "model_index.json",
                                                  "force_zeros_for_empty_prompt"), EPS),
    *(Case(OTHERS, "warned", lambda path, family=family, scaling=scaling: changed(
        path, family, "vae/config.json", scaling_factor=scaling), f"is {scaling}, but that of {which} is")
      for family, scaling, which in (("sdxl", 0.18215, "SD XL"), ("sd15", 0.13025, "SD 1.x or 2.x"))),
    Case(OTHERS, "warned", lambda path: folder(path, scheduler={
        "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}), "the defaults of scheduler classes"),
    Case(TWICE, "refused", lambda path: plain(path, add={"cond_stage_model.transformer.final_layer_norm.bias":
                                                         torch.ones(16)}), "holds the same weight twice, as"),
    Case(TWICE, "refused", lambda path: plain(path, add={"cond_stage_model.model.ln_final.bias": torch.ones(16)}),
         "holds the same weight twice, as"),
    Case(TWICE, "refused", with_a_stale_shard, "both hold conv_in.bias, so they are not of the same save"),
    Case(OTHERS, "warned", tiny_scaled_up, "latent is 11 large; usual is about 1. Its VAE's scaling_factor of 5.49"),
    Case(FOLDER, "read", lambda path: changed(path, file="text_encoder/model.safetensors", **{
        "text_projection.weight": torch.ones(16, 16)}), EPS),
    Case(SINGLE, "read", lambda path: plain(path, rename=lambda name: re.sub(
        r"attn_1\.([qkv])\.", r"attn_1.to_\1.", name).replace("attn_1.proj_out", "attn_1.to_out.0")), EPS),
    *(Case(SKIP, "warned", lambda path, metadata=metadata: plain(path, metadata=metadata), '("clip skip")')
      for metadata in ({"modelspec.encoder_layer": "2"}, {"ss_clip_skip": "2"})),
    Case(SKIP, "warned", lambda path: with_yaml(
        path, "cond_stage_config:\n  params:\n    layer: hidden\n    layer_idx: 11"), "says x.yaml"),
    *(Case(MARK_UNKNOWN, "warned", lambda path, mark=mark: plain(path, "sdxl", add={mark: ONE}), f"holds '{mark}'")
      for mark in ("zsnr", "sigma_data")),
    Case(HEADS, "warned", wide_text_of_two_heads, "num_attention_heads = 2, or nothing; text encoders that are 768"),
    Case(LEVELS, "warned", lambda path: plain(path, add={"alphas_cumprod": torch.linspace(0.999, 0.005, 1000)}),
         "holds other noise levels (alphas_cumprod) than its configs"),
    Case(SINGLE, "read", lambda path: plain(path, add={"alphas_cumprod": torch.tensor(SD_ABAR).half()}), EPS),
    Case(ZERO, "refused", lambda path: plain(path, add={"alphas_cumprod": torch.linspace(0.999, 0, 1000)}),
         "zero terminal SNR (abar is 0 at the last level), which is not supported (its alphas_cumprod end at 0)"),
    Case(ZEROS, "warned", half_zeros, "weights are zeros, among them up_blocks."),
    Case(SMALLER, "warned", with_half_the_merges, "tokens that no merge makes, among them"),
    Case(LACKS, "refused", without_second_text, "missing: text_encoder_2/config.json, tokenizer_2/vocab.json"),
    *(Case(RELATED, "refused", lambda path, entry=entry: folder(path, **entry), message) for entry, message in (
        ({"_class_name": "MarigoldDepthPipeline"}, "tells depth or normals from a picture"),
        ({"_class_name": "StableDiffusionImageVariationPipeline"}, "a picture in place of a text"),
        ({"text_encoder": [None, None], "image_encoder": ["transformers", "CLIPVisionModelWithProjection"]},
         "takes a picture in place of a text"))),
    Case(RELATED, "refused", lambda path: with_channels(path, 5), "but the U-Net takes 5 and makes 4 (known are"),
    *(Case(ADDITION, "refused", lambda path, name=name: tensors_in(path, name), what) for name, what in (
        ("unet.down_blocks.0.attn1.processor.to_q_lora.down.weight", "looks like a LoRA"),
        ("down_blocks.0.attn1.processor.to_q_lora.down.weight", "looks like a LoRA"),
        ("text_encoder.layers.0.k_proj.lora_linear_layer.down.weight", "looks like a LoRA"),
        ("lora_te_text_model_encoder_layers_0.hada_w1_a", "looks like a LoRA"),
        ("down_blocks.0.attn2.processor.to_k_custom_diffusion.weight", "looks like a LoRA"),
        ("ip_adapter.1.to_k_ip.weight", "looks like an IP-Adapter"))),
    *(Case(PART, "refused", lambda path, start=start: plain(path, "sdxl", rename=without_start(start)), what)
      for start, what in (("conditioner.embedders.0", "looks like SD XL without its first text encoder"),
                          ("conditioner.embedders.1", "looks like SD XL without its second text encoder"))),
    Case(TEXT_KIND, "refused", lambda path: plain(path, rename=lambda name: name.replace(
        "cond_stage_model.transformer", "cond_stage_model.roberta")), "a checkpoint whose text encoder is not CLIP's"),
    Case(PIPELINE, "refused", lambda path: tensors_in(path, "model.diffusion_model.layers.0.x", "vae.x"),
         "a model whose network is not Stable Diffusion's U-Net"),
    Case(KINDS, "refused", lambda path: changed(path, file="vae/config.json", scaling_factor="0.18215"),
         "scaling_factor = '0.18215' is not a number"),
    Case(KINDS, "refused", lambda path: with_yaml(path, "beta_schedule: [a]"), "beta_schedule = ['a'] is not"),
    Case(FEW, "warned", lambda path: named(plain(path), "sdxl-flash.safetensors"), "in its name"),
    Case(TODAY, "read", saved_today),
    Case(TODAY, "read", lambda path: with_tokenizer(path, tokenizer_config=None, special_tokens_map=None)),
    *(Case(TODAY, "read", lambda path, length=length: with_tokenizer(path, tokenizer_config={
        "model_max_length": length})) for length in (10**30, 2**53, "77")),
    *(Case(SAMPLERS_OWN, "read", lambda path, entry=entry: folder(path, scheduler=entry)) for entry in (
        {"steps_offset": 0}, {"steps_offset": None, "num_train_timesteps": None, "beta_schedule": None},
        {"timestep_spacing": "linspace", "clip_sample": True, "thresholding": True, "sample_max_value": 1.0},
        {"prediction_type": "sample"}, {"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True})),
    Case(CARD_METHOD, "warned", lambda path: with_card(path, of_a_plugin={"x": 1}), "'of_a_plugin' is not a method"),
    Case(SMALLER, "warned", without_a_letter, "lacks tokens for 1 of the 256 bytes"),
    Case(CARD_FILE, "refused", lambda path: with_card(path, unitune={"save": "x.safetensors"}), "save names a file"),
    Case(CARD_FILE, "refused", lambda path: with_card(path, diffedit={"steps": "5"}), "steps must be a whole number"),
    *(Case(KINDS, "refused", lambda path, entry=entry: folder(path, scheduler=entry), message) for entry, message in (
        ({"num_train_timesteps": 3 * 10**8}, "num_train_timesteps = 300000000 is not supported"),
        ({"beta_start": "0.00085"}, "beta_start = '0.00085' is not supported"),
        ({"beta_end": -0.012}, "beta_end = -0.012 is not supported"),
        ({"beta_end": float("nan")}, "beta_end = nan is not supported"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "(only scaled_linear or linear)"),
        ({"steps_offset": 10**60}, "is not supported (only 0 or 1)"),
        ({"set_alpha_to_one": "false"}, "set_alpha_to_one = 'false' is not supported"),
        ({"trained_betas": [0.1, None]}, "trained_betas = [0.1, None] is not supported"))),
    *(Case(KINDS, "refused", lambda path, file=file, entry=entry: changed(path, file=file, **entry), message)
      for file, entry, message in (
        ("unet/config.json", {"upcast_attention": "false"}, "upcast_attention = 'false' is not true or false"),
        ("unet/config.json", {"norm_eps": float("nan")}, "norm_eps = nan"),
        ("vae/config.json", {"force_upcast": "no"}, "force_upcast = 'no' is not true or false"),
        ("vae/config.json", {"scaling_factor": True}, "scaling_factor = True is not a number"),
        ("text_encoder/config.json", {"layer_norm_eps": float("nan")}, "layer_norm_eps = nan"),
        ("text_encoder/config.json", {"hidden_act": "swish"}, "(only quick_gelu or gelu)"),
        ("text_encoder/config.json", {"architectures": "CLIPTextModel"}, "is not a list of names"),
        ("model_index.json", {"force_zeros_for_empty_prompt": "false"}, "'false' is not true or false"),
        ("model_index.json", {"unet": "UNet2DConditionModel"}, "is not a library and a class"))),
    *(Case(PIPELINE, "refused", lambda path, entry=entry: folder(path, **entry), message) for entry, message in (
        ({"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}, "FluxPipeline has a"),
        ({"_class_name": "StableDiffusion3Pipeline", "transformer": ["diffusers", "SD3Transformer2DModel"]},
         "StableDiffusion3Pipeline has a transformer"),
        ({"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": True}, "refiner"),
        ({"text_encoder": [None, None], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "refiner"),
        ({"unet": ["diffusers", "UNetSpatioTemporalConditionModel"]}, "UNetSpatioTemporalConditionModel"),
        ({"vae": ["diffusers", "AutoencoderTiny"]}, "class 'AutoencoderTiny', which is not supported"),
        ({"low_res_scheduler": ["diffusers", "DDPMScheduler"]}, "a model that enlarges pictures"))),
    Case(TEXT_KIND, "refused", lambda path: changed(path, file="text_encoder/config.json", model_type="t5"), "'t5'"),
    Case(TEXT_KIND, "refused", lambda path: with_tokenizer(path, tokenizer_config={"tokenizer_class": "T5Tokenizer"}),
         "its tokenizer_class is 'T5Tokenizer'"),
    Case(TEXT_KIND, "refused", lambda path: saved_today(path, model={"type": "Unigram"}), "is BPE with '</w>'"),
    Case(MIXED, "refused", with_another_text_encoder, "cross_attention_dim = 16, but the tokens are 24 wide"),
    Case(TOKENS, "refused", lambda path: with_tokenizer(path, vocab={"bowl</w>": 2**40}), "the id of its token"),
    Case(TOKENS, "refused", lambda path: with_tokenizer(path, added_tokens={"<a>": 655}), "belongs to another model"),
    Case(TOKENS, "refused", with_two_vocabularies, "hold another vocabulary than tokenizer.json"),
    Case(FOLDER, "read", folder, EPS),
    Case(FOLDER, "read", with_mark, EPS),
    Case(FOLDER, "read", lambda path: folder(path, "sdxl"), EPS),
    Case(FOLDER, "read", lambda path: folder(path, "sd21-768"), V),
    Case(FOLDER, "read", lambda path: variant(path, "diffusion_pytorch_model.bf16.safetensors"), EPS),
    Case(FOLDER, "read", lambda path: variant(path, "diffusion_pytorch_model-00001-of-00002.fp16.safetensors",
                                              "diffusion_pytorch_model-00002-of-00002.fp16.safetensors"), EPS),
    Case(FOLDER, "read", lambda path: variant(path, "diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
                                              "diffusion_pytorch_model.fp16-00002-of-00002.safetensors"), EPS),
    Case(FOLDER, "read", lambda path: folder(path, scheduler={"_class_name": "EulerAncestralDiscreteScheduler"}), EPS),
    Case(SINGLE, "read", plain, EPS),
    Case(SINGLE, "read", lambda path: plain(path, "sdxl"), EPS),
    Case(SINGLE, "read", lambda path: plain(path, "sd15-inpainting"), EPS),
    Case(SINGLE, "read", inpainting_xl, EPS),
    Case(SINGLE, "read", lambda path: nested(path, "state_dict"), EPS),
    Case(SINGLE, "read", lambda path: nested(path, "state_dict", "state_dict"), EPS),
    Case(SINGLE, "read", lambda path: nested(path, "model"), EPS),
    Case(SINGLE, "read", lambda path: plain(path, rename=lambda name: f"module.{name}"), EPS),
    Case(SINGLE, "read", lambda path: plain(
        path, rename=lambda name: name.replace("diffusion_model.", "diffusion_model._orig_mod.")), EPS),
    Case(SINGLE, "read", lambda path: plain(
        path, rename=lambda name: None if "position_ids" in name else name.replace("text_model.", "")), EPS),
    Case(SINGLE, "read", lambda path: plain(
        path, add={"cond_stage_model.transformer.text_projection.weight": torch.ones(16, 16)}), EPS),
    Case(SINGLE, "read", lambda path: plain(path, "sdxl", add={
        "conditioner.embedders.0.transformer.text_model.text_projection.weight": torch.ones(16, 16),
        "conditioner.embedders.0.logit_scale": ONE}), EPS),
    Case(SINGLE, "read", lambda path: plain(
        path, "sdxl", rename=lambda name: name.replace("model.text_projection", "model.text_projection.weight")), EPS),
    Case(SAYS, "read", lambda path: single(path, "sd21-base", metadata={"modelspec.prediction_type": "epsilon"}), EPS),
    Case(SAYS, "read", lambda path: single(path, "sd21-768", rename=lambda name: name.replace(
        "cond_stage_model.", "conditioner.embedders.0."), metadata={"modelspec.prediction_type": "v"}), V),
    Case(SAYS, "read", lambda path: single(path, "sdxl", add={"v_pred": MARK}), V),
    Case(SAYS, "read", lambda path: single(path, "sdxl", name="x.ckpt", add={"v_pred": MARK}), V),
    *(Case(SAYS, "read", lambda path, metadata=metadata: single(path, metadata=metadata), V) for metadata in (
        {"modelspec.prediction_type": "v"}, {"modelspec.predict_key": "v"}, {"ss_v_parameterization": "True"},
        {"modelspec.architecture": "stable-diffusion-v2-768-v"}, {"ss_base_model_version": "sd_v2_v"},
        {"prediction_type": "v-prediction"})),
    Case(SAYS, "read", lambda path: with_yaml(path, "parameterization: v"), V),
    Case(SAYS, "read", lambda path: with_yaml(path, "timesteps: 1000", "sd21-base"), EPS),
    Case(SAYS, "read", lambda path: with_yaml(path, denoiser("VScaling"), "sdxl"), V),
    Case(SAYS, "read", lambda path: with_yaml(path, denoiser("EpsScaling"), "sdxl"), EPS),
    Case(SAYS, "read", lambda path: with_yaml(path, "parameterization: x0"), "sample"),
    *(Case(FEW, "warned", lambda path, entries=entries: folder(path, scheduler=entries), why) for entries, why in (
        ({"_class_name": "LCMScheduler"}, "(its scheduler is LCMScheduler): steps=8 and guidance_scale=1 fit it"),
        ({"_class_name": "TCDScheduler"}, "its scheduler is TCDScheduler"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, "with trailing steps"))),
    Case(FEW, "warned", lambda path: folder(path, _name_or_path="a/sdxl-turbo"), "'turbo' in model_index.json"),
    *(Case(FEW, "warned", lambda path, name=name: named(plain(path), name), "in its name") for name in (
        "sd_turbo.safetensors", "dreamshaperXL_lightningDPMSDE.safetensors", "Hyper-SDXL-8steps.safetensors",
        "absolutereality_lcm.safetensors", "x_4step.safetensors")),
    Case(FEW, "warned", lambda path: plain(path, metadata={"modelspec.title": "SDXL Turbo 1.0"}),
         "'Turbo' in its metadata (modelspec.title)"),
    Case(DIFFERENT, "warned", lambda path: (single(path, add={"v_pred": MARK})[0], {"config": folder(
        path, scheduler={"prediction_type": "epsilon"})}), "says that it predicts v_prediction, and so it is read"),
    Case(LACKS, "refused", lambda path: without(folder(path), "vae/config.json"),
         "is not a complete checkpoint folder; missing: vae/config.json"),
    Case(LACKS, "refused", lambda path: variant(path, "diffusion_pytorch_model.non_ema.fp16.safetensors"),
         "(there is the variant diffusion_pytorch_model.non_ema.fp16.safetensors: to use it, remove the variant from"),
    Case(LACKS, "refused", lambda path: variant(path, "diffusion_pytorch_model-00001-of-00002.fp16.safetensors"),
         "-00001-of-00002.fp16.safetensors, which is not all of it)"),
    Case(FIT, "refused", lambda path: changed(path, extra=ONE), "doesn't fit its config.json: 1 unexpected: extra"),
    Case(FIT, "refused", lambda path: (single(path, add={"model.diffusion_model.x.y": ONE})),
         " (config= gives others): 1 unexpected: model.diffusion_model.x.y"),
    Case(DAMAGED, "refused", cut_off, "is not a whole safetensors file"),
    Case(DAMAGED, "refused", spanned_zip, "is not a whole PyTorch file (zipfiles that span multiple disks"),
    Case(OTHER, "refused", lambda path: bytes_in(path, b"<html><body>404</body></html>"), "looks like a web page"),
    Case(ADDITION, "refused", lambda path: tensors_in(path, "lora_unet_x.lora_down.weight"), "looks like a LoRA"),
    Case(ADDITION, "refused", lambda path: single(path, add={"lora_unet_x.lora_up.a": ONE}), "looks like a LoRA"),
    Case(ADDITION, "refused", lambda path: tensors_in(path, "control_model.x"), "looks like a ControlNet"),
    Case(ADDITION, "refused", lambda path: single(path, add={"control_model.x.y": ONE}), "looks like a ControlNet"),
    Case(ADDITION, "refused", lambda path: tensors_in(path, "emb_params"), "looks like a textual inversion"),
    Case(PART, "refused", lambda path: folder(path) / UNET, "looks like a U-Net alone"),
    Case(PART, "refused", lambda path: single(path, rename=without_start("first_stage")), "without its VAE"),
    Case(PART, "refused", lambda path: single(path, rename=without_start("cond_stage")), "without its text"),
    Case(PART, "refused", lambda path: single(path, rename=without_start("model.diff")), "without its U-Net"),
    Case(PART, "refused", lambda path: tensors_in(path, "model_ema.diffusion_modelout2bias"), "averaged copy"),
    Case(PART, "refused", lambda path: tensors_in(path, "unet.conv_in.bias", "vae.quant_conv.bias"), "give the folder"),
    *(Case(RELATED, "refused", lambda path, name=name: single(path, add={name: ONE}), what) for name, what in (
        ("depth_model.model.pretrained.x", "SD 2's depth model"), ("low_scale_model.model.x", "SD's upscaler"),
        ("embedder.model.visual.x", "unCLIP"), ("cc_projection.weight", "Zero123"),
        ("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.fuser.alpha_attn", "GLIGEN"),
        ("model.diffusion_model.input_blocks.1.1.time_stack.0.x", "a model of videos"),
        ("model.diffusion_model.time_embed.cond_proj.weight", "a latent consistency model"))),
    Case(RELATED, "refused", lambda path: single(path, add={
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(32, 5, 3, 3)}), "a U-Net with 5 input channels"),
    Case(RELATED, "refused", lambda path: changed(path, file="unet/config.json", time_cond_proj_dim=256),
         "time_cond_proj_dim = 256 is not supported"),
    Case(CODE, "refused", with_code, "which could run code, so it is refused"),
    Case(SWITCH, "refused", lambda path: changed(path, file="unet/config.json", class_embed_type="timestep"),
         "class_embed_type = 'timestep' is not supported"),
    Case(ZERO, "refused", lambda path: single(path, "sdxl", add={"v_pred": MARK, "ztsnr": MARK}), "zero terminal SNR"),
    Case(ZERO, "refused", lambda path: single(path, metadata={"ss_zero_terminal_snr": "True"}), "zero terminal SNR"),
    Case(ZERO, "refused", lambda path: with_yaml(path, denoiser("VScaling", "ZeroSNRDDPMDiscretization"), "sdxl"),
         "zero terminal SNR"),
    Case(ZERO, "refused", lambda path: with_yaml(path, "parameterization: v\nztsnr: true"), "zero terminal SNR"),
    Case(ZERO, "refused", lambda path: folder(path, scheduler={"rescale_betas_zero_snr": True}), "abar would be 0"),
    Case(EDM, "refused", lambda path: single(path, "sdxl", add={"edm_mean": ONE, "edm_std": ONE + 1}), "EDM's param"),
    Case(EDM, "refused", lambda path: (single(path, "sdxl", add={"edm_vpred.sigma_max": ONE})[0],
                                       {"prediction_type": "v_prediction"}), "EDM's parameterisation"),
    Case(EDM, "refused", lambda path: with_yaml(path, denoiser("EDMScaling"), "sdxl"), "(EDMScaling)"),
    Case(EDM, "refused", lambda path: with_yaml(path, denoiser("VScaling", "EDMDiscretization"), "sdxl"), "EDM's"),
    Case(EDM, "refused", lambda path: with_yaml(path, denoiser("VScaling", kind="Denoiser"), "sdxl"), "EDM's"),
    *(Case(EDM, "refused", lambda path, name=name: folder(path, scheduler={"_class_name": name}), "EDM's")
      for name in ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")),
    Case(FLOW, "refused", lambda path: folder(path, scheduler={"_class_name": "FlowMatchEulerDiscreteScheduler"}),
         "flow matching"),
    Case(FLOW, "refused", lambda path: (folder(path, scheduler={"use_flow_sigmas": True}),
                                        {"prediction_type": "epsilon"}), "flow matching"),
    Case(FLOW, "refused", lambda path: single(path, metadata={"modelspec.noise_process": "flow"}), "flow matching"),
    Case(UNKNOWN, "refused", lambda path: folder(path, scheduler={"_class_name": "CMStochasticIterativeScheduler"}),
         "how models for CMStochasticIterativeScheduler are trained isn't known here"),
    Case(CONTRADICTION, "refused", lambda path: single(path, "sdxl", add={"v_pred": MARK}, metadata={
        "modelspec.predict_key": "epsilon"}), "the key v_pred says that it predicts v_prediction, its metadata ("),
    Case(CONTRADICTION, "refused", lambda path: single(path, "sd21-base", metadata={
        "modelspec.prediction_type": "epsilon", "modelspec.architecture": "stable-diffusion-v2-768-v"}), "give pred"),
    Case(NEITHER, "refused", lambda path: folder(path, scheduler={"prediction_type": "score"}), "'score' is not known"),
    Case(NEITHER, "refused", lambda path: single(path, metadata={"modelspec.prediction_type": "score"}),
         "its metadata (modelspec.prediction_type) says that it predicts 'score', which is not known"),
    Case(NEITHER, "refused", lambda path: with_yaml(path, "parameterization: mu"), "x.yaml says that it predicts 'mu'"),
    Case(SHOWN, "read", lambda path: of_learnt_v(path, single_file=True), V),
    Case(CONTRADICTED, "warned", of_learnt_v, "says that it predicts epsilon, but it seems to predict v_prediction"),
    Case(UNSAID, "warned", single, "nothing says what it predicts, and its network doesn't show it"),
    Case(UNSAID, "warned", lambda path: single(path, "sdxl"), "it is read as epsilon, as is usual"),
    Case(UNSAID_2, "refused", lambda path: single(path, "sd21-768"), "nothing says whether it predicts epsilon or v"),
    Case(YAML, "refused", lambda path: with_yaml(path, "a: [1"), "can't be read as YAML"),
    Case(YAML, "refused", lambda path: with_yaml(path, "a: !!python/name:os.getcwd"), "can't be read as YAML"),
    Case(YAML, "refused", lambda path: (single(path)[0], {"config": bytes_in(path, b"a: 1", "a.yaml")}),
         "is no original config"),
    Case(NUMBERS, "refused", lambda path: changed(path, **{"conv_out.bias": torch.zeros(4).to(torch.float8_e4m3fn)}),
         "is of float8_e4m3fn; expected floats of 16, 32 or 64 bits"),
    Case(NUMBERS, "refused", lambda path: single(path, add={"model.diffusion_model.out.2.weight.absmax": ONE}),
         "quantised weights"),
    Case(DEVICE, "refused", fifo, "is a device, a FIFO or a socket"),
    Case(DEVICE, "refused", lambda path: Path("/dev/zero"), "is a device, a FIFO or a socket"),
    Case(DEVICE, "refused", loop, "can't be opened (Too many levels of symbolic links)"),
    Case(DEVICE, "refused", lambda path: path / ("x" * 5000), "can't be opened (File name too long)"),
    Case("NaN or infinite numbers, found when weights are converted", "refused",
         lambda path: changed(path, **{"conv_out.bias": NAN}), "conv_out.bias holds NaN or infinite numbers"),
    Case("numbers too large for float16", "refused",
         lambda path: (changed(path, **{"conv_out.bias": HUGE}), {"dtype": "float16"}), "too large for float16"),
]


# ---------------------------------------------------------------- the tests


def table() -> list[tuple[str, str]]:
    """The first two columns of weights.md's table."""
    rows = TABLE.read_text(encoding="utf-8").partition("| what | is | why, and what to do |\n|---|---|---|\n")[2]
    return [tuple(row.strip("|").split(" | ")[:2]) for row in re.match(r"(\|.*\n)*", rows)[0].splitlines()]


def test_the_table_has_a_row_for_every_case_and_no_other():
    rows = [(title.strip(), outcome.strip()) for title, outcome in table()]
    assert len(rows) == len(set(rows)) and dict.fromkeys(rows) == dict.fromkeys((c.title, c.outcome) for c in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.outcome}: {case.message or case.title}")
def test_a_row(case, tmp_path):
    made = case.make(tmp_path)
    path, options = made if isinstance(made, tuple) else (made, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if case.outcome == "refused":
            with pytest.raises(ValueError) as error:
                dm.load(path, device="cpu", **options)
            said = str(error.value)
        else:
            model = dm.load(path, device="cpu", **options)
            said = "; ".join(str(warning.message) for warning in caught) or model.prediction_type
    assert len(caught) == (case.outcome == "warned"), [str(warning.message) for warning in caught]
    assert case.message in said and "\n" not in said
