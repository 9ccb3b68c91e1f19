"""Deleting a run, so that a kill at any moment leaves a complete run or one marked as deleted."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from sscjax.errors import UserError
from sscjax.system import locks
from sscjax.system.run_dir import RECORD

_LOG = logging.getLogger(__name__)

# What a folder that is deleted goes into; as what a killed writer leaves, it is no one's work.
_DELETED = ".deleted.*.tmp"


def refuse_other_contents(folder: Path, file: str = RECORD) -> None:
    """Raise a UserError if the folder is a file, or holds something without this record."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, expected a folder: choose another --workdir")
    # What a killed writer left behind is no one's work.
    others = folder.is_dir() and any(not name.match(".*.tmp") for name in folder.iterdir())
    # Nor is what a killed deletion did not come to (see `clear`).
    ours = [folder / file, *(one / file for one in folder.glob(_DELETED))]
    if others and not any(path.is_file() for path in ours):
        raise UserError(
            f"{folder} is not empty and holds no run of this kind (no {file}): choose another "
            "--workdir"
        )


def delete(folder: Path, file: str = RECORD) -> None:
    """Delete a run; its record goes first, so that no half of a run is ever found.

    The folder itself stays: it may be a link, a disk of its own, or where the command is given.
    Who calls this has its lock.

    Raises:
      UserError: it holds no such run, or one that cannot be deleted.
    """
    refuse_other_contents(folder, file)
    clear(folder, file)
    if (folder / file).is_file():
        prefix, suffix = _DELETED.split("*")
        doomed = Path(tempfile.mkdtemp(dir=folder, prefix=prefix, suffix=suffix))
        (folder / file).rename(doomed / file)
        clear(folder, file)


def clear(folder: Path, file: str = RECORD) -> None:
    """Delete what is left of a run whose deletion was begun, and then killed perhaps.

    Who calls this has the lock of the folder.

    Raises:
      UserError: that cannot be done.
    """
    for doomed in folder.glob(_DELETED):
        # The record goes last: while it is here, what lies beside it belongs to it.
        if (doomed / file).is_file():
            for path in list(folder.iterdir()):
                if path.name != locks.NAME and not path.match(_DELETED):
                    _move(path, doomed)
            (doomed / file).unlink()
        shutil.rmtree(doomed, ignore_errors=True)
        if doomed.exists():
            _LOG.warning("%s: what is left there of a deleted run cannot be deleted", doomed)


def _move(path: Path, folder: Path) -> None:
    try:
        path.rename(folder / path.name)
    except OSError as error:  # such as a disk of its own
        raise UserError(
            f"{path} of a run that is to be deleted cannot be moved ({error.strerror}): delete it "
            "by hand and give the same command again, or choose another --workdir"
        ) from error
