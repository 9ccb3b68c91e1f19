"""Ask a finished run about new images: `python -m sscjax.predict RUN INPUT...`.

An INPUT is an image, a folder of images, a csv manifest or a folder with one. Images are prepared,
and answers judged, as the run's folder says. Where the labels are known, the answers are compared
with them, with intervals by subject.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sscjax
from sscjax import answers, cli, files, intervals, metrics, provenance, report, trained
from sscjax.answers import Judged
from sscjax.data import asked
from sscjax.data.asked import Asked
from sscjax.errors import UserError
from sscjax.progress import Progress
from sscjax.trained import Answers, Trained

_LOG = logging.getLogger(__name__)

IMAGES, SUBJECTS, ALL = "images.csv", "subjects.csv", "predictions.json"
FAILED = 1

RESEARCH_ONLY = "For research only: this is no diagnosis."


def main() -> int:
    """Parse the command line, predict, write, print."""
    parser = argparse.ArgumentParser(
        prog="python -m sscjax.predict", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("input", type=Path, nargs="+", help="images, folders or manifests")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="predictions")
    parser.add_argument("--overwrite", action="store_true", help="replace what lies at --out")
    arguments = parser.parse_args()
    cli.set_up_log()
    cli.set_up_jax()
    return predict(arguments.run, arguments.input, arguments.out, arguments.overwrite)


def predict(run: Path, inputs: Sequence[Path], out: Path, overwrite: bool = False) -> int:
    """Predict, write `images.csv`, `subjects.csv` and `predictions.json` to `out`, print.

    Args:
      run: the folder of a finished run.
      inputs: see `asked.find`.
      out: folder of the results.
      overwrite: results that lie there may be replaced.

    Returns:
      the exit code: 1 where an image could not be read, else 0.

    Raises:
      UserError: anything that the user can mend.
    """
    _refuse_folder(out, overwrite)
    opened = trained.open_run(run)
    found = _listed(inputs, opened)
    judged, failed = ask(opened, found)
    for row, reason in failed:
        _LOG.warning("left out: %s", reason)
    if not len(judged):
        raise UserError(f"none of the {len(found)} images could be read: nothing is predicted")
    subjects = answers.by_subject(judged, opened.rules, len(opened.classes))
    seen = _trained_on(opened, found, {row for row, _ in failed})
    _write(out, opened, judged, subjects, [reason for _, reason in failed], seen)
    print(_text(out, opened, judged, subjects, len(failed), seen))
    return FAILED if failed else 0


def _refuse_folder(out: Path, overwrite: bool) -> None:
    if out.is_file():
        raise UserError(f"--out={out} is a file, expected a folder")
    if out.is_dir() and any(out.iterdir()):
        if not (out / ALL).is_file():
            raise UserError(f"--out={out} holds something else than predictions: name another")
        if not overwrite:
            raise UserError(f"--out={out} holds predictions: name another, or give --overwrite")


def _listed(inputs: Sequence[Path], opened: Trained) -> list[Asked]:
    found = [one for path in inputs for one in asked.find(path.expanduser(), opened.classes)]
    first: dict[Path, str] = {}
    for one in found:
        place = one.path.resolve()
        if place in first:
            raise UserError(f"{one.file} is given twice (also as {first[place]}): name it once")
        first[place] = one.file
    return found


def ask(opened: Trained, found: Sequence[Asked]) -> tuple[Judged, list[tuple[int, str]]]:
    """Judged answers for the images that could be read; row and reason of the others."""
    rows: list[int] = []
    failed: list[tuple[int, str]] = []

    def batches(progress: Progress) -> Any:
        for batch in asked.decode(found, opened.image_size, trained.BATCH):
            rows.extend(batch.rows)
            failed.extend(batch.failed)
            if batch.rows:
                yield batch.images
            progress.advance(len(batch.rows) + len(batch.failed))

    with Progress("images", len(found)) as progress:
        parts = list(opened.answer(batches(progress)))
    whole = (
        Answers.join(parts) if parts else Answers(np.zeros((0, len(opened.columns))), np.zeros(0))
    )
    some = [found[row] for row in rows]
    far = opened.detector.threshold
    return answers.judge(some, whole, opened.rules, len(opened.classes), far), failed


def _trained_on(opened: Trained, found: Sequence[Asked], failed: set[int]) -> int:
    """How many of the images are files that the run was trained on or chosen by."""
    manifest = provenance.read(opened.folder)
    known = {
        row["sha256"]
        for row in manifest["images"]
        if row["of"] == "file" and row["split"] in ("train", "val")
    }
    paths = [one.path for row, one in enumerate(found) if row not in failed] if known else []
    return sum(value in known for value in provenance.hash_files(paths))


# --- what comes out -------------------------------------------------------------------------------


def _write(
    out: Path,
    opened: Trained,
    judged: Judged,
    subjects: Judged,
    failed: Sequence[str],
    seen: int,
) -> None:
    by_image = answers.as_rows(judged, opened.columns, "image")
    by_subject = answers.as_rows(subjects, opened.columns, "subject")
    truth = _against_labels(opened, judged)
    rules = opened.rules
    whole = {
        "use": RESEARCH_ONLY,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sscjax": sscjax.__version__,
        "run": {
            "folder": str(opened.folder.resolve()),
            "name": opened.name,
            "stage": opened.stage,
            "made_by": opened.record["versions"],
            "warnings": list(opened.warnings),
        },
        "classes": list(opened.classes),
        "rules": {
            "temperature": rules.temperature,
            "threshold": rules.threshold,
            "positive": rules.positive,
            "threshold_rule": rules.threshold_rule,
            "least_confidence": rules.least_confidence,
            "abstention_rule": rules.abstention_rule,
            "foreign_from": opened.detector.threshold,
        },
        "trained_on": seen,
        "failed": list(failed),
        "against_labels": truth,
        "subjects": by_subject,
        "images": by_image,
    }
    try:
        files.write_text(out / IMAGES, answers.csv_text(by_image))
        files.write_text(out / SUBJECTS, answers.csv_text(by_subject))
        files.write_json(out / ALL, whole)
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written ({error.strerror}): name another folder"
        ) from error


def _labelled(opened: Trained, judged: Judged) -> metrics.Predictions | None:
    """The answers beside the truth, where every image has a label that the network knows."""
    if not set(judged.labels.tolist()) <= set(opened.classes):
        return None
    return metrics.Predictions(
        files=judged.names,
        subjects=judged.subjects,
        splits=np.full(len(judged), "test"),
        labels=np.array([opened.classes.index(name) for name in judged.labels.tolist()], np.int32),
        probabilities=judged.probabilities,
        classes=opened.columns,
    )


def _against_labels(opened: Trained, judged: Judged) -> dict[str, Any] | None:
    table = _labelled(opened, judged)
    if table is None:
        return None
    figures = metrics.figures_by_split(table, opened.ordered)["test"]
    return {"figures": figures, "intervals": intervals.test_figures(table, opened.ordered)}


def _text(
    out: Path, opened: Trained, judged: Judged, subjects: Judged, failed: int, seen: int
) -> str:
    """What the terminal shows."""
    several = len(subjects) < len(judged)
    rows, unit, file = (subjects, "subject", SUBJECTS) if several else (judged, "image", IMAGES)
    blocks = [
        *(f"warning: {line}" for line in opened.warnings),
        answers.table(rows, opened.columns, unit, str(out / file)),
        answers.legend(opened.rules, opened.detector.threshold),
    ]
    truth = _against_labels(opened, judged)
    if truth is not None:
        reach = f"Intervals by subject ({len(subjects)}), as far as the input names them."
        blocks.append(report.intervals_table(truth["figures"], truth["intervals"], reach))
    if seen:
        blocks.append(
            f"warning: {seen} of {len(judged)} images are files that this run was trained on or "
            "chosen by: their answers\nsay nothing of new patients."
        )
    counts = f"{len(judged)} images of {len(subjects)} subjects"
    counts += f", {failed} could not be read" if failed else ""
    blocks.append(f"{counts}: {out / IMAGES}, {SUBJECTS}, {ALL}\n{RESEARCH_ONLY}")
    return "\n\n".join(blocks)


if __name__ == "__main__":
    sys.exit(cli.call(main))
