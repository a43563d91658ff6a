"""Train the embedded InstructPix2Pix: `python -m diffedit_min.tiny.train_instruct --out runs/tiny-instruct`.

As the paper does it (arXiv:2211.09800, section 3.2): the U-Net starts as the text-to-image model's, its first
convolution takes four more channels, whose weights start at zero, and it learns to predict the noise in the edited
picture's latent, given the input's latent (unscaled) and an instruction. The VAE and the text encoder stay as they are.

    1  pairs      draw each training scene and an edit of it; an instruction can turn either into the other
    2  latents    of both, by the embedded VAE
    3  unet       the noise predictor, Eq. (1) of DiffEdit's paper with those conditions, each left out now and then

Where the paper makes its pairs by Prompt-to-Prompt and filters them with CLIP, these are drawn, so both pictures of a
pair are right. It resumes as `train` does.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.schedule import add_noise, generator
from ..loading import load
from ..networks.stable_diffusion import StableDiffusion
from ..networks.unet import UNet
from . import scenes
from .instructions import TEMPLATES, instruction
from .train import SIZE, draw_all, draw_scene, encode_all, fit, save_half


@dataclass(frozen=True)
class Recipe:
    """Everything that the result depends on, besides the embedded model that it starts from."""

    seed: int = 0
    pairs: int = 25_000             # of the training scenes 0, 1, 2, ...; each serves in both directions
    steps: int = 3_000              # on the pairs as they come
    balanced_steps: int = 2_500     # then, from their average: each kind of edit equally often
    batch: int = 32
    rate: float = 5e-4
    ema_decay: float = 0.999
    without: float = 0.05           # of the rows: without text; as many without picture; and as many without either


def edit_of(seed: int) -> tuple[str, scenes.Scene, scenes.Scene]:
    """(attribute, scene, edited scene) of a training pair: any one change whose result isn't held out."""
    scene = scenes.sample(seed)
    edits = [(kind, after) for kind, after in scene.edits()
             if (after.container, after.fruit, after.surface) not in scenes.HELD_OUT]
    kind, after = edits[np.random.default_rng([seed, 1]).integers(len(edits))]
    return kind, scene, after


def draw_edit(seed: int) -> np.ndarray:
    """The edited picture of a training pair, uint8 (64, 64, 3)."""
    return np.asarray(edit_of(seed)[2].render(SIZE))


def widened(unet: UNet) -> UNet:
    """A copy that takes twice the input channels and, as yet, makes nothing of the new ones."""
    wide = UNet(replace(unet.config, in_channels=2 * unet.config.in_channels))
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], torch.zeros_like(weights["conv_in.weight"])], 1)
    wide.load_state_dict(weights)
    return wide


def train_unet(recipe: Recipe, out: Path, model: StableDiffusion, before: Tensor, after: Tensor) -> UNet:
    """before, after (N, C, h, w), unscaled latents of the pairs -> the averaged weights."""
    unet = widened(model.unet).to(memory_format=torch.channels_last).train()
    scale, abar = model.vae.config.scaling_factor, torch.tensor(model.schedule.abar)
    latents, pairs = torch.stack([before, after]), [edit_of(seed) for seed in range(recipe.pairs)]
    told = Told(model)
    by_kind = [[i for i, pair in enumerate(pairs) if pair[0] == kind] for kind in TEMPLATES]

    def loss_of(step: int, balanced: bool) -> tuple[Tensor, dict[str, float]]:
        random = generator(recipe.seed, "instruct balanced" if balanced else "instruct", step)
        draw = partial(torch.randint, size=(recipe.batch,), generator=random)
        chosen, way, template = draw(recipe.pairs), draw(2), draw(len(TEMPLATES["fruit"]))
        if balanced:
            chosen = torch.tensor([by_kind[kind][i % len(by_kind[kind])]
                                   for i, kind in zip(chosen.tolist(), draw(len(by_kind)).tolist(), strict=True)])
        texts = []
        for i, turned, which in zip(chosen.tolist(), way.tolist(), template.tolist(), strict=True):
            kind, *pair = pairs[i]
            texts.append(instruction(kind, pair[turned], pair[1 - turned], which))
        # One number a row decides, so that text alone, picture alone and both are left out equally often.
        u, share = torch.rand(recipe.batch, generator=random).tolist(), recipe.without
        texts = ["" if which < 2 * share else text for which, text in zip(u, texts, strict=True)]
        shown = torch.tensor([not share <= which < 3 * share for which in u])[:, None, None, None]
        image, x0 = latents[way, chosen] * shown, latents[1 - way, chosen] * scale         # (B, C, h, w) each
        t, eps = draw(len(abar)), torch.randn(x0.shape, generator=random)
        x_t = add_noise(x0, eps, abar[t][:, None, None, None])
        x = torch.cat([x_t, image], dim=1).contiguous(memory_format=torch.channels_last)    # (B, 2C, h, w)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(x, t, told(texts))
        return F.mse_loss(predicted.float(), eps), {}

    for stage, steps in (("instruct", recipe.steps), ("instruct-balanced", recipe.balanced_steps)):
        fit(out, stage, unet, partial(loss_of, balanced=stage == "instruct-balanced"), steps, recipe.rate,
            recipe.ema_decay)
    return unet.eval().requires_grad_(False)


class Told:
    """The text encoder, each text encoded once: there are a few hundred."""

    def __init__(self, model: StableDiffusion):
        self.model, self.known = model, {}

    def __call__(self, texts: list[str]) -> Tensor:
        """Texts -> (B, L, D)."""
        for text in texts:
            if text not in self.known:
                self.known[text] = self.model.embed([text]).tokens
        return torch.cat([self.known[text] for text in texts])


def export(out: Path, unet: UNet) -> Path:
    """Write out/checkpoint_instruct: the U-Net; everything else is the embedded model's."""
    folder = out / "checkpoint_instruct"
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    config = {"_class_name": "UNet2DConditionModel", **asdict(unet.config),
              "up_block_types": [kind.replace("Down", "Up") for kind in reversed(unet.config.down_block_types)]}
    (folder / "unet/config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_half(unet, folder / "unet/diffusion_pytorch_model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/tiny-instruct"), help="where everything is kept")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    recipe, model = Recipe(), load("tiny")
    before, after = (
        encode_all(model.vae, draw_all(draw, recipe.pairs, out / f"{name}.npy"), out / f"{name}.pt")
        for name, draw in (("before", draw_scene), ("after", draw_edit))
    )
    print(f"written: {export(out, train_unet(recipe, out, model, before, after))}")


if __name__ == "__main__":
    main()
