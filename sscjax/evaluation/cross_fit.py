"""Rules of a cross-validation: each fold's from the other folds' patients, the final from all.

The test predictions of a cross-validation are out-of-fold: each patient is predicted by a model
that was not trained on them. Rules for the patients of one fold are chosen on the out-of-fold
predictions of the patients of the other folds, of the same repeat, so that no figure rests on a
rule that was fitted on the same patient. These rules are chosen on far more patients than the
fold's own validation patients, who are too few. The models of the other folds were trained on this
fold's patients; the rules see that only through what those models say of others.

The rules that go with the models, for new patients, are chosen on all out-of-fold predictions: of
the folds' models together, each with its own temperature of images, or of one model that is fitted
to all patients in the same way, with one temperature.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sscjax.evaluation import abstention, calibration, conformal, reliability, thresholds
from sscjax.evaluation.predictions import Predictions, SubjectLabel, group_means
from sscjax.evaluation.reliability import Options, UnitFit
from sscjax.evaluation.rules import UNITS, Rules, Unit

# Of leave-one-subject-out the folds are joined to so many groups, whose rules are chosen together.
_MOST_GROUPS = 20


@dataclasses.dataclass(frozen=True)
class Fold:
    """The test rows of a fold.

    Attributes:
      rows: a row per test image, calibrated by the fold's own temperature of images.
      repeat: folds of one repeat test every image at most once.
      raw: the same rows as the network gave them, where new patients are predicted by one model
        that is fitted to all; None where the folds' models predict together.
    """

    rows: Predictions
    repeat: int = 0
    raw: Predictions | None = None


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What is known of a cross-validation's predictions.

    Attributes:
      subjects: of each repeat a row per test subject, calibrated by a temperature of others.
      rules: for new patients, chosen on all out-of-fold predictions.
      content: of calibration.json, as of `reliability.Assessment` but for `outliers`; figures of
        'test' are of the folds' own rules, which `temperatures` of a unit lists.
    """

    subjects: list[Predictions]
    rules: Rules
    content: dict[str, Any]


def assess(
    folds: Sequence[Fold],
    classes: tuple[str, ...],
    options: Options,
    *,
    by_subject: bool,
    subject_label: SubjectLabel = "majority",
) -> Assessment:
    """Choose rules for each fold and for new patients, and say what they do.

    Args:
      folds: two or more.
      classes: the names of the classes, without those of unused outputs.
      options: the rules.
      by_subject: whether the folds were split by subject. If not, a subject's images are in several
        folds, and rules of images are chosen on the same subjects: as leaky as the split.
      subject_label: what a subject is whose images have several labels.
    """
    parts: dict[Unit, list[Fold]] = {
        "image": list(folds),
        "subject": _subjects(folds, options, subject_label, by_subject),
    }
    fits = _fit_all(folds, len(classes), options, subject_label)
    after: dict[Unit, list[Predictions]] = {}
    content: dict[Unit, Any] = {}
    for unit in UNITS:
        own = _options(options, unit)
        # Split by image, subjects are in several folds of images; a row of a subject is in one.
        of_folds = _fit_folds(parts[unit], unit, len(classes), own, by_subject or unit == "subject")
        before = [part.rows for part in parts[unit]]
        after[unit] = [
            calibration.apply(table, fit.temperature.value)
            for table, fit in zip(before, of_folds, strict=True)
        ]
        content[unit] = _content(before, after[unit], of_folds, fits[unit], classes, options)
    rules = Rules(
        subject=fits["subject"].rules,
        image=fits["image"].rules,
        aggregation=options.aggregation,
        positive=" or ".join(classes[1:]),
        negative=classes[0],
    )
    joined = Predictions.join([fold.rows for fold in folds])
    return Assessment(
        subjects=[
            Predictions.join(
                [
                    table
                    for table, part in zip(after["subject"], parts["subject"], strict=True)
                    if part.repeat == repeat
                ]
            )
            for repeat in sorted({fold.repeat for fold in folds})
        ],
        rules=rules,
        content={
            "format": reliability.FORMAT,
            "classes": list(classes),
            "aggregation": options.aggregation,
            "held_out": {
                "source": "out-of-fold",
                "images": len(set(joined.files.tolist())),
                "subjects": len(set(joined.subjects.tolist())),
                # The folds' models have limits of their own for images unlike the training images.
                "used_for": list(reliability.USES[: None if folds[0].raw is not None else -1]),
            },
            "subject_label": subject_label,
            "several_labels": joined.subjects_of_several_labels,
            "rules": rules.to_json(),
            "subject": content["subject"],
            "image": content["image"],
        },
    )


def _options(options: Options, unit: Unit) -> Options:
    """Images are calibrated by each fold's own temperature already."""
    return dataclasses.replace(options, temperature=options.temperature and unit == "subject")


def _subjects(
    folds: Sequence[Fold], options: Options, subject_label: SubjectLabel, by_subject: bool
) -> list[Fold]:
    """The rows of subjects, fold by fold; of a split by image in as many parts of the subjects."""
    if by_subject:
        return [
            Fold(reliability.of_subjects(fold.rows, options, subject_label), fold.repeat)
            for fold in folds
        ]
    parts = []
    for repeat in sorted({fold.repeat for fold in folds}):
        images = Predictions.join([fold.rows for fold in folds if fold.repeat == repeat])
        table = reliability.of_subjects(images, options, subject_label)
        number = min(len(table), max(2, sum(fold.repeat == repeat for fold in folds)))
        part = np.arange(len(table)) % number
        parts += [Fold(table.take(part == index), repeat) for index in range(number)]
    return parts


def _fit_folds(
    parts: Sequence[Fold], unit: Unit, classes: int, options: Options, by_subject: bool
) -> list[UnitFit]:
    """The rules of each part, from the rows of the others.

    Args:
      parts: rows of one unit.
      unit: what a row is.
      classes: how many of the columns stand for a class.
      options: of the unit.
      by_subject: whether rules may not be chosen on the subjects of the part.
    """
    repeats = [part.repeat for part in parts]
    exhaustive = len(set(repeats)) < len(parts)
    group = np.arange(len(parts))
    if exhaustive:
        # The parts of a repeat, spread evenly over groups.
        order = dict.fromkeys(repeats, 0)
        for index, repeat in enumerate(repeats):
            group[index] = order[repeat] % _MOST_GROUPS
            order[repeat] += 1
    fits: dict[tuple[int, int], UnitFit] = {}
    result = []
    for index, repeat in enumerate(repeats):
        key = (repeat, int(group[index]))
        if key not in fits:
            others = [
                part.rows
                for k, part in enumerate(parts)
                if (repeats[k], int(group[k])) != key and (repeats[k] == repeat or not exhaustive)
            ]
            table = Predictions.join(others) if others else parts[index].rows.take(np.zeros(0, int))
            if by_subject and not exhaustive:
                table = table.take(~np.isin(table.subjects, parts[index].rows.subjects))
            fits[key] = (
                reliability.fit_unit(
                    _once(table), unit, classes, options, "out-of-fold", with_odds=False
                )
                if len(table)
                else _no_rules(classes, options)
            )
        result.append(fits[key])
    return result


def _no_rules(classes: int, options: Options) -> UnitFit:
    """Where no other patient was tested: nothing is calibrated, excluded or left unanswered."""
    reason = "no other patient was tested"
    return UnitFit(
        temperature=calibration.Temperature(1.0, reason),
        disease=thresholds.Choice(0.5, f"one half, because {reason}"),
        confidence=thresholds.Choice(None, f"none, because {reason}"),
        sets=conformal.Sets(options.set_level, (None,) * classes, False, 0, True),
    )


def _once(table: Predictions) -> Predictions:
    """The first test of each row that was tested several times."""
    _, first = np.unique(table.files, return_index=True)
    return table.take(np.sort(first))


def _fit_all(
    folds: Sequence[Fold], classes: int, options: Options, subject_label: SubjectLabel
) -> dict[Unit, UnitFit]:
    """Rules of both units from all out-of-fold predictions."""
    images = once(folds)
    one_model = folds[0].raw is not None
    of_images = options if one_model else _options(options, "image")
    fit = reliability.fit_unit(images, "image", classes, of_images, "out-of-fold")
    if one_model:
        images = calibration.apply(images, fit.temperature.value)
    subjects = reliability.of_subjects(images, options, subject_label)
    return {
        "subject": reliability.fit_unit(subjects, "subject", classes, options, "out-of-fold"),
        "image": fit,
    }


def once(folds: Sequence[Fold]) -> Predictions:
    """The rows on which the rules for new patients are chosen, those that are raw if there are any.

    Where repeats tested an image several times, it counts once, with the mean of its probabilities.
    """
    table = Predictions.join([fold.rows if fold.raw is None else fold.raw for fold in folds])
    _, first, image = np.unique(table.files, return_index=True, return_inverse=True)
    return dataclasses.replace(
        table.take(first), probabilities=group_means(table.probabilities, image)
    )


def _content(
    before: Sequence[Predictions],
    after: Sequence[Predictions],
    of_folds: Sequence[UnitFit],
    final: UnitFit,
    classes: tuple[str, ...],
    options: Options,
) -> dict[str, Any]:
    """As `reliability.unit_content`, each row by the rules of its fold."""
    sizes = [len(table) for table in after]
    joined = {"test": Predictions.join(after)}
    test = joined["test"]
    confidences = [fit.confidence.value for fit in of_folds]
    # Without a threshold every row is answered.
    least = np.repeat([-1.0 if value is None else value for value in confidences], sizes)
    disease = np.repeat([fit.rules.threshold for fit in of_folds], sizes)
    area, area_interval = abstention.coverage_area(test)
    members = np.concatenate(
        [fit.sets.members(table.probabilities) for fit, table in zip(of_folds, after, strict=True)]
    )
    temperature = final.temperature
    return {
        "temperature": temperature.value,
        "reason": temperature.reason,
        "gain": temperature.gain,
        "standard_error": temperature.standard_error,
        "temperatures": [fit.temperature.value for fit in of_folds],
        **reliability.reported({"test": Predictions.join(before)}, joined, options),
        "threshold": {
            **thresholds.described(final.disease),
            "positive": " or ".join(classes[1:]),
            "negative": classes[0],
            "test": thresholds.figures_at(test, len(classes), disease),
        },
        "abstention": {
            **thresholds.described(final.confidence),
            "target_accuracy": options.target_accuracy,
            "area": area,
            "area_interval": None if area_interval is None else list(area_interval),
            "folds_without_threshold": confidences.count(None),
            "test": abstention.answered(test, least),
        },
        "prediction_set": {
            **final.rules.to_json()["prediction_set"],
            "test": conformal.figures(test, members),
        },
    }
