"""One run at a time in a folder, and a folder that stays there while it is at work."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
from pathlib import Path
from types import TracebackType
from typing import IO

from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

# As what a killed writer leaves behind: no one's work (see `record.refuse_foreign`).
NAME = ".lock.tmp"

_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class Lock:
    """The right to work in a folder; it ends with the process, however that ends.

    It is held by the system on an open file, not by the file's being there: what a killed run
    leaves behind disturbs nobody.

    Args:
      folder: need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / NAME
        self._file: IO[str] | None = None

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # Whatever an error says of files that are not there: where the folder went, it is that.
            if isinstance(error, Exception):
                self.check()
        finally:
            self.release()

    def take(self) -> None:
        """Take the lock, if the folder is there and can be written; harmless when it is taken.

        Raises:
          UserError: another process has it.
        """
        while self.folder.is_dir() and not self._is_ours():
            self.release()
            try:
                file = self._path.open("a+", encoding="utf-8")
            except OSError:  # who cannot write here disturbs nobody
                return
            try:
                _hold(file)
            except OSError as error:
                if error.errno not in _TAKEN:
                    _LOG.warning(
                        "%s: its file system has no locks: see that no second run works there",
                        self.folder,
                    )
                    self._file = file
                    return
                said = self._who(file)
                file.close()
                raise UserError(
                    f"{self.folder}: another run is at work there{said}; wait for its end, stop "
                    "it, or choose another --workdir"
                ) from error
            self._file = file
            # The holder before may have removed the file between our opening and locking it.
            if self._is_ours():
                with contextlib.suppress(OSError):
                    file.truncate(0)
                    file.write(f"process {os.getpid()} on {platform.node()}\n")
                    file.flush()

    def check(self) -> None:
        """See that the folder is still the one whose lock was taken.

        Raises:
          UserError: it was removed, moved or replaced.
        """
        if self._file is not None and not self._is_ours():
            raise UserError(
                f"{self.folder} was moved, removed or replaced while a run was at work there: put "
                "it back and give the same command again, or choose another --workdir"
            )

    def release(self) -> None:
        """Give the lock back; harmless when it is not taken."""
        if self._file is None:
            return
        if self._is_ours():
            # On Windows an open file cannot be removed: it stays, empty of meaning.
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._file.close()
        self._file = None

    def _is_ours(self) -> bool:
        if self._file is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except OSError:
            return False

    def _who(self, file: IO[str]) -> str:
        try:
            file.seek(0)
            said = file.read(200).strip()
        except OSError:
            return ""
        said = "".join(letter for letter in said if letter.isprintable())
        return f" ({said})" if said else ""


def _hold(file: IO[str]) -> None:
    """Lock an open file without waiting; an OSError where that cannot be."""
    if os.name == "nt":
        import msvcrt

        # Beyond what is written, which Windows would not let others read.
        file.seek(1 << 20)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
