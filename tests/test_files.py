"""Run: python -m pytest tests/test_files.py

Files of weights: what is damaged, foreign or hostile is refused in one line, and nothing that a file holds is run.
"""

import collections
import gzip
import os
import pickle
import shutil
import struct
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffedit_min import loading
from diffedit_min.loading import files
from diffedit_min.loading.files import Joined, Pickled, Safetensors, file_kind, foreign, open_weights
from diffedit_min.studio import cli

WHOLE = "expected a whole Stable Diffusion checkpoint"
EXPECTED = "expected weights, as .safetensors, .bin or .ckpt"
NO_CODE = ", which could run code, so it is refused: look for a .safetensors file of the same weights"


@pytest.fixture(scope="module")
def sd15(tmp_path_factory) -> tuple[Path, dict, dict]:
    """A small SD 1.5: its folder, configs and weights. Tests must not change it."""
    configs = checkpoints.small("sd15")
    weights = checkpoints.random_weights(configs)
    return checkpoints.write_folder(tmp_path_factory.mktemp("sd15"), configs, weights), configs, weights


@pytest.fixture(scope="module")
def original(sd15, tmp_path_factory) -> bytes:
    """The same as one .safetensors file's bytes."""
    _, configs, weights = sd15
    path = tmp_path_factory.mktemp("one") / "x.safetensors"
    return checkpoints.write_single_file(path, configs, weights).read_bytes()


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys):
    """The command's one line for a model that it refuses, with nothing written and nothing else said."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Image.new("RGB", (32, 32)).save("a.png")

    def call(model: Path, *arguments: str) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        monkeypatch.setattr(sys, "argv", ["x", "edit", "a.png", "--query", "pears", "--model", str(model), *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        assert end.value.code == 1 and out == "" and err.count("\n") == 1 and err.startswith("error: ")
        assert "--debug" not in err and {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return err.removeprefix("error: ").removesuffix("\n")

    return call


# ---------------------------------------------------------------- not weights at all


def zipped(names: dict[str, bytes]) -> bytes:
    """A zip with such files."""
    path = Path("made.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    data = path.read_bytes()
    path.unlink()
    return data


def header(data: bytes, length: int | None = None) -> bytes:
    """How a .safetensors file begins."""
    return struct.pack("<Q", len(data) if length is None else length) + data


ENTRY = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, %d]}}'
NOT_WEIGHTS = {
    "empty.safetensors": (lambda: b"", f"looks like an empty file; {EXPECTED}"),
    "empty.ckpt": (lambda: b"", f"looks like an empty file; {EXPECTED}"),
    "length-only.safetensors": (lambda: header(b"", 100), "is not a whole safetensors file (* copy it again"),
    "few-bytes.safetensors": (lambda: b"\x40\0\0", "is not a whole safetensors file (* copy it again"),
    "huge-header.safetensors": (lambda: header(ENTRY % 8, 2**60), "is not a whole safetensors file (* copy it again"),
    "no-json.safetensors": (lambda: header(b"{not: json"), "is not a whole safetensors file (* copy it again"),
    "not-utf8.safetensors": (lambda: header(b'{"\xff": 1}'), "is not a whole safetensors file (* copy it again"),
    "no-object.safetensors": (lambda: header(b"[1, 2]"),
                              f"looks like nothing known (it begins with {header(b'[1, 2]')!r}); {EXPECTED}"),
    "data-missing.safetensors": (lambda: header(ENTRY % 8) + b"1234",
                                 "is not a whole safetensors file (* copy it again"),
    "data-too-long.safetensors": (lambda: header(ENTRY % 8) + b"1" * 20,
                                  "is not a whole safetensors file (* copy it again"),
    "wrong-size.safetensors": (lambda: header(ENTRY % 80) + b"1" * 80,
                               "is not a whole safetensors file (* copy it again"),
    "new-dtype.safetensors": (lambda: header(ENTRY.replace(b"F32", b"X99") % 8) + b"1" * 8,
                              "is not a whole safetensors file (* copy it again"),
    "magic.ckpt": (lambda: b"SD" * 50, f"looks like nothing known (it begins with {b'SD' * 8!r}); {EXPECTED}"),
    "text.safetensors": (lambda: b"to be downloaded later",
                         f"looks like nothing known (it begins with b'to be downloaded'); {EXPECTED}"),
    "text.ckpt": (lambda: b"no weights", f"looks like nothing known (it begins with b'no weights'); {EXPECTED}"),
    "picture.ckpt": (lambda: Path("a.png").read_bytes(), f"looks like a picture; {EXPECTED}"),
    "picture.safetensors": (lambda: b"\xff\xd8\xff\xe0" + bytes(50), f"looks like a picture; {EXPECTED}"),
    "page.safetensors": (lambda: b"\n <!doctype html>",
                         f"looks like a web page: the download failed; {EXPECTED}"),
    "page.ckpt": (lambda: b"<HTML>404</HTML>", f"looks like a web page: the download failed; {EXPECTED}"),
    "pointer.safetensors": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265146304\n",
                            "looks like a Git LFS pointer, not the file itself: get it with the hf tool or "
                            f"`git lfs pull`; {EXPECTED}"),
    "llm.gguf": (lambda: b"GGUF\3\0\0\0" + bytes(50),
                 f"looks like a GGUF file, of quantised weights for other programs; {EXPECTED}"),
    "packed.ckpt": (lambda: gzip.compress(b"weights"), f"looks like a gzip archive: unpack it; {EXPECTED}"),
    "keras.h5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(50), f"looks like an HDF5 file, of Keras; {EXPECTED}"),
    "pickle.safetensors": (lambda: pickle.dumps({"a": 1}), f"looks like a pickle; {EXPECTED}"),
    "zip.safetensors": (lambda: zipped({"a.txt": b"a"}), f"looks like a PyTorch file, or another zip; {EXPECTED}"),
    "zip.ckpt": (lambda: zipped({"a.txt": b"a"}), "is not a whole PyTorch file (* copy it again"),
    "cut-off-zip.ckpt": (lambda: zipped({"a.txt": bytes(900)})[:500], "is not a whole PyTorch file (* copy it again"),
    "list.ckpt": (lambda: pickle.dumps([1], 2), "is not a whole PyTorch file* copy it again"),
    "cut-off.bin": (lambda: b"\x80\x02}q", "is not a whole PyTorch file* copy it again"),
}


@pytest.mark.parametrize("name", NOT_WEIGHTS)
def test_not_weights_at_all(refusal, tmp_path, name):
    make, message = NOT_WEIGHTS[name]
    path = tmp_path / name
    path.write_bytes(make())
    start, star, end = message.partition("*")
    line = refusal(path)
    assert line.startswith(f"{path} {start}") and line.endswith(end) if star else line == f"{path} {message}"


@pytest.mark.parametrize("kept", [5, 8, 9, 100, 10_000, -1])
def test_a_file_that_was_cut_off(refusal, tmp_path, original, kept):
    path = tmp_path / "x.safetensors"
    path.write_bytes(original[:kept])
    line = refusal(path)
    assert line.startswith(f"{path} is not a whole safetensors file (") and line.endswith("): copy it again")


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_a_pytorch_file_that_was_cut_off(refusal, tmp_path, sd15, new, share):
    _, configs, weights = sd15
    path = tmp_path / "x.ckpt"
    torch.save(checkpoints.original_state(configs, weights), path, _use_new_zipfile_serialization=new)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    line = refusal(path)
    assert line.startswith(f"{path} is not a whole PyTorch file") and line.endswith(": copy it again")


# ---------------------------------------------------------------- code in a file


class Call:
    """Is pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CODE = {        # what is pickled, and its name in the file, in Python 2's words
    "system": (lambda: Call(os.system, "touch canary"), "posix.system"),
    "eval": (lambda: Call(eval, "open('canary', 'w')"), "eval"),
    "getattr": (lambda: Call(getattr, "text", "upper"), "getattr"),
    "popen": (lambda: Call(subprocess.Popen, ["touch", "canary"]), "commands.Popen"),
    "rmtree": (lambda: Call(shutil.rmtree, "canary"), "shutil.rmtree"),
    "load": (lambda: Call(pickle.loads, pickle.dumps(Call(os.system, "touch canary"))), "pickle.loads"),
    "class": (lambda: subprocess.Popen, "commands.Popen"),
    "object": (lambda: Path("canary"), "pathlib."),
    "hook": (lambda: Call(torch.hub.load, "owner/name", "model"), "torch.hub.load"),
}


@pytest.mark.parametrize("place", ["top", "nested", "key"])
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("name", CODE)
def test_code_is_refused_by_name_and_not_run(refusal, tmp_path, new, name, place):
    make, wanted = CODE[name]
    path, call = tmp_path / "x.ckpt", make()
    state = {"top": call, "nested": {"state_dict": {"a": torch.ones(1), "b": [{"c": call}]}},
             "key": {"callbacks": {call: 1}}}[place]
    torch.save(state, path, _use_new_zipfile_serialization=new)
    line = refusal(path)
    assert line.startswith(f"{path} can't be read without {wanted}") and line.endswith(NO_CODE)
    assert not Path("canary").exists() and not (tmp_path / "canary").exists()


def test_the_canary_would_sing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(CODE["system"][0](), "x.ckpt")
    torch.load("x.ckpt", weights_only=False)
    assert Path("canary").exists()


def test_a_bare_pickle_of_protocol_4(refusal, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(pickle.dumps({"a": Call(os.system, "touch canary")}, 4))
    line = refusal(path)
    assert line.startswith(f"{path} ") and not Path("canary").exists()


def test_code_in_a_folder_s_bin_file(refusal, tmp_path, sd15):
    copy = Path(shutil.copytree(sd15[0], tmp_path / "copy"))
    (copy / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({"a": Call(os.system, "touch canary")}, copy / "unet/diffusion_pytorch_model.bin")
    line = refusal(copy)
    assert line == f"{copy / 'unet/diffusion_pytorch_model.bin'} can't be read without posix.system{NO_CODE}"
    assert not Path("canary").exists()


# ---------------------------------------------------------------- other weights


def tensors(*names: str, shape: tuple[int, ...] = (2, 2), dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.zeros(shape).to(dtype) for name in names}


FOREIGN = {
    "kohya-lora.safetensors": (tensors("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
                                       "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha"), "a LoRA,"),
    "peft-lora.safetensors": (tensors("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.weight"),
                              "a LoRA,"),
    "old-lora.safetensors": (tensors("unet.mid_block.attentions.0.processor.to_k_lora.down.weight",
                                     "unet.mid_block.attn1.processor.lora.up.weight"), "a LoRA,"),
    "controlnet.safetensors": (tensors("control_model.input_blocks.0.0.weight"), "a ControlNet,"),
    "diffusers-controlnet.safetensors": (tensors("controlnet_cond_embedding.conv_in.weight", "conv_in.weight",
                                                 "down_blocks.0.resnets.0.conv1.weight"), "a ControlNet,"),
    "word.safetensors": (tensors("emb_params"), "a textual inversion,"),
    "word-xl.safetensors": (tensors("clip_g", "clip_l"), "a textual inversion,"),
    "word.pt": ({"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(2, 768)}, "name": "cat"},
                "a textual inversion,"),
    "learned_embeds.bin": (tensors("<cat-toy>"), "a textual inversion,"),
    "llama.safetensors": (tensors("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"),
                          "a language model;"),
    "gpt2.safetensors": (tensors("h.0.attn.c_attn.weight", "wte.weight"), "a language model;"),
    "flux.safetensors": (tensors("double_blocks.0.img_attn.qkv.weight"), "a diffusion transformer (FLUX, SD 3);"),
    "flux-comfy.safetensors": (tensors("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"),
                               "a diffusion transformer (FLUX, SD 3);"),
    "sd3.safetensors": (tensors("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "first_stage_model.a"),
                        "a diffusion transformer (FLUX, SD 3);"),
    "refiner.safetensors": (tensors("model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.a",
                                    "conditioner.embedders.0.model.ln_final.weight", shape=(2, 2, 1, 1)),
                            "SD XL's refiner,"),
    "unet-only.safetensors": (tensors("model.diffusion_model.input_blocks.0.0.weight", shape=(2, 4, 3, 3)),
                              "a U-Net alone, without VAE and text encoder:"),
    "image-encoder.safetensors": (tensors("vision_model.embeddings.class_embedding"), "a CLIP image encoder;"),
    "no-tensors.safetensors": ({}, "a file without tensors;"),
    "metadata.ckpt": ({"epoch": 3, "notes": "none"}, "nothing known (its first names are epoch, notes);"),
    "resnet.pt": ({**tensors("fc.weight", "conv1.weight", "bn1.weight", "bn2.weight")},
                  "nothing known (its first names are fc.weight, conv1.weight, bn1.weight);"),
    "numbers.pt": ({0: torch.ones(1), 1: torch.ones(1)}, "nothing known (its first names are 0, 1);"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_weights(refusal, tmp_path, name):
    state, what = FOREIGN[name]
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    line = refusal(path)
    assert line.startswith(f"{path} looks like {what}") and "; expected " in line


@pytest.mark.parametrize(("part", "what"), [
    ("unet", "a U-Net alone, of a checkpoint folder: give the folder"),
    ("vae", "a VAE alone: give a whole checkpoint"), ("text_encoder", "a text encoder alone: give a whole checkpoint"),
])
def test_one_network_of_a_folder(refusal, sd15, part, what):
    path, = (sd15[0] / part).glob("*.safetensors")
    assert refusal(path) == f"{path} looks like {what}; {WHOLE}"


def test_a_tensor_alone(refusal, tmp_path):
    torch.save(torch.ones(3), tmp_path / "x.pt")
    assert refusal(tmp_path / "x.pt") == f"{tmp_path / 'x.pt'} holds a Tensor instead of named tensors"


def test_a_lora_s_folder(refusal, tmp_path):
    lora = tmp_path / "lora"
    lora.mkdir()
    save_file(tensors("unet.a.lora_A.weight"), lora / "pytorch_lora_weights.safetensors")
    line = refusal(lora)
    assert line.startswith(f"{str(lora)!r} is not a complete checkpoint folder; missing: model_index.json, ")
    assert f"; {lora / 'pytorch_lora_weights.safetensors'} looks like a LoRA, " in line


def test_a_folder_around_a_single_file(refusal, tmp_path, original):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/v1-5.safetensors").write_bytes(original)
    assert refusal(tmp_path / "model").endswith("; v1-5.safetensors there is a checkpoint of SD 1.x: give its path")


def test_a_folder_with_a_file_s_name(refusal, tmp_path):
    (tmp_path / "x.safetensors").mkdir()
    line = refusal(tmp_path / "x.safetensors")
    assert line.startswith(f"{str(tmp_path / 'x.safetensors')!r} is not a complete checkpoint folder; missing: ")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_weights_that_are_no_floats_of_16_to_64_bits(refusal, tmp_path, sd15, dtype):
    copy = Path(shutil.copytree(sd15[0], tmp_path / "copy"))
    path = copy / "unet/diffusion_pytorch_model.safetensors"
    state = {name: weight.to(dtype) for name, weight in load_file(path).items()}
    save_file(state, path)
    line = refusal(copy)
    kind = str(dtype).removeprefix("torch.")
    assert line.startswith(f"{path}") and line.endswith("; expected floats of 16, 32 or 64 bits")
    assert kind in line or (kind, "C64" in line) == ("complex64", True)


def test_sparse_tensors(refusal, tmp_path):
    torch.save({"a": torch.ones(3).to_sparse()}, tmp_path / "x.ckpt")
    assert refusal(tmp_path / "x.ckpt") == (
        f"{tmp_path / 'x.ckpt'}: a is quantised or sparse; expected floats of 16, 32 or 64 bits"
    )


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_a_file_that_may_not_be_read(refusal, tmp_path, monkeypatch, name):
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", denied, raising=False)       # root may open everything
    (tmp_path / name).write_bytes(b"secret")
    assert refusal(tmp_path / name) == (
        f"{tmp_path / name} can't be opened (Permission denied): check its permissions"
    )


def test_a_config_that_is_a_list(refusal, tmp_path, sd15):
    copy = Path(shutil.copytree(sd15[0], tmp_path / "copy"))
    (copy / "vae/config.json").write_text("[1]")
    assert refusal(copy) == f"{copy / 'vae/config.json'} holds list instead of a JSON object"


# ---------------------------------------------------------------- inert leftovers


@pytest.fixture
def lightning(monkeypatch):
    """SD 1.4's training program's class, for as long as a file is written."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    checkpoint = type("ModelCheckpoint", (), {"__module__": names[-1]})
    sys.modules[names[-1]].ModelCheckpoint = checkpoint
    yield checkpoint
    assert not any("pytorch_lightning" in name for name in sys.modules)


@pytest.mark.parametrize(("new", "nested"), [(True, True), (False, True), (False, False)])
def test_what_training_left_is_inert(tmp_path, sd15, lightning, monkeypatch, new, nested):
    """Lightning's class as a key, NumPy's scalars, optimizer states: the weights are the same without them."""
    folder, configs, weights = sd15
    state = checkpoints.original_state(configs, weights, ema=True)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]["params"][0].sum().backward()
    optimizer.step()
    rest = {
        "epoch": 0, "global_step": 470000, "pytorch-lightning_version": "1.4.2", "lr_schedulers": [],
        "callbacks": {lightning: {"monitor": "val/loss", "best_model_score": np.float32(0.5), "best": lightning()}},
        "optimizer_states": [optimizer.state_dict()], "loops": collections.OrderedDict(a=np.int64(3)),
    }
    path = tmp_path / "sd-v1-4.ckpt"
    torch.save({"state_dict": state, **rest} if nested else {**state, **rest}, path,
               _use_new_zipfile_serialization=new)
    for name in [name for name in sys.modules if "pytorch_lightning" in name]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="pytorch_lightning"):
        torch.load(path, weights_only=False)

    model = loading.load(path, config=folder)
    for part in ("unet", "vae", "text_encoder"):
        found = {name.removeprefix("text_model."): weight for name, weight in getattr(model, part).named_parameters()}
        expected = {name.removeprefix("text_model."): weight for name, weight in weights[part].items()}
        assert found.keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    assert not any("pytorch_lightning" in name for name in sys.modules)


def test_a_leftover_does_nothing():
    thing = files.Ignored(1, "two", [3])
    thing.__setstate__({"a": 1})
    assert type(thing) is files.Ignored and vars(thing) == {}


# ---------------------------------------------------------------- what a file is


@pytest.mark.parametrize(("name", "start", "kind"), [
    ("x.safetensors", header(b'{"a": 1}'), "safetensors"), ("renamed.ckpt", header(b'{"a": 1}'), "safetensors"),
    ("x.safetensors", header(b"{", 2**60), "safetensors"), ("x.safetensors", b"\x80\x02\0", "safetensors"),
    ("x.bin", b"\x80\x02}", "pickle"), ("x.pt", b"PK\x03\x04", "zip"), ("x", b"", "an empty file"),
    ("x.ckpt", header(b"{", 2**60), f"nothing known (it begins with {header(b'{', 2**60)!r})"),
    ("x.png", b"\x89PNG\r\n\x1a\n", "a picture"), ("x.html", b" \n<html>", "a web page: the download failed"),
])
def test_file_kind(tmp_path, name, start, kind):
    (tmp_path / name).write_bytes(start)
    assert file_kind(tmp_path / name) == kind


@pytest.mark.parametrize("length", [0x80, 0x280, 0x480, 0x180])
@pytest.mark.parametrize("name", ["x.safetensors", "renamed.ckpt"])
def test_a_header_s_length_that_begins_like_a_pickle(tmp_path, name, length):
    entry = ENTRY % 8
    (tmp_path / name).write_bytes(header(entry + b" " * (length - len(entry))) + struct.pack("<2f", 1, 2))
    weights = open_weights([tmp_path / name])
    assert isinstance(weights, Safetensors) and weights.get("a").tolist() == [1, 2]


def test_a_header_is_known_without_reading(tmp_path, monkeypatch):
    state = {"a": torch.ones(2, 3, dtype=torch.float16), "b": torch.tensor(1.0, dtype=torch.float64),
             "c": torch.ones(4, 0, dtype=torch.bfloat16), "d": torch.tensor([1, 2])}
    save_file(state, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "x.pt")
    monkeypatch.setattr(Safetensors, "get", None)
    for name in ("x.safetensors", "x.pt"):
        weights = open_weights([tmp_path / name])
        assert weights.path == tmp_path / name and weights.header.keys() == state.keys()
        for key, tensor in state.items():
            found = weights.header[key]
            assert (found.device.type, found.shape, found.dtype) == ("meta", tensor.shape, tensor.dtype)


def test_a_file_is_mapped_anew_after_so_many_bytes(tmp_path, monkeypatch):
    state = {f"{i}": torch.full((100,), float(i)) for i in range(10)}
    save_file(state, tmp_path / "x.safetensors")
    monkeypatch.setattr(files, "MAPPED_AT_ONCE", 900)
    opened = []
    monkeypatch.setattr(files, "safe_open", lambda *given, real=files.safe_open: opened.append(given) or real(*given))
    weights = Safetensors(tmp_path / "x.safetensors")
    assert len(opened) == 1
    read = {name: weights.get(name) for name in state}
    assert len(opened) == 4         # 400 bytes each, so after every third
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_joined(tmp_path):
    state = {f"{i}": torch.full((2,), float(i)) for i in range(4)}
    paths = [tmp_path / "1.safetensors", tmp_path / "2.bin"]
    save_file({name: state[name] for name in "02"}, paths[0])
    torch.save({name: state[name] for name in "13"}, paths[1])
    joined = open_weights(paths)
    assert isinstance(joined, Joined) and joined.path == tmp_path and sorted(joined.header) == sorted(state)
    assert all(torch.equal(joined.get(name), state[name]) for name in state)
    assert isinstance(open_weights(paths[:1]), Safetensors) and isinstance(open_weights(paths[1:]), Pickled)


def test_foreign_takes_no_whole_checkpoint_for_something_else(sd15):
    """But for the last rule, which is asked only where the rest is absent."""
    _, configs, weights = sd15
    assert foreign(checkpoints.original_state(configs, weights, ema=True)).startswith("a U-Net alone, without VAE")
    assert foreign(["a", "b", "c", "d"]) == "nothing known (its first names are a, b, c)"
    assert foreign([]) == "a file without tensors"
