"""What happens on real machines, one fault each: nothing half-written, nothing saved lost.

After every fault the same command ends with the same bits as the run that nothing disturbed.
`scripts/faults.py` does the same to whole programs, at random moments.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from small_runs import one_stage_config, small_config

from sscjax.data import inputs, lazy, recipes
from sscjax.errors import UserError
from sscjax.evaluation import predictions
from sscjax.experiments import data_from_config, run_stages, single_run, summarize
from sscjax.experiments.cross_validation import all_folds
from sscjax.inference import explanations
from sscjax.reports import html
from sscjax.system import files, locks, run_dir, signals, terminal
from sscjax.system.progress import Progress
from sscjax.training import checkpoint, frozen_features, stage_work, validation

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and small disks are POSIX'"),
    # Orbax reads all arrays at once: when one is damaged it leaves the others unawaited.
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ),
]

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import fault_runs  # noqa: E402

resource: Any = pytest.importorskip("resource", reason="limits are POSIX'")


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """They take most of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        patch.setattr(explanations, "write", lambda *args: None)
        patch.setattr(html, "write", lambda folder: files.write_text(folder / "report.html", "x"))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    single_run.run(small_config(), folder)
    return folder


@pytest.fixture(scope="module")
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

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(checkpoint.Checkpoints, "save", stop)
        single_run.run(small_config(), folder)
    assert numbers(folder) == [1_000_001_000_000, 1_000_002_000_000]
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return shutil.copytree(stopped, tmp_path / "run")


def numbers(folder: Path) -> list[int]:
    """Of the checkpoints that are there."""
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def whole(folder: Path) -> None:
    """Nothing under a final name is half a file."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            assert arrays.files
    for path in folder.rglob("*.csv"):
        text = path.read_text(encoding="utf-8")
        assert text.endswith("\n") and len({line.count(",") for line in text.splitlines()}) == 1


def assert_ends_alike(folder: Path, undisturbed: Path) -> None:
    """The same command again ends as if nothing had been."""
    whole(folder)
    single_run.run(small_config(), folder)
    whole(folder)
    assert fault_runs.compare(undisturbed, folder) == []
    assert not [path for path in folder.glob("**/.*.tmp") if path.name != locks.NAME]
    assert not (folder / locks.NAME).exists()


# ---- damaged checkpoints ------------------------------------------------------------------------


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)


def truncate(place: Path) -> None:
    path = largest(place / "state" / "d")
    path.write_bytes(path.read_bytes()[:-10])


def flip(place: Path) -> None:
    path = largest(place / "state" / "d")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def falsify(place: Path) -> None:
    """One digit of a learning curve: still JSON, and Orbax does not see it."""
    path = place / "info" / "metadata"
    info = json.loads(path.read_text(encoding="utf-8"))
    info["info"]["curves"][0]["train_loss"] += 0.5
    path.write_text(json.dumps(info), encoding="utf-8")


@pytest.mark.parametrize("damage", (truncate, falsify, shutil.rmtree))
def test_damaged_newest_checkpoint(
    run: Path, undisturbed: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The run resumes from the one before, says so, and keeps the damaged one."""
    damage(run / "checkpoints" / "1000002000000")
    with caplog.at_level("INFO", logger="sscjax"):
        assert_ends_alike(run, undisturbed)
    assert "stage finetune: resumed after epoch 1 of 4" in caplog.text
    if damage is not shutil.rmtree:  # of one that is gone nothing can be told
        assert "1000002000000 cannot be read" in caplog.text
        assert "resumes from what was saved before" in caplog.text
        assert (run / "checkpoints" / "1000002000000.damaged").is_dir()


@pytest.mark.slow
def test_no_checkpoint_can_be_read(
    run: Path, undisturbed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stage begins again from what the one before ended with, which is kept elsewhere."""
    for number in numbers(run):
        flip(run / "checkpoints" / str(number))
    with caplog.at_level("INFO", logger="sscjax"):
        assert_ends_alike(run, undisturbed)
    assert caplog.text.count("cannot be read") == 2 and "resumed after" not in caplog.text
    assert "stage head: already finished" in caplog.text


@pytest.mark.slow
def test_any_bit_of_a_checkpoint(tmp_path: Path) -> None:
    """A changed bit in any file is found, or changes nothing that is read."""
    tree = {"a": np.arange(12, dtype=np.float32), "b": {"c": np.float32(3)}}
    info = {"stage": "head", "rows": [{"loss": 0.5}]}
    with checkpoint.Checkpoints(tmp_path / "sound") as checkpoints:
        checkpoints.save(1, tree, info)
    rng, found = random.Random(0), 0
    for number in range(40):
        place = shutil.copytree(tmp_path / "sound", tmp_path / str(number))
        path = rng.choice(sorted(p for p in place.rglob("*") if p.is_file() and p.stat().st_size))
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))
        with checkpoint.Checkpoints(place) as checkpoints:
            kept = checkpoints.newest(tree, lambda info: True)
        if kept is None:
            found += 1
            continue
        assert kept[0] == info
        np.testing.assert_array_equal(kept[1]["a"], tree["a"])
        assert kept[1]["b"]["c"] == 3
    assert found > 5


@pytest.mark.slow
def test_damaged_end_of_a_stage(run: Path, undisturbed: Path) -> None:
    path = run / "stages" / "head" / "stage.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"stage.json is damaged .*: delete .*head to train") as one:
        single_run.run(small_config(), run)
    assert "\n" not in str(one.value)
    shutil.rmtree(path.parent)
    assert_ends_alike(run, undisturbed)


# ---- the cache ----------------------------------------------------------------------------------


NUMBERS = np.arange(40, dtype=np.float32).reshape(10, 4)


def fill(target: Any) -> None:
    target[:] = NUMBERS


@pytest.mark.parametrize("place", (3, 130, -30, -3))
def test_damaged_features_are_computed_anew(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A bit of the header, of the first or the last row, of a checksum."""
    keep = frozen_features.Store(tmp_path, 2**20).keep("key", held=True)
    keep(NUMBERS.shape, np.float32, fill)
    path = tmp_path / "key.npy"
    sound = path.read_bytes()
    data = bytearray(sound)
    data[place] ^= 4
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(keep(NUMBERS.shape, np.float32, fill), NUMBERS)
    assert path.read_bytes() == sound
    assert place == 3 or "computed again" in caplog.text


@pytest.mark.slow
def test_damaged_features_that_are_read_while_training(tmp_path: Path) -> None:
    """What is too large for memory is found out in the middle: one line, and the file is gone."""
    keep = frozen_features.Store(tmp_path, 2**20).keep("key", held=False)
    keep(NUMBERS.shape, np.float32, fill)
    path = tmp_path / "key.npy"
    data = bytearray(path.read_bytes())
    data[-60] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(lazy.DamagedError, match="run the same command again"):
        keep(NUMBERS.shape, np.float32, fill)[:]
    np.testing.assert_array_equal(keep(NUMBERS.shape, np.float32, fill)[:], NUMBERS)


WRITER = """
import sys
from pathlib import Path
import numpy as np
from sscjax.data import lazy as rows
x = np.arange(200_000, dtype=np.float32).reshape(1000, 200)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(25):
    rows.write(Path(sys.argv[1]), x)
"""


@pytest.mark.slow
def test_two_processes_write_one_cache_file(tmp_path: Path) -> None:
    path, wanted = tmp_path / "key.npy", np.arange(200_000, dtype=np.float32).reshape(1000, 200)
    writers = [start(WRITER, str(path)) for _ in range(2)]
    for writer in writers:
        tell(writer)
    reads = 0
    while any(writer.poll() is None for writer in writers):
        found = lazy.open_file(path, wanted.shape, np.float32)
        if found is not None:
            np.testing.assert_array_equal(found[:], wanted)
            reads += 1
    assert reads and [writer.returncode for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.npy"]


def start(program: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process, when it has said 'ready'; `tell` lets it go on."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.close()


# ---- two runs in one folder ---------------------------------------------------------------------


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
    first = start(HOLDER, str(run))
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
    assert_ends_alike(run, undisturbed)


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_for_memory_goes_on_with_a_smaller_micro_batch(
    run: Path, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From there on sums are rounded otherwise, as the log says; dropout is drawn as before."""
    smaller = small_config()
    smaller.micro_batch = 4
    with caplog.at_level("INFO", logger="sscjax"):
        single_run.run(smaller, run)
    assert (
        "config.micro_batch: 8 before, 4 from here on: the result differs in its round"
        in caplog.text
    )
    kept = json.loads((run / "run.json").read_text(encoding="utf-8"))
    drawn = [(stage["micro_batch"], stage["drawn_by"]) for stage in kept["stages"]]
    assert drawn == [(4, 8), (4, 8)]
    # Nothing but rounding: the losses of the last epochs, and all that the model was to say.
    losses = [
        np.genfromtxt(folder / "curves.csv", delimiter=",", names=True, usecols=(0, 2, 4))
        for folder in (run, undisturbed)
    ]
    for name in ("train_loss", "val_loss"):
        gaps = np.abs(losses[0][name] - losses[1][name])
        assert not gaps[:6].any() and gaps[6:].max() < 1e-5
    for name in ("predictions.csv", "stages/finetune/predictions.csv"):
        ours, theirs = (
            predictions.Predictions.read_csv(folder / name).probabilities
            for folder in (run, undisturbed)
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    models = [
        fault_runs.arrays(folder / "stages" / "finetune" / "model") for folder in (run, undisturbed)
    ]
    for name in models[0]:
        np.testing.assert_allclose(models[0][name], models[1][name], atol=1e-5)
    with pytest.raises(UserError, match="config.micro_batch: 4 then, 8 now"):
        single_run.run(small_config(), run)


def test_all_else_stays_strict_where_the_micro_batch_may_change(run: Path) -> None:
    config = small_config()
    config.micro_batch = 4
    config.batch_size = 8
    with pytest.raises(UserError, match=r"differs: config.batch_size: 16 then, 8 now\."):
        single_run.run(config, run)


# ---- signals ------------------------------------------------------------------------------------


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], None]) -> None:
    """Call `do` during the n-th step of the second stage, counted over starts."""
    advance, done = Progress.advance, [0]

    def counted(self: Any, images: int) -> None:
        advance(self, images)
        if self._title == "stage finetune":
            done[0] += 1
            if done[0] == number:
                do()

    monkeypatch.setattr(Progress, "advance", counted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "at", "saved"),
    [
        (signal.SIGTERM, 3, 1_000_001_000_001),  # two steps an epoch: within the second
        (signal.SIGINT, 8, 1_000_004_000_000),  # the last of all: no figures are lost
    ],
)
def test_signal_while_training(
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
    at: int,
    saved: int,
) -> None:
    """The batch ends, what is done is saved (no checkpoint was due), and the command is told."""
    config = small_config()
    config.checkpoint.every_seconds = 1e9
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "sscjax.main", "--fresh", "--x=a b"])
    with monkeypatch.context() as patch:
        at_step(patch, at, lambda: os.kill(os.getpid(), number))
        code = terminal.call(lambda: print(single_run.run(config, tmp_path / "run")))
    assert code == 130
    said = capfd.readouterr().err
    assert "stopping after saving" in said
    assert said.endswith("run the same command again\n  python -m sscjax.main '--x=a b'\n")
    assert numbers(tmp_path / "run")[-1] == saved
    assert_ends_alike(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_interrupted_epoch_is_interrupted_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second half, and the first half of the next, belong to the second start."""
    config = small_config()
    config.checkpoint.every_seconds = 1e9
    for step, saved in ((1, 1_000_000_000_001), (2, 1_000_001_000_001)):
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert terminal.call(lambda: print(single_run.run(config, tmp_path / "run"))) == 130
        assert numbers(tmp_path / "run")[-1] == saved
    assert_ends_alike(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
def test_signal_before_training_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def load(config: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr(data_from_config, "load_images", load)
    started = time.monotonic()
    assert terminal.call(lambda: print(single_run.run(small_config(), tmp_path / "run"))) == 130
    assert time.monotonic() - started < 30
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_second_signal_does_not_wait() -> None:
    reached = []

    def work() -> None:
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(signals.stop_requested())
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(False)

    assert terminal.call(work) == 130 and reached == [True]
    assert not signals.stop_requested()


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert terminal.call(lambda: 0) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("flag", ("--fresh", "--fresh=true", "-fresh"))
def test_command_that_goes_on_deletes_nothing(flag: str) -> None:
    assert terminal.again(["python", flag, "--workdir=a'b"]) == """python '--workdir=a'"'"'b'"""


# ---- disks --------------------------------------------------------------------------------------


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
    assert_ends_alike(run, undisturbed)


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
    assert "features cannot be kept there (No space left on device)" in caplog.text
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
        lambda: recipes.from_path(long, 32),
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


# ---- a week -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoints_leave_nothing_in_memory(tmp_path: Path) -> None:
    """Of hundreds of arrays each: what is left of one after the other is next to nothing."""
    tree: dict[str, Any] = {f"layer{k}": np.ones((4, k + 1), np.float32) for k in range(100)}
    tree["step"] = np.int32(7)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in range(5):
            checkpoints.save(step, tree, {"stage": "head"})
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for step in range(5, 15):
            checkpoints.save(step, tree, {"stage": "head"})
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        found = checkpoints.restore(14, tree)
    assert after - before < 10 * 16 * 1024  # a tenth of what it is array by array
    jax.tree.map(np.testing.assert_array_equal, found, tree)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc on this system")
def test_epochs_leave_no_files_open_and_few_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = one_stage_config()
    config.stages.head.epochs = 20
    readings: list[tuple[int, int]] = []
    told = run_stages.CurveFiles.__call__

    def read(self: Any, rows: list[dict[str, Any]]) -> None:
        told(self, rows)
        open_files = len(list(Path("/proc/self/fd").iterdir()))
        readings.append((open_files, len(numbers(tmp_path / "run"))))

    monkeypatch.setattr(run_stages.CurveFiles, "__call__", read)
    single_run.run(config, tmp_path / "run")
    early, late = readings[5:10], readings[-5:]
    assert len(readings) == 21
    assert max(files for files, _ in late) <= max(files for files, _ in early)
    assert max(kept for _, kept in readings) == config.checkpoint.keep


# ---- the clock ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_clock_jumps(undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To and fro by days and decades, within every checkpoint: as a computer that was asleep."""
    rng, now, save = random.Random(0), time.time, checkpoint.Checkpoints.save
    offset, left = [0.0], [0]

    def jumping() -> float:
        left[0] -= 1
        if left[0] == 0:
            offset[0] = rng.choice((-1e9, -1e5, 1e5, 1e9))
        return now() + offset[0]

    def saved(*args: Any) -> None:
        left[0] = rng.randrange(1, 80)
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", jumping)
        patch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
        patch.setattr(checkpoint.Checkpoints, "save", saved)
        single_run.run(small_config(), tmp_path / "run")
    whole(tmp_path / "run")
    assert fault_runs.compare(undisturbed, tmp_path / "run") == []


@pytest.mark.slow
def test_clock_jumps_where_orbax_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Between two looks at it Orbax takes a jump for its time being over: it is asked again."""
    tree = {"a": np.arange(4, dtype=np.float32)}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        write, tries = checkpoints._manager.save, []

        def late(*args: Any, **kwargs: Any) -> Any:
            tries.append(args)
            if len(tries) < 3:
                raise TimeoutError("timed out after 3600.0 seconds")
            return write(*args, **kwargs)

        monkeypatch.setattr(checkpoints._manager, "save", late)
        checkpoints.save(1, tree, {})
        assert caplog.text.count("trying again") == 2
        np.testing.assert_array_equal(checkpoints.restore(1, tree)["a"], tree["a"])
        monkeypatch.setattr(checkpoint, "_TRIES", 2)
        tries.clear()
        with pytest.raises(TimeoutError):
            checkpoints.save(2, tree, {})
        assert checkpoints.latest() == 1
