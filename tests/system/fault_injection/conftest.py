"""What the tests of faults have in common.

After every fault the same command ends with the same bits as the run that nothing disturbed.
`scripts/faults.py` does the same to complete programs, at random moments.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty_runs
import pytest
from small_runs import small_config

from sscjax.experiments import single_run, summarize
from sscjax.inference import explanations
from sscjax.reports import html
from sscjax.system import files
from sscjax.training import checkpoint


@contextlib.contextmanager
def without_pictures() -> Iterator[None]:
    """Pictures take most of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        patch.setattr(explanations, "write", lambda *args: None)
        patch.setattr(html, "write", lambda folder: files.write_text(folder / "report.html", "x"))
        yield


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    with without_pictures():
        yield


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; never changed, only copied."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    with without_pictures():
        single_run.run(small_config(), folder)
    return folder


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped after the second epoch of its second stage; never changed, only copied."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    saves: list[int] = []
    save = checkpoint.Checkpoints.save

    def stop(self: checkpoint.Checkpoints, step: int, *rest: Any) -> None:
        save(self, step, *rest)
        saves.append(step)
        if len(saves) == 6:
            raise KeyboardInterrupt

    with (
        without_pictures(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.suppress(KeyboardInterrupt),
    ):
        patch.setattr(checkpoint.Checkpoints, "save", stop)
        single_run.run(small_config(), folder)
    assert faulty_runs.numbers(folder) == [1_000_001_000_000, 1_000_002_000_000]
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the stopped run."""
    return shutil.copytree(stopped, tmp_path / "run")
