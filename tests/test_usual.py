"""Run: python -m pytest tests/test_usual.py

What a family's models usually have, where the files of a checkpoint don't say it.
"""

import json
import warnings
from dataclasses import replace

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffedit_min.loading import load
from diffedit_min.loading.family import CONV_IN, CROSS_ATTENTION, family_of
from diffedit_min.loading.files import open_weights
from diffedit_min.loading.usual import warn_if_unusual, warn_of_heads
from diffedit_min.networks.unet import UNetConfig


@pytest.fixture(scope="module")
def xl():
    configs = checkpoints.small("sdxl")
    return configs, checkpoints.random_weights(configs)


@pytest.mark.parametrize("said", [{}, {"scaling_factor": 0.2, "force_upcast": False}, {"scaling_factor": None}])
def test_sd_xl_s_vae_is_scaled_as_its_config_says_or_as_sd_xl_s_is(tmp_path, xl, said):
    configs, weights = xl
    vae = {key: value for key, value in configs["vae"].items() if key not in ("scaling_factor", "force_upcast")}
    folder = checkpoints.write_folder(tmp_path, {**configs, "vae": vae | said}, weights)
    config = load(folder, device="cpu").vae.config
    assert config.scaling_factor == (said.get("scaling_factor") or 0.13025)
    assert config.force_upcast is said.get("force_upcast", True)


@pytest.mark.parametrize(("index", "zeros"), [({}, True), ({"force_zeros_for_empty_prompt": False}, False)])
def test_sd_xl_s_empty_text_is_zeros_unless_the_index_says_otherwise(tmp_path, xl, index, zeros):
    configs, weights = xl
    model = load(checkpoints.write_folder(tmp_path, {**configs, "index": index}, weights), device="cpu")
    assert bool((model.embed([""]).tokens == 0).all()) is zeros


def test_without_a_word_about_padding_each_text_encoder_has_its_own(tmp_path, xl):
    folder = checkpoints.write_folder(tmp_path, *xl)
    for tokenizer in ("tokenizer", "tokenizer_2"):
        for file in ("tokenizer_config.json", "special_tokens_map.json"):
            (folder / tokenizer / file).unlink()
    padding = [text.tokenizer.pad_token for text in load(folder, device="cpu").texts]
    assert padding == ["<|endoftext|>", "!"]            # CLIP's, OpenCLIP's
    (folder / "tokenizer_2/tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    assert load(folder, device="cpu").texts[1].tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.filterwarnings("ignore:.*nothing says what it predicts")
def test_a_yaml_also_says_how_latents_are_scaled(tmp_path):
    configs = checkpoints.small("bk-sdm-tiny")
    path = checkpoints.write_single_file(tmp_path / "x.safetensors", configs, checkpoints.random_weights(configs))
    folder = checkpoints.write_configs(tmp_path / "configs", configs)
    (tmp_path / "x.yaml").write_text("model:\n  params:\n    scale_factor: 0.5\n")
    assert load(path, config=folder, device="cpu").vae.config.scaling_factor == 0.5


@pytest.mark.parametrize("family", checkpoints.REAL)
def test_no_published_model_has_unusual_heads(family):
    configs = checkpoints.REAL[family]
    unet = UNetConfig.from_dict(configs["unet"])
    texts = {part: configs[part] for part in ("text_encoder", "text_encoder_2") if part in configs}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_heads("x", unet, texts)
        warn_if_unusual("x", configs["unet"], configs["vae"], configs["scheduler"])
    with pytest.warns(UserWarning, match="its levels have"):
        warn_of_heads("x", replace(unet, attention_head_dim=64), texts)
    for changed, message in (
            ("hidden_act", "says hidden_act = 'other'"), ("num_attention_heads", "num_attention_heads = other")):
        with pytest.warns(UserWarning, match=message):
            warn_of_heads("x", unet, {part: config | {changed: "other"} for part, config in texts.items()})


def header_of(path, width: int, *texts: str):
    """A file of hardly a tensor, whose U-Net takes tokens that are so wide."""
    save_file({CONV_IN: torch.zeros(2, 4, 3, 3), CROSS_ATTENTION: torch.zeros(2, width), "first_stage_model.a":
               torch.zeros(1)} | {text: torch.zeros(1) for text in texts}, path)
    return open_weights([path])


def test_sd_2_under_the_names_of_sd_1_s_text_encoder_is_known_by_its_width(tmp_path):
    name = "cond_stage_model.transformer.text_model.a"
    assert family_of(header_of(tmp_path / "x.safetensors", 1024, name)).name == "SD 2.x"
    assert family_of(header_of(tmp_path / "x.safetensors", 768, name)).name == "SD 1.x"


def test_such_a_file_is_read_as_the_folder_it_was_made_from(tmp_path, monkeypatch):
    configs = checkpoints.small("sd21-base")
    weights = checkpoints.random_weights(configs)
    folder = checkpoints.write_folder(tmp_path / "folder", configs, weights)
    path = checkpoints.write_single_file(tmp_path / "x.safetensors", configs, weights)
    state = {name: weight for name, weight in load_file(path).items() if not name.startswith("cond_stage_model.")}
    save_file(state | {f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}": weight
                       for name, weight in weights["text_encoder"].items()}, path)
    monkeypatch.setattr("diffedit_min.loading.family.OPENCLIP_WIDTH", configs["unet"]["cross_attention_dim"])
    one, several = load(path, config=folder, device="cpu"), load(folder, device="cpu")
    assert one.embed(["a bowl"]).tokens.equal(several.embed(["a bowl"]).tokens)
