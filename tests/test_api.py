"""The public functions: importing them, the notebook's page, their examples."""

from __future__ import annotations

import doctest
import inspect
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from snippets import page

import sscjax
from sscjax.data.dataset import ImageSet
from sscjax.evaluation import result
from sscjax.experiments import api

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What docs/notebook.md leaves behind, run as it stands: MobileNetV2 in two stages."""
    names: dict[str, Any] = {"folder": tmp_path_factory.mktemp("notebook")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(names["folder"])
        exec(page("notebook.md"), names)
    return SimpleNamespace(**names)


def _process(code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(sscjax.__file__).parent.parent,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_is_quick_and_changes_nothing() -> None:
    took, heavy, same, missing = _process(
        "import json, logging, os, sys, time\n"
        "def state(): return [list(sys.path), dict(os.environ), logging.root.level,"
        " len(logging.root.handlers), sorted(logging.root.manager.loggerDict)]\n"
        "before, start = state(), time.process_time()\n"
        "import sscjax\n"
        "took = time.process_time() - start\n"
        "heavy = [name for name in ('numpy', 'jax', 'ml_collections') if name in sys.modules]\n"
        "same = before == state()\n"
        "missing = sorted(set(sscjax.__all__) - set(dir(sscjax)))\n"
        "print(json.dumps([took, heavy, same, missing]))"
    )
    assert took < 0.1 and heavy == [] and same and missing == []


def test_using_it_leaves_loggers_and_allocator_alone() -> None:
    """What other libraries do when they are imported is theirs."""
    code = (
        "import json, logging, sys\n"
        "import absl.logging, jax, matplotlib, orbax.checkpoint\n"
        "def state(): return [[logging.getLogger(n).level for n in"
        " ('', 'absl', 'orbax', 'sscjax')],"
        " list(sys.path), jax.config.values['jax_cpu_enable_async_dispatch'],"
        " jax.config.values['jax_compilation_cache_dir']]\n"
        "before = state()\n"
        "from sscjax import fit, load, run\n"
        "print(json.dumps([before, state()]))"
    )
    before, after = _process(code)
    assert before == after


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = sscjax.fitt
    assert all(getattr(sscjax, name) is getattr(api, name) for name in sscjax.__all__)


@pytest.mark.slow
def test_the_page_runs_as_it_stands(notebook: SimpleNamespace) -> None:
    count = len(notebook.train)
    assert notebook.features.shape == (count, 1280) and np.isfinite(notebook.features).all()
    assert notebook.lower.shape == (count, 8 + 1280)
    np.testing.assert_allclose(notebook.lower[:, 8:], notebook.features, rtol=1e-4, atol=1e-6)
    assert notebook.maps.shape == (4, 32, 32) and notebook.maps.max() == 1
    probabilities = notebook.classifier.predict_proba(notebook.test.images)
    np.testing.assert_array_equal(probabilities, notebook.probabilities)
    assert (notebook.folder / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert (notebook.folder / "runs" / "smoke" / "report.html").is_file()


@pytest.mark.slow
def test_everything_is_short_when_printed(notebook: SimpleNamespace) -> None:
    many = notebook.classifier.predict(np.zeros((100, 32, 32, 3), np.uint8))
    values = [getattr(notebook, name) for name in ("data", "train", "model", "classifier", "run")]
    values += [notebook.train.images, notebook.run.predictions, notebook.result["accuracy"]]
    for value in (*values, sscjax.Head()):
        assert len(repr(value)) < 600 and "\n" not in repr(value)
    for table in (notebook.result, many):
        assert len(repr(table)) < 3000 and max(map(len, repr(table).splitlines())) <= 100
    names = tuple(f"class {k} of a large set" for k in range(300))
    texts = np.arange(300).astype(str)
    large = ImageSet(np.zeros((300, 8, 8, 3), np.uint8), np.arange(300), texts, texts, names)
    assert repr(large) == "ImageSet(300 images of 300 subjects, 8x8 pixels: 300 classes)"


@pytest.fixture
def plain_logging() -> Iterator[None]:
    """Examples print what they return, and no warning of a run."""
    logging.getLogger("sscjax").setLevel(logging.ERROR)
    yield
    logging.getLogger("sscjax").setLevel(logging.NOTSET)


@pytest.mark.usefixtures("plain_logging")
@pytest.mark.parametrize(
    "function",
    [
        *(api.load_images, api.create_model, api.extract_features, api.fit, api.load, api.run),
        *(result.evaluate, ImageSet.split),
    ],
    ids=lambda function: function.__name__,
)
def test_examples_of_the_docstrings(function: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in text
    examples = doctest.DocTestParser().get_doctest(text, {}, function.__name__, None, 0)
    assert examples.examples
    failed = doctest.DocTestRunner().run(examples)
    assert failed.failed == 0
