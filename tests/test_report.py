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
import shlex
from dataclasses import replace
from itertools import pairwise, product
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

import diffedit_min as dm
from diffedit_min.bench.measures import against_truth
from diffedit_min.core import mask
from diffedit_min.core.schedule import Schedule, x0_from_eps
from diffedit_min.methods.help import sentence_of
from diffedit_min.methods.paper import map_text
from diffedit_min.pictures import drawing, metadata, picture
from diffedit_min.samplers import SAMPLERS
from diffedit_min.studio import report
from diffedit_min.studio.report import pictures, rendering, sections, texts
from diffedit_min.tiny import scenes

BOWL, BASKET = "a bowl of pears", "a basket of pears"
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
    """make("diffedit", steps=3, ...): that method's edit of the image, with k = 4 levels."""

    def make(name, query=BASKET, reference=BOWL, picture=image, model=model, **options):
        method = dm.METHODS[name]
        words = {"reference": reference} | ({"query": query} if method.takes_query else {})
        few = {"steps": 5, "keep": "trace"} | ({"encoding_ratio": 0.8} if "encoding_ratio" in method.known else {})
        return method(model, picture, **words, **{**few, **OPTIONS.get(name, {}), **options})

    return make


@pytest.fixture(scope="module")
def edit(make):
    return make("diffedit")


def told(edit, model, **rest):
    """The report's sections by name."""
    return {section.name: section for section in sections.tell(edit, model, **rest).sections}


def shots(section):
    return [shot for row in section.rows.values() for shot in row]


def captions(section):
    return [shot.caption for shot in shots(section)]


# ---------------------------------------------------------------- the page


TAG = re.compile(r'<(/?)([a-z]\w*)((?:\s+[\w-]+(?:="[^"]*")?)*)\s*(/?)>')


def well_formed(text):
    """Every tag is closed, nothing is fetched, no script runs but the page's two and the wipe's line.

    (What else: test_report_browser.)
    """
    bare = re.sub(r"(<style>|<script>).*?(</style>|</script>)", r"\1\2", text.replace("<!DOCTYPE html>", ""),
                  flags=re.DOTALL)
    bare = bare.replace(" oninput=\"this.parentElement.style.setProperty('--at', this.value + '%')\"", "", 1)
    assert not re.search("[<>]", TAG.sub("", bare)) and not re.search(r"https?:|\son\w+=", bare)
    assert bare.count("<script>") == bare.count("<script") == 2
    opened = []
    for closes, tag, attributes, empty in TAG.findall(bare):
        if closes:
            assert opened.pop() == tag
        elif not empty and tag not in ("meta", "img", "input", "wbr"):
            opened.append(tag)
        values = dict(re.findall(r'([\w-]+)="([^"]*)"', attributes))
        if tag == "img":
            assert picture_in(values["src"]).size == (int(values["width"]), int(values["height"]))
        elif "href" in values:
            assert f'id="{values["href"].removeprefix("#")}"' in bare
    assert not opened


def picture_in(uri):
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.+)", uri).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    return image


@pytest.mark.parametrize("name", dm.METHODS)
def test_every_method_has_its_report(make, model, name):
    own = dm.load("tiny-instruct", device="cpu") if name == "instruct_pix2pix" else model
    edit = make(name, model=own)
    made, text = told(edit, own), report.page(edit, own)
    well_formed(text)
    for what, rows in edit.rows_for.items():
        assert f'<th scope="row">{what}</th><td>{rows}</td>' in text
    assert f"= {edit.rows}</caption>" in text
    assert len(made["decoding"].rows["The latent, decoded"]) == len(edit.decoded) >= 5
    assert set(edit.method.known) <= {name for section in made.values() for name in section.settings}
    for option in edit.method.known.values():
        tip = re.search(rf'aria-describedby="(tip-\w+-{option.name})">{option.name}</button><span role="tooltip" '
                        r'id="(.*?)">(.*?)</span>', text)
        assert tip[1] == tip[2] and html.unescape(tip[3]) == sentence_of(option)
        assert f"<small>{tip[3]}</small>" in text       # in the table of all settings too
    assert any(section.text.why for name, section in made.items() if name != "picture") and "why: " not in text
    assert (f"--method {edit.method.dashed}" in text) == (name != "diffedit")


@pytest.mark.filterwarnings("ignore:the fixed-point iteration")
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_has_its_report(make, model, sampler):
    """With the predicted clean pictures where its states show them, and a reason where they don't."""
    made, known = told(make("diffedit", sampler=sampler, steps=3), model), SAMPLERS[sampler]
    for section in (made["encoding"], made["decoding"]):
        assert known.equation in section.text.equations and len(section.rows) == 1 + known.straight
        assert section.absent == ("" if known.straight else texts.CROOKED)
    assert made["encoding"].text.words.startswith(f"{known.title} run backwards")


@pytest.mark.filterwarnings("ignore:the prompt is too long", "ignore:.*some programs take this for an instruction")
def test_words_are_shown_as_text(make, model):
    edit = make("diffedit", query='<script>alert(1)</script>{{ 7 * 7 }}"><img src=x onerror=alert(1)>',
                reference="</code>&amp; 'x'", negative_prompt="</script><script>alert(2)</script>")
    text = report.page(edit, model)
    assert text.count("<script>") == 2 and text.count("alert") == text.count("alert(") and "<img src=x" not in text
    title, found = (re.search(rf"<{tag}>(.*?)</", text, re.DOTALL).group(1) for tag in ("h1", 'pre id="json".*?><code'))
    assert html.unescape(title) == f"{edit.settings['reference']} → {edit.settings['query']}"
    assert json.loads(html.unescape(found)) == edit.settings


# ---------------------------------------------------------------- what is told


def test_diffedits_report_has_all_its_steps(edit, model, image):
    made = told(edit, model, truth=image)
    assert {name: len(section.rows) for name, section in made.items()} == {
        "picture": 1, "predictions": 2, "mask": 1, "encoding": 2, "decoding": 2, "result": 1}
    assert not any(section.absent for section in made.values())
    assert list(made["predictions"].rows) == ["Noise 1 of 3", "Noise 2 of 3"]
    assert captions(made["encoding"])[:5] == [f"level {j}, t = {edit.encoded[j].level.t}" for j in range(5)]
    assert captions(made["decoding"])[:5] == captions(made["encoding"])[4::-1]
    assert captions(made["result"]) == ["input", "result", "difference × 4", "true answer"]
    assert made["predictions"].settings == {"t": 500, "mask_noise_ratio": 0.5, "mask_samples": 3, "seed": 0}
    assert set(made["encoding"].settings) == {"steps", "encoding_ratio", "sampler", "grid"}


def test_the_pictures_are_the_edits_own(edit, model, image):
    made = told(edit, model)
    same = lambda shot, latent: picture.psnr(shot, picture.unfit(model.decode(latent), edit.frame)) > 55   # noqa: E731
    *noisy, clean = made["decoding"].rows["The latent, decoded"]
    assert all(same(shot.image, state.latent) for shot, state in zip(noisy, edit.decoded[:0:-1], strict=True))
    assert clean.image == edit.image
    network_sees, again = shots(made["picture"])
    assert "padding" in network_sees.caption
    assert same(again.image, model.encode(picture.fit(image, model.multiple, model.native_area)[0]))
    noised, _, predicted, difference, _, query = made["predictions"].rows["Noise 2 of 3"]
    assert [shot.caption for shot in (noised, predicted, difference, query)] == [
        "input under noise, decoded", "noise predicted, conditioned on the query",
        "how far the two predictions lie apart", "predicted clean image x̂₀, conditioned on the query"]
    assert same(noised.image, edit.trace["noised"][1:2])
    x0 = x0_from_eps(edit.trace["noised"][1:2], edit.trace["eps_query"][1:2], model.schedule.abar[500])
    assert same(query.image, x0) and not same(query.image, edit.trace["noised"][1:2])
    q, r = edit.trace["eps_query"], edit.trace["eps_reference"]
    maps = [mask.difference_map(q[i : i + 1, None], r[i : i + 1, None])[0] for i in range(3)]
    assert difference.image.tobytes() == picture.heat(maps[1] / torch.stack(maps).max(), edit.frame, 4).tobytes()
    assert shots(made["mask"])[-1].image.tobytes() == drawing.overlay(image, edit.mask_image).tobytes()
    before, after, apart = (np.asarray(shot.image, dtype=int) for shot in shots(made["result"]))
    assert (apart == np.minimum(255, 4 * abs(before - after))).all()


@pytest.mark.slow
def test_a_large_picture_is_shown_smaller(make, model):
    large = Image.effect_noise((1500, 900), 60).convert("RGB")      # nothing is harder to compress
    edit = make("diffedit", picture=large, steps=2)
    made = told(edit, model)
    sizes = {name: {shot.image.size for shot in shots(section)} for name, section in made.items()}
    assert sizes["result"] == {(1024, 614)} and sizes["decoding"] == {(320, 192)}
    page = report.page(edit, model)
    well_formed(page)
    assert len(page) < 6e6


NO_LEVEL = "The encoding ratio is 0: there is no level to go to."


@pytest.mark.parametrize(("options", "name", "absent"), [
    ({"keep": "result"}, "predictions",
     'The noised latents and the predictions were not kept: keep="trace" keeps them.'),
    ({"keep": "result"}, "decoding", 'The latents on the way were not kept: keep="trace" keeps them.'),
    ({"query": BOWL}, "predictions",
     "Query and reference are the same words, so the predictions would be too. None was made."),
    ({"query": BOWL}, "mask", "Nothing to change was found: the mask is empty."),
    ({"mask_map": None}, "predictions", "The map is that of an earlier edit: nothing was predicted for it."),
    ({"encoded": None}, "encoding", "The encoding is that of an earlier edit."),
    ({"encoding_ratio": 0.0}, "encoding", NO_LEVEL),
    ({"encoding_ratio": 0.0}, "decoding", NO_LEVEL)])
def test_what_is_not_there_is_said(edit, make, model, options, name, absent):
    edit = make("diffedit", **{option: value if value is not None else getattr(edit, option)
                               for option, value in options.items()})
    assert told(edit, model)[name].absent == absent
    well_formed(report.page(edit, model))
    rendering.as_sheet(sections.tell(edit, model))


P2P, BLACK = dm.METHODS["prompt_to_prompt"], Image.new("L", (9, 9))


@pytest.mark.parametrize(("method", "options", "name", "text"), [
    ("diffedit", {"mask": BLACK}, "mask", texts.MASK_BY_HAND),
    ("diffedit", {"mask_threshold": 1.0}, "encoding", texts.NO_CODING),
    ("sdedit", {}, "mask", texts.Text("sdedit has no mask: every pixel may change.")),
    ("sdedit", {}, "encoding", dm.METHODS["sdedit"].texts["start"]),
    ("prompt_to_prompt", {"local_blend": "bowl", "blend_size": 0.5}, "mask", P2P.texts["mask"]),
    ("prompt_to_prompt", {"picture": None}, "encoding", P2P.texts["start"])])
def test_what_happened_is_said(make, model, method, options, name, text):
    edit = make(method, **options)
    made = told(edit, model)
    assert made[name].text == text and ("predictions" in made) == ("mask_threshold" in options)
    assert bool(edit.empty_mask) != ("decoding" in made)       # a black mask of the caller's is decoded as asked
    assert ("input, decoded anew beside the edit" in captions(made["result"])) == (method == "prompt_to_prompt")
    well_formed(report.page(edit, model))


@pytest.mark.parametrize("name", ["diffedit", "sdedit"])
def test_a_method_of_the_readers_own_is_told_as_far_as_it_can_be(make, edit, model, image, name):
    def run(task, options):
        """Mine."""
        return (yield from dm.METHODS[name].run(task, options))

    method = dm.Method("own", run, based_on=dm.METHODS[name])
    own = method(model, image, BASKET, BOWL, steps=5, keep="trace", **OPTIONS.get(name, {}))
    made, mine = told(own, model), "Mine. How it does this, its own file tells."
    if name == "diffedit":      # what the edit itself shows is told in the same words, whoever made it
        assert [s.text.words for s in made.values()] == [s.text.words for s in told(edit, model).values()]
    else:
        assert made["decoding"].text.words == made["encoding"].text.words == mine
    assert run in made["decoding"].text.functions and made["decoding"].rows


def test_what_an_edit_does_not_show_is_not_told(edit, model):
    """A blend at the wrong level is not DiffEdit's step 3; a mask cut elsewhere is not `map > mask_threshold`."""
    decoded = [replace(state, latent=state.latent + 1e-6 * (state.index == 2)) for state in edit.decoded]
    assert told(edit, model)["decoding"].title == "Masked decoding"
    assert told(replace(edit, decoded=tuple(decoded)), model)["decoding"].title == "Decoding"
    for cut in (0.3, 0.7):
        made = sections.tell(replace(edit, mask=edit.mask_map > cut), model)
        assert torch.equal(edit.mask_map > cut, edit.mask_map > made.cut["threshold"])
        assert "M = 1 where" not in str(made.sections[2].text.equations)
    assert sections.tell(replace(edit, mask=edit.mask_map <= 0.5), model).cut is None   # no threshold gives it


def test_the_papers_steps_are_named_and_reasons_given(edit, make, model):
    def paper(edit):
        return {name: section.text.paper for name, section in told(edit, model).items() if section.text.paper}

    step = "Step {} of the paper, Section 3.2".format
    assert paper(edit) == {"predictions": step(1), "mask": step(1), "encoding": step(2), "decoding": step(3)}
    assert paper(make("diffedit", mask=BLACK)) == {"encoding": step(2), "decoding": step(3)}
    assert paper(make("encode_decode")) == paper(make("sdedit")) == paper(make("prompt_to_prompt")) == {}
    why = {name: section.text.why for name, section in told(edit, model).items() if section.text.why}
    assert set(why) == {"picture", "predictions", "mask", "encoding", "decoding"}
    for name, text in [*why.items(), *((method.name, each.why) for method in dm.METHODS.values()
                                       for each in method.texts.values() if each.why)]:
        assert re.fullmatch(r"Why [^:.]+: [^.]+\.", text), name       # one sentence


def test_maps_have_colour_bars(edit, model):
    made = told(edit, model)
    bars = {shot.caption: shot.bar for shot in (*shots(made["predictions"])[:6], *shots(made["mask"]), *shots(
        made["result"]))}
    q, r = edit.trace["eps_query"], edit.trace["eps_reference"]
    most = max(mask.difference_map(q[i : i + 1, None], r[i : i + 1, None])[0].max() for i in range(3))
    raw = edit.trace["raw_map"][0][edit.frame.valid(edit.factor)].max()
    assert {caption: bar for caption, bar in bars.items() if bar} == {
        "how far the two predictions lie apart": ("heat", "0", f"{most:.2g}"),
        "mean difference": ("heat", "0", f"{raw:.2g}"), "extremes cut off": ("heat", "0", f"{raw:.2g}"),
        "the map, rescaled": ("heat", "0", "1"), "difference × 4": ("grey", "0", "64 of 255")}
    text = report.page(edit, model)
    assert text.count('<p class="bar"><span>0</span> <i class="heat"></i> <span>1</span></p>') == 2      # and overview
    assert ".heat { background: linear-gradient(90deg, rgb(0, 0, 4), " in text


def test_words_and_symbols_are_explained_and_linked_where_they_first_appear(edit, make, model):
    text = report.page(edit, model)
    shown = [html.unescape(re.sub("<.*?>", "", part)) for part in re.findall(r'<dt id="term\d+">(.*?)</dt>', text)]
    assert shown == ["VAE", "latent", "ε", "t", "ᾱ", "x̂0", "∅", "k", "map", "M", "guidance", "s", "network evaluations",
                     "PSNR"]
    links = re.findall(r'<a class="term" href="#term(\d+)">(.*?)</a>', text)
    assert {int(i) for i, _ in links} == set(range(len(shown))) and len(set(links)) == len(links)
    assert {words for i, words in links if shown[int(i)] in "ε∅"} == {
        "noise predictions", "<i>ε</i>", "empty text", "∅"}
    for i, words in links:      # before the link, it is nowhere in what is read (indices are no place for a link)
        link = f'<a class="term" href="#term{i}">{words}</a>'
        before = re.sub(r"<sub>.*?</sub>|<style>.*?</style>", "", text.partition(link)[0], flags=re.DOTALL)
        read = "".join(re.findall(r"<p>(.*?)</p>", before, re.DOTALL))
        assert words not in read, words
    own = make("diffedit", query="a VAE, guided")
    assert "a VAE, guided</h1>" in html.unescape(report.page(own, model))


def test_it_says_how_to_make_it_again(edit, make, model):
    text = html.unescape(report.page(edit, model))
    assert "diffedit-min edit picture.png --query 'a basket of pears' --reference 'a bowl of pears'" in text
    assert "edit = dm.diffedit(" in text and text.count(f"diffedit_min {dm.__version__}") == 2
    assert "Made by me" in report.page(edit, model, again={"Somehow": "Made by me"})
    made_anew = make("prompt_to_prompt", picture=None)
    assert "diffedit-min edit --query" in html.unescape(report.page(made_anew, model))
    unknown = replace(edit, settings={**edit.settings, "method": "own"})
    assert "Make it again" not in report.page(unknown, model)       # no name finds a method that isn't registered


def test_a_report_wants_the_model_that_made_the_edit(edit, model):
    with pytest.raises(ValueError, match="^the edit was made by 'random', not by 'other': pass that model$"):
        report.page(edit, replace(model, name="other"))


def test_measures(make, edit, model, image):
    truth, inside = image.copy(), np.asarray(edit.mask_image) > 0
    truth.paste("red", (3, 5, 20, 30))
    vae = shots(told(edit, model)["picture"])[1].image
    assert sections.tell(edit, model, truth=truth).measures == {
        "outside the mask: PSNR against the input": f"{picture.psnr(edit.image, image, ~inside):.1f} dB",
        "inside the mask: PSNR against the input": f"{picture.psnr(edit.image, image, inside):.1f} dB",
        "the whole picture: PSNR against the input": f"{picture.psnr(edit.image, image):.1f} dB",
        "the VAE alone: PSNR against the input": f"{picture.psnr(vae, image):.1f} dB",
        **{f"{name}: {what}": value for name, value, what in against_truth(edit, truth)}}     # as the command tells it
    sections.tell(edit, model, truth=Image.new("RGB", image.size, "red"))       # all of it should change
    unchanged = sections.tell(make("diffedit", query=BOWL), model)
    assert unchanged.measures["the whole picture: PSNR against the input"] == "equal"


# ---------------------------------------------------------------- pictures


LEVELS = Schedule.from_config({}).levels(12, 0.8)
X0 = torch.randn(1, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "steps"), [("ddim", 10), ("fixed_point", 10), ("dpm_solver", 1), ("edict", 0)])
def test_two_states_show_what_the_step_predicted(name, steps):
    """Of decoding; so many of them: DPM-Solver++'s later steps extrapolate, EDICT's lie on no line."""
    eps_fn = lambda x, t: torch.tanh(x + t / 500)       # noqa: E731
    noisiest = list(SAMPLERS[name].encode(eps_fn, X0, LEVELS))[-1]
    errors = [(pictures.x0_of_step(a, b) - x0_from_eps(a.latent, eps_fn(a.latent, a.level.t), a.level.abar)).abs().max()
              for a, b in pairwise(SAMPLERS[name].decode(eps_fn, noisiest, LEVELS))]
    assert len(errors) == 10 and all(error < 1e-10 for error in errors[:steps]) and (steps or max(errors) > 0.1)


def test_no_more_than_30_latents_on_the_way_are_decoded(make, model):
    edit, seen, asked = make("diffedit", steps=40), [], []
    hook = model.unet.register_forward_pre_hook(lambda *arguments: asked.append(arguments))
    made = told(edit, model, on_step=seen.append)
    hook.remove()
    assert not asked and {(step.stage, step.total) for step in seen} == {("report", 30)} and seen[-1].index == 30
    levels = [int(re.match(r"level (\d+)", caption).group(1)) for caption in captions(made["decoding"])[:9]]
    assert levels == list(range(32, -1, -4))


def test_an_overflowing_latent_spoils_no_report(edit, model):
    shot = pictures.Shot(torch.full_like(edit.encoded[0].latent, torch.nan), "", "")
    pictures.develop([shot], model, edit.frame)
    assert shot.image.size == edit.frame.size


def test_a_latent_as_it_is_drawn():
    frame = picture.Frame((6, 4), (6, 4), (8, 8))       # 3 x 2 cells of 2 px with picture, of 4 x 4
    latent = torch.zeros(4, 4, 4)
    latent[0, 0, 2], latent[2, 1, 0], latent[3] = 3.0, -9.0, 50.0
    shown = np.asarray(pictures.drawn(latent, frame, 2))
    assert shown.shape == (4, 6, 3) and (shown[:2, :4] == 128).all()
    assert shown[1, 4].tolist() == [255, 128, 128] and shown[2, 1].tolist() == [128, 128, 0]


def test_the_page_holds_the_map_itself(edit, model):
    cut, valid = sections.tell(edit, model).cut, edit.frame.valid(edit.factor)
    values = np.frombuffer(base64.b64decode(cut["map"]), "<f4")
    assert (values == edit.mask_map[valid].numpy()).all() and sum(cut["histogram"]) == valid.sum()
    assert cut["threshold"] == edit.options.mask_threshold


def test_small_pictures_are_kept_exactly():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 100, 3), dtype=np.uint8))
    assert picture_in(rendering.data_uri(noise)).convert("RGB").tobytes() == noise.tobytes()
    assert picture_in(rendering.data_uri(noise.resize((129, 100)))).format == "WEBP"


# ---------------------------------------------------------------- texts


@pytest.fixture(scope="module")
def all_texts(edit, model):
    names = ("mask_norm", "mask_average", "mask_clip", "mask_rescale")
    rules = [dict(zip(names, rule, strict=True))
             for rule in product(*(dm.diffedit.known[name].choices for name in names))]
    return [*(map_text(dm.diffedit.made({**rule, "mask_clip_at": 0.9})) for rule in rules),
            *(section.text for section in told(edit, model).values()), texts.MASK_BY_HAND,
            *(text for method in dm.METHODS.values() for text in method.texts.values())]


def test_functions_are_named_as_they_are_found(all_texts):
    for function in {function for text in all_texts for function in text.functions}:
        name, file, source = rendering.code(function)
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        found = attrgetter(name.removeprefix(module.__name__.partition(".")[2] + "."))(module)
        assert found is getattr(function, "__func__", function) and "def " in source
    assert rendering.code(mask.binarise)[:2] == ("core.mask.binarise", "diffedit_min/core/mask.py")
    assert rendering.code(well_formed)[:2] == ("well_formed", "test_report.py")
    assert rendering.code(eval("lambda x: x")) == ("<lambda>", "", "")


def test_equations_can_be_shown(all_texts):
    own = [sampler.equation for sampler in SAMPLERS.values()]
    for equation in [*own, *(equation for text in all_texts for equation in text.equations)]:
        shown = str(rendering.formula(equation))
        assert "_" not in shown and "^" not in shown and shown.count("<sub>") == shown.count("</sub>")


@pytest.mark.parametrize(("equation", "shown"), [
    ("x_t = √ᾱ_t x_0", "<i>x</i><sub><i>t</i></sub> = √<i>ᾱ</i><sub><i>t</i></sub> <i>x</i><sub>0</sub>"),
    ("y_{j+1}", "<i>y</i><sub><i>j</i>+1</sub>"),
    ("ε̃ < Δ^2", "<i>ε̃</i> &lt; <i>Δ</i><sup>2</sup>"),
    ("x_{to} = min(m, 3)", "<i>x</i><sub>to</sub> = min(<i>m</i>, 3)")])
def test_formulas(equation, shown):
    assert str(rendering.formula(equation)) == shown


# ---------------------------------------------------------------- the sheet, files and the command


def test_the_sheet_has_every_row_under_its_heading(edit, model):
    sheet, top = rendering.as_sheet(sections.tell(edit, model)), 0
    for i, section in enumerate(told(edit, model).values(), start=1):
        for label, row in section.rows.items():
            heading = f"{i}  {section.title}" + (f": {label}" if label else "")
            captions = [f"{s.caption} ({s.bar.low} to {s.bar.high})" if s.bar else s.caption for s in row]
            part = drawing.headed(drawing.strip([s.image for s in row], captions, 192 / 45), heading)
            if section.name != "picture":       # which shows the padding too
                assert sheet.crop((0, top, part.width, top + part.height)).tobytes() == part.tobytes(), heading
            top += part.height
            font = ImageFont.load_default(12)       # which knows ASCII only
            assert all(line.isascii() for shot in row for line in drawing.wrapped(shot.caption, font, 999))
    assert abs(sheet.height - top) < 30


def test_write(make, model, tmp_path):
    edit = make("sdedit", steps=2)
    report.write(edit, model)
    assert not list(tmp_path.iterdir())
    report.write(edit, model, tmp_path / "a.html", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").tobytes() == rendering.as_sheet(sections.tell(edit, model)).tobytes()
    bad = replace(edit, settings={**edit.settings, "query": "\ud800"})      # can't be encoded: the old file stays
    with pytest.raises(UnicodeEncodeError):
        report.write(bad, model, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == report.page(edit, model)
    assert len(list(tmp_path.iterdir())) == 2


RANDOM = ("edit", "a.png", "--query", BASKET, "--model", "random", "-o", "steps=4", "-o", "mask_samples=2")


@pytest.fixture
def command(call_command, tmp_path, image):
    image.save(tmp_path / "a.png")
    return call_command


@pytest.mark.slow
def test_the_command_writes_page_and_strip(command):
    done = command(*RANDOM, "--report", "r.html", "--strip", "s.png")
    assert (done.code, done.err) == (0, "") and done.out.startswith("wrote a-edit.png, r.html and s.png\n")
    well_formed(Path("r.html").read_text(encoding="utf-8"))
    command(*RANDOM, "--out", "plain.png")
    assert Path("plain.png").read_bytes() == Path("a-edit.png").read_bytes()     # a report changes nothing
    assert metadata.read("s.png") == metadata.read("plain.png")
    done = command("demo", "-o", "steps=6", "-o", "mask_samples=2", "--report", "d.htm", "--strip", "d.png")
    assert (done.code, done.err) == (0, "") and done.out.endswith("wrote demo.png, d.htm and d.png\n")
    page = Path("d.htm").read_text(encoding="utf-8")
    assert "outside the true region: PSNR against the input" in page and "As a command" in page
    again = html.unescape(re.search(r'<pre id="again-1".*?<code>(.*?)</code>', page)[1])
    done = command(*shlex.split(again)[1:], "--out", "again.png")
    assert done.code == 0 and Path("again.png").read_bytes() == Path("demo.png").read_bytes()
    assert "edit a.png --query 'a basket of pears' --model random -o steps=4" in html.unescape(
        Path("r.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("arguments", "message"), [
    (("--report", "r.png"), "'r.png' has the suffix '.png': use one of .html, .htm"),
    (("--report", "missing/r.html"), "there is no folder 'missing': make it first"),
    (("--strip", "s.html"), "'s.html' has the suffix '.html': use one of .png, .jpg, .jpeg, .webp"),
    (("--strip", "a-edit.png"), "'a-edit.png' can't hold two results: give each a file of its own")])
def test_refused_before_any_work(command, monkeypatch, arguments, message):
    monkeypatch.setattr(dm.loading, "load", None)
    for words in (RANDOM, ("demo", "--out", "a-edit.png")):
        done = command(*words, *arguments)
        assert (done.code, done.err, done.out) == (1, f"error: {message}\n", "")
    assert [path.name for path in Path(".").iterdir()] == ["a.png"]
