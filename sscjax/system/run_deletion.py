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

# A deleted run is moved into a folder of this name, which counts as a temporary file.
_DELETED = ".deleted.*.tmp"


def refuse_other_contents(folder: Path, file: str = RECORD) -> None:
    """Refuse a folder that contains something other than a run, so that nothing is overwritten.

    Args:
      folder: the run's folder; it need not exist.
      file: the name of the record that marks a run of this kind.

    Raises:
      UserError: it is a file, or a folder with contents but without this record.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, expected a folder: choose another --workdir")
    # Temporary files that a killed process left do not count.
    others = folder.is_dir() and any(not name.match(".*.tmp") for name in folder.iterdir())
    # Neither do the remains of an interrupted deletion (see `clear`).
    ours = [folder / file, *(one / file for one in folder.glob(_DELETED))]
    if others and not any(path.is_file() for path in ours):
        raise UserError(
            f"{folder} is not empty and holds no run of this kind (no {file}): choose another "
            "--workdir"
        )


def delete(folder: Path, file: str = RECORD) -> None:
    """Delete a run, its record first, so that a partly deleted run is never taken for a run.

    The folder itself stays: it may be a link, a mount point or the working directory. The caller
    must hold its lock.

    Args:
      folder: the run's folder.
      file: the name of its record.

    Raises:
      UserError: it contains no such run, or one that cannot be deleted.
    """
    refuse_other_contents(folder, file)
    clear(folder, file)
    if (folder / file).is_file():
        prefix, suffix = _DELETED.split("*")
        doomed = Path(tempfile.mkdtemp(dir=folder, prefix=prefix, suffix=suffix))
        (folder / file).rename(doomed / file)
        clear(folder, file)


def clear(folder: Path, file: str = RECORD) -> None:
    """Finish the deletion of a run that was begun and may have been interrupted.

    The caller must hold the lock of the folder.

    Raises:
      UserError: a file cannot be moved.
    """
    for doomed in folder.glob(_DELETED):
        # The record goes last: while it exists, the files in `folder` belong to the deleted run.
        if (doomed / file).is_file():
            for path in list(folder.iterdir()):
                if path.name != locks.NAME and not path.match(_DELETED):
                    _move(path, doomed)
            (doomed / file).unlink()
        shutil.rmtree(doomed, ignore_errors=True)
        if doomed.exists():
            _LOG.warning(
                "%s: these remains of a deleted run cannot be deleted; delete them by hand", doomed
            )


def _move(path: Path, folder: Path) -> None:
    try:
        path.rename(folder / path.name)
    except OSError as error:  # such as another file system
        raise UserError(
            f"{path} of a run that is to be deleted cannot be moved ({error.strerror}): delete it "
            "by hand and run the same command again, or choose another --workdir"
        ) from error
