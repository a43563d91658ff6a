"""Run: python -m pytest tests/test_app.py

The page without a browser: what a session keeps, what is counted and stopped, what is refused, and what is on the page.
"""

import asyncio
from dataclasses import dataclass
from threading import Thread

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
from diffedit_min.methods import Asked
from diffedit_min.studio.app import canvas
from diffedit_min.studio.app.session import Run, Session, Stopped
from diffedit_min.tiny import scenes

OPTIONS = {"steps": 4, "mask_samples": 3}
MASK_ROWS, ENCODE_ROWS, DECODE_ROWS = 6, 3, 6       # 2n, k, 2k: n = 3, k = .8 of 4 steps


def drained(steps):
    """What a generator of Progress returns, and what it yielded."""
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as done:
            return done.value, seen


def asked(query="a basket of pears", method="diffedit", **options):
    options = {name: value for name, value in {**OPTIONS, **options}.items() if name in dm.METHODS[method].known}
    return Asked(dm.METHODS[method], query, "a bowl of pears", options=options)


@pytest.fixture
def session():
    return Session(scenes.sample(scenes.TEST[1]).render(48))


@pytest.fixture
def calls(model):
    """How often the U-Net was called, as a list that grows."""
    seen = []
    hook = model.unet.register_forward_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


# ---- what is kept


def test_a_threshold_computes_nothing_and_gives_the_methods_own_mask(model, session, calls):
    drained(session.find(model, asked(), Run()))
    before = len(calls)
    assert before > 0
    masks = {threshold: session.cut(threshold) for threshold in (0.2, 0.35, 0.5)}
    assert len(calls) == before
    assert masks[0.2].sum() > masks[0.35].sum() > masks[0.5].sum() > 0
    for threshold, mask in masks.items():
        edit = dm.diffedit(model, session.picture, "a basket of pears", "a bowl of pears",
                           **OPTIONS, mask_threshold=threshold)
        assert mask.equal(edit.mask)


def test_the_map_is_kept_until_its_words_or_settings_change(model, session):
    def count(wanted):
        run = Run()
        drained(session.find(model, wanted, run))
        return run.rows

    assert count(asked()) == MASK_ROWS
    for same in (asked(), asked(mask_threshold=0.9), asked(encoding_ratio=0.3), asked(guidance_scale=2.0)):
        assert count(same) == 0
    assert count(asked(mask_noise_ratio=0.7)) == MASK_ROWS
    assert count(asked("a bucket")) == MASK_ROWS
    assert count(asked("a bucket", mask_samples=1)) == 2
    session.open(session.picture)
    assert session.cut(0.5) is None and count(asked()) == MASK_ROWS


@pytest.mark.slow
def test_the_encoding_is_kept_across_queries_and_smaller_ratios(model, session):
    def count(wanted):
        run = Run()
        edit, _ = drained(session.run(model, wanted, run))
        return run.rows - edit.rows, edit.rows      # of the mask, of the rest

    assert count(asked()) == (MASK_ROWS, ENCODE_ROWS + DECODE_ROWS)
    assert count(asked()) == (0, DECODE_ROWS)
    assert count(asked("a bucket")) == (MASK_ROWS, DECODE_ROWS)
    assert count(asked("a bucket", encoding_ratio=0.5)) == (0, 4)
    assert count(asked("a bucket")) == (0, DECODE_ROWS)            # the longer one was not given up
    assert count(asked("a bucket", encoding_ratio=1.0)) == (0, 4 + 8)
    assert count(asked("a bucket", sampler="ddim:time=source")) == (0, ENCODE_ROWS + DECODE_ROWS)
    assert count(asked("a bucket")) == (0, DECODE_ROWS)            # nor is it for another sampler's
    assert count(asked("a bucket", "encode_decode")) == (0, DECODE_ROWS)       # which encodes in the same way
    session.open(Image.new("RGB", (48, 48), "red"))
    assert count(asked("a bucket"))[1] == ENCODE_ROWS + DECODE_ROWS


@pytest.mark.slow
def test_a_map_that_is_kept_brings_its_intermediates_for_the_report(model, session):
    first, _ = drained(session.run(model, asked(), Run()))
    for wanted in (asked(mask_threshold=0.2), asked("a bucket"), asked()):
        edit, _ = drained(session.run(model, wanted, Run()))
        assert edit.trace.keys() == first.trace.keys() and len(edit.trace) > 3
    assert edit.trace["eps_query"] is first.trace["eps_query"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["diffedit", "prompt_to_prompt"])
def test_what_is_kept_changes_no_result(model, session, method):
    wanted = Asked(dm.METHODS[method], "a basket of pears", "a bowl of pears", options={"steps": 4})
    first, _ = drained(session.run(model, wanted, Run()))
    again, _ = drained(session.run(model, wanted, Run()))
    plain = dm.METHODS[method](model, session.picture, "a basket of pears", "a bowl of pears", steps=4)
    assert first.image.tobytes() == again.image.tobytes() == plain.image.tobytes()


def test_two_sessions_in_two_threads_count_and_stop_their_own_rows(model, session):
    """The second runs, whole, while the first's U-Net call is in flight; and then the first is stopped."""
    other, first, second = Session(scenes.sample(scenes.TEST[2]).render(48)), Run(), Run()
    started = []

    def meanwhile(*_):
        if not started:
            started.append(1)
            thread = Thread(target=lambda: drained(other.find(model, asked(), second)))
            thread.start()
            thread.join()
            first.stop = True

    hook = model.unet.register_forward_pre_hook(meanwhile)
    try:
        with pytest.raises(Stopped):
            drained(session.find(model, asked(), first))
    finally:
        hook.remove()
    assert (first.rows, second.rows) == (MASK_ROWS, MASK_ROWS)
    assert session.found is None and other.cut(0.5) is not None


# ---- rows, steps and stopping


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in dm.METHODS.values() if m.channels == 4], ids=repr)
def test_the_rows_that_are_counted_are_the_edits(model, session, method):
    options = {"tuning_steps": 2} if method.name == "unitune" else {}
    run = Run()
    edit, _ = drained(session.run(model, Asked(method, "pears", "apples", options={"steps": 3, **options}), run))
    of_map = session.found.rows if session.found else 0
    assert run.rows == edit.rows + of_map > 0 and bool(of_map) is (method.name == "diffedit")


@pytest.mark.slow
def test_steps_come_with_pictures_of_the_pictures_size(model):
    session = Session(scenes.sample(scenes.TEST[1]).render(48).crop((0, 0, 45, 37)))
    edit, seen = drained(session.run(model, asked(steps=20), Run()))
    assert [(s.stage, s.index, s.total) for s, _ in seen] == [
        ("mask", 1, 1), ("mask", 1, 1), *(("encode", i, 16) for i in range(1, 17)),
        *(("decode", i, 16) for i in range(1, 17))]
    pictures = [picture for _, picture in seen if picture is not None]
    assert 8 <= len(pictures) <= 14 and {p.size for p in pictures} == {(45, 37)}
    assert pictures[0].tobytes() != pictures[-1].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 3, 6])
def test_stopping_ends_after_the_call_in_flight(model, session, at, calls):
    """It is asked for while the U-Net runs; in mask, encoding or decoding."""
    run = Run()
    session.runs["edit"] = run
    hook = model.unet.register_forward_pre_hook(lambda *_: session.stop() if len(calls) == at - 1 else None)
    try:
        with pytest.raises(Stopped):
            drained(session.run(model, asked(), run))
    finally:
        hook.remove()
    assert len(calls) == at and session.edit is None
    edit, _ = drained(session.run(model, asked(), Run()))       # and the network is free again
    assert edit.image.tobytes() == dm.diffedit(model, session.picture, "a basket of pears", "a bowl of pears",
                                               **OPTIONS).image.tobytes()


def test_stopping_reaches_a_network_that_is_tuned(model, session):
    run = Run()
    steps = session.run(model, Asked(dm.METHODS["unitune"], "pears", options={"steps": 3, "tuning_steps": 50}), run)
    next(steps)
    run.stop = True
    with pytest.raises(Stopped):
        next(steps)
    assert not model.unet._forward_hooks


def test_a_new_picture_stops_what_runs_for_the_old_one(model, session):
    session.begin("edit")
    steps = session.run(model, asked(), session.runs["edit"])
    next(steps)
    session.open(Image.new("RGB", (48, 48)))
    with pytest.raises(Stopped):
        drained(steps)
    assert session.edit is None and session.found is None


def test_a_later_run_of_a_kind_stops_the_earlier_one_only():
    session = Session()
    session.begin("find")
    session.begin("edit")
    find, edit = session.runs["find"], session.runs["edit"]
    session.begin("find")
    assert find.stop and not edit.stop and not session.runs["find"].stop
    session.end(find)       # the earlier one: the later one goes on
    assert set(session.runs) == {"find", "edit"}
    session.end(edit)
    assert set(session.runs) == {"find"}


# ---- the canvas


def painted(session, model, found, cells=2):
    """What the canvas holds after the first `cells` x `cells` were painted, and all others erased."""
    own = torch.full(found.shape, 2)
    own[:cells, :cells] = 1
    return canvas.text_of(found, session.frame(model), model.factor, own)


def test_what_is_painted_and_erased_is_the_mask(model, session):
    drained(session.find(model, asked(), Run()))
    found = session.cut(0.5)
    as_found = canvas.text_of(found, session.frame(model), model.factor)
    assert session.painted(as_found, model) is None
    with pytest.raises(ValueError, match="the mask is empty, so nothing would be edited: paint over what is to be "
                                         'edited, or press "Back to the found mask"'):
        session.painted(painted(session, model, found, cells=0), model)
    mask = session.painted(painted(session, model, found), model)
    assert mask[:2, :2].all() and mask.sum() == 4
    edit, _ = drained(session.run(model, asked(), Run(), mask))
    assert edit.mask.equal(mask) and edit.settings["given"] == ["mask"]


def test_a_picture_can_be_painted_on_before_there_is_a_map(model, session):
    assert session.painted("", model) is None
    run, nothing = Run(), torch.zeros(session.frame(model).grid(model.factor), dtype=torch.bool)
    edit, _ = drained(session.run(model, asked(), run, session.painted(painted(session, model, nothing), model)))
    assert run.rows == ENCODE_ROWS + DECODE_ROWS and edit.mask[:2, :2].all()


# ---- what is refused


def test_an_upload_of_too_many_pixels_is_refused_unread(tmp_path, monkeypatch):
    Image.new("1", (1001, 1000)).save(tmp_path / "large.png")
    assert canvas.open_upload(tmp_path / "large.png", 1_001_000).size == (1001, 1000)
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("read"))
    with pytest.raises(ValueError, match=r"'large.png' has 1001 x 1000 pixels, more than the 1 million that this page"):
        canvas.open_upload(tmp_path / "large.png", 10**6)


def test_no_picture_and_no_query(model, session):
    with pytest.raises(ValueError, match="there is no picture yet: upload one, or take one of the scenes"):
        drained(Session().run(model, asked(), Run()))
    with pytest.raises(ValueError, match="the query is empty: say what the edited picture should show"):
        drained(session.find(model, asked("  "), Run()))


# ---- the command, and the page as it is put together


@pytest.mark.parametrize(("arguments", "error"), [
    (["--max-megapixels", "0"], "--max-megapixels must be above 0, not 0"),
    (["--max-megabytes", "-1"], "--max-megabytes must be above 0, not -1"),
    (["--model", "random", "nothing"], "'nothing'"),
    (["--root-path", "edit"], "--root-path must start with / or https://, not be 'edit'"),
])
def test_the_command_refuses(call_command, arguments, error):
    pytest.importorskip("gradio")
    done = call_command("app", *arguments)
    assert done.code == 1 and done.out == "" and done.err.startswith("error: ") and error in done.err
    assert done.err.count("\n") == 1


def test_without_gradio_the_command_says_what_to_install(call_command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = call_command("app")
    assert (done.code, done.err) == (1, 'error: the page needs gradio: pip install "diffedit-min[app]"\n')


@pytest.mark.slow
@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_the_command_says_where_the_page_is_and_who_can_use_it(call_command, monkeypatch, host, warned):
    gr = pytest.importorskip("gradio")
    from diffedit_min.studio.app import command, page

    served = {}

    def launch(made, *arguments, **options):
        served["folder"], served["arguments"], served["options"] = page.new_folder().parent, arguments, options
        return "http://somewhere"

    monkeypatch.setattr(page, "launch", launch)
    monkeypatch.setattr(command, "wait", lambda folder: served.update(waited_for=folder))
    monkeypatch.setattr(gr.Blocks, "close", lambda _: None)
    done = call_command("app", "--model", "random", "--port", "7000", "--allow-host", "my.lab",
                        *(["--host", host] if warned else []))
    assert (done.code, done.out) == (0, "the page is at http://somewhere until Ctrl-C\n")
    assert served["arguments"] == (host, 7000, 20, {"my.lab"})
    assert served["options"] == {"root_path": "", "share": False} and served["waited_for"] == served["folder"]
    assert ("everyone who can reach this machine can use the page" in done.err) is warned
    assert not served["folder"].exists()        # what was uploaded or made is gone


def test_a_port_that_is_taken_is_said(monkeypatch):
    pytest.importorskip("gradio")
    from diffedit_min.studio.app.page import launch

    class Taken:
        def launch(self, **_):
            raise OSError("Cannot find empty port in range: 80-80")

    with pytest.raises(ValueError, match="can't listen at 127.0.0.1, port 80: Cannot find empty port"):
        launch(Taken(), "127.0.0.1", 80, 20)


@pytest.fixture
def page(tmp_path, monkeypatch, model):
    """The page, not served: its config, which the browser would get."""
    pytest.importorskip("gradio")
    from diffedit_min.studio.app.page import make_page

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return make_page(Models(["random"], load=lambda *_, **__: model), 20, 40)


def test_every_control_has_a_label_and_nothing_is_fetched_from_elsewhere(page):
    config = page.get_config_file()
    named = {"image", "gallery", "textbox", "dropdown", "radio", "slider", "number", "imageeditor", "upload"}
    controls = [part for part in config["components"] if part["type"] in named]
    assert len(controls) > 15 and all(part["props"].get("label") for part in controls)
    assert page.analytics_enabled is False
    assert not any(part["props"].get("value", "") for part in config["components"] if part["type"] == "html")


@pytest.mark.parametrize("address", ["https://example.org/a.png", "http://127.0.0.1/a.png", "file:///etc/hostname"])
def test_no_control_fetches_an_address(page, address):
    """Whatever kind of control it is: Gradio would fetch it for any of them. (Sockets are blocked here.)"""
    file, count = {"path": address, "meta": {"_type": "gradio.FileData"}}, 0
    for event in page.fns.values():
        for place in range(len(event.inputs)):
            for sent in (file, {"layers": [{"path": "a.png"}, file]}):
                inputs = [sent if place == i else None for i in range(len(event.inputs))]
                assert refused(page, event, inputs) == "give a picture&#x27;s file, not its address"
                count += 1
    assert count > 300


def refused(page, event, inputs):
    """What is said of data that a browser sends for an event; without a traceback on the server's side."""
    import gradio as gr

    with pytest.raises(gr.Error) as error:
        asyncio.run(page.preprocess_data(event, inputs, None))
    assert error.value.print_exception is False
    return error.value.message


def test_data_that_no_browser_sends_is_refused_in_a_line(page):
    finding = next(event for event in page.fns.values() if event.name == "find")
    fitting = [getattr(block, "value", None) for block in finding.inputs]
    names = [getattr(block, "elem_id", None) for block in finding.inputs]
    assert "didn&#x27;t receive enough input values" in refused(page, finding, fitting[:-1])
    for name, wrong in (("option-steps", "many"), ("option-steps", 10**9), ("method", "save"), ("method", {}),
                        ("model", "/some/model"), ("canvas", {"layers": [{"path": "/etc/hostname"}]}), ("canvas", [1]),
                        ("canvas", "012/6"), ("preset", 3), ("seed", -1), ("seed", "x")):
        sent = [wrong if name == own else value for own, value in zip(names, fitting, strict=True)]
        assert "\n" not in refused(page, finding, sent)


def test_a_direct_call_does_not_pass_the_line(page):
    """Else it would compute beside the one computation that runs at a time."""
    assert page.api_open is False


def test_answers_that_use_a_model_run_one_at_a_time_and_the_threshold_does_not_wait(page):
    limits = {}
    for event in page.fns.values():
        limits.setdefault(event.name, set()).add((event.concurrency_id, event.concurrency_limit, event.queue))
    for name in ("find", "find_again", "edit", "report", "tune"):
        assert limits[name] == {("model", 1, True)}, name
    assert all(limit is None for _, limit, _ in limits["cut"]) and all(not queue for *_, queue in limits["cancel"])


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

        from diffedit_min.studio.app.controls import Kept
        from diffedit_min.studio.app.layout import Controls
        from diffedit_min.studio.app.page import Answers

        with gr.Blocks():
            self.c = Controls(models, gr.State(Session()), gr.State(Kept()), "to any size")
        self.answers = Answers(self.c, models, 10**6)
        parts = [part for part in vars(self.c).values() if isinstance(part, gr.blocks.Block)]
        self.value = {part: getattr(part, "value", None) for part in (*parts, *self.c.options.values())}
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
        self.take(self.answers.tune(self.value))

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
        """To its end: what the progress line says."""
        self.value |= {self.c.query: query, self.c.reference: reference}
        session = self.value[self.c.session]
        session.begin(kind)
        for shown in getattr(self.answers, kind)(self.value):
            self.take(shown)
        return self.value[self.c.progress]


@pytest.fixture
def browser(tmp_path, monkeypatch, model, registered):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    browser = Browser(Models(["random"], load=lambda *_, **__: model))
    browser.value[browser.c.session].open(scenes.sample(scenes.TEST[1]).render(48))
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
    assert shows["walker"]["choices"] == list(dm.SAMPLERS) and shows["walker"]["allow_custom_value"]
    assert {name: browser.get(name) for name in ("weights", "window", "walker", "limit", "maybe")} == {
        "weights": "", "window": "0.0, 1.0", "walker": "ddim", "limit": None, "maybe": "none"}

    browser.press("edit")
    assert browser.value[browser.c.session].edit.options == OfEachKind()
    browser.set(count=4, many=11, power=0.25, far=3, plain=True, norm="l2", weights="apples:2, red bowl:0.5",
                window="0.2,0.7", walker="edict:p=0.9", limit=2, note=" a b ", maybe="false", negative_prompt="blur")
    browser.press("edit")
    settings = browser.value[browser.c.session].edit.settings
    assert {name: settings[name] for name in looks if name not in ("steps", "guidance_scale")} == {
        "negative_prompt": "blur", "count": 4, "many": 11, "power": 0.25, "far": 3.0, "plain": True, "norm": "l2",
        "weights": {"apples": 2.0, "red bowl": 0.5}, "window": (0.2, 0.7), "walker": "edict:p=0.9", "limit": 2.0,
        "note": " a b ", "maybe": False}
    browser.set(weights="", limit=None, maybe="none", many=12.0)
    browser.press("edit")
    options = browser.value[browser.c.session].edit.options
    assert (options.weights, options.limit, options.maybe, options.many) == ({}, None, None, 12)


def test_a_value_that_cannot_be_is_said_in_one_line(browser):
    import gradio as gr

    browser.tune(method="mine")
    for name, value, error in (
        ("weights", "apples", "weights must be words with numbers, for example apples:2,red bowl:0.5, not 'apples'"),
        ("walker", "edikt", "sampler 'edikt' is not known; known are ddim, "),
        ("many", 2.5, "many must be a whole number, not 2.5"),
        ("many", None, "many is empty: give a whole number"),
        ("limit", 6, "limit must be from 0 to 5, not 6.0"),
    ):
        browser.set(**{name: value})
        with pytest.raises(gr.Error):
            browser.press("edit")
        said = browser.value[browser.c.progress]
        assert said.startswith(f"Error: {error}") and "\n" not in said
        browser.tune(method="sdedit")
        browser.tune(method="mine")         # where it doesn't come back
        browser.press("edit")


def test_a_visitor_chooses_no_file(browser, monkeypatch):
    """Neither as an option of a method, whose controls are not there, nor as one of a sampler of one's own."""
    import gradio as gr

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
    with pytest.raises(gr.Error, match="into names a file"):
        browser.press("edit")
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
    assert [browser.get(name) for name in ("steps", "mask_samples", "sampler")] == [14, 4, "ddim"]
    browser.tune(method="sdedit")
    assert browser.value[browser.c.preset] == "recommended" and browser.get("steps") == 50
    browser.tune()                                      # as the browser tells that the preset is another now
    browser.tune(method="diffedit")
    assert browser.get("steps") == 50


@pytest.mark.slow
def test_the_controls_can_hold_every_methods_values(browser, model, monkeypatch):
    """Of the paper, of presets and of a card; Gradio would refuse what lies outside."""
    from diffedit_min.studio.app.words import about

    monkeypatch.setitem(model.defaults, "sdedit", {"steps": 300, "guidance_scale": 55.0})     # beyond what is usual
    for method, preset in ((m, preset) for m in dm.METHODS.values() if m.channels == 4 and m.name not in OWN
                           for preset in ("recommended", *m.presets)):
        browser.tune(method=method.name, preset=preset)
        for own in method.known.values():
            control = browser.option(own.name)
            assert (control is None) is (own.file or own.name == "trials")
            if control is not None and "minimum" in browser.props[control]:
                assert browser.props[control]["minimum"] <= browser.value[control] <= browser.props[control]["maximum"]
        words = {browser.c.seed: 0, browser.c.query: "a", browser.c.reference: "b"}
        asked = browser.answers.asked(browser.value | words, model)
        assert asked.options == {} and asked.method is method
        assert "arxiv.org/abs/" in about(method) or method.name in ("encode_decode", "invert")


def test_a_query_takes_the_encoding_and_a_threshold_the_map(browser):
    session = browser.value[browser.c.session]
    browser.set(steps=4, mask_samples=3)
    said = browser.press("find")
    assert said.startswith("Mask: 6 rows, a new map. The mask covers ")
    assert browser.press("find").startswith("Mask: 0 rows, the map is the one that was kept. ")
    assert browser.press("edit").startswith("Done: 9 rows in ") and "with the map that was kept." in browser.value[
        browser.c.progress]
    said = browser.press("edit", query="a bucket")
    assert said.startswith("Done: 12 rows in ") and "; with the encoding of an earlier edit. The mask" in said
    browser.set(mask_threshold=0.3)
    browser.take(browser.answers.cut(browser.value))
    assert browser.value[browser.c.progress].startswith("Threshold: 0 rows, from the map that was kept. The mask ")
    said = browser.press("edit", query="a bucket")
    assert said.startswith("Done: 6 rows in ") and "; with the map that was kept and the encoding of an" in said
    assert session.edit.mask.equal(session.cut(0.3))
    assert browser.press("find").startswith("Mask: 0 rows, the map is the one that was kept. ")     # of the first edit


def test_a_report_before_an_edit_and_a_scene_that_is_none_are_refused(browser):
    """Calls out of order, which only a hand-made request makes."""
    import gradio as gr

    with pytest.raises(gr.Error, match="there is no edit yet to report on"):
        browser.answers.report(Session())
    for index in (-1, 6, 10**30, "0", None, [0]):
        with pytest.raises(gr.Error, match="there is no such scene"):
            browser.answers.take_scene(Session(), gr.SelectData(None, {"index": index, "value": None}))


def test_the_result_keeps_the_pictures_colour_profile(browser):
    """Shown and saved it is one file, with its settings."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = scenes.sample(scenes.TEST[1]).render(48)
    picture.info["icc_profile"] = profile
    browser.answers.show(browser.value[browser.c.session], picture)
    browser.set(steps=2, mask_samples=1)
    assert browser.press("edit").startswith("Done: ")
    assert browser.value[browser.c.result] == browser.value[browser.c.save_result]
    with Image.open(browser.value[browser.c.result]) as result:
        assert result.info["icc_profile"] == profile and "pears" in result.text["diffedit"]


def test_the_pictures_of_all_sessions_are_bounded(browser):
    """By ten of the largest: here, ten of a megapixel."""
    sessions, half = [Session() for _ in range(30)], Image.new("RGB", (500, 1000))
    for session in sessions:
        browser.answers.show(session, half)
    assert [session.picture is half for session in sessions] == [False] * 10 + [True] * 20
    browser.answers.show(sessions[10], half)        # who begins anew is the last again
    browser.answers.show(sessions[12], None)
    browser.answers.show(sessions[0], half)
    browser.answers.show(sessions[1], half)
    assert [i for i, session in enumerate(sessions) if session.picture is None] == [2, 3, 4, 5, 6, 7, 8, 9, 11, 12]


def test_a_session_keeps_one_copy_of_a_large_picture(model):
    session = Session(Image.new("RGB", (2000, 1500), "red"))
    _, seen = drained(session.run(model, asked(steps=2, mask_samples=1), Run()))
    kept = (session.found, session.edit, *session.encoded)
    assert {id(edit.input) for edit in kept} == {id(session.picture)}
    assert {id(edit.image) for edit in kept} == {id(session.picture), id(session.edit.image)}
    assert session.edit.image.size == (2000, 1500)
    assert {picture.size for _, picture in seen if picture is not None} == {(640, 480)}


def test_a_change_of_how_the_map_is_made_makes_it_again(browser):
    browser.set(steps=4, mask_samples=3)
    browser.press("find")
    browser.set(mask_norm="l2")
    session = browser.value[browser.c.session]
    session.begin("find")
    for shown in browser.answers.find_again(browser.value):
        browser.take(shown)
    assert browser.value[browser.c.progress].startswith("Mask: 6 rows, a new map. ")
    assert session.found.settings["mask_norm"] == "l2"


def seen(browser):
    return {name for name in ("query", "reference", "mask_part", "find", "painting", "map_part")
            if browser.props[getattr(browser.c, name)]["visible"] is True}


def test_what_a_method_takes_is_seen(browser):
    everything = {"query", "reference", "mask_part", "find", "painting", "map_part"}
    for method, expected in {"diffedit": everything, "renamed": everything, "sdedit": {"query"}, "mine": {"query"},
                             "invert": {"reference"}, "soft": {"query", "reference", "mask_part"}}.items():
        browser.tune(method=method)
        assert seen(browser) == expected, method
    assert browser.get("mask_threshold") == 0.5         # of soft: it has it, but nothing to draw it on
    browser.take(browser.answers.cut(browser.value))
    browser.tune(method="invert")
    browser.set(steps=5)
    assert browser.press("edit", query="").startswith("Done: 8 rows in ")


def test_a_method_of_ones_own_is_found_painted_and_run(browser, model):
    browser.tune(method="renamed")
    browser.set(steps=4, mask_samples=3)
    assert browser.press("find").startswith("Mask: 6 rows, a new map.")
    session = browser.value[browser.c.session]
    browser.value[browser.c.canvas] = painted(session, model, session.found.mask)
    assert "with your mask." in browser.press("edit")
    edit = browser.value[browser.c.session].edit
    assert edit.method.name == "renamed" and edit.mask[:2, :2].all() and edit.settings["steps"] == 4
