"""What the command-line programs share: one line for a user's mistake, exit codes, the log."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable

import jax

from sscjax import memory
from sscjax.errors import UserError
from sscjax.pretrained import cache

_LOG = logging.getLogger("sscjax")

USER_ERROR, INTERRUPTED = 2, 130


def call(program: Callable[[], int | None]) -> int:
    """Run a program and return its exit code: its own, 2 for a `UserError`, 130 for Ctrl-C.

    A program that returns None has nothing to say: 0.

    Any other exception is a fault of ours and keeps its traceback.
    """
    try:
        return program() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted: give the same command again to go on", file=sys.stderr)
        return INTERRUPTED


def set_up_log() -> None:
    """Send this package's log to the standard error stream, one plain line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    _LOG.handlers = [handler]
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


class _Plain(logging.Formatter):
    """The message; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def set_up_jax() -> None:
    """Keep freed memory, and compiled programs in the cache folder for the next start."""
    memory.keep()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = cache.cache_dir() / "xla"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small ones, too: a start compiles some hundred of them, 20 ms each; reading one takes 1 ms.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def nearest(name: str, known: list[str]) -> str | None:
    """The known name most like `name`, if one is like it at all."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return found[0] if found else None
