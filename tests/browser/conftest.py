"""The built book behind a local server, and a Chromium to look at it with.

Where there is no built book or no Chromium these tests are skipped and say why; ``NNBOOK_REQUIRE_BROWSER=1`` makes that
a failure, so that continuous integration cannot lose them silently.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from built import ROOT, SITE

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # some containers have next to no shared memory
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)


def missing(reason: str) -> None:
    if os.environ.get("NNBOOK_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_chromium(playwright: Any) -> str | None:
    """A Chromium's path: ``NNBOOK_CHROMIUM``, one on the PATH, or the one that Playwright installed."""
    named = os.environ.get("NNBOOK_CHROMIUM")
    if named:
        if not Path(named).is_file():
            pytest.fail(f"NNBOOK_CHROMIUM names {named}, which is not there")
        return named
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"):
        if path := shutil.which(name):
            return path
    own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").is_file():
        missing(f"there is no built book in {SITE}: run `make book` first")
    return SITE


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """``http://127.0.0.1:<a free port>`` serving the book."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # a browser opens many connections at once

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        executable = find_chromium(playwright)
        if executable is None:
            missing(
                "no Chromium found: the pages were NOT looked at. Install one (`playwright install chromium`, or your "
                "system's package) or name it in NNBOOK_CHROMIUM"
            )
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, to be run inside a page."""
    path = ROOT / "node_modules" / "axe-core" / "axe.min.js"
    if not path.is_file():
        missing("axe-core is missing: run `python book/_ext/npm_packages.py`")
    return path.read_text(encoding="utf-8")
