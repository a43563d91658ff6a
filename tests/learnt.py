"""Networks that predict epsilon, v or the clean latent, to ask what they predict.

    that_predicts(model, kind)      the same model with its U-Net turned into one that predicts `kind`: exactly, from a
                                    U-Net that predicts epsilon, but only in memory
    write_learnt(folder, kind)      a small checkpoint whose own weights predict `kind`: they have learnt the photograph
"""

from dataclasses import replace
from pathlib import Path

import torch
from checkpoints import CROSS, PLAIN, random_weights, small, write_configs, write_folder
from torch import Tensor, nn

import diffedit_min as dm
from diffedit_min.core.schedule import add_noise, v_from_eps, x0_from_eps
from diffedit_min.loading.asking import ABARS, blurred
from diffedit_min.networks.unet import UNet

FROM_EPS = {"epsilon": lambda x, eps, abar: eps, "v_prediction": v_from_eps, "sample": x0_from_eps}


class Turned(nn.Module):
    """A U-Net's prediction of epsilon, turned into one of another kind."""

    def __init__(self, unet: UNet, schedule, kind: str):
        super().__init__()
        self.unet, self.config, self.conv_in = unet, unet.config, unet.conv_in
        self.schedule, self.kind = schedule, kind

    def forward(self, x: Tensor, t: Tensor, *rest: object) -> Tensor:
        eps = self.unet(x, t, *rest)
        return FROM_EPS[self.kind](x[:, : eps.shape[1]], eps, self.schedule.abar[int(t)])


def that_predicts(model: dm.StableDiffusion, kind: str) -> dm.StableDiffusion:
    """A model with the same predictions, whose U-Net puts out `kind`; the model's prediction_type isn't changed."""
    return replace(model, unet=Turned(model.unet, model.schedule, kind))


def learnt(kind: str, folder: Path, steps: int = 40) -> tuple[dict, dict[str, dict[str, Tensor]]]:
    """Configs and weights of an SD 2.x checkpoint, a few channels wide, of which the U-Net predicts `kind`.

    It was trained, for a second, on one picture: the photograph. folder: an empty one, to work in.
    The predictions of epsilon need more steps than those of the clean latent or v, which are almost the same for all
    noises.
    """
    configs = small("sd21-768")
    configs["scheduler"]["prediction_type"] = kind
    configs["unet"] |= {"block_out_channels": [16, 32], "down_block_types": [CROSS, PLAIN], "layers_per_block": 1,
                        "norm_num_groups": 8, "attention_head_dim": [2, 2]}
    weights = random_weights(configs)
    model = dm.load(write_folder(folder, configs, weights), device="cpu")
    x0 = model.encode(blurred(model, dm.pictures.photograph()))
    size = x0.square().mean().sqrt().item()     # a random VAE's latents aren't of variance 1: scale them
    configs["vae"]["scaling_factor"] = model.vae.config.scaling_factor / size
    write_configs(folder, configs)
    train(model, x0 / size, kind, steps)
    return configs, {**weights, "unet": model.unet.state_dict()}


def train(model: dm.StableDiffusion, x0: Tensor, kind: str, steps: int) -> None:
    """Train the model's U-Net to predict `kind` from the noised latent x0 (1, C, h, w), under the empty text."""
    times = [min(range(1000), key=lambda t: abs(model.schedule.abar[t] - abar)) for abar in ABARS]
    random, tokens = torch.Generator().manual_seed(0), model.embed([""]).tokens.expand(4, -1, -1)
    optimizer = torch.optim.Adam(model.unet.requires_grad_(True).parameters(), lr=5e-3)
    for step in range(steps):
        t = times[step % len(times)]
        abar, eps = model.schedule.abar[t], torch.randn(4, *x0.shape[1:], generator=random)
        x = add_noise(x0, eps, abar)
        loss = (model.unet(x, torch.tensor(t), tokens) - FROM_EPS[kind](x, eps, abar)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.unet.requires_grad_(False)
