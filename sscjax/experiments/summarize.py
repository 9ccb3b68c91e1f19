"""The end of a run: which stage's model it keeps, its figures in files, pictures and text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sscjax.data import dataset, sites
from sscjax.data.dataset import ImageSet
from sscjax.evaluation import by_site, intervals, metrics, reliability, segmentation
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import held_out
from sscjax.inference import checked_maps, explanations
from sscjax.reports import calibration_text, figures, paper, site_table, tables
from sscjax.system import files, formatting, run_dir
from sscjax.training.network import Network
from sscjax.training.settings import SelectSettings, Settings
from sscjax.training.stage import FinishedStage

Pictures = Literal["all", "maps", "none"]

# What the rows of out-of-fold predictions are called in tables: they are no other patients.
_OUT_OF_FOLD = "train (out of fold)"

# Share of the test images of one subject above which figures per image are warned of.
_LARGE_SHARE = 0.2

# Files that cannot be read which the report's first lines name.
_NAMED = 3


def choose(settings: SelectSettings, finished: Mapping[str, FinishedStage]) -> str:
    """The stage whose model the run ends with."""
    names = list(finished)
    if settings.stage == "last" or settings.metric == "none":
        return names[-1]
    sign = 1 if metrics.HIGHER_IS_BETTER[settings.metric] else -1
    return max(names, key=lambda name: sign * (finished[name].value or 0.0))


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run's metrics.json, pictures and report are made of.

    Attributes:
      chosen: the stage whose model the run ends with.
      by_stage: figures of each stage by split, of the probabilities that its network gave.
      stage_intervals: intervals of the test figures of each stage.
      figures: figures of the chosen stage by split, of calibrated probabilities.
      intervals: intervals of its test figures.
      calibration: calibration.json.
      warnings: what a reader must know before any figure.
      masks: figures of the masks by split; None without masks.
      out_of_fold: as `figures`, of out-of-fold predictions of the training images; None where there
        are none.
      held_out_by_stage: of each stage the figures of the rows that chose between stages, of the
        probabilities that its networks gave; None where there are none.
      by_site: test figures of each site; {} where no site is known.
    """

    chosen: str
    by_stage: dict[str, Any]
    stage_intervals: dict[str, Any]
    figures: dict[str, Any]
    intervals: dict[str, Any]
    calibration: dict[str, Any]
    warnings: list[str]
    masks: dict[str, Any] | None
    out_of_fold: dict[str, Any] | None
    held_out_by_stage: dict[str, dict[str, Any] | None]
    by_site: dict[str, Any]


# One argument for each part of the run, as its caller has them.
def write(
    settings: Settings,
    folder: Path,
    images: dataset.Images,
    network: Network,
    finished: Mapping[str, FinishedStage],
    features: reliability.Features,
    leaks: Sequence[str] = (),
    masks: segmentation.Table | None = None,
    *,
    pictures: Pictures = "all",
) -> str:
    """Write predictions, figures and pictures of the run; returns the text for the terminal.

    The run's own predictions and figures are those of calibrated probabilities; those of each stage
    are as its network gave them.
    """
    chosen, ordered = choose(settings.select, finished), images.ordered
    tested = images.splits == "test"
    apart = sites.are_apart(images.originals, tested, ~tested)
    predictions = finished[chosen].predictions
    assessment = reliability.assess(
        predictions,
        finished[chosen].held_out,
        images.originals.classes,
        features,
        settings.calibration,
        subject_label=settings.data.subject_label,
        source="validation" if settings.validates else "out-of-fold",
        also_used_for=held_out.chosen_before(settings.select, finished),
    )
    run = run_dir.RunDir(folder)
    assessment.detector.save(run.outliers)
    files.write_json(folder / run_dir.CALIBRATION, assessment.content)
    assessment.predictions.write_csv(run.predictions)
    assessment.subjects.write_csv(run.subject_predictions)
    if masks is not None:
        masks.write_csv(folder / run_dir.MASKS)
    tables_of = {name: stage.predictions for name, stage in finished.items()}
    subjects_of = {
        name: reliability.of_subjects(table, settings.calibration, settings.data.subject_label)
        for name, table in tables_of.items()
    }
    summary = Summary(
        chosen=chosen,
        by_stage={
            name: metrics.figures_by_split(table, ordered, subjects_of[name])
            for name, table in tables_of.items()
        },
        stage_intervals={
            name: intervals.test_figures(table, ordered, subjects=subjects_of[name])
            for name, table in tables_of.items()
        },
        figures=metrics.figures_by_split(assessment.predictions, ordered, assessment.subjects),
        intervals=intervals.test_figures(
            assessment.predictions, ordered, subjects=assessment.subjects
        ),
        calibration=assessment.content,
        warnings=[
            *warnings(
                images,
                fallback=stand_in(network.weights.identity()),
                named=names_classes(settings, images.synthetic),
                leaks=leaks,
            ),
            *of_one_subject(assessment.predictions.where("test")),
            *(sites.warnings(images.originals, apart) if tested.any() else []),
        ],
        masks=None if masks is None else segmentation.by_split(masks),
        out_of_fold=held_out.out_of_fold_figures(settings, finished[chosen], assessment, ordered),
        held_out_by_stage={
            name: held_out.figures(settings, stage.held_out, ordered)
            for name, stage in finished.items()
        },
        by_site=by_site.figures(assessment.predictions, assessment.subjects, ordered, apart),
    )
    files.write_json(folder / run_dir.METRICS, _metrics(finished, summary))
    if pictures == "all":
        _draw(folder, finished, summary)
    if pictures != "none":
        count = checked_maps.IMAGES if pictures == "all" else checked_maps.IMAGES_OF_FOLD
        explanations.write(folder, images, network, chosen, assessment.predictions, count)
    page = "; open report.html there in a browser" if pictures == "all" else ""
    text = _text(settings, images, finished, summary)
    text += f"\n\nEverything lies in {folder}{page}.\n"
    files.write_text(folder / run_dir.REPORT, text)
    return text


def _metrics(finished: Mapping[str, FinishedStage], summary: Summary) -> dict[str, Any]:
    """The content of metrics.json."""
    return {
        "final_stage": summary.chosen,
        "probabilities": {
            "splits": "calibrated",
            "stages": "as the network gave them",
            "temperature": summary.calibration["image"]["temperature"],
            "temperature_of_subjects": summary.calibration["subject"]["temperature"],
        },
        "warnings": summary.warnings,
        "splits": summary.figures,
        "test_intervals": summary.intervals,
        **({} if summary.out_of_fold is None else {"out_of_fold": summary.out_of_fold}),
        **({} if summary.masks is None else {"segmentation": summary.masks}),
        **({"sites": summary.by_site} if summary.by_site else {}),
        "stages": {
            name: {
                "splits": summary.by_stage[name],
                "test_intervals": summary.stage_intervals[name],
                "epochs": stage.progress.epoch,
                "best_epoch": stage.progress.best_epoch or None,
                "best_value": stage.progress.best_value,
                "stopped_early": stage.progress.stopped_early,
                "frozen_parameters": stage.counts.frozen,
                "trained_parameters": stage.counts.trained,
            }
            for name, stage in finished.items()
        },
    }


def _draw(folder: Path, finished: Mapping[str, FinishedStage], summary: Summary) -> None:
    curves = list(finished.values())[-1].progress.curves
    progress, before = finished[summary.chosen].progress, 0
    for name, stage in finished.items():
        if name == summary.chosen:
            break
        before += stage.progress.epoch
    best = before + progress.best_epoch if progress.best_epoch else None
    # A classifier that was fitted to convergence has no epochs: one point is no curve.
    if any(stage.progress.l2 is None for stage in finished.values()):
        figures.write_png(folder / run_dir.CURVES_PLOT, figures.learning_curves(curves, best))
    shown = figures.calibration(
        summary.calibration["subject"],
        title="test subjects: probabilities, and abstention",
        rows="subjects",
    )
    figures.write_png(folder / run_dir.CALIBRATION_PLOT, shown)
    for split in ("val", "test"):
        if split in summary.figures:
            counts = summary.figures[split]["image"]
            matrix = figures.confusion(counts["confusion"], counts["classes"], f"{split} images")
            figures.write_png(folder / run_dir.confusion_plot(split), matrix)


def reach(images: dataset.Images, ranges: Mapping[str, Any]) -> str:
    """What the intervals mean for new patients."""
    count = ranges["image"]["n_subjects"]
    if not images.has_subjects:
        return (
            "Intervals by image, for no image names its subject: too narrow wherever a patient\n"
            "has several images."
        )
    line = f"Intervals by subject ({count}): images of one patient are not independent."
    if images.by == "image":
        line += "\nSplit by image: they say nothing of patients who are not in training."
    return line


def left_out_warning(image_set: ImageSet) -> str:
    """How many images could not be read, and which."""
    names = [formatting.clean_file(name, 60) for name in image_set.skipped]
    count, more = len(names), ""
    if count > _NAMED:
        names, more = names[:_NAMED], f" and {count - _NAMED:,} more (the record has all)"
    return (
        f"{count:,} OF {count + len(image_set):,} IMAGES LEFT OUT, for they cannot be read:\n"
        f"{', '.join(names)}{more}."
    )


def names_classes(settings: Settings, synthetic: bool) -> bool:
    """Whether the order of the classes is known: the first is taken for healthy."""
    return bool(synthetic or settings.data.classes)


def stand_in(weights: Mapping[str, Any]) -> str:
    """What a run started from in place of ImageNet's weights: 'bundled', 'random', or ''.

    Args:
      weights: of the run's record.
    """
    if not weights.get("fallback"):
        return ""
    return "bundled" if weights["kind"] == "file" else "random"


def warnings(
    images: dataset.Images, *, fallback: str, named: bool = True, leaks: Sequence[str] = ()
) -> list[str]:
    """What a reader must know before any figure.

    Args:
      images: the run's images.
      fallback: what stands in for ImageNet's weights, see `stand_in`.
      named: whether the config names the classes in their order.
      leaks: what leaks by the audit, where the config allows it.
    """
    parts = []
    if leaks:
        parts.append(f"LEAKAGE ALLOWED BY THE CONFIG: {'; '.join(leaks)}.")
    if images.synthetic:
        parts.append(
            "SYNTHETIC IMAGES, drawn by a program: no figure here says anything about patients."
        )
    if fallback:
        parts.append(f"{tables.STAND_INS[fallback]}: no ImageNet weights could be had.")
    if images.by == "subject" and not images.has_subjects:
        parts.append(
            "NO SUBJECTS: every image counts as a subject of its own, so images of one patient\n"
            "may stand in training and test alike, and the figures are too good."
        )
    if images.originals.skipped:
        parts.append(left_out_warning(images.originals))
    unnamed, total = images.unnamed, len(images.originals)
    if images.by == "subject" and 0 < unnamed < total:
        parts.append(
            f"{unnamed} OF {total} IMAGES NAME NO SUBJECT: each of them counts as a subject of\n"
            "its own, so the figures are too good where patients have several."
        )
    if images.by == "subject" and images.one_image_each:
        parts.append(
            "ONE IMAGE PER SUBJECT: sound if each is another patient. If the subjects are but\n"
            "numbers of images, the figures are too good."
        )
    if images.by == "image":
        parts.append("SPLIT BY IMAGE: images of one subject stand in training and test alike.")
    if len(set(images.originals.subjects[images.splits == "test"].tolist())) == 1:
        parts.append(
            "ONE SUBJECT IS TESTED: figures of all classes need those of the other subjects, too."
        )
    if not named:
        healthy = formatting.clean_name(images.originals.classes[0])
        parts.append(
            f"CLASSES IN THE ORDER OF THEIR NAMES: {healthy} counts as healthy. If another does,\n"
            "give --classes in their order: else sensitivity and specificity are exchanged."
        )
    return parts


def of_one_subject(tested: Predictions) -> list[str]:
    """A warning where one subject has many of the test images, so that it decides their figures."""
    subject, share = tested.largest_share
    if share <= _LARGE_SHARE or len(tested) == len(set(tested.subjects.tolist())):
        return []
    return [
        f"ONE SUBJECT HAS {formatting.percent(share)} OF THE TEST IMAGES "
        f"({formatting.clean_name(subject, 40)}):\nread the figures per subject; those per image "
        "are mostly its own."
    ]


def _text(
    settings: Settings,
    images: dataset.Images,
    finished: Mapping[str, FinishedStage],
    summary: Summary,
) -> str:
    """The report, but for where the run lies."""
    parts = list(summary.warnings)
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
