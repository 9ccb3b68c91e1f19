"""A study's state is its folder's: running by the lock, and how far by a file of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sscjax import main
from sscjax.app.access import Keys
from sscjax.app.desk import Desk, Options
from sscjax.app.study import Study
from sscjax.errors import UserError
from sscjax.system import run_dir
from sscjax.system.whole_run import Step, WholeRun

COMMAND = ["skin", "--classes=a,b", "--workdir", "elsewhere", "--fresh", "--config.seed=1"]


def start(folder: Path, status: str = "started") -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"status": status, "config": {}, "data": {}, "folds": [], "command": COMMAND}
    (folder / run_dir.PROTOCOL).write_text(json.dumps(record))
    return Study(folder)


# Another process that trains, until its input ends.
HOLD = """
import sys
from pathlib import Path
from sscjax.system import locks
with locks.Lock(Path(sys.argv[1])) as lock:
    lock.take()
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(Options(tmp_path, config="smoke"), Keys(1))
    yield made
    made.jobs.close(print)


def test_the_status_is_read_from_the_folder(desk: Desk, tmp_path: Path) -> None:
    assert desk.status(desk.study("new")) == "none"
    study = start(tmp_path / "skin")
    assert desk.status(study) == "interrupted"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, study.folder], **pipes) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert desk.status(study) == "running" and study.holder() == other.pid
        with pytest.raises(UserError, match="already"):
            desk.train(study, tmp_path, ["a", "b"])
    assert desk.status(study) == "interrupted"
    assert desk.status(start(tmp_path / "skin", "finished")) == "finished"
    with pytest.raises(UserError, match="was not interrupted"):
        desk.resume(study)


def test_a_run_is_resumed_by_its_own_command_in_its_own_folder(tmp_path: Path) -> None:
    study = start(tmp_path / "skin")
    words = ["train", "skin", "--classes=a,b", "--config.seed=1", f"--workdir={study.folder}"]
    assert study.resume_words() == words
    (study.folder / run_dir.PROTOCOL).write_text('{"status": "started", "config": {}, "data": {}}')
    with pytest.raises(UserError, match="how it was started"):
        study.resume_words()


def test_progress_is_that_of_the_run_and_goes_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "skin"
    study = Study(folder)
    with WholeRun() as whole:
        whole.write_to(folder / run_dir.PROGRESS)
        whole.plan(Step("fold", "fold 1 of 2"), Step("fold", "fold 2 of 2"))
        with whole.step():
            assert study.progress() is None and not folder.exists()  # the run makes it
        folder.mkdir()
        whole.expect({"fold": 100.0})
        with whole.step():
            state = study.progress()
            assert state is not None and state["title"] == "fold 2 of 2"
            assert (state["done"], state["steps"]) == (1, 2)
            path = folder / run_dir.PROGRESS
            kept = json.loads(path.read_text())
            path.write_text(json.dumps({**kept, "left": 50.0}))
            os.utime(path, (time.time() - 20,) * 2)
            state = study.progress()
            assert state is not None and state["left"] == pytest.approx(30, abs=5)
            path.write_text("{")
            assert study.progress() is None
    assert list(folder.iterdir()) == []


def test_classes_reach_the_command_as_they_are(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(desk.jobs, "start", lambda key, words: started.append(list(words)))
    names = ["normal", "early, mild", "it's late"]
    for classes in (names, names[:1], ["a b", "c"]):
        desk.train(desk.study("skin"), tmp_path, classes)
        given = main.parse(started[-1][2:])
        assert list(given.config.data.classes) == classes
        assert given.workdir == str(tmp_path / "skin") and given.config.name == tmp_path.name
