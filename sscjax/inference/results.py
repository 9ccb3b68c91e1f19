"""What a call of `predict` gives: its tables, its JSON, its page, and what the terminal shows."""

from __future__ import annotations

import dataclasses
import datetime
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sscjax
from sscjax.data.inputs import InputImage
from sscjax.errors import UserError
from sscjax.evaluation.map_check import Show
from sscjax.evaluation.predictions import Predictions
from sscjax.evaluation.rules import Unit
from sscjax.inference import decisions, decisive, mask_writer
from sscjax.inference.classifier import Classifier
from sscjax.inference.decisions import Decisions
from sscjax.inference.ensemble import Ensemble
from sscjax.inference.mask_writer import MaskFiles
from sscjax.reports import overlays, tables, tested
from sscjax.reports.html import predictions as page
from sscjax.system import files, run_dir

# As the tables of a run are called.
IMAGES, SUBJECTS = run_dir.PREDICTIONS, run_dir.SUBJECT_PREDICTIONS
# Pixels of a slide's heat map in the page.
_SLIDE_SIDE = 1000

ALL, PAGE = "predictions.json", "index.html"

RESEARCH_ONLY = "For research only: this is no diagnosis."


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a call of `predict` predicts.

    Attributes:
      opened: the run.
      images: a row for each of the N images that could be read.
      inputs: these images, in the same order.
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
    inputs: Sequence[InputImage]
    subjects: Decisions
    failed: list[str]
    trained_on: np.ndarray | None
    against_labels: dict[str, Any] | None
    labels_problem: str
    drawings: list[dict[str, str]]

    @property
    def unit(self) -> Unit:
        """What the table on the screen and the page have a row of: images that name no subject."""
        return "subject" if len(self.subjects) < len(self.images) else "image"


def write(
    out: Path, results: Results, mask_files: MaskFiles | None, show: Show = "checked"
) -> None:
    """Write tables, page and JSON of a call.

    Args:
      out: the folder.
      results: what was predicted.
      mask_files: the masks, of a network that predicts some.
      show: which maps the page has, see `Maps.drawn`.

    Raises:
      UserError: the folder cannot be written.
    """
    drawn = results.opened.maps.drawn(show)
    document = _document(results, mask_files, drawn)
    chosen = decisive.choose(results.images, results.subjects)
    pictures = decisive.pictures(results.opened, results.inputs, chosen, drawn)
    uris = {
        drawing["slide"]: overlays.data_uri(out / drawing["heat_map"], _SLIDE_SIDE)
        for drawing in results.drawings
    }
    text = page.render_page(document, chosen.rows, pictures, results.unit, uris)
    try:
        files.write_text(out / IMAGES, decisions.csv_text(document["images"]))
        files.write_text(out / SUBJECTS, decisions.csv_text(document["subjects"]))
        files.write_text(out / PAGE, text)
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


def _document(results: Results, mask_files: MaskFiles | None, drawn: bool) -> dict[str, Any]:
    """The content of predictions.json."""
    opened, trained_on = results.opened, results.trained_on
    return {
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
            "tested": _tested(opened),
        },
        "classes": list(opened.classes),
        "rules": {
            **opened.rules.to_json(),
            # null: the flag is not usable.
            "distance_limit": opened.distance_limit if opened.flags else None,
        },
        "maps": {**opened.maps.to_json(), "drawn": drawn},
        "trained_on": None if trained_on is None else int(trained_on.sum()),
        "failed": results.failed,
        "against_labels": results.against_labels,
        "labels_problem": results.labels_problem,
        "slides": results.drawings,
        "subjects": decisions.as_rows(results.subjects, opened.columns, "subject"),
        "images": decisions.as_rows(results.images, opened.columns, "image"),
        "mask_classes": list(opened.mask_classes),
        "masks": [] if mask_files is None else mask_files.entries,
    }


def _tested(opened: Classifier | Ensemble) -> list[str]:
    """How the model was tested, in sentences; [] where its folder does not say."""
    run = run_dir.RunDir(opened.folder)
    metrics = run.metrics()
    test = metrics.get("tested")
    # A model of all images was tested by the cross-validation, in the folder above.
    if test is None and "tested_by" in metrics:
        run = run_dir.RunDir(opened.folder.parent)
    if test is None and run.has(run_dir.PREDICTIONS):
        table = Predictions.read_csv(run.predictions).where("test")
        if len(table) and "test" in metrics["splits"]:
            figures, ranges = metrics["splits"]["test"], metrics["test_intervals"]
            test = tested.about(figures, ranges, table, opened.record["config"]["split"]["by"])
    return [] if test is None else [f"{tested.sentence(test)}.", tested.detail(test)]


def text(out: Path, results: Results) -> str:
    """What the terminal shows."""
    opened, images, subjects = results.opened, results.images, results.subjects
    unit = results.unit
    shown, file = (subjects, SUBJECTS) if unit == "subject" else (images, IMAGES)
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
    blocks.append(
        f"{counts}. Open {out / PAGE} in a browser; beside it\n{IMAGES}, {SUBJECTS}, {ALL}.\n"
        f"{RESEARCH_ONLY}"
    )
    if results.drawings:
        first, others = results.drawings[0], len(results.drawings) - 1
        names = f"{first['heat_map']} and {first['decisive']}"
        more = f", and those of {others} more" if others else ""
        blocks.insert(-1, f"Heat map and the ten most decisive tiles: {out / names}{more}")
    return "\n\n".join(blocks)
