"""A run's folder: its record, and the rules by which it is read, cleared and deleted."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sscjax.errors import UserError
from sscjax.system import files, locks

_LOG = logging.getLogger(__name__)


FILE = "run.json"

# What a folder that is deleted goes into; as what a killed writer leaves, it is no one's work.
_DELETED = ".deleted.*.tmp"

KEYS = ("status", "config", "data", "weights", "stages", "versions")


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any] | None:
    """What a program's own record holds, all `keys` among it; None without the file.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = files.read_json(path)
        return {**found, **{key: found[key] for key in keys}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): start anew with --fresh") from error


def refuse_foreign(folder: Path, file: str = FILE) -> None:
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


def delete(folder: Path, file: str = FILE) -> None:
    """Delete a run; its record goes first, so that no half of a run is ever found.

    The folder itself stays: it may be a link, a disk of its own, or where the command is given.
    Who calls this has its lock.

    Raises:
      UserError: it holds no such run, or one that cannot be deleted.
    """
    refuse_foreign(folder, file)
    clear(folder, file)
    if (folder / file).is_file():
        prefix, suffix = _DELETED.split("*")
        doomed = Path(tempfile.mkdtemp(dir=folder, prefix=prefix, suffix=suffix))
        (folder / file).rename(doomed / file)
        clear(folder, file)


def clear(folder: Path, file: str = FILE) -> None:
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


def read(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder; None where no run was started.

    Raises:
      UserError: the record is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record = files.read_json(path)
        found = {key: record[key] for key in KEYS}
        sizes = [int(stage["micro_batch"]) for stage in found["stages"]]
        if not sizes or min(sizes) < 1:
            raise ValueError("a stage with a micro_batch above 0 is expected")
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): start anew with --fresh") from error
