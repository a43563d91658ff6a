"""Train the embedded InstructPix2Pix: `python -m diffedit_min.tiny.train_instruct --out runs/tiny-instruct`.

It follows arXiv:2211.09800, section 3.2. Training starts from the U-Net of the embedded text-to-image model. Its first
convolution gets four more input channels, whose weights start at zero. The U-Net then learns to predict the noise in
the edited picture's latent, given the input picture's latent (unscaled) and an instruction. The VAE and the text
encoder are not trained.

    1  pairs      draw each training scene and an edit of it; an instruction can turn either one into the other
    2  latents    encode both with the embedded VAE
    3  unet       train the U-Net: Eq. (1) of DiffEdit's paper, with text and picture as conditioning

The paper makes its pairs with Prompt-to-Prompt and filters them with CLIP. Here both pictures of a pair are drawn, so
they are exactly right. A killed run can be resumed as with `train`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core.schedule import generator
from ..loading import load
from ..networks.stable_diffusion import StableDiffusion
from ..networks.unet import UNet
from . import scenes
from .instructions import TEMPLATES, instruction
from .stages import SIZE, draw_all, draw_scene, encode_all, export_unet, fit, noise_loss, out_folder
from .train import captions, trained_scenes
from .vocabulary import write_card


@dataclass(frozen=True)
class Recipe:
    """All settings that the result depends on, besides the embedded model that training starts from."""

    seed: int = 0
    pairs: int = 25_000             # with the seeds 0, 1, 2, ...; each pair is used in both directions
    steps: int = 3_000              # first part: pairs are drawn uniformly
    balanced_steps: int = 2_500     # second part, from the average of the first: each kind of edit equally often
    batch: int = 32
    rate: float = 5e-4
    ema_decay: float = 0.999
    without: float = 0.05           # share of rows without text; the same share without picture, and without both


def edit_of(seed: int) -> tuple[str, scenes.Scene, scenes.Scene]:
    """(attribute, scene, edited scene) of a training pair: a random change whose result is not in HELD_OUT."""
    scene = scenes.sample(seed)
    edits = [(kind, after) for kind, after in scene.edits()
             if (after.container, after.fruit, after.surface) not in scenes.HELD_OUT]
    kind, after = edits[np.random.default_rng([seed, 1]).integers(len(edits))]
    return kind, scene, after


def draw_edit(seed: int) -> np.ndarray:
    """The edited picture of the training pair of a seed, uint8 (64, 64, 3)."""
    return np.asarray(edit_of(seed)[2].render(SIZE))


def widened(unet: UNet) -> UNet:
    """A copy of the U-Net with twice as many input channels; the weights of the new ones are zero."""
    wide = UNet(replace(unet.config, in_channels=2 * unet.config.in_channels))
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = torch.cat([weights["conv_in.weight"], torch.zeros_like(weights["conv_in.weight"])], 1)
    wide.load_state_dict(weights)
    return wide


def train_unet(recipe: Recipe, out: Path, model: StableDiffusion, before: Tensor, after: Tensor) -> UNet:
    """Train the widened U-Net on the unscaled latents of the pairs, `before` and `after`, each (N, C, h, w).

    The result has the averaged weights.
    """
    unet = widened(model.unet).to(memory_format=torch.channels_last).train()
    scale, abar = model.vae.config.scaling_factor, torch.tensor(model.schedule.abar)
    latents, pairs = torch.stack([before, after]), [edit_of(seed) for seed in range(recipe.pairs)]
    embed = CachedEmbedding(model)
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
        # One random number for each row decides, so that text, picture and both are left out equally often.
        u, share = torch.rand(recipe.batch, generator=random).tolist(), recipe.without
        texts = ["" if which < 2 * share else text for which, text in zip(u, texts, strict=True)]
        shown = torch.tensor([not share <= which < 3 * share for which in u])[:, None, None, None]
        image, x0 = latents[way, chosen] * shown, latents[1 - way, chosen] * scale         # (B, C, h, w) each
        with torch.autocast("cpu", torch.bfloat16):
            context = embed(texts)                                                          # (B, L, D)
        return noise_loss(unet, x0, context, abar, random, image), {}

    for stage, steps in (("instruct", recipe.steps), ("instruct-balanced", recipe.balanced_steps)):
        fit(out, stage, unet, partial(loss_of, balanced=stage == "instruct-balanced"), steps, recipe.rate,
            recipe.ema_decay)
    return unet.eval().requires_grad_(False)


def texts() -> set[str]:
    """All instructions of training pairs, and the captions, which the model that training starts from has seen."""
    return captions() | {instruction(kind, one, after, which) for one in trained_scenes() for kind, after in one.edits()
                         for which in range(len(TEMPLATES[kind]))}


class CachedEmbedding:
    """`model.embed` for a few hundred different texts, each of which is embedded only once."""

    def __init__(self, model: StableDiffusion):
        self.model, self.known = model, {}

    def __call__(self, texts: list[str]) -> Tensor:
        """Texts -> (B, L, D)."""
        for text in texts:
            if text not in self.known:
                self.known[text] = self.model.embed([text]).tokens
        return torch.cat([self.known[text] for text in texts])


def main() -> None:
    """The command: all three stages, then the export of the U-Net; the rest is that of the embedded model."""
    out = out_folder(__doc__.splitlines()[0], "runs/tiny-instruct")
    recipe, model = Recipe(), load("tiny")
    before, after = (
        encode_all(model.vae, draw_all(draw, recipe.pairs, out / f"{name}.npy"), out / f"{name}.pt")
        for name, draw in (("before", draw_scene), ("after", draw_edit))
    )
    folder = out / "checkpoint_instruct"
    export_unet(train_unet(recipe, out, model, before, after), folder)
    write_card(folder, texts())
    print(f"written: {folder}")


if __name__ == "__main__":
    main()
