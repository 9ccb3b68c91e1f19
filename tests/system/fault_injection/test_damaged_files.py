"""Damaged checkpoints and cache files: computed again, or an earlier checkpoint is used."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faulty_runs
import numpy as np
import pytest
from small_runs import small_config

from sscjax.data import lazy
from sscjax.errors import UserError
from sscjax.experiments import single_run
from sscjax.training import checkpoint, frozen_features

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and small disks are POSIX'"),
    # Orbax reads all arrays at once: when one is damaged it leaves the others unawaited.
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ),
]


# ---- damaged checkpoints -----------------------------------------------------------------------


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
        faulty_runs.assert_ends_alike(run, undisturbed)
    assert "stage finetune: resumed after epoch 1 of 4" in caplog.text
    if damage is not shutil.rmtree:  # of one that is gone nothing can be told
        assert "1000002000000 cannot be read" in caplog.text
        assert "resumes from what was saved before" in caplog.text
        assert (run / "checkpoints" / "1000002000000.damaged").is_dir()


def test_no_checkpoint_can_be_read(
    run: Path, undisturbed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The stage begins again from what the one before ended with, which is kept elsewhere."""
    for number in faulty_runs.numbers(run):
        flip(run / "checkpoints" / str(number))
    with caplog.at_level("INFO", logger="sscjax"):
        faulty_runs.assert_ends_alike(run, undisturbed)
    assert caplog.text.count("cannot be read") == 2 and "resumed after" not in caplog.text
    assert "stage head: already finished" in caplog.text


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


def test_damaged_end_of_a_stage(run: Path, undisturbed: Path) -> None:
    path = run / "stages" / "head" / "stage.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"stage.json is damaged .*: delete .*head to train") as one:
        single_run.run(small_config(), run)
    assert "\n" not in str(one.value)
    shutil.rmtree(path.parent)
    faulty_runs.assert_ends_alike(run, undisturbed)


# ---- the cache ---------------------------------------------------------------------------------


NUMBERS = np.arange(40, dtype=np.float32).reshape(10, 4)


def computed(entry: frozen_features.Entry) -> Any:
    """The features, read or written as `frozen_features.compute` does."""
    features = entry.read(NUMBERS.shape)
    return features if features is not None else entry.write(NUMBERS.shape, [(slice(10), NUMBERS)])


@pytest.mark.parametrize("place", (3, 130, -30, -3))
def test_damaged_features_are_computed_again(
    tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A bit of the header, of the first or the last row, of a checksum."""
    entry = frozen_features.Store(tmp_path, 2**20).entry("key", held=True)
    computed(entry)
    path = tmp_path / "key.npy"
    sound = path.read_bytes()
    data = bytearray(sound)
    data[place] ^= 4
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(computed(entry), NUMBERS)
    assert path.read_bytes() == sound
    assert place == 3 or "computed again" in caplog.text


def test_damaged_features_that_are_read_while_training(tmp_path: Path) -> None:
    """Features too large for memory are read later: one line, and the file is removed."""
    entry = frozen_features.Store(tmp_path, 2**20).entry("key", held=False)
    computed(entry)
    path = tmp_path / "key.npy"
    data = bytearray(path.read_bytes())
    data[-60] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(lazy.DamagedError, match="run the same command again"):
        computed(entry)[:]
    np.testing.assert_array_equal(computed(entry)[:], NUMBERS)


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


def test_two_processes_write_one_cache_file(tmp_path: Path) -> None:
    path, wanted = tmp_path / "key.npy", np.arange(200_000, dtype=np.float32).reshape(1000, 200)
    writers = [faulty_runs.start(WRITER, str(path)) for _ in range(2)]
    for writer in writers:
        faulty_runs.resume(writer)
    reads = 0
    while any(writer.poll() is None for writer in writers):
        found = lazy.open_file(path, wanted.shape, np.float32)
        if found is not None:
            np.testing.assert_array_equal(found[:], wanted)
            reads += 1
    assert reads and [writer.returncode for writer in writers] == [0, 0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.npy"]
