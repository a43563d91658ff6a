"""Draw the page as it looks after an edit, for README.md: python tests/page_picture.py --out page.jpg

Needs the extras "app" and "browser", and Debian's Chromium. It is no test.
"""

import argparse
import re
import shutil
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from diffedit_min.loading import load
from diffedit_min.studio.app.page import launch, make_page
from diffedit_min.studio.app.shelf import Shelf

PATIENCE = 120_000      # ms
WORDS = {"#query": "a basket of lemons on marble", "#reference": "a bucket of lemons on marble"}


def draw(address: str, path: Path) -> None:
    """Take the first scene, find its mask, edit it, and photograph the window."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1010})
        page.set_default_timeout(PATIENCE)
        progress = page.locator("#progress textarea")
        page.goto(address)
        expect(page.locator("#about")).to_contain_text("arXiv:2210.11427", timeout=PATIENCE)
        page.locator("#scenes button").first.click()
        expect(progress).not_to_have_value("", timeout=PATIENCE)
        for where, text in WORDS.items():
            page.locator(f"{where} textarea").fill(text)
        for button, said in (("#find", "^Mask: "), ("#edit", "^Done: ")):
            page.click(button)
            expect(progress).to_have_value(re.compile(said), timeout=PATIENCE)
        page.wait_for_timeout(1000)         # until the browser has drawn the pictures
        page.screenshot(path=path, quality=85)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("page.jpg"))
    page = make_page(Shelf(["tiny"], load), megabytes=20, megapixels=40)
    draw(launch(page, "127.0.0.1", None, megabytes=20), parser.parse_args().out)
    page.close()


if __name__ == "__main__":
    main()
