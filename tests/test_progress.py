"""Progress without a terminal: log lines with share, rate and time left."""

from __future__ import annotations

import pytest

from sscjax import progress


def test_last_line_has_rate_and_note(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("sscjax.progress.time.monotonic", lambda: now[0])
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
