"""What all tests share: strict JAX, a compilation cache, and where optional real data lies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import browsing
import jax
import pytest

from sscjax.export import ort_web
from sscjax.reports.html.openseadragon import PACKAGE as openseadragon_package
from sscjax.system import machine
from sscjax.system.npm_package import Package

if TYPE_CHECKING:
    import exported

REPOSITORY = Path(__file__).resolve().parent.parent

# Broadcasting between ranks hides layout mistakes: make it an error.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling takes most of the tests' time: what one process compiled, the others need not.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = REPOSITORY / ".pytest_cache" / "xla" / machine.parallelism()
    jax.config.update("jax_compilation_cache_dir", str(_programs))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# Files that take long, the slowest first; several processes share the rest behind them.
SLOWEST = (
    *("test_export_real", "test_damaged_files", "test_disks", "test_signals", "test_two_runs"),
    *("test_long_runs", "test_page", "test_page_offline", "test_mobilenet_unet"),
    *("test_export", "test_single_run", "test_all_folds", "test_equivalence", "test_unet_runs"),
    *("test_hostile_runs", "test_mobilenet_v2", "test_train_step", "test_convolutions"),
    *("test_privacy", "test_linear_probe", "test_provenance", "test_whole_slides"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files in another order, their tests in their own."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing that earlier runs kept is found, and nothing is left in the user's cache folder."""
    os.environ["SSCJAX_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """A command that a test calls sends the log to that test's standard error stream."""
    log = logging.getLogger("sscjax")
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    yield
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)


@pytest.fixture(scope="module")
def quick_compiler() -> Iterator[None]:
    """For programs that run briefly: compiling them well takes most of a test's time.

    Not where the result might depend on it: the layers' numbers, the equivalence with other
    libraries and whole runs are tested as users compile them.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of optional real images and weights (`SSCJAX_TEST_DATA`), or a loud skip."""
    default = REPOSITORY.parent / "shared"
    folder = Path(os.environ.get("SSCJAX_TEST_DATA", default))
    if not folder.is_dir():
        # Optional: real images and third-party weights are not part of the project.
        pytest.skip(f"no real data: {folder} does not exist; set SSCJAX_TEST_DATA to a folder")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = browsing.chromium()
    if found is None:
        # Not among what pip installs.
        pytest.skip("no Chromium: apt-get install chromium, or its like")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=found, args=["--disable-background-networking"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The archive of onnxruntime-web that an exported page brings along."""
    return _packed("SSCJAX_ORT_WEB", ort_web.PACKAGE)


@pytest.fixture(scope="session")
def openseadragon() -> Path:
    """The archive of OpenSeadragon that pages of slides bring along."""
    return _packed("SSCJAX_OPENSEADRAGON", openseadragon_package)


def _packed(variable: str, package: Package) -> Path:
    named = os.environ.get(variable, "")
    if not named:
        # From npm, not from pip.
        pytest.skip(f"no {package.name}: set {variable}, {package.hint}")
    return Path(named)


# ---- tests/export --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> exported.Runs:
    """Runs to export, each trained when it is first used."""
    import exported

    return exported.Runs(tmp_path_factory)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    quick_compiler: None,
    runs: exported.Runs,
    runtime: Path,
) -> Path:
    """The exported page of MobileNetV2."""
    import exported

    return exported.page(runs("mobilenet_v2"), tmp_path_factory.mktemp("page") / "page", runtime)


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[browsing.Opened]:
    """The page in Chromium."""
    page = browsing.open_page(browser, site)
    yield page
    page.close()


@pytest.fixture(scope="session")
def tiles(request: pytest.FixtureRequest, runs: exported.Runs) -> list[Path]:
    """200 real tiles, or the synthetic ones of the runs."""
    try:
        shared = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        return sorted(runs.images.rglob("*.png"))
    paths = sorted((shared / "data" / "prostate_gleason").glob("*/*.jpg"))
    return paths[:: len(paths) // 200][:200]
