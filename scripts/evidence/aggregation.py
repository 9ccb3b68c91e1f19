"""Measure if a classifier of patients' mean features beats aggregates of images' predictions.

    python scripts/evidence/aggregation.py --data=FOLDER --weights=FILE --classes A B C

Five times five folds by subject, features and classifiers as of `patients.py`. Each subject is
predicted once per repeat: by the mean and the geometric mean (the mean of the logits) of its
images' probabilities, and by a classifier that is fitted to subjects' mean features. A temperature
of subjects is fitted to the predictions of the other folds, by the rule of
`sscjax.evaluation.calibration` and without its guard. The penalty of the classifier of images is
given, that of the classifier of subjects is chosen in each fold by cross-validation over its
development subjects. Differences to the mean with a guarded temperature have a standard error by
subject, over the means of its repeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import patients
from scipy import optimize

import sscjax
from sscjax.configs import best
from sscjax.data import splits
from sscjax.data.dataset import ImageSet
from sscjax.evaluation import calibration, metrics
from sscjax.evaluation.predictions import Predictions

PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)

Folds = dict[str, list[Predictions]]


def predicted(image_set: ImageSet, features: np.ndarray, repeat: int, penalty: float) -> Folds:
    """The rows of subjects of each fold, by the name of what they are made of."""
    outer = splits.subject_folds(image_set, patients.FOLDS, repeat)
    found: Folds = {"mean": [], "geometric mean": [], "mean features": []}
    labels, subjects = np.asarray(image_set.labels), np.asarray(image_set.subjects)
    for fold in range(patients.FOLDS):
        development = outer != fold
        inner = np.full(len(image_set), -1)
        part = image_set.take(np.flatnonzero(development))
        inner[development] = splits.subject_folds(part, patients.FOLDS, repeat)
        rows = patients.Rows(features, labels, subjects, inner, tuple(image_set.classes))
        own, test = rows.take(development), rows.take(~development)
        of_images = patients.linear(own, test, penalty)
        found["mean"].append(of_images.by_subject("mean"))
        found["geometric mean"].append(of_images.by_subject("geometric"))
        means = own.by_subject()
        chosen = patients.problem(means).choose(PENALTIES, means.folds).l2
        found["mean features"].append(patients.linear(means, test.by_subject(), chosen))
    return found


def guarded(others: Predictions) -> float:
    """The temperature that a run takes."""
    return calibration.fit_temperature(others).value


def unguarded(others: Predictions) -> float:
    """The temperature with the smallest loss."""
    result = optimize.minimize_scalar(
        lambda log_t: metrics.log_loss(calibration.apply(others, float(np.exp(log_t)))),
        bounds=(np.log(calibration.LOWEST), np.log(calibration.HIGHEST)),
        method="bounded",
    )
    return float(np.exp(result.x))


TEMPERATURES: dict[str, Callable[[Predictions], float]] = {
    "none": lambda others: 1.0,
    "with guard": guarded,
    "without guard": unguarded,
}


def calibrated(tables: list[Predictions], rule: Callable[[Predictions], float]) -> Predictions:
    """Each fold's rows by a temperature of the other folds, in the order of the subjects."""
    after = []
    for index, table in enumerate(tables):
        others = Predictions.join([one for k, one in enumerate(tables) if k != index])
        after.append(calibration.apply(table, rule(others)))
    joined = Predictions.join(after)
    return joined.take(np.argsort(joined.subjects))


def measure(image_set: ImageSet, features: np.ndarray, repeats: int, penalty: float) -> str:
    """The table; see the module's docstring."""
    every = [predicted(image_set, features, repeat, penalty) for repeat in range(repeats)]
    losses, cells = {}, {}
    for name in every[0]:
        for title, rule in TEMPERATURES.items():
            tables = [calibrated(one[name], rule) for one in every]
            of_repeats = [metrics.log_losses(one.probabilities, one.labels) for one in tables]
            losses[name, title] = np.mean(of_repeats, axis=0)
            error = np.mean([calibration.quality(one, 10, "mass")["ece"] for one in tables])
            right = np.mean([(one.predicted == one.labels).mean() for one in tables])
            cells[name, title] = [f"{error:.3f}", f"{100 * right:.1f} %"]
    reference = losses["mean", "with guard"]
    lines = [
        "| a subject's row | temperature | log loss | against the mean with guard | calibration "
        "error | right |",
        "|---|---|---|---|---|---|",
    ]
    for key, own in losses.items():
        less = own - reference
        error = less.std(ddof=1) / np.sqrt(len(less))
        numbers = [f"{own.mean():.3f}", f"{less.mean():+.3f} (SE {error:.3f})", *cells[key]]
        lines.append("| " + " | ".join([*key, *numbers]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Compute the features, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--classes", nargs="*", default=[], help="names of the classes in order")
    parser.add_argument("--repeats", type=int, default=5, help="partitions into folds")
    parser.add_argument("--penalty", type=float, default=1e-3, help="of the classifier of images")
    args = parser.parse_args()
    image_set = sscjax.load_images(args.data, classes=tuple(args.classes), image_size=192)
    model = sscjax.create_model("mobilenet_v2", len(image_set.classes), pretrained=args.weights)
    features = sscjax.extract_features(model, image_set.images, best.FEATURE_LAYERS)
    print(measure(image_set, features, args.repeats, args.penalty))


if __name__ == "__main__":
    main()
