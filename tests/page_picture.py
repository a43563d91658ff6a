"""Draw the page as it looks after an edit, for README.md: python tests/page_picture.py --out page.jpg

Needs the extras "app" and "browser", and Debian's Chromium. It is no test.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

PATIENCE = 120_000      # ms
WORDS = {"#query": "a basket of lemons on marble", "#reference": "a bucket of lemons on marble"}


def draw(address: str, path: Path) -> None:
    """Edit the scene that the page opens with, and photograph the window."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1010})
        page.set_default_timeout(PATIENCE)
        progress = page.locator("#progress .said")
        page.goto(address)
        expect(progress).to_contain_text("A picture of", timeout=PATIENCE)
        for where, text in WORDS.items():
            page.locator(f"{where} textarea").fill(text)
        page.click("#edit")
        expect(progress).to_contain_text("Done: ", timeout=PATIENCE)
        page.wait_for_timeout(1000)         # until the browser has drawn the pictures
        page.screenshot(path=path, quality=85)
        browser.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(port: int) -> None:
    """Until something listens there."""
    for _ in range(PATIENCE // 500):
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError(f"nothing listens at port {port}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("page.jpg"))
    out, port = parser.parse_args().out, free_port()
    server = subprocess.Popen([sys.executable, "-m", "diffedit_min", "app", "--model", "tiny", "--port", str(port)])
    try:
        wait_for(port)
        draw(f"http://127.0.0.1:{port}", out)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
