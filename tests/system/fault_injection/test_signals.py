"""Signals, and processes killed for lack of memory."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fault_runs
import faulty_runs
import numpy as np
import pytest
from small_runs import small_config

from sscjax.errors import UserError
from sscjax.evaluation import predictions
from sscjax.experiments import data_from_config, single_run
from sscjax.system import signals, terminal
from sscjax.system.progress import Progress

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals and small disks are POSIX'"),
    # Orbax reads all arrays at once: when one is damaged it leaves the others unawaited.
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    ),
]


# ---- memory ------------------------------------------------------------------------------------


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


# ---- signals -----------------------------------------------------------------------------------


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
    assert faulty_runs.numbers(tmp_path / "run")[-1] == saved
    faulty_runs.assert_ends_alike(tmp_path / "run", undisturbed)


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
        assert faulty_runs.numbers(tmp_path / "run")[-1] == saved
    faulty_runs.assert_ends_alike(tmp_path / "run", undisturbed)


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
