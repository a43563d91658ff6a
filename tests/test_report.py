"""Run: python -m pytest tests/test_report.py

The report of an edit: what it tells of each method, the page as HTML and the sheet as pictures, with the tiny random
model. How the page behaves in a browser: test_report_browser.py.
"""

import base64
import html
import importlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import diffedit_min as dm
from diffedit_min.core import ddim, mask
from diffedit_min.core.schedule import Level, Schedule, add_noise, x0_from_eps
from diffedit_min.core.state import State
from diffedit_min.loading import TINY
from diffedit_min.methods.help import sentence_of
from diffedit_min.pictures import drawing, metadata, picture
from diffedit_min.samplers import SAMPLERS
from diffedit_min.studio import report
from diffedit_min.studio.report import pictures, rendering, sections, texts
from diffedit_min.tiny import scenes

BOWL, BASKET = "a bowl of pears", "a basket of pears"
FEW = {"steps": 5, "keep": "trace"}     # k = 4 at ratio 0.8
OPTIONS = {     # by method, so that each is done in a moment
    "diffedit": {"mask_samples": 3},
    "null_text": {"iterations": 1, "encoding_ratio": 0.8},
    "unitune": {"tuning_steps": 2, "batch": 1, "encoding_ratio": 0.8},
    "cycle_diffusion": {"encoding_ratio": 0.8},
    "edit_friendly": {"encoding_ratio": 0.8},
    "prompt_to_prompt": {"encoding_ratio": 0.8},
    "negative_prompt_inversion": {"encoding_ratio": 0.8},
    "direct_inversion": {"encoding_ratio": 0.8},
}


@pytest.fixture(scope="module")
def model():
    """In float32, as edits are made."""
    return dm.load("random", device="cpu")


@pytest.fixture(scope="module")
def image():
    """Neither side is a multiple of what the network takes."""
    return scenes.sample(scenes.TEST[1]).render(45).crop((0, 0, 45, 37))


@pytest.fixture(scope="module")
def make(model, image):
    """make("diffedit", steps=3, ...): that method's edit of the image."""

    def make(name, query=BASKET, reference=BOWL, picture=image, model=model, **options):
        method = dm.METHODS[name]
        words = {"reference": reference} | ({"query": query} if method.takes_query else {})
        return method(model, picture, **words, **{**FEW, **OPTIONS.get(name, {}), **options})

    return make


@pytest.fixture(scope="module")
def edit(make):
    return make("diffedit")


@pytest.fixture(scope="module")
def instructed():
    """A random model that InstructPix2Pix can use: its U-Net's first layer takes 8 channels."""
    made = dm.load("random", device="cpu")
    first = made.unet.conv_in
    wide = torch.nn.Conv2d(8, first.out_channels, first.kernel_size, padding=first.padding)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        wide.weight.normal_(std=0.05)
        wide.bias.zero_()
    made.unet.conv_in = wide
    made.unet.config = replace(made.unet.config, in_channels=8)
    return made


def told(edit, model, **rest):
    """The report's sections by name, beside the report itself."""
    made = sections.tell(edit, model, **rest)
    return SimpleNamespace(report=made, **{section.name: section for section in made.sections})


def captions(section):
    return [shot.caption for row in section.rows for shot in row.shots]


# ---------------------------------------------------------------- the page is well formed

VOID = {"meta", "img", "input", "wbr"}


class Page(HTMLParser):
    """What a page is made of; fails if an element is closed that isn't open."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute twice: {tag} {attributes}"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        return "".join(self.texts.get(tag, []))


def well_formed(text):
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        for name in ("for", "aria-labelledby"):
            assert attributes.get(name, ids[0]) in ids
        for name in ("src", "href"):
            value = attributes.get(name, "data:")
            assert value.startswith("data:") or value.removeprefix("#") in ids, value
        assert not [name for name in attributes if name.startswith("on")]
    for attributes in page.all("img"):
        assert attributes["alt"] and int(attributes["width"]) > 0
        assert picture_in(attributes["src"]).size == (int(attributes["width"]), int(attributes["height"]))
    for attributes in page.all("input"):
        assert attributes["id"] in [label["for"] for label in page.all("label")]
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(headings, headings[1:], strict=False))
    assert len(page.all("script")) == 2 and not re.search(r"https?:", text)
    return page


def picture_in(uri):
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    return image


@pytest.mark.parametrize("name", dm.METHODS)
def test_every_method_has_its_report(make, model, instructed, name):
    own = instructed if name == "instruct_pix2pix" else model
    edit = make(name, model=own)
    made = told(edit, own)
    page = well_formed(report.page(edit, own))
    assert len(page.all("section")) == len(made.report.sections) + 2
    assert [f"#{section.name}" for section in made.report.sections] == [a["href"] for a in page.all("a")][:-1]
    assert made.report.costs == edit.rows_for and sum(made.report.costs.values()) == edit.rows
    assert len(made.decoding.rows[0].shots) == len(edit.decoded) >= 5
    shown = {name for section in made.report.sections for name in section.settings}
    assert set(edit.method.known) <= shown
    text = html.unescape(report.page(edit, own))
    assert not [name for name, option in edit.method.known.items() if f'title="{sentence_of(option)}"' not in text]
    assert report.film(edit, own).width > 192


@pytest.mark.filterwarnings("ignore:the fixed-point iteration")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_has_its_report(make, model, sampler):
    edit = make("diffedit", sampler=sampler)
    made = told(edit, model)
    well_formed(report.page(edit, model))
    known = SAMPLERS[sampler]
    for section in (made.encoding, made.decoding):
        assert known.equation in section.text.equations and len(section.rows) == 1 + known.straight
        assert bool(section.absent) is not known.straight


@pytest.mark.filterwarnings("ignore:the prompt is too long")
@pytest.mark.parametrize("words", [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</code>&amp; 'x' {{ 7 * 7 }}"])
def test_words_are_shown_as_text(make, model, words):
    edit = make("diffedit", query=words, reference=f"no {words}", negative_prompt="</script><script>alert(2)</script>")
    text = report.page(edit, model)
    page = well_formed(text)
    assert page.text("h1") == f"no {words} → {words}"
    found = re.search(r'<pre id="json".*?<code>(.*?)</code>', text, re.DOTALL).group(1)
    assert "<" not in found and json.loads(html.unescape(found)) == edit.settings


# ---------------------------------------------------------------- what is told


def test_diffedits_report_has_all_its_steps(edit, model, image):
    made = told(edit, model, truth=image)
    names = [section.name for section in made.report.sections]
    assert names == ["picture", "predictions", "mask", "encoding", "decoding", "result"]
    assert [len(section.rows) for section in made.report.sections] == [1, 2, 1, 2, 2, 1]
    assert not [section.absent for section in made.report.sections if section.absent]
    assert [row.label for row in made.predictions.rows] == ["Noise 1 of 3", "Noise 2 of 3"]
    assert all(len(row.shots) == 6 for row in made.predictions.rows) and len(made.mask.rows[0].shots) == 4
    assert captions(made.encoding)[:5] == [f"level {j}, t = {edit.encoded[j].level.t}" for j in range(5)]
    assert captions(made.decoding)[:5] == captions(made.encoding)[4::-1]
    assert captions(made.result) == ["input", "result", "their difference, 4 times", "true answer"]
    assert made.predictions.settings == {"mask_noise_ratio": 0.5, "mask_samples": 3, "seed": 0}
    assert set(made.encoding.settings) == {"steps", "encoding_ratio", "sampler", "grid"}
    assert set(made.decoding.settings) == {"guidance_scale", "negative_prompt", "guidance_from", "guidance_until"}
    assert set(made.mask.settings) == {"mask_threshold", "mask_norm", "mask_average", "mask_clip", "mask_clip_at",
                                       "mask_rescale"}


def test_the_pictures_are_the_edits_own(edit, model, image):
    made = told(edit, model)
    same = lambda shot, latent: picture.psnr(shot, picture.unfit(model.decode(latent), edit.frame)) > 55   # noqa: E731
    shown = {shot.caption: shot.image for row in made.decoding.rows[:1] for shot in row.shots}
    for state in edit.decoded[1:]:
        assert same(shown[f"level {state.index}, t = {state.level.t}"], state.latent)   # to rounding, in a batch
    assert shown["level 0, t = 0"] is edit.image
    _, again = made.picture.rows[0].shots
    assert same(again.image, model.encode(picture.fit(image, model.multiple, model.native_area)[0]))
    noised, _, _, difference, _, query = made.predictions.rows[1].shots
    assert same(noised.image, edit.trace["noised"][1:2])
    x0 = x0_from_eps(edit.trace["noised"][1:2], edit.trace["eps_query"][1:2], model.schedule.abar[500])
    assert same(query.image, x0) and not same(query.image, edit.trace["noised"][1:2])
    q, r = edit.trace["eps_query"], edit.trace["eps_reference"]
    maps = [mask.difference_map(q[i : i + 1, None], r[i : i + 1, None])[0] for i in range(3)]
    assert difference.image.tobytes() == picture.heat(maps[1] / torch.stack(maps).max(), edit.frame, 4).tobytes()
    *_, over = made.mask.rows[0].shots
    assert over.image.tobytes() == drawing.overlay(image, edit.mask_image).tobytes()


def test_padding_is_marked(edit, make, model):
    assert edit.frame.padded != edit.frame.scaled
    assert "padding" in captions(told(edit, model).picture)[0]
    whole = make("sdedit", picture=scenes.sample(scenes.TEST[1]).render(32))
    assert "padding" not in captions(told(whole, model).picture)[0]


def test_a_large_picture_is_shown_smaller(make, model):
    large = scenes.sample(scenes.TEST[1]).render(64).resize((1500, 900))
    edit = make("diffedit", picture=large, steps=2)
    made = told(edit, model, truth=large)
    for section in made.report.sections:
        for row in section.rows:
            assert max(side for shot in row.shots for side in shot.image.size) <= pictures.LARGE
    assert {shot.image.size for shot in made.result.rows[0].shots} == {(1024, 614)}
    assert {shot.image.size for row in made.decoding.rows for shot in row.shots} == {(320, 192)}
    well_formed(report.page(edit, model, truth=large))
    sheet = report.film(edit, model, truth=large)
    assert sheet.width == 6 * 192 + 7 * 8


def test_what_was_not_kept_is_said(make, model):
    made = told(make("diffedit", keep="result"), model)
    assert made.predictions.absent == ('The noised latents and the predictions were not kept: keep="trace" keeps them.')
    assert made.decoding.absent == 'The latents on the way were not kept: keep="trace" keeps them.'
    assert not made.predictions.rows and not made.decoding.rows and made.encoding.rows
    assert captions(made.mask)[0] == "the map, from 0 to 1" and made.mask.absent
    made = told(make("sdedit", keep="result"), model)
    assert made.report.costs == {"decode": 8} and made.decoding.absent


def test_what_was_given_is_said(edit, make, model):
    by_hand = told(make("diffedit", mask=edit.mask, encoded=edit.encoded), model)
    assert not hasattr(by_hand, "predictions") and by_hand.mask.text == texts.MASK_BY_HAND
    assert by_hand.encoding.absent == "The encoding is that of an earlier edit."
    assert by_hand.report.costs == {"decode": 8} and by_hand.report.cells is None
    again = told(make("diffedit", mask_map=edit.mask_map), model)
    assert again.predictions.absent == "The map is that of an earlier edit: nothing was predicted for it."
    assert again.report.costs == {"encode": 4, "decode": 8} and again.report.cells
    both = told(make("diffedit", mask=edit.mask, mask_map=edit.mask_map), model)
    assert both.mask.text == texts.MASK_BY_HAND and both.report.cells is None


def test_an_empty_mask(make, model):
    made = told(make("diffedit", query=BOWL), model)
    assert not hasattr(made, "decoding") and not made.encoding.rows and made.result.rows
    assert made.predictions.absent.startswith("Query and reference are the same words")
    assert made.mask.absent == "Nothing to change was found: the mask is empty."
    assert made.encoding.text == texts.NO_CODING and made.report.costs == {}
    assert made.report.measures["against the input"] == "equal"
    found = told(make("diffedit", mask_threshold=1.0), model)
    assert found.report.costs == {"mask": 6} and found.predictions.rows and found.encoding.text == texts.NO_CODING
    by_hand = make("diffedit", mask=Image.new("L", (9, 9)))
    assert told(by_hand, model).decoding.rows          # a black mask of the caller's is decoded as asked
    for edit in (make("diffedit", query=BOWL), by_hand):
        well_formed(report.page(edit, model))
        report.film(edit, model)


def test_ratio_0_has_no_levels(make, model):
    made = told(make("diffedit", encoding_ratio=0.0), model)
    assert made.encoding.absent == made.decoding.absent == "The encoding ratio is 0: there is no level to go to."
    well_formed(report.page(make("diffedit", encoding_ratio=0.0), model))
    assert told(make("sdedit", encoding_ratio=0.0), model).report.costs == {}


def test_methods_without_a_mask_say_so(make, model):
    made = told(make("sdedit"), model)
    assert [section.name for section in made.report.sections] == ["picture", "mask", "encoding", "decoding", "result"]
    assert made.mask.text.words == "sdedit has no mask: every pixel may change." and not made.mask.rows
    assert made.encoding.text == dm.sdedit.texts["start"] and not made.encoding.rows
    assert set(made.report.measures) == {"against the input", "the VAE alone, against the input"}


def test_two_branches(make, model):
    blended = told(make("prompt_to_prompt", local_blend="bowl", blend_size=0.5), model)
    assert "the input as made anew beside the edit" in captions(blended.result)
    assert blended.mask.text == dm.prompt_to_prompt.texts["mask"] and blended.mask.settings == {"local_blend": "bowl"}
    nowhere = told(replace(make("prompt_to_prompt", local_blend="bowl", blend_size=0.5), empty_mask=True), model)
    assert nowhere.mask.absent == "Nothing to change was found: the mask is empty." and nowhere.decoding.rows
    generated = make("prompt_to_prompt", picture=None)
    made = told(generated, model)
    assert made.encoding.text == dm.prompt_to_prompt.texts["start"] and made.report.costs == {"both branches": 20}
    well_formed(report.page(generated, model))


@pytest.mark.parametrize("name", ["diffedit", "sdedit", "edit_friendly"])
def test_a_method_of_the_readers_own_is_told_as_far_as_it_can_be(model, image, name):
    def run(task, options):
        """Mine."""
        return (yield from dm.METHODS[name].run(task, options))

    edit = dm.Method("own", run, based_on=dm.METHODS[name])(model, image, BASKET, BOWL, **FEW)
    made, mine = told(edit, model), "Mine. How it does this, its own file tells."
    assert (made.decoding.text.words == mine) == (name != "diffedit") and made.decoding.rows
    assert (made.encoding.text.words == mine) == (name != "diffedit")
    if name == "diffedit":      # what the edit itself shows is told in the same words, whoever made it
        theirs = told(dm.diffedit(model, image, BASKET, BOWL, **FEW), model)
        assert [s.text.words for s in made.report.sections] == [s.text.words for s in theirs.report.sections]
    assert run in made.decoding.text.functions
    well_formed(report.page(edit, model))


def test_what_an_edit_does_not_show_is_not_told(make, model):
    """A blend at the wrong level is not DiffEdit's step 3; a mask cut elsewhere is not `map > mask_threshold`."""
    edit = make("diffedit")
    assert texts.blended(edit) and texts.threshold_of(edit) == edit.options.mask_threshold
    decoded = [replace(state, latent=state.latent + 1e-6 * (state.index == 2)) for state in edit.decoded]
    assert not texts.blended(replace(edit, decoded=tuple(decoded)))
    for cut in (0.3, 0.7):
        other = replace(edit, mask=edit.mask_map > cut)
        assert other.mask.equal(other.mask_map > texts.threshold_of(other))
        assert "M = 1 where" not in "".join(texts.mask_text(other).equations)
    upside_down = replace(edit, mask=edit.mask_map <= 0.5)
    assert texts.threshold_of(upside_down) is None and told(upside_down, model).report.cells is None


def test_a_report_wants_the_model_that_made_the_edit(edit, model):
    with pytest.raises(ValueError, match="^the edit was made by 'random', not by 'other': pass that model$"):
        report.page(edit, replace(model, name="other"))


def test_an_overflowing_latent_spoils_no_report(edit, model):
    frames = pictures.decoded(model, {"bad": torch.full_like(edit.encoded[0].latent, torch.nan)}, edit.frame)
    assert frames["bad"].size == edit.frame.size


def test_measures(edit, model, image):
    truth, inside = Image.new("RGB", image.size, "red"), np.asarray(edit.mask_image) > 0
    vae = told(edit, model).picture.rows[0].shots[1].image
    assert told(edit, model, truth=truth).report.measures == {
        "outside the mask, against the input": f"{picture.psnr(edit.image, image, ~inside):.1f} dB",
        "inside the mask, against the input": f"{picture.psnr(edit.image, image, inside):.1f} dB",
        "the VAE alone, against the input": f"{picture.psnr(vae, image):.1f} dB",
        "against the true answer": f"{picture.psnr(edit.image, truth):.1f} dB"}


# ---------------------------------------------------------------- x0 from two states


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.integers(0, 99))
def test_two_noisings_of_one_latent_give_it_back(abar_a, abar_b, seed):
    random = torch.Generator().manual_seed(seed)
    x0, eps = torch.randn(2, 1, 4, 3, 2, generator=random, dtype=torch.float64)
    a, b = (State(i, Level(i, abar), add_noise(x0, eps, abar)) for i, abar in enumerate((abar_a, abar_b)))
    if abs(abar_a - abar_b) > 1e-3:
        assert (pictures.x0_of_step(a, b) - x0).abs().max() < 1e-8
        assert (pictures.x0_of_step(b, a) - x0).abs().max() < 1e-8


def test_between_equally_noisy_levels_there_is_no_line():
    x = torch.randn(1, 4, 2, 2)
    a, b = State(1, Level(0, 0.99), x), State(0, Level(0, 0.99), x)
    assert pictures.x0_of_step(a, b) is a.latent


class Asked:
    """A network that remembers what it was asked, and what it said."""

    def __init__(self):
        self.answers = []

    def __call__(self, x, t):
        self.answers.append((x, torch.tanh(x + t / 500)))
        return self.answers[-1][1]


LEVELS = Schedule.from_config({}).levels(12, 0.8)
X0 = torch.randn(1, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sampler", [SAMPLERS[name] for name in ("ddim", "fixed_point", "dpm_solver")])
def test_the_states_tell_what_the_steps_took_for_x0(sampler):
    """As the network had it, which isn't asked again. (DPM-Solver++'s later steps take an extrapolation.)"""
    encoded = list(sampler.encode(Asked(), X0, LEVELS))
    network = Asked()
    decoded = list(sampler.decode(network, encoded[-1], LEVELS))
    assert len(network.answers) == len(decoded) - 1 == 10
    steps = list(zip(decoded, decoded[1:], network.answers, strict=False))
    for left, reached, (x, eps) in steps[:1] if sampler is SAMPLERS["dpm_solver"] else steps:
        assert torch.equal(x, left.latent)
        assert (pictures.x0_of_step(left, reached) - x0_from_eps(x, eps, left.level.abar)).abs().max() < 1e-10


def test_and_so_do_those_of_an_encoding():
    network = Asked()
    encoded = list(ddim.DDIM().encode(network, X0, LEVELS))
    for left, reached, (x, eps) in zip(encoded, encoded[1:], network.answers, strict=False):
        assert (pictures.x0_of_step(reached, left) - x0_from_eps(x, eps, left.level.abar)).abs().max() < 1e-10


def test_samplers_whose_states_lie_on_no_line_are_left_out():
    network = Asked()
    way = list(SAMPLERS["edict"].encode(network, X0, LEVELS))
    wanted = x0_from_eps(way[6].latent, network(way[5].partners[0][1], LEVELS[6].t), LEVELS[6].abar)
    assert (pictures.x0_of_step(way[6], way[5]) - wanted).abs().max() > 0.1
    for sampler, noise, straight in (("edict", {}, False), ("ddim", {}, True), ("ddim", {"eta": 0.1}, False)):
        options = SimpleNamespace(sampler=SAMPLERS[sampler], **noise)
        assert texts.straight(SimpleNamespace(options=options)) == straight


# ---------------------------------------------------------------- pictures


@given(st.integers(0, 200), st.integers(2, 20))
def test_spread_over(count, most):
    chosen = pictures.spread_over(count, most)
    assert len(chosen) == min(count, most) and chosen == sorted(set(chosen))
    assert not chosen or (chosen[0], chosen[-1]) == (0, count - 1)
    gaps = [b - a for a, b in zip(chosen, chosen[1:], strict=False)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1200))
def test_at_most(width, height, side):
    frame = picture.Frame((width, height), (8, 8), (8, 8))
    shown = pictures.at_most(frame, side)
    assert shown == replace(frame, size=shown.size) and max(shown.size) == min(side, max(frame.size))
    assert abs(shown.size[0] * height - shown.size[1] * width) <= max(width, height) or 1 in shown.size


def test_no_more_than_31_latents_are_decoded(make, model, monkeypatch):
    edit, decoded, seen = make("diffedit", steps=40), [], []
    real = type(model).decode
    monkeypatch.setattr(type(model), "decode", lambda self, x: decoded.append(len(x)) or real(self, x))
    monkeypatch.setattr(type(model.unet), "forward", None)      # and the U-Net is left alone
    sections.tell(edit, model, on_step=seen.append)
    assert len(edit.decoded) == 33 and sum(decoded) == 31
    assert [(step.stage, step.total) for step in seen] == [("report", 30)] * len(seen) and seen[-1].index == 30


def test_batches_decode_as_one_does(edit, model, monkeypatch):
    latents = {str(state.index): state.latent for state in edit.encoded}
    together = pictures.decoded(model, latents, edit.frame)
    monkeypatch.setattr(pictures, "CELLS_AT_ONCE", 1)
    alone = pictures.decoded(model, latents, edit.frame)
    assert list(together) == list(alone) == list(latents)
    assert all(picture.psnr(together[name], alone[name]) > 60 for name in latents)


def test_a_latent_as_it_is_drawn():
    frame = picture.Frame((6, 4), (6, 4), (8, 8))       # 3 x 2 cells of 2 px with picture, of 4 x 4
    latent = torch.zeros(4, 4, 4)
    latent[0, 0, 2], latent[2, 1, 0], latent[3] = 3.0, -9.0, 50.0
    shown = np.asarray(pictures.drawn(latent, frame, 2))
    assert shown.shape == (4, 6, 3)
    assert shown[1, 4].tolist() == [255, 128, 128] and shown[2, 1].tolist() == [128, 128, 0]
    assert (shown[:2, :4] == 128).all()


def test_difference():
    a, b = Image.new("RGB", (2, 1), (10, 100, 200)), Image.new("RGB", (2, 1), (15, 100, 100))
    assert pictures.difference(a, b, 4).getpixel((0, 0)) == (20, 0, 255)
    assert not np.asarray(pictures.difference(a, a, 4)).any()


def test_the_page_holds_the_map_itself(edit, model):
    cells = told(edit, model).report.cells
    values = np.frombuffer(base64.b64decode(cells.values), "<f4").reshape(cells.height, cells.width)
    valid = edit.frame.valid(edit.factor)
    assert (values.flatten() == edit.mask_map[valid].numpy()).all() and sum(cells.histogram) == valid.sum()
    width, height = edit.frame.scaled
    assert (cells.across * width, cells.down * height) == (4 * cells.width, 4 * cells.height)
    assert (values > np.float32(cells.threshold)).sum() == edit.mask[valid].sum()


# ---------------------------------------------------------------- texts


ALL_TEXTS = [texts.PICTURE, texts.predictions_text(3, 500), texts.MASK_BY_HAND, texts.NO_CODING, texts.MASKED,
             texts.RESULT, *(text for method in dm.METHODS.values() for text in method.texts.values())]
RULES = [texts.map_equations(dm.diffedit.made({"mask_norm": norm, "mask_average": average, "mask_clip": clip,
                                               "mask_clip_at": 0.9, "mask_rescale": how}))
         for norm in mask.NORMS for average in mask.AVERAGES for clip in mask.CLIPS for how in mask.RESCALES]


def test_functions_are_named_as_they_are_found(edit, model):
    root = Path(dm.__file__).parents[1]
    functions = {function for text in ALL_TEXTS for function in text.functions} | {
        function for section in sections.tell(edit, model).sections for function in section.text.functions}
    assert mask.difference_map in functions and ddim.step in functions and len(functions) > 25
    for function in functions:
        module = rendering.file_of(function).removesuffix(".py").replace("/", ".")
        found = importlib.import_module(module)
        for part in rendering.name_of(function).removeprefix(module.partition(".")[2] + ".").split("."):
            found = getattr(found, part)
        assert found is getattr(function, "__func__", function) and (root / rendering.file_of(function)).is_file()
    assert rendering.name_of(mask.difference_map) == "core.mask.difference_map"
    assert rendering.file_of(ddim.step) == "diffedit_min/core/ddim.py"


def test_equations_can_be_shown():
    assert all(text.words for text in ALL_TEXTS)
    own = [sampler.equation for sampler in SAMPLERS.values()]
    for equation in [*own, *(e for text in ALL_TEXTS for e in text.equations), *(e for rule in RULES for e in rule)]:
        shown = str(rendering.formula(equation))
        assert "_" not in shown and "^" not in shown and shown.count("<sub>") == shown.count("</sub>")


@pytest.mark.parametrize(("equation", "shown"), [
    ("x_t = √ᾱ_t x_0", "<i>x</i><sub><i>t</i></sub> = √<i>ᾱ</i><sub><i>t</i></sub> <i>x</i><sub>0</sub>"),
    ("y_{j+1}", "<i>y</i><sub><i>j</i>+1</sub>"),
    ("ε̃ < Δ^2", "<i>ε̃</i> &lt; <i>Δ</i><sup>2</sup>"),
    ("x_{to} = min(m, 3)", "<i>x</i><sub>to</sub> = min(<i>m</i>, 3)"),
])
def test_formulas(equation, shown):
    assert str(rendering.formula(equation)) == shown


def test_small_pictures_are_kept_exactly():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 100, 3), dtype=np.uint8))
    assert picture_in(rendering.data_uri(noise)).convert("RGB").tobytes() == noise.tobytes()
    large = picture_in(rendering.data_uri(noise.resize((129, 100))))
    assert (large.format, large.size) == ("WEBP", (129, 100))


# ---------------------------------------------------------------- the sheet, files and the command


def test_the_sheet_has_every_row_under_its_heading(edit, model):
    made, sheet = told(edit, model).report, report.film(edit, model)
    top = 0
    for i, section in enumerate(made.sections, start=1):
        for row in section.rows:
            label = f"{i}  {section.title}" + (f": {row.label}" if row.label else "")
            images, words = zip(*((shot.image, shot.caption) for shot in row.shots), strict=True)
            part = drawing.headed(drawing.strip(images, words, 192 / 45), label)
            if section.name != "picture":       # which shows the padding too
                assert sheet.crop((0, top, part.width, top + part.height)).tobytes() == part.tobytes(), label
            top += part.height
    assert abs(sheet.height - top) < 30
    assert all(shot.caption.isascii() for section in made.sections for row in section.rows for shot in row.shots)


def test_write(edit, model, tmp_path, monkeypatch):
    calls = []
    real = sections.tell
    monkeypatch.setattr(sections, "tell", lambda *a, **k: calls.append(a) or real(*a, **k))
    report.write(edit, model)
    assert not calls and not list(tmp_path.iterdir())
    report.write(edit, model, tmp_path / "a.html", tmp_path / "a.png")
    assert len(calls) == 1 and {path.name for path in tmp_path.iterdir()} == {"a.html", "a.png"}
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == report.page(edit, model)
    assert Image.open(tmp_path / "a.png").tobytes() == report.film(edit, model).tobytes()
    monkeypatch.setattr(rendering, "as_page", lambda report: "\ud800")     # can't be encoded
    (tmp_path / "a.html").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        report.write(edit, model, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


RANDOM = ("edit", "a.png", "--query", BASKET, "--model", "random", "-o", "steps=4")


@pytest.fixture
def command(call_command, tmp_path, image):
    image.save(tmp_path / "a.png")
    return call_command


def test_the_command_writes_page_and_strip(command):
    done = command(*RANDOM, "-o", "mask_samples=2", "--report", "r.html", "--strip", "s.png")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("wrote a-edit.png and r.html and s.png\n13 rows")
    page = well_formed(Path("r.html").read_text(encoding="utf-8"))
    assert page.text("h1") == BASKET and len(page.all("img")) > 30 and Image.open("s.png").width > 9 * 100
    command(*RANDOM, "-o", "mask_samples=2", "--out", "plain.png")
    assert Path("plain.png").read_bytes() == Path("a-edit.png").read_bytes()     # a report changes nothing
    assert metadata.read("s.png") == metadata.read("plain.png")
    done = command(*RANDOM, "--method", "sdedit", "--report", "sdedit.htm")
    assert done.code == 0 and "wrote a-edit.png and sdedit.htm\n" in done.out


@pytest.mark.parametrize(("arguments", "message"), [
    (("--report", "r.png"), "'r.png' has the suffix '.png': use one of .html, .htm"),
    (("--report", "missing/r.html"), "there is no folder 'missing': make it first"),
    (("--strip", "s.html"), "'s.html' has the suffix '.html': use one of .png, .jpg, .jpeg, .webp"),
    (("--strip", "a-edit.png"), "'a-edit.png' can't hold two results: give each a file of its own"),
])
def test_refused_before_any_work(command, monkeypatch, arguments, message):
    monkeypatch.setattr(dm.loading, "load", None)
    done = command(*RANDOM, *arguments)
    assert (done.code, done.err, done.out) == (1, f"error: {message}\n", "")
    assert [path.name for path in Path(".").iterdir()] == ["a.png"]
    done = command("demo", "--out", "a-edit.png", *arguments)
    assert (done.code, done.err) == (1, f"error: {message}\n")


@pytest.mark.skipif(not (TINY / "unet/diffusion_pytorch_model.safetensors").is_file(),
                    reason="the embedded model isn't there yet")
def test_the_demo_has_a_report_with_the_true_answer(command):
    done = command("demo", "-o", "steps=6", "-o", "mask_samples=2", "--report", "d.html", "--strip", "d.png")
    assert (done.code, done.err) == (0, "") and done.out.endswith("wrote demo.png and d.html and d.png\n")
    page = well_formed(Path("d.html").read_text(encoding="utf-8"))
    assert "against the true answer" in page.text("th") and "true answer" in page.text("figcaption")
