"""The exported page without a network, and after another export took its place on the server.

Needs what `test_page.py` needs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from browsing import Opened, Served, new_page, open_page, until

from sscjax.export import web

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

pytest.importorskip("onnx", reason="the extra 'export' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


STORED = "stored on this device and works offline"
ONLINE = "works only while its server can be reached"


UPDATE = "navigator.serviceWorker.ready.then((worker) => worker.update()).catch(() => 0)"


def test_works_without_a_network(opened: Opened, tiles: list[Path]) -> None:
    page = opened.page
    page.locator("#stored").filter(has_text=STORED).wait_for()
    opened.served.close()
    for name in ("", "index.html"):
        page.goto(f"{opened.served.url}{name}")
        page.wait_for_selector("body[data-ready]")
    opened.give(tiles[0])
    assert len(opened.table()) == 1
    assert page.locator("#newer").is_hidden()


def changed(site: Path, place: Path, threshold: float) -> Path:
    """Another export: the same network with another threshold."""
    shutil.copytree(site, place)
    about = json.loads(next(site.glob("*/model.json")).read_text("utf-8"))
    about["rules"]["subject"]["threshold"] = threshold
    content = {path.name: path.read_bytes() for path in site.glob("*/*")}
    content["model.json"] = json.dumps(about).encode()
    shutil.rmtree(next(path for path in place.iterdir() if path.is_dir()))
    index, worker = (web.site_files()[name] for name in (web.INDEX, web.OFFLINE))
    web.write_files(place, content, index, worker)
    return place


def replaced(served: Path, by: Path) -> None:
    shutil.rmtree(served)
    shutil.copytree(by, served)


def threshold_said(page: Any) -> str:
    page.wait_for_selector("body[data-ready]")
    return str(page.locator("#facts dt:text-is('Disease, of a patient') + dd").text_content())


def reloaded(page: Any) -> str:
    # Asked for: by itself the browser looks a second after a page was last loaded, so that one
    # loaded again and again is never updated.
    page.evaluate(UPDATE)
    page.wait_for_timeout(500)
    try:
        page.reload(timeout=20_000)
    except sync_api.TimeoutError:
        # While one worker takes over from another, Chromium on a busy machine may never answer a
        # reload. Whoever reads the page loads it once more.
        return ""
    return threshold_said(page)


def caches_of(page: Any) -> list[str]:
    return list(page.evaluate("caches.keys()"))


def test_another_export_takes_over_and_says_so(browser: Any, site: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    shutil.copytree(site, served)
    found = open_page(browser, served)
    page = found.page
    page.locator("#stored").filter(has_text=STORED).wait_for()
    [first] = caches_of(page)
    replaced(served, changed(site, tmp_path / "next", 0.125))
    page.reload()  # what is kept answers once more, and says what it is
    assert "12.5 %" not in threshold_said(page)
    page.get_by_role("alert").filter(has_text="The server has another export").wait_for()
    assert until(page, lambda: "12.5 %" in reloaded(page))
    page.locator("#stored").filter(has_text=STORED).wait_for()
    assert page.locator("#newer").is_hidden()
    assert len(caches_of(page)) == 1 and first not in caches_of(page)
    found.close()


def test_a_damaged_update_leaves_the_earlier_export_in_use(
    browser: Any, site: Path, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    shutil.copytree(site, served)
    found = open_page(browser, served)
    page = found.page
    page.locator("#stored").filter(has_text=STORED).wait_for()
    before = caches_of(page)
    replaced(served, changed(site, tmp_path / "next", 0.125))
    model = next(served.glob("*/model.onnx"))
    content = model.read_bytes()
    model.write_bytes(content[: len(content) // 2])
    page.reload()
    page.evaluate(UPDATE)
    page.wait_for_timeout(1000)
    page.reload()
    assert "12.5 %" not in threshold_said(page)
    # What was begun to be kept goes again, each time that it is tried.
    assert until(page, lambda: caches_of(page) == before)
    # The rest arrives, and is taken.
    model.write_bytes(content)
    assert until(page, lambda: "12.5 %" in reloaded(page))
    found.close()


def test_two_exports_of_a_server_keep_their_own(browser: Any, site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "all" / "one")
    changed(site, tmp_path / "all" / "two", 0.125)
    served = Served(tmp_path / "all")
    page = new_page(browser)
    for name in ("one", "two"):
        page.goto(f"{served.url}{name}/")
        page.locator("#stored").filter(has_text=STORED).wait_for()
    assert len(caches_of(page)) == 2
    served.close()
    for name, said in (("one", False), ("two", True)):
        page.goto(f"{served.url}{name}/")
        assert ("12.5 %" in threshold_said(page)) == said
    page.context.close()


def test_a_page_that_cannot_be_kept_works_and_says_so(
    browser: Any, site: Path, tmp_path: Path
) -> None:
    """No service worker; and plain http from another machine, where hashes are missing, too."""
    shutil.copytree(site, tmp_path / "page")
    (tmp_path / "page" / "offline.js").unlink()
    found = open_page(browser, tmp_path / "page")
    found.page.locator("#stored").filter(has_text=ONLINE).wait_for()
    assert found.page.locator("#title").inner_text().startswith("Which of")
    found.close()
    page = new_page(browser)
    page.route("http://clinic.test/**", lambda route: handed(route, site))
    page.goto("http://clinic.test/")
    page.locator("#stored").filter(has_text=ONLINE).wait_for()
    assert not page.evaluate("isSecureContext")
    page.context.close()


def handed(route: Any, site: Path) -> None:
    path = site / (route.request.url.split("/", 3)[3] or "index.html")
    route.fulfill(path=str(path)) if path.is_file() else route.fulfill(status=404)
