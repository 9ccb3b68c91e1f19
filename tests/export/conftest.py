"""Runs that the tests of this folder export, and the page of one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Opened, open_page
from exported import Runs

from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, quick_compiler: None, runs: Runs, runtime: Path
) -> Path:
    """The exported page of MobileNetV2."""
    folder = tmp_path_factory.mktemp("page") / "page"
    text = export_file.export(runs("mobilenet_v2"), "web", folder, ExportOptions(ort_web=runtime))
    assert "0 decisions differ" in text and "python -m http.server" in text
    return folder


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Opened]:
    """The page in Chromium."""
    page = open_page(browser, site)
    yield page
    page.close()


@pytest.fixture(scope="session")
def tiles(request: pytest.FixtureRequest, runs: Runs) -> list[Path]:
    """200 real tiles, or the synthetic ones of the runs."""
    try:
        shared = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return sorted(runs.images.rglob("*.png"))
    paths = sorted((shared / "data" / "prostate_gleason").glob("*/*.jpg"))
    return paths[:: len(paths) // 200][:200]
