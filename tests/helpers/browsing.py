"""An exported page in Chromium, for its tests and for its timing."""

from __future__ import annotations

import csv
import dataclasses
import functools
import http.server
import io
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Where a Chromium lies on this machine; pip installs none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Served:
    """A folder at a port of this machine; what was asked for is kept."""

    def __init__(self, folder: Path) -> None:
        asked_for = self.asked_for = list[str]()

        class Handler(http.server.SimpleHTTPRequestHandler):
            def end_headers(self) -> None:
                # Whether others may ask is their page's own rule, not this server's.
                self.send_header("Access-Control-Allow-Origin", "*")
                super().end_headers()

            def log_message(self, *args: Any) -> None:
                asked_for.append(f"{self.command} {self.path}")

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclasses.dataclass
class Opened:
    """The page as a reader sees it, and what it asked for and said."""

    page: Any
    served: Served
    said: list[str]
    requests: list[str]

    def give(self, *files: Path) -> None:
        # What it says of earlier files would be taken for the end of this.
        self.page.locator("#status").evaluate("(status) => { status.textContent = ''; }")
        self.page.set_input_files("#files", [str(file) for file in files])
        self.page.locator("#status").filter(has_text="predicted in").wait_for()

    def give_folder(self, folder: Path) -> None:
        """As `give`, by the button for folders; the browser names files below the folder's name."""
        self.page.locator("#status").evaluate("(status) => { status.textContent = ''; }")
        self.page.set_input_files("#folder", str(folder))
        self.page.locator("#status").filter(has_text="predicted in").wait_for()

    def table(self, of: str = "images") -> list[dict[str, str]]:
        """What is saved as CSV of 'images' or 'patients'."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=f"Save {of} as CSV").click()
        text = Path(download.value.path()).read_text("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text)))

    def clear(self) -> None:
        self.page.get_by_role("button", name="Remove all").click()

    def close(self) -> None:
        self.page.context.close()
        self.served.close()


def serious(page: Any) -> list[str]:
    """What axe-core finds serious or critical: rule, and the first element each.

    Needs axe-core in `SSCJAX_AXE`, the archive that `npm pack axe-core` fetches.
    """
    named = os.environ.get("SSCJAX_AXE", "")
    if not named:
        # From npm, not from pip.
        pytest.skip("no axe-core: set SSCJAX_AXE to the archive that `npm pack axe-core` fetches")
    with tarfile.open(named) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        page.evaluate(file.read().decode("utf-8"))
    violations = page.evaluate("axe.run(document).then((found) => found.violations)")
    return [
        f"{one['id']}: {one['nodes'][0]['html']}"
        for one in violations
        if one["impact"] in ("serious", "critical")
    ]


def new_page(browser: Any, **settings: Any) -> Any:
    """A page with all the time that a machine with other work to do may need."""
    context = browser.new_context(**settings)
    context.set_default_timeout(180_000)
    context.set_default_navigation_timeout(180_000)
    return context.new_page()


def until(page: Any, true: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether something comes true in this time; asked four times a second."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        page.wait_for_timeout(250)
    return found


def open_page(browser: Any, folder: Path, **settings: Any) -> Opened:
    """Serve an exported page and open it; `settings` are those of a browser's context."""
    served = Served(folder)
    page = new_page(browser, **settings)
    said: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(served.url)
    page.wait_for_selector("body[data-ready]")
    return Opened(page, served, said, requests)
