"""Run with `python -m pytest -n auto` from the repository's root; `-m slow` runs the rest, which takes as long again.

What several test files share: no network, and a tiny random model, in memory and as a folder in the usual layout.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

# pytest-socket blocks sockets (see pyproject.toml); this keeps the libraries from trying, and must come before them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:     # the workers share the cores: one thread each, and in what they start
    os.environ["OMP_NUM_THREADS"] = "1"

if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)    # under nohup, the commands that tests start would ignore it

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import diffedit_min as dm
from diffedit_min.loading import TINY
from diffedit_min.networks.unet import UNet
from diffedit_min.samplers import SAMPLERS
from diffedit_min.studio import cli


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The notebook, whose run takes minutes, comes first: as the last one it would keep one of two cores waiting."""
    items.sort(key=lambda item: item.path.name != "test_walkthrough.py")


@pytest.fixture(scope="session")
def model() -> dm.StableDiffusion:
    """A model with tiny random weights, in float64: identities hold to rounding. Tests must not change it."""
    return dm.load("random", device="cpu", dtype="float64")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model of seed 3 as a folder in the usual layout, in float32. Tests must not change it."""
    return write_folder(dm.load("random", seed=3, device="cpu"), tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """random_clip(seed): a tiny random CLIP model as a folder, with the tiny model's tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    def write(seed: int) -> Path:
        folder, tokenizer = tmp_path_factory.mktemp("clip"), CLIPTokenizer.from_pretrained(TINY / "tokenizer")
        layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        text = {**layers, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length,
                "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = CLIPConfig(text_config=text, vision_config={**layers, "image_size": 24, "patch_size": 8},
                            projection_dim=16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            CLIPModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}).save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of `folder` to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., None]:
    """rewrite(path, key=value, ...): change entries of a JSON file."""

    def rewrite(path: Path, **changes: object) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return rewrite


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[Tensor, int, Tensor, Tensor]]]:
    """compared(): what a training has compared so far, (the U-Net's input, t, context, eps) row by row."""
    seen, targets, forward, mse = [], [], UNet.forward, torch.nn.functional.mse_loss

    def seeing(self: UNet, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        seen.extend(zip(x, t.tolist(), context, strict=True))
        return forward(self, x, t, context)

    def comparing(predicted: Tensor, eps: Tensor) -> Tensor:
        targets.extend(eps)
        return mse(predicted, eps)

    monkeypatch.setattr(UNet, "forward", seeing)
    monkeypatch.setattr(torch.nn.functional, "mse_loss", comparing)
    return lambda: [(*row, eps) for row, eps in zip(seen, targets, strict=True)]


@pytest.fixture
def unregistered(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(dm.METHODS, "_methods", dict(dm.METHODS))
    before = dict(SAMPLERS)
    yield
    SAMPLERS.clear()
    SAMPLERS.update(before)


def write_folder(model: dm.StableDiffusion, folder: Path) -> Path:
    """Write a model as Stable Diffusion's checkpoints are published, so that diffusers opens it too."""
    downs, levels = model.unet.config.down_block_types, len(model.vae.config.block_out_channels)
    configs = {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0",
            "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None],
            "feature_extractor": [None, None], "requires_safety_checker": False,
        },
        "unet/config.json": {
            "_class_name": "UNet2DConditionModel", **asdict(model.unet.config),
            "up_block_types": [kind.replace("Down", "Up") for kind in reversed(downs)],
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL", **asdict(model.vae.config),
            "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        },
        "text_encoder/config.json": {**model.text_encoder.config.to_dict(), "architectures": ["CLIPTextModel"]},
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear",
            "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1, "set_alpha_to_one": False,
            "clip_sample": False, "prediction_type": model.prediction_type,
        },
    }
    for name, config in configs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    for name, network in (
        ("unet/diffusion_pytorch_model", model.unet), ("vae/diffusion_pytorch_model", model.vae),
        ("text_encoder/model", model.text_encoder),
    ):
        weights = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(weights, folder / f"{name}.safetensors", {"format": "pt"})
    shutil.copytree(Path(dm.__file__).parent / "tiny" / "checkpoint" / "tokenizer", folder / "tokenizer")
    return folder


@pytest.fixture
def call_command(tmp_path, monkeypatch, capsys):
    """Call `diffedit-min` with some words, in a folder of its own: its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["diffedit-min", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return SimpleNamespace(code=end.value.code or 0, out=printed.out, err=printed.err)

    return call
