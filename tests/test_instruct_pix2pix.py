"""Run with `python -m pytest tests/test_instruct_pix2pix.py` from the repository's root; takes about 10 seconds.

InstructPix2Pix on random weights: its sampling and its two scales against the formulas, what the U-Net is shown and
told, and which models each method takes.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.core.ddim import DDIM
from diffedit_min.core.schedule import standard_noise
from diffedit_min.methods.instruct_pix2pix import two_scale_guidance
from diffedit_min.networks.unet import UNet
from diffedit_min.tiny.train_instruct import widened

instruct = dm.METHODS["instruct_pix2pix"]
QUERY = "replace the apples with pears"
STEPS = 8


def following(model):
    """A model like `model`, whose U-Net looks at a picture in four more channels: at random weights, so it matters."""
    unet = widened(model.unet).to(model.dtype).eval().requires_grad_(False)
    new = unet.conv_in.weight[:, 4:]
    new += 0.3 * torch.randn(new.shape, generator=torch.Generator().manual_seed(0)).to(new)
    return replace(model, unet=unet)


@pytest.fixture(scope="module")
def wide(model):
    """Tests must not change it."""
    return following(model)


def picture(seed=0, size=(32, 32)):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.BICUBIC)


def run(wide, image=None, query=QUERY, **options):
    """The edit, and the latents after each step."""
    steps = []
    edit = instruct(wide, image or picture(), query, **{"steps": STEPS, **options}, on_step=steps.append)
    return edit, [step.latent for step in steps]


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


def mode(wide, image=None):
    """c_I as the paper has it: the posterior's mode, unscaled."""
    return wide.vae.encode(dm.pictures.to_pixels(image or picture()).to(wide.dtype))[0]


def predictions(wide, negative="", image=None):
    """eps(0, empty), eps(c_I, empty), eps(c_I, c_T), each a function of x and t by a call of its own."""
    c_I = mode(wide, image)
    shown_and_told = (torch.zeros_like(c_I), negative), (c_I, negative), (c_I, QUERY)
    return [lambda x, t, shown=shown, told=told: wide.eps(torch.cat([x, shown], 1), t, wide.embed([told]))
            for shown, told in shown_and_told]


def sampled(wide, eps_fn, eta, seed=0, steps=STEPS):
    """Eq. (12) of the DDIM paper from noise, by hand: the latents after each step."""
    levels = wide.schedule.levels(steps)
    shape = torch.zeros(1, 4, 8, 8, dtype=torch.float64)
    x, latents = standard_noise(shape, (seed,), "instruct", steps), []
    for j in range(steps, 0, -1):
        a, b = levels[j].abar, levels[j - 1].abar
        eps = eps_fn(x, levels[j].t)
        sigma = eta * ((1 - b) / (1 - a)) ** 0.5 * (1 - a / b) ** 0.5
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = b**0.5 * x0 + (1 - b - sigma**2) ** 0.5 * eps + sigma * standard_noise(shape, (seed,), "instruct", j - 1)
        latents.append(x)
    return latents


def assert_same(latents, expected, tolerance=1e-11):
    for step, (ours, theirs) in enumerate(zip(latents, expected, strict=True), start=1):
        assert distance(ours, theirs) <= tolerance, f"step {step}: {distance(ours, theirs):.1e}"


@pytest.fixture
def seen(wide, monkeypatch):
    """What the U-Net is given at each call from now on: (x, t, context)."""
    calls, forward = [], UNet.forward

    def watching(self, x, t, context, *rest):
        calls.append((x, t, context))
        return forward(self, x, t, context, *rest)

    monkeypatch.setattr(UNet, "forward", watching)
    return calls


# ---------------------------------------------------------------- sampling


@pytest.mark.parametrize(("eta", "negative"), [(0.5, "grass"), (1.0, "")])
def test_it_samples_by_equation_3(wide, eta, negative):
    nothing, shown, both = predictions(wide, negative)

    def eps_fn(x, t):
        without = nothing(x, t)
        return without + 1.5 * (shown(x, t) - without) + 7.5 * (both(x, t) - shown(x, t))

    edit, latents = run(wide, eta=eta, negative_prompt=negative, seed=3)
    assert_same(latents, sampled(wide, eps_fn, eta, seed=3))
    result = dm.pictures.unfit(wide.decode(latents[-1])[0], edit.frame)
    assert edit.image.tobytes() == result.tobytes() and edit.image.size == (32, 32)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_both_scales_1_are_one_conditional_row(wide, eta):
    _, _, both = predictions(wide)
    edit, latents = run(wide, eta=eta, guidance_scale=1.0, image_guidance_scale=1.0, negative_prompt="grass")
    assert_same(latents, sampled(wide, both, eta))
    assert edit.rows == STEPS
    almost, near = run(wide, eta=eta, guidance_scale=1.0, image_guidance_scale=1 + 1e-12)
    assert almost.rows == 3 * STEPS
    assert_same(near, latents, 1e-9)


def test_without_noise_it_is_ddim(wide):
    _, _, both = predictions(wide)
    levels = wide.schedule.levels(STEPS)
    noise = standard_noise(torch.zeros(1, 4, 8, 8, dtype=torch.float64), (0,), "instruct", STEPS)
    expected = [state.latent for state in DDIM().decode(both, dm.State(STEPS, levels[STEPS], noise), levels)]
    _, latents = run(wide, eta=0.0, guidance_scale=1.0, image_guidance_scale=1.0)
    assert_same(latents, expected[1:])


# In each: the scale of the picture, of the instruction, and what is left of Eq. (3) with the three predictions.
REDUCTIONS = {
    "unconditional": (0.0, 0.0, lambda nothing, shown, both: nothing),
    "the picture alone": (1.0, 0.0, lambda nothing, shown, both: shown),
    "guided by the instruction": (1.0, 4.0, lambda nothing, shown, both: shown + 4 * (both - shown)),
    "guided by the picture": (3.0, 0.0, lambda nothing, shown, both: nothing + 3 * (shown - nothing)),
    "guided by both alike": (3.0, 3.0, lambda nothing, shown, both: nothing + 3 * (both - nothing)),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(wide, name):
    s_I, s_T, left = REDUCTIONS[name]
    nothing, shown, both = predictions(wide)
    _, latents = run(wide, guidance_scale=s_T, image_guidance_scale=s_I)
    assert_same(latents, sampled(wide, lambda x, t: left(nothing(x, t), shown(x, t), both(x, t)), eta=1.0))


def test_the_equation():
    nothing, shown, both = (torch.tensor(values) for values in ([1.0, -2.0], [3.0, 5.0], [4.0, -1.0]))
    assert two_scale_guidance(nothing, shown, both, 7.5, 1.5).tolist() == [1 + 1.5 * 2 + 7.5, -2 + 1.5 * 7 - 7.5 * 6]
    assert torch.equal(two_scale_guidance(nothing, shown, both, 1, 1), both)
    assert torch.equal(two_scale_guidance(nothing, shown, both, 0, 1), shown)
    assert torch.equal(two_scale_guidance(nothing, shown, both, 0, 0), nothing)


def test_a_v_predicting_model_is_read_as_one(wide):
    """eps = sqrt(abar) v + sqrt(1 - abar) x_t, of the four noisy channels."""
    own, c_I, told = replace(wide, prediction_type="v_prediction"), mode(wide), wide.embed([QUERY]).tokens

    def eps_fn(x, t):
        abar = wide.schedule.abar[t]
        return abar**0.5 * wide.unet(torch.cat([x, c_I], 1), t, told) + (1 - abar) ** 0.5 * x

    _, latents = run(own, guidance_scale=1.0, image_guidance_scale=1.0)
    assert_same(latents, sampled(wide, eps_fn, eta=1.0))


# ---------------------------------------------------------------- what the U-Net is shown and told


def test_the_unet_sees_the_unscaled_mode_or_zeros(wide, seen):
    images, queries = [picture(0), picture(1)], [QUERY, "make it a basket"]
    modes = torch.cat([mode(wide, image) for image in images])
    assert wide.vae.config.scaling_factor == 0.18215
    run(wide, images, queries, seed=[4, 5], negative_prompt="grass")
    told = wide.embed(["grass"] * 4 + queries).tokens
    assert len(seen) == STEPS and [t for _, t, _ in seen] == [level.t for level in wide.schedule.levels(STEPS)[:0:-1]]
    for x, _, context in seen:
        noisy, shown = x.split(4, dim=1)
        assert all(torch.equal(part, noisy[:2]) for part in noisy.split(2))
        assert shown[:2].abs().max() == 0
        assert distance(shown[2:4], modes) <= 1e-14 and torch.equal(shown[4:], shown[2:4])
        assert distance(context, told) <= 1e-14
    assert torch.equal(seen[0][0][1:2, :4], standard_noise(modes[:1], (5,), "instruct", STEPS))


def test_one_row_sees_the_picture_and_the_instruction(wide, seen):
    run(wide, guidance_scale=1.0, image_guidance_scale=1.0)
    assert [len(x) for x, _, _ in seen] == [1] * STEPS
    for x, _, context in seen:
        assert distance(x[:, 4:], mode(wide)) <= 1e-14 and distance(context, wide.embed([QUERY]).tokens) <= 1e-14


def test_the_picture_and_the_instruction_matter(wide):
    _, latents = run(wide)
    for change in ({"image": picture(9)}, {"query": "make it a basket"}, {"image_guidance_scale": 1.6},
                   {"guidance_scale": 7.0}, {"negative_prompt": "grass"}):
        assert distance(run(wide, **change)[1][-1], latents[-1]) > 1e-4, f"{change} changes nothing"
    edit, same = run(wide, reference="a bowl of apples")
    assert torch.equal(same[-1], latents[-1]) and edit.settings["reference"] == "a bowl of apples"


def test_in_half_the_predictions_are_combined_in_float32(monkeypatch):
    """The first step by hand, from what the U-Net put out in bfloat16."""
    wide, outputs, forward = following(dm.load("random", dtype="bfloat16")), [], UNet.forward

    def keeping(self, x, *rest):
        assert x.dtype == torch.bfloat16
        outputs.append(forward(self, x, *rest))
        return outputs[-1]

    monkeypatch.setattr(UNet, "forward", keeping)
    _, latents = run(wide, eta=0.0)
    assert outputs[0].dtype == torch.bfloat16
    assert all(latent.dtype == torch.float32 and latent.isfinite().all() for latent in latents)
    *_, b, a = (level.abar for level in wide.schedule.levels(STEPS))
    x = standard_noise(latents[0], (0,), "instruct", STEPS)

    def stepped(nothing, shown, both):
        eps = (nothing + 1.5 * (shown - nothing) + 7.5 * (both - shown)).float()
        return b**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps

    assert distance(latents[0], stepped(*outputs[0].float().chunk(3))) <= 1e-6
    assert distance(latents[0], stepped(*outputs[0].chunk(3))) > 1e-4, "bfloat16 would show"


# ---------------------------------------------------------------- rows, batches, repetition


@given(steps=st.integers(1, 9), s_T=st.sampled_from([0.0, 1.0, 7.5]), s_I=st.sampled_from([0.0, 1.0, 1.5]))
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
def test_rows(steps, s_T, s_I):
    edit, latents = run(following(dm.load("random")), steps=steps, guidance_scale=s_T, image_guidance_scale=s_I)
    assert edit.rows == steps * (1 if s_T == s_I == 1 else 3)
    assert edit.backward_rows == 0 and len(latents) == steps


def test_steps_count_up_and_raising_stops(wide):
    seen = []

    def stop(step):
        seen.append((step.stage, step.index, step.total))
        if step.index == 3:
            raise KeyboardInterrupt

    instruct(wide, picture(), QUERY, steps=2, on_step=stop)
    assert seen == [("decode", 1, 2), ("decode", 2, 2)]
    with pytest.raises(KeyboardInterrupt):
        instruct(wide, picture(), QUERY, steps=5, on_step=stop)
    assert seen[2:] == [("decode", 1, 5), ("decode", 2, 5), ("decode", 3, 5)]


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("change, message", [
    ({"query": "  "}, "the query is empty: say what to do with the picture"),
    ({"eta": 1.5}, "eta must be from 0 to 1, not 1.5"),
    ({"eta": float("nan")}, "eta must be from 0 to 1, not nan"),
    ({"image_guidance_scale": -1}, "image_guidance_scale must be at least 0, not -1.0"),
    ({"image_guidance_scale": float("inf")}, "image_guidance_scale must be a finite number, not inf"),
    ({"guidance_scale": -1}, "guidance_scale must be at least 0, not -1.0"),
    ({"steps": 1000}, "steps must be from 1 to 999, not 1000"),
    ({"encoding_ratio": 0.8}, "instruct_pix2pix has no option 'encoding_ratio'; it has eta, guidance_scale, "
                              "image_guidance_scale, negative_prompt, steps"),
    ({"mask": picture()}, "instruct_pix2pix takes no mask"),
])
def test_bad_options(wide, change, message):
    with pytest.raises(ValueError) as error:
        run(wide, **change)
    assert str(error.value) == message


@pytest.mark.parametrize("name", [name for name in dm.METHODS if name != "instruct_pix2pix"])
def test_other_methods_refuse_its_model(wide, name, seen):
    with pytest.raises(ValueError) as error:
        dm.METHODS[name](wide, picture(), QUERY, "a bowl of apples")
    assert str(error.value) == (f"{name} needs a U-Net with 4 input channels; 'random' has 8 and is made for "
                                "InstructPix2Pix, which is method instruct_pix2pix")
    assert not seen


@pytest.mark.parametrize("channels, made_for", [
    (4, "making pictures from text, as most methods here do"), (9, "inpainting, for which there is no method here"),
    (5, "something else"),
])
def test_it_refuses_other_models(model, channels, made_for):
    other = replace(model, unet=UNet(replace(model.unet.config, in_channels=channels)))
    with pytest.raises(ValueError) as error:
        instruct(other, picture(), QUERY)
    assert str(error.value) == (f"instruct_pix2pix needs a U-Net with 8 input channels; 'random' has {channels} and is "
                                f"made for {made_for}")
