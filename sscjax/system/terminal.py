"""What the command-line programs share: one line for a user's mistake, exit codes, the log."""

from __future__ import annotations

import contextlib
import difflib
import errno
import logging
import numbers
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sscjax.errors import UserError
from sscjax.system import cache_dir, files, machine, malloc, signals

_LOG = logging.getLogger("sscjax")

USER_ERROR, INTERRUPTED = 2, 130


# What the place of a file, or the machine, may lack, and what to do about it.
_SAVED = "give the same command again: what was saved is gone on with"
_STORAGE = {
    errno.ENOSPC: f"free some space and {_SAVED}",
    errno.EDQUOT: f"free some space and {_SAVED}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f) and {_SAVED}",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EACCES: "make it writable, or choose another folder",
    errno.EPERM: "make it writable, or choose another folder",
    errno.EIO: f"look after the disk or the network drive, and {_SAVED}",
    errno.ESTALE: f"connect the network drive again, and {_SAVED}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n) and {_SAVED}",
    errno.ENFILE: f"let other programs end that hold files open, and {_SAVED}",
    errno.ENOMEM: f"free some memory and {_SAVED}",
    errno.EAGAIN: f"the machine is busy: {_SAVED}",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "correct the link, which leads round in a ring, or name another place",
    errno.ENOTDIR: "a file stands where a folder is expected: name another place",
    errno.EINTR: f"the machine is busy: {_SAVED}",
}


def call(program: Callable[[], int | None]) -> int:
    """Run a program and return its exit code: its own, 2 for a `UserError`, 130 for Ctrl-C.

    SIGTERM counts as Ctrl-C; a disk that is full or cannot be written as a `UserError`, and so do
    other errors of the system that its user can mend. A program
    that returns None has nothing to say: 0.

    Any other exception is a fault of ours and keeps its traceback.
    """
    quiet_orbax()
    try:
        _refuse_undecodable()
        with signals.handled():
            return program() or 0
    except UserError as error:
        _say(f"error: {error}")
        return USER_ERROR
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        _say(f"error: {_storage(error)}")
        return USER_ERROR
    except KeyboardInterrupt:
        _say("interrupted: to go on, give the same command again", f"  {again()}")
        return INTERRUPTED


def _refuse_undecodable() -> None:
    """Raise a UserError where the command cannot be recorded, or the folder that it is given in."""
    words = sys.argv[1:]
    with contextlib.suppress(OSError):  # that folder may be gone
        words.append(os.getcwd())
    for word in words:
        part = files.undecodable(word)
        if part:
            raise UserError(
                f"{part}, which the command names or is given in, is not UTF-8 text: rename that "
                "file or folder"
            )


def _say(*lines: str) -> None:
    """To the standard error stream, which may be a file on a full disk.

    The lines hold names that others gave: none begins a line or moves the cursor.
    """
    with contextlib.suppress(OSError):
        print("\n".join(map(files.spelt, lines)), file=sys.stderr, flush=True)


def _storage(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or os.strerror(error.errno or 0)
    return f"{where}cannot be written or read ({reason}); {_STORAGE[error.errno or 0]}"


def again(command: Sequence[str] | None = None) -> str:
    """The command that goes on with what this process did, for the shell; without --fresh.

    Args:
      command: the words of a command; None takes this process's.
    """
    words = list(sys.orig_argv if command is None else command)
    words = [word for word in words if not re.fullmatch(r"--?fresh(=.*)?", word)]
    return subprocess.list2cmdline(words) if os.name == "nt" else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for the shell; by its bytes, as bash and zsh read them, what cannot be printed."""
    if word.isprintable():
        return shlex.quote(word)
    parts = [
        (f"\\{letter}" if letter in "\\'" else letter)
        if letter.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
        for letter in word
    ]
    return f"$'{''.join(parts)}'"


def quiet_orbax() -> None:
    """Silence the log of Orbax, for programs alone: in a notebook it stays as its user set it.

    It reports every save in several lines, and every failure with the stacks of all its threads,
    although it raises it as well: what users need to know of it `sscjax.training.checkpoint` says.
    """
    for name in ("absl", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def set_up_log() -> None:
    """Send this package's log to the standard error stream, one plain line each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    _LOG.handlers = [handler]
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


class _Plain(logging.Formatter):
    """The message; warnings and errors say what they are.

    What is put into it may be a name that others gave: see `_say`.
    """

    def format(self, record: logging.LogRecord) -> str:
        values = record.args if isinstance(record.args, tuple) else ()
        text = str(record.msg) % tuple(map(_spelt, values)) if values else record.getMessage()
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def _spelt(value: object) -> object:
    return value if isinstance(value, numbers.Number) else files.spelt(str(value))


def set_up_jax() -> None:
    """Keep freed memory, and compiled programs in the cache folder for the next start."""
    import jax  # here, so that the help of a command does not wait for it

    malloc.keep()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(programs_folder()))
    # Small ones, too: a start compiles some hundred of them, 20 ms each; reading one takes 1 ms.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def programs_folder() -> Path:
    """Where compiled programs are kept.

    XLA divides a program between the processors that it may use, which JAX's key leaves out: what
    was compiled for one stays on one, and takes up to 1.4 times as long where there are two.
    """
    return cache_dir.cache_dir() / "xla" / f"processors-{machine.parallelism()}"


def nearest(name: str, known: list[str]) -> str | None:
    """The known name most like `name`, if one is like it at all."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return found[0] if found else None
