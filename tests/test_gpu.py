"""Run with `python -m pytest tests/test_gpu.py -m gpu` from the repository's root; skips without CUDA.

What holds on the CPU must hold on a GPU. DIFFEDIT_TEST_DEVICE names another device (cuda:1, mps); with "cpu" the tests
only show that they are right themselves.
"""

import os

import numpy as np
import pytest
import torch

import diffedit_min as dm
from diffedit_min.bench.measures import iou
from diffedit_min.core.schedule import standard_noise
from diffedit_min.pictures.picture import psnr
from diffedit_min.tiny.scenes import demo_scenes

DEVICE = os.environ.get("DIFFEDIT_TEST_DEVICE", "cuda")
pytestmark = [pytest.mark.gpu,
              pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device")]

SCENE, ANSWER = demo_scenes(0, None)
# Few steps where a method has many; the others have 4 of these.
FEW = {"unitune": {"tuning_steps": 2}, "null_text": {"inner_steps": 2}}


@pytest.fixture(scope="module")
def tiny():
    """The embedded model in float32 on the CPU: what the others are held against."""
    return dm.load("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def pair():
    """A random model in float64, on the CPU and on the device."""
    return tuple(dm.load("random", device=device, dtype="float64") for device in ("cpu", DEVICE))


@pytest.fixture(scope="module")
def picture():
    return SCENE.render(32)


def edited(method, model, picture, **options):
    reference = [SCENE.caption] * ("reference" in dm.METHODS[method].uses)
    return dm.METHODS[method](model, picture, ANSWER.caption, *reference, **options)


METHODS = [name for name, method in dm.METHODS.items() if method.channels == 4 and method.takes_query]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_same_in_float64(name, pair, picture):
    known = dm.METHODS[name].known
    options = {"steps": 4, **{key: value for key, value in FEW.get(name, {}).items() if key in known}}
    here, there = (edited(name, model, picture, **options) for model in pair)
    assert there.decoded[0].latent.device.type == torch.device(DEVICE).type
    a, b = here.decoded[0].latent, there.decoded[0].latent.cpu()
    assert (a - b).norm() <= 1e-6 * a.norm()
    assert here.rows == there.rows and there.image.size == picture.size


@pytest.mark.parametrize(("dtype", "least"), [("float32", 35), ("float16", 30), ("bfloat16", 25)])
@pytest.mark.parametrize("name", ["diffedit", "invert", "prompt_to_prompt"])
def test_the_embedded_model_edits_as_on_the_cpu(name, dtype, least, tiny):
    model, picture = dm.load("tiny", device=DEVICE, dtype=dtype), SCENE.render()
    assert model.dtype == getattr(torch, dtype) and model.device.type == torch.device(DEVICE).type
    texts = [] if name == "invert" else [ANSWER.caption, SCENE.caption]
    here, there = (dm.METHODS[name](each, picture, *texts, steps=20) for each in (tiny, model))
    assert psnr(here.image, there.image) > least
    if here.mask is not None:
        assert iou(here.mask.numpy(), there.mask.cpu().numpy()) > 0.9


def test_the_same_seed_gives_the_same_noise():
    x = torch.zeros(2, 4, 8, 8)
    for stream in ("mask", "decode"):
        here, there = (standard_noise(x.to(device), (3, 4), stream, 1) for device in ("cpu", DEVICE))
        assert torch.equal(here, there.cpu())
        assert there.device.type == torch.device(DEVICE).type


def test_the_identities_hold(pair, picture):
    model = pair[1]
    white, black = np.ones((8, 8), bool), np.zeros((8, 8), bool)
    all_of_it = dm.diffedit(model, picture, ANSWER.caption, mask=white, steps=6)
    without = dm.encode_decode(model, picture, ANSWER.caption, steps=6, encoding_ratio=0.8)
    assert torch.equal(all_of_it.decoded[0].latent, without.decoded[0].latent)
    none_of_it = dm.diffedit(model, picture, ANSWER.caption, mask=black, steps=6)
    assert torch.equal(none_of_it.decoded[0].latent, none_of_it.encoded[0].latent)
    assert dm.diffedit(model, picture, "a bowl", "a bowl", steps=6).empty_mask
    two = dm.diffedit(model, [picture, ANSWER.render(32)], ANSWER.caption, SCENE.caption, steps=6)
    alone = dm.diffedit(model, picture, ANSWER.caption, SCENE.caption, steps=6)
    assert (two[0].decoded[0].latent - alone.decoded[0].latent).abs().max() <= 1e-9


def test_an_earlier_edit_serves_a_later_one(pair, picture):
    first = dm.diffedit(pair[1], picture, ANSWER.caption, SCENE.caption, steps=6)
    again = dm.diffedit(pair[1], picture, ANSWER.caption, SCENE.caption, steps=6, mask_threshold=0.4, reuse=first)
    assert set(again.rows_for) <= {"decode"}


def test_the_model_that_follows_instructions(picture):
    here, there = (dm.instruct_pix2pix(dm.load("tiny-instruct", device=device, dtype="float32"), SCENE.render(),
                                       "replace the lemons with plums", steps=5) for device in ("cpu", DEVICE))
    assert psnr(here.image, there.image) > 35


def test_check_passes():
    checked = dm.check("tiny", device=DEVICE)
    assert not checked.wrong, str(checked)
    if torch.device(DEVICE).type != "cpu":
        assert any(line.what.endswith("to CPU") for line in checked.lines)


def test_a_compiled_model_gives_the_same():
    plain, compiled = dm.load("tiny", device=DEVICE), dm.load("tiny", device=DEVICE, compile=True)
    for size in ((16, 16), (16, 24)):
        for rows in (1, 3):
            x, context = torch.randn(rows, 4, *size, device=plain.device), plain.embed([SCENE.caption] * 2 * rows)
            with torch.no_grad():
                assert (compiled.eps(x, 500, context) - plain.eps(x, 500, context)).abs().max() < 1e-2
