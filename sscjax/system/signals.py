"""Ctrl-C and SIGTERM: stop at once where nothing is lost, otherwise after saving the current work.

Only the command-line programs install handlers (`terminal.call`): in a notebook Ctrl-C works as
usual.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_MESSAGE = b"\nstopping after saving; press Ctrl-C again to stop at once\n"

_stop_requested = False
_depth = 0  # of nested `deferred` blocks


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt; in `deferred` only at the end of its block.

    A second signal raises it at once. Where Python drops an exception, as in a callback of the
    garbage collector, it is raised again a moment later. Outside the main thread, where Python
    allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    # Windows defines SIGTERM but never sends it; SIGBREAK is its Ctrl-Break, and only there.
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        if number := getattr(signal, name, None):
            before[number] = signal.signal(number, _on_signal)
    hook = sys.unraisablehook

    def on_dropped(dropped: Any) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            hook(dropped)
            return
        again = threading.Timer(0.1, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = on_dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        _reset()
        for number, handler in before.items():
            # None: Python cannot restore a handler that it did not set.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _stop_requested
    if _depth and not _stop_requested:
        _stop_requested = True
        with contextlib.suppress(OSError):
            # Not `print`, which is not re-entrant and may be in the middle of a line.
            os.write(2, _MESSAGE)
        return
    _reset()
    raise KeyboardInterrupt


def _reset() -> None:
    global _stop_requested
    _stop_requested = False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Defer a first signal to the end of the block; meanwhile `stop_requested` returns True."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    if _stop_requested and not _depth:
        _reset()
        raise KeyboardInterrupt


def stop_requested() -> bool:
    """Whether a `deferred` block should save its work and end."""
    return _stop_requested
