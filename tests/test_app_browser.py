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
from diffedit_min.tiny import scenes

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.enable_socket, pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

PATIENCE = 60_000       # ms


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
    """Of the page, served."""
    from diffedit_min.studio.app.page import launch, make_page

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setattr(Session, "stop", network.stopping(Session.stop))
        patch.setattr(dm.METHODS, "_methods", dict(dm.METHODS))
        dm.register(dm.Method("mine", dm.sdedit.run, OwnOptions))
        page = make_page(Models(["random"], load=lambda *_, **__: network.model), megabytes=1, megapixels=40)
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

    def __init__(self, browser, address, width=1280, height=900):
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
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
        line = self.page.locator("#progress textarea")
        playwright.expect(line).to_have_value(re.compile(pattern), timeout=PATIENCE)
        return line.input_value()

    def upload(self, name, content):
        self.page.set_input_files("#picture input[type=file]", {"name": name, "mimeType": "image/png",
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

    def message(self, text):
        """Wait for it in the corner; close it."""
        toast = self.page.locator(".toast-body", has_text=text)
        playwright.expect(toast.first).to_be_visible(timeout=PATIENCE)
        assert "Traceback" not in self.page.content()
        toast.first.get_by_test_id("toast-close").click()

    def download(self, where):
        with self.page.expect_download() as download:
            self.press(where)
        with open(download.value.path(), "rb") as file:
            return file.read()

    def picture_on_canvas(self):
        return self.page.locator("#canvas canvas").first.screenshot()


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
    elsewhere = [url for url in person.requests if not url.startswith((address, "data:", "blob:"))]
    assert person.requests and not elsewhere


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def scene(seed=1):
    return scenes.sample(scenes.TEST[seed]).render(64).crop((0, 0, 60, 52))


def prepared(person, seed=1, steps=4):
    """A picture and words."""
    person.upload("a.png", png(scene(seed)))
    person.progress("A picture of 60 x 52 pixels")
    person.write("#query", "a basket of pears")
    person.write("#reference", "a bowl of apples")
    person.write("#option-mask_samples", 2)
    person.write("#option-steps", steps)


def test_from_a_picture_to_a_download(person, network):
    prepared(person)
    person.press("#find")
    found = person.progress("^Mask: 4 rows, a new map. The mask covers ")
    before, calls = person.picture_on_canvas(), network.calls

    person.page.locator("#option-mask_threshold input[type=range]").focus()        # by keyboard
    for _ in range(12):
        person.page.keyboard.press("ArrowLeft")
    person.progress("^Threshold: 0 rows, from the map that was kept. The mask covers ")
    playwright.expect(person.page.locator("#option-mask_threshold input[type=number]")).to_have_value("0.38")
    person.page.wait_for_timeout(1500)
    cut = person.progress("^Threshold: 0 rows")
    assert cut.split("covers")[1] != found.split("covers")[1]
    assert person.picture_on_canvas() != before
    assert network.calls == calls

    person.write("#option-mask_noise_ratio", 0.9)
    person.progress("^Mask: 4 rows, a new map")
    assert network.calls > calls

    paint(person)
    person.press("#edit")
    assert "your mask" in person.progress("^Done: ")

    person.write("#option-steps", 200)
    for then in (0.2, 0.0):     # from then on: a run may end later or earlier than the answer to Cancel arrives
        network.pause, network.pause_when_stopped = 0.2, then
        person.press("#edit")
        person.progress("^(encode|decode): step")
        person.press("#cancel")
        person.progress("^Cancelled, with ")
        calls = network.calls
        person.page.wait_for_timeout(1000)
        line = person.progress("^Cancelled, with ")
        assert network.calls == calls and int(line.split()[2]) < 200
    network.pause = 0.0

    person.write("#option-steps", 4)
    person.press("#edit")
    assert "with your mask and the encoding of an earlier edit." in person.progress("^Done: ")
    result, mask = person.download("#save-result"), person.download("#save-mask")
    settings = json.loads(Image.open(io.BytesIO(result)).text["diffedit"])
    assert (settings["given"], settings["steps"], settings["query"]) == (["mask"], 4, "a basket of pears")
    again = dm.diffedit(network.model, scene(), "a basket of pears", "a bowl of apples", steps=4, mask_samples=2,
                        mask=Image.open(io.BytesIO(mask)))
    assert (pixels(result) == np.asarray(again.image)).all()


def paint(person):
    """A stroke along the lower edge of the picture."""
    canvas = person.page.locator("#canvas canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse = person.page.mouse
    mouse.move(x - 90, y + 70)
    mouse.down()
    mouse.move(x + 90, y + 80, steps=8)
    mouse.up()
    person.page.wait_for_timeout(500)


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


def test_what_cannot_be_used_is_said(person):
    prepared(person)
    person.upload("text.png", b"no picture")
    person.message("'text.png' is not a picture that can be read here (PNG, JPEG, ")
    person.upload("large.png", png(Image.new("1", (8000, 5001))))
    person.message("'large.png' has 8000 x 5001 pixels, more than the 40 million that this page takes")
    person.upload("heavy.png", png(scene()) + bytes(1_100_000))
    person.message("exceed the maximum allowed size of 1")
    person.press("#edit")
    person.message("there is no picture yet: upload one, or take one of the scenes")
    prepared(person)
    person.write("#query", "  ")
    for button in ("#find", "#edit"):
        person.press(button)
        person.message("the query is empty: say what the edited picture should show")
        person.progress("^Error: the query is empty")


def test_only_what_was_uploaded_is_opened(address, browser):
    """Whatever a request says that it uploaded: no other file of this machine, and no address."""
    ask = browser.new_context(base_url=address).request
    config = ask.get("config").json()
    picture, = (part["id"] for part in config["components"] if part["props"].get("elem_id") == "picture")
    opening, = (event for event in config["dependencies"] if [picture, "upload"] in event["targets"])
    sent = {"files": {"name": "a.png", "mimeType": "image/png", "buffer": png(scene())}}
    uploaded, = ask.post("gradio_api/upload", multipart=sent).json()
    opened = {}
    for path in (uploaded, "/etc/hostname", "http://127.0.0.1:9/a.png", "https://example.org/a.png"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        data = [file if part == picture else None for part in opening["inputs"]]
        ask.post("gradio_api/queue/join", data={"data": data, "fn_index": opening["id"], "session_hash": "abc"})
        told = ask.get("gradio_api/queue/data?session_hash=abc", timeout=PATIENCE).text()
        end, = (json.loads(line[6:]) for line in told.splitlines() if '"process_completed"' in line)
        opened[path] = end["success"]
    assert [path for path, success in opened.items() if success] == [uploaded]


def test_a_scene_at_a_click_and_its_report(person):
    pytest.importorskip("diffedit_min.studio.report")
    person.press("#scenes button >> nth=1")
    person.progress("A picture of ")
    assert person.page.input_value("#query textarea") and person.page.input_value("#reference textarea")
    person.write("#option-steps", 3)
    person.press("#edit")
    person.progress("^Done: ")
    person.press("#make-report")
    person.progress("^The report is ready")
    assert person.download("#save-report").lstrip().lower().startswith(b"<!doctype html>")


def test_a_method_without_a_mask_shows_no_mask(person):
    playwright.expect(person.page.locator("#canvas")).to_be_visible()
    person.choose("#method", "sdedit")
    person.see("#about", "arXiv:2108.01073")
    for gone in ("#canvas", "#option-mask_threshold", "#find", "#reference"):
        playwright.expect(person.page.locator(gone)).to_be_hidden()
    person.upload("a.png", png(scene()))
    person.progress("A picture of 60 x 52")
    person.write("#query", "pears")
    person.write("#option-steps", 4)
    person.press("#edit")
    person.progress("^Done: 6 rows in [^;]*$")
    person.press("#cancel")
    person.progress("^Nothing is running.$")
    person.choose("#method", "diffedit")
    for back in ("#canvas", "#option-mask_threshold", "#find", "#reference", "#option-encoding_ratio"):
        playwright.expect(person.page.locator(back)).to_be_visible()


def test_a_method_of_ones_own_has_its_controls_and_their_values_arrive(person):
    person.choose("#method", "mine")
    person.upload("a.png", png(scene()))
    person.progress("A picture of 60 x 52")
    person.write("#query", "pears")
    person.write("#option-steps", 4)
    person.press("#more button")
    person.see("#option-weights", "factors by words")
    person.write("#option-count", 5)
    person.page.locator("#option-plain input").check()
    person.choose("#option-norm", "l2")
    person.write("#option-window", "0.2,0.7")
    person.page.locator("#option-walker input").fill("edict:p=0.9")
    person.page.keyboard.press("Enter")
    person.write("#option-limit", 2.5)
    person.write("#option-weights", "apples")
    person.press("#edit")
    person.message("weights must be words with numbers, for example apples:2,red bowl:0.5, not 'apples'")
    person.write("#option-weights", "apples:2")
    person.press("#edit")
    person.progress("^Done: 6 rows")
    settings = json.loads(Image.open(io.BytesIO(person.download("#save-result"))).text["diffedit"])
    wanted = {"count": 5, "plain": True, "norm": "l2", "window": [0.2, 0.7], "walker": "edict:p=0.9", "limit": 2.5,
              "weights": {"apples": 2.0}, "steps": 4, "guidance_scale": 2.0, "method": "mine"}
    assert {name: settings[name] for name in wanted} == wanted


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_every_control_has_a_name(browser, address, width, request):
    with visitor(browser, address, width=width) as person:
        prepared(person)
        assert person.page.evaluate("document.documentElement.scrollWidth") == width
        nameless = person.page.evaluate("""[...document.querySelectorAll('input, textarea, button')].filter(e =>
            e.offsetParent && !(e.labels?.length || e.ariaLabel || e.title || e.innerText?.trim() ||
                                e.getAttribute('aria-labelledby'))).map(e => e.outerHTML)""")
        assert not nameless
