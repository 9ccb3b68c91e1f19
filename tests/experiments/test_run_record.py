"""Deleting a run: wherever its folder is, and whenever it is killed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_config

from sscjax.errors import UserError
from sscjax.experiments import run_record, single_run
from sscjax.experiments.cross_validation import all_folds
from sscjax.system import locks, run_deletion, run_dir


def put_run(folder: Path, file: str = run_dir.RECORD) -> Path:
    """What a run leaves, as far as deleting is concerned."""
    for name in (file, "splits.csv", "checkpoints/head/1/array", ".splits.csv.x.tmp"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    return folder


def test_a_folder_loses_its_run_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount point, a link and the folder of the command must stay what they are."""
    run = put_run(tmp_path / "disk" / ("r" * 250))
    before = run.stat()
    (tmp_path / "link").symlink_to(run)
    with locks.Lock(run) as lock:
        lock.take()
        run_deletion.delete(tmp_path / "link")
        lock.check()
        assert [path.name for path in run.iterdir()] == [locks.NAME]
    put_run(run)
    monkeypatch.chdir(run)
    run_deletion.delete(Path())
    assert run.stat().st_ino == before.st_ino and not list(run.iterdir())
    assert (tmp_path / "link").resolve() == run and Path.cwd() == run
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").touch()
    (run / "images").symlink_to(tmp_path / "images")
    run_deletion.delete(run)
    assert not list(run.iterdir()) and (tmp_path / "images" / "one.png").exists()


class Killed(BaseException):
    """In place of a signal that nothing can catch."""


def kill_at(patch: pytest.MonkeyPatch, moment: int) -> None:
    """End the program before its `moment`th change of a folder by `record`."""
    count = iter(range(1000))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(count) == moment:
                raise Killed
            return function(*args, **options)

        return call

    patch.setattr(Path, "rename", counted(Path.rename))
    patch.setattr(Path, "unlink", counted(Path.unlink))
    patch.setattr(shutil, "rmtree", counted(shutil.rmtree))


@pytest.mark.parametrize("moment", range(6))
def test_killed_deletion_is_ended_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """A run is there whole, or none is, and then the next start finds nothing of it."""
    run = put_run(tmp_path / "run")
    with pytest.raises(Killed), monkeypatch.context() as patch:
        kill_at(patch, moment)
        run_deletion.delete(run)
    run_deletion.refuse_other_contents(run)
    left = {path.relative_to(run) for path in run.rglob("*") if "tmp" not in path.suffix}
    run_deletion.clear(run)
    if moment == 0:
        assert left == {path.relative_to(run) for path in put_run(run).rglob("*")} - {
            Path(".splits.csv.x.tmp")
        }
    else:
        assert Path(run_dir.RECORD) not in left and not list(run.iterdir())
    run_deletion.delete(run)
    assert not list(run.iterdir())


@pytest.mark.parametrize("fresh", (False, True))
def test_programs_clear_what_a_killed_deletion_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: bool
) -> None:
    config = small_config()
    config.data.path = str(tmp_path / "missing")
    several = small_config()
    several.data.path, several.protocol = config.data.path, "kfold"

    def stop(*args: Any) -> None:
        raise UserError("missing")

    monkeypatch.setattr(run_record, "versions", stop)
    starts: dict[str, Callable[[Path], Any]] = {
        run_dir.RECORD: lambda folder: single_run.run(config, folder, fresh=fresh),
        run_dir.PROTOCOL: lambda folder: all_folds.run(several, folder, fresh=fresh),
    }
    for file, start in starts.items():
        run = put_run(tmp_path / file, file)
        with pytest.raises(Killed), monkeypatch.context() as patch:
            kill_at(patch, 2)
            run_deletion.delete(run, file)
        with pytest.raises(UserError, match="missing"):
            start(run)
        assert not list(run.iterdir())


def test_disk_within_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and no run any more; without the disk the next start ends it."""
    run, rename = put_run(tmp_path / "run"), Path.rename

    def busy(path: Path, target: Path) -> Path:
        if path.name == "checkpoints":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", busy)
        with pytest.raises(UserError, match="checkpoints of a run .* cannot be moved .*by hand"):
            run_deletion.delete(run)
    assert run_dir.read(run) is None and (run / "checkpoints").is_dir()
    run_deletion.refuse_other_contents(run)
    run_deletion.clear(run)
    assert not list(run.iterdir())


def test_what_cannot_be_deleted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = put_run(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        run_deletion.delete(run)
    assert "these remains of a deleted run cannot be deleted; delete them by hand" in caplog.text
    run_deletion.clear(run)
    assert not list(run.iterdir())


def test_an_error_in_a_folder_that_is_gone_is_said_to_be_that(tmp_path: Path) -> None:
    """Whoever finds a file missing first, and whatever is made of it."""
    folder = tmp_path / "run"
    for away in (False, True):
        folder.mkdir(exist_ok=True)
        expected = "was moved, removed or replaced" if away else "holds no run"
        with pytest.raises(UserError, match=expected), locks.Lock(folder) as lock:
            lock.take()
            if away:
                folder.rename(tmp_path / "elsewhere")
            raise UserError(f"{folder} holds no run")
