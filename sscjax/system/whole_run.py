"""One progress display for a run of many steps: which step, how much of all, the time left.

On a terminal it is one line that is written again; in a file it is a line now and then. While it is
shown, the `Progress` of a step is a part of it, what the steps of several runs log for information
is not shown, and a warning is shown once. Other programs read the same from a file in the run's
folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sscjax.system import files

_LOG = logging.getLogger("sscjax")

WIDTH = 80

_SECONDS_BETWEEN_LINES, _SECONDS_BETWEEN_DRAWINGS, _SECONDS_BETWEEN_WRITINGS = 15.0, 0.2, 1.0
_BAR = 16

# Of a log record: it is for the reader of the whole run.
_SAID = "of_the_whole_run"

_active: WholeRun | None = None


def active() -> WholeRun | None:
    """The display that is shown, if any."""
    return _active


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """The next step of the display, if that is what it is called; else nothing is shown.

    What a run does is a step of its own, and within a cross-validation a part of its fold.

    Args:
      title: as it was planned.
    """
    whole = active()
    if whole is None or whole.next != title:
        yield
        return
    with whole.step():
        yield


def times() -> dict[str, Any]:
    """{'times': ...} of the display, see `WholeRun.record`; {} within one of its steps."""
    whole = active()
    return {} if whole is None or whole.within else {"times": whole.record()}


def say(text: str) -> None:
    """Log a line for the reader of the whole run, in lines of `WIDTH` columns at most."""
    _LOG.info("%s", text, extra={_SAID: True})


def clock(seconds: float) -> str:
    """Seconds as `0:05`, `2:10` or `1:02:10`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """Seconds as people say them: `20 s`, `3 min`, `2 h 10 min`."""
    if seconds < 55:
        return f"{max(round(seconds), 1)} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


@dataclasses.dataclass
class Step:
    """One step.

    Attributes:
      kind: steps of one kind take about as long.
      title: what the display calls it.
      counts: whether its duration says how long the others of its kind take.
    """

    kind: str
    title: str
    counts: bool = True


@dataclasses.dataclass(frozen=True)
class Done:
    """A step that is finished.

    Attributes:
      title, kind: of it.
      expected: seconds that it was expected to take at the start; None where nothing was.
      seconds: that it took.
    """

    title: str
    kind: str
    expected: float | None
    seconds: float


class WholeRun:
    """The display; a context, within which `step` begins one step after the other.

    Args:
      details: of a single run, all whose steps are planned at once: show what is logged for
        information, too.
    """

    def __init__(self, details: bool = False) -> None:
        self._details = details
        self._done: list[Done] = []
        self._asked: dict[str, float] = {}
        self._estimated = 0.0
        self._rest: list[Step] = []
        self._now: Step | None = None
        self._inside, self._share, self._note = "", 0.0, ""
        self._began = self._started = time.monotonic()
        self._measured: dict[str, list[float]] = {}
        self._expected: dict[str, float] = {}
        self._estimate: float | None = None
        self._drawn = self._lined = 0.0
        self._is_terminal, self._on_screen = False, False
        self._formatters: list[tuple[logging.Handler, logging.Formatter | None]] = []
        self._warned: set[str] = set()
        self._written = 0.0
        self._file: Path | None = None

    def __enter__(self) -> WholeRun:
        global _active
        _active = self
        self._started = self._lined = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        for handler in _LOG.handlers:
            handler.addFilter(self._shows)
            self._formatters.append((handler, handler.formatter))
            handler.setFormatter(_Wrapped(handler.formatter or logging.Formatter()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        global _active
        self._clear()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)
        for handler, formatter in self._formatters:
            handler.removeFilter(self._shows)
            handler.setFormatter(formatter)
        _active = None

    # -- the steps

    def plan(self, *steps: Step) -> None:
        """Add steps to those that are to be done."""
        self._rest += steps

    def expect(self, seconds: Mapping[str, float]) -> float | None:
        """How long a step of each kind will take; returns the estimate of all that is left.

        Args:
          seconds: by kind; what is not known is left out.
        """
        self._expected |= seconds
        self._asked = dict(seconds)
        self._estimate, self._estimated = self.left(), time.monotonic()
        return self._estimate

    @property
    def within(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._now is not None

    @property
    def next(self) -> str:
        """The title of the step that is planned next; '' within a step, and at the end."""
        return self._rest[0].title if self._rest and self._now is None else ""

    @contextlib.contextmanager
    def step(self) -> Iterator[Step]:
        """The next step, as it was planned."""
        step = self._rest.pop(0)
        self._now, self._began = step, time.monotonic()
        self._inside, self._share, self._note = "", 0.0, ""
        self._written = 0.0
        self._show()
        yield step
        seconds = time.monotonic() - self._began
        self._done.append(Done(step.title, step.kind, self._asked.get(step.kind), seconds))
        if step.counts:
            self._measured.setdefault(step.kind, []).append(seconds)
        self._now = None

    def inside(self, title: str, share: float, note: str = "") -> None:
        """What the present step is at.

        Args:
          title: of a part of it.
          share: how much of that part is done, 0 to 1.
          note: the newest figures, which are shown where there is room.
        """
        self._inside, self._share, self._note = title, share, note
        self._show()

    def took(self) -> str:
        """How long all took since the estimate, beside it; without one since the start."""
        now = time.monotonic()
        if self._estimate is None:
            return f"It took {clock(now - self._started)}."
        return (
            f"It took {clock(now - self._estimated)} (estimated at the start: about "
            f"{about(self._estimate)})."
        )

    def record(self) -> dict[str, Any]:
        """The times, ready for JSON: what was estimated at the start, and what it took since.

        Returns:
          estimated_seconds (null without an estimate) and seconds, both of what came after the
          estimate; and steps: title, kind, expected (null) and seconds of each.
        """
        now = time.monotonic()
        began = self._started if self._estimate is None else self._estimated
        return {
            "estimated_seconds": self._estimate,
            "seconds": now - began,
            "steps": [dataclasses.asdict(step) for step in self._done],
        }

    def write_to(self, file: Path) -> None:
        """Keep the state in a file, for other programs, until the run ends.

        Args:
          file: see `state`; in a folder that need not exist yet, and is not made.
        """
        self._file = file
        self._write()

    def state(self) -> dict[str, Any]:
        """The state, ready for JSON.

        Returns:
          title (of the present step, '' between two), part and part_share (of the step, 0 to 1),
          done and steps (finished, and of all), spent, left and estimate (seconds; the last two
          None where nothing is known), share (0 to 1, None where `left` is None).
        """
        left, spent = self.left(), time.monotonic() - self._started
        return {
            "title": self._now.title if self._now else "",
            "part": self._inside,
            "part_share": self._share,
            "done": len(self._done),
            "steps": len(self._done) + len(self._rest) + (self._now is not None),
            "spent": spent,
            "left": left,
            "estimate": self._estimate,
            "share": None if left is None else spent / max(spent + left, 1e-9),
        }

    # -- the time

    def left(self) -> float | None:
        """Seconds that are left; None while a kind of step is not known."""
        total = 0.0
        for step in self._rest:
            seconds = self._of_kind(step.kind)
            if seconds is None:
                return None
            total += seconds
        if self._now is not None:
            spent, seconds = time.monotonic() - self._began, self._of_kind(self._now.kind)
            if seconds is None and self._share > 0:
                seconds = spent / self._share
            if seconds is None:
                return None
            total += max(seconds - spent, 0.0)
        return total

    def _of_kind(self, kind: str) -> float | None:
        measured = self._measured.get(kind)
        return sum(measured) / len(measured) if measured else self._expected.get(kind)

    # -- the display

    def line(self) -> str:
        """The display as one line of less than `WIDTH` columns."""
        left, share = self.left(), self._share_done()
        done = round(_BAR * share)
        # Of several runs not even the number of steps is known before the estimate.
        known = left is not None or self._details
        head = f"[{'#' * done}{'.' * (_BAR - done)}] {share:4.0%} " if known else ""
        tail = f", {clock(left)} left" if left is not None else self._left_of_step()
        title = self._now.title if self._now else ""
        # A part of the same name says no more than the step.
        inside = "" if self._inside == title else self._inside
        if self._share:
            title += f"{': ' if inside else ''}{inside} {self._share:.0%}"
        width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH) - 1
        room = width - len(head) - len(tail)
        if self._note and len(title) + len(self._note) + 2 <= room:
            title += f", {self._note}"
        return f"{head}{title if len(title) <= room else title[: room - 2] + '..'}{tail}"

    def _share_done(self) -> float:
        """Of the time, where all that is left is known; else of the number of steps."""
        left, spent = self.left(), time.monotonic() - self._started
        if left is not None:
            return spent / (spent + left) if spent + left > 0 else 0.0
        finished = len(self._done) + (self._share if self._now else 0.0)
        return finished / max(len(self._done) + len(self._rest) + (self._now is not None), 1)

    def _left_of_step(self) -> str:
        if self._now is None or not self._share:
            return ""
        spent = time.monotonic() - self._began
        return f", {clock(spent / self._share - spent)} left of this step"

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._written >= _SECONDS_BETWEEN_WRITINGS:
            self._write()
        if self._is_terminal:
            if now - self._drawn >= _SECONDS_BETWEEN_DRAWINGS or not self._on_screen:
                self._drawn, self._on_screen = now, True
                sys.stderr.write(f"\r\033[K{self.line()}")
                sys.stderr.flush()
        elif now - self._lined >= _SECONDS_BETWEEN_LINES:
            self._lined = now
            say(self.line())

    def _write(self) -> None:
        """Write the state; a full disk is for the run itself to report."""
        self._written = time.monotonic()
        if self._file is not None and self._file.parent.is_dir():
            with contextlib.suppress(OSError):
                files.write_json(self._file, self.state())

    def _clear(self) -> None:
        if self._on_screen:
            self._on_screen = False
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def _shows(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown; what is shown stands above the display."""
        if record.levelno < logging.WARNING:
            shown = self._details or bool(getattr(record, _SAID, False))
        else:
            text = record.getMessage()
            shown = text not in self._warned
            self._warned.add(text)
        if shown:
            self._clear()
        return shown


class _Wrapped(logging.Formatter):
    """What another formatter gives, in lines of `WIDTH` columns."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return textwrap.fill(
            self._inner.format(record),
            WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
            # The rest of a warning stands in the report.
            max_lines=2 if record.levelno >= logging.WARNING else None,
            placeholder=" ... (see the report)",
        )
