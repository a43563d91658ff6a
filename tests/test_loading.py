"""Run with `python -m pytest tests/test_loading.py` from the repository's root; takes about a minute.

Checks `load`: a folder gives the weights that were written, old files load as new ones do, damaged ones are refused in
one line; and the bundle that it returns: prompts, dtypes, large batches, v_prediction; and every family, small.
"""

import dataclasses
import json
import shutil
import time
from pathlib import Path

import checkpoints
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.core.schedule import Schedule, eps_from_v, eps_from_x0
from diffedit_min.loading import files
from diffedit_min.loading.layout import SCHEDULER, weight_files
from diffedit_min.networks import bands, stable_diffusion
from diffedit_min.networks.attention import AttentionRecorder
from diffedit_min.networks.text import Context
from diffedit_min.networks.unet import UNet, UNetConfig
from diffedit_min.studio import info

PROMPTS = ["a bowl of apples on sand", "", "a bucket of plums on grass"]
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
REQUIRED = [
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", UNET, VAE, TEXT,
]


def load(name: str | Path, **options: object) -> dm.StableDiffusion:
    return dm.load(name, device="cpu", **options)


def refusal(name: str | Path, **options: object) -> str:
    """The message of a refused load, which must be one line."""
    with pytest.raises(ValueError) as error:
        dm.load(name, **{"device": "cpu", **options})
    assert "\n" not in str(error.value)
    return str(error.value)


def latents(rows: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, 4, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def networks(model: dm.StableDiffusion) -> dict[str, torch.nn.Module]:
    return {"unet": model.unet, "vae": model.vae, "text_encoder": model.text_encoder}


def assert_same(a: dm.StableDiffusion, b: dm.StableDiffusion) -> None:
    """Bit-equal weights, and the same answers."""
    for part, network in networks(a).items():
        other = networks(b)[part].state_dict()
        assert network.state_dict().keys() == other.keys()
        for name, weight in network.state_dict().items():
            assert weight.dtype == other[name].dtype and torch.equal(weight, other[name]), f"{part} {name}"
    x = latents(dtype=a.dtype)
    assert torch.equal(a.embed(PROMPTS).tokens, b.embed(PROMPTS).tokens)
    assert torch.equal(a.eps(x, 431, a.embed(PROMPTS)), b.eps(x, 431, b.embed(PROMPTS)))
    assert torch.equal(a.decode(x), b.decode(x))


def change_weights(path: Path, change) -> None:
    """Rewrite a safetensors file with `change` applied to the dict of its tensors."""
    save_file(change(load_file(path)), path, {"format": "pt"})


# ---------------------------------------------------------------- a whole folder


def test_a_folder_gives_what_was_written(folder):
    model = load(folder)
    assert_same(model, load("random", seed=3))
    assert model.name == str(folder) and model.prediction_type == "epsilon" and model.defaults == {}
    assert model.schedule == Schedule.from_config({})
    assert (model.factor, model.multiple, model.native_area) == (4, 8, 32**2)
    assert_same(load(str(folder)), model)


def test_networks_are_ready_to_use(folder):
    for network in networks(load(folder)).values():
        assert not network.training
        assert not any(p.requires_grad for p in network.parameters())


def test_half_precision_files_are_read_in_float32(copied):
    change_weights(copied / UNET, lambda weights: {name: weight.half() for name, weight in weights.items()})
    model, written = load(copied), load("random", seed=3)
    for name, weight in model.unet.state_dict().items():
        assert weight.dtype == torch.float32 and torch.equal(weight, written.unet.state_dict()[name].half().float())


def test_a_card_brings_defaults(copied):
    (copied / "diffedit.json").write_text('{"defaults": {"diffedit": {"steps": 20, "guidance_scale": 3.0}}}')
    assert load(copied).defaults == {"diffedit": {"steps": 20, "guidance_scale": 3.0}}


def test_the_schedulers_config_is_read(copied, rewrite):
    rewrite(copied / SCHEDULER, beta_schedule="linear", beta_start=1e-4, beta_end=0.021, steps_offset=0,
            set_alpha_to_one=True)
    schedule = load(copied).schedule
    assert schedule.abar[0] == pytest.approx(1 - 1e-4, abs=1e-12)
    assert (schedule.steps_offset, schedule.clean_abar) == (0, 1.0)


# ---------------------------------------------------------------- older files


@pytest.mark.parametrize("shape", [(1, 1), (1,), ()], ids=str)
def test_the_vaes_old_attention_names(folder, copied, shape):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for name, weight in weights.items():
            for new, before in old.items():
                if f"attentions.0.{new}." in name:
                    name = name.replace(new, before)
                    weight = weight.reshape(*weight.shape, *shape) if weight.ndim == 2 else weight
            renamed[name] = weight
        return renamed

    change_weights(copied / VAE, rename)
    assert len([name for name in load_file(copied / VAE) if "proj_attn" in name]) == 4
    assert_same(load(copied), load(folder))


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_text_encoders_with_and_without_prefix_and_position_ids(folder, copied, prefix):
    def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = {prefix + name.removeprefix("text_model."): weight for name, weight in weights.items()}
        return {**weights, f"{prefix}embeddings.position_ids": torch.arange(24)[None]}

    change_weights(copied / TEXT, rename)
    assert_same(load(copied), load(folder))


def test_a_config_of_a_whole_clip_model_s_text_part(folder, copied, rewrite):
    """SD 1.x's text_encoder/config.json says more than the text model's config knows."""
    rewrite(copied / "text_encoder/config.json", _name_or_path="openai/clip", torch_dtype="float32", dropout=0.0)
    assert_same(load(copied), load(folder))


# ---------------------------------------------------------------- refused


def test_not_a_folder(tmp_path):
    way_out = 'give a folder, a .safetensors or .ckpt file, a Hub id (owner/name), or "tiny" for the embedded model'
    for name in ("no/such/model", "nosuchmodel", "absent/model.safetensors", tmp_path / "absent"):
        assert refusal(name) == f"{str(name)!r} is neither a folder nor a file here: {way_out}"
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == (
        f"{tmp_path / 'file'} looks like an empty file; expected weights, as .safetensors, .bin or .ckpt"
    )


def test_a_folder_that_is_no_model(tmp_path):
    expected = f"{str(tmp_path)!r} is not a complete checkpoint folder; missing: "
    assert refusal(tmp_path) == expected + ", ".join(REQUIRED)


@pytest.mark.parametrize("file", REQUIRED)
def test_a_missing_file(copied, file):
    (copied / file).unlink()
    assert refusal(copied) == f"{str(copied)!r} is not a complete checkpoint folder; missing: {file}"


def test_a_renamed_tensor(copied):
    def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"conv_in.bais" if name == "conv_in.bias" else name: weight for name, weight in weights.items()}

    change_weights(copied / UNET, rename)
    assert refusal(copied) == (
        f"{copied / UNET} doesn't fit its config.json: 1 missing: conv_in.bias; 1 unexpected: conv_in.bais"
    )


@pytest.mark.parametrize(("file", "name", "shape"), [
    (UNET, "conv_in.bias", (16,)), (VAE, "quant_conv.bias", (8,)),
    (TEXT, "final_layer_norm.bias", (16,)),
], ids=["unet", "vae", "text"])
def test_a_misshapen_tensor(copied, file, name, shape):
    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: torch.zeros(7) if key.endswith(name) and weight.shape == shape else weight
                for key, weight in weights.items()}

    change_weights(copied / file, change)
    assert refusal(copied) == (
        f"{copied / file} doesn't fit its config.json: 1 misshapen: {name} (7,) instead of {shape}"
    )


def test_a_config_of_another_network(copied, rewrite):
    """Much is missing: ten names and the total are shown."""
    rewrite(copied / "unet/config.json", layers_per_block=2)
    config = UNetConfig.from_dict(json.loads((copied / "unet/config.json").read_text()))
    stored = load_file(copied / UNET)
    missing = [name for name in UNet(config).state_dict() if name not in stored]
    assert len(missing) > 10
    expected = f"{copied / UNET} doesn't fit its config.json: {len(missing)} missing: {', '.join(missing[:10])}, ..."
    assert refusal(copied).split("; ")[0] == expected


@pytest.mark.parametrize("file", [UNET, VAE, TEXT], ids=["unet", "vae", "text"])
def test_an_empty_file(copied, file):
    (copied / file).write_bytes(b"")
    assert refusal(copied) == (
        f"{copied / file} looks like an empty file; expected weights, as .safetensors, .bin or .ckpt"
    )


@pytest.mark.parametrize("kept", [4, 100, -1])
@pytest.mark.parametrize("file", [UNET, VAE, TEXT], ids=["unet", "vae", "text"])
def test_a_truncated_file(copied, file, kept):
    data = (copied / file).read_bytes()
    (copied / file).write_bytes(data[:kept])
    message = refusal(copied)
    assert message.startswith(f"{copied / file} is not a whole safetensors file (")
    assert message.endswith("): copy it again")


JSON_FILES = [
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json", SCHEDULER, "diffedit.json",
]


@pytest.mark.parametrize("file", JSON_FILES)
def test_broken_json(copied, file):
    (copied / file).write_text('{"a": 1')
    with pytest.raises(json.JSONDecodeError) as reason:
        json.loads('{"a": 1')
    assert refusal(copied) == f"{copied / file} can't be read as JSON: {reason.value}"


@pytest.mark.parametrize("file", JSON_FILES)
def test_json_that_is_no_object(copied, file):
    (copied / file).write_text("[1, 2]")
    assert refusal(copied) == f"{copied / file} holds list instead of a JSON object"


def test_bytes_that_are_no_text(copied):
    (copied / "unet/config.json").write_bytes(b"\xff\xfe{}")
    assert refusal(copied).startswith(f"{copied / 'unet/config.json'} can't be read as JSON: ")


def test_switches_that_are_not_supported_name_the_file(copied, rewrite):
    rewrite(copied / "unet/config.json", class_embed_type="timestep")
    assert refusal(copied) == (
        f"{copied}: unet/config.json: class_embed_type = 'timestep' is not supported (only None)"
    )
    rewrite(copied / "unet/config.json", class_embed_type=None)
    rewrite(copied / "vae/config.json", shift_factor=0.1)
    assert refusal(copied) == f"{copied}: vae/config.json: shift_factor = 0.1 is not supported (only None or 0)"


def test_an_unknown_dtype():
    assert refusal("random", dtype="float8") == (
        "dtype 'float8' is not known; known are auto, float32, float64, float16, bfloat16"
    )


def test_unknown_devices():
    for device in ("gpu", "cpu:x", "meta", "hpu"):      # "meta" computes nothing, "hpu" needs a package
        message = refusal("random", device=device)
        assert message.startswith(f"device {device!r} can't be used: ")
    if not torch.cuda.is_available():
        assert refusal("random", device="cuda").startswith("device 'cuda' can't be used: ")


def test_an_unknown_prediction_type(folder, copied, rewrite):
    for kind in ("eps", ["epsilon"], 5, True, {}):
        message = f"prediction_type {kind!r} is not known; known are epsilon, v_prediction, sample"
        assert refusal(folder, prediction_type=kind) == message
        rewrite(copied / SCHEDULER, prediction_type=kind)
        assert refusal(copied) == f"{copied / SCHEDULER}: {message}"
        with pytest.raises(ValueError, match="prediction_type .* is not known"):
            info.describe(str(copied))
    assert load(copied, prediction_type="epsilon").prediction_type == "epsilon"


# ---------------------------------------------------------------- which files of a folder


def assert_weights(model: dm.StableDiffusion, *through: torch.dtype, times: float = 1) -> None:
    """The weights of "random" with seed 3, multiplied, and converted to each dtype in turn."""
    for part, written in networks(load("random", seed=3)).items():
        weights = dict(networks(model)[part].named_parameters())
        assert weights.keys() == dict(written.named_parameters()).keys()
        for name, weight in written.named_parameters():
            weight = weight * times
            for dtype in through:
                weight = weight.to(dtype)
            assert weights[name].dtype == weight.dtype and torch.equal(weights[name], weight), f"{part} {name}"


def add_half(folder: Path, times: float = 1) -> None:
    """Beside each network's file, one in float16 with the weights multiplied."""
    for file in (UNET, VAE, TEXT):
        weights = {name: (weight * times).half() for name, weight in load_file(folder / file).items()}
        save_file(weights, (folder / file).with_suffix(".fp16.safetensors"), {"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_a_folder_in_half_precision_only(copied, dtype):
    add_half(copied)
    for file in (UNET, VAE, TEXT):
        (copied / file).unlink()
    assert_weights(load(copied, dtype=str(dtype).split(".")[1]), torch.float16, dtype)


@pytest.mark.parametrize(("dtype", "times"), [("auto", 1), ("float32", 1), ("float64", 1), ("float16", 2),
                                              ("bfloat16", 2)])
def test_of_both_precisions_the_nearer_is_taken(copied, dtype, times):
    add_half(copied, times=2)
    kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    assert_weights(load(copied, dtype=dtype), *([torch.float16] if times == 2 else []), kind, times=times)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_folder_of_bin_files(folder, copied, zipped):
    for file, name in ((UNET, "diffusion_pytorch_model"), (VAE, "diffusion_pytorch_model"), (TEXT, "pytorch_model")):
        path = copied / file
        torch.save(load_file(path), path.with_name(f"{name}.bin"), _use_new_zipfile_serialization=zipped)
        path.unlink()
    assert_same(load(copied), load(folder))


def split(path: Path, kind: str = "safetensors") -> list[Path]:
    """The file in two shards in place of it."""
    weights = load_file(path)
    names, stem = sorted(weights), path.with_suffix("").as_posix()
    shards = [Path(f"{stem}-0000{i}-of-00002.{kind}") for i in (1, 2)]
    for shard, chosen in zip(shards, (names[::2], names[1::2]), strict=True):
        part = {name: weights[name] for name in chosen}
        save_file(part, shard, {"format": "pt"}) if kind == "safetensors" else torch.save(part, shard)
    path.unlink()
    return shards


def test_a_folder_of_shards(folder, copied):
    for file, kind in ((UNET, "safetensors"), (VAE, "bin"), (TEXT, "safetensors")):
        split(copied / file, kind)
    assert_same(load(copied), load(folder))


@pytest.mark.parametrize("lost", [0, 1])
def test_shards_that_are_not_all_there(copied, lost):
    parts = split(copied / UNET)
    parts[lost].unlink()
    assert refusal(copied) == (f"{str(copied)!r} is not a complete checkpoint folder; missing: {UNET} (there is "
                               f"{parts[1 - lost].name}, which is not all of it)")


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_which_of_many_files_is_taken(part, half):
    """In this order, each when those before it aren't there."""
    stems = [("model", "pytorch_model") if part == "text_encoder" else ("diffusion_pytorch_model",) * 2][0]
    order = [f"{part}/{stem}{variant}{shard}.{kind}"
             for stem, kind in zip(stems, ("safetensors", "bin"), strict=True)
             for variant in ((".fp16", "") if half else ("", ".fp16")) for shard in ("", "-00001-of-00001")]
    for i, file in enumerate(order):
        chosen, missing = weight_files({*order[i:], VAE, UNET.replace("unet", "other")}, half)
        assert chosen[part] == [file] and f"{part}/" not in "".join(missing)
    assert f"{part}/{stems[0]}.safetensors" in weight_files({VAE}, half)[1]
    assert part not in weight_files({f"{part}/{stems[0]}.non_ema.safetensors"}, half)[0]


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(("dtype", "mapped"), [("float32", True), ("float16", False)])
def test_weights_of_the_wanted_dtype_are_read_once_and_not_copied_but_in_half(copied, monkeypatch, dtype, mapped):
    given, get = [], files.Safetensors.get

    def recorded(self: files.Safetensors, name: str) -> Tensor:
        given.append(get(self, name))
        return given[-1]

    for file in (UNET, VAE, TEXT):
        change_weights(copied / file, lambda all: {name: one.to(getattr(torch, dtype)) for name, one in all.items()})
    monkeypatch.setattr(files.Safetensors, "get", recorded)
    weights = [weight for network in networks(load(copied, dtype=dtype)).values() for weight in network.parameters()]
    assert len(given) == len(weights)
    places, in_file = ({weight.data_ptr() for weight in some} for some in (weights, given))
    assert places == in_file if mapped else not places & in_file


@pytest.mark.parametrize(("numbers", "fine"), [
    ([1.0, -2.0], True), ([], True), ([6e4] * 9, True), ([float("nan"), 0.0], False), ([float("inf"), 1.0], False),
    ([float("inf"), float("-inf")], False),
])
def test_finite_numbers_may_have_a_sum_that_is_not(numbers, fine):
    assert files.finite(torch.tensor(numbers, dtype=torch.float16)) == fine


def test_changing_a_weight_leaves_the_file_alone(copied):
    before, model = {file: (copied / file).read_bytes() for file in (UNET, VAE, TEXT)}, load(copied)
    for network in networks(model).values():
        for weight in network.parameters():
            weight.add_(1)
    assert (load(copied).unet.conv_in.weight + 1 - model.unet.conv_in.weight).abs().max() < 1e-6
    del model
    assert before == {file: (copied / file).read_bytes() for file in before}


def test_files_that_are_mapped_anew_give_the_same(folder, monkeypatch):
    expected = load(folder)
    monkeypatch.setattr(files, "MAPPED_AT_ONCE", 0)
    assert_same(load(folder), expected)


def put(path: Path, name: str, value: float, dtype: torch.dtype = torch.float32) -> None:
    """Write one number into a tensor of the file, in that dtype."""

    def change(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        weights[name] = weights[name].to(torch.float64)
        weights[name].flatten()[0] = value
        return {**weights, name: weights[name].to(dtype)}

    change_weights(path, change)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_a_conversion_finds_damaged_numbers(copied, value, dtype):
    put(copied / VAE, "quant_conv.weight", value)
    assert refusal(copied, dtype=dtype) == (
        f"{copied / VAE}: quant_conv.weight holds NaN or infinite numbers: the file is damaged"
    )


def test_numbers_that_are_too_large(copied):
    put(copied / UNET, "conv_in.weight", -1e5)
    assert refusal(copied, dtype="float16") == (
        f"{copied / UNET}: conv_in.weight holds numbers too large for float16: use another dtype"
    )
    assert load(copied, dtype="bfloat16").unet.conv_in.weight.min() < -9e4
    put(copied / UNET, "conv_in.weight", 1e300, torch.float64)
    assert refusal(copied) == f"{copied / UNET}: conv_in.weight holds numbers too large for float32: use another dtype"
    assert load(copied, dtype="float64").unet.conv_in.weight.max() == 1e300


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn,
                                   torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(("file", "name"), [(UNET, "conv_in.bias"), (VAE, "quant_conv.bias")], ids=["unet", "vae"])
def test_weights_that_are_no_plain_floats(copied, file, name, dtype):
    put(copied / file, name, 1, dtype)
    assert refusal(copied) == (
        f"{copied / file}: {name} is of {str(dtype).split('.')[1]}; expected floats of 16, 32 or 64 bits"
    )


# ---------------------------------------------------------------- configs that can't be


@pytest.mark.parametrize(("part", "changes", "message"), [
    ("unet", {"block_out_channels": [-16, 32]},
     "block_out_channels = (-16, 32) is not supported (only whole numbers from 1 to 16384)"),
    ("unet", {"norm_num_groups": 7}, "a level of 16 channels can't be divided into 7 groups"),
    ("unet", {"norm_num_groups": 0}, "norm_num_groups = 0 is not supported (only whole numbers from 1 to 1024)"),
    ("unet", {"layers_per_block": 10**9},
     "layers_per_block = 1000000000 is not supported (only whole numbers from 1 to 16)"),
    ("unet", {"transformer_layers_per_block": 10**9},
     "transformer_layers_per_block = 1000000000 is not supported (only whole numbers from 1 to 64)"),
    ("unet", {"attention_head_dim": 0}, "attention_head_dim = 0 is not supported (only whole numbers from 1 to 1024)"),
    ("unet", {"cross_attention_dim": 10**12},
     "cross_attention_dim = 1000000000000 is not supported (only whole numbers from 1 to 16384)"),
    ("unet", {"in_channels": "4"}, "in_channels = '4' is not supported (only whole numbers from 1 to 1024)"),
    ("unet", {"sample_size": 0}, "sample_size = 0 is not supported (only whole numbers from 1 to 4096)"),
    ("vae", {"block_out_channels": [8, 8, -16]},
     "block_out_channels = (8, 8, -16) is not supported (only whole numbers from 1 to 16384)"),
    ("vae", {"norm_num_groups": 16}, "a level of 8 channels can't be divided into 16 groups"),
    ("vae", {"layers_per_block": 10**9},
     "layers_per_block = 1000000000 is not supported (only whole numbers from 1 to 16)"),
    ("vae", {"latent_channels": 1.5}, "latent_channels = 1.5 is not supported (only whole numbers from 1 to 1024)"),
    ("vae", {"scaling_factor": 0}, "scaling_factor = 0 is not a number above 0"),
    ("text_encoder", {"num_hidden_layers": 10**9},
     "num_hidden_layers = 1000000000 is not a whole number from 1 to 100"),
    ("text_encoder", {"num_attention_heads": 0}, "num_attention_heads = 0 is not a whole number from 1 to 1024"),
    ("text_encoder", {"hidden_size": -16}, "hidden_size = -16 is not a whole number from 1 to 16384"),
    ("text_encoder", {"vocab_size": 10**12}, "vocab_size = 1000000000000 is not a whole number from 1 to 1048576"),
    ("text_encoder", {"max_position_embeddings": True},
     "max_position_embeddings = True is not a whole number from 1 to 8192"),
])
def test_configs_beyond_reason_are_refused_at_once(copied, rewrite, part, changes, message):
    rewrite(copied / part / "config.json", **changes)
    start = time.process_time()
    assert refusal(copied) == f"{copied}: {part}/config.json: {message}"
    assert time.process_time() - start < 5


@pytest.mark.parametrize("changes", [
    {"attn_implementation": "someone/kernels"}, {"_attn_implementation": "someone/kernels"}, {"id2label": 5},
    {"auto_map": {"AutoModel": "x--y.Z"}}, {"torch_dtype": "no"}, {"attention_dropout": 0.9},
    {"eos_token_id": [1, "x"]}, {"num_labels": 10**9}, {"quantization_config": {"load_in_8bit": True}},
    {"output_attentions": True},
], ids=str)
def test_what_a_text_encoder_s_config_says_besides_is_not_used(folder, copied, rewrite, changes):
    rewrite(copied / "text_encoder/config.json", **changes)
    assert_same(load(copied), load(folder))


def test_the_text_s_part_of_a_whole_clip_s_config(folder, copied, rewrite):
    path = copied / "text_encoder/config.json"
    text = json.loads(path.read_text())
    path.write_text(json.dumps({"model_type": "clip", "text_config": text, "vision_config": {"hidden_size": 7}}))
    assert_same(load(copied), load(folder))


@pytest.mark.parametrize(("part", "changes"), [
    ("unet", {"down_block_types": 5}), ("unet", {"down_block_types": [1, 2]}), ("unet", {"up_block_types": 5}),
    ("unet", {"up_block_types": None, "block_out_channels": 16}), ("unet", {"norm_eps": "small"}),
    ("unet", {"num_attention_heads": "8"}), ("vae", {"down_block_types": 5}), ("vae", {"scaling_factor": "0.2"}),
    ("vae", {"block_out_channels": 8}), ("text_encoder", {"architectures": 5}), ("text_encoder", {"hidden_act": "no"}),
    ("text_encoder", {"num_attention_heads": 3}), ("text_encoder", {"layer_norm_eps": "small"}),
])
def test_configs_of_the_wrong_types_are_refused_in_one_line(copied, rewrite, part, changes):
    rewrite(copied / part / "config.json", **changes)
    assert refusal(copied).startswith(f"{copied}: {part}/config.json: ")


# ---------------------------------------------------------------- tokenizers


def test_a_tokenizer_of_another_model(copied, rewrite):
    known = load(copied).text_encoder.config.vocab_size
    rewrite(copied / "tokenizer/vocab.json", **{"another</w>": known})
    assert refusal(copied) == (
        f"{copied / 'tokenizer'} has the token 'another</w>' with id {known}, but the text encoder knows {known} "
        "tokens, from 0: the tokenizer belongs to another model"
    )


@pytest.mark.parametrize(("file", "content"), [
    ("vocab.json", None), ("vocab.json", b""), ("vocab.json", b"[1, 2]"), ("vocab.json", b"\xff\xfe"),
    ("merges.txt", b"one\ntwo three four\n"), ("tokenizer_config.json", b"{"),
], ids=["truncated", "empty", "a list", "no text", "merges", "config"])
def test_a_broken_tokenizer(copied, file, content):
    path = copied / "tokenizer" / file
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    message = refusal(copied)
    assert message.startswith(f"{copied / 'tokenizer'} is not a tokenizer of CLIP's kind (")
    assert message.endswith("): copy it again")


# ---------------------------------------------------------------- "random"


def test_random_weights_follow_the_seed():
    assert_same(load("random", seed=1), load("random", seed=1))
    assert_same(load("random"), load("random", seed=0))
    one, other = networks(load("random", seed=1)), networks(load("random", seed=2))
    for part in one:
        a, b = one[part].state_dict(), other[part].state_dict()
        assert any(not torch.equal(a[name], b[name]) for name in a), part


def test_random_leaves_torchs_own_randomness_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load("random", seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_random_is_of_use_to_samplers(model):
    """Its predictions depend on latents, time and text, and are of the noise's size or below."""
    x, context = latents(), model.embed(PROMPTS)
    eps = model.eps(x, 500, context)
    assert model.name == "random" and eps.isfinite().all() and 0.01 < eps.std() < 3
    for other in (model.eps(x, 20, context), model.eps(x, 500, context[[1, 2, 0]]), model.eps(-x, 500, context)):
        assert (other - eps).abs().max() > 1e-4


# ---------------------------------------------------------------- prediction types, dtypes, large batches


@pytest.mark.parametrize(("kind", "eps_from"), [("v_prediction", eps_from_v), ("sample", eps_from_x0)])
def test_what_is_no_noise_prediction_is_turned_into_one(folder, copied, rewrite, kind, eps_from):
    rewrite(copied / SCHEDULER, prediction_type=kind)
    x = latents()
    for model in (load(copied, dtype="float64"), load(folder, dtype="float64", prediction_type=kind)):
        assert model.prediction_type == kind and info.describe(str(copied))["predicts"] == kind
        context = model.embed(PROMPTS)
        for t in (0, 431, 999):
            out = model.unet(x, t, context.tokens)
            assert torch.equal(model.eps(x, t, context), eps_from(x, out, model.schedule.abar[t]))
            both = model.eps(x[:1], t, context)         # the same x for several prompts
            assert torch.allclose(both[0], model.eps(x[:1], t, context[[0]])[0], atol=1e-12)
    assert load(copied, prediction_type="epsilon").prediction_type == "epsilon"


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes(dtype):
    model, wide = load("random", dtype=dtype), dtype == "float64"
    at_least_single = torch.float64 if wide else torch.float32
    assert model.dtype == getattr(torch, dtype)
    for network in networks(model).values():
        assert {p.dtype for p in network.parameters()} == {getattr(torch, dtype)}
    context = model.embed(PROMPTS)
    for own in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        eps = model.eps(latents(dtype=own), 431, context)
        assert eps.dtype == own and eps.isfinite().all()
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    assert model.encode(pixels).dtype == at_least_single
    assert model.decode(latents()).dtype == at_least_single


def test_half_precision_is_near(model):
    x, pixels = latents(dtype=torch.float32), torch.rand(2, 3, 32, 32) * 2 - 1
    eps, encoded = model.eps(x, 431, model.embed(PROMPTS)), model.encode(pixels)
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.05)):
        other = load("random", dtype=dtype)
        assert (other.eps(x, 431, other.embed(PROMPTS)) - eps).abs().max() < tolerance
        assert (other.encode(pixels) - encoded).abs().max() < tolerance


def test_dtype_auto_is_float32_for_small_models():
    assert load("random").dtype == torch.float32


@pytest.mark.parametrize(("device", "found", "dtype"), [
    ("cpu", {"avx512_bf16": True, "avx512_f": True}, torch.bfloat16), ("cpu", {"amx_bf16": True}, torch.bfloat16),
    ("cpu", {"sve_bf16": True}, torch.bfloat16), ("cpu", {"avx512_f": True, "amx_bf16": False}, torch.float32),
    ("cuda", {}, torch.float16), ("mps", {"avx512_bf16": True}, torch.float32),
])
def test_dtype_auto_of_full_size_models_follows_the_machine(monkeypatch, device, found, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    with torch.device("meta"):
        full, small = torch.nn.Linear(10_000, 10_000), torch.nn.Linear(9_000, 9_000)
    assert loading.best_dtype(full, torch.device(device)) == dtype
    assert loading.best_dtype(small, torch.device(device)) == torch.float32


def test_dtype_auto_with_a_torch_that_does_not_know_the_processor(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    with torch.device("meta"):
        assert loading.best_dtype(torch.nn.Linear(10_000, 10_000), torch.device("cpu")) == torch.float32


def test_a_full_size_model_is_loaded_in_its_best_dtype(folder, monkeypatch):
    monkeypatch.setattr(loading, "FULL_SIZE", 1)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    model = load(folder)
    assert model.dtype == torch.bfloat16 == next(model.vae.parameters()).dtype
    assert load(folder, dtype="float32").dtype == torch.float32


@pytest.mark.parametrize(("dtype", "last"), [("float32", False), ("bfloat16", True), ("float16", True)])
def test_channels_come_last_in_half_precision(folder, dtype, last):
    model = load(folder, dtype=dtype)
    for network in (model.unet, model.vae):
        weights = [weight for weight in network.parameters() if weight.ndim == 4 and min(weight.shape) > 1]
        assert weights
        assert all(weight.is_contiguous(memory_format=torch.channels_last) == last for weight in weights)


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(loading.shutil, "which", lambda name: None)
    assert refusal("random", compile=True) == (
        "compile needs a C++ compiler (c++ or g++ or clang++): install one, or leave compile out")


def one_level(family: str) -> dict:
    """A family's configs with a single level: a small graph, which is soon traced."""
    configs = checkpoints.small(family)
    configs["unet"] |= {"block_out_channels": [32], "down_block_types": [checkpoints.CROSS], "layers_per_block": 1,
                        "attention_head_dim": 2, "transformer_layers_per_block": 1}
    return configs


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.full)])
def test_a_compiled_unet_takes_every_size_and_number_of_rows_each_with_one_graph(tmp_path, family):
    checkpoints.write_folder(tmp_path, one_level(family))
    plain, compiled = load(tmp_path), load(tmp_path)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    loading.compile_unet(compiled, "eager")     # one graph: a break in it would raise
    seen = []
    cases = [((4, 4), 1, 1), ((4, 4), 1, 2), ((4, 8), 1, 2), ((4, 8), 3, 2), ((6, 5), 3, 2), ((6, 5), 2, 1),
             ((5, 7), 2, 1), ((4, 5), 2, 1), ((6, 8), 1, 1), ((6, 6), 1, 1)]      # more than torch.compile's 8
    cases = cases if family == "sd15" else cases[:5]
    for _ in range(2):
        for size, count, prompts in cases:
            x = torch.randn(count, 4, *size)
            context = plain.embed(PROMPTS[:1] * count * prompts)
            for t in (431, 1):
                apart = (compiled.eps(x, t, context) - plain.eps(x, t, context)).abs().max()
                assert apart <= 1e-5, (size, count, prompts, t)
        seen.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert not torch._dynamo.utils.counters["graph_break"]
    assert seen == [len(cases)] * 2         # not one for each time, and none at the second call
    torch._dynamo.reset()


@pytest.mark.slow
def test_a_compiled_unet_can_be_read_and_changed(tmp_path):
    checkpoints.write_folder(tmp_path, one_level("sd15"))
    plain, compiled = load(tmp_path), load(tmp_path)
    torch._dynamo.reset()
    loading.compile_unet(compiled, "eager")
    x, context = torch.randn(2, 4, 8, 8), plain.embed(PROMPTS[:2])

    class Half:
        def wants(self, place): return True
        def __call__(self, x, place): return x / 2

    for seam in ("attend", "features", "checkpointing"):
        given = {"attend": AttentionRecorder(), "features": Half(), "checkpointing": True}[seam]
        found = [model.eps(x, 431, context, **{seam: given}) for model in (plain, compiled)]
        assert (found[0] - found[1]).abs().max() <= 1e-5, seam
    torch._dynamo.reset()


def test_load_compiles_the_unet(monkeypatch):
    asked = []
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setattr(UNet, "compile", lambda self, **options: asked.append((type(self).__name__, options)))
    load("random", compile=True)
    load("random")
    assert asked == [("UNet", {"fullgraph": True, "dynamic": False, "backend": "inductor"})]


def test_large_maps_are_not_cut_into_bands_while_a_graph_is_made(monkeypatch):
    monkeypatch.setattr(bands, "LARGE", 1)
    x = torch.ones(1, 2, 4, 4)
    assert bands.large(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not bands.large(x)


@pytest.mark.parametrize("rows", [0, -1])
def test_rows_per_batch_must_be_positive(rows):
    assert refusal("random", rows_per_batch=rows) == f"rows_per_batch must be at least 1, not {rows}"


@pytest.mark.parametrize(("rows", "m"), [(1, 2), (2, 1), (3, 2), (5, 3), (100, 2)])
def test_rows_per_batch_changes_memory_only(model, rows, m):
    x, context = latents(5), model.embed([f"{i} plums" for i in range(5 * m)])
    whole, seen = model.eps(x, 431, context), []
    hook = model.unet.register_forward_hook(lambda _module, _args, out: seen.append(len(out)))
    try:
        parts = dataclasses.replace(model, rows_per_batch=rows).eps(x, 431, context)
    finally:
        hook.remove()
    assert sum(seen) == 5 * m and max(seen) <= max(rows, m)
    assert (parts - whole).abs().max() <= 1e-12
    for i in range(5 * m):      # each prompt with its own latent
        assert (whole[i] - model.eps(x[i % 5 : i % 5 + 1], 431, context[i : i + 1])[0]).abs().max() <= 1e-12


@pytest.mark.parametrize("cells", [1, 64, 100, 128, 64 * 7])
def test_large_batches_run_in_parts(model, monkeypatch, cells):
    x, context = latents(7), model.embed([*PROMPTS, *PROMPTS, "sand"])
    whole, sizes = model.eps(x, 431, context), []
    monkeypatch.setattr(stable_diffusion, "CELLS_AT_ONCE", cells)
    hook = model.unet.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    try:
        parts = model.eps(x, 431, context)
    finally:
        hook.remove()
    rows = max(1, cells // 64)
    assert sizes == [rows] * (7 // rows) + [7 % rows] * (7 % rows > 0)
    assert (parts - whole).abs().max() <= 1e-12


def test_attend_sees_all_rows_of_the_call(model, monkeypatch):
    class Watch:
        rows: list[int]

        def wants(self, place):
            return True

        def __call__(self, q, k, v, place):
            self.rows.append(len(q))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    x, context, watch = latents(7), model.embed([*PROMPTS, *PROMPTS, "sand"]), Watch()
    watch.rows = []
    monkeypatch.setattr(stable_diffusion, "CELLS_AT_ONCE", 64)
    assert (model.eps(x, 431, context, attend=watch) - model.eps(x, 431, context)).abs().max() <= 1e-12
    assert set(watch.rows) == {7}


def test_as_many_prompts_as_latents(model):
    context = model.embed(PROMPTS)
    for given in (context, context.tokens):
        with pytest.raises(ValueError) as error:
            model.eps(latents(2), 431, given)
        assert str(error.value) == "2 latents but 3 prompts: give as many, or a multiple"
    assert torch.equal(model.eps(latents(), 431, context), model.eps(latents(), 431, context.tokens))


def test_encode_and_decode_are_the_vaes_scaled(model):
    pixels, x = torch.rand(2, 3, 32, 48, dtype=torch.float64) * 2 - 1, latents()
    scale = model.vae.config.scaling_factor
    assert torch.equal(model.encode(pixels), model.vae.encode(pixels)[0] * scale)
    assert torch.equal(model.decode(x), model.vae.decode(x / scale))
    assert model.encode(pixels).shape == (2, 4, 8, 12)
    assert torch.equal(model.encode(pixels), model.encode(pixels))          # the mode: no chance in it


# ---------------------------------------------------------------- prompts


def test_embed(model):
    context = model.embed(PROMPTS)
    assert context.tokens.shape == (3, 24, 16) and context.ids.shape == (3, 24) and context.pooled is None
    assert context.tokens.dtype == torch.float64 and len(context) == 3
    start, end = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    words = [model.tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in PROMPTS[0].split()]
    assert context.ids[0].tolist() == [start, *words, end, *[end] * 16]
    assert context.ids[1].tolist() == [start, *[end] * 23]
    for i, prompt in enumerate(PROMPTS):
        alone = model.embed([prompt])
        assert torch.equal(alone.ids[0], context.ids[i])
        assert (alone.tokens[0] - context.tokens[i]).abs().max() <= 1e-12
    assert (context.tokens[0] - context.tokens[2]).abs().max() > 1e-3


def test_context_rows():
    context = Context(torch.arange(24.0).reshape(3, 4, 2), torch.arange(6.0).reshape(3, 2),
                      torch.arange(12).reshape(3, 4))
    for rows, order in ((slice(1, 3), [1, 2]), ([2, 0], [2, 0]), (torch.tensor([1]), [1]),
                        (torch.tensor([True, False, True]), [0, 2])):
        part = context[rows]
        assert len(part) == len(order)
        for i, row in enumerate(order):
            assert torch.equal(part.tokens[i], context.tokens[row])
            assert torch.equal(part.pooled[i], context.pooled[row])
            assert torch.equal(part.ids[i], context.ids[row])
    joined = context[:1].join(context[1:])
    repeated = context.repeat(2)
    for name in ("tokens", "pooled", "ids"):
        whole = getattr(context, name)
        assert torch.equal(getattr(joined, name), whole)
        assert torch.equal(getattr(repeated, name), torch.cat([whole, whole]))


def test_context_parts_that_are_not_there():
    tokens = torch.zeros(2, 4, 3)
    plain, with_ids = Context(tokens), Context(tokens, ids=torch.zeros(2, 4, dtype=torch.long))
    assert plain[:1].ids is None and plain.repeat(3).pooled is None
    assert plain.join(with_ids).ids is None and with_ids.join(plain).ids is None
    assert len(plain.join(with_ids)) == 4 and with_ids.join(with_ids).ids.shape == (4, 4)


def test_a_prompt_that_is_too_long_is_cut_off_with_a_warning(model, recwarn):
    fits, too_long = " ".join(["sand"] * 22), " ".join(["sand"] * 22 + ["grass"])
    cut = model.embed([fits, "a"])
    assert not [w for w in recwarn if "too long" in str(w.message)]
    with pytest.warns(UserWarning) as warned:
        context = model.embed(["a", too_long])
    assert [str(w.message) for w in warned] == ["the prompt is too long; dropped: 'grass'"]
    assert warned[0].filename == __file__
    assert torch.equal(context.ids[1], cut.ids[0])


def test_random_takes_a_prediction_type():
    assert load("random", prediction_type="v_prediction").prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="^prediction_type 'eps' is not known; known are epsilon, v_pred"):
        load("random", prediction_type="eps")


def test_loading_leaves_the_global_random_state_alone(folder):
    state = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------- every family, small

FAMILIES = list(checkpoints.REAL)
EDITING = [family for family in FAMILIES if checkpoints.REAL[family]["unet"]["in_channels"] == 4]


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """small(family): a folder of that family with few channels. Tests must not change it."""
    written = {}

    def small(family: str) -> Path:
        if family not in written:
            written[family] = checkpoints.write_folder(tmp_path_factory.mktemp(family), checkpoints.small(family))
        return written[family]

    return small


@pytest.fixture(scope="session")
def xl(small) -> dm.StableDiffusion:
    """SD XL in float64. Tests must not change it."""
    return load(small("sdxl"), dtype="float64")


@pytest.mark.parametrize("family", [
    family if family in ("sd15", "sd21-768", "sdxl", "bk-sdm-tiny") else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES])
def test_each_family_gives_what_was_written(small, family):
    model, configs = load(small(family)), checkpoints.small(family)
    written = checkpoints.random_weights(configs)
    found = {"unet": model.unet, "vae": model.vae, "text_encoder": model.texts[0].encoder}
    found |= {"text_encoder_2": model.texts[1].encoder} if len(model.texts) == 2 else {}
    assert found.keys() == written.keys()
    for part, network in found.items():
        weights = dict(network.named_parameters())
        assert weights.keys() == written[part].keys()
        assert all(torch.equal(weights[name], weight) for name, weight in written[part].items())
        assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    assert model.prediction_type == ("v_prediction" if family == "sd21-768" else "epsilon")
    assert model.unet.config.in_channels == configs["unet"]["in_channels"]
    assert (model.unet.mid_block is None) == (family in ("bk-sdm-small", "bk-sdm-tiny"))
    assert model.vae.config.scaling_factor == (0.13025 if family == "sdxl" else 0.18215)
    assert model.zero_empty_prompt == (family == "sdxl")


@pytest.mark.parametrize("family", [family if family in ("sd21-768", "sdxl") else
                                    pytest.param(family, marks=pytest.mark.slow) for family in EDITING])
def test_each_family_edits(small, family):
    model, picture = load(small(family)), Image.effect_noise((70, 50), 60).convert("RGB")
    edit = dm.diffedit(model, picture, PROMPTS[0], PROMPTS[2], steps=3, mask_samples=2, mask_threshold=0.1)
    assert edit.image.size == picture.size and not edit.empty_mask
    assert edit.decoded[0].latent.isfinite().all()
    assert edit.image.tobytes() != picture.tobytes()


def test_instruct_pix2pix_runs_on_its_published_layout(small):
    picture = Image.new("RGB", (70, 64), "red")
    edit = dm.instruct_pix2pix(load(small("instruct-pix2pix")), picture, "make it green", steps=2)
    assert edit.image.size == (70, 64) and edit.rows == 2 * 3


@pytest.mark.parametrize(("family", "method", "options"), [
    ("sdxl", "prompt_to_prompt", {"local_blend": "pears", "blend_size": 0.5, "reweight": {"pears": 2}}),
    ("sdxl", "null_text", {"iterations": 1}), ("sd21-768", "cycle_diffusion", {}),
    pytest.param("sd21-768", "null_text", {"iterations": 1}, marks=pytest.mark.slow),
    pytest.param("sdxl", "unitune", {"tuning_steps": 1, "batch": 1}, marks=pytest.mark.slow),
])
def test_other_methods_run_on_each_kind(small, family, method, options):
    """With conv and with linear projections, predicting epsilon and v, told one text or two and the sizes."""
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    edit = dm.METHODS[method](load(small(family)), picture, "a bowl of pears", "a bowl of plums", steps=2, **options)
    assert edit.decoded[0].latent.isfinite().all() and edit.image.size == (64, 64)


@pytest.mark.parametrize(("family", "channels", "purpose"), [
    ("sd15-inpainting", 9, "inpainting"), ("instruct-pix2pix", 8, "InstructPix2Pix"),
])
def test_models_for_something_else_are_not_for_diffedit(small, family, channels, purpose):
    with pytest.raises(ValueError) as error:
        dm.diffedit(load(small(family)), Image.new("RGB", (64, 64)), "a bowl of plums on sand")
    assert str(error.value).startswith(
        f"diffedit needs a U-Net with 4 input channels; {str(small(family))!r} has {channels} and is made for {purpose}"
    )
    assert "\n" not in str(error.value)


def test_a_family_that_predicts_v(small):
    model, x = load(small("sd21-768"), dtype="float64"), latents()
    context = model.embed(PROMPTS)
    for t in (0, 431, 999):
        v = model.unet(x, t, context.tokens)
        assert torch.equal(model.eps(x, t, context), eps_from_v(x, v, model.schedule.abar[t]))
    told = load(small("sd21-768"), dtype="float64", prediction_type="epsilon")
    assert torch.equal(told.eps(x, 431, context), model.unet(x, 431, context.tokens))


# ---------------------------------------------------------------- SD XL


def test_xl_embeds_with_both_encoders(xl):
    context, (one, two) = xl.embed(PROMPTS), (text.encoder for text in xl.texts)
    assert context.tokens.shape == (3, 24, 16 + 24) and context.pooled.shape == (3, 24)
    first, second = one(context.ids, output_hidden_states=True), two(context.ids, output_hidden_states=True)
    expected = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=2)
    told = [0, 2]                                                           # all but the empty one
    assert torch.equal(context.tokens[told], expected[told])
    assert torch.equal(context.pooled[told], second.text_embeds[told])


@pytest.mark.parametrize("ends", [2, 49407, 654])
def test_xls_summary_is_taken_at_the_first_end_token(small, tmp_path, rewrite, ends):
    """Of prompts with an added token too, whose id is larger than the end token's, and whatever the config says."""
    made = Path(shutil.copytree(small("sdxl"), tmp_path / "xl"))
    for part in ("text_encoder", "text_encoder_2"):
        rewrite(made / part / "config.json", vocab_size=656, eos_token_id=ends)
        folder = made / part.replace("text_encoder", "tokenizer")
        (folder / "added_tokens.json").write_text('{"<cat-toy>": 655}')
        weights = load_file(made / part / "model.safetensors")
        name = next(key for key in weights if key.endswith("token_embedding.weight"))
        weights[name] = torch.cat([weights[name], weights[name][:1] + 1])
        save_file(weights, made / part / "model.safetensors", {"format": "pt"})
    model = load(made, dtype="float64")
    prompts = ["a <cat-toy> on sand", "a <cat-toy> on grass", "a bowl on sand", "a bowl <|endoftext|> on sand"]
    context, encoder = model.embed(prompts), model.texts[1].encoder
    ids, last = context.ids, encoder(context.ids).last_hidden_state
    assert (ids[:2] == 655).sum() == 2
    expected = [last[row, ids[row].tolist().index(654)] @ encoder.text_projection.weight.T for row in range(4)]
    assert torch.allclose(context.pooled, torch.stack(expected), atol=1e-12)
    assert (context.pooled[0] - context.pooled[1]).abs().max() > 1e-3
    if ends == 654:         # then the library takes the same place
        assert torch.allclose(context.pooled, encoder(ids).text_embeds, atol=1e-12)


def test_xl_tells_the_empty_prompt_as_zeros_if_its_index_says_so(xl, small, tmp_path, rewrite):
    context = xl.embed(["", *PROMPTS, ""])
    for i, prompt in enumerate(["", *PROMPTS, ""]):
        assert context.tokens[i].any().item() == context.pooled[i].any().item() == (prompt != "")
    copy = Path(shutil.copytree(small("sdxl"), tmp_path / "copy"))
    rewrite(copy / "model_index.json", force_zeros_for_empty_prompt=False)
    other = load(copy, dtype="float64").embed(["", *PROMPTS, ""])
    assert other.tokens[0].any() and other.pooled[0].any()
    assert torch.equal(other.tokens[1], context.tokens[1]) and torch.equal(other.pooled[1], context.pooled[1])


def test_xl_is_told_the_summary_and_the_sizes(xl):
    x, context = latents(), xl.embed(PROMPTS)
    eps = xl.eps(x, 431, context)
    assert torch.equal(eps, xl.eps(x, 431, context, sizes=(64, 64, 0, 0, 64, 64)))
    changed = dataclasses.replace(context, pooled=context.pooled.roll(1, 0))
    assert all((xl.eps(x, 431, changed) - eps).abs().amax((1, 2, 3)) > 1e-6)
    for i in range(6):
        sizes = [64, 64, 0, 0, 64, 64]
        sizes[i] += 100
        assert all((xl.eps(x, 431, context, sizes=tuple(sizes)) - eps).abs().amax((1, 2, 3)) > 1e-6), i


def test_xls_default_sizes_are_of_an_uncropped_picture(xl):
    x, context = torch.cat([latents(), latents()], dim=3), xl.embed(PROMPTS)
    assert torch.equal(xl.eps(x, 431, context), xl.eps(x, 431, context, sizes=(64, 128, 0, 0, 64, 128)))
    assert not torch.equal(xl.eps(x, 431, context), xl.eps(x, 431, context, sizes=(128, 64, 0, 0, 128, 64)))


def test_xl_needs_what_embed_returns(xl, small):
    context = xl.embed(PROMPTS)
    for given in (context.tokens, Context(context.tokens)):
        with pytest.raises(ValueError) as error:
            xl.eps(latents(), 431, given)
        assert str(error.value) == (
            f"{str(small('sdxl'))!r} needs the prompts' pooled vectors too: pass what embed() returns"
        )


@pytest.mark.parametrize("cells", [64, 200])
def test_xls_large_batches_run_in_parts(xl, monkeypatch, cells):
    x, context = latents(7), xl.embed([*PROMPTS, *PROMPTS, "sand"])
    whole = xl.eps(x, 431, context)
    monkeypatch.setattr(stable_diffusion, "CELLS_AT_ONCE", cells)
    assert (xl.eps(x, 431, context) - whole).abs().max() <= 1e-12


def test_xls_vae_stays_in_float32(xl, small):
    model, kind = load(small("sdxl"), dtype="float16"), torch.float16
    assert {weight.dtype for weight in model.vae.parameters()} == {torch.float32}
    for network in (model.unet, *(text.encoder for text in model.texts)):
        assert {weight.dtype for weight in network.parameters()} == {kind}
    pixels = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 2 - 1
    assert model.encode(pixels).dtype == model.decode(latents(1)).dtype == torch.float32
    assert (model.encode(pixels) - xl.encode(pixels)).abs().max() < 1e-4
    assert model.eps(latents(dtype=torch.float32), 431, model.embed(PROMPTS)).isfinite().all()


def test_a_vae_that_may_be_in_half_is(small):
    assert load(small("sd15"), dtype="float16").vae.quant_conv.weight.dtype == torch.float16
    assert load(small("sdxl"), dtype="float64").vae.quant_conv.weight.dtype == torch.float64
