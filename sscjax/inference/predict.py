"""Predict for new images with a finished run: `sscjax predict RUN INPUT...`.

An INPUT is an image, a folder of images, a csv manifest or a folder with one, a slide or a folder
of slides. Images are prepared, and decisions made, as the run's folder says. Where the labels are
known, predictions are compared with them, with confidence intervals clustered by subject.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sscjax
from sscjax.data import anonymize, listing
from sscjax.data.inputs import InputImage, decode, find
from sscjax.data.manifest import hash_files, read
from sscjax.errors import UserError
from sscjax.evaluation.rules import Unit
from sscjax.inference import classifier, decisions, ensemble, known_labels, mask_writer
from sscjax.inference import slides as whole_slides
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Decisions
from sscjax.inference.ensemble import Ensemble
from sscjax.inference.mask_writer import MaskFiles
from sscjax.inference.outputs import Outputs
from sscjax.reports import tables
from sscjax.system import files
from sscjax.system.progress import Progress

# By name: run as a program, this module is `__main__`.
_LOG = logging.getLogger("sscjax.inference.predict")

IMAGES, SUBJECTS, ALL = "images.csv", "subjects.csv", "predictions.json"
FAILED = 1

RESEARCH_ONLY = "For research only: this is no diagnosis."


def predict(
    run: Path,
    inputs: Sequence[Path],
    out: Path,
    overwrite: bool = False,
    private: bool = False,
    *,
    pages: str = "",
) -> int:
    """Predict, write `images.csv`, `subjects.csv` and `predictions.json` to `out`, print.

    Of a network that predicts masks also `masks.csv`, and `masks/` with a file for each image.

    Args:
      run: the folder of a finished run, or of a cross-validation, whose models predict together.
      inputs: see `inputs.find`.
      out: folder of the results.
      overwrite: results that lie there may be replaced.
      private: results have numbers in place of names, as they have by themselves of a private run.
      pages: which page of a file with several is read, see `Decoding`; '': as in training.

    Returns:
      the exit code: 1 where an image could not be read, or where labels were given and no figures
      against them can be, else 0.

    Raises:
      UserError: anything that the user can fix.
    """
    refuse_folder(out, overwrite, ALL)
    opened = _with_pages(ensemble.open_folder(run), pages)
    private = private or opened.private
    slides, image_inputs = whole_slides.part(inputs)
    if slides and private:
        raise UserError(
            f"{slides[0]} is a slide, whose tiles and pictures have its name: cut it with "
            "`sscjax slides` under a name that identifies nobody, and give its tiles"
        )
    settings = whole_slides.settings_of(opened) if slides else None
    merged = known_labels.merged_names(opened.record)
    images = listed(image_inputs, opened, private, merged) if image_inputs else []
    if opened.mask_classes:
        mask_writer.refuse_folder(out)
    if slides:
        whole_slides.refuse_folder(out)
        if overwrite:
            whole_slides.remove(out)
    cut = None if settings is None else whole_slides.cut(slides, out, settings)
    images += [] if cut is None else cut.tiles
    mask_files = None
    if opened.mask_classes:
        mask_files = MaskFiles(out, images, opened.mask_classes, opened.decoding)
    try:
        results = _results(opened, images, mask_files, private)
        if cut is None:
            whole_slides.remove(out)
        else:
            results.failed.extend(cut.failed)
            results.drawings.extend(whole_slides.draw(out, cut, results.images, opened))
        _write(out, results, mask_files)
    finally:
        if mask_files is not None:
            mask_files.discard()
    print(_text(out, results))
    if mask_files is not None:
        print(f"\n{mask_files.text()}")
    return FAILED if results.failed or results.labels_problem else 0


def _with_pages(opened: Classifier | Ensemble, pages: str) -> Classifier | Ensemble:
    """The run, with another page of files with several than in training, unless that is ''."""
    if not pages:
        return opened
    decoding = dataclasses.replace(opened.decoding, pages=pages)
    if isinstance(opened, Classifier):
        return dataclasses.replace(opened, decoding=decoding)
    members = tuple(dataclasses.replace(one, decoding=decoding) for one in opened.members)
    return dataclasses.replace(opened, members=members)


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a call of `predict` predicts.

    Attributes:
      opened: the run.
      images: a row for each of the N images that could be read.
      subjects: a row per subject.
      failed: a line for each image or slide that could not be read.
      trained_on: [N] bool, files that the run was trained on or chosen by; None where the run's
        folder does not say.
      against_labels: figures and intervals; None where a label is not known.
      labels_problem: why the labels give no figures; '' where they do or there are none.
      drawings: of each slide the names of its pictures.
    """

    opened: Classifier | Ensemble
    images: Decisions
    subjects: Decisions
    failed: list[str]
    trained_on: np.ndarray | None
    against_labels: dict[str, Any] | None
    labels_problem: str
    drawings: list[dict[str, str]]


def _results(
    opened: Classifier | Ensemble,
    images: Sequence[InputImage],
    mask_files: MaskFiles | None,
    private: bool,
) -> Results:
    """Predict for images; the arguments are those of `predict_images`, and of `predict`.

    Raises:
      UserError: no image could be read.
    """
    table, failures = predict_images(opened, images, mask_files)
    if private:
        failures = [(row, anonymize.failure(images[row], why)) for row, why in failures]
    for _, reason in failures:
        _LOG.warning("left out: %s", reason)
    if not len(table):
        raise UserError(f"none of the {len(images)} images could be read: nothing is predicted")
    failed_rows = {row for row, _ in failures}
    paths = [image.path for row, image in enumerate(images) if row not in failed_rows]
    trained_on = _trained_on(opened, table, paths)
    return Results(
        opened=opened,
        images=table,
        subjects=decisions.by_subject(table, opened.rules, len(opened.classes)),
        failed=[reason for _, reason in failures],
        trained_on=trained_on,
        against_labels=known_labels.against_labels(opened, table, trained_on),
        labels_problem=known_labels.problem(table.labels.tolist(), opened.classes),
        drawings=[],
    )


def refuse_folder(out: Path, overwrite: bool, index: str) -> None:
    """Raise a UserError if the folder holds what may not be replaced.

    Args:
      out: a folder for results.
      overwrite: earlier results may be replaced.
      index: the file that only results of this kind have.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out={out} is a file, expected a folder")
    # What an interrupted call left is continued, or made again.
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
    inputs: Sequence[Path],
    opened: Classifier | Ensemble,
    private: bool = False,
    merged: Mapping[str, str] | None = None,
) -> list[InputImage]:
    """All images of the inputs, see `inputs.find`; with numbers for their names if `private`.

    Raises:
      UserError: an input cannot be used, or an image is named twice.
    """
    reading = known_labels.reading(opened.record)
    images = [
        image
        for path in inputs
        for image in find(path.expanduser(), opened.classes, merged, reading)
    ]
    name_of: dict[Path, str] = {}
    for image in images:
        target = listing.target_of(image.path)
        if target in name_of:
            raise UserError(
                f"{image.file} is given twice (also as {name_of[target]}): name it once"
            )
        name_of[target] = image.file
    return anonymize.input_images(images) if private else images


def predict_images(
    opened: Classifier | Ensemble, images: Sequence[InputImage], mask_files: MaskFiles | None = None
) -> tuple[Decisions, list[tuple[int, str]]]:
    """Decisions for the images that could be read; row and reason of the others.

    Args:
      opened: the run.
      images: the images.
      mask_files: what masks are handed to, batch by batch.
    """
    read_rows: list[int] = []
    failed: list[tuple[int, str]] = []

    def batches(progress: Progress) -> Any:
        for batch in decode(images, opened.image_size, classifier.BATCH, opened.decoding):
            read_rows.extend(batch.rows)
            failed.extend(batch.failed)
            if batch.rows:
                yield batch.images
            progress.advance(len(batch.rows) + len(batch.failed))

    with Progress("images", len(images)) as progress:
        parts = []
        for outputs in opened.outputs(batches(progress)):
            if mask_files is not None and outputs.masks is not None:
                mask_files.add(read_rows[-len(outputs.masks) :], outputs.masks)
            parts.append(dataclasses.replace(outputs, masks=None))
    joined = (
        Outputs.join(parts) if parts else Outputs(np.zeros((0, len(opened.columns))), np.zeros(0))
    )
    return decide(opened, [images[row] for row in read_rows], joined), failed


def decide(
    opened: Classifier | Ensemble, images: Sequence[InputImage], outputs: Outputs
) -> Decisions:
    """Apply the run's rules to the network's outputs for some images."""
    return decisions.decide(
        images, outputs, opened.rules, len(opened.classes), opened.distance_limit
    )


def _trained_on(
    opened: Classifier | Ensemble, table: Decisions, paths: Sequence[Path]
) -> np.ndarray | None:
    """[N] bool, the images that are files on which the run was trained, or by which it was chosen.

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
        return np.zeros(len(table), bool)
    return np.array([value in known for value in hash_files(list(paths))], bool)


# --- what comes out -------------------------------------------------------------------------------


def _write(out: Path, results: Results, mask_files: MaskFiles | None) -> None:
    opened, rules = results.opened, results.opened.rules
    image_entries = decisions.as_rows(results.images, opened.columns, "image")
    subject_entries = decisions.as_rows(results.subjects, opened.columns, "subject")
    trained_on = results.trained_on
    document = {
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
            **rules.to_json(),
            # null: the flag is not usable.
            "distance_limit": opened.distance_limit if opened.flags else None,
        },
        "trained_on": None if trained_on is None else int(trained_on.sum()),
        "failed": results.failed,
        "against_labels": results.against_labels,
        "labels_problem": results.labels_problem,
        "slides": results.drawings,
        "subjects": subject_entries,
        "images": image_entries,
        "mask_classes": list(opened.mask_classes),
        "masks": [] if mask_files is None else mask_files.entries,
    }
    try:
        files.write_text(out / IMAGES, decisions.csv_text(image_entries))
        files.write_text(out / SUBJECTS, decisions.csv_text(subject_entries))
        if mask_files is None:
            mask_writer.remove(out)
        else:
            mask_files.finish()
        # Last: where it is, all the others are.
        files.write_json(out / ALL, document)
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written ({error.strerror}): name another folder"
        ) from error


def _text(out: Path, results: Results) -> str:
    """What the terminal shows."""
    opened, images, subjects = results.opened, results.images, results.subjects
    unit: Unit = "image"
    shown, file = images, IMAGES
    if len(subjects) < len(images):
        shown, unit, file = subjects, "subject", SUBJECTS
    blocks = [
        *(f"warning: {line}" for line in opened.warnings),
        decisions.table_text(shown, opened.columns, unit, str(out / file)),
        decisions.legend(opened.rules, unit, opened.distance_limit, opened.classes),
    ]
    trained_on, against_labels = results.trained_on, results.against_labels
    if trained_on is not None and trained_on.any():
        excluded = against_labels is not None and not trained_on.all()
        blocks.append(
            f"warning: this run was trained on, or chosen by, {trained_on.sum()} of the "
            f"{len(images)} images: their\npredictions say nothing of new patients."
            + (" The figures below exclude them." if excluded else "")
        )
    if against_labels is not None:
        reach = (
            f"{against_labels['images']} images; 95 % confidence intervals, clustered by subject "
            f"({against_labels['subjects']}),\nas far as the input names them."
        )
        figures, ranges = against_labels["figures"], against_labels["intervals"]
        blocks.append(tables.intervals_table(figures, ranges, reach))
    if results.labels_problem:
        blocks.append(textwrap.fill(results.labels_problem, 100, break_on_hyphens=False))
    counts = f"{len(images)} images of {len(subjects)} subjects"
    counts += f", {len(results.failed)} could not be read" if results.failed else ""
    blocks.append(f"{counts}: {out / IMAGES}, {SUBJECTS}, {ALL}\n{RESEARCH_ONLY}")
    if results.drawings:
        first, others = results.drawings[0], len(results.drawings) - 1
        names = f"{first['heat_map']} and {first['decisive']}"
        more = f", and those of {others} more" if others else ""
        blocks.insert(-1, f"Heat map and the ten most decisive tiles: {out / names}{more}")
    return "\n\n".join(blocks)
