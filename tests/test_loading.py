"""Run with `python -m pytest tests/test_loading.py` from the repository's root; takes about 15 seconds.

Checks `load`: a folder gives the weights that were written, old files load as new ones do, damaged ones are refused in
one line; and the bundle that it returns: prompts, dtypes, large batches, v_prediction.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.model import stable_diffusion
from diffedit_min.model.text import Context
from diffedit_min.model.unet import UNet, UNetConfig
from diffedit_min.schedule import Schedule, eps_from_v

PROMPTS = ["a bowl of apples on sand", "", "a bucket of plums on grass"]
UNET, VAE, TEXT = (loading.WEIGHTS[part] for part in ("unet", "vae", "text_encoder"))
REQUIRED = [
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
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
    rewrite(copied / loading.SCHEDULER, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, steps_offset=0,
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
    (tmp_path / "file").touch()
    for name in ("no/such/model", tmp_path / "absent", tmp_path / "file"):
        assert refusal(name) == (
            f"{str(name)!r} is not a folder: give a checkpoint folder, or \"tiny\" for the embedded model"
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


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
@pytest.mark.parametrize("file", [UNET, VAE, TEXT], ids=["unet", "vae", "text"])
def test_a_truncated_file(copied, file, kept):
    data = (copied / file).read_bytes()
    (copied / file).write_bytes(data[:kept])
    message = refusal(copied)
    assert message.startswith(f"{copied / file} is not a whole safetensors file (")
    assert message.endswith("): copy it again")


JSON_FILES = ["unet/config.json", "vae/config.json", "text_encoder/config.json", loading.SCHEDULER, "diffedit.json"]


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
        f"{copied / 'unet/config.json'}: class_embed_type = 'timestep' is not supported (only None)"
    )
    rewrite(copied / "unet/config.json", class_embed_type=None)
    rewrite(copied / "vae/config.json", shift_factor=0.1)
    assert refusal(copied) == f"{copied / 'vae/config.json'}: shift_factor = 0.1 is not supported (only None or 0)"


def test_an_unknown_dtype():
    assert refusal("random", dtype="float8") == (
        "dtype 'float8' is not known; known are auto, float32, float64, float16, bfloat16"
    )


def test_unknown_devices():
    for device in ("gpu", "cpu:x"):
        message = refusal("random", device=device)
        assert message.startswith(f"device {device!r} can't be used: ")
    if not torch.cuda.is_available():
        assert refusal("random", device="cuda").startswith("device 'cuda' can't be used: ")


def test_an_unknown_prediction_type(folder, copied, rewrite):
    for kind in ("sample", "eps"):
        message = f"prediction_type {kind!r} is not known; known are epsilon and v_prediction"
        assert refusal(folder, prediction_type=kind) == message
        rewrite(copied / loading.SCHEDULER, prediction_type=kind)
        assert refusal(copied) == message
    assert load(copied, prediction_type="epsilon").prediction_type == "epsilon"


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


def test_v_prediction_is_turned_into_noise(folder, copied, rewrite):
    rewrite(copied / loading.SCHEDULER, prediction_type="v_prediction")
    x = latents()
    for model in (load(copied, dtype="float64"), load(folder, dtype="float64", prediction_type="v_prediction")):
        assert model.prediction_type == "v_prediction"
        context = model.embed(PROMPTS)
        for t in (0, 431, 999):
            v = model.unet(x, t, context.tokens)
            assert torch.equal(model.eps(x, t, context), eps_from_v(x, v, model.schedule.abar[t]))
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


def test_dtype_auto_is_float32():
    assert load("random").dtype == torch.float32


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
        assert str(error.value) == "2 latents but 3 prompts"
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
    assert not [w for w in recwarn if "cut off" in str(w.message)]
    with pytest.warns(UserWarning) as warned:
        context = model.embed(["a", too_long])
    assert [str(w.message) for w in warned] == [f"cut off after 22 tokens: {too_long!r}"]
    assert warned[0].filename == __file__
    assert torch.equal(context.ids[1], cut.ids[0])


def test_random_takes_a_prediction_type():
    assert load("random", prediction_type="v_prediction").prediction_type == "v_prediction"
    with pytest.raises(ValueError, match="^prediction_type 'sample' is not known; known are epsilon and v_prediction$"):
        load("random", prediction_type="sample")


def test_loading_leaves_the_global_random_state_alone(folder):
    state = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), state)
