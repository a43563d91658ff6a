"""Run with `python -m pytest tests/test_parity.py` from the repository's root; takes about 20 seconds.

Holds the networks, the schedule and DDIM against diffusers', on small random weights; skipped where it isn't installed
(`pip install -e ".[test,parity]"`). test_families.py holds whole checkpoints against it.

Both compute the sines and cosines of the time in float32, whatever the network's dtype; that is why U-Nets can agree to
1e-10 in float64. diffusers' abar is a float32 product, 5e-7 off ours, and so are its DDIM steps, relatively; given our
abar, they agree to 1e-12.
"""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.core.ddim import DDIM, step
from diffedit_min.core.schedule import Schedule, eps_from_v
from diffedit_min.networks import unet as our_unet
from diffedit_min.networks import vae as our_vae
from diffedit_min.networks.unet import Summary, UNet, UNetConfig
from diffedit_min.networks.vae import VAE, VAEConfig

diffusers = pytest.importorskip("diffusers")

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
SHARED = {"cross_attention_dim": 16, "norm_num_groups": 8, "sample_size": 8}
SD1_LIKE = {**SHARED, "block_out_channels": [32, 64], "down_block_types": [CROSS, PLAIN], "attention_head_dim": 8,
            "layers_per_block": 2}
SHAPES = {
    "sd1": SD1_LIKE,
    "sd2": {**SHARED, "block_out_channels": [32, 64, 64], "down_block_types": [CROSS, CROSS, PLAIN],
            "attention_head_dim": [2, 4, 4], "use_linear_projection": True, "upcast_attention": True,
            "layers_per_block": 2},
    "bk-sdm": {**SHARED, "block_out_channels": [32, 64, 64], "down_block_types": [CROSS] * 3, "attention_head_dim": 8,
               "layers_per_block": 1, "mid_block_type": None},
    "sdxl": {**SHARED, "block_out_channels": [32, 64, 64], "down_block_types": [PLAIN, CROSS, CROSS],
             "attention_head_dim": [2, 4, 4], "use_linear_projection": True, "layers_per_block": 2,
             "transformer_layers_per_block": [1, 2, 3], "addition_embed_type": "text_time",
             "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 10 + 6 * 8},
    "tiny": {**SHARED, "block_out_channels": [16, 32, 48], "down_block_types": [CROSS, CROSS, PLAIN],
             "attention_head_dim": 4, "layers_per_block": 1},
}
VAE_SHAPES = {
    "sd": {"block_out_channels": [16, 32, 32, 32], "layers_per_block": 2, "norm_num_groups": 8},
    "tiny": {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4},
}
TOLERANCES = [(torch.float32, 1e-5), (torch.float64, 1e-10)]
PROMPTS = ["a bowl of apples on sand", "", "a bucket of plums on grass"]


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_near(a: Tensor, b: Tensor, tolerance: float) -> None:
    assert a.shape == b.shape
    gap = (a - b).abs().max().item()
    assert gap <= tolerance


def their_unet(raw: dict) -> nn.Module:
    ups = [kind.replace("Down", "Up") for kind in reversed(raw["down_block_types"])]
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(**raw, up_block_types=ups).eval().requires_grad_(False)


def their_vae(raw: dict) -> nn.Module:
    levels = len(raw["block_out_channels"])
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        **raw, latent_channels=4, down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
    ).eval().requires_grad_(False)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=str)
@pytest.mark.parametrize("raw", SHAPES.values(), ids=SHAPES)
def test_unet(raw, dtype, tolerance):
    theirs, ours = their_unet(raw).to(dtype), UNet(UNetConfig.from_dict(raw)).to(dtype).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    x, context = random(2, 4, 8, 12).to(dtype), random(2, 5, 16, seed=2).to(dtype)
    summary = told = None
    if "addition_embed_type" in raw:
        sizes = torch.tensor([[64, 96, 0, 8, 64, 96], [640, 960, 0, 0, 80, 8]])
        summary = Summary(random(2, 10, seed=3).to(dtype), sizes)
        told = {"text_embeds": summary.pooled, "time_ids": summary.sizes}
    for t in (0, 431, 999, torch.tensor([3, 990])):
        out = theirs(x, t, context, added_cond_kwargs=told).sample
        assert_near(ours(x, t, context, summary=summary), out, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES, ids=str)
@pytest.mark.parametrize("raw", VAE_SHAPES.values(), ids=VAE_SHAPES)
def test_vae(raw, dtype, tolerance):
    theirs, ours = their_vae(raw).to(dtype), VAE(VAEConfig.from_dict(raw)).to(dtype).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    factor = ours.config.factor
    pixels, latents = random(2, 3, 4 * factor, 6 * factor).to(dtype), random(2, 4, 4, 6).to(dtype)
    mean, log_variance = ours.encode(pixels)
    posterior = theirs.encode(pixels).latent_dist
    assert_near(mean, posterior.mean, tolerance)
    assert_near(mean, posterior.mode(), tolerance)
    assert_near(log_variance, posterior.logvar, tolerance)
    assert_near(ours.decode(latents), theirs.decode(latents).sample, tolerance)


# Settings of their U-Net that ours neither has nor refuses, at a value that isn't the usual one; and those that mean
# nothing by themselves, only beside another one that ours refuses (or checks, or reads under another name).
UNREAD = {
    "time_embedding_dim": 96, "time_embedding_act_fn": "silu", "attention_type": "gated",
    "mid_block_only_cross_attention": True, "dropout": 0.5,
}
DEPENDENT = {
    "up_block_types", "num_attention_heads", "encoder_hid_dim_type", "class_embeddings_concat",
    "addition_embed_type_num_heads",
}


@pytest.mark.parametrize("switch", UNREAD)
def test_no_setting_of_their_unet_is_ignored_silently(switch):
    """Our U-Net refuses it, or the weights don't fit, or it changes nothing."""
    raw = {**SD1_LIKE, switch: UNREAD[switch]}
    theirs = their_unet(raw)
    try:
        ours = UNet(UNetConfig.from_dict(raw)).eval().requires_grad_(False)
        ours.load_state_dict(theirs.state_dict())
    except (ValueError, RuntimeError):      # refused, or torch's about names and shapes
        return
    x, context = random(2, 4, 8, 8).float(), random(2, 5, 16, seed=2).float()
    assert_near(ours(x, 431, context), theirs(x, 431, context).sample, 1e-5)


def test_all_settings_are_known():
    """A new release of diffusers may bring one: read it, refuse it (NEUTRAL), or list it above."""
    for theirs, config, neutral, others in (
        (diffusers.UNet2DConditionModel, UNetConfig, our_unet.NEUTRAL, UNREAD.keys() | DEPENDENT),
        (diffusers.AutoencoderKL, VAEConfig, our_vae.NEUTRAL,
         {"down_block_types", "up_block_types", "sample_size"}),
    ):
        settings = set(inspect.signature(theirs.__init__).parameters) - {"self"}
        assert settings - {f.name for f in fields(config)} - neutral.keys() - others == set()


# ---------------------------------------------------------------- schedule and DDIM

BETAS = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SETTINGS = {**BETAS, "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
STEPS = [10, 20, 50]        # divisors of 1000; on others the "leading" grid of diffusers ends early


def their_scheduler(kind: type, steps: int, exact: bool = False, **changes: object) -> object:
    """With `exact`, their abar is replaced by ours, in float64, so that only the formulas are compared."""
    scheduler = kind(**{**SETTINGS, **changes})
    scheduler.set_timesteps(steps)
    if exact:
        scheduler.alphas_cumprod = torch.tensor(Schedule.from_config(SETTINGS).abar, dtype=torch.float64)
        clean = "final_alpha_cumprod" if kind is diffusers.DDIMScheduler else "initial_alpha_cumprod"
        assert hasattr(scheduler, clean)
        setattr(scheduler, clean, scheduler.alphas_cumprod[0])
    return scheduler


def assert_relatively_near(a: Tensor, b: Tensor, tolerance: float) -> None:
    size = b.abs().max()
    assert_near(a / size, b / size, tolerance)


@pytest.mark.parametrize("changes", [
    {}, {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}, {"set_alpha_to_one": True},
], ids=["sd", "linear", "one"])
def test_abar(changes):
    """Theirs is a product of up to 1000 factors in float32."""
    theirs, ours = diffusers.DDIMScheduler(**{**SETTINGS, **changes}), Schedule.from_config({**SETTINGS, **changes})
    assert_near(torch.tensor(ours.abar, dtype=torch.float64), theirs.alphas_cumprod.double(), 1e-6)
    assert ours.levels(50)[0].abar == pytest.approx(theirs.final_alpha_cumprod.item(), abs=1e-7)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("steps", STEPS)
def test_the_grid(steps, offset):
    changes = {"steps_offset": offset, "set_alpha_to_one": offset == 0}     # else their last step would change nothing
    down = their_scheduler(diffusers.DDIMScheduler, steps, **changes)
    up = their_scheduler(diffusers.DDIMInverseScheduler, steps, **changes)
    ours = [level.t for level in Schedule.from_config(changes).levels(steps)[1:]]
    assert up.timesteps.tolist() == ours and down.timesteps.tolist() == ours[::-1]


@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-12), (False, 1e-6)], ids=["same abar", "own abar"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", STEPS)
def test_steps_of_decoding(steps, prediction, exact, tolerance):
    theirs = their_scheduler(diffusers.DDIMScheduler, steps, exact, prediction_type=prediction)
    levels = Schedule.from_config(SETTINGS).levels(steps)
    for index in range(steps, 0, -1):
        left, reached = levels[index], levels[index - 1]
        x, out = random(1, 4, 8, 8, seed=index), random(1, 4, 8, 8, seed=-index)
        eps = out if prediction == "epsilon" else eps_from_v(x, out, left.abar)
        there = theirs.step(out, left.t, x).prev_sample
        assert_relatively_near(step(x, eps, left.abar, reached.abar), there, tolerance)


@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-12), (False, 1e-6)], ids=["same abar", "own abar"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", STEPS)
def test_steps_of_encoding(steps, prediction, exact, tolerance):
    """Their inverse scheduler is told the level reached, but turns v into noise with the abar of the level left.

    (Our `model.eps` takes the abar of the t that the network was told, as it was trained.)
    """
    theirs = their_scheduler(diffusers.DDIMInverseScheduler, steps, exact, prediction_type=prediction)
    levels = Schedule.from_config(SETTINGS).levels(steps)
    for index in range(1, steps + 1):
        left, reached = levels[index - 1], levels[index]
        x, out = random(1, 4, 8, 8, seed=index), random(1, 4, 8, 8, seed=-index)
        eps = out if prediction == "epsilon" else eps_from_v(x, out, left.abar)
        there = theirs.step(out, reached.t, x).prev_sample
        assert_relatively_near(step(x, eps, left.abar, reached.abar), there, tolerance)


@pytest.mark.parametrize("steps", STEPS)
def test_whole_trajectories(steps):
    """Encoding all the way and decoding back, the network told their times: `time="destination"`."""
    def eps_fn(x: Tensor, t: int) -> Tensor:
        return torch.sin(x + t / 200)

    levels = Schedule.from_config(SETTINGS).levels(steps)
    up = their_scheduler(diffusers.DDIMInverseScheduler, steps, exact=True)
    down = their_scheduler(diffusers.DDIMScheduler, steps, exact=True)
    x = x0 = random(1, 4, 8, 8)
    encoded = list(DDIM().encode(eps_fn, x0, levels))
    for state, t in zip(encoded[1:], up.timesteps.tolist(), strict=True):
        x = up.step(eps_fn(x, t), t, x).prev_sample
        assert_near(state.latent, x, 1e-10)
    for state, t in zip(list(DDIM().decode(eps_fn, encoded[-1], levels))[1:], down.timesteps.tolist(), strict=True):
        x = down.step(eps_fn(x, t), t, x).prev_sample
        assert_near(state.latent, x, 1e-10)


# ---------------------------------------------------------------- whole folders

EMBEDDED = pytest.param(loading.TINY, id="embedded", marks=pytest.mark.skipif(
    not (loading.TINY / "unet" / "diffusion_pytorch_model.safetensors").exists(),
    reason="the embedded checkpoint isn't there yet",
))


@pytest.fixture(scope="module", params=["random", EMBEDDED])
def pair(request) -> tuple[dm.StableDiffusion, object]:
    """A folder as ours and as their pipeline."""
    path: Path = request.getfixturevalue("folder") if request.param == "random" else request.param
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(path, safety_checker=None).to(torch.float32)
    return dm.load(path, device="cpu", dtype="float32"), pipeline


@torch.no_grad()
def test_a_folder_opens_in_diffusers_and_gives_the_same(pair):
    model, pipeline = pair
    context = model.embed(PROMPTS)
    theirs = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0]
    assert_near(context.tokens, theirs, 1e-5)
    side = model.unet.config.sample_size
    x = random(3, 4, side, side).float()
    for t in (1, 501, 981):
        eps = pipeline.unet(x, t, encoder_hidden_states=theirs).sample
        assert_near(model.eps(x, t, context), eps, 1e-5)
    scale = pipeline.vae.config.scaling_factor
    pixels = random(2, 3, side * model.factor, side * model.factor).float().clamp(-1, 1)
    assert_near(model.encode(pixels), pipeline.vae.encode(pixels).latent_dist.mode() * scale, 1e-5)
    assert_near(model.decode(x), pipeline.vae.decode(x / scale).sample, 1e-5)
    assert pipeline.vae_scale_factor == model.factor


def test_its_schedule_is_the_same(pair):
    model, pipeline = pair
    scheduler = pipeline.scheduler
    assert_near(torch.tensor(model.schedule.abar).double(), scheduler.alphas_cumprod.double(), 1e-6)
    scheduler.set_timesteps(50)
    assert [level.t for level in model.schedule.levels(50)[:0:-1]] == scheduler.timesteps.tolist()
    assert scheduler.config.prediction_type == model.prediction_type
    assert not scheduler.config.clip_sample
