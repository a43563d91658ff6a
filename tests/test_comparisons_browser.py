"""Run: python -m pytest -m slow tests/test_comparisons_browser.py

Grids and comparisons in a real browser: the page that `grid --page` writes, and the part of the app's page. Skipped
without Playwright, or Debian's Chromium.
"""

import re
import shutil
import time
from html import unescape

import pytest
from PIL import Image

import diffedit_min as dm
from diffedit_min.loading.held import Models
from diffedit_min.studio.app.session import Session

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.enable_socket, pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

from test_report_browser import axe  # noqa: E402  (it skips too)

PATIENCE = 60_000       # ms
QUERY, REFERENCE = "a basket of pears", "a bowl of apples"


@pytest.fixture(scope="module")
def network():
    return dm.load("random", device="cpu")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sheet(network):
    picture = Image.linear_gradient("L").resize((24, 16))
    return dm.grid(network, picture, QUERY, REFERENCE, x={"mask_threshold": [0.1, 0.2, 0.3]}, y={"seed": [0, 1]},
                   steps=3, mask_samples=1, truth=picture)


@pytest.fixture
def opened(browser, sheet, tmp_path):
    """opened(width, **context): the sheet's page, opened from its file."""
    path, made = tmp_path / "sheet.html", []
    sheet.save(page=path)

    def opened(width, **context):
        page = browser.new_page(viewport={"width": width, "height": 800}, **context)
        made.append(page)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda sent: sent.url.startswith(("file:", "data:")) or page.faults.append(sent.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for page in made:
        page.close()


def large(page):
    """The labels of the cells that are seen large."""
    return [title.inner_text() for title in page.locator(".cell h2").all() if title.is_visible()]


def test_a_click_and_the_keyboard_show_a_cell_large(opened, sheet):
    page = opened(1280)
    assert large(page) == [] and page.locator(".open").count() == 6
    page.locator(".open").nth(1).click()
    assert large(page) == ["mask_threshold=0.2, seed=0"]
    for key, label in (("ArrowRight", "0.3, seed=0"), ("ArrowDown", "0.3, seed=1"), ("ArrowLeft", "0.2, seed=1"),
                       ("ArrowUp", "0.2, seed=0"), ("ArrowUp", "0.2, seed=0")):
        page.keyboard.press(key)
        assert large(page) == [f"mask_threshold={label}"]
    command = page.locator(".cell:target pre").inner_text()
    assert command.startswith("diffedit-min edit input.png --query 'a basket of pears'")
    assert "-o mask_threshold=0.2" in command and "-o steps=3" in command and "--seed" not in command
    page.keyboard.press("Escape")
    assert large(page) == [] and page.evaluate("document.activeElement.hash") == "#cell-1"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert large(page) == ["mask_threshold=0.2, seed=1"]
    page.locator(".cell:target .wipe input").focus()
    page.keyboard.press("ArrowRight")       # moves the line of the wipe, not on to another cell
    assert large(page) == ["mask_threshold=0.2, seed=1"]
    assert page.locator(".cell:target .wipe input").input_value() == "51"
    assert page.faults == []


def test_without_scripts_a_click_does_the_same(opened):
    page = opened(390, java_script_enabled=False)
    page.locator(".open").nth(2).click()
    assert large(page) == ["mask_threshold=0.3, seed=0"]
    page.get_by_text("back to all").locator("visible=true").click()
    assert large(page) == []


@pytest.mark.skipif(axe() is None, reason="axe-core isn't installed")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_nothing_serious(opened, width, scheme):
    page = opened(width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate(axe().read_text(encoding="utf-8"))
    for show in (lambda: None, page.locator(".open").first.click):      # all cells, then one
        show()
        found = page.evaluate("axe.run()")
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]] == []


# ---- the app's page


def test_the_page_makes_a_grid_and_compares_methods(browser, network, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from diffedit_min.studio.app.page import launch, make_page

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(Session, "stop", stopping(Session.stop, slow := {"pause": 0.0}))
    hook = network.unet.register_forward_hook(lambda *_: time.sleep(slow["pause"]))
    app = make_page(Models(["random"], load=lambda *_, **__: network), megabytes=1, megapixels=40)
    page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    try:
        page.goto(launch(app, "127.0.0.1", None, megabytes=1))
        see(page, "#about", "arXiv:2210.11427")
        page.get_by_text("Compare: two options").click()
        type_in(page, "#values-across", "0.1, 0.2, 0.3")
        type_in(page, "#values-down", "0.1, x")
        page.click("#make-grid")
        see(page, "#message [role=alert]", "mask_threshold must be a number, not 'x'")

        type_in(page, "#values-down", "0.1")
        slow["pause"] = 0.05
        page.click("#make-grid")
        see(page, "#progress", "edit: step 1 of 3")
        playwright.expect(page.locator("#sheet img")).to_be_visible(timeout=PATIENCE)
        page.click("#cancel-sheet")
        see(page, "#progress", "Cancelled, with ")

        slow["pause"] = 0.0
        page.click("#make-grid")
        see(page, "#progress", re.compile(r"3 edits, \d+ rows through the U-Net"))
        cells = page.frame_locator("#sheet iframe")
        cells.locator(".open").nth(2).click()
        playwright.expect(cells.locator(".cell:target h2")).to_have_text("encoding_ratio=0.3, mask_threshold=0.1")
        page.keyboard.press("ArrowLeft")
        playwright.expect(cells.locator(".cell:target h2")).to_have_text("encoding_ratio=0.2, mask_threshold=0.1")
        for button, name in (("#save-sheet", "sheet.png"), ("#save-page", "sheet.html")):
            with page.expect_download() as download:
                page.click(button)
            download.value.save_as(tmp_path / name)
        assert Image.open(tmp_path / "sheet.png").width > 500
        assert "encoding_ratio=0.3, mask_threshold=0.1" in unescape((tmp_path / "sheet.html").read_text("utf-8"))

        for name in ("encode_decode", "prompt_to_prompt"):
            page.locator(f"#compare-{name} input").uncheck()
        page.locator("#compare-instruct_pix2pix input").check()
        page.click("#make-comparison")
        see(page, "#progress", re.compile(r"2 edits, \d+ rows through the U-Net"))
        playwright.expect(cells.locator(".methods .name")).to_have_text(["diffedit", "sdedit"])
        playwright.expect(cells.locator("#sheet")).to_contain_text("instruct-pix2pix (needs a U-Net with 8")
    finally:
        hook.remove()
        page.close()
        app.close()


def stopping(stop, slow):
    """`Session.stop`, after which the network takes no time: so nothing waits for a run that was cancelled."""
    def stops(session, *kinds):
        stop(session, *kinds)
        slow["pause"] = slow["pause"] if kinds else 0.0

    return stops


def see(page, where, text):
    playwright.expect(page.locator(where)).to_contain_text(text, timeout=PATIENCE)


def type_in(page, where, text):
    page.locator(f"{where} textarea, {where} input").first.fill(text)
