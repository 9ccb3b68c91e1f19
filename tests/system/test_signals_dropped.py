"""Ctrl-C where Python drops exceptions: JAX has a callback in the garbage collector."""

from __future__ import annotations

import gc
import signal
import time

import pytest

from sscjax.system import signals


def test_an_interrupt_in_a_callback_of_the_garbage_collector_is_not_lost() -> None:
    def interrupted(phase: str, info: dict[str, int]) -> None:
        gc.callbacks.remove(interrupted)
        signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(interrupted)
    with pytest.raises(KeyboardInterrupt), signals.handled():
        gc.collect()
        time.sleep(5)
