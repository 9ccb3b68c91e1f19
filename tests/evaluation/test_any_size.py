"""Every function of `evaluation` on 0, 1, 2 and 3 rows: a value, None or a message, never NaN."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from any_size import sound, tables
from fuzzing import tried
from hypothesis import given

from sscjax.evaluation import (
    abstention,
    calibration,
    calibration_error,
    conformal,
    cross_fit,
    curves,
    delong,
    intervals,
    label_noise,
    metrics,
    odds,
    ood,
    paired_tests,
    parts,
    ranking,
    reliability,
    resampling,
    result,
    study_size,
    surfaces,
    thresholds,
    training_variance,
)
from sscjax.evaluation.predictions import Predictions, aggregate

OPTIONS = reliability.Options()


def other(p: Predictions) -> Predictions:
    """Another model's predictions of the same rows."""
    return dataclasses.replace(p, probabilities=p.probabilities[:, ::-1])


def by_first(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and which rows count as positive."""
    return p.probabilities[:, 0], p.labels == 0


def group(p: Predictions) -> np.ndarray:
    return np.unique(p.subjects, return_inverse=True)[1]


def assessed(p: Predictions) -> Any:
    """With two training rows, and the given ones as validation and as test rows."""
    training = Predictions(
        files=np.array(["t0", "t1"]),
        subjects=np.array(["t0", "t1"]),
        splits=np.array(["train"] * 2),
        labels=np.arange(2),
        probabilities=np.eye(len(p.classes))[:2],
        classes=p.classes,
    )
    held_out = dataclasses.replace(p, splits=np.array(["val"] * len(p), str))
    files = np.array([f"test {file}" for file in p.files.tolist()], str)
    test = dataclasses.replace(p, files=files)
    every = Predictions.join([training, held_out, test])
    features = np.random.default_rng(0).normal(size=(len(every), 5))
    seen = reliability.Features(features, {"noise": features[:2]})
    return reliability.assess(every, held_out, p.classes, seen, OPTIONS).content


def of_folds(p: Predictions) -> Any:
    """Each row a fold."""
    folds = [cross_fit.Fold(p.take(np.array([row]))) for row in range(len(p))]
    if len(folds) < 2:
        return None
    return cross_fit.assess(folds, p.classes, OPTIONS, by_subject=True).content


def chosen(p: Predictions) -> Any:
    """Rules, chosen on some rows and applied to them."""
    rows = {"held_out": p, "test": p}
    found = []
    for rule in thresholds.RULES:
        disease = thresholds.choose_disease(p, len(p.classes), rule, 0.95, "rows")
        found.append(thresholds.operating_point(disease, rows, p.classes))
    confidence = abstention.choose_confidence(p, 0.9, "rows")
    sets = conformal.fit(p, len(p.classes), 0.5, cross=False)
    return [
        *(*found, abstention.report(confidence, rows, 0.9), thresholds.described(confidence)),
        *(sets, conformal.figures(p, sets.members(p.probabilities))),
    ]


def studied(p: Predictions) -> Any:
    """A plan for each figure."""
    plans = {
        name: study_size.plan(study_size.widened(own, 0.1), 0.3)
        for name, own in study_size.contributions(p, True, prior=True).items()
    }
    alike = study_size.clustering(p)
    return plans, alike, study_size.subjects_with_images(alike, 5, 0.2)


def of_table(p: Predictions) -> Any:
    """What intervals are made of."""
    table = parts.Table(p, True)
    return parts.placements(table)


def flagged(p: Predictions) -> Any:
    """A detector of the rows' probabilities."""
    detector = ood.fit(p.probabilities)
    detector = detector.with_rate(detector.distances(p.probabilities), 0.05)
    images = np.zeros((len(p), 8, 8, 3), np.uint8)
    return [
        *(detector, detector.flag(p.probabilities), ood.made_up(images, 0)),
        *(ood.warnings(len(p), len(set(p.subjects)), {}), ood.usable({})),
        ood.out_of_fold_distances(p.probabilities, group(p)),
    ]


# By module: what is called with a table of 0 to 3 rows.
WALK: dict[str, Callable[[Predictions], Any]] = {
    "abstention": lambda p: [
        *(abstention.coverage_curve(p), abstention.coverage_area(p)),
        *(abstention.confidence_threshold(p, 0.9), abstention.answered(p, 0.5)),
    ],
    "calibration": lambda p: [
        *(calibration.fit_temperature(p), calibration.apply(p, 2.0).probabilities),
        *(calibration.quality(p, 10, "mass"), calibration.quality(p, 10, "width")),
        calibration.compare({"test": p}, {"test": calibration.apply(p, 2.0)}, 10, "mass"),
    ],
    "calibration_error": lambda p: [
        calibration_error.estimate(p),
        [
            (
                calibration_error.expected_calibration_error(p, edges),
                calibration.reliability(p, edges),
            )
            for edges in (calibration_error.bin_edges(p.confidence),)
        ],
        calibration_error.by_chance(p, calibration_error.bin_edges(p.confidence)),
    ],
    "rules": chosen,
    "cross_fit": of_folds,
    "curves": lambda p: [curves.curves(p, index) for index in range(len(p.classes))],
    "delong": lambda p: [
        delong.area(*by_first(p), p.subjects),
        delong.macro_area(p.probabilities, p.labels, p.subjects),
    ],
    "intervals": lambda p: [
        *(intervals.figures(p, True), intervals.test_figures(p, False, p.by_subject())),
        *(intervals.brier(p), intervals.areas(p, 0)),
        intervals.clustered_share(p.predicted == p.labels, p.labels == 0, p.subjects),
    ],
    "label_noise": lambda p: label_noise.suspects(p),
    "metrics": lambda p: [
        *(metrics.figures(p, True), metrics.figures_by_split(p, True), metrics.macro_auroc(p)),
        [metrics.validation_metric(name, p) for name in metrics.VALIDATION_METRICS],
    ],
    "odds": lambda p: [
        odds.miss(p.predicted == p.labels, p.subjects, 0.9),
        odds.effective_number(p.predicted == p.labels, p.subjects),
    ],
    "ood": flagged,
    "paired_tests": lambda p: [
        *(paired_tests.swap_test(p, other(p), True), paired_tests.holm([None, 0.1])),
        *(paired_tests.compare(p, other(p), True), paired_tests.holm([])),
    ],
    "parts": of_table,
    "predictions": lambda p: [
        *(p.by_subject(), p.by_subject("geometric", "worst"), p.by_subject("mean", "image")),
        *(
            p.largest_share,
            p.subjects_of_several_labels,
            aggregate(p.probabilities, group(p), "mean"),
        ),
        Predictions.join([p, p]),
    ],
    "ranking": lambda p: [
        *(ranking.auroc(*by_first(p)), ranking.average_precision(*by_first(p))),
        ranking.placements(*by_first(p)),
    ],
    "reliability": assessed,
    "resampling": lambda p: [
        resampling.bootstrap_interval(p, lambda weights: weights.sum(1)),
        resampling.subjects_of(p),
    ],
    "result": lambda p: [
        result.evaluate(p.labels, p.probabilities, p.subjects, ordered=True).to_dict(),
        repr(result.evaluate(p.labels, p.probabilities)),
        repr(result.of_tables(p, p.by_subject(), True)),
    ],
    "study_size": studied,
    "surfaces": lambda p: surfaces.hausdorff95(
        np.ones((3, 3), bool), np.ones((3, 3), bool) * (len(p) > 0)
    ),
    "training_variance": lambda p: training_variance.procedure_interval(p.confidence.tolist(), 3),
}

# NaN is documented: of what no row is counted in.
NAN = ("thresholds", "limits", "band")


@pytest.mark.parametrize("name", WALK)
def test_no_row_or_few(name: str) -> None:
    @tried(12)
    @given(tables())
    def every(predictions: Predictions) -> None:
        sound(name, lambda: WALK[name](predictions), NAN)

    every()
