"""Run: python -m pytest tests/test_app_browser.py

The page in a real browser, headless: skips without gradio, Playwright, or Debian's Chromium. The server runs in this
process, so that its network's calls can be counted and slowed down.
"""

import io
import json
import re
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min.core.coding import RatioOptions
from diffedit_min.core.options import option
from diffedit_min.core.state import Sampler
from diffedit_min.loading.held import Models
from diffedit_min.studio.app.session import Session
from diffedit_min.studio.app.words import about
from diffedit_min.tiny import scenes

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.enable_socket, pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

PATIENCE = 25_000       # ms


class Network:
    """What the tests see of the model that the page uses."""

    def __init__(self, model):
        self.model, self.calls, self.pause, self.pause_when_stopped = model, 0, 0.0, 0.0
        model.unet.register_forward_hook(self.called)

    def called(self, *_):
        self.calls += 1
        since = time.monotonic()
        while time.monotonic() < since + self.pause:        # which may change meanwhile
            time.sleep(0.005)

    def stopping(self, stop):
        """`Session.stop`, which changes the pause when all runs are stopped."""
        def stops(session, *kinds):
            stop(session, *kinds)
            self.pause = self.pause if kinds else self.pause_when_stopped

        return stops


@pytest.fixture(scope="module")
def network():
    return Network(dm.load("random", device="cpu"))


@dataclass(frozen=True)
class OwnOptions(RatioOptions):
    """Options of each kind."""

    guidance_scale: float = option(2.0, "how strong", least=0, most=4)
    count: int = option(3, "how many", least=0)
    plain: bool = option(False, "as it was")
    norm: str = option("l1", "which norm", choices=("l1", "l2"))
    weights: dict = option({}, "factors by words")
    window: tuple = option((0.0, 1.0), "from and until", least=0, most=1)
    walker: Sampler = option(dm.SAMPLERS["ddim"], "which sampler")
    limit: float | None = option(None, "at most so much", least=0, most=5)


@pytest.fixture(scope="module")
def address(network, tmp_path_factory):
    """Of the page, served; it offers a random model and the two embedded ones."""
    from diffedit_min.studio.app.page import launch, make_page

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setattr(Session, "stop", network.stopping(Session.stop))
        patch.setattr(dm.METHODS, "_methods", dict(dm.METHODS))
        dm.register(dm.Method("mine", dm.sdedit.run, OwnOptions))
        models = Models(["random", "tiny", "tiny-instruct"], load=lambda name, **options: network.model
                        if name == "random" else dm.load(name, **options))
        page = make_page(models, megabytes=1, megapixels=40)
        yield launch(page, "127.0.0.1", None, megabytes=1)
        page.close()


@pytest.fixture(scope="module")
def browser(address):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Person:
    """One who has the page open."""

    def __init__(self, browser, address, width=1280, height=900, **context):
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True,
                                           permissions=["clipboard-read", "clipboard-write"], **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.requests, self.faults = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.goto(address)
        self.see("#about", "arXiv:2210.11427")      # the controls are set

    def see(self, where, text):
        """Wait until it is there."""
        playwright.expect(self.page.locator(where)).to_contain_text(text, timeout=PATIENCE)

    def progress(self, pattern):
        """Wait until the progress line is so; the line."""
        line = self.page.locator("#progress .said")
        playwright.expect(line).to_have_text(re.compile(pattern), timeout=PATIENCE)
        return line.inner_text().strip()

    def problem(self, text):
        """Wait until it is said in the one place for what is wrong; no passing message covers anything."""
        playwright.expect(self.page.locator("#message [role=alert]")).to_contain_text(text, timeout=PATIENCE)
        assert not self.page.locator(".toast-body").count() and "Traceback" not in self.page.content()

    def upload(self, name, content, where="#picture"):
        self.page.set_input_files(f"{where} input[type=file]", {"name": name, "mimeType": "image/png",
                                                                "buffer": content})

    def write(self, where, text):
        self.page.locator(where).locator("input[type=number], textarea").first.fill(str(text))

    def press(self, where):
        self.page.click(where)

    def choose(self, where, name):
        self.press(f"{where} input")
        self.page.get_by_role("option", name=name, exact=True).click()

    def holds(self, where, value):
        """Wait until it does."""
        field = self.page.locator(where).locator("input[type=number], textarea, input:not([type])").first
        playwright.expect(field).to_have_value(value, timeout=PATIENCE)

    def seen(self, *where, visible=True):
        for each in where:
            playwright.expect(self.page.locator(each)).to_be_visible(visible=visible, timeout=PATIENCE)

    def download(self, where):
        with self.page.expect_download() as download:
            self.press(where)
        with open(download.value.path(), "rb") as file:
            return file.read()

    def images(self, where):
        """How many pictures are there, each of which the browser could draw."""
        return self.page.locator(f"{where} img").evaluate_all("all => all.filter(one => one.naturalWidth > 1).length")


@pytest.fixture
def person(browser, address):
    with visitor(browser, address) as person:
        yield person


@contextmanager
def visitor(browser, address, **size):
    """Someone with the page open, who at the end has seen no script fail and no request go elsewhere."""
    person = Person(browser, address, **size)
    yield person
    person.context.close()
    assert not person.faults
    elsewhere = [url for url in person.requests if not url.startswith((address.partition("?")[0], "data:", "blob:"))]
    assert person.requests and not elsewhere


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def settings_in(content):
    return json.loads(Image.open(io.BytesIO(content)).text["diffedit"])


def scene(seed=1):
    return scenes.sample(scenes.TEST[seed]).render(64).crop((0, 0, 60, 52))


def prepared(person, seed=1, steps=4):
    """A picture and words."""
    person.upload("a.png", png(scene(seed)))
    person.progress("A picture of 60 × 52 pixels")
    person.write("#query", "a basket of pears")
    person.write("#reference", "a bowl of apples")
    person.write("#option-mask_samples", 2)
    person.write("#option-steps", steps)


def test_one_click_makes_an_edit_and_everything_about_it_is_there(person, network):
    """From nothing: result, steps, figures, report, what repeats it, another result, the first again; and a reload."""
    page = person.page
    asked = page.input_value("#query textarea")
    assert asked == scenes.demo_scenes(0, None)[1].caption and person.images("#chain") == 1
    assert page.locator("#chain li").count() == 6
    assert page.locator("#result figcaption").all_inner_texts() == ["input", "not edited yet"]
    strip = page.locator("#scenes .grid-wrap")      # all scenes are in sight
    assert page.locator("#scenes img").count() == 6 and strip.evaluate("it => it.scrollWidth <= it.clientWidth")
    person.press("#edit")
    person.progress("^Done: 140 rows in ")
    assert person.images("#chain") == 7 and person.images("#result .wipe") == 2 and person.images(".truth") == 1
    person.see(".truth", "intersection over union with the region that truly changes")
    assert page.locator("#result figcaption").all_inner_texts() == ["input", "result", "true answer"]
    page.locator("#result .wipe input").focus()
    before = page.locator("#result").screenshot()
    page.keyboard.press("Home")
    assert page.locator("#result").screenshot() != before

    with person.context.expect_page() as opened:
        person.press("#open-report")
    playwright.expect(opened.value.locator("h1")).to_be_visible(timeout=PATIENCE)
    assert asked in opened.value.inner_text("body") and opened.value.url.startswith("blob:")
    opened.value.close()
    person.press("#copy-command")
    person.see("#message", "Copied.")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("diffedit-min edit scene-0.png --query") and "--model random" in command
    person.press("#repeat button")                  # the command's picture, which is no file yet
    drawn = pixels(person.download("#save-input"))
    assert (drawn == np.asarray(scenes.demo_scenes(0, None)[0].render(32))).all()
    first = person.download("#save-result")

    person.write("#query", "a basket of {{7*7}} ${1+1} <b>x</b>")
    person.write("#option-steps", 3)
    person.press("#edit")
    person.progress("^Done: [^1]")
    assert page.locator("#last img").count() == 2
    page.reload()
    person.progress("^Done: ")
    assert person.images("#result .wipe") == 2 and page.locator("#last img").count() == 2
    person.holds("#query", "a basket of {{7*7}} ${1+1} <b>x</b>")
    person.holds("#option-steps", "3")
    page.locator("#last button").nth(1).click()
    person.holds("#query", asked)
    person.holds("#option-steps", "50")
    assert person.download("#save-result") == first

    person.write("#option-steps", 2)                # a result's settings hold again when it is dropped
    page.set_input_files("#settings input[type=file]", {"name": "r.png", "mimeType": "image/png", "buffer": first})
    person.see("#message", "The settings of 'r.png' hold now.")
    person.holds("#option-steps", "50")


def test_a_run_shows_how_far_it_is_and_ends_when_it_is_told_to(person, network):
    prepared(person)
    person.press("#find")
    found = person.progress("^Mask: 4 rows, a new map. The mask covers ")
    calls = network.calls
    person.page.locator("#option-mask_threshold input[type=range]").focus()        # by keyboard
    for _ in range(12):
        person.page.keyboard.press("ArrowLeft")
    person.holds("#option-mask_threshold", "0.38")
    cut = person.progress("^Threshold: 0 rows, from the map that was kept. The mask covers ")
    assert cut.split("covers")[1] != found.split("covers")[1] and network.calls == calls
    person.write("#option-mask_noise_ratio", 0.9)
    person.progress("^Mask: 4 rows, a new map")

    person.write("#option-steps", 200)
    for then in (0.2, 0.0):     # from then on: a run may end later or earlier than the answer to Cancel arrives
        network.pause, network.pause_when_stopped = 0.2, then
        person.press("#edit")
        line = person.progress(r"^(encoding|decoding): step \d+ of 160; \d+ of 484 rows; about .* left")
        assert 0 < float(person.page.get_attribute("#progress progress", "value")) < 484, line
        person.press("#cancel")
        person.progress("^Cancelled, with ")
        calls = network.calls
        person.page.wait_for_timeout(500)
        line = person.progress("^Cancelled, with ")
        assert network.calls == calls and int(line.split()[2]) < 200
    network.pause = 0.0
    person.press("#cancel")
    person.progress("^Nothing is running.$")

    person.write("#option-steps", 4)
    person.press("#edit")
    assert "with the map that was kept and the encoding" not in person.progress("^Done: ")
    settings = settings_in(person.download("#save-result"))
    assert (settings["given"], settings["steps"], settings["query"]) == ([], 4, "a basket of pears")


def test_two_people_at_once_get_each_their_own(browser, address, network):
    with visitor(browser, address) as one, visitor(browser, address) as two:
        for person, seed in ((one, 1), (two, 2)):
            prepared(person, seed, steps=12)
        network.pause = 0.05
        one.press("#edit")
        two.press("#edit")
        for person, seed in ((one, 1), (two, 2)):
            person.progress("^Done: 34 rows")
            network.pause = 0.0
            alone = dm.diffedit(network.model, scene(seed), "a basket of pears", "a bowl of apples", steps=12,
                                mask_samples=2)
            assert (pixels(person.download("#save-result")) == np.asarray(alone.image)).all()


def test_what_cannot_be_used_is_said_and_stays(person, network, capfd):
    calls = network.calls
    person.upload("text.png", b"no picture")
    person.problem("'text.png' is not a picture that can be read here (PNG, JPEG, ")
    person.press("#edit")
    person.problem("there is no picture yet: upload one, or take one of the scenes")
    person.upload("large.png", png(Image.new("1", (8000, 5001))))
    person.problem("'large.png' has 8000 x 5001 pixels, more than the 40 million that this page takes")
    person.upload("heavy.png", png(scene()) + bytes(1_100_000))
    person.problem("heavy.png has 1.1 MB, more than the 1 MB that this page takes: make the picture smaller first.")
    prepared(person)
    for where, value, said in (("#query", "  ", "the query is empty: say what the edited picture should show"),
                               ("#seed", 1.5, "seed must be a whole number, not 1.5"),
                               ("#seed", "", "the seed is empty: give a whole number")):
        right = {"#query": "pears", "#seed": 0}
        person.write(where, value)
        person.press("#edit")
        person.problem(said)
        person.write(where, right[where])
    assert network.calls == calls
    person.write("#query", "pears " * 300)      # too long a prompt: it is edited, and said once
    person.press("#edit")
    person.progress("^Done: ")
    warned = person.page.locator("#message li").all_inner_texts()
    assert len(warned) == 1 and len(warned[0]) < 400, warned
    assert "Traceback" not in capfd.readouterr().err


def test_only_what_was_uploaded_is_opened(address, browser):
    """Whatever a request says that it uploaded: no other file of this machine, and no address."""
    ask = browser.new_context(base_url=address).request
    config = ask.get("config").json()
    picture, = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "picture")
    opening, = (event for event in config["dependencies"] if [picture, "upload"] in event["targets"])
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    sent = {"files": {"name": "a.png", "mimeType": "image/png", "buffer": png(scene())}}
    uploaded, = ask.post("gradio_api/upload", multipart=sent).json()
    opened = {}
    for path in (uploaded, "/etc/hostname", "http://127.0.0.1:9/a.png", "https://example.org/a.png"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [file if part == picture else values[part] for part in opening["inputs"]]
        ask.post("gradio_api/queue/join", data={"data": data, "fn_index": opening["id"], "session_hash": "abc"})
        told = ask.get("gradio_api/queue/data?session_hash=abc", timeout=PATIENCE).text()
        end, = (json.loads(line[6:]) for line in told.splitlines() if '"process_completed"' in line)
        opened[path] = end["success"]
    assert [path for path, success in opened.items() if success] == [uploaded]


def test_every_method_can_be_chosen_and_says_what_it_wants(person):
    """Each once: its own parts are seen, and no other's; one that takes instructions brings its model and asks for one.
    """
    labels = {False: ("Query", "What the edited picture should show."), True: ("Instruction", "What to do with")}
    for method in dm.METHODS.values():
        if method.name == "diffedit":
            continue
        person.choose("#method", method.dashed)
        person.see("#about", about(method)[:40].partition("[")[0].strip())
        person.seen("#canvas", visible="mask" in method.uses)
        person.seen("#find", visible="mask_map" in method.uses)
        person.seen("#reference", visible="reference" in method.uses)
        person.seen("#query", visible=method.takes_query)
        assert person.page.locator("#chain li").count() == (6 if "mask_map" in method.uses else
                                                            4 if "mask" in method.uses else 3)
        for part in labels[method.needs_instruction] if method.takes_query else ():
            person.see("#query", part)
        if "reference" in method.uses:
            assert ("better" in person.page.inner_text("#reference")) is ("mask_map" in method.uses)
    assert not person.page.locator("#message [role=alert]").count()

    person.choose("#method", "instruct-pix2pix")
    person.holds("#model", "tiny-instruct")
    person.holds("#query", "replace the lemons with plums")
    person.press("#known-words button >> text=pears")
    person.holds("#query", "replace the lemons with pears")
    person.choose("#model", "tiny")
    person.see("#query", "What the edited picture should show.")
    person.choose("#method", "diffedit")
    person.seen("#canvas", "#option-mask_threshold", "#find", "#reference", "#option-encoding_ratio")
    person.write("#query", "a bucket of paers on marble")
    person.write("#option-steps", 2)
    person.press("#edit")
    person.see("#message .notes", "did you mean 'pears'?")
    person.press("#known-words button >> text=a wooden table")
    person.holds("#query", "a bucket of paers on a wooden table")


def test_a_method_of_ones_own_has_its_controls_and_their_values_arrive(person):
    person.choose("#method", "mine")
    person.upload("a.png", png(scene()))
    person.progress("A picture of 60 × 52")
    person.write("#query", "pears")
    person.write("#option-steps", 4)
    person.press("#more button")
    person.see("#option-weights", "factors by words")
    person.write("#option-count", 5)
    person.page.locator("#option-plain input").check()
    person.choose("#option-norm", "l2")
    person.write("#option-window", "0.2,0.7")
    person.choose("#option-walker", "edict")
    person.seen("#option-walker-ddim-time", visible=False)
    person.write("#option-walker-edict-p", 0.9)
    person.write("#option-limit", 2.5)
    person.write("#option-weights", "apples")
    person.press("#edit")
    person.problem("weights must be words with numbers, for example apples:2,red bowl:0.5, not 'apples'")
    person.write("#option-weights", "apples:2")
    person.press("#edit")
    person.progress("^Done: 6 rows")
    settings = settings_in(person.download("#save-result"))
    wanted = {"count": 5, "plain": True, "norm": "l2", "window": [0.2, 0.7], "walker": "edict:p=0.9", "limit": 2.5,
              "weights": {"apples": 2.0}, "steps": 4, "guidance_scale": 2.0, "method": "mine"}
    assert {name: settings[name] for name in wanted} == wanted


@pytest.mark.parametrize(("width", "colours"), [(390, "light"), (1280, "dark")])
def test_it_fits_every_control_has_a_name_and_edit_is_within_reach(browser, address, width, colours):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with visitor(browser, f"{address}?__theme={colours}", width=width, color_scheme=colours) as person:
        person.write("#option-steps", 2)
        person.press("#edit")
        person.progress("^Done: ")
        page = person.page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        nameless = page.evaluate("""[...document.querySelectorAll('input, textarea, button')].filter(e =>
            e.offsetParent && !(e.labels?.length || e.ariaLabel || e.title || e.innerText?.trim() ||
                                e.getAttribute('aria-labelledby'))).map(e => e.outerHTML)""")
        assert not nameless
        if width < 640:
            page.mouse.wheel(0, 3000)
            page.wait_for_timeout(300)
            box = page.locator("#edit").bounding_box()
            assert 900 - 120 < box["y"] < 900 - box["height"]
        serious = [f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['any'][:1]}"
                   for each in axe.run(page).response["violations"] if each["impact"] in ("serious", "critical")]
        assert not serious, "\n".join(serious)
