"""A week of training, and a clock that jumps."""

from __future__ import annotations

import gc
import os
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import fault_runs
import faulty_runs
import jax
import numpy as np
import pytest
from small_runs import one_stage_config, small_config

from sscjax.experiments import run_stages, single_run
from sscjax.training import checkpoint

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals and small disks are POSIX'"),
    # Orbax reads all arrays at once: when one is damaged it leaves the others unawaited.
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ),
]


# ---- a week ------------------------------------------------------------------------------------


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
        readings.append((open_files, len(faulty_runs.numbers(tmp_path / "run"))))

    monkeypatch.setattr(run_stages.CurveFiles, "__call__", read)
    single_run.run(config, tmp_path / "run")
    early, late = readings[5:10], readings[-5:]
    assert len(readings) == 21
    assert max(files for files, _ in late) <= max(files for files, _ in early)
    assert max(kept for _, kept in readings) == config.checkpoint.keep


# ---- the clock ---------------------------------------------------------------------------------


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
    faulty_runs.assert_complete(tmp_path / "run")
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
