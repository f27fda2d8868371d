"""Take the picture in README.md from the built book: python tools/screenshot.py [page#anchor]

It needs `make book` and a Chromium on the PATH (or in NNBOOK_CHROMIUM).
"""

from __future__ import annotations

import functools
import http.server
import io
import os
import shutil
import sys
import threading

from PIL import Image
from playwright.sync_api import sync_playwright
from serve import PAGES, Handler

PICTURE = PAGES.parents[1] / ".github" / "book.png"
PLACE = "chapters/01_neurons.html#the-code"


def main(arguments: list[str]) -> int:
    page_name, _, anchor = (arguments[0] if arguments else PLACE).partition("#")
    chromium = os.environ.get("NNBOOK_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or not (PAGES / page_name).is_file():
        print("run `make book` first, and have a Chromium on the PATH", file=sys.stderr)
        return 1
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(PAGES)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
        page.goto(f"http://127.0.0.1:{server.server_port}/{page_name}", timeout=120_000)
        page.evaluate("anchor => anchor && document.getElementById(anchor).scrollIntoView()", anchor)
        page.wait_for_timeout(1000)
        picture = Image.open(io.BytesIO(page.screenshot(timeout=120_000)))
        browser.close()
    server.shutdown()
    picture.convert("RGB").quantize(128).save(PICTURE, optimize=True)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size // 1024} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
