"""One run at a time in a folder, and a folder that stays there while it is at work."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

# As what a killed writer leaves behind: no one's work (see `run_dir.refuse_foreign`).
NAME = ".lock.tmp"


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
        # Other ways of locking would leave files that block the next run after a kill.
        self._lock = FileLock(
            self._path,
            blocking=False,
            thread_local=False,
            fallback_to_soft=False,
            on_acquired=self._sign,
        )
        self._taken: os.stat_result | None = None

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
                self._lock.acquire()
            except Timeout as error:
                if not self._path.exists():  # its holder gave it back just now
                    continue
                raise UserError(
                    f"{self.folder}: another run is at work there{self._holder()}; wait for its "
                    "end, stop it, or choose another --workdir"
                ) from error
            except OSError as error:
                if error.filename is not None:  # who cannot write here disturbs nobody
                    return
                _LOG.warning(
                    "%s: its file system has no locks: see that no second run works there",
                    self.folder,
                )
                with contextlib.suppress(OSError):
                    self._taken = self._path.stat()
                return

    def check(self) -> None:
        """See that the folder is still the one whose lock was taken.

        Raises:
          UserError: it was removed, moved or replaced.
        """
        if self._taken is not None and not self._is_ours():
            raise UserError(
                f"{self.folder} was moved, removed or replaced while a run was at work there: put "
                "it back and give the same command again, or choose another --workdir"
            )

    def release(self) -> None:
        """Give the lock back; harmless when it is not taken."""
        if self._is_ours():
            # On Windows an open file cannot be removed: filelock does it afterwards.
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._taken = None
        self._lock.release(force=True)

    def _sign(self, descriptor: int) -> None:
        """Say in the file who holds it; its first byte cannot be read by others on Windows."""
        self._taken = os.fstat(descriptor)
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"\nprocess {os.getpid()} on {platform.node()}\n".encode())

    def _is_ours(self) -> bool:
        try:
            return self._taken is not None and os.path.samestat(self._taken, self._path.stat())
        except OSError:
            return False

    def _holder(self) -> str:
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(1)
                text = file.read(200).decode(errors="replace").strip()
        except OSError:
            return ""
        text = "".join(letter for letter in text if letter.isprintable())
        return f" ({text})" if text else ""
