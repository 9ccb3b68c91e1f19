"""Two runs in one folder: the second is refused, and locks are released."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import fault_runs
import faulty_runs
import pytest
from small_runs import small_config

from sscjax.errors import UserError
from sscjax.experiments import data_from_config, single_run
from sscjax.experiments.cross_validation import all_folds
from sscjax.system import files, locks, run_dir
from sscjax.training import validation

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and small disks are POSIX'"),
    # Orbax reads all arrays at once: when one is damaged it leaves the others unawaited.
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ),
]


HOLDER = """
import sys
from pathlib import Path
from sscjax.system import locks
lock = locks.Lock(Path(sys.argv[1]))
lock.take()
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_second_run_is_refused_until_the_first_ends(run: Path) -> None:
    """However the first ends: it is killed here, and its lock file stays."""
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    first = faulty_runs.start(HOLDER, str(run))
    try:
        with pytest.raises(UserError, match=f"another run is using this .* .process {first.pid} "):
            single_run.run(small_config(), run)
        with pytest.raises(UserError, match="another run is using"):
            single_run.run(small_config(), run, fresh=True)
    finally:
        first.kill()
        first.wait()
        assert first.stdin is not None
        first.stdin.close()
    left = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert left.pop(run / locks.NAME) and left == before
    with locks.Lock(run) as lock:
        lock.take()
        lock.check()


def test_second_protocol_is_refused(tmp_path: Path) -> None:
    config = small_config()
    config.protocol = "kfold"
    files.write_text(tmp_path / "run" / run_dir.PROTOCOL, "{}")
    with locks.Lock(tmp_path / "run") as lock:
        lock.take()
        with pytest.raises(UserError, match="another run is using"):
            all_folds.run(config, tmp_path / "run")


@pytest.mark.slow
def test_two_runs_begin_at_once_in_a_new_folder(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the second reads its images the first begins, and even ends."""
    load = data_from_config.load_images

    def meanwhile(config: Any) -> Any:
        shutil.copytree(undisturbed, tmp_path / "run")
        return load(config)

    monkeypatch.setattr(data_from_config, "load_images", meanwhile)
    config = small_config()
    config.seed = 1
    with pytest.raises(UserError, match="another run was started there just now"):
        single_run.run(config, tmp_path / "run")
    assert fault_runs.compare(undisturbed, tmp_path / "run") == []


def test_lock_of_a_removed_file_is_no_lock(tmp_path: Path) -> None:
    one, two = locks.Lock(tmp_path), locks.Lock(tmp_path)
    one.take()
    one.check()
    (tmp_path / locks.NAME).unlink()
    two.take()
    with pytest.raises(UserError, match="was moved, removed or replaced"):
        one.check()
    one.release()  # not the other's file
    two.check()
    two.release()
    assert not list(tmp_path.iterdir())


def test_lock_where_no_folder_is(tmp_path: Path) -> None:
    with locks.Lock(tmp_path / "none") as lock:
        lock.take()
        lock.check()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    import fcntl

    def refuse(*args: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locks.Lock(tmp_path) as lock:
        lock.take()
        lock.check()
        (tmp_path / locks.NAME).unlink()
        with pytest.raises(UserError, match="was moved, removed or replaced"):
            lock.check()
    (warning,) = caplog.records
    assert "has no locks" in warning.getMessage() and not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_lock_given_back_while_another_waits_to_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that the second opened is removed before the second locks it."""
    import fcntl

    first, second = locks.Lock(tmp_path), locks.Lock(tmp_path)
    first.take()
    flock, calls = fcntl.flock, []

    def meanwhile(descriptor: int, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            first.release()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    second.take()
    second.check()
    with pytest.raises(UserError, match=f"using this folder .process {os.getpid()} on"):
        first.take()
    second.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_folder_is_moved_while_a_run_is_at_work(
    run: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate, away = validation.validate, run.with_name("away")

    def move(*args: Any) -> Any:
        run.rename(away)
        monkeypatch.setattr(validation, "validate", validate)
        return validate(*args)

    monkeypatch.setattr(validation, "validate", move)
    with pytest.raises(UserError, match="was moved, removed or replaced while a run was using it"):
        single_run.run(small_config(), run)
    assert not run.exists()
    away.rename(run)
    faulty_runs.assert_ends_alike(run, undisturbed)
