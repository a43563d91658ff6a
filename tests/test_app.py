"""Run: python -m pytest tests/test_app.py

The page without a browser: what a session keeps, what is counted and stopped, what is refused, and what is on the page.
"""

import asyncio
from threading import Thread

import pytest
import torch
from PIL import Image

import diffedit_min as dm
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


def test_a_session_keeps_one_copy_of_a_large_picture(model):
    session = Session(Image.new("RGB", (2000, 1500), "red"))
    _, seen = drained(session.run(model, asked(steps=2, mask_samples=1), Run()))
    kept = (session.found, session.edit, *session.encoded)
    assert {id(edit.input) for edit in kept} == {id(session.picture)}
    assert {id(edit.image) for edit in kept} == {id(session.picture), id(session.edit.image)}
    assert session.edit.image.size == (2000, 1500)
    assert {picture.size for _, picture in seen if picture is not None} == {(640, 480)}


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
    from diffedit_min.studio.app import command, page, results

    served = {}

    def launch(made, *arguments, **options):
        served["folder"], served["arguments"], served["options"] = results.new_folder().parent, arguments, options
        return "http://somewhere"

    monkeypatch.setattr(page, "launch", launch)
    monkeypatch.setattr(command, "wait", lambda folder, forget: served.update(waited_for=folder, forget=forget))
    monkeypatch.setattr(gr.Blocks, "close", lambda _: None)
    done = call_command("app", "--model", "random", "--port", "7000", "--allow-host", "my.lab",
                        *(["--host", host] if warned else []))
    assert (done.code, done.out) == (0, "the page is at http://somewhere until Ctrl-C\n")
    assert served["arguments"] == (host, 7000, 20, {"my.lab"})
    assert served["options"] == {"root_path": "", "share": False} and served["waited_for"] == served["folder"]
    assert ("everyone who can reach this machine can use the page" in done.err) is warned
    assert not served["folder"].exists()        # what was uploaded or made is gone


def test_an_idle_server_forgets_sessions_and_deletes_files(monkeypatch, tmp_path):
    from diffedit_min.studio.app import command

    passed, forgotten = iter([None, None, KeyboardInterrupt()]), []

    def sleep(seconds):
        if (end := next(passed)) is not None:
            raise end

    monkeypatch.setattr(command.time, "sleep", sleep)
    command.wait(tmp_path, lambda: forgotten.append(1))
    assert len(forgotten) == 2


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


def test_the_page_forgets_what_was_not_used_for_long(page, monkeypatch):
    from diffedit_min.studio.app import sessions

    held = page.forget.__self__
    session = Session()
    held.open(session, Image.new("RGB", (20, 16)))
    page.forget()
    assert session.picture is not None and held.held
    monkeypatch.setattr(sessions, "KEPT_SECONDS", -1)
    page.forget()
    assert session.picture is None and not held.held


def test_every_control_has_a_label_and_nothing_is_fetched_from_elsewhere(page):
    config = page.get_config_file()
    named = {"image", "gallery", "textbox", "dropdown", "radio", "slider", "number", "imageeditor", "upload"}
    controls = [part for part in config["components"] if part["type"] in named]
    assert len(controls) > 15 and all(part["props"].get("label") for part in controls)
    assert page.analytics_enabled is False
    assert not any("://" in part["props"].get("value", "") for part in config["components"] if part["type"] == "html")


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
    for name, wrong in (("option-steps", "many"), ("method", "save"), ("method", {}),
                        ("model", "/some/model"), ("canvas", {"layers": [{"path": "/etc/hostname"}]}), ("canvas", [1]),
                        ("canvas", "012/6"), ("preset", 3)):
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
