"""The end of a run: which stage's model it keeps, its figures in files, pictures and text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sscjax.data import dataset, sites
from sscjax.data.audit import checks
from sscjax.evaluation import by_site, intervals, metrics, reliability, segmentation
from sscjax.experiments import held_out, run_text, run_warnings
from sscjax.experiments.run_summary import Summary
from sscjax.inference import checked_maps, explanations
from sscjax.reports import figures, weaknesses
from sscjax.reports.tested import about as about_test
from sscjax.system import files, run_dir
from sscjax.training.network import Network
from sscjax.training.settings import SelectSettings, Settings
from sscjax.training.stage import FinishedStage

Pictures = Literal["all", "maps", "none"]

NO_AUDIT: Mapping[str, Any] = {"findings": ()}


def choose(settings: SelectSettings, finished: Mapping[str, FinishedStage]) -> str:
    """The stage whose model the run ends with."""
    names = list(finished)
    if settings.stage == "last" or settings.metric == "none":
        return names[-1]
    sign = 1 if metrics.HIGHER_IS_BETTER[settings.metric] else -1
    return max(names, key=lambda name: sign * (finished[name].value or 0.0))


# One argument for each part of the run, as its caller has them.
def write(
    settings: Settings,
    folder: Path,
    images: dataset.Images,
    network: Network,
    finished: Mapping[str, FinishedStage],
    features: reliability.Features,
    audit: Mapping[str, Any] = NO_AUDIT,
    masks: segmentation.Table | None = None,
    *,
    pictures: Pictures = "all",
) -> str:
    """Write predictions, figures and pictures of the run; returns the text of report.txt.

    The run's own predictions and figures are those of calibrated probabilities; those of each stage
    are as its network gave them.
    """
    chosen = choose(settings.select, finished)
    assessment = reliability.assess(
        finished[chosen].predictions,
        finished[chosen].held_out,
        images.originals.classes,
        features,
        settings.calibration,
        subject_label=settings.data.subject_label,
        source="validation" if settings.validates else "out-of-fold",
        also_used_for=held_out.chosen_before(settings.select, finished),
    )
    _write_tables(folder, assessment, masks)
    summary = _summary(settings, images, finished, assessment, masks)
    summary.warnings.extend(_warnings(settings, images, network, assessment, summary, audit))
    files.write_json(folder / run_dir.METRICS, _metrics(finished, summary))
    if pictures == "all":
        _draw(folder, finished, summary)
    if pictures != "none":
        count = checked_maps.IMAGES if pictures == "all" else checked_maps.IMAGES_OF_FOLD
        explanations.write(folder, images, network, chosen, assessment.predictions, count)
    page = "; open report.html there in a browser" if pictures == "all" else ""
    text = run_text.report(settings, images, finished, summary)
    text += f"\n\nEverything lies in {folder}{page}.\n"
    files.write_text(folder / run_dir.REPORT, text)
    return text


def _write_tables(
    folder: Path, assessment: reliability.Assessment, masks: segmentation.Table | None
) -> None:
    run = run_dir.RunDir(folder)
    assessment.detector.save(run.outliers)
    files.write_json(folder / run_dir.CALIBRATION, assessment.content)
    assessment.predictions.write_csv(run.predictions)
    assessment.subjects.write_csv(run.subject_predictions)
    if masks is not None:
        masks.write_csv(folder / run_dir.MASKS)


def _summary(
    settings: Settings,
    images: dataset.Images,
    finished: Mapping[str, FinishedStage],
    assessment: reliability.Assessment,
    masks: segmentation.Table | None,
) -> Summary:
    """All figures, and no warnings yet."""
    chosen, ordered = choose(settings.select, finished), images.ordered
    predictions, subjects = assessment.predictions, assessment.subjects
    tested = predictions.where("test")
    figures_of = metrics.figures_by_split(predictions, ordered, subjects)
    ranges = intervals.test_figures(predictions, ordered, subjects=subjects)
    by_stage, stage_intervals = {}, {}
    for name, stage in finished.items():
        table = stage.predictions
        of_subjects = reliability.of_subjects(
            table, settings.calibration, settings.data.subject_label
        )
        by_stage[name] = metrics.figures_by_split(table, ordered, of_subjects)
        stage_intervals[name] = intervals.test_figures(table, ordered, subjects=of_subjects)
    return Summary(
        chosen=chosen,
        by_stage=by_stage,
        stage_intervals=stage_intervals,
        figures=figures_of,
        intervals=ranges,
        tested=about_test(figures_of["test"], ranges, tested, images.by) if len(tested) else None,
        calibration=assessment.content,
        warnings=[],
        masks=None if masks is None else segmentation.by_split(masks),
        out_of_fold=held_out.out_of_fold_figures(settings, finished[chosen], assessment, ordered),
        held_out_by_stage={
            name: held_out.figures(settings, stage.held_out, ordered)
            for name, stage in finished.items()
        },
        by_site=by_site.figures(predictions, subjects, ordered, _sites_apart(images)),
    )


def _sites_apart(images: dataset.Images) -> bool:
    tested = images.splits == "test"
    return sites.are_apart(images.originals, tested, ~tested)


def _warnings(
    settings: Settings,
    images: dataset.Images,
    network: Network,
    assessment: reliability.Assessment,
    summary: Summary,
    audit: Mapping[str, Any],
) -> list[str]:
    """What a reader must know before any figure, the gravest first."""
    tested = assessment.predictions.where("test")
    return [
        *run_warnings.of_images(
            images,
            fallback=run_warnings.stand_in(network.weights.identity()),
            named=run_warnings.names_classes(settings, images.synthetic),
            leaks=checks.leaks(dict(audit)),
        ),
        *run_warnings.of_one_subject(tested),
        *(sites.warnings(images.originals, _sites_apart(images)) if len(tested) else []),
        *weaknesses.find(
            tested,
            images.originals.classes,
            summary.intervals,
            summary.calibration,
            audit,
            images.by,
        ),
    ]


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
        **({} if summary.tested is None else {"tested": summary.tested}),
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
