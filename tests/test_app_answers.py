"""Run: python -m pytest tests/test_app_answers.py

What the page answers, without a browser: options as controls, what is kept, said, seen and counted.
"""

import html
import re
import shutil
from dataclasses import dataclass

import pytest
import torch
from PIL import Image, ImageCms

import diffedit_min as dm
from diffedit_min.core.coding import Options
from diffedit_min.core.diffedit import DiffEditOptions
from diffedit_min.core.options import option
from diffedit_min.core.state import Sampler
from diffedit_min.core.task import Outcome, Step
from diffedit_min.loading.held import Models
from diffedit_min.pictures.metadata import read, texts
from diffedit_min.pictures.picture_files import save
from diffedit_min.studio.app import canvas
from diffedit_min.studio.app.session import Session
from diffedit_min.tiny import scenes

# ---- the options' controls


@dataclass(frozen=True)
class OfEachKind(Options):
    """Options of each kind, some with a range."""

    count: int = option(3, "how many", least=1, most=9)
    many: int = option(7, "an open range", least=0)
    power: float = option(1.5, "how strong", above=0, most=2)
    far: float = option(2.5, "an open range with what is usual", least=0, usual=(0, 10))
    plain: bool = option(False, "as it was")
    norm: str = option("l1", "which norm", choices=("l1", "l2"))
    weights: dict = option({}, "factors by words")
    window: tuple = option((0.0, 1.0), "from and until", least=0, most=1)
    walker: Sampler = option(dm.SAMPLERS["ddim"], "which sampler")
    limit: float | None = option(None, "at most so much", least=0, most=5)
    note: str = option("", "any text")
    maybe: bool | None = option(None, "true, false, or neither")
    secret: str = option("", "a file", file=True)
    of_secret: int = option(1, "only with the file", least=1, most=3, needs={"secret": "a"})


def told_options(task, options):
    """Gives the picture back."""
    yield Step("decode", 1, 1)
    return Outcome(task.x0)


OWN = ("mine", "soft", "renamed")


@pytest.fixture
def registered(monkeypatch):
    """Methods of one's own, known as long as the test runs."""
    monkeypatch.setattr(dm.METHODS, "_methods", dict(dm.METHODS))
    dm.register(dm.Method("mine", told_options, OfEachKind))
    dm.register(dm.Method("soft", dm.diffedit.run, DiffEditOptions, uses=frozenset({"reference"})))
    dm.register(dm.Method("renamed", based_on=dm.diffedit))


class Browser:
    """What a browser would hold of the page: the value of each control, and whether it is seen."""

    def __init__(self, models):
        import gradio as gr

        from diffedit_min.studio.app.layout import Controls
        from diffedit_min.studio.app.page import Answers

        with gr.Blocks():
            self.c = Controls(models, gr.State(Session()), "to any size")
        self.answers = Answers(self.c, models, 10**6)
        parts = [part for part in vars(self.c).values() if isinstance(part, gr.blocks.Block)]
        self.value = {part: getattr(part, "value", None) for part in (*parts, *self.c.options.values(),
                                                                     *self.c.around.values())}
        self.props = {part: {"visible": True} for part in self.value}
        self.tune()

    def take(self, shown):
        for part, new in shown.items():
            if isinstance(new, dict) and new.get("__type__") == "update":
                self.props[part] |= new
                self.value[part] = new.get("value", self.value[part])
            else:
                self.value[part] = new

    def tune(self, **chosen):
        """A method, model or preset is chosen."""
        self.value |= {getattr(self.c, name): value for name, value in chosen.items()}
        self.take(self.answers.choosing.tune(self.value))

    def option(self, name):
        """The control of an option of the method that is chosen."""
        found = [control for (own, _), control in self.c.options.items()
                 if own == name and self.props[control]["visible"]]
        assert len(found) <= 1
        return found[0] if found else None

    def set(self, **options):
        self.value |= {self.option(name): value for name, value in options.items()}

    def get(self, name):
        return self.value[self.option(name)]

    def press(self, kind, query="a basket of pears", reference="a bowl of pears"):
        """To its end: what is said."""
        self.value |= {self.c.query: query, self.c.reference: reference}
        session = self.value[self.c.session]
        session.begin(kind.partition("_")[0])
        answer = self.answers.editing.edit if kind == "edit" else getattr(self.answers.masking, kind)
        for shown in answer(self.value):
            self.take(shown)
        return self.said()

    def said(self):
        """What the page says in words, as text."""
        return html.unescape(re.sub("<[^>]*>", "", f"{self.value[self.c.message]}{self.value[self.c.progress]}"))

    @property
    def session(self):
        return self.value[self.c.session]


@pytest.fixture
def browser(tmp_path, monkeypatch, model, registered):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    browser = Browser(Models(["random"], load=lambda *_, **__: model))
    browser.session.open(scenes.sample(scenes.TEST[1]).render(48))
    return browser


def test_each_kind_of_option_has_its_control_and_arrives(browser):
    browser.tune(method="mine")
    controls = {name: browser.option(name) for name in OfEachKind.__dataclass_fields__}
    looks = {name: type(control).__name__ for name, control in controls.items() if control}
    assert looks == {
        "steps": "Slider", "guidance_scale": "Slider", "negative_prompt": "Textbox", "count": "Slider",
        "many": "Number", "power": "Slider", "far": "Slider", "plain": "Checkbox", "norm": "Dropdown",
        "weights": "Textbox", "window": "Textbox", "walker": "Dropdown", "limit": "Number", "note": "Textbox",
        "maybe": "Dropdown"}
    shows = {name: browser.props[browser.option(name)] for name in looks}
    assert (shows["count"]["minimum"], shows["count"]["maximum"], shows["count"]["step"]) == (1, 9, 1)
    assert (shows["power"]["minimum"], shows["power"]["maximum"], shows["power"]["step"]) == (0.01, 2, 0.01)
    assert (shows["far"]["maximum"], shows["steps"]["maximum"]) == (10, 200)
    assert shows["far"]["label"] == "Far" and shows["far"]["info"] == "an open range with what is usual"
    assert shows["norm"]["choices"] == ["l1", "l2"] and shows["maybe"]["choices"] == ["true", "false", "none"]
    assert shows["walker"]["choices"] == list(dm.SAMPLERS)
    assert {name: browser.get(name) for name in ("weights", "window", "walker", "limit", "maybe")} == {
        "weights": "", "window": "0.0, 1.0", "walker": "ddim", "limit": None, "maybe": "none"}

    browser.press("edit")
    assert browser.session.edit.options == OfEachKind()
    browser.set(count=4, many=11, power=0.25, far=3, plain=True, norm="l2", weights="apples:2, red bowl:0.5",
                window="0.2,0.7", walker="edict:p=0.9", limit=2, note=" a b ", maybe="false", negative_prompt="blur")
    browser.press("edit")
    settings = browser.session.edit.settings
    assert {name: settings[name] for name in looks if name not in ("steps", "guidance_scale")} == {
        "negative_prompt": "blur", "count": 4, "many": 11, "power": 0.25, "far": 3.0, "plain": True, "norm": "l2",
        "weights": {"apples": 2.0, "red bowl": 0.5}, "window": (0.2, 0.7), "walker": "edict:p=0.9", "limit": 2.0,
        "note": " a b ", "maybe": False}
    browser.set(weights="", limit=None, maybe="none", many=12.0)
    browser.press("edit")
    options = browser.session.edit.options
    assert (options.weights, options.limit, options.maybe, options.many) == ({}, None, None, 12)


def test_a_value_that_cannot_be_is_said_in_one_line(browser):
    browser.tune(method="mine")
    for name, value, error in (
        ("weights", "apples", "weights must be words with numbers, for example apples:2,red bowl:0.5, not 'apples'"),
        ("walker", "edikt", "sampler 'edikt' is not known; known are ddim, "),
        ("power", 3, "power must be above 0 and at most 2, not 3"),
        ("many", 2.5, "many must be a whole number, not 2.5"),
        ("many", None, "many is empty: give a whole number"),
        ("limit", 6, "limit must be from 0 to 5, not 6.0"),
    ):
        browser.set(**{name: value})
        said = browser.press("edit")
        assert said.startswith(error) and "\n" not in said and browser.session.edit is None
        browser.tune(method="sdedit")
        browser.tune(method="mine")         # where it doesn't come back
        assert browser.press("edit").startswith("Done: ")
        browser.session.edit = None


def test_a_visitor_chooses_no_file(browser, monkeypatch):
    """Neither as an option of a method, whose controls are not there, nor as one of a sampler of one's own."""
    @dataclass(frozen=True)
    class Recorded(type(dm.SAMPLERS["ddim"])):
        name = "recorded"
        into: str = option("", "a file to write", file=True)

    monkeypatch.setitem(dm.SAMPLERS, "recorded", Recorded())
    for name, of_file in (("unitune", "save"), ("unitune", "tuned"), ("cycle_diffusion", "clip"), ("mine", "secret")):
        browser.tune(method=name)
        assert browser.option(of_file) is None and dm.METHODS[name].known[of_file].file
    browser.tune(method="diffedit")
    browser.set(sampler="recorded:into=/some/file", steps=2, mask_samples=1)
    assert "into names a file" in browser.press("edit")
    browser.set(sampler="recorded:time=source")
    assert browser.press("edit").startswith("Done: ")


def test_another_method_and_back_keeps_what_was_set(browser):
    browser.set(steps=7, mask_threshold=0.3, sampler="edict", mask_norm="l2")
    browser.tune(method="sdedit")
    assert browser.get("steps") == 7 and browser.option("mask_threshold") is None
    assert (browser.get("encoding_ratio"), browser.get("guidance_scale")) == (0.8, 7.5)
    browser.set(encoding_ratio=0.4)
    browser.tune(method="edit_friendly")
    assert (browser.get("steps"), browser.get("encoding_ratio"), browser.get("guidance_scale")) == (7, 0.4, 15.0)
    browser.tune(method="diffedit")
    assert [browser.get(name) for name in ("steps", "mask_threshold", "sampler", "mask_norm", "encoding_ratio")] == [
        7, 0.3, "edict", "l2", 0.4]
    assert browser.get("guidance_scale") == 7.5         # nobody has set edit_friendly's
    browser.tune(preset="fast")                         # says anew what holds
    fast = {"steps": 14, "mask_samples": 4, "sampler": "ddim"}
    assert {name: browser.get(name) for name in fast} == fast
    browser.tune(method="sdedit")
    assert browser.value[browser.c.preset] == "recommended" and browser.get("steps") == 50
    browser.tune(method="diffedit")
    assert browser.value[browser.c.preset] == "fast" and {name: browser.get(name) for name in fast} == fast


def test_only_options_that_matter_are_seen(browser):
    """Those of the sampler that is chosen, as controls of their own; and none without the one that it needs."""
    def seen():
        return {name for (name, _), control in browser.c.options.items() if browser.props[control]["visible"]}

    def choose(**options):
        browser.set(**options)
        browser.take(browser.answers.choosing.narrow(browser.value))

    assert "sampler:ddim:time" in seen() and "sampler:edict:p" not in seen()
    choose(sampler="edict")
    assert "sampler:edict:p" in seen() and "sampler:ddim:time" not in seen()
    looks = browser.props[browser.option("sampler:edict:p")]
    assert (looks["minimum"], looks["maximum"], looks["label"]) == (0.01, 1, "edict: p") and looks["info"]
    browser.set(**{"sampler:edict:p": 0.9, "steps": 2, "mask_samples": 1})
    assert browser.press("edit").startswith("Done: ")
    assert browser.session.edit.settings["sampler"] == "edict:p=0.9"
    browser.set(**{"sampler:edict:p": 7})
    assert browser.press("edit").startswith("sampler:edict:p must be ")
    browser.tune(method="prompt_to_prompt")
    alone = seen()
    choose(local_blend="changed")
    assert seen() > alone and {"blend_threshold"} <= seen() - alone
    choose(local_blend="")
    assert seen() == alone


@pytest.mark.slow
def test_the_controls_can_hold_every_methods_values(browser, model, monkeypatch):
    """Of the paper, of presets and of a card; Gradio would refuse what lies outside."""
    from diffedit_min.studio.app.words import about

    monkeypatch.setitem(model.defaults, "sdedit", {"steps": 300, "guidance_scale": 55.0})     # beyond what is usual
    for method, preset in ((m, preset) for m in dm.METHODS.values() if m.channels == 4 and m.name not in OWN
                           for preset in m.preset_names):
        browser.tune(method=method.name, preset=preset)
        for own in method.known.values():
            control = browser.option(own.name)
            assert control is not None or own.file or own.needs         # which is seen when those are set
            if control is not None and "minimum" in browser.props[control]:
                assert browser.props[control]["minimum"] <= browser.value[control] <= browser.props[control]["maximum"]
        words = {browser.c.seed: 0, browser.c.query: "a", browser.c.reference: "b"}
        asked = browser.answers.choosing.asked(browser.value | words, model)
        assert asked.options == {} and asked.method is method
        assert "arxiv.org/abs/" in about(method) or method.name in ("encode_decode", "invert")


def test_a_query_takes_the_encoding_and_a_threshold_the_map(browser):
    session = browser.session
    browser.set(steps=4, mask_samples=3)
    said = browser.press("find")
    assert said.startswith("Mask: 6 rows, a new map. The mask covers ")
    assert browser.press("find").startswith("Mask: 0 rows, the map is the one that was kept. ")
    assert browser.press("edit").startswith("Done: 9 rows in ") and "with the map that was kept." in browser.said()
    said = browser.press("edit", query="a bucket")
    assert said.startswith("Done: 12 rows in ") and "; with the encoding of an earlier edit. The mask" in said
    browser.set(mask_threshold=0.3)
    browser.take(browser.answers.masking.cut(browser.value))
    assert browser.said().startswith("Threshold: 0 rows, from the map that was kept. The mask ")
    said = browser.press("edit", query="a bucket")
    assert said.startswith("Done: 6 rows in ") and "; with the map that was kept and the encoding of an" in said
    assert session.edit.mask.equal(session.cut(0.3))
    assert browser.press("find").startswith("Mask: 0 rows, the map is the one that was kept. ")     # of the first edit


def test_a_report_before_an_edit_and_a_scene_that_is_none_are_refused(browser):
    """Calls out of order, which only a hand-made request makes."""
    import gradio as gr

    browser.take(browser.answers.results.report(browser.session))
    assert "there is no edit yet to report on" in browser.said()
    for index in (-1, 6, 10**30, "0", None, [0]):
        picked = gr.SelectData(None, {"index": index, "value": None})
        browser.take(browser.answers.opening.take_scene(Session(), "diffedit", picked))
        assert "there is no such scene" in browser.said()
        browser.take(browser.answers.opening.recall(browser.session, picked))
        assert "there is no such result any more" in browser.said()


@pytest.mark.parametrize(("method", "said"), [
    ("invert", "must come back"), ("instruct_pix2pix", "Nothing of the picture"), ("sdedit", "taken towards noise")])
def test_the_steps_say_what_the_method_does(method, said):
    """No query where there is none to give, or an instruction; and no picture in what begins with noise alone."""
    from diffedit_min.studio.app.chain import chain

    shown = chain(dm.METHODS[method], {})
    assert said in shown and ("query" in shown.replace("without a query", "")) == (method == "sdedit")
    assert ("instruction" in shown) == (method == "instruct_pix2pix")


def test_the_result_keeps_the_pictures_colour_profile(browser):
    """Shown and saved it is one file, with its settings."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = scenes.sample(scenes.TEST[1]).render(48)
    picture.info["icc_profile"] = profile
    browser.answers.sessions.open(browser.session, picture)
    browser.set(steps=2, mask_samples=1)
    assert browser.press("edit").startswith("Done: ")
    with Image.open(browser.value[browser.c.save_result]) as result:
        assert result.info["icc_profile"] == profile and "pears" in result.text["diffedit"]


def test_the_pictures_of_all_sessions_are_bounded(browser):
    """By ten of the largest: here, ten of a megapixel."""
    opened = browser.answers.sessions.open
    sessions, half = [Session() for _ in range(30)], Image.new("RGB", (500, 1000))
    for session in sessions:
        opened(session, half.copy())
    assert [session.picture is not None for session in sessions] == [False] * 10 + [True] * 20
    opened(sessions[10], half.copy())        # who begins anew is the last again
    opened(sessions[12], None)
    opened(sessions[0], half.copy())
    opened(sessions[1], half.copy())
    assert [i for i, session in enumerate(sessions) if session.picture is None] == [2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert browser.answers.sessions.bytes() <= 10 * 3 * 10**6


def test_what_was_done_is_found_again_after_a_reload_and_at_a_click(browser):
    c, opening = browser.c, browser.answers.opening
    key = "0123456789abcdef" * 2

    def load(key):
        browser.value |= {c.key: key}
        browser.take(opening.begin(browser.value))
        return browser.session

    session = load(key)
    assert session.scene and browser.value[c.query] == session.words[False] and browser.session.picture
    browser.set(steps=3, mask_samples=1, mask_threshold=0.3)
    assert browser.press("edit", query="a basket of pears").startswith("Done: ")
    first = session.edit
    browser.tune(method="sdedit")
    browser.set(steps=2)
    assert browser.press("edit", query="a bucket").startswith("Done: ")
    assert [result.asked.method.name for result in session.results] == ["sdedit", "diffedit"]

    assert load("f" * 32) is not session and load("") is not session and load("nonsense") is not session
    assert load(key) is session and session.edit.method.name == "sdedit" == browser.value[c.method]
    assert (browser.get("steps"), browser.value[c.query]) == (2, "a bucket")
    browser.take(opening.recall(session, Picked(1)))
    assert session.edit is first and browser.value[c.method] == "diffedit" and "Done: " in browser.said()
    assert (browser.get("steps"), browser.get("mask_threshold")) == (3, 0.3)
    assert browser.value[c.query] == "a basket of pears"
    assert "intersection over union" in browser.value[c.result] and "--seed" not in browser.value[c.as_command]
    assert "steps=3" in browser.value[c.as_command] and "steps=3" in browser.value[c.as_python]
    assert browser.press("edit", query="a basket of pears").startswith("Done: ")        # with what holds now
    assert session.edit.image.tobytes() == first.image.tobytes()
    for seed in range(7):
        browser.value[c.seed] = seed
        browser.press("edit", query="a basket of pears")
    assert [result.asked.seed for result in session.results] == [6, 5, 4, 3, 2, 1]


def test_a_picture_that_will_be_shrunk_is_told_so_before_it_is_edited(browser, tmp_path):
    c, opening = browser.c, browser.answers.opening
    for size, said in (((400, 300), "edited at "), ((32, 32), "A picture of 32 × 32 pixels.</")):
        Image.new("RGB", size, "green").save(tmp_path / "a.png")
        browser.take(opening.open({**browser.value, c.picture: str(tmp_path / "a.png")}))
        assert said in browser.value[c.progress], size


def test_a_result_that_is_shown_again_takes_no_more_of_the_disk(browser, tmp_path):
    c, opening = browser.c, browser.answers.opening
    browser.value |= {c.key: "0123456789abcdef" * 2}
    browser.take(opening.begin(browser.value))
    browser.set(steps=2, mask_samples=1)
    assert browser.press("edit").startswith("Done: ")
    first, before = browser.value[c.save_result], sorted(tmp_path.rglob("*"))
    held = browser.answers.sessions.bytes()
    assert held > len(browser.session.results[0].chain) > 10_000
    for _ in range(3):
        browser.take(opening.begin(browser.value))
        browser.take(opening.recall(browser.session, Picked(0)))
    assert sorted(tmp_path.rglob("*")) == before and browser.value[c.save_result] == first
    shutil.rmtree(first.parent)             # as old files go
    browser.take(opening.recall(browser.session, Picked(0)))
    assert sorted(tmp_path.rglob("*")) == before


class Picked:
    """What Gradio tells of a click in a gallery."""

    def __init__(self, index):
        self.index = index


def test_a_results_settings_hold_when_it_is_dropped(browser, model, tmp_path):
    picture, path = scenes.sample(scenes.TEST[3]).render(48), tmp_path / "earlier.png"
    edit = dm.diffedit(model, picture, "a basket", "a bowl", steps=3, mask_samples=2, sampler="edict:p=0.9", seed=5)
    save(edit.image, path, texts(edit.settings, edit.image.size))

    def drop(path):
        browser.value[browser.c.settings] = path
        browser.take(browser.answers.opening.take_settings(browser.value))
        return browser.said()

    assert drop(str(path)).startswith("The settings of 'earlier.png' hold now.")
    assert (browser.get("sampler"), browser.get("sampler:edict:p"), browser.get("steps")) == ("edict", 0.9, 3)
    assert [browser.value[part] for part in (browser.c.query, browser.c.reference, browser.c.seed)] == [
        "a basket", "a bowl", 5]
    browser.answers.sessions.open(browser.session, picture)
    browser.press("edit", "a basket", "a bowl")
    assert browser.session.edit.image.tobytes() == edit.image.tobytes()
    save(picture, path, {})
    assert drop(str(path)).startswith("'earlier.png' holds no settings of diffedit_min")
    save(edit.image, path, texts({**edit.settings, "sampler": "evil", "query": "x"}, edit.image.size))
    assert "has damaged settings" in drop(str(path)) and browser.value[browser.c.query] == "a basket"
    assert "Traceback" not in browser.said() and str(tmp_path) not in browser.said()


@pytest.mark.parametrize(("words", "expected"), [
    ("a basket of pears on marble", "a basket of pears on marble"), ("A Basket!", "a basket of {fruit} on {surface}"),
    ("put them in a bowl", None), ("a bowl or a bucket", None), ("something", None), ("", None)])
def test_the_true_answer_of_words_of_ones_own(words, expected):
    scene = next(scene for scene in map(scenes.sample, scenes.TEST) if scene.container == "bowl")
    scene = scene.replace(surface="sand", fruit="plums")
    answer = scenes.meant(scene, words)
    expected = expected and expected.format(fruit="plums", surface="sand")
    if words == "a bowl or a bucket":
        expected = "a bucket of plums on sand"
    assert (answer and answer.caption) == expected


def test_a_change_of_how_the_map_is_made_makes_it_again(browser):
    browser.set(steps=4, mask_samples=3)
    browser.press("find")
    browser.set(mask_norm="l2")
    assert browser.press("find_again").startswith("Mask: 6 rows, a new map. ")
    assert browser.session.found.settings["mask_norm"] == "l2"


def seen(browser):
    return {name for name in ("query", "reference", "mask_part", "find", "painting")
            if browser.props[getattr(browser.c, name)]["visible"] is True}


def test_what_a_method_takes_is_seen(browser):
    everything = {"query", "reference", "mask_part", "find", "painting"}
    for method, expected in {"diffedit": everything, "renamed": everything, "sdedit": {"query"}, "mine": {"query"},
                             "invert": {"reference"}, "soft": {"query", "reference", "mask_part"}}.items():
        browser.tune(method=method)
        assert seen(browser) == expected, method
    assert browser.get("mask_threshold") == 0.5         # of soft: it has it, but nothing to draw it on
    browser.take(browser.answers.masking.cut(browser.value))
    browser.tune(method="invert")
    browser.set(steps=5)
    assert browser.press("edit", query="").startswith("Done: 8 rows in ")


def test_a_method_of_ones_own_is_found_painted_and_run(browser, model):
    browser.tune(method="renamed")
    browser.set(steps=4, mask_samples=3)
    assert browser.press("find").startswith("Mask: 6 rows, a new map.")
    found = browser.session.found
    own = torch.full(found.mask.shape, 2)
    own[:2, :2] = 1                 # painted; all other cells are erased
    browser.value[browser.c.canvas] = canvas.text_of(found.mask, found.frame, model.factor, own)
    assert "with your mask." in browser.press("edit")
    edit = browser.session.edit
    assert edit.method.name == "renamed" and edit.mask[:2, :2].all() and edit.settings["steps"] == 4


# ---- around the mask


def around(browser, **values):
    browser.value |= {browser.c.around[name]: value for name, value in values.items()}


def paint(browser, model, side=4):
    """Cells in the upper left corner, and nothing else."""
    _, frame, factor = browser.session.fitted()
    own = torch.full(frame.grid(factor), 2)
    own[1:1 + side, 1:1 + side] = 1
    browser.value[browser.c.canvas] = canvas.text_of(torch.zeros_like(own), frame, factor, own)


@pytest.mark.slow
@pytest.mark.parametrize(("painted", "wanted"), [
    (False, {"mask_grow": 5, "composite": True, "mask_feather": 2}),
    (False, {"mask_grow": -1}),
    (False, {"crop": "4,4,40,36", "mask_grow": 2}),
    (True, {"composite": True, "mask_grow": 3}),
    (True, {"crop": "mask", "composite": True, "mask_feather": 3}),
    (True, {"mask_grow": 4}),
])
def test_the_command_repeats_what_the_page_makes_around_the_mask(browser, model, call_command, painted, wanted):
    picture = scenes.sample(scenes.TEST[1]).render(96)
    picture.save("a.png")
    browser.answers.sessions.open(browser.session, picture)
    browser.session.name = "a.png"
    browser.tune()
    browser.set(steps=4, mask_samples=2, mask_threshold=0.4)
    if painted:
        paint(browser, model)
    around(browser, **wanted)
    rows = browser.press("edit")
    assert rows.startswith("Done: 9 rows" if painted else "Done: 13 rows"), rows
    result, mask = browser.value[browser.c.save_result], browser.value[browser.c.save_mask]
    given = ["--mask", mask] if painted or "crop" in wanted else []
    done = call_command("edit", "a.png", "--like", result, *given, "--out", "again.png", "--dtype", "float64")
    assert done.code == 0, done.err
    with Image.open(result) as made, Image.open("again.png") as again:
        assert made.tobytes() == again.tobytes() and made.tobytes() != picture.tobytes()
        assert made.size == picture.size
        one, other = ({name: value for name, value in read(path).items() if value is not None}
                      for path in (result, "again.png"))
        assert one == other and {name: one[name] for name in wanted} == wanted
    with Image.open(mask) as saved:         # as it lay on the canvas, not grown
        assert painted or saved.tobytes() == browser.session.found.mask_image.tobytes()
    if "composite" in wanted:
        assert made.getpixel((95, 95)) == picture.getpixel((95, 95))


def test_an_empty_mask_is_refused_before_any_row(browser, model):
    """Whatever made it empty."""
    browser.set(steps=4, mask_samples=2)
    calls, hook = [], model.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        paint(browser, model, side=0)
        assert browser.press("edit").startswith("the mask is empty, so nothing would be edited: paint over what is ")
        paint(browser, model)
        around(browser, mask_grow=-40)
        assert browser.press("edit").startswith("--mask-grow -40 leaves nothing white in 'the canvas'")
        around(browser, mask_grow=0, crop="40,40,8,8")
        assert browser.press("edit").startswith("there is nothing white in 'the canvas' within --crop 40,40,8,8")
    finally:
        hook.remove()
    assert not calls


@pytest.mark.parametrize(("wanted", "said"), [
    ({"mask_grow": 2.5}, "mask_grow must be a whole number of pixels, at most 100, not 2.5"),
    ({"mask_feather": 2}, "--mask-feather softens the seam of --composite: add that, or leave it out"),
    ({"mask_feather": 1e9, "composite": True}, "mask_feather must be a whole number of pixels, at most 100, not 1e+09"),
    ({"crop": "1,2,3"}, "--crop must be LEFT,TOP,WIDTH,HEIGHT in pixels, or mask, not '1,2,3'"),
    ({"crop": "0,0,99,9"}, "crop 0,0,99,9 (left, top, width, height) does not lie in the picture, which has 48 x 48"),
])
def test_what_cannot_be_done_around_the_mask_is_said(browser, wanted, said):
    around(browser, **wanted)
    assert browser.press("edit").startswith(said)


def test_an_earlier_result_brings_back_what_was_painted_and_set_around(browser, model):
    browser.set(steps=2, mask_samples=1)
    paint(browser, model)
    around(browser, mask_grow=3, composite=True, crop="mask")
    assert browser.press("edit").startswith("Done: ")
    painted = browser.value[browser.c.canvas]
    browser.value[browser.c.canvas] = ""
    around(browser, mask_grow=0, composite=False, crop="")
    assert browser.press("edit").startswith("Done: ")
    browser.take(browser.answers.opening.again(browser.session, browser.session.results[1]))
    assert browser.value[browser.c.canvas] == f"={painted}"
    assert [browser.value[browser.c.around[name]] for name in ("mask_grow", "composite", "crop")] == [3, True, "mask"]
