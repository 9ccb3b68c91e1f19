"""Predict for new images with a finished run: `sscjax predict RUN INPUT...`.

An INPUT is an image, a folder of images, a csv manifest or a folder with one, a slide or a folder
of slides. Images are prepared, and decisions made, as the run's folder says. Where the labels are
known, predictions are compared with them, with confidence intervals clustered by subject.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import anonymize, listing
from sscjax.data.inputs import InputImage, decode, find
from sscjax.data.manifest import hash_files, read
from sscjax.errors import UserError
from sscjax.evaluation.map_check import Show
from sscjax.inference import classifier, decisions, ensemble, known_labels, mask_writer
from sscjax.inference import slides as whole_slides
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Decisions
from sscjax.inference.ensemble import Ensemble
from sscjax.inference.mask_writer import MaskFiles
from sscjax.inference.outputs import Outputs
from sscjax.inference.results import ALL as ALL
from sscjax.inference.results import IMAGES as IMAGES
from sscjax.inference.results import PAGE as PAGE
from sscjax.inference.results import RESEARCH_ONLY as RESEARCH_ONLY
from sscjax.inference.results import SUBJECTS as SUBJECTS
from sscjax.inference.results import Results, text, write
from sscjax.system.progress import Progress

# By name: run as a program, this module is `__main__`.
_LOG = logging.getLogger("sscjax.inference.predict")

FAILED = 1


def predict(
    run: Path,
    inputs: Sequence[Path],
    out: Path | None = None,
    overwrite: bool = False,
    private: bool = False,
    *,
    show: Show = "checked",
    openseadragon: Path | None = None,
    pages: str = "",
) -> int:
    """Predict, write a page, two tables and `predictions.json` to `out`, print.

    Of a network that predicts masks also `masks.csv`, and `masks/` with a file for each image.

    Args:
      run: the folder of a finished run, or of a cross-validation, whose models predict together.
      inputs: see `inputs.find`.
      out: folder of the results; None makes a new one, see `new_folder`.
      overwrite: results that lie there may be replaced.
      private: results have numbers in place of names, as they have by themselves of a private run.
      show: which maps the page has, see `Maps.drawn`.
      openseadragon: where it is, for slides; None: fetched.
      pages: which page of a file with several is read, see `Decoding`; '': as in training.

    Returns:
      the exit code: 1 where an image could not be read, or where labels were given and no figures
      against them can be, else 0.

    Raises:
      UserError: anything that the user can fix.
    """
    if out is not None:
        refuse_folder(out, overwrite, ALL)
    opened = _with_pages(ensemble.open_folder(run), pages)
    out = out or new_folder(run)
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
            viewer = whole_slides.viewer_files(openseadragon)
            drawings = whole_slides.draw(out, cut, results.images, opened, viewer)
            results.drawings.extend(drawings)
        write(out, results, mask_files, show)
    finally:
        if mask_files is not None:
            mask_files.discard()
    print(text(out, results))
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
    inputs = [image for row, image in enumerate(images) if row not in failed_rows]
    trained_on = _trained_on(opened, table, [image.path for image in inputs])
    return Results(
        opened=opened,
        images=table,
        inputs=inputs,
        subjects=decisions.by_subject(table, opened.rules, len(opened.classes)),
        failed=[reason for _, reason in failures],
        trained_on=trained_on,
        against_labels=known_labels.against_labels(opened, table, trained_on),
        labels_problem=known_labels.problem(table.labels.tolist(), opened.classes),
        drawings=[],
    )


def new_folder(run: Path, kind: str = "predictions") -> Path:
    """A folder for a call of today, which does not exist: predictions/2026-11-30_skin.

    Of a second call on a day predictions/2026-11-30_skin_2, and so on.

    Args:
      run: the folder of the run.
      kind: the folder around it, in the current one.
    """
    name = run.expanduser().resolve().name
    folder = Path(kind) / f"{datetime.date.today().isoformat()}_{name}"
    more = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], more) if not path.exists())


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
