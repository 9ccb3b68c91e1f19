"""Ctrl-C and SIGTERM: at once where nothing is lost by it, else when the work at hand is saved.

Handlers are installed by the programs alone (`terminal.call`): in a notebook Ctrl-C stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_SAID = b"\nstopping: what is done is being saved; once more stops at once\n"

_asked = False
_held = 0


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Within: both signals raise KeyboardInterrupt, in what is `held` at its end.

    A second signal raises it at once. Outside the main thread, where Python allows no handlers,
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    for name in ("SIGINT", "SIGTERM"):  # the latter is never sent by Windows, but exists there
        number = getattr(signal, name)
        before[number] = signal.signal(number, _ask)
    try:
        yield
    finally:
        _forget()
        for number, handler in before.items():
            # None: a handler that was not set by Python cannot be put back by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _ask(number: int, frame: FrameType | None) -> None:
    global _asked
    if _held and not _asked:
        _asked = True
        with contextlib.suppress(OSError):
            os.write(
                2, _SAID
            )  # print might be in the middle of a line, and may not be entered twice
        return
    _forget()
    raise KeyboardInterrupt


def _forget() -> None:
    global _asked
    _asked = False


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within: a first signal only makes `asked` true; at the end it raises KeyboardInterrupt."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if _asked and not _held:
        _forget()
        raise KeyboardInterrupt


def asked() -> bool:
    """Whether what is `held` should save what it has and end."""
    return _asked
