"""What is known of a study: a run's folder is its only state, whoever started the run."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from sscjax.errors import UserError
from sscjax.system import files, locks, run_dir

# Made by this program in a run's folder: results for new patients, a folder for each call; copies
# of their images until then; exported models.
NEW_PATIENTS, UPLOADS, EXPORTS = "new_patients", ".uploads.tmp", "exports"

# In a folder of results.
PREDICTIONS, PREDICTIONS_PAGE = "predictions.json", "index.html"

Status = Literal["none", "running", "interrupted", "finished"]


@dataclasses.dataclass(frozen=True)
class Study:
    """A run or cross-validation.

    Attributes:
      folder: of it; it need not exist.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    def record(self) -> dict[str, Any] | None:
        """The record of the cross-validation, or of the run; None where nothing was started.

        Raises:
          UserError: it is damaged.
        """
        keys = ("status", "config", "data")
        for file in (run_dir.PROTOCOL, run_dir.RECORD):
            record = run_dir.read_json(self.folder / file, keys)
            if record is not None:
                return record
        return None

    def holder(self) -> int | None:
        """The process that trains it, see `locks.Lock.holder`."""
        return locks.Lock(self.folder).holder()

    def progress(self) -> dict[str, Any] | None:
        """How far the run is, see `whole_run.WholeRun.state`; None where it does not say so yet."""
        path = self.folder / run_dir.PROGRESS
        # While it is replaced, Windows lets nobody read it.
        with contextlib.suppress(OSError, ValueError):
            state: dict[str, Any] = files.read_json(path)
            # It is written now and then: time goes on in between.
            age = max(0.0, time.time() - path.stat().st_mtime)
            if state["left"] is not None:
                state["left"] = max(0.0, state["left"] - age)
            return state
        return None

    def resume_words(self) -> list[str]:
        """The words after `sscjax` that resume the run, as they are recorded.

        Raises:
          UserError: they are not.
        """
        record = self.record() or {}
        words = [str(word) for word in record.get("command") or ()]
        if not words:
            raise UserError(
                f"{self.folder} does not say how it was started: give its own command again"
            )
        # It may have been started in another folder: the one that holds it is known.
        words = _without(words, "--workdir")
        words = [word for word in words if word != "--fresh"]
        return ["train", *words, f"--workdir={self.folder}"]

    def results(self) -> list[Results]:
        """Predictions for new patients, the newest first."""
        found = (self.folder / NEW_PATIENTS).glob(f"*/{PREDICTIONS}")
        return [Results(path.parent) for path in sorted(found, reverse=True)]


@dataclasses.dataclass(frozen=True)
class Results:
    """Predictions for new patients.

    Attributes:
      folder: of them.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.name

    def read(self) -> dict[str, Any]:
        """predictions.json.

        Raises:
          UserError: it is missing or damaged.
        """
        try:
            document: dict[str, Any] = files.read_json(self.folder / PREDICTIONS)
            return {**document, **{key: document[key] for key in ("classes", "subjects", "images")}}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.folder} cannot be read ({error}): predict again") from error


def _without(words: Sequence[str], option: str) -> list[str]:
    """The words without an option and its value."""
    left: list[str] = []
    skip = False
    for word in words:
        if not skip and not word.startswith(f"{option}=") and word != option:
            left.append(word)
        skip = word == option
    return left


def studies(runs: Path) -> list[Study]:
    """All runs and cross-validations in a folder, the newest first."""
    found = {
        path.parent: path.stat().st_mtime
        for file in (run_dir.PROTOCOL, run_dir.RECORD)
        for path in runs.glob(f"*/{file}")
    }
    return [Study(folder) for folder in sorted(found, key=lambda one: -found[one])]


def stamp() -> str:
    """A name for a folder of results: the date and the time."""
    return datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
