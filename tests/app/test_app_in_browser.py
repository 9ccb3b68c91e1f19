"""The whole app in Chromium: from a folder to predictions and an export, by keyboard alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from browsing import new_page, serious, until
from image_folders import write_image

from sscjax.app.access import PAGE_POLICY
from sscjax.system import locks

pytestmark = [pytest.mark.slow, pytest.mark.extra]
pytest.importorskip("uvicorn", reason="needs the extra 'app'")

CONFIG = """
from sscjax.configs import best

def get_config():
    config = best.get_config()
    config.data.image_size, config.pretrained = 32, "none"
    config.model.name, config.model.feature_layers = "cnn", ()
    config.model.cnn_widths, config.model.cnn_dense = (4,), ()
    config.cv.folds, config.cv.repeats = 2, 1
    config.stages.head.l2 = (0.1, 1.0)
    return config
"""


@dataclasses.dataclass
class App:
    """The program in a folder, as a user starts it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it; returns the address that it prints."""
        words = ["app", "--no-browser", "--runs=runs", "--config=quick.py"]
        log = (self.folder / "log.txt").open("wb")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sscjax", *words], cwd=self.folder, stderr=log
            )
        return self.address()

    def printed(self) -> str:
        return (self.folder / "log.txt").read_text(encoding="utf-8")

    def address(self) -> str:
        """The newest address."""
        end = time.monotonic() + 60
        while not (found := re.findall(r"http://\S+\?token=\S+", self.printed())):
            assert time.monotonic() < end, self.printed()
            time.sleep(0.05)
        return str(found[-1])

    def stop(self) -> int:
        """Ctrl-C."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    (folder / "quick.py").write_text(CONFIG, encoding="utf-8")
    made = App(folder)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


def reach(page: Any, target: Any, most: int = 40) -> None:
    """Go to something by the Tab key alone; what is reached is marked."""
    for _ in range(most):
        if target.evaluate("(element) => element === document.activeElement"):
            outline = target.evaluate("(element) => getComputedStyle(element).outlineStyle")
            assert outline not in ("", "none")
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{target} cannot be reached by the keyboard")


def press(page: Any, role: str, name: str | re.Pattern[str]) -> None:
    """Press a button or follow a link by the keyboard."""
    target = page.get_by_role(role, name=name).first
    target.wait_for()
    reach(page, target)
    page.keyboard.press("Enter")


def write(page: Any, label: str, text: str) -> None:
    reach(page, page.get_by_label(label))
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(text)


def choose(page: Any, label: str, *files: Path) -> None:
    target = page.get_by_label(label, exact=True)
    with page.expect_file_chooser() as chooser:
        reach(page, target)
        page.keyboard.press("Enter")
    chooser.value.set_files([str(file) for file in files] if len(files) > 1 else str(files[0]))


@dataclasses.dataclass
class Seen:
    """A page, and what it asked for and said."""

    page: Any
    said: list[str]
    requests: list[str]


@pytest.fixture
def seen(browser: Any) -> Iterator[Seen]:
    page = new_page(browser, viewport={"width": 390, "height": 800})
    made = Seen(page, [], [])
    page.context.on("console", lambda message: made.said.append(message.text))
    page.context.on("weberror", lambda error: made.said.append(str(error.error)))
    page.context.on("request", lambda request: made.requests.append(request.url))
    yield made
    page.context.close()


@contextlib.contextmanager
def paused(study: Path) -> Iterator[None]:
    """Its training, which takes seconds, waits for what may take longer on a busy machine."""
    pid = locks.Lock(study).holder()
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def good(page: Any) -> bool:
    """Whether everybody can use the page, and it fits on a phone."""
    assert serious(page) == []
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wide)
    return True


def checked(seen: Seen, app: App) -> Any:
    """The folder of images is chosen and looked at; ends with the button that starts."""
    page = seen.page
    page.goto(app.start())
    page.wait_for_url(re.compile(r"/$"))
    assert good(page)
    press(page, "link", "New study")
    write(page, "Folder on this computer", str(app.folder / "skin"))
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="skin").wait_for()
    assert good(page)
    press(page, "button", "Use this folder")
    page.get_by_role("button", name="Start training").wait_for()
    page.locator("body:not([data-poll])").wait_for()
    return page


def test_from_a_folder_to_an_export_by_keyboard_alone(app: App, seen: Seen) -> None:
    for name, patient, image in ((n, p, k) for n in "abc" for p in range(4) for k in range(2)):
        number = 100 * ord(name) + 10 * patient + image
        write_image(
            app.folder / "skin" / f"{name}_class" / f"{name}{patient}" / f"{image}.png", number
        )
        if patient == 0:
            write_image(app.folder / "new" / f"new_{name}" / f"{image}.png", 7 + number)
    page = checked(seen, app)

    # What was understood, what the audit found, how long it will take.
    rows = page.locator("#understood tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [[f"{name}_class", "8", "4"] for name in "abc"]
    assert "fold" in page.locator("#forecast").inner_text()
    assert "about" in page.locator("#forecast").inner_text()
    assert good(page)
    press(page, "button", "Move c_class up")
    assert page.get_by_text("c_class is now number 2 of 3.").is_visible()
    write(page, "Name of the study", "my study")
    press(page, "button", "Start training")

    # Another tab finds it when the first one is closed.
    page.locator(".figures, .problem, .big").first.wait_for()
    study = app.folder / "runs" / "my study"
    with paused(study):
        assert page.locator(".figures").count() == 1, page.locator("main").inner_text()
        assert good(page)
        other = page.context.new_page()
        other.goto(page.url)
        page.close()
        other.locator(".figures").wait_for()
        assert other.get_by_role("progressbar").is_visible()

    # Ctrl-C keeps what was done; the next start offers to resume.
    assert app.stop() == 0
    other.get_by_text("The program has ended").wait_for()
    assert '"status": "started"' in (study / "protocol.json").read_text("utf-8")
    other.goto(app.start())
    other.get_by_text("interrupted").wait_for()
    press(other, "link", "my study")
    other.get_by_role("heading", name="Interrupted").wait_for()
    assert good(other)
    press(other, "button", "Resume")
    other.get_by_role("heading", name="What is next").wait_for()
    assert re.search(
        r"12 patients .* right, \d+ % \(\d+ to \d+ %\)", other.locator(".big").inner_text()
    )
    assert good(other)
    with other.context.expect_page() as opened:
        press(other, "link", "Read the report")
    opened.value.get_by_role("heading", name="At a glance").wait_for()
    opened.value.close()

    # New patients: two by their folders, one image alone.
    press(other, "link", "Predict for new patients")
    other.get_by_label("A folder").wait_for()
    choose(other, "A folder", app.folder / "new")
    choose(other, "Images", *sorted((app.folder / "skin" / "a_class" / "a1").iterdir()))
    assert "6 images in 3 folders, 2 images without" in other.locator("#chosen").inner_text()
    assert good(other)
    write(other, "Name of the patient", "alone")
    press(other, "button", "Predict")
    other.locator("ul.studies a").wait_for()
    assert not list((study / ".uploads.tmp").iterdir())
    reach(other, other.locator("ul.studies a"))
    other.keyboard.press("Enter")
    other.get_by_role("heading", name="Predictions of").wait_for()
    rows = other.locator("tbody th").all_inner_texts()
    assert rows == ["alone", "new_a", "new_b", "new_c"]
    assert good(other)

    # The model is handed on.
    press(other, "link", "Hand on")
    other.get_by_role("heading", name="Hand the model on").wait_for()
    assert good(other)
    pytest.importorskip("onnxruntime", reason="the rest needs the extra 'export'")
    press(other, "button", "Make it: An ONNX file")
    with other.expect_download() as download:
        press(other, "link", "Save my_study.onnx")
    exported = study / "exports" / "my_study.onnx"
    assert Path(download.value.path()).read_bytes() == exported.read_bytes()

    own = re.compile(r"http://127\.0\.0\.1:\d+/")
    assert [url for url in seen.requests if not own.match(url)] == []
    # The page asks for its state in vain while the program is not there.
    assert [text for text in seen.said if "ERR_CONNECTION" not in text] == []


def test_nobody_else_is_answered(app: App, browser: Any) -> None:
    """Real requests: without the cookie, for other hosts, from other pages, out of the folder."""
    if app.process is None or app.process.poll() is not None:
        app.start()
    first = app.address()
    origin = first.partition("/?")[0]
    assert requests.get(origin, timeout=30).status_code == 403
    session = requests.Session()
    assert session.get(first, timeout=30).status_code == 200
    cookies: list[Any] = list(session.cookies)
    (cookie,) = cookies
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite")
    assert until(new_page(browser), lambda: app.address() != first)
    assert requests.get(first, timeout=30).status_code == 403

    home = session.get(origin, timeout=30)
    assert home.status_code == 200 and home.headers["Content-Security-Policy"] == PAGE_POLICY
    for headers in (
        {"Host": "evil.example"},
        {"Host": origin.removeprefix("http://").replace("127.0.0.1", "localhost")},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert session.get(origin, headers=headers, timeout=30).status_code == 403
    assert session.post(f"{origin}/look", {"path": "/"}, timeout=30).status_code == 403

    secret = app.folder / "quick.py"
    for path in ("../../quick.py", "..%2f..%2fquick.py", str(secret), "%2e%2e/%2e%2e/quick.py"):
        for name in ("my%20study", "..", "%2e%2e", "runs"):
            url = f"{origin}/studies/{name}/files/{path}"
            request = requests.Request("GET", url, cookies=session.cookies).prepare()
            request.url = url  # as it stands: `requests` would take the dots away
            answer = session.send(request, timeout=30)
            assert answer.status_code in (400, 404) and "get_config" not in answer.text
