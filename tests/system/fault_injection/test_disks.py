"""Full and read-only disks, and other errors of storage."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_runs
import faulty_runs
import pytest
from small_runs import one_stage_config, small_config

from sscjax.data import inputs, sources
from sscjax.experiments import run_stages, single_run
from sscjax.reports import html
from sscjax.system import locks, terminal
from sscjax.training import stage_work

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and small disks are POSIX'"),
    # Orbax reads all arrays at once: when one is damaged it leaves the others unawaited.
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ),
]

resource: Any = pytest.importorskip("resource", reason="limits are POSIX'")


class Disk:
    """A place that can be full or read-only: a small tmpfs, or without root what comes near it."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(self) -> None:
        """From now on nothing can be written (without root: no file with anything in it)."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._before[1]))
            return
        with (self.folder / "filler").open("wb", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def roomy(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
        (self.folder / "filler").unlink(missing_ok=True)

    def read_only(self, yes: bool) -> None:
        if self.mounted:
            _mount("-o", f"remount,{'ro' if yes else 'rw'}", str(self.folder))
            return
        for path in (self.folder, *self.folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o555 if yes else 0o755)


def _mount(*arguments: str) -> bool:
    command = shutil.which("mount")
    if command is None or os.geteuid() != 0:
        return False
    return subprocess.run([command, *arguments], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder))
    if not mounted and os.geteuid() == 0:
        # There is no other way to a folder that root cannot fill.
        pytest.skip("root may write everywhere, and may mount nothing here")
    found = Disk(folder, mounted)
    yield found
    found.roomy()
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        (stage_work.StageWork, "save"),
        (run_stages, "_write_finished"),
        (html, "write"),
    ],
    ids=lambda where: where[1],
)
def test_full_disk(
    disk: Disk,
    stopped: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    where: tuple[Any, str],
) -> None:
    """It fills up just before this is written: one line, and all that was saved stays."""
    run = shutil.copytree(stopped, disk.folder / "run")
    write = getattr(*where)

    def full(*args: Any) -> Any:
        disk.full()
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(*where, full)
        code = terminal.call(lambda: print(single_run.run(small_config(), run)))
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and said.startswith("error: ") and "cannot be written" in said, said
    disk.roomy()
    faulty_runs.assert_ends_alike(run, undisturbed)


@pytest.mark.slow
def test_full_disk_of_the_cache(
    disk: Disk, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Features are then only held: the run says so and goes on."""
    monkeypatch.setenv("SSCJAX_CACHE", str(disk.folder))
    disk.full()
    if not disk.mounted:
        # The run is in this process, and its own folder is to have room.
        pytest.skip("a limit on the size of files would hold for the run, too")
    single_run.run(small_config(), tmp_path / "run")
    assert "features cannot be stored there (No space left on device)" in caplog.text
    assert fault_runs.compare(undisturbed, tmp_path / "run") == []
    assert not list(disk.folder.rglob("*.npy"))


@pytest.mark.slow
def test_read_only_place(disk: Disk, capfd: pytest.CaptureFixture[str]) -> None:
    disk.read_only(True)
    code = terminal.call(
        lambda: print(single_run.run(one_stage_config(), disk.folder / "new" / "run"))
    )
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and "cannot be written" in said and "--workdir" in said
    disk.read_only(False)
    assert not list(disk.folder.iterdir())


def test_lock_of_a_folder_that_cannot_be_written(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.read_only(True)
    with locks.Lock(disk.folder) as lock:
        lock.take()
        lock.check()
    assert not caplog.records and not list(disk.folder.iterdir())
    disk.read_only(False)


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EROFS, "writable"),
        (errno.EIO, "check the disk"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.ELOOP, "back to itself"),
        (errno.ENOTDIR, "found a file where"),
    ],
)
def test_storage_errors_are_one_line(
    number: int, mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "runs/a/curves.csv")

    assert terminal.call(fail) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: runs/a/curves.csv: ") and mend in said and said.count("\n") == 1


def test_names_that_no_file_can_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = tmp_path / ("x" * 300)
    programs: list[Callable[[], Any]] = [
        lambda: sources.from_path(long, 32),
        lambda: inputs.find(long, ("a", "b")),
        lambda: single_run.run(small_config(), long),
    ]
    for program in programs:
        assert terminal.call(program) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("error: ") and "x" * 300 in said and "shorter" in said


def test_other_system_errors_are_ours() -> None:
    def fail() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file")

    with pytest.raises(FileNotFoundError):
        terminal.call(fail)


@pytest.mark.slow
def test_finished_run_on_a_read_only_disk(disk: Disk, undisturbed: Path) -> None:
    run = shutil.copytree(undisturbed, disk.folder / "run")
    disk.read_only(True)
    text = single_run.run(small_config(), run)
    disk.read_only(False)
    assert text == (undisturbed / "report.txt").read_text(encoding="utf-8")
