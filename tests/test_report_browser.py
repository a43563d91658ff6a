"""Run: pip install -e ".[browser]" and Debian's chromium, then python -m pytest tests/test_report_browser.py

A report opened from its file, as a person opens it: nothing is fetched, the controls work by keyboard, axe-core has
nothing serious to say. Skipped without Playwright, Chromium or axe-core.
"""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import diffedit_min as dm
from diffedit_min.core.mask import binarise
from diffedit_min.studio import report
from diffedit_min.tiny import scenes

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright isn't installed")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")]
SIZES = {"wide": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def edit():
    """Of a picture with padding, by the tiny random model."""
    image = scenes.sample(scenes.TEST[1]).render(45).crop((0, 0, 45, 37))
    return dm.diffedit(dm.load("random", device="cpu"), image, "a basket of pears", "a bowl of pears", steps=12,
                       mask_samples=2, keep="trace")


@pytest.fixture(scope="module")
def file(edit, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "edit.html"
    report.write(edit, dm.load("random", device="cpu"), path, truth=edit.input)
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, file):
    """visit(size="phone", color_scheme="dark", ...): the report in a window of its own, and what went wrong in it."""
    contexts = []

    def visit(size="wide", **options):
        context = browser.new_context(viewport=dict(zip(("width", "height"), SIZES[size], strict=True)), **options)
        contexts.append(context)
        page = context.new_page()
        page.wrong, page.asked = [], []
        page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("requestfailed", lambda request: page.wrong.append(request.url[:80]))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(file.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_selector(".threshold canvas")
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.mark.parametrize("size", SIZES)
def test_it_opens_from_its_file_and_asks_for_nothing_else(visit, file, size):
    page = visit(size)
    assert page.wrong == []
    assert [url for url in page.asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]      # no sideways scrolling


def test_the_film_is_driven_by_arrow_keys(visit, edit):
    page = visit()
    frames, said = page.locator(".frame"), page.locator("output[for=film]")
    assert frames.count() == 9 and page.locator(".frame:visible").count() == 1
    assert said.text_content() == f"level 10, t = {edit.decoded[10].level.t}" and frames.nth(0).is_visible()
    slider = page.get_by_label("From noise to picture")
    slider.press("ArrowRight")
    assert frames.nth(1).is_visible() and not frames.nth(0).is_visible()
    slider.press("End")
    assert frames.nth(8).is_visible() and said.text_content() == "level 0, t = 0"
    assert slider.get_attribute("aria-valuetext") == "level 0, t = 0" and page.wrong == []


def test_the_film_plays_until_it_is_stopped(visit):
    page = visit()
    frames, shown = page.locator(".frame"), playwright.expect
    page.get_by_role("button", name="Play").press("Enter")
    for i in (1, 2):
        shown(frames.nth(i)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    shown(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_label("From noise to picture").press("End")
    page.get_by_role("button", name="Play").click()
    shown(frames.nth(0)).to_be_visible()        # after the last comes the first
    page.get_by_label("From noise to picture").press("ArrowRight")
    shown(page.get_by_role("button", name="Play")).to_be_visible()      # a hand on the slider stops it
    assert page.wrong == []


@pytest.mark.parametrize("size", SIZES)
def test_the_wipe_is_dragged_and_driven_by_arrow_keys(visit, size):
    page = visit(size)
    first, second = page.locator(".wipe figure").all()
    assert first.bounding_box() == second.bounding_box()        # one over the other
    clipped = lambda: second.evaluate("(figure) => getComputedStyle(figure).clipPath")      # noqa: E731
    page.get_by_label("Wipe").press("ArrowLeft")
    assert clipped() == "inset(0px 0px 0px 49%)"
    first.scroll_into_view_if_needed()
    box = first.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.49 * box["width"], middle)
    page.mouse.down()
    for part in (0.2, 1.0, 0.0, 0.75):      # the line is where the mouse is, also at the ends
        page.mouse.move(box["x"] + part * box["width"], middle, steps=4)
        assert clipped() == f"inset(0px 0px 0px {100 * part:.0f}%)"
    page.mouse.up()


def test_what_a_setting_does_shows_by_mouse_and_keyboard(visit):
    page = visit("phone")
    name, tip = page.locator("#mask .tip").first, page.locator("#mask [role=tooltip]").first
    assert not tip.is_visible()
    name.focus()
    assert tip.is_visible() and tip.bounding_box()["x"] >= 0
    assert tip.bounding_box()["x"] + tip.bounding_box()["width"] <= 390
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    name.hover()
    assert tip.is_visible()


def test_a_symbol_leads_to_its_sentence(visit):
    page = visit(reduced_motion="reduce")       # the page jumps there, and does not scroll for a while
    link = page.locator("a.term", has_text="∅").first
    link.press("Enter")
    entry = page.locator(link.get_attribute("href"))
    assert entry.text_content() == "∅" and page.locator(".glossary div:has(:target)").count() == 1
    playwright.expect(entry).to_be_in_viewport()


def test_the_threshold_cuts_the_mask_again_as_the_library_does(visit, edit):
    """The canvas, pixel by pixel at the middle of each cell, against mask.binarise."""
    page = visit()
    slider, said = page.get_by_role("slider", name="Threshold"), page.locator("output[for=cut]")
    valid = edit.frame.valid(edit.factor)
    rows, columns = int(valid.any(dim=1).sum()), int(valid.any(dim=0).sum())
    values = edit.mask_map[:rows, :columns].flatten().tolist()
    below = float(np.nextafter(np.float32(values[7]), np.float32(0)))
    rounded_up = values[7] * (1 - 1e-12)        # in float32 it is values[7], which then isn't above it
    for threshold in (0.5, 0.0, 0.31, 1.0, values[7], below, rounded_up):
        slider.evaluate("(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }",
                        repr(threshold))
        wanted = binarise(edit.mask_map[None], threshold)[0, 0, :rows, :columns]
        assert torch.equal(inside(page, edit, rows, columns), wanted), threshold
        assert said.text_content() == f"{threshold:.2f} covers {100 * wanted.float().mean().item():.1f} %"
        assert page.locator("rect.above").count() == sum(i / 40 >= threshold for i in range(40))
    slider.press("Home")
    assert said.text_content().startswith("0.00 covers")
    assert page.wrong == []


def inside(page, edit, rows, columns):
    """Which cells the canvas leaves as bright as the input: bool (rows, columns)."""
    (width, height), (across, down) = edit.input.size, edit.frame.scaled
    # In each cell a pixel of the input that surely lies in it, even in the last ones, and off the outline.
    places = [(int((column * edit.factor + 0.8) * width / across), int((row * edit.factor + 0.8) * height / down))
              for row in range(rows) for column in range(columns)]
    shown = page.evaluate("""([places, width]) => {
        const canvas = document.querySelector(".threshold canvas"), times = canvas.width / width;
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return places.map(([x, y]) => [0, 1, 2].map((channel) =>
            data[4 * (Math.floor((y + 0.5) * times) * canvas.width + Math.floor((x + 0.5) * times)) + channel]));
    }""", [places, width])
    was, now = np.array([edit.input.getpixel(place) for place in places]), np.array(shown)
    bright, dark = (abs(now - part * was).max(axis=1) <= 3 for part in (1.0, 0.4))
    assert (bright | dark).all()
    return torch.from_numpy(bright & ~dark).reshape(rows, columns)


def test_the_settings_can_be_copied(visit, edit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    for place, same in (("#json", json.loads), ("#again-1", str)):
        page.locator(f".control:has(+ {place}) button").press("Enter")
        playwright.expect(page.locator(f".control:has(+ {place}) [role=status]")).to_have_text("Copied.")
        copied = same(page.evaluate("navigator.clipboard.readText()"))
        assert copied == (edit.settings if place == "#json" else page.locator(place).text_content())


def test_without_scripts_all_pictures_show(visit):
    page = visit(java_script_enabled=False)
    assert page.locator(".frame:visible").count() == 9 and page.locator(".threshold img:visible").count() == 1
    assert page.locator(".control:visible").count() == 0
    left, right = (figure.bounding_box() for figure in page.locator(".wipe figure").all())
    assert left["x"] + left["width"] <= right["x"]      # side by side


def test_on_paper_all_frames_show(visit):
    page = visit()
    page.emulate_media(media="print")
    left, right = (figure.bounding_box() for figure in page.locator(".wipe figure").all())
    assert left["x"] + left["width"] <= right["x"] and not page.locator(".wipe input").is_visible()
    assert page.locator(".frame:visible").count() == 9 and page.locator(".control:visible").count() == 0


def test_contents_lead_to_their_sections_by_keyboard(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#predictions")


def axe():
    """The path of axe.min.js: AXE in the environment, or as axe-playwright-python brings it; None if there is none."""
    found = importlib.util.find_spec("axe_playwright_python")
    places = [os.environ.get("AXE", ""), *(found.submodule_search_locations if found else ())]
    return next((path for place in places if place for path in [Path(place), *Path(place).rglob("axe.min.js")]
                 if path.is_file()), None)


@pytest.mark.skipif(axe() is None, reason="axe-core isn't installed")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, size, scheme):
    page = visit(size, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => details.open = true)")
    page.evaluate(axe().read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]] == []
