"""pytest tests/test_known_answers.py: each method on the embedded models, against edits whose answers are known.

A few validation scenes each, enough to notice that a method has stopped editing.
bench/README.md has the numbers on 300 scenes.
"""

import numpy as np
import pytest
import torch

import diffedit_min as dm
from diffedit_min.bench.measures import cases, measure
from diffedit_min.pictures.picture import psnr
from diffedit_min.tiny.instructions import instruction

pytestmark = pytest.mark.slow               # seconds each
DRAWN = list(cases("validation", 3))        # a container, a fruit, a surface


@pytest.fixture(scope="module")
def models():
    return {name: dm.load(name, device="cpu") for name in ("tiny", "tiny-instruct")}


def edited(method, model, drawn=DRAWN, **options):
    chosen = dm.METHODS[method]
    queries = [instruction(kind, scene, answer) if chosen.needs_instruction else answer.caption
               for scene, kind, answer in drawn]
    return chosen(model, [scene.render() for scene, _, _ in drawn], queries, [scene.caption for scene, _, _ in drawn],
                  seed=[scene.seed for scene, _, _ in drawn], **options)


@pytest.mark.parametrize("method, options", [
    ("sdedit", {}), ("encode_decode", {}), ("prompt_to_prompt", {}), ("negative_prompt_inversion", {}),
    ("direct_inversion", {}), ("cycle_diffusion", {}), ("edit_friendly", {}), ("instruct_pix2pix", {}),
    pytest.param("null_text", {"iterations": 1}, marks=pytest.mark.full),
])
def test_it_edits(method, options, models):
    """At least two of three show what was asked for, and what shouldn't change is still there."""
    edits = edited(method, models[dm.METHODS[method].embedded_model], **options)
    scores = [measure(edit, *case) for edit, case in zip(edits, DRAWN, strict=True)]
    assert sum(score["correct"] for score in scores) >= 2
    assert -10 * np.log10(np.mean([score["outside"] for score in scores])) >= 19


def test_unitune_learns_the_picture(models):
    """SDEdit from much noise keeps nothing that isn't in the words; a tuned network knows the wall's colour."""
    drawn, options = DRAWN[:1], {"encoding_ratio": 0.9, "guidance_scale": 3.0}
    (scene, kind, answer), = drawn
    plain, = edited("unitune", models["tiny"], drawn, tuning_steps=0, **options)
    tuned, = edited("unitune", models["tiny"], drawn, tuning_steps=24, learning_rate=5e-4, **options)
    assert measure(tuned, scene, kind, answer)["outside"] < 0.7 * measure(plain, scene, kind, answer)["outside"]


def test_null_text_reconstructs_better_than_guided_ddim(models):
    """At guidance 7.5, where plain Prompt-to-Prompt's source branch drifts away from the picture."""
    options = {"guidance_scale": 7.5, "encoding_ratio": 0.8, "steps": 25}
    plain = edited("prompt_to_prompt", models["tiny"], DRAWN[:1], **options)
    tuned = edited("null_text", models["tiny"], DRAWN[:1], iterations=5, **options)
    for before, after in zip(plain, tuned, strict=True):
        assert psnr(after.source, after.input) > psnr(before.source, before.input)


def test_direct_inversion_reconstructs_exactly(models):
    """The source branch ends at the picture's own latent: what comes back is what the VAE alone makes of it."""
    for edit in edited("direct_inversion", models["tiny"], steps=10):
        vae = dm.invert(models["tiny"], edit.input, encoding_ratio=0.0)
        assert edit.source.tobytes() == vae.image.tobytes()


def test_the_sources_attention_keeps_the_layout(models):
    """What shouldn't change changes less, the longer the source's attention is used."""
    outside = []
    for window in (0.0, 0.2, 0.4):
        edits = edited("negative_prompt_inversion", models["tiny"], steps=25, cross_replace=window, self_replace=window)
        scores = [measure(edit, *case) for edit, case in zip(edits, DRAWN, strict=True)]
        outside.append(np.mean([score["outside"] for score in scores]))
    assert outside == sorted(outside, reverse=True) and outside[-1] < 0.95 * outside[0], outside


def test_local_blend_finds_the_fruit_and_leaves_the_rest_alone(models):
    """Cross-attention to a fruit's word is where the fruit is; away from it the picture is the source's."""
    (scene, kind, answer), = drawn = DRAWN[1:2]
    assert kind == "fruit"
    edit, = edited("negative_prompt_inversion", models["tiny"], drawn, local_blend="changed")
    score = measure(edit, scene, kind, answer)
    assert score["iou"] > 0.6 and score["correct"]
    away = ~np.asarray(edit.mask_image, bool)       # equal latents; the VAE sees a little beyond its cell
    assert psnr(edit.image, edit.source, where=away) > 30


def test_instructions_are_told_apart(models):
    """The same picture and noise with two instructions: each gets its own answer."""
    scene, model = DRAWN[1][0], models["tiny-instruct"]
    fruits = [fruit for fruit in ("apples", "oranges", "plums") if fruit != scene.fruit][:2]
    answers = [scene.replace(fruit=fruit) for fruit in fruits]
    edits = dm.instruct_pix2pix(model, [scene.render()] * 2,
                                [instruction("fruit", scene, answer) for answer in answers], seed=0)
    for i, edit in enumerate(edits):
        assert psnr(edit.image, answers[i].render()) > psnr(edit.image, answers[1 - i].render())


def test_tiny_instruct_shares_all_but_the_unet(models):
    tiny, instruct = models["tiny"], models["tiny-instruct"]
    assert (instruct.unet.config.in_channels, instruct.unet.config.out_channels) == (8, 4)
    for mine, theirs in ((tiny.vae, instruct.vae), (tiny.text_encoder, instruct.text_encoder)):
        other = theirs.state_dict()
        assert all(torch.equal(weight, other[name]) for name, weight in mine.state_dict().items())
    with pytest.raises(ValueError, match="diffedit needs a U-Net with 4 input channels; 'tiny-instruct' has 8"):
        edited("diffedit", instruct)
