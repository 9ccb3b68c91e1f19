"""What the command-line programs share: one-line errors, exit codes, the log, JAX's settings."""

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

# As the shell reports a program that was ended by SIGPIPE.
_NOBODY_READS = 141


# Errors of the disk or the machine, and how the user fixes them.
_SAVED = "run the same command again: it resumes from what was saved"
_STORAGE = {
    errno.ENOSPC: f"free some space and {_SAVED}",
    errno.EDQUOT: f"free some space and {_SAVED}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f) and {_SAVED}",
    errno.EROFS: "make it writable, or choose another folder",
    errno.EACCES: "make it writable, or choose another folder",
    errno.EPERM: "make it writable, or choose another folder",
    errno.EIO: f"check the disk or the network drive, and {_SAVED}",
    errno.ESTALE: f"connect the network drive again, and {_SAVED}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n) and {_SAVED}",
    errno.ENFILE: f"close other programs that hold files open, and {_SAVED}",
    errno.ENOMEM: f"free some memory and {_SAVED}",
    errno.EAGAIN: f"the machine is busy: {_SAVED}",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "fix the link, which leads back to itself, or choose another path",
    errno.ENOTDIR: "found a file where a folder is expected: choose another path",
    errno.EINTR: f"the machine is busy: {_SAVED}",
}


def call(program: Callable[[], int | None]) -> int:
    """Run a program and return its exit code: its own, 2 for a `UserError`, 130 for Ctrl-C.

    SIGTERM counts as Ctrl-C. System errors that the user can fix, such as a full disk, count as a
    `UserError`. A program that returns None gives 0, one whose output nobody reads any more, as
    after `| head`, 141.

    Any other exception is a bug and keeps its traceback.
    """
    quiet_orbax()
    try:
        _refuse_undecodable()
        with signals.handled():
            try:
                return program() or 0
            finally:
                sys.stdout.flush()
    except BrokenPipeError:
        # Python would try once more to print what is left, and complain.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    except UserError as error:
        _say(f"error: {error}")
        return USER_ERROR
    except OSError as error:
        if error.errno not in _STORAGE:
            raise
        _say(f"error: {_storage(error)}")
        return USER_ERROR
    except KeyboardInterrupt:
        _say("interrupted: to resume, run the same command again", f"  {again()}")
        return INTERRUPTED


def _refuse_undecodable() -> None:
    """Refuse a command or a working directory that is not UTF-8: a run could not record it."""
    words = sys.argv[1:]
    with contextlib.suppress(OSError):  # that folder may be gone
        words.append(os.getcwd())
    for word in words:
        part = files.undecodable(word)
        if part:
            raise UserError(
                f"{part}, in the command or the working directory, is not UTF-8 text: rename that "
                "file or folder"
            )


def _say(*lines: str) -> None:
    """Print to standard error, which may be a file on a full disk.

    Untrusted names in the lines are escaped: none starts a new line or moves the cursor.
    """
    with contextlib.suppress(OSError):
        print("\n".join(map(files.escaped, lines)), file=sys.stderr, flush=True)


def _storage(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or os.strerror(error.errno or 0)
    return f"{where}cannot be written or read ({reason}); {_STORAGE[error.errno or 0]}"


def again(command: Sequence[str] | None = None) -> str:
    """The shell command that resumes this process, without --fresh.

    Args:
      command: the words of a command; None takes this process's.
    """
    words = list(sys.orig_argv if command is None else command)
    words = [word for word in words if not re.fullmatch(r"--?fresh(=.*)?", word)]
    return subprocess.list2cmdline(words) if os.name == "nt" else " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for the shell; what cannot be printed as bytes in bash's and zsh's notation."""
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
    """Silence Orbax's log in programs; in a notebook it stays as the user set it.

    It logs several lines for every save, and the stacks of all threads for every failure, which it
    raises as well. `sscjax.training.checkpoint` logs what users need to know.
    """
    for name in ("absl", "orbax"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def set_up_log() -> None:
    """Send this package's log to standard error, one plain line for each message."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    _LOG.handlers = [handler]
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


class _Plain(logging.Formatter):
    """The message, after its level from warnings on; arguments may be untrusted, see `_say`."""

    def format(self, record: logging.LogRecord) -> str:
        values = record.args if isinstance(record.args, tuple) else ()
        text = str(record.msg) % tuple(map(_escaped, values)) if values else record.getMessage()
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


def _escaped(value: object) -> object:
    return value if isinstance(value, numbers.Number) else files.escaped(str(value))


def set_up_jax() -> None:
    """Keep freed memory, and keep compiled programs in the cache folder for the next start."""
    import jax  # here, so that the help of a command does not wait for it

    malloc.keep()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(programs_folder()))
    # Small programs, too: a start compiles about a hundred, 20 ms each; loading one takes 1 ms.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    quiet_xla()


def quiet_xla() -> None:
    """Silence XLA's own log on the processor, unless TF_CPP_MIN_LOG_LEVEL says what is wanted.

    On a busy machine it asks to file a bug because a compilation takes two minutes, on the level of
    errors. Its errors reach Python as exceptions, and what ends the process is still printed. On an
    accelerator the log stays: some faults of a device are found nowhere else.
    """
    import jax

    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or jax.default_backend() != "cpu":
        return
    # Versions of jaxlib without it log as they do.
    with contextlib.suppress(ImportError, AttributeError):
        from jaxlib import utils

        utils.absl_set_min_log_level(3)


def programs_folder() -> Path:
    """The folder of compiled programs, one for each number of processors.

    XLA divides a program between the usable processors, which JAX's cache key ignores: a program
    compiled for one processor would run on one of two, up to 1.4 times as long.
    """
    return cache_dir.cache_dir() / "xla" / f"processors-{machine.parallelism()}"


def nearest(name: str, known: list[str]) -> str | None:
    """The known name most similar to `name`; None if none is similar."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return matches[0] if matches else None
