"""Run: python -m pytest tests/test_report.py

The report of an edit: what it tells of each method, the page as HTML and the sheet as pictures, mostly with the tiny
random model. How the page behaves in a browser: test_report_browser.py.
"""

import base64
import html
import importlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise, product
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
from diffedit_min.core.schedule import Level, Schedule, x0_from_eps
from diffedit_min.core.state import State
from diffedit_min.methods.help import sentence_of
from diffedit_min.methods.paper import map_text
from diffedit_min.pictures import drawing, metadata, picture
from diffedit_min.samplers import SAMPLERS
from diffedit_min.studio import report
from diffedit_min.studio.report import pictures, rendering, sections, texts
from diffedit_min.tiny import scenes

BOWL, BASKET = "a bowl of pears", "a basket of pears"
FEW = {"steps": 5, "keep": "trace"}     # k = 4 at ratio 0.8
OPTIONS = {"diffedit": {"mask_samples": 3}, "null_text": {"iterations": 1}, "unitune": {"tuning_steps": 2, "batch": 1}}


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
        ratio = {"encoding_ratio": 0.8} if "encoding_ratio" in method.known else {}
        return method(model, picture, **words, **{**FEW, **ratio, **OPTIONS.get(name, {}), **options})

    return make


@pytest.fixture(scope="module")
def edit(make):
    return make("diffedit")


def told(edit, model, **rest):
    """The report's sections by name, beside the report itself."""
    made = sections.tell(edit, model, **rest)
    return SimpleNamespace(report=made, **{section.name: section for section in made.sections})


def shots(section):
    return [shot for row in section.rows.values() for shot in row]


def captions(section):
    return [shot.caption for shot in shots(section)]


# ---------------------------------------------------------------- the page is well formed


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
        if tag not in {"meta", "img", "input", "wbr", "rect", "line"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what isn't open"

    def handle_data(self, data):
        self.texts[self.open[-1] if self.open else ""] = self.text(self.open[-1] if self.open else "") + data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag):
        return self.texts.get(tag, "")


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
    assert headings[0] == 1 and headings.count(1) == 1 and all(b <= a + 1 for a, b in pairwise(headings))
    assert len(page.all("script")) == 2 and not re.search(r"https?:", text)
    return page


def picture_in(uri):
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    return image


@pytest.mark.parametrize("name", dm.METHODS)
def test_every_method_has_its_report(make, model, name):
    own = dm.load("tiny-instruct", device="cpu") if name == "instruct_pix2pix" else model
    edit = make(name, model=own)
    made, text = sections.tell(edit, own), report.page(edit, own)
    page = well_formed(text)
    assert [f"#{section.name}" for section in made.sections] == [a["href"] for a in page.all("a")][:-1]
    for what, rows in edit.rows_for.items():
        assert f'<th scope="row">{what}</th><td>{rows}</td>' in text
    assert f"= {edit.rows}</caption>" in text
    assert len(captions(made.sections[-2])) in (len(edit.decoded), 2 * len(edit.decoded)) and len(edit.decoded) >= 5
    assert set(edit.method.known) <= {name for section in made.sections for name in section.settings}
    assert all(f'title="{sentence_of(option)}"' in html.unescape(text) for option in edit.method.known.values())


@pytest.mark.filterwarnings("ignore:the fixed-point iteration")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_has_its_report(make, model, sampler):
    """With the predicted clean pictures where its states show them, and a reason where they don't."""
    made, known = told(make("diffedit", sampler=sampler, steps=3), model), SAMPLERS[sampler]
    for section in (made.encoding, made.decoding):
        assert known.equation in section.text.equations and len(section.rows) == 1 + known.straight
        assert bool(section.absent) is not known.straight
    assert made.encoding.text.words.startswith(f"{known.title} run backwards")


@pytest.mark.filterwarnings("ignore:the prompt is too long")
def test_words_are_shown_as_text(make, model):
    edit = make("diffedit", query='<script>alert(1)</script>{{ 7 * 7 }}"><img src=x onerror=alert(1)>',
                reference="</code>&amp; 'x'", negative_prompt="</script><script>alert(2)</script>")
    text = report.page(edit, model)
    assert well_formed(text).text("h1") == f"{edit.settings['reference']} → {edit.settings['query']}"
    found = re.search(r'<pre id="json".*?<code>(.*?)</code>', text, re.DOTALL).group(1)
    assert "<" not in found and json.loads(html.unescape(found)) == edit.settings


# ---------------------------------------------------------------- what is told


def test_diffedits_report_has_all_its_steps(edit, model, image):
    made = told(edit, model, truth=image)
    assert {section.name: len(section.rows) for section in made.report.sections} == {
        "picture": 1, "predictions": 2, "mask": 1, "encoding": 2, "decoding": 2, "result": 1}
    assert not [section.absent for section in made.report.sections if section.absent]
    assert list(made.predictions.rows) == ["Noise 1 of 3", "Noise 2 of 3"]
    assert len(shots(made.predictions)) == 12 and len(shots(made.mask)) == 4
    assert captions(made.encoding)[:5] == [f"level {j}, t = {edit.encoded[j].level.t}" for j in range(5)]
    assert captions(made.decoding)[:5] == captions(made.encoding)[4::-1]
    assert captions(made.result) == ["input", "result", "their difference, 4 times", "true answer"]
    assert made.predictions.settings == {"t": 500, "mask_noise_ratio": 0.5, "mask_samples": 3, "seed": 0}
    assert set(made.encoding.settings) == {"steps", "encoding_ratio", "sampler", "grid"}
    assert set(made.decoding.settings) == {"guidance_scale", "negative_prompt", "guidance_from", "guidance_until"}
    assert set(made.mask.settings) == {"mask_threshold", "mask_norm", "mask_average", "mask_clip", "mask_clip_at",
                                       "mask_rescale"}


def test_the_pictures_are_the_edits_own(edit, model, image):
    made = told(edit, model)
    same = lambda shot, latent: picture.psnr(shot, picture.unfit(model.decode(latent), edit.frame)) > 55   # noqa: E731
    for shot, state in zip(made.decoding.rows["The latent, decoded"], reversed(edit.decoded[1:]), strict=False):
        assert same(shot.image, state.latent)       # to rounding, in a batch
    assert made.decoding.rows["The latent, decoded"][-1].image == edit.image
    network_sees, again = shots(made.picture)
    assert "padding" in network_sees.caption
    assert same(again.image, model.encode(picture.fit(image, model.multiple, model.native_area)[0]))
    noised, _, _, difference, _, query = made.predictions.rows["Noise 2 of 3"]
    assert same(noised.image, edit.trace["noised"][1:2])
    x0 = x0_from_eps(edit.trace["noised"][1:2], edit.trace["eps_query"][1:2], model.schedule.abar[500])
    assert same(query.image, x0) and not same(query.image, edit.trace["noised"][1:2])
    q, r = edit.trace["eps_query"], edit.trace["eps_reference"]
    maps = [mask.difference_map(q[i : i + 1, None], r[i : i + 1, None])[0] for i in range(3)]
    assert difference.image.tobytes() == picture.heat(maps[1] / torch.stack(maps).max(), edit.frame, 4).tobytes()
    assert shots(made.mask)[-1].image.tobytes() == drawing.overlay(image, edit.mask_image).tobytes()


@pytest.mark.slow
def test_a_large_picture_is_shown_smaller(make, model):
    large = scenes.sample(scenes.TEST[1]).render(64).resize((1500, 900))
    edit = make("diffedit", picture=large, steps=2)
    made = told(edit, model, truth=large)
    assert {shot.image.size for shot in shots(made.result)} == {(1024, 614)}
    assert {shot.image.size for shot in shots(made.decoding)} == {(320, 192)}
    assert max(max(shot.image.size) for section in made.report.sections for shot in shots(section)) == 1024
    well_formed(report.page(edit, model, truth=large))
    assert report.film(edit, model, truth=large).width == 6 * 192 + 7 * 8


def test_what_was_not_kept_is_said(make, model):
    made = told(make("diffedit", keep="result"), model)
    assert made.predictions.absent == ('The noised latents and the predictions were not kept: keep="trace" keeps them.')
    assert made.decoding.absent == 'The latents on the way were not kept: keep="trace" keeps them.'
    assert not made.predictions.rows and not made.decoding.rows and made.encoding.rows
    assert captions(made.mask)[0] == "the map, from 0 to 1"


def test_what_was_given_is_said(edit, make, model):
    by_hand = told(make("diffedit", mask=edit.mask, mask_map=edit.mask_map, encoded=edit.encoded), model)
    assert not hasattr(by_hand, "predictions") and by_hand.mask.text == texts.MASK_BY_HAND
    assert by_hand.encoding.absent == "The encoding is that of an earlier edit." and by_hand.report.cut is None
    again = told(make("diffedit", mask_map=edit.mask_map), model)
    assert again.predictions.absent == "The map is that of an earlier edit: nothing was predicted for it."
    assert again.report.cut


def test_an_empty_mask(make, model):
    same = make("diffedit", query=BOWL)
    made = told(same, model)
    assert not hasattr(made, "decoding") and not made.encoding.rows and made.result.rows
    assert made.predictions.absent.startswith("Query and reference are the same words")
    assert made.mask.absent == "Nothing to change was found: the mask is empty."
    assert made.encoding.text == texts.NO_CODING and made.report.measures["against the input"] == "equal"
    by_hand = make("diffedit", mask=Image.new("L", (9, 9)))
    assert told(by_hand, model).decoding.rows          # a black mask of the caller's is decoded as asked
    for edit in (same, by_hand, make("diffedit", mask_threshold=1.0)):
        well_formed(report.page(edit, model))
        report.film(edit, model)


def test_ratio_0_has_no_levels(make, model):
    edit = make("diffedit", encoding_ratio=0.0)
    made = told(edit, model)
    assert made.encoding.absent == made.decoding.absent == "The encoding ratio is 0: there is no level to go to."
    well_formed(report.page(edit, model))


def test_methods_without_a_mask_say_so(make, model):
    made = told(make("sdedit"), model)
    assert [section.name for section in made.report.sections] == ["picture", "mask", "encoding", "decoding", "result"]
    assert made.mask.text.words == "sdedit has no mask: every pixel may change." and not made.mask.rows
    assert made.encoding.text == dm.sdedit.texts["start"] and not made.encoding.rows
    assert set(made.report.measures) == {"against the input", "the VAE alone, against the input"}


def test_two_branches(make, model):
    blended = told(make("prompt_to_prompt", local_blend="bowl", blend_size=0.5), model)
    assert "the input as made anew beside the edit" in captions(blended.result)
    assert blended.mask.text == dm.prompt_to_prompt.texts["mask"]
    generated = make("prompt_to_prompt", picture=None)
    assert told(generated, model).encoding.text == dm.prompt_to_prompt.texts["start"]
    well_formed(report.page(generated, model))


@pytest.mark.parametrize("name", ["diffedit", "sdedit"])
def test_a_method_of_the_readers_own_is_told_as_far_as_it_can_be(model, image, name):
    def run(task, options):
        """Mine."""
        return (yield from dm.METHODS[name].run(task, options))

    edit = dm.Method("own", run, based_on=dm.METHODS[name])(model, image, BASKET, BOWL, **FEW)
    made, mine = told(edit, model), "Mine. How it does this, its own file tells."
    if name == "diffedit":      # what the edit itself shows is told in the same words, whoever made it
        theirs = told(dm.diffedit(model, image, BASKET, BOWL, **FEW), model)
        assert [s.text.words for s in made.report.sections] == [s.text.words for s in theirs.report.sections]
    else:
        assert made.decoding.text.words == made.encoding.text.words == mine
    assert run in made.decoding.text.functions and made.decoding.rows
    well_formed(report.page(edit, model))


def test_what_an_edit_does_not_show_is_not_told(edit, model):
    """A blend at the wrong level is not DiffEdit's step 3; a mask cut elsewhere is not `map > mask_threshold`."""
    decoded = [replace(state, latent=state.latent + 1e-6 * (state.index == 2)) for state in edit.decoded]
    assert told(edit, model).decoding.title == "Masked decoding"
    assert told(replace(edit, decoded=tuple(decoded)), model).decoding.title == "Decoding"
    assert sections.tell(edit, model).cut["threshold"] == edit.options.mask_threshold
    for cut in (0.3, 0.7):
        made = told(replace(edit, mask=edit.mask_map > cut), model)
        assert torch.equal(edit.mask_map > cut, edit.mask_map > made.report.cut["threshold"])
        assert "M = 1 where" not in "".join(made.mask.text.equations)
    assert told(replace(edit, mask=edit.mask_map <= 0.5), model).report.cut is None     # no threshold gives it


def test_a_report_wants_the_model_that_made_the_edit(edit, model):
    with pytest.raises(ValueError, match="^the edit was made by 'random', not by 'other': pass that model$"):
        report.page(edit, replace(model, name="other"))


def test_an_overflowing_latent_spoils_no_report(edit, model):
    shot = pictures.Shot(torch.full_like(edit.encoded[0].latent, torch.nan), "", "")
    pictures.develop([shot], model, edit.frame)
    assert shot.image.size == edit.frame.size


def test_measures(edit, model, image):
    truth, inside = Image.new("RGB", image.size, "red"), np.asarray(edit.mask_image) > 0
    made = told(edit, model, truth=truth)
    assert made.report.measures == {
        "outside the mask, against the input": f"{picture.psnr(edit.image, image, ~inside):.1f} dB",
        "inside the mask, against the input": f"{picture.psnr(edit.image, image, inside):.1f} dB",
        "the VAE alone, against the input": f"{picture.psnr(shots(made.picture)[1].image, image):.1f} dB",
        "against the true answer": f"{picture.psnr(edit.image, truth):.1f} dB"}


# ---------------------------------------------------------------- the predicted clean latent, from two states


LEVELS = Schedule.from_config({}).levels(12, 0.8)
X0 = torch.randn(1, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def eps_fn(x, t):
    return torch.tanh(x + t / 500)


@pytest.mark.parametrize(("name", "steps"), [("ddim", 10), ("fixed_point", 10), ("dpm_solver", 1), ("edict", 0)])
def test_the_states_show_what_the_steps_predicted(name, steps):
    """Of decoding; so many of them: DPM-Solver++'s later steps extrapolate, EDICT's lie on no line."""
    way = list(SAMPLERS[name].encode(eps_fn, X0, LEVELS))
    way = list(SAMPLERS[name].decode(eps_fn, way[-1], LEVELS))
    wanted = [x0_from_eps(a.latent, eps_fn(a.latent, a.level.t), a.level.abar) for a in way[:-1]]
    right = [(pictures.x0_of_step(a, b) - x0).abs().max() < 1e-10 for (a, b), x0 in zip(pairwise(way), wanted, strict=True)]
    assert right[:steps] == [True] * steps and (steps or not any(right))


def test_between_equally_noisy_levels_there_is_no_line():
    a, b = State(1, Level(0, 0.99), X0), State(0, Level(0, 0.99), X0)
    assert pictures.x0_of_step(a, b) is a.latent


def test_with_noise_on_the_way_there_is_no_line(make, model):
    assert told(make("cycle_diffusion", eta=0.1), model).decoding.absent == texts.CROOKED


# ---------------------------------------------------------------- pictures


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1200))
def test_at_most(width, height, side):
    frame = picture.Frame((width, height), (8, 8), (8, 8))
    shown = pictures.at_most(frame, side)
    assert shown == replace(frame, size=shown.size) and max(shown.size) == min(side, max(frame.size))
    assert abs(shown.size[0] * height - shown.size[1] * width) <= max(width, height) or 1 in shown.size


def test_no_more_than_30_latents_on_the_way_are_decoded(make, model):
    edit, seen, asked = make("diffedit", steps=40), [], []
    hook = model.unet.register_forward_pre_hook(lambda *arguments: asked.append(arguments))
    made = told(edit, model, on_step=seen.append)
    hook.remove()
    assert not asked and {(step.stage, step.total) for step in seen} == {("report", 30)} and seen[-1].index == 30
    levels = [int(re.match(r"level (\d+)", caption).group(1)) for caption in captions(made.decoding)[:9]]
    assert levels == list(range(32, -1, -4))


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


def test_the_page_holds_the_map_itself(edit, model):
    cut, valid = sections.tell(edit, model).cut, edit.frame.valid(edit.factor)
    values = np.frombuffer(base64.b64decode(cut["map"]), "<f4")
    assert (values == edit.mask_map[valid].numpy()).all() and sum(cut["histogram"]) == valid.sum()
    assert cut["columns"] == valid.any(dim=0).sum()
    assert cut["cell"] == [edit.factor / side for side in edit.frame.scaled]


def test_small_pictures_are_kept_exactly():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 100, 3), dtype=np.uint8))
    assert picture_in(rendering.data_uri(noise)).convert("RGB").tobytes() == noise.tobytes()
    large = picture_in(rendering.data_uri(noise.resize((129, 100))))
    assert (large.format, large.size) == ("WEBP", (129, 100))


# ---------------------------------------------------------------- texts


def all_texts(edit, model):
    rules = [map_text(dm.diffedit.made(dict(zip(
        ("mask_norm", "mask_average", "mask_clip", "mask_rescale"), choice, strict=True)) | {"mask_clip_at": 0.9}))
        for choice in product(mask.NORMS, mask.AVERAGES, mask.CLIPS, mask.RESCALES)]
    shown = [section.text for section in sections.tell(edit, model).sections]
    return [*rules, *shown, texts.MASK_BY_HAND, texts.NO_CODING,
            *(text for method in dm.METHODS.values() for text in method.texts.values())]


def test_functions_are_named_as_they_are_found(edit, model):
    functions = {function for text in all_texts(edit, model) for function in text.functions}
    assert mask.difference_map in functions and ddim.step in functions and len(functions) > 25
    for function in functions:
        name, file, source = rendering.code(function)
        module = file.removesuffix(".py").replace("/", ".")
        found = importlib.import_module(module)
        for part in name.removeprefix(module.partition(".")[2] + ".").split("."):
            found = getattr(found, part)
        assert found is getattr(function, "__func__", function) and "def " in source
    name, file, _ = rendering.code(mask.difference_map)
    assert (name, file) == ("core.mask.difference_map", "diffedit_min/core/mask.py")
    assert rendering.code(test_difference)[:2] == ("test_difference", "test_report.py")
    assert rendering.code(eval("lambda x: x")) == ("<lambda>", "", "")


def test_equations_can_be_shown(edit, model):
    own = [sampler.equation for sampler in SAMPLERS.values()]
    for equation in [*own, *(equation for text in all_texts(edit, model) for equation in text.equations)]:
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


# ---------------------------------------------------------------- the sheet, files and the command


def test_the_sheet_has_every_row_under_its_heading(edit, model):
    made, sheet = sections.tell(edit, model), report.film(edit, model)
    top = 0
    for i, section in enumerate(made.sections, start=1):
        for label, row in section.rows.items():
            heading = f"{i}  {section.title}" + (f": {label}" if label else "")
            part = drawing.headed(drawing.strip([s.image for s in row], [s.caption for s in row], 192 / 45), heading)
            if section.name != "picture":       # which shows the padding too
                assert sheet.crop((0, top, part.width, top + part.height)).tobytes() == part.tobytes(), heading
            top += part.height
            assert all(shot.caption.isascii() for shot in row)      # Pillow's font knows no other letters
    assert abs(sheet.height - top) < 30


def test_write(make, model, tmp_path):
    edit = make("sdedit", steps=2)
    report.write(edit, model)
    assert not list(tmp_path.iterdir())
    report.write(edit, model, tmp_path / "a.html", tmp_path / "a.png")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == report.page(edit, model)
    assert Image.open(tmp_path / "a.png").tobytes() == report.film(edit, model).tobytes()
    bad = replace(edit, settings={**edit.settings, "query": "\ud800"})      # can't be encoded: the old file stays
    with pytest.raises(UnicodeEncodeError):
        report.write(bad, model, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == report.page(edit, model)
    assert len(list(tmp_path.iterdir())) == 2


RANDOM = ("edit", "a.png", "--query", BASKET, "--model", "random", "-o", "steps=4")


@pytest.fixture
def command(call_command, tmp_path, image):
    image.save(tmp_path / "a.png")
    return call_command


@pytest.mark.slow
def test_the_command_writes_page_and_strip(command):
    done = command(*RANDOM, "-o", "mask_samples=2", "--report", "r.html", "--strip", "s.png")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("wrote a-edit.png and r.html and s.png\n13 rows")
    page = well_formed(Path("r.html").read_text(encoding="utf-8"))
    assert page.text("h1") == BASKET and len(page.all("img")) > 30 and Image.open("s.png").width > 9 * 100
    command(*RANDOM, "-o", "mask_samples=2", "--out", "plain.png")
    assert Path("plain.png").read_bytes() == Path("a-edit.png").read_bytes()     # a report changes nothing
    assert metadata.read("s.png") == metadata.read("plain.png")


@pytest.mark.parametrize(("arguments", "message"), [
    (("--report", "r.png"), "'r.png' has the suffix '.png': use one of .html, .htm"),
    (("--report", "missing/r.html"), "there is no folder 'missing': make it first"),
    (("--strip", "s.html"), "'s.html' has the suffix '.html': use one of .png, .jpg, .jpeg, .webp"),
    (("--strip", "a-edit.png"), "'a-edit.png' can't hold two results: give each a file of its own"),
])
def test_refused_before_any_work(command, monkeypatch, arguments, message):
    monkeypatch.setattr(dm.loading, "load", None)
    for words in (RANDOM, ("demo", "--out", "a-edit.png")):
        done = command(*words, *arguments)
        assert (done.code, done.err, done.out) == (1, f"error: {message}\n", "")
    assert [path.name for path in Path(".").iterdir()] == ["a.png"]


@pytest.mark.slow
def test_the_demo_has_a_report_with_the_true_answer(command):
    done = command("demo", "-o", "steps=6", "-o", "mask_samples=2", "--report", "d.htm", "--strip", "d.png")
    assert (done.code, done.err) == (0, "") and done.out.endswith("wrote demo.png and d.htm and d.png\n")
    assert "against the true answer" in well_formed(Path("d.htm").read_text(encoding="utf-8")).text("th")
