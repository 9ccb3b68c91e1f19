"""Compare a finished cross-validation with linear probes on the same folds.

    python scripts/evidence/probes.py RUN --weights=FILE

RUN is the folder of a finished cross-validation, FILE holds ImageNet weights of MobileNetV2 1.0.
Two probes by scikit-learn read the last layer's mean features at 128 pixels, standardised over the
training images of each fold:

- C=1: scikit-learn's default;
- C chosen, classes weighted: by five-fold cross-validation over the subjects that the fold does not
  test, on balanced accuracy.

Figures are means over the repeats. Differences have 95 % intervals by a bootstrap of subjects,
within each class, that keeps all repeats of a subject together; a subject's probabilities are the
mean of its images'. Needs scikit-learn (the extra `test`). Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sscjax
from sscjax.data.dataset import ImageSet
from sscjax.evaluation import resampling
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import data_from_config
from sscjax.experiments.cross_validation import folds
from sscjax.system import run_dir
from sscjax.training import settings as run_settings

SIZE = 128
STRENGTHS = 10.0 ** np.arange(-5, 2)
FIGURES = ("balanced_accuracy", "macro_auroc", "log_loss")
RESAMPLES = 2000


def features_of(image_set: ImageSet, weights: str) -> np.ndarray:
    """Mean features of the last layer at `SIZE` pixels: [N,1280] float32."""
    model = sscjax.create_model("mobilenet_v2", num_classes=3, pretrained=weights, image_size=SIZE)
    return sscjax.extract_features(model, image_set.images[:])


def probed(
    features: np.ndarray, image_set: ImageSet, planned: list[folds.Fold], chosen: bool
) -> list[Predictions]:
    """Predictions of all images by a probe, a table for each repeat in the order of the images."""
    labels, subjects, classes = image_set.labels, image_set.subjects, image_set.classes
    tables = []
    for repeat in sorted({fold.repeat for fold in planned}):
        probabilities = np.empty((len(labels), len(classes)))
        for fold in (one for one in planned if one.repeat == repeat):
            train = np.setdiff1d(np.arange(len(labels)), fold.tested)
            if chosen:
                inner = StratifiedGroupKFold(5, shuffle=True, random_state=0)
                parts = list(inner.split(train, labels[train], subjects[train]))
                head = LogisticRegressionCV(
                    Cs=STRENGTHS,
                    cv=parts,
                    class_weight="balanced",
                    scoring="balanced_accuracy",
                    max_iter=5000,
                    l1_ratios=(0.0,),
                    use_legacy_attributes=False,
                )
            else:
                head = LogisticRegression(C=1, max_iter=5000)
            probe = make_pipeline(StandardScaler(), head).fit(features[train], labels[train])
            probabilities[fold.tested] = probe.predict_proba(features[fold.tested])
        tables.append(_table(image_set, probabilities))
    return tables


def _table(image_set: ImageSet, probabilities: np.ndarray) -> Predictions:
    return Predictions(
        files=image_set.files,
        subjects=image_set.subjects,
        splits=np.full(len(image_set), "test"),
        labels=image_set.labels,
        probabilities=probabilities,
        classes=image_set.classes,
    )


def repeats_of(folder: Path, image_set: ImageSet) -> list[Predictions]:
    """The run's own predictions of all images, a table for each repeat in their order."""
    rows = Predictions.read_csv(folder / run_dir.PREDICTIONS).where("test")
    number, count = len(image_set), len(rows) // len(image_set)
    place = {name: index for index, name in enumerate(image_set.files.tolist())}
    tables = []
    for repeat in range(count):
        part = rows.take(np.arange(repeat * number, (repeat + 1) * number))
        order = np.argsort([place[name] for name in part.files.tolist()])
        tables.append(part.take(order))
    return tables


def mean_figures(tables: list[Predictions], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Figures [R] of subjects weighted by `weights` [R,S], as means over the repeats."""
    found = [
        resampling.weighted(table, resampling.subjects_of(table)[0], weights, False)
        for table in tables
    ]
    return {name: np.mean([one[name] for one in found], axis=0) for name in FIGURES}


def rows_of(models: dict[str, list[Predictions]]) -> list[str]:
    """The lines of one unit's table; the last model is compared with each other."""
    strata = resampling.subjects_of(next(iter(models.values()))[0])[1]
    rngs = [np.random.default_rng([0, index]) for index in range(int(strata.max()) + 1)]
    drawn = resampling.subject_draws(strata, RESAMPLES, rngs).astype(float)
    weights = np.concatenate([np.ones((1, len(strata))), drawn])
    figures = {name: mean_figures(tables, weights) for name, tables in models.items()}
    best = list(models)[-1]
    lines = []
    for name, of in figures.items():
        cells = [name]
        for figure in FIGURES:
            scale, unit = (100, " points") if figure == "balanced_accuracy" else (1, "")
            cells.append(f"{of[figure][0] * scale:.{1 if scale > 1 else 3}f}")
            if name == best:
                cells.append("-")
                continue
            change = (figures[best][figure] - of[figure]) * scale
            ends = resampling.percentile(change[1:], len(strata), len(rngs))
            digits = 1 if scale > 1 else 3
            span = "" if ends is None else f" ({ends[0]:+.{digits}f} to {ends[1]:+.{digits}f})"
            cells.append(f"{change[0]:+.{digits}f}{unit}{span}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Fit the probes, and print a table for images and one for subjects."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished cross-validation")
    parser.add_argument("--weights", required=True, help="ImageNet weights of MobileNetV2 1.0")
    given = parser.parse_args()
    record = run_dir.RunDir(given.run).protocol()
    config = ConfigDict(record["config"])
    image_set, _ = data_from_config.load_images(run_settings.read(config, of_record=True))
    planned = folds.plan(config, image_set)
    features = features_of(image_set, given.weights)
    models = {
        "linear probe, C=1": probed(features, image_set, planned, chosen=False),
        "linear probe, C chosen, classes weighted": probed(
            features, image_set, planned, chosen=True
        ),
        str(config.name): repeats_of(given.run, image_set),
    }
    titles = ("balanced accuracy, %", "macro AUROC", "log loss")
    for unit in ("image", "subject"):
        head = " | ".join(f"{title} | {config.name} minus it" for title in titles)
        print(f"\n| per {unit} | {head} |\n|{'---|' * (1 + 2 * len(titles))}")
        tables = {
            name: of if unit == "image" else [table.by_subject() for table in of]
            for name, of in models.items()
        }
        print("\n".join(rows_of(tables)), flush=True)


if __name__ == "__main__":
    main()
