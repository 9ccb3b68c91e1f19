"""The report of a run, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sscjax.data import dataset
from sscjax.evaluation import segmentation
from sscjax.experiments.run_summary import Summary
from sscjax.reports import calibration_text, paper, site_table, tables, tested
from sscjax.system import formatting
from sscjax.training.settings import Settings
from sscjax.training.stage import FinishedStage

# What the rows of out-of-fold predictions are called in tables: they are no other patients.
_OUT_OF_FOLD = "train (out of fold)"


def reach(images: dataset.Images, ranges: Mapping[str, Any]) -> str:
    """What the intervals mean for new patients."""
    count = ranges["image"]["n_subjects"]
    if not images.has_subjects:
        return (
            "Intervals by image, for no image names its subject: too narrow wherever a patient "
            "has several images."
        )
    line = f"Intervals by subject ({count}): images of one patient are not independent."
    if images.by == "image":
        line += " Split by image: they say nothing of patients who are not in training."
    return line


def test_lines(about: Mapping[str, Any] | None) -> list[str]:
    """How the run was tested, as the terminal and the page say it; [] without a test.

    Args:
      about: see `tested.about`.
    """
    if about is None:
        return []
    lines = tested.sentence(about), tested.detail(about)
    return ["\n".join(map(formatting.paragraph, lines))]


def report(
    settings: Settings,
    images: dataset.Images,
    finished: Mapping[str, FinishedStage],
    summary: Summary,
) -> str:
    """The report, but for where the run lies.

    Args:
      settings: of the run.
      images: the run's.
      finished: its stages.
      summary: its figures.
    """
    parts = [*map(formatting.paragraph, summary.warnings), *test_lines(summary.tested)]
    if len(finished) > 1:
        source = "validation" if settings.validates else "out of fold"
        parts.append(_stages_table(finished, summary, source))
    shown = {**summary.figures}
    if summary.out_of_fold is not None:
        shown[_OUT_OF_FOLD] = summary.out_of_fold
    parts.append(tables.results_table(shown, ("val", _OUT_OF_FOLD, "test")))
    if "test" in summary.figures:
        of_test = summary.figures["test"]
        parts.append(
            tables.intervals_table(of_test, summary.intervals, reach(images, summary.intervals))
        )
        parts += [
            f"test {tables.UNITS[unit]}\n"
            + tables.confusion_text(figures_of["confusion"], figures_of["classes"])
            for unit, figures_of in of_test.items()
        ]
    if summary.by_site:
        parts.append(site_table.text(summary.by_site))
    if summary.masks is not None:
        parts.append(segmentation.text(summary.masks))
    parts.append(calibration_text.text(summary.calibration))
    if paper.compares(settings.name):
        parts.append(
            tables.paper_table(
                len(images.originals.classes),
                settings.model.name,
                summary.figures,
                split_by=images.by if images.has_subjects else "image",
                synthetic=images.synthetic,
            )
        )
    return "\n\n".join(parts)


def _stages_table(finished: Mapping[str, FinishedStage], summary: Summary, source: str) -> str:
    cells = [
        [
            f"{source}, raw",
            "epochs",
            "best",
            "balanced per subject",
            "per image",
            "log loss",
            "per image",
        ]
    ]
    for name, stage in finished.items():
        of = summary.held_out_by_stage[name]
        cells.append(
            [
                name + (" (chosen)" if name == summary.chosen else ""),
                str(stage.progress.epoch),
                str(stage.progress.best_epoch or "-"),
                *(
                    formatting.percent(of[unit]["balanced_accuracy"]) if of else "-"
                    for unit in tables.UNITS
                ),
                *(formatting.number(of[unit]["log_loss"]) if of else "-" for unit in tables.UNITS),
            ]
        )
    return formatting.align(cells)
