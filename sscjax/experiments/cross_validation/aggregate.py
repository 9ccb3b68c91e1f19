"""The end of a cross-validation: the test predictions of all folds aggregated in one table.

Folds are summarised in two ways, because they differ. Aggregated figures come from one table of all
test predictions; they have intervals by subject. Means of folds average the figures that each model
has on its own test images, with the standard deviation. An aggregated AUROC ranks the scores of
different models together; the mean of folds ranks each model's alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import dataset, sites
from sscjax.data.audit import checks
from sscjax.data.dataset import ImageSet
from sscjax.evaluation import (
    by_site,
    cross_fit,
    intervals,
    label_noise,
    metrics,
    reliability,
    segmentation,
)
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import data_from_config, run_warnings, summarize
from sscjax.experiments.cross_validation import folds, procedure, refit, report_text
from sscjax.experiments.cross_validation.outcomes import Outcome
from sscjax.experiments.handed_on import Tested
from sscjax.reports import figures, weaknesses
from sscjax.reports import label_noise as label_report
from sscjax.reports.tested import about as about_test
from sscjax.system import files, run_dir
from sscjax.training.settings import Settings

COLUMNS = ("file", "label", "subject", "repeat", "fold")

# Figures that are no mean of anything where a class is missing from a fold.
_OF_ALL_CLASSES = ("balanced_accuracy", "macro_auroc", "quadratic_kappa")

_PER_CLASS = ("sensitivity", "specificity", "precision", "f1", "auroc")


def write(
    settings: Settings,
    folder: Path,
    image_set: ImageSet,
    synthetic: bool,
    outcomes: Sequence[Outcome],
    audit: Mapping[str, Any] = summarize.NO_AUDIT,
) -> tuple[str, Tested | None]:
    """Write tables, figures, picture and report of the whole.

    Args:
      settings: of the cross-validation.
      folder: of the cross-validation.
      image_set: the images that were split.
      synthetic: whether they are the embedded synthetic set.
      outcomes: of every fold, in the order of `folds.plan`.
      audit: audit.json.

    Returns:
      the text; and what a model of all images is described by, where there will be one.
    """
    ordered = data_from_config.is_ordered(settings, image_set, synthetic)
    all_test = np.full(len(image_set), "test")
    images = dataset.Images(
        image_set, all_test, image_set, synthetic, by=settings.split.by, ordered=ordered
    )
    tables = by_repeat([outcome.predictions for outcome in outcomes], outcomes)
    by_stage = {
        name: by_repeat([outcome.stages[name] for outcome in outcomes], outcomes)
        for name in outcomes[0].stages
    }
    refits = refit.applies(settings)
    rows = [
        cross_fit.Fold(outcome.predictions, outcome.fold.repeat, outcome.raw if refits else None)
        for outcome in outcomes
    ]
    assessment = cross_fit.assess(
        rows,
        image_set.classes,
        settings.calibration,
        by_subject=settings.split.by == "subject",
        subject_label=settings.data.subject_label,
    )
    run = run_dir.RunDir(folder)
    joined(tables).write_csv(run.predictions)
    joined(assessment.subjects).write_csv(run.subject_predictions)
    files.write_json(folder / run_dir.CALIBRATION, assessment.content)
    for name, of_stage in by_stage.items():
        joined(of_stage).write_csv(run.stage(name).predictions)
    _write_folds(folder / run_dir.FOLDS_TABLE, image_set, outcomes)
    apart = _tests_sites_apart(image_set, outcomes)
    aggregated = _metrics(settings, outcomes, (tables, assessment), by_stage, images)
    ranges, by = aggregated["test_intervals"], settings.split.by
    tested_rows = joined(tables)
    aggregated["tested"] = about_test(aggregated["splits"]["test"], ranges, tested_rows, by)
    aggregated["warnings"] = [
        *run_warnings.of_images(
            images,
            fallback=max(outcome.fallback for outcome in outcomes),
            named=run_warnings.names_classes(settings, synthetic),
            leaks=checks.leaks(dict(audit)),
        ),
        *run_warnings.of_one_subject(joined(tables[:1])),
        *sites.warnings(image_set, apart),
        *weaknesses.find(tested_rows, image_set.classes, ranges, assessment.content, audit, by),
    ]
    of_sites = by_site.figures(joined(tables), joined(assessment.subjects), ordered, apart)
    aggregated |= {"sites": of_sites} if of_sites else {}
    masks = [outcome.masks for outcome in outcomes if outcome.masks is not None]
    if masks:
        table = segmentation.join(masks)
        table.write_csv(folder / run_dir.MASKS)
        aggregated["segmentation"] = segmentation.by_split(table)
    files.write_json(folder / run_dir.METRICS, aggregated)
    test = aggregated["splits"]["test"]["image"]
    matrix = figures.confusion(
        test["confusion"],
        test["classes"],
        title="tests of images, all repeats" if aggregated["over_repeats"] else "test images",
    )
    figures.write_png(folder / run_dir.confusion_plot("test"), matrix)
    tested = None
    if refits:
        planned = [outcome.fold for outcome in outcomes]
        tested = Tested(
            about=refit.about(settings, planned, image_set),
            figures=aggregated,
            calibration=assessment.content,
            rules=assessment.rules,
            held_out=cross_fit.once(rows),
            folds=refit.fold_of_images(planned, len(image_set)),
        )
    labels = _check_labels(settings, folder, image_set, tables)
    text = report_text.report(
        settings, folder, images, outcomes, aggregated, assessment.content, labels, tested
    )
    files.write_text(folder / run_dir.REPORT, text)
    return text, tested


def _tests_sites_apart(image_set: ImageSet, outcomes: Sequence[Outcome]) -> bool:
    """Whether no fold was tested on a site that it may have been trained on."""
    everything = np.arange(len(image_set))
    return all(
        sites.are_apart(image_set, tested, np.setdiff1d(everything, tested))
        for tested in (outcome.fold.tested for outcome in outcomes)
    )


# --- tables -------------------------------------------------------------------------------------


def by_repeat(tested: Sequence[Predictions], outcomes: Sequence[Outcome]) -> list[Predictions]:
    """One table for each repeat, its images in the order of the set.

    Args:
      tested: the test rows of each fold.
      outcomes: the folds, in the same order.
    """
    tables = []
    for repeat in sorted({outcome.fold.repeat for outcome in outcomes}):
        parts = [k for k, outcome in enumerate(outcomes) if outcome.fold.repeat == repeat]
        indices = np.concatenate([outcomes[k].fold.tested for k in parts])
        if len(np.unique(indices)) < len(indices):
            raise AssertionError(f"an image is tested twice in repeat {repeat}")
        tables.append(joined([tested[k] for k in parts], np.argsort(indices)))
    return tables


def joined(tables: Sequence[Predictions], order: np.ndarray | None = None) -> Predictions:
    """The rows of several tables of the same classes as one, `order` [N] int applied to them."""
    table = Predictions.join(tables)
    return table if order is None else table.take(order)


def _write_folds(path: Path, image_set: ImageSet, outcomes: Sequence[Outcome]) -> None:
    """Which fold tested each row of predictions.csv, in its order."""
    table: list[Sequence[Any]] = [COLUMNS]
    tested = sorted(
        (outcome.fold.repeat, i, outcome.fold.name)
        for outcome in outcomes
        for i in outcome.fold.tested
    )
    for repeat, i, name in tested:
        label = image_set.classes[image_set.labels[i]]
        table.append([str(image_set.files[i]), label, str(image_set.subjects[i]), repeat, name])
    files.write_text(path, files.csv_text(table))


def _check_labels(
    settings: Settings, folder: Path, image_set: ImageSet, tables: Sequence[Predictions]
) -> str | None:
    """Write the labels that predictions contradict; returns the text, None where there is none.

    Only models that never saw a subject can contradict its label.
    """
    if settings.split.by != "subject" or settings.protocol not in folds.EXHAUSTIVE:
        return None
    by_image, by_subject = label_noise.suspects(joined(tables))
    rows = label_report.csv_rows(by_image, by_subject)
    files.write_text(folder / run_dir.LABEL_NOISE, files.csv_text(rows))
    picture = label_report.picture(by_image, image_set.files, image_set.images)
    if picture is not None:
        figures.write_png(folder / run_dir.LABEL_NOISE_SHEET, picture)
    return label_report.text(by_image, by_subject)


# --- figures ------------------------------------------------------------------------------------


def aggregate(
    tables: Sequence[Predictions], ordered: bool, subjects: Sequence[Predictions] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures and intervals of all rows, {'subject': ..., 'image': ...} each.

    A subject's images are averaged within a repeat, not across: models are no ensemble.

    Args:
      tables: of each repeat the rows of images.
      ordered: whether the classes are a scale.
      subjects: of each repeat the rows of subjects; None takes `by_subject` of the images.
    """
    units = {
        "subject": joined(
            [table.by_subject() for table in tables] if subjects is None else subjects
        ),
        "image": joined(tables),
    }
    return (
        {unit: metrics.figures(table, ordered) for unit, table in units.items()},
        {unit: intervals.figures(table, ordered) for unit, table in units.items()},
    )


def spread(figures_of: Sequence[dict[str, Any]], classes: int) -> dict[str, Any]:
    """Mean and standard deviation of the metrics of several test sets, laid out like them.

    Args:
      figures_of: what `metrics.figures` gives for each.
      classes: number of classes; outputs beyond them have no support.

    Returns:
      for each metric {'mean', 'sd', 'n'} over the n sets where it is defined; for a metric of all
      classes only sets with every class. sd is the sample's, None below two; mean is None for n=0.
    """
    has_all = [
        all(entry["support"] for entry in test_set["per_class"][:classes])
        for test_set in figures_of
    ]

    def over(values: Sequence[float | None]) -> dict[str, Any]:
        defined = [value for value in values if value is not None]
        return {
            "mean": statistics.fmean(defined) if defined else None,
            "sd": statistics.stdev(defined) if len(defined) > 1 else None,
            "n": len(defined),
        }

    def overall(name: str) -> list[float | None]:
        need = name in _OF_ALL_CLASSES
        return [
            test_set[name] if complete or not need else None
            for test_set, complete in zip(figures_of, has_all, strict=True)
        ]

    return {
        **{name: over(overall(name)) for name in metrics.OVERALL},
        "per_class": [
            {
                "name": figures_of[0]["per_class"][k]["name"],
                **{
                    name: over([test_set["per_class"][k][name] for test_set in figures_of])
                    for name in _PER_CLASS
                },
            }
            for k in range(classes)
        ],
    }


def _metrics(
    settings: Settings,
    outcomes: Sequence[Outcome],
    calibrated: tuple[Sequence[Predictions], cross_fit.Assessment],
    by_stage: dict[str, list[Predictions]],
    images: dataset.Images,
) -> dict[str, Any]:
    """The content of metrics.json: the keys of a run's, aggregated, and the folds beside them."""
    ordered, classes = images.ordered, len(images.originals.classes)
    tables, assessment = calibrated
    test, ranges = aggregate(tables, ordered, assessment.subjects)
    chosen = {outcome.metrics["final_stage"] for outcome in outcomes}
    tests = [outcome.metrics["splits"]["test"] for outcome in outcomes]
    stages = {}
    for name, of_stage in by_stage.items():
        options, label = settings.calibration, settings.data.subject_label
        by_subject = [reliability.of_subjects(table, options, label) for table in of_stage]
        of_test, of_ranges = aggregate(of_stage, ordered, by_subject)
        first = outcomes[0].metrics["stages"][name]
        stage_tests = [outcome.metrics["stages"][name]["splits"]["test"] for outcome in outcomes]
        stages[name] = {
            "splits": {"test": of_test},
            "test_intervals": of_ranges,
            "over_folds": _over(stage_tests, classes),
            "frozen_parameters": first["frozen_parameters"],
            "trained_parameters": first["trained_parameters"],
        }
    repeats = [
        metrics.figures_by_split(table, ordered, subjects)["test"]
        for table, subjects in zip(tables, assessment.subjects, strict=True)
    ]
    # Of repeated hold-outs each repeat is one fold.
    several = len(tables) > 1 and settings.protocol in folds.EXHAUSTIVE
    return {
        "protocol": settings.protocol,
        "probabilities": {
            "splits": "calibrated",
            "stages": "as the network gave them",
            "temperature": None,  # each fold has its own
        },
        # None where folds chose different stages: the model is then each fold's own.
        "final_stage": chosen.pop() if len(chosen) == 1 else None,
        "splits": {"test": test},
        "test_intervals": ranges,
        "stages": stages,
        "over_folds": _over(tests, classes),
        "over_repeats": _over(repeats, classes) if several else None,
        "procedure_intervals": procedure.intervals_of(settings, tests, classes),
        "folds": [_of_fold(outcome) for outcome in outcomes],
    }


def _over(tests: Sequence[dict[str, Any]], classes: int) -> dict[str, Any]:
    return {unit: spread([test[unit] for test in tests], classes) for unit in ("subject", "image")}


def _of_fold(outcome: Outcome) -> dict[str, Any]:
    keys = ("epochs", "best_epoch", "best_value", "stopped_early")
    return {
        "name": outcome.fold.name,
        "repeat": outcome.fold.repeat,
        "seed": outcome.fold.config.seed,
        "test_subjects": sorted(set(outcome.predictions.subjects.tolist())),
        "final_stage": outcome.metrics["final_stage"],
        "search": outcome.search,
        "temperature": outcome.metrics["probabilities"]["temperature"],
        # Of the images that chose rules: validation images, or out-of-fold predictions.
        "splits": {
            name: outcome.metrics["splits"][name]
            for name in ("val", "test")
            if name in outcome.metrics["splits"]
        },
        **{name: outcome.metrics[name] for name in ("out_of_fold",) if name in outcome.metrics},
        "stages": {
            name: {key: stage[key] for key in keys}
            for name, stage in outcome.metrics["stages"].items()
        },
    }
