"""Ask a finished run about new images: `sscjax predict RUN INPUT...`.

An INPUT is an image, a folder of images, a csv manifest or a folder with one, a slide or a folder
of slides. Images are prepared,
and answers judged, as the run's folder says. Where the labels are known, the answers are compared
with them, with intervals by subject.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sscjax
from sscjax.data import anonymize, image_folder
from sscjax.data.inputs import Asked, decode, find
from sscjax.data.manifest import hash_files, read
from sscjax.errors import UserError
from sscjax.evaluation import intervals, metrics, predictions
from sscjax.inference import classifier, decisions, ensemble, mask_writer
from sscjax.inference import slides as whole_slides
from sscjax.inference.answers import Answers
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Judged
from sscjax.inference.ensemble import Ensemble
from sscjax.inference.mask_writer import MaskFiles
from sscjax.reports import tables
from sscjax.system import files
from sscjax.system.progress import Progress

# By name: run as a program, this module is `__main__`.
_LOG = logging.getLogger("sscjax.inference.predict")

IMAGES, SUBJECTS, ALL = "images.csv", "subjects.csv", "predictions.json"
FAILED = 1

RESEARCH_ONLY = "For research only: this is no diagnosis."


def predict(
    run: Path, inputs: Sequence[Path], out: Path, overwrite: bool = False, private: bool = False
) -> int:
    """Predict, write `images.csv`, `subjects.csv` and `predictions.json` to `out`, print.

    Of a network that tells masks also `masks.csv`, and `masks/` with a file for each image.

    Args:
      run: the folder of a finished run, or of a protocol, whose models are asked together.
      inputs: see `inputs.find`.
      out: folder of the results.
      overwrite: results that lie there may be replaced.
      private: results have numbers in place of names, as they have by themselves of a private run.

    Returns:
      the exit code: 1 where an image could not be read, else 0.

    Raises:
      UserError: anything that the user can mend.
    """
    refuse_folder(out, overwrite, ALL)
    opened = ensemble.open_folder(run)
    private = private or opened.private
    slides, rest = whole_slides.part(inputs)
    if slides and private:
        raise UserError(
            f"{slides[0]} is a slide, whose tiles and pictures have its name: cut it with "
            "`sscjax slides` under a name that tells nothing, and give its tiles"
        )
    settings = whole_slides.settings_of(opened) if slides else None
    found = listed(rest, opened, private) if rest else []
    if opened.mask_classes:
        mask_writer.refuse_folder(out)
    if slides:
        whole_slides.refuse_folder(out)
        if overwrite:
            whole_slides.remove(out)
    cut = None if settings is None else whole_slides.cut(slides, out, settings)
    found += [] if cut is None else cut.asked
    kept = MaskFiles(out, found, opened.mask_classes) if opened.mask_classes else None
    try:
        judged, failed = ask(opened, found, kept)
        if private:
            failed = [(row, anonymize.failure(found[row], why)) for row, why in failed]
        for _, reason in failed:
            _LOG.warning("left out: %s", reason)
        if not len(judged):
            raise UserError(f"none of the {len(found)} images could be read: nothing is predicted")
        subjects = decisions.by_subject(judged, opened.rules, len(opened.classes))
        bad = {row for row, _ in failed}
        paths = [one.path for row, one in enumerate(found) if row not in bad]
        seen = _trained_on(opened, judged, paths)
        truth = _against_labels(opened, judged, seen)
        reasons = [reason for _, reason in failed] + ([] if cut is None else cut.failed)
        drawn = [] if cut is None else whole_slides.draw(out, cut, judged, opened)
        if cut is None:
            whole_slides.remove(out)
        _write(out, opened, judged, subjects, reasons, seen, truth, drawn, kept)
    finally:
        if kept is not None:
            kept.discard()
    print(_text(out, opened, judged, subjects, reasons, seen, truth, drawn))
    if kept is not None:
        print(f"\n{kept.text()}")
    return FAILED if reasons else 0


def refuse_folder(out: Path, overwrite: bool, index: str) -> None:
    """Raise a UserError if the folder holds what may not be replaced.

    Args:
      out: a folder for results.
      overwrite: earlier results may be replaced.
      index: the file that tells results of this kind.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file, expected a folder")
    # What an interrupted start left is gone on with, or made anew.
    left = {mask_writer.PARTIAL}
    if whole_slides.ours(out):
        left.add(whole_slides.TILES)
    if out.is_dir() and any(path.name not in left for path in out.iterdir()):
        if not (out / index).is_file():
            raise UserError(f"--out={out} holds something else (no {index}): name another folder")
        if not overwrite:
            raise UserError(
                f"--out={out} holds earlier results: add --overwrite to replace them, or name "
                "another folder with --out=FOLDER"
            )


def listed(
    inputs: Sequence[Path], opened: Classifier | Ensemble, private: bool = False
) -> list[Asked]:
    """All images of the inputs, see `inputs.find`; with numbers for their names if `private`.

    Raises:
      UserError: an input cannot be used, or an image is named twice.
    """
    found = [one for path in inputs for one in find(path.expanduser(), opened.classes)]
    first: dict[Path, str] = {}
    for one in found:
        place = image_folder.target_of(one.path)
        if place in first:
            raise UserError(f"{one.file} is given twice (also as {first[place]}): name it once")
        first[place] = one.file
    return anonymize.asked(found) if private else found


def ask(
    opened: Classifier | Ensemble, found: Sequence[Asked], kept: MaskFiles | None = None
) -> tuple[Judged, list[tuple[int, str]]]:
    """Judged answers for the images that could be read; row and reason of the others.

    Args:
      opened: the run.
      found: the images.
      kept: what masks are handed to, batch by batch.
    """
    rows: list[int] = []
    failed: list[tuple[int, str]] = []

    def batches(progress: Progress) -> Any:
        for batch in decode(found, opened.image_size, classifier.BATCH):
            rows.extend(batch.rows)
            failed.extend(batch.failed)
            if batch.rows:
                yield batch.images
            progress.advance(len(batch.rows) + len(batch.failed))

    with Progress("images", len(found)) as progress:
        parts = []
        for one in opened.answer(batches(progress)):
            if kept is not None and one.masks is not None:
                kept.add(rows[-len(one.masks) :], one.masks)
            parts.append(dataclasses.replace(one, masks=None))
    whole = (
        Answers.join(parts) if parts else Answers(np.zeros((0, len(opened.columns))), np.zeros(0))
    )
    return judge(opened, [found[row] for row in rows], whole), failed


def judge(opened: Classifier | Ensemble, some: Sequence[Asked], found: Answers) -> Judged:
    """Apply the run's rules to answers for some images."""
    return decisions.judge(some, found, opened.rules, len(opened.classes), opened.far)


def _trained_on(
    opened: Classifier | Ensemble, judged: Judged, paths: Sequence[Path]
) -> np.ndarray | None:
    """[N] bool, the images that are files which the run was trained on or chosen by.

    None where the run's folder does not say.
    """
    try:
        manifests = [read(folder) for folder in opened.folders]
    except UserError as error:
        _LOG.warning("whether the run was trained on these images is not known: %s", error)
        return None
    known = {
        row["sha256"]
        for manifest in manifests
        for row in manifest["images"]
        if row["of"] == "file" and row["split"] in ("train", "val")
    }
    if not known:
        return np.zeros(len(judged), bool)
    return np.array([value in known for value in hash_files(list(paths))], bool)


# --- what comes out -------------------------------------------------------------------------------


def _write(
    out: Path,
    opened: Classifier | Ensemble,
    judged: Judged,
    subjects: Judged,
    failed: Sequence[str],
    seen: np.ndarray | None,
    truth: dict[str, Any] | None,
    drawn: Sequence[dict[str, str]],
    kept: MaskFiles | None,
) -> None:
    by_image = decisions.as_rows(judged, opened.columns, "image")
    by_subject = decisions.as_rows(subjects, opened.columns, "subject")
    rules = opened.rules
    whole = {
        "use": RESEARCH_ONLY,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sscjax": sscjax.__version__,
        "run": {
            "folder": str(opened.folder.resolve()),
            "name": opened.name,
            "stage": opened.stage,
            "models": [str(folder.resolve()) for folder in opened.folders],
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
            "foreign_from": opened.far,
        },
        "trained_on": None if seen is None else int(seen.sum()),
        "failed": list(failed),
        "against_labels": truth,
        "slides": list(drawn),
        "subjects": by_subject,
        "images": by_image,
        "mask_classes": list(opened.mask_classes),
        "masks": [] if kept is None else kept.entries,
    }
    try:
        files.write_text(out / IMAGES, decisions.csv_text(by_image))
        files.write_text(out / SUBJECTS, decisions.csv_text(by_subject))
        if kept is None:
            mask_writer.remove(out)
        else:
            kept.finish()
        # Last: who finds it finds all.
        files.write_json(out / ALL, whole)
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written ({error.strerror}): name another folder"
        ) from error


def _against_labels(
    opened: Classifier | Ensemble, judged: Judged, seen: np.ndarray | None
) -> dict[str, Any] | None:
    """Figures and intervals where all labels are known; of images the run has not seen, if any."""
    if not set(judged.labels.tolist()) <= set(opened.classes):
        return None
    some = np.ones(len(judged), bool) if seen is None or seen.all() else ~seen
    labels = [opened.classes.index(name) for name in judged.labels[some].tolist()]
    table = predictions.Predictions(
        files=judged.names[some],
        subjects=judged.subjects[some],
        splits=np.full(int(some.sum()), "test"),
        labels=np.array(labels, np.int32),
        probabilities=judged.probabilities[some],
        classes=opened.columns,
    )
    return {
        "images": len(table),
        "subjects": len(set(table.subjects.tolist())),
        "figures": metrics.figures_by_split(table, opened.ordered)["test"],
        "intervals": intervals.test_figures(table, opened.ordered),
    }


def _text(
    out: Path,
    opened: Classifier | Ensemble,
    judged: Judged,
    subjects: Judged,
    failed: Sequence[str],
    seen: np.ndarray | None,
    truth: dict[str, Any] | None,
    drawn: Sequence[dict[str, str]],
) -> str:
    """What the terminal shows."""
    several = len(subjects) < len(judged)
    rows, unit, file = (subjects, "subject", SUBJECTS) if several else (judged, "image", IMAGES)
    blocks = [
        *(f"warning: {line}" for line in opened.warnings),
        decisions.table(rows, opened.columns, unit, str(out / file)),
        decisions.legend(opened.rules, opened.far),
    ]
    if seen is not None and seen.any():
        left = "" if truth is None or seen.all() else " The figures below are without them."
        blocks.append(
            f"warning: {seen.sum()} of {len(judged)} images are files that this run was trained "
            f"on or chosen by: their\nanswers say nothing of new patients.{left}"
        )
    if truth is not None:
        reach = f"{truth['images']} images; intervals by subject ({truth['subjects']}), as far as "
        reach += "the input names them."
        blocks.append(tables.intervals_table(truth["figures"], truth["intervals"], reach))
    counts = f"{len(judged)} images of {len(subjects)} subjects"
    counts += f", {len(failed)} could not be read" if failed else ""
    blocks.append(f"{counts}: {out / IMAGES}, {SUBJECTS}, {ALL}\n{RESEARCH_ONLY}")
    if drawn:
        first = drawn[0]
        names = f"{first['heat_map']} and {first['decisive']}"
        more = f", and those of {len(drawn) - 1} more" if len(drawn) > 1 else ""
        blocks.insert(-1, f"Heat map and the ten most decisive tiles: {out / names}{more}")
    return "\n\n".join(blocks)
