"""Run: python -m pytest tests/test_app_canvas_browser.py

The mask on the page's canvas in a real browser, headless: where it is shown, painted, and read back. Skips without
gradio, Playwright, or Debian's Chromium.
"""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min.loading.held import Models
from diffedit_min.pictures.picture import fit, fit_mask
from diffedit_min.studio.app import canvas
from diffedit_min.tiny import scenes

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.enable_socket, pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

QUERY, REFERENCE, OPTIONS = "a basket of pears", "a bowl of apples", {"steps": 2, "mask_samples": 1}


@pytest.fixture(scope="module")
def model():
    return dm.load("random", device="cpu")


@pytest.fixture(scope="module")
def address(model, tmp_path_factory):
    from diffedit_min.studio.app.page import launch, make_page

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = make_page(Models(["random"], load=lambda *_, **__: model), megabytes=1, megapixels=40)
        yield launch(page, "127.0.0.1", None, megabytes=1)
        page.close()


class Painter:
    """One who has the page open."""

    def __init__(self, page, model):
        self.page, self.model = page, model
        self.expect = playwright.expect

    def progress(self, text):
        self.expect(self.page.locator("#progress")).to_contain_text(re.compile(text), timeout=15_000)

    def says(self, text):
        self.expect(self.page.locator("#canvas .says")).to_contain_text(text, timeout=15_000)

    def take(self, name, content):
        """A picture of one's own, and words."""
        kind = "image/jpeg" if name.endswith("jpg") else "image/png"
        self.page.set_input_files("#picture input[type=file]", {"name": name, "mimeType": kind, "buffer": content})
        self.write(query=QUERY, **{f"option-{name}": value for name, value in OPTIONS.items()
                                   if self.page.locator(f"#option-{name}").is_visible()})
        if self.page.locator("#reference").is_visible():
            self.write(reference=REFERENCE)

    def write(self, **fields):
        for name, value in fields.items():
            self.page.locator(f"#{name}").locator("input[type=number], textarea").first.fill(str(value))

    def choose(self, method):
        self.page.click("#method input")
        self.page.get_by_role("option", name=method, exact=True).click()
        self.expect(self.page.locator("#canvas")).to_be_visible(visible=method == "diffedit")

    def press(self, name):
        self.page.locator("#canvas").get_by_role("button", name=name, exact=True).click()

    def place(self, frame, row, column):
        """The middle of what a cell shows of the picture, as shares of its sides (x, y)."""
        ends = [(min((cell + 1) * self.model.factor, side) + cell * self.model.factor) / 2 / side
                for cell, side in zip((column, row), frame.scaled, strict=True)]
        return tuple(ends)

    def dab(self, frame, row, column):
        box = self.page.locator("#canvas .frame").bounding_box()
        x, y = self.place(frame, row, column)
        self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        self.page.mouse.down()
        self.page.mouse.up()

    def shown(self, frame):
        """Bool (rows, columns): which cells are coloured, by the pixels of a screenshot of the mask's frame.

        The picture lies exactly in that frame; its own colours are hidden for a moment.
        """
        self.page.mouse.move(0, 0)          # no brush over it
        frame_box, picture_box = (self.page.locator(f"#canvas {part}").bounding_box() for part in (".frame", "img"))
        assert frame_box == pytest.approx(picture_box, abs=0.01)
        assert frame_box["width"] / frame_box["height"] == pytest.approx(frame.size[0] / frame.size[1], rel=0.01)
        self.page.add_style_tag(content="#canvas img { visibility: hidden }")
        seen = np.asarray(Image.open(io.BytesIO(self.page.locator("#canvas .frame").screenshot())).convert("RGB"), int)
        self.page.evaluate("[...document.querySelectorAll('style')].at(-1).remove()")
        rows, columns = canvas.shape(frame, self.model.factor)
        at = [[self.place(frame, row, column) for column in range(columns)] for row in range(rows)]
        colours = np.array([[seen[int(y * seen.shape[0]), int(x * seen.shape[1])] for x, y in line] for line in at])
        return np.ptp(colours, axis=2) > 100

    def edited_mask(self, frame):
        """The mask of the edit that is done, bool (rows, columns)."""
        with self.page.expect_download() as download:
            self.page.click("#save-mask")
        rows, columns = canvas.shape(frame, self.model.factor)
        with Image.open(download.value.path()) as mask:
            return fit_mask(mask, frame, self.model.factor)[0, 0][:rows, :columns].numpy()


@pytest.fixture(scope="module")
def painter(address, model):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_selector("#about a")
        yield Painter(page, model)
        browser.close()
        assert not faults


def picture(width, height):
    return scenes.sample(scenes.TEST[1]).render(64).resize((width, height))


def file_of(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo():
    """1600 x 1200 in its file, 1200 x 1600 as its EXIF orientation says."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(picture(1600, 1200), "JPEG", quality=80, exif=exif), picture(1600, 1200).rotate(-90, expand=True)


PICTURES = {"wide.png": picture(64, 32), "tall.png": picture(32, 64), "odd.png": picture(60, 52),
            "square.png": picture(64, 64), "panorama.png": picture(640, 64)}


def test_the_mask_lies_where_it_was_found_and_a_dab_changes_its_own_cells_only(painter, model):
    """At every aspect: what is shown, cell for cell; and what the edit then takes, bit for bit."""
    files = {name: (file_of(image), image) for name, image in PICTURES.items()} | {"photo.jpg": photo()}
    for name, (content, image) in files.items():
        frame = fit(image, model.multiple, model.native_area)[1]
        rows, columns = canvas.shape(frame, model.factor)
        painter.take(name, content)
        painter.says(f"covers 0 of {rows * columns} cells")
        painter.page.click("#find")
        painter.progress("Mask: 2 rows")
        with Image.open(io.BytesIO(content)) as opened:
            found = dm.diffedit(model, opened, QUERY, REFERENCE, **OPTIONS).mask[:rows, :columns].numpy()
        assert 0 < found.sum() < found.size and (painter.shown(frame) == found).all(), name

        row, column = np.argwhere(~found)[-1]
        painter.page.locator("#canvas input[type=range]").fill("1")
        painter.dab(frame, row, column)
        painter.says("1 painted")
        found[row, column] = True
        assert (painter.shown(frame) == found).all(), name
        painter.page.click("#edit")
        painter.progress("Done: .*with your mask")
        assert (painter.edited_mask(frame) == found).all(), name



def test_what_is_painted_stays_can_be_taken_back_and_is_refused_if_it_is_empty(painter, model):
    """Undo, back, clear and invert; by mouse and by keyboard; at other thresholds, and with another method between."""
    page, image = painter.page, PICTURES["odd.png"]
    frame = fit(image, model.multiple, model.native_area)[1]
    rows, columns = canvas.shape(frame, model.factor)
    painter.take("odd.png", file_of(image))
    painter.says(f"covers 0 of {rows * columns} cells")
    page.click("#find")
    painter.progress("Mask: 2 rows")
    found = painter.shown(frame)
    here, there = np.argwhere(~found)[0], np.argwhere(found)[-1]

    painter.dab(frame, *here)
    painter.press("Erase")
    painter.dab(frame, *there)
    painter.says("1 painted, 1 erased.")
    own = found.copy()
    own[tuple(here)], own[tuple(there)] = True, False
    assert (painter.shown(frame) == own).all()

    painter.write(**{"option-mask_threshold": 0.2})     # another mask is found; what was painted lies over it
    page.keyboard.press("Tab")
    painter.progress("Threshold: 0 rows")
    painter.says("1 painted, 1 erased.")
    wider = painter.shown(frame)
    assert wider[tuple(here)] and not wider[tuple(there)] and wider.sum() > own.sum()
    painter.press("Undo")
    painter.says("1 painted, 0 erased.")
    painter.press("Back to the found mask")
    painter.says("0 painted, 0 erased.")
    found = painter.shown(frame)
    assert found.sum() >= wider.sum() and found[tuple(there)]

    painter.press("Invert")
    assert (painter.shown(frame) == ~found).all()
    painter.press("Clear")
    painter.says(f"covers 0 of {rows * columns} cells")
    assert page.locator("#canvas img").is_visible()
    page.click("#edit")
    painter.expect(page.locator("#message")).to_contain_text("the mask is empty, so nothing would be edited: paint")
    painter.press("Undo")
    painter.press("Undo")
    assert (painter.shown(frame) == found).all()

    painter.press("Clear")
    painter.press("Paint")
    page.locator("#canvas canvas").focus()
    for _ in range(max(rows, columns)):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowUp")
    page.keyboard.down(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.up(" ")
    painter.says("3 painted")
    by_keys = np.zeros_like(found)
    by_keys[0, :2] = by_keys[1, 1] = True
    assert (painter.shown(frame) == by_keys).all()

    painter.choose("sdedit")
    painter.choose("diffedit")
    assert (painter.shown(frame) == by_keys).all()
    page.click("#edit")
    painter.progress("Done: .*with your mask")
    assert (painter.edited_mask(frame) == by_keys).all()

    painter.choose("sdedit")
    painter.take("tall.png", file_of(PICTURES["tall.png"]))
    painter.progress("A picture of 32 × 64 pixels")
    painter.choose("diffedit")
    painter.says("covers 0 of ")
    assert not painter.shown(fit(PICTURES["tall.png"], model.multiple, model.native_area)[1]).any()
