"""The networks that metrics need: are their files here, and which, and reading them. Nothing is ever fetched.

A weights file of torch's kind is named after its own sha256, and is read by `weights_only`, so that no code in it is
run: the eight digits in a name are too few to trust a pickle for. Models of the transformers library are folders, as
they are or in the Hub's cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...loading import known
from ...loading.files import Pickled
from ...loading.hub import is_hub_id
from .base import Files

# What a folder of the transformers library's must hold to be read: of each tuple, one.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
VIT = (("config.json",), WEIGHTS)
CLIP = (*VIT, ("preprocessor_config.json",), ("tokenizer.json", "vocab.json"))


def missing_packages(*packages: str) -> str | None:
    """None if all of these can be imported (which is not tried), else which can't and the way out."""
    absent = [package.replace("_", "-") for package in packages if find_spec(package) is None]
    return f"it needs {' and '.join(absent)}: pip install 'diffedit-min[bench-full]'" if absent else None


sha256 = cache(known.sha256)       # of a file, in hexadecimal digits; a weights file is read once for it


# ---------------------------------------------------------------- weights files of torch's kind


def weights_file(files: Files, url: str) -> Path | None:
    """The file published at `url`, if it is here: in the folder that `files` names, or in torch's cache."""
    here = [folder / url.rpartition("/")[2] for folder in _folders(files)]
    return next((path for path in here if path.is_file()), None)


def missing_weights(files: Files, url: str) -> str | None:
    """None if the file is here, else where it was looked for and the way out."""
    if weights_file(files, url):
        return None
    places = " or ".join(repr(str(folder)) for folder in _folders(files))
    return f"{url.rpartition('/')[2]} is not in {places}: download {url}, and give its folder as --metric-weights"


def _folders(files: Files) -> list[Path]:
    return [*([files.weights] if files.weights else []), Path(torch.hub.get_dir()) / "checkpoints"]


def weights_hash(path: Path, url: str) -> str:
    """The first digits of its sha256. ValueError, in one line, if they aren't those of the published file's name."""
    found, wanted = sha256(path)[:8], re.search(r"-([0-9a-f]{8})\.pth$", url)[1]
    if found != wanted:
        raise ValueError(f"{str(path)!r} is not the published file: its sha256 begins with {found}, not {wanted}: "
                         f"download {url} again")
    return found


def weights_said(path: Path, url: str) -> str:
    return f"{path.name} (weights {weights_hash(path, url)})"


def read_weights(path: Path, url: str) -> dict[str, Tensor]:
    """Name -> tensor. ValueError, in one line, if the file isn't what its name says or would run code."""
    weights_hash(path, url)
    weights = Pickled(path)
    return {name: weights.get(name) for name in weights.header}


# ---------------------------------------------------------------- models of the transformers library


def model_folder(name: str) -> Path | None:
    """The folder of a model, by its path or by its Hub id if that is in the cache."""
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def missing_model(option: str, name: str, needed: Sequence[Sequence[str]]) -> str | None:
    """None if the model is here with all `needed` files, else what is missing and the way out."""
    folder, way_out = model_folder(name), f"give {option} a folder"
    if is_hub_id(name) and not Path(name).is_dir():
        way_out += f", or run `hf download {name}`"
    if folder is None:
        return f"{name!r} is neither a folder nor in the Hub's cache: {way_out}"
    lacks = [choices[0] for choices in needed if not any((folder / choice).is_file() for choice in choices)]
    return f"{name!r} lacks {', '.join(lacks)}: {way_out} with it" if lacks else None


def model_said(name: str) -> str:
    """A model's Hub id, or its folder's name, with the first digits of its weights' sha256 (of each part's)."""
    folder = model_folder(name)
    whole = folder / WEIGHTS[0]
    parts = [whole] if whole.is_file() else sorted(folder.glob("model-*.safetensors"))
    short = folder.name if Path(name).is_dir() else name        # results don't depend on where the folder is
    return f"{short} (weights {'+'.join(sha256(part)[:8] for part in parts)})"


@contextmanager
def without_bars() -> Iterator[None]:
    """The transformers library draws no progress bars, which would tear the run's own."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()


# ---------------------------------------------------------------- pictures for networks


def square(image: Image.Image, side: int) -> Image.Image:
    """The middle of a picture at side x side: its shorter side scaled, up or down, to `side`, the longer one cropped.

    As torchvision's Resize and CenterCrop do on PIL images, which FlexIT's evaluation uses: bilinear, antialiased.
    """
    width, height = (side * length // min(image.size) for length in image.size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))


def to_bytes(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 (1, 3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
