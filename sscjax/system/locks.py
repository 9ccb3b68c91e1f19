"""A lock on a run's folder: one run at a time, which notices when the folder is moved."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import re
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)

# Ends like temporary files, which `run_deletion.refuse_other_contents` ignores.
NAME = ".lock.tmp"


class Lock:
    """The exclusive right to write to a folder; it ends with the process, however that ends.

    The operating system holds the lock on an open file; the file's existence means nothing, so the
    file of a killed run blocks no other.

    Args:
      folder: the folder; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / NAME
        # No fallback to a lock by existence: after a kill its file would block the next run.
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
            # If the folder was moved, that is the cause of any error about missing files.
            if isinstance(error, Exception):
                self.check()
        finally:
            self.release()

    def take(self) -> None:
        """Take the lock, if the folder exists and is writable; may be called repeatedly.

        Raises:
          UserError: another process holds it.
        """
        while self.folder.is_dir() and not self._is_ours():
            self.release()
            try:
                self._lock.acquire()
            except Timeout as error:
                if not self._path.exists():  # its holder has just released it
                    continue
                raise UserError(
                    f"{self.folder}: another run is using this folder{self._holder()}; wait until "
                    "it ends, stop it, or choose another --workdir"
                ) from error
            except OSError as error:
                if error.filename is not None:  # without write access no harm can be done
                    return
                _LOG.warning(
                    "%s: its file system has no locks: make sure that no second run uses it",
                    self.folder,
                )
                with contextlib.suppress(OSError):
                    self._taken = self._path.stat()
                return

    def check(self) -> None:
        """Check that the folder is still the one whose lock was taken.

        Raises:
          UserError: it was removed, moved or replaced.
        """
        if self._taken is not None and not self._is_ours():
            raise UserError(
                f"{self.folder} was moved, removed or replaced while a run was using it: put it "
                "back and give the same command again, or choose another --workdir"
            )

    def release(self) -> None:
        """Release the lock; may be called without holding it."""
        if self._is_ours():
            # On Windows an open file cannot be removed: filelock does it afterwards.
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._taken = None
        self._lock.release(force=True)

    def _sign(self, descriptor: int) -> None:
        """Write the holder to the file; on Windows others cannot read its first byte."""
        self._taken = os.fstat(descriptor)
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"\nprocess {os.getpid()} on {platform.node()}\n".encode())

    def holder(self) -> int | None:
        """The process of this machine that holds the lock; None where none does.

        0 is one of another machine, or one that has not signed yet. Taken for an instant to find
        out: not for a folder in which a run is just being started.
        """
        if self._taken is not None or not self._path.exists():
            return None
        try:
            self.take()
        except UserError:
            signed = re.fullmatch(r" \(process (\d+) on (.*)\)", self._holder())
            return int(signed[1]) if signed and signed[2] == platform.node() else 0
        self.release()
        return None

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
