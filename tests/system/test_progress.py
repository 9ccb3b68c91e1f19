"""Progress: log lines with share, rate and time left; on a terminal of 80 columns a bar."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sscjax.system import progress


def test_last_line_has_rate_and_note(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("sscjax.system.progress.time.monotonic", lambda: now[0])
    with (
        caplog.at_level("INFO", logger="sscjax"),
        progress.Progress("stage head", total=400, done=100) as bar,
    ):
        now[0] += 60  # compiling
        bar.advance(50)
        assert not caplog.records or "images/s" not in caplog.text
        now[0] += 20
        bar.note("loss 0.5")
        bar.advance(100)
    # 100 images in 20 s after the first call; 150 of 400 are left, at 5 images/s.
    assert caplog.messages[-1] == "stage head: 62%, 5 images/s, 0:30 left, loss 0.5"


def test_an_empty_task_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="sscjax"), progress.Progress("features", total=0):
        pass
    assert not caplog.records


BAR = """
import logging
from sscjax.system import terminal as cli
from sscjax.system.progress import Progress

cli.set_up_log()
with Progress("stage finetune", 12000, done=4000) as bar:
    bar.note("loss 1.103, val loss 1.197, val accuracy 25.0%")
    bar.advance(4000)
    logging.getLogger("sscjax.training.frozen_features").info("a line of the log")
    bar.advance(4000)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_terminal_of_80_columns_has_a_bar() -> None:
    import pty
    import termios

    outside, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 80))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")
    }
    done = subprocess.run(
        [sys.executable, "-c", BAR],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    os.close(inside)
    screen = os.read(outside, 2**16).decode()
    os.close(outside)
    assert done.returncode == 0, screen
    lines = [line for line in re.split(r"[\r\n]+", screen) if line.strip()]
    assert max(map(len, lines)) <= 80
    bars = [line for line in lines if line.startswith("stage finetune")]
    assert re.match(r"stage finetune:  33%\|\S{4}\s{8}\| 4000/12000, \S+ left", bars[0])
    assert re.match(r"stage finetune: 100%\|\S{12}\| 12000/12000, 00:00 left, loss 1.1", bars[-1])
    assert lines.count("a line of the log") == 1  # by itself, not in the bar
