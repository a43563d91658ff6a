"""Run with `python -m pytest tests/test_tiny.py` from the repository's root; takes about 10 seconds.

Checks the embedded model: that its files are whole and small, what it can say, and that its VAE keeps a picture.
(How well it edits is measured by `diffedit_min.bench.known.evaluate`, a run of the benchmark.)
"""

import math

import numpy as np
import pytest
import torch

import diffedit_min as dm
from diffedit_min import loading
from diffedit_min.bench.known.evaluate import latent_error
from diffedit_min.bench.measures import cases, measure
from diffedit_min.core.schedule import add_noise
from diffedit_min.loading.sources import EMBEDDED
from diffedit_min.networks.tokenizer import make_tokenizer
from diffedit_min.tiny import scenes, vocabulary


@pytest.fixture(scope="module")
def tiny() -> dm.StableDiffusion:
    return dm.load(device="cpu")


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(loading.TINY / "tokenizer")


# ---------------------------------------------------------------- the tokenizer


def test_every_known_word_is_one_token(tokenizer):
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = {word: tokenizer(word).input_ids for word in vocabulary.words()}
    assert all(len(i) == 3 and i[0] == start and i[2] == end for i in ids.values()), ids
    assert len({i[1] for i in ids.values()}) == len(vocabulary.words())


def test_captions_are_one_token_a_word(tokenizer):
    for scene in map(scenes.sample, range(20)):
        assert len(tokenizer(scene.caption).input_ids) == len(scene.caption.split()) + 2
        assert tokenizer(scene.caption.upper()).input_ids == tokenizer(scene.caption).input_ids


def test_an_unknown_word_is_spelled_out(tokenizer):
    ids = tokenizer("pineapple").input_ids[1:-1]
    assert len(ids) > 1 and tokenizer.decode(ids).replace(" ", "") == "pineapple"


def test_the_longest_caption_fits(tokenizer):
    longest = max(len(tokenizer(scenes.sample(i).caption).input_ids) for i in range(200))
    assert longest <= vocabulary.LENGTH == tokenizer.model_max_length


def test_the_tokenizers_files_are_what_the_vocabulary_writes(tmp_path, tokenizer):
    assert vocabulary.write_tokenizer(tmp_path) == len(tokenizer)
    written, kept = ({file.name: file.read_bytes() for file in folder.iterdir()}
                     for folder in (tmp_path, loading.TINY / "tokenizer"))
    assert written == kept


# ---------------------------------------------------------------- the whole checkpoint


def test_it_loads(tiny):
    assert tiny.name == "tiny" and tiny.prediction_type == "epsilon" and tiny.dtype == torch.float32
    assert tiny.schedule.T == 1000
    assert dm.load("tiny", device="cpu").name == "tiny"


def test_sizes(tiny):
    assert (tiny.factor, tiny.multiple, tiny.native_area) == (4, 16, 64 * 64)
    assert tiny.unet.config.in_channels == tiny.vae.config.latent_channels == 4
    context = tiny.embed(["a bowl of apples on grass", ""])
    assert context.tokens.shape == (2, vocabulary.LENGTH, tiny.unet.config.cross_attention_dim)
    eps = tiny.eps(torch.zeros(2, 4, 16, 16), 500, context)
    assert eps.shape == (2, 4, 16, 16) and eps.isfinite().all()


@pytest.mark.parametrize("name", EMBEDDED)
def test_it_is_small_enough_for_a_package(name):
    files = [path for path in EMBEDDED[name].rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24e6
    assert not [path.name for path in files if path.suffix == ".part"]


@pytest.mark.parametrize("model, for_it", [("tiny", "diffedit"), ("tiny-instruct", "instruct_pix2pix")])
def test_its_recommendations_are_valid_options(model, for_it):
    tiny = dm.load(model)
    assert for_it in tiny.defaults
    for key, recommended in tiny.defaults.items():
        name, _, preset = key.partition(", ")           # "diffedit", or with a preset "diffedit, fast"
        settings = dm.METHODS[name].settings(tiny, {}, preset or "recommended")
        assert {option: getattr(settings, option) for option in recommended} == recommended


def test_its_card_says_the_whole_rule_of_its_masks(tiny):
    """So that its results don't depend on the defaults, which are for other models."""
    left_open = {name for name, own in dm.diffedit.known.items() if own.stage in ("map", "mask")}
    assert left_open - {"mask_samples"} <= tiny.defaults["diffedit"].keys()


def test_the_vae_keeps_a_picture(tiny):
    """At least 30 dB over 8 validation scenes, from the mean of all squared errors."""
    pictures = [scenes.sample(scenes.VALIDATION[i]).render(64) for i in range(8)]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2) / 127.5 - 1
    latents = tiny.encode(pixels)
    error = ((tiny.decode(latents).clamp(-1, 1) - pixels) / 2).square().mean().item()       # on the [0, 1] scale
    assert -10 * math.log10(error) == pytest.approx(35.826, abs=0.01)
    assert 0.7 < latents.std() < 1.4                                            # that is what scaling_factor is for


def test_the_unet_predicts_noise(tiny):
    """Far nearer to the noise than 0 is, and the right caption helps.

    The errors are these, of a network that is put together as it was when it was trained: another order of sines, heads
    or gates, or a time off by one, would show.
    """
    pictures = [scenes.sample(scenes.VALIDATION[i]) for i in range(8)]
    pixels = torch.from_numpy(np.stack([np.asarray(scene.render(64)) for scene in pictures])).permute(0, 3, 1, 2)
    x0 = tiny.encode(pixels / 127.5 - 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    captions = [scene.caption for scene in pictures]
    for t, error in ((50, 0.28898), (200, 0.10765), (500, 0.04648), (900, 0.00736)):
        x = add_noise(x0, noise, tiny.schedule.abar[t])
        right, wrong = ((tiny.eps(x, t, tiny.embed(texts)) - noise).square().mean().item()
                        for texts in (captions, captions[3:] + captions[:3]))
        assert right == pytest.approx(error, rel=5e-4, abs=1e-5) and right < wrong


@pytest.mark.slow
def test_it_edits(tiny):
    """Known answers on six validation scenes: the asked value, in the right place, and little else."""
    drawn = list(cases("validation", 6))
    edits = dm.diffedit(tiny, [scene.render() for scene, _, _ in drawn], [answer.caption for _, _, answer in drawn],
                        [scene.caption for scene, _, _ in drawn])
    scores = [measure(edit, *case) for edit, case in zip(edits, drawn, strict=True)]
    assert all(score["correct"] for score in scores)
    assert np.mean([score["iou"] for score in scores]) >= 0.65
    assert -10 * math.log10(np.mean([score["outside"] for score in scores])) >= 27


@pytest.mark.slow
@pytest.mark.parametrize("sampler, words, most", [pytest.param("ddim", "caption", 0.03, marks=pytest.mark.full),
                                                  ("ddim", "none", 0.03), ("dpm_solver", "none", 0.01)])
def test_the_round_trip_stays_near(tiny, sampler, words, most):
    """Encode and decode without a query, 50 steps, ratio 0.8: that near, as a part of the latents' norm."""
    drawn = [scenes.sample(scenes.VALIDATION[i]) for i in range(6)]
    edits = dm.invert(tiny, [scene.render() for scene in drawn], encoding_ratio=0.8, sampler=sampler,
                      reference=[scene.caption if words == "caption" else "" for scene in drawn])
    assert latent_error(edits)[0] <= most


@pytest.mark.slow
def test_alone_and_in_a_batch_are_the_same(tiny):
    (scene, _, answer), (other, _, another) = list(cases("validation", 2))
    together = dm.diffedit(tiny, [scene.render(), other.render()], [answer.caption, another.caption],
                           [scene.caption, other.caption])[0]
    alone = dm.diffedit(tiny, scene.render(), answer.caption, scene.caption)
    assert torch.equal(together.mask, alone.mask)
    error = (together.decoded[0].latent - alone.decoded[0].latent).norm() / alone.decoded[0].latent.norm()
    assert error <= 1e-5, f"{error:.1e}"
