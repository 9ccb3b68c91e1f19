"""How often the interval of a training procedure holds what training again would give.

    python scripts/evidence/procedure_coverage.py [--studies=200]

Studies of two classes with 5 images per patient, in 10 features of which two differ between the
classes; half of a feature's variance, or four fifths, is the patient's. Each is cross-validated in
five folds by patient with a penalised logistic regression, once or five times. The true figure is
the mean over models that are trained on other patients, as many as a fold trains on, and tested on
4,000 patients. Compared are `training_variance.procedure_interval` and, for accuracy, the interval
of the fixed models of the first repeat.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from scipy import special

from sscjax.evaluation import intervals, ranking, training_variance
from sscjax.system import formatting

PATIENTS, CORRELATIONS, REPEATS, APART = (20, 40), (0.5, 0.8), (1, 5), (0.35, 0.7)
FIGURES = ("accuracy", "log loss", "AUROC")
FOLDS, IMAGES, FEATURES, PENALTY = 5, 5, 10, 0.05

Images = tuple[np.ndarray, np.ndarray, np.ndarray]


def study(rng: np.random.Generator, patients: int, correlation: float, apart: float) -> Images:
    """Features [N,D], labels [N] and the patient of each image [N]."""
    labels = np.arange(patients) % 2
    middle = np.where(labels[:, None] == 1, apart, -apart) * (np.arange(FEATURES) < 2)
    middle = middle + rng.normal(0, correlation**0.5, (patients, FEATURES))
    owner = np.repeat(np.arange(patients), IMAGES)
    features = middle[owner] + rng.normal(0, (1 - correlation) ** 0.5, (len(owner), FEATURES))
    return np.column_stack([features, np.ones(len(owner))]), labels[owner], owner


def fitted(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Logistic regression with an L2 penalty, by Newton's method."""
    weights = np.zeros(features.shape[1])
    penalty = PENALTY * len(labels) * (np.arange(features.shape[1]) < FEATURES)
    for _ in range(6):
        chance = special.expit(features @ weights)
        slope = features.T @ (chance - labels) + penalty * weights
        curvature = (features.T * (chance * (1 - chance))) @ features + np.diag(penalty + 1e-9)
        weights = weights - np.linalg.solve(curvature, slope)
    return weights


def figures(weights: np.ndarray, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Accuracy, log loss and AUROC of images."""
    scores = features @ weights
    loss = np.logaddexp(0, np.where(labels == 1, -scores, scores)).mean()
    area = ranking.auroc(scores, labels == 1) or 0.0
    return np.array([((scores > 0) == labels).mean(), loss, area])


def folds_of(rng: np.random.Generator, patients: int) -> np.ndarray:
    """The fold of each patient, classes spread evenly."""
    folds = np.zeros(patients, int)
    for label in (0, 1):
        members = rng.permutation(np.flatnonzero(np.arange(patients) % 2 == label))
        folds[members] = np.arange(len(members)) % FOLDS
    return folds


def measure(patients: int, correlation: float, apart: float, studies: int) -> dict[str, float]:
    """Shares of studies whose intervals hold the truth, by what the table names."""
    rng = np.random.default_rng([patients, round(100 * correlation), round(100 * apart)])
    population = study(rng, 4000, correlation, apart)[:2]
    smaller = patients * (FOLDS - 1) // FOLDS
    truth = np.mean(
        [
            figures(fitted(*study(rng, smaller, correlation, apart)[:2]), *population)
            for _ in range(200)
        ],
        axis=0,
    )
    held = dict.fromkeys([*itertools.product(REPEATS, FIGURES), "fixed"], 0)
    for _ in range(studies):
        features, labels, owner = study(rng, patients, correlation, apart)
        values: list[np.ndarray] = []
        for repeat in range(max(REPEATS)):
            folds, right = folds_of(rng, patients), np.zeros(len(labels), bool)
            for fold in range(FOLDS):
                tested = folds[owner] == fold
                weights = fitted(features[~tested], labels[~tested])
                values.append(figures(weights, features[tested], labels[tested]))
                right[tested] = (features[tested] @ weights > 0) == labels[tested]
            if repeat == 0:
                fixed = intervals.clustered_share(right, np.ones(len(right), bool), owner)
                held["fixed"] += fixed is not None and fixed[0] <= truth[0] <= fixed[1]
            if repeat + 1 in REPEATS:
                for place, name in enumerate(FIGURES):
                    column = [float(one[place]) for one in values]
                    bounds = (0.0, np.inf if name == "log loss" else 1.0)
                    ends = training_variance.procedure_interval(column, FOLDS, bounds=bounds)
                    ends = ends or (1.0, 0.0)
                    held[repeat + 1, name] += ends[0] <= truth[place] <= ends[1]
    return {
        name if isinstance(name, str) else f"{name[1]}, {name[0]} x": count / studies
        for name, count in held.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200, help="of each design")
    args = parser.parse_args()
    lines: list[list[str]] = []
    for patients, correlation, apart in itertools.product(PATIENTS, CORRELATIONS, APART):
        shares = measure(patients, correlation, apart, args.studies)
        lines = lines or [["patients, correlation, distance", *shares]]
        title = f"{patients}, {correlation:g}, {apart:g}"
        lines.append([title, *map(formatting.percent, shares.values())])
        print(title, flush=True)
    print(formatting.align(lines))


if __name__ == "__main__":
    main()
