"""Run with `python -m pytest tests/test_names.py` from the repository's root; takes about 15 seconds.

Checks the way from a checkpoint's names to ours, in folders and in single files, and that nothing missing, left over or
misshapen passes. Published sizes are tested by names and shapes alone, on the meta device.
"""

from functools import cache

import checkpoints
import pytest
import torch
from torch import Tensor, nn

from diffedit_min import loading
from diffedit_min.loading.layout import NETWORKS
from diffedit_min.loading.names import (
    UNUSED,
    Origin,
    Origins,
    check_exactly,
    openclip_origins,
    original_unet_name,
    original_vae_name,
    own_names,
    replace_start,
    single_file_origins,
    text_origins,
    unet_origins,
    vae_origins,
    without_ones,
)
from diffedit_min.loading.sources import Checkpoint, Network


class Small(nn.Module):
    """Twelve tensors named a.0.weight, ..., b.bias."""

    def __init__(self):
        super().__init__()
        self.a = nn.ModuleList(nn.Linear(2, 3) for _ in range(5))
        self.b = nn.Linear(2, 4)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: torch.randn_like(weight) for name, weight in module.state_dict().items()}


def refusal(module: nn.Module, stored: dict[str, Tensor], origins: Origins | None = None) -> str:
    """The message, after checking that it is one line."""
    with pytest.raises(ValueError) as error:
        check_exactly(module, unet_origins(stored) if origins is None else origins, stored, "unet/x.safetensors")
    assert "\n" not in str(error.value)
    return str(error.value)


def taken(origins: Origins, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: origin.take(stored[origin.name]) for name, origin in origins.items()}


# ---------------------------------------------------------------- a folder's names


def test_replace_start():
    names = {"a": "x", "a.b": "y", "c.d": "z"}
    for name, expected in (("a", "x"), ("a.b", "y"), ("a.b.weight", "y.weight"), ("a.c", "x.c"), ("ab.c", "ab.c"),
                           ("a.bc", "x.bc"), ("c", "c"), ("c.d", "z"), ("b.a", "b.a"), ("", "")):
        assert replace_start(names, name) == replace_start(dict(reversed(names.items())), name) == expected


def test_an_origin_takes_the_whole_tensor_unless_told_otherwise():
    whole = torch.randn(2, 3)
    assert Origin("a").take(whole) is whole


def test_unet_names_stay():
    stored = {"mid_block.attentions.0.proj_out.weight": torch.zeros(2, 2, 1, 1), "conv_in.bias": torch.zeros(2)}
    assert unet_origins(stored) == {name: Origin(name) for name in stored}


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("leaf", ["weight", "bias"])
def test_the_vaes_old_attention(side, leaf):
    path = f"{side}.mid_block.attentions.0"
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        name = f"{path}.{old}.{leaf}"
        assert vae_origins({name: torch.zeros(4)}) == {f"{path}.{new}.{leaf}": Origin(name)}


def test_the_vaes_new_names_stay():
    names = [f"encoder.mid_block.attentions.0.{name}" for name in
             ("group_norm.weight", "group_norm.bias", "to_q.bias", "to_out.0.bias")]
    names += ["quant_conv.weight", "encoder.mid_block.resnets.0.conv1.weight", "key.weight"]
    assert vae_origins(dict.fromkeys(names, torch.zeros(4))) == {name: Origin(name) for name in names}


def test_text_names():
    weight, positions = torch.zeros(2), torch.arange(3)
    for prefix in ("", "text_model."):
        stored = {f"{prefix}final_layer_norm.bias": weight, f"{prefix}embeddings.position_ids": positions}
        assert text_origins(stored) == {"final_layer_norm.bias": Origin(f"{prefix}final_layer_norm.bias")}
    assert set(text_origins({"text_projection.weight": weight})) == {"text_projection.weight"}


# ---------------------------------------------------------------- the proof


def test_two_stored_names_that_are_one_of_ours_are_not_mixed_up():
    """The one that needs renaming keeps its name, and is called unexpected."""
    stored = dict.fromkeys(("text_model.final_layer_norm.bias", "final_layer_norm.bias"), torch.zeros(2))
    assert {ours: origin.name for ours, origin in text_origins(stored).items()} == {name: name for name in stored}
    path = "encoder.mid_block.attentions.0"
    stored = dict.fromkeys((f"{path}.to_q.bias", f"{path}.query.bias"), torch.zeros(2))
    assert {ours: origin.name for ours, origin in vae_origins(stored).items()} == {name: name for name in stored}


def test_all_that_fits_passes():
    check_exactly(Small(), unet_origins(weights_of(Small())), weights_of(Small()), "f")


def test_own_names_are_without_the_prefix():
    """As the text encoder of older releases of transformers has it."""
    module = nn.ModuleDict({"text_model": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    assert own_names(module) == {"weight": "text_model.weight", "bias": "text_model.bias",
                                 "other.weight": "other.weight", "other.bias": "other.bias"}
    stored = {"weight": torch.ones(2, 2), "bias": torch.zeros(2)}
    check_exactly(nn.ModuleDict({"text_model": nn.Linear(2, 2)}), text_origins(stored), stored, "f")


def test_buffers_are_no_weights():
    module = nn.Linear(2, 2)
    module.register_buffer("position_ids", torch.arange(3))
    assert own_names(module) == {"weight": "weight", "bias": "bias"}


def test_without_ones():
    for shape, expected in (((3, 2, 1, 1), (3, 2)), ((3, 2), (3, 2)), ((1, 1), ()), ((), ()), ((1, 2), (1, 2)),
                            ((3, 1, 2, 1), (3, 1, 2))):
        assert without_ones(shape) == expected


def test_a_linear_layer_and_a_1x1_convolution_fit_each_other():
    linear, convolution = nn.Linear(2, 3), nn.Conv2d(2, 3, 1)
    for module in (linear, convolution):
        for trailing in ((), (1,), (1, 1)):
            stored = {"weight": torch.zeros(3, 2, *trailing), "bias": torch.zeros(3)}
            check_exactly(module, unet_origins(stored), stored, "f")
    for weight in (torch.zeros(2, 3), torch.zeros(1, 3, 2), torch.zeros(3, 2, 3, 3), torch.zeros(3, 2, 1, 2)):
        assert f"1 misshapen: weight {tuple(weight.shape)} instead of (3, 2)" in refusal(
            linear, {"weight": weight, "bias": torch.zeros(3)}
        )
    assert "1 misshapen: weight (2, 3) instead of (3, 2, 1, 1)" in refusal(
        convolution, {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}
    )


def test_each_kind_of_misfit_is_named():
    weights = weights_of(Small())
    weights["b.wait"] = weights.pop("b.weight")
    weights["a.0.bias"] = torch.zeros(4)
    assert refusal(Small(), weights) == (
        "unet/x.safetensors doesn't fit its config.json: 1 missing: b.weight; 1 unexpected: b.wait; "
        "1 misshapen: a.0.bias (4,) instead of (3,)"
    )


def test_one_kind_alone():
    weights = weights_of(Small())
    extra = {**weights, "c": torch.zeros(1)}
    assert refusal(Small(), extra) == "unet/x.safetensors doesn't fit its config.json: 1 unexpected: c"
    del weights["b.bias"]
    assert refusal(Small(), weights) == "unet/x.safetensors doesn't fit its config.json: 1 missing: b.bias"


@pytest.mark.parametrize(("count", "shown", "more"), [(10, 10, ""), (11, 10, ", ..."), (12, 10, ", ...")])
def test_only_ten_of_many_are_listed(count, shown, more):
    names = list(weights_of(Small()))
    assert len(names) == 12
    listed = ", ".join(names[:shown])
    present = {name: weight for name, weight in weights_of(Small()).items() if name in names[count:]}
    expected = f"unet/x.safetensors doesn't fit its config.json: {count} missing: {listed}{more}"
    assert refusal(Small(), present) == expected
    doubled = weights_of(Small()) | {f"{name}_": torch.zeros(1) for name in names[:count]}
    assert refusal(Small(), doubled) == (
        f"unet/x.safetensors doesn't fit its config.json: {count} unexpected: "
        f"{', '.join(f'{name}_' for name in names[:shown])}{more}"
    )


def test_a_scalar_or_an_empty_file_is_no_match():
    assert "12 missing" in refusal(Small(), {})
    assert "1 misshapen: b.bias () instead of (4,)" in refusal(
        Small(), {**weights_of(Small()), "b.bias": torch.tensor(1.0)}
    )


def test_misfits_are_told_in_the_files_names():
    """What is missing can only be told in ours."""
    stored = {"theirs": torch.zeros(2, 2), "other": torch.zeros(2)}
    origins = {"weight": Origin("theirs", lambda whole: whole[:1]), "odd": Origin("other")}
    assert refusal(nn.Linear(2, 2), stored, origins).endswith(
        ": 1 missing: bias; 1 unexpected: other; 1 misshapen: theirs (1, 2) instead of (2, 2)"
    )


# ---------------------------------------------------------------- a single file's names, one by one


@pytest.mark.parametrize(("original", "layers", "ours"), [
    ("time_embed.0.weight", 2, "time_embedding.linear_1.weight"),
    ("time_embed.2.bias", 2, "time_embedding.linear_2.bias"),
    ("label_emb.0.0.weight", 2, "add_embedding.linear_1.weight"),
    ("label_emb.0.2.weight", 2, "add_embedding.linear_2.weight"),
    ("input_blocks.0.0.weight", 2, "conv_in.weight"),
    ("out.0.bias", 2, "conv_norm_out.bias"),
    ("out.2.weight", 2, "conv_out.weight"),
    ("input_blocks.1.0.in_layers.0.weight", 2, "down_blocks.0.resnets.0.norm1.weight"),
    ("input_blocks.2.0.in_layers.2.weight", 2, "down_blocks.0.resnets.1.conv1.weight"),
    ("input_blocks.3.0.op.weight", 2, "down_blocks.0.downsamplers.0.conv.weight"),
    ("input_blocks.4.0.skip_connection.weight", 2, "down_blocks.1.resnets.0.conv_shortcut.weight"),
    ("input_blocks.11.0.out_layers.3.bias", 2, "down_blocks.3.resnets.1.conv2.bias"),
    ("input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight", 2,
     "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight"),
    ("input_blocks.2.0.op.weight", 1, "down_blocks.0.downsamplers.0.conv.weight"),
    ("input_blocks.3.0.emb_layers.1.weight", 1, "down_blocks.1.resnets.0.time_emb_proj.weight"),
    ("middle_block.0.out_layers.0.weight", 2, "mid_block.resnets.0.norm2.weight"),
    ("middle_block.1.proj_in.weight", 2, "mid_block.attentions.0.proj_in.weight"),
    ("middle_block.2.out_layers.3.weight", 2, "mid_block.resnets.1.conv2.weight"),
    ("output_blocks.0.0.in_layers.0.weight", 2, "up_blocks.0.resnets.0.norm1.weight"),
    ("output_blocks.2.1.conv.weight", 2, "up_blocks.0.upsamplers.0.conv.weight"),
    ("output_blocks.5.2.conv.bias", 2, "up_blocks.1.upsamplers.0.conv.bias"),
    ("output_blocks.5.1.norm.bias", 2, "up_blocks.1.attentions.2.norm.bias"),
    ("output_blocks.11.0.emb_layers.1.bias", 2, "up_blocks.3.resnets.2.time_emb_proj.bias"),
    ("output_blocks.3.2.conv.bias", 1, "up_blocks.1.upsamplers.0.conv.bias"),
    ("something.else", 2, "something.else"),
])
def test_original_unet_names(original, layers, ours):
    assert original_unet_name(original, layers) == ours


@pytest.mark.parametrize(("original", "ours"), [
    ("encoder.conv_in.weight", "encoder.conv_in.weight"),
    ("decoder.norm_out.bias", "decoder.conv_norm_out.bias"),
    ("encoder.mid.block_1.norm1.weight", "encoder.mid_block.resnets.0.norm1.weight"),
    ("decoder.mid.block_2.conv2.weight", "decoder.mid_block.resnets.1.conv2.weight"),
    ("encoder.mid.attn_1.norm.weight", "encoder.mid_block.attentions.0.group_norm.weight"),
    ("encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"),
    ("encoder.mid.attn_1.k.weight", "encoder.mid_block.attentions.0.to_k.weight"),
    ("encoder.mid.attn_1.v.weight", "encoder.mid_block.attentions.0.to_v.weight"),
    ("encoder.mid.attn_1.proj_out.bias", "encoder.mid_block.attentions.0.to_out.0.bias"),
    ("encoder.down.0.downsample.conv.weight", "encoder.down_blocks.0.downsamplers.0.conv.weight"),
    ("encoder.down.2.block.1.conv1.weight", "encoder.down_blocks.2.resnets.1.conv1.weight"),
    ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
    ("decoder.up.3.block.2.conv1.weight", "decoder.up_blocks.0.resnets.2.conv1.weight"),
    ("decoder.up.0.block.0.nin_shortcut.bias", "decoder.up_blocks.3.resnets.0.conv_shortcut.bias"),
    ("decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
    ("quant_conv.weight", "quant_conv.weight"),
    ("post_quant_conv.bias", "post_quant_conv.bias"),
])
def test_original_vae_names(original, ours):
    assert original_vae_name(original, 4) == ours


def test_openclip_thirds_are_q_k_v():
    joint = torch.arange(18.0).reshape(6, 3)
    for leaf, whole in (("weight", joint), ("bias", joint[:, 0])):
        origins = openclip_origins("f", f"transformer.resblocks.4.attn.in_proj_{leaf}", layers=5)
        names = [f"encoder.layers.4.self_attn.{to}_proj.{leaf}" for to in "qkv"]
        assert list(origins) == names and {origin.name for origin in origins.values()} == {"f"}
        for i, name in enumerate(names):
            assert torch.equal(origins[name].take(whole), whole[2 * i : 2 * i + 2])


def test_openclip_layers_beyond_the_networks_are_dropped():
    for leaf in ("attn.in_proj_weight", "attn.out_proj.bias", "ln_1.weight", "mlp.c_fc.weight"):
        assert openclip_origins("f", f"transformer.resblocks.5.{leaf}", layers=5) == {}
        assert len(openclip_origins("f", f"transformer.resblocks.4.{leaf}", layers=5)) > 0


@pytest.mark.parametrize(("original", "ours"), [
    ("token_embedding.weight", "embeddings.token_embedding.weight"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("ln_final.bias", "final_layer_norm.bias"),
    ("transformer.resblocks.0.ln_1.weight", "encoder.layers.0.layer_norm1.weight"),
    ("transformer.resblocks.10.ln_2.bias", "encoder.layers.10.layer_norm2.bias"),
    ("transformer.resblocks.2.mlp.c_fc.weight", "encoder.layers.2.mlp.fc1.weight"),
    ("transformer.resblocks.2.mlp.c_proj.weight", "encoder.layers.2.mlp.fc2.weight"),
    ("transformer.resblocks.2.attn.out_proj.weight", "encoder.layers.2.self_attn.out_proj.weight"),
])
def test_openclip_names(original, ours):
    whole = torch.randn(4, 3)
    origin, = openclip_origins("f", original, layers=23).items()
    assert origin[0] == ours and origin[1].name == "f" and origin[1].take(whole) is whole


def test_openclips_projection_is_transposed():
    whole = torch.randn(4, 3)
    (name, origin), = openclip_origins("f", "text_projection", layers=32).items()
    assert name == "text_projection.weight" and torch.equal(origin.take(whole), whole.T)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (7, 3)], ids=str)
def test_a_joint_projection_that_cannot_be_split_is_misshapen(shape):
    """Of a damaged file: it has to be named like any other misfit."""
    stored = {"in_proj": torch.zeros(shape)}
    origins = openclip_origins("in_proj", "transformer.resblocks.0.attn.in_proj_bias", layers=1)
    module = nn.Module()
    module.encoder = nn.Module()
    module.encoder.layers = nn.ModuleList([nn.Module()])
    module.encoder.layers[0].self_attn = nn.ModuleDict({f"{to}_proj": nn.Linear(1, 2) for to in "qkv"})
    assert "3 misshapen: in_proj (" in refusal(module, stored, origins)


@pytest.mark.parametrize(("name", "left_over"), [
    ("betas", True), ("sqrt_alphas_cumprod", True), ("model_ema.decay", True), ("model_ema.num_updates", True),
    ("model_ema.diffusion_modeltime_embed0weight", True), ("first_stage_model.loss.logvar", True),
    ("denoiser.sigmas", True), ("cond_stage_model.model.logit_scale", True),
    ("conditioner.embedders.1.model.logit_scale", True), ("cond_stage_model.model.text_projection", True),
    ("cond_stage_model.transformer.text_model.embeddings.position_ids", True),
    ("conditioner.embedders.1.model.text_projection", False), ("model.diffusion_model.out.2.bias", False),
    ("first_stage_model.quant_conv.weight", False), ("lora.weight", False), ("model_emas.weight", False),
])
def test_what_is_left_over(name, left_over):
    assert (UNUSED.fullmatch(name) is not None) == left_over


# ---------------------------------------------------------------- whole single files


@cache
def published(family: str) -> dict[str, nn.Module]:
    """The family's networks at their real size, without memory."""
    configs = checkpoints.REAL[family]
    return loading.empty_networks(Checkpoint(
        "", {part: Network(checkpoints.full_config(part, configs[part]), None, {}, ())
             for part in NETWORKS if part in configs}, (), {}, {}, "epsilon",
    ))


def original(family: str, ema: bool = False) -> dict[str, Tensor]:
    """What the family's single file holds, at its real size, without memory."""
    weights = {part: dict(module.named_parameters()) for part, module in published(family).items()}
    return checkpoints.original_state(checkpoints.REAL[family], weights, ema)


def origins_of(configs: dict, stored: dict[str, Tensor]) -> dict[str, Origins]:
    layers = {part: config["num_hidden_layers"] for part, config in configs.items() if "text" in part}
    return single_file_origins(stored, configs["unet"]["layers_per_block"], len(configs["vae"]["block_out_channels"]),
                               layers)


FAMILIES = list(checkpoints.REAL)


@pytest.mark.parametrize("family", FAMILIES)
def test_published_single_files_fit_exactly(family):
    networks, stored = published(family), original(family)
    assert all(weight.is_meta for weight in stored.values() if weight.numel() > 2**21)
    origins = origins_of(checkpoints.REAL[family], stored)
    assert origins.keys() == networks.keys()
    for part, module in networks.items():
        check_exactly(module, origins[part], stored, "f")


@pytest.mark.parametrize("family", FAMILIES)
def test_averaged_copies_and_leftovers_are_ignored(family):
    """Also in any order."""
    configs, plain = checkpoints.REAL[family], original(family)
    stored = original(family, ema=True) | {"first_stage_model.loss.logvar": torch.zeros(()),
                                           "denoiser.sigmas": torch.zeros(1000), "global_step": torch.zeros(())}
    assert len(stored) > len(plain) + 300

    def names(stored: dict[str, Tensor]) -> dict[str, dict[str, str]]:
        return {part: {name: origin.name for name, origin in origins.items()}
                for part, origins in origins_of(configs, stored).items()}

    assert names(stored) == names(dict(reversed(stored.items()))) == names(plain)


@pytest.mark.parametrize(("family", "part", "name", "ours"), [
    ("sd15", "unet", "model.diffusion_model.output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
    ("bk-sdm-small", "unet", "model.diffusion_model.input_blocks.1.1.norm.bias",
     "down_blocks.0.attentions.0.norm.bias"),
    ("sd15", "vae", "first_stage_model.decoder.up.0.block.1.conv1.bias", "decoder.up_blocks.3.resnets.1.conv1.bias"),
    ("sd15", "text_encoder", "cond_stage_model.transformer.text_model.final_layer_norm.bias", "final_layer_norm.bias"),
    ("sd21-base", "text_encoder", "cond_stage_model.model.transformer.resblocks.3.ln_1.bias",
     "encoder.layers.3.layer_norm1.bias"),
    ("sdxl", "text_encoder", "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias",
     "final_layer_norm.bias"),
    ("sdxl", "text_encoder_2", "conditioner.embedders.1.model.text_projection", "text_projection.weight"),
    ("sdxl", "unet", "model.diffusion_model.label_emb.0.0.weight", "add_embedding.linear_1.weight"),
])
def test_a_dropped_or_renamed_tensor_does_not_fit(family, part, name, ours):
    configs, module, stored = checkpoints.REAL[family], published(family)[part], original(family)
    weight = stored.pop(name)
    said = f"unet/x.safetensors doesn't fit its config.json: 1 missing: {ours}"
    assert refusal(module, stored, origins_of(configs, stored)[part]) == said
    stored[f"{name}_"] = weight
    assert refusal(module, stored, origins_of(configs, stored)[part]) == f"{said}; 1 unexpected: {name}_"


def test_what_belongs_to_no_network_is_unexpected():
    """Also another family's text encoder beside the right one."""
    for name in ("lora.weight", "conditioner.embedders.1.model.ln_final.weight", "first_stage_modeling.weight"):
        stored = original("sd15") | {name: torch.zeros(2)}
        message = refusal(published("sd15")["unet"], stored, origins_of(checkpoints.REAL["sd15"], stored)["unet"])
        assert message == f"unet/x.safetensors doesn't fit its config.json: 1 unexpected: {name}"


def test_another_familys_config_does_not_fit():
    stored = original("sd15")
    for family in ("sd15-inpainting", "sd21-base", "bk-sdm-base"):
        origins = origins_of(checkpoints.REAL[family], stored)
        assert refusal(published(family)["unet"], stored, origins["unet"])


def test_sd2s_last_layer_and_projection_are_dropped():
    stored = original("sd21-base")
    for name in ("transformer.resblocks.23.ln_1.weight", "text_projection", "logit_scale"):
        assert f"cond_stage_model.model.{name}" in stored
    origins = origins_of(checkpoints.REAL["sd21-base"], stored)["text_encoder"]
    used = {origin.name for origin in origins.values()}
    assert not [name for name in used if "resblocks.23." in name or name.endswith("text_projection")]
    assert "encoder.layers.22.mlp.fc2.bias" in origins and "encoder.layers.23.mlp.fc2.bias" not in origins


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_arrive_where_they_belong(family):
    configs = checkpoints.small(family)
    weights = checkpoints.random_weights(configs)
    stored = checkpoints.original_state(configs, weights, ema=True)
    for part, origins in origins_of(configs, stored).items():
        expected = {name.removeprefix("text_model."): weight for name, weight in weights[part].items()}
        found = taken(origins, stored)
        assert found.keys() == expected.keys()
        for name, weight in expected.items():
            assert torch.equal(found[name].reshape(weight.shape), weight), f"{part} {name}"


def test_a_text_projection_is_transposed_only_under_openclip_s_name():
    weight = torch.arange(6.0).reshape(2, 3)
    for name, expected in (("text_projection", weight.T), ("text_projection.weight", weight)):
        (ours, origin), = openclip_origins(f"conditioner.embedders.1.model.{name}", name, 3).items()
        assert ours == "text_projection.weight" and torch.equal(origin.take(weight), expected)
