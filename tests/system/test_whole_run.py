"""The display of a whole run: the time left by what was measured, lines of 80 columns, no noise."""

from __future__ import annotations

import io
import logging

import pytest

from sscjax.system import whole_run
from sscjax.system.progress import Progress
from sscjax.system.whole_run import Step, WholeRun


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr("sscjax.system.whole_run.time.monotonic", lambda: clock[0])
    return clock


def test_the_time_left_is_what_steps_of_a_kind_took(now: list[float]) -> None:
    with WholeRun() as whole:
        whole.plan(Step("read", "reading"))
        with whole.step():
            assert whole.left() is None  # nothing is known of it
            now[0] += 6
            whole.inside("", 0.25)
            assert whole.left() == pytest.approx(18)  # by its own progress
            now[0] += 4
        whole.plan(*(Step("fold", f"fold {k} of 3") for k in (1, 2, 3)), Step("page", "the report"))
        assert whole.expect({"fold": 20, "page": 5}) == pytest.approx(65)
        with whole.step():
            now[0] += 5
            assert whole.left() == pytest.approx(60)
            now[0] += 5  # half as long as was expected
        assert whole.left() == pytest.approx(10 + 10 + 5)
        with whole.step():
            now[0] += 30
            assert whole.left() == pytest.approx(10 + 5)  # late, and never below 0
        assert "(estimated at the start: about 1 min)" in whole.took()
        # Since the estimate, which is for what comes after it.
        assert whole.took().startswith("It took 0:40 ")
        times = whole.record()
        assert (times["estimated_seconds"], times["seconds"]) == (65, 40)
        assert [(one["title"], one["expected"], one["seconds"]) for one in times["steps"]] == [
            *(("reading", None, 10), ("fold 1 of 3", 20, 10), ("fold 2 of 3", 20, 30)),
        ]


def test_a_part_of_a_step_is_in_the_line_of_the_whole(now: list[float]) -> None:
    with WholeRun() as whole:
        whole.plan(Step("fold", "fold 12 of 15, with a title that is long"))
        whole.expect({"fold": 7200})
        with whole.step(), Progress("features of a layer with a long name", 200) as part:
            part.advance(50)
            line = whole.line()
            assert line.startswith("[................]   0% fold 12 of 15")
            assert line.endswith("2:00:00 left") and len(line) <= 79
    assert whole_run.active() is None


def test_a_run_begins_its_own_steps_and_is_a_part_of_a_fold(now: list[float]) -> None:
    with WholeRun(details=True) as whole:
        whole.plan(Step("audit", "audit"), Step("head", "stage head"), Step("page", "the report"))
        with whole_run.step("stage head"):
            assert not whole.within  # it is not its turn
        for title in ("audit", "stage head"):
            with whole_run.step(title), Progress("stage head", 200) as part:
                part.note("val loss 0.5")
                now[0] += 30
                part.advance(50)
                assert whole.within and whole_run.times() == {}
                line: str = whole.line()
        # Nothing is known of the report: the share is that of the steps, the time this step's.
        assert (
            line == "[#######.........]  42% stage head 25%, val loss 0.5, 1:30 left of this step"
        )
        assert whole_run.times()["times"]["seconds"] == 60


def test_steps_are_quiet_and_warnings_are_said_once() -> None:
    log, stream = logging.getLogger("sscjax"), io.StringIO()
    handler = logging.StreamHandler(stream)
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    with WholeRun():
        for fold in range(3):
            log.info("a line of fold %d", fold)
            log.warning("classes by name: %s", "early, late, normal" * 20)
        whole_run.say("28 images of 7 patients")
    log.info("afterwards")
    shown = stream.getvalue().splitlines()
    assert [line.split()[0] for line in shown if not line.startswith(" ")] == [
        *("classes", "28", "afterwards"),
    ]
    assert max(map(len, shown)) <= 80 and shown[1].endswith("... (see the report)")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (40, "40 s"), (58, "1 min"), (200, "3 min"), (7800, "2 h 10 min")],
)
def test_how_long_in_words(seconds: float, text: str) -> None:
    assert whole_run.about(seconds) == text
