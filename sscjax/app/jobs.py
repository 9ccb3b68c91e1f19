"""Long work: commands of this package as processes of their own, which closing a tab leaves alone.

What they make lies in a run's folder. Only what they print is kept here, until the server ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sscjax.errors import UserError
from sscjax.system import files
from sscjax.system.terminal import INTERRUPTED, USER_ERROR

# A training saves its work before it stops; a step of a large network may take a while.
_PATIENCE = 60.0

_LOG_SHOWN = 4000

WINDOWS = os.name == "nt"


class Job:
    """One command.

    Args:
      words: after `python -m`.
      folder: for what it prints.
      after: called with its exit code once it has ended.

    Attributes:
      started: when, in seconds since 1970.
    """

    def __init__(
        self, words: Sequence[str], folder: Path, after: Callable[[int], None] | None
    ) -> None:
        self.started = time.time()
        self._out, self._log = folder / "out.txt", folder / "log.txt"
        self._ended = threading.Event()
        self._stopped = False
        environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=environment,
                # Ctrl-C in the terminal of the server is for the server, which passes it on once.
                start_new_session=not WINDOWS,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        threading.Thread(target=self._wait, args=(after,), daemon=True).start()

    def _wait(self, after: Callable[[int], None] | None) -> None:
        code = self._process.wait()
        try:
            if after is not None:
                after(code)
        finally:
            self._ended.set()

    @property
    def running(self) -> bool:
        """Whether it is at work."""
        return not self._ended.is_set()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop, and has not yet."""
        return self._stopped and self.running

    @property
    def code(self) -> int | None:
        """Its exit code; None while it is at work."""
        return self._process.returncode if self._ended.is_set() else None

    @property
    def out(self) -> str:
        """What it printed as its result."""
        return _text(self._out)

    @property
    def log(self) -> str:
        """The end of what it printed besides."""
        return _text(self._log)[-_LOG_SHOWN:]

    @property
    def last_line(self) -> str:
        """The newest line of its log."""
        lines = self.log.splitlines()
        return lines[-1].strip() if lines else ""

    @property
    def error(self) -> str:
        """Why it failed, in a line; '' where it did not, is at work, or was stopped."""
        if self.code in (None, 0, 1, INTERRUPTED) or self._stopped:
            return ""
        found = re.findall(r"^error: (.*)$", self.log, re.MULTILINE)
        if self.code == USER_ERROR and found:
            return str(found[-1])
        return "It ended unexpectedly. What it printed last stands below."

    def stop(self) -> None:
        """Ask it to stop as Ctrl-C does: it saves its work first. Asked again, it stops at once."""
        self._stopped = True
        interrupt(self._process.pid)

    def wait(self, seconds: float) -> bool:
        """Whether it ends within this time."""
        return self._ended.wait(seconds)


def interrupt(pid: int) -> None:
    """Send a process what Ctrl-C sends; one that has ended gets nothing."""
    with contextlib.suppress(OSError):
        os.kill(pid, getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))


def _text(path: Path) -> str:
    try:
        return printed(path.read_bytes())
    except OSError:
        return ""


def printed(data: bytes) -> str:
    """Printed text without what moves a cursor; of a line written several times the last."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    lines = (line.rpartition("\r")[2].replace("\x1b[K", "") for line in text.split("\n"))
    return "\n".join(files.escaped(line) for line in lines)


class Jobs:
    """All jobs by what they work on: one at a time for each."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sscjax-app-", ignore_cleanup_errors=True)
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._closed = False

    def start(
        self, key: str, words: Sequence[str], after: Callable[[int], None] | None = None
    ) -> Job:
        """Start a command.

        Args:
          key: what it works on.
          words: after `python -m`.
          after: called with its exit code once it has ended, before it counts as ended.

        Raises:
          UserError: one with this key is at work, or the server is ending.
        """
        with self._lock:
            if self._closed:
                raise UserError("the program is ending: start it again")
            earlier = self._jobs.get(key)
            if earlier is not None and earlier.running:
                raise UserError("this is being done already: wait until it ends, or stop it")
            job = Job(words, self.new_folder(), after)
            self._jobs[key] = job
            return job

    def get(self, key: str) -> Job | None:
        """The newest job with this key, at work or ended."""
        return self._jobs.get(key)

    def new_folder(self) -> Path:
        """A new folder that lasts as long as the server."""
        return Path(tempfile.mkdtemp(dir=self._folder.name))

    def close(self, say: Callable[[str], None]) -> None:
        """Stop all that is at work, as Ctrl-C would, and wait for it.

        Args:
          say: called with a line for the terminal.
        """
        with self._lock:
            self._closed = True
            running = [job for job in self._jobs.values() if job.running]
        try:
            if running:
                say("stopping after saving; press Ctrl-C again to stop at once")
            for job in running:
                job.stop()
            end = time.monotonic() + _PATIENCE
            for job in running:
                if not job.wait(max(0.0, end - time.monotonic())):
                    say("it is still at work; `sscjax app` finds it again")
        except KeyboardInterrupt:
            for job in running:
                job.stop()
        finally:
            self._folder.cleanup()
