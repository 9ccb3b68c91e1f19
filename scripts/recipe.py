"""What each ingredient of the best recipe brings to subjects never seen, on real images.

    python scripts/recipe.py --data=FOLDER --weights=FILE --classes A B C

FOLDER is an image set with subjects, FILE are ImageNet weights of MobileNetV2 1.0. Each line is the
recipe of configs/best_three_class.py with one thing changed, cross-validated by subject in the
folds that `sscjax.main` makes for `--config.protocol=kfold --config.cv.repeats=N`: the classifier
is solved for on the training subjects, its penalty chosen among them, the temperature fitted on
validation, and the test subjects have no say. Every image is tested once in each repeat. Figures
are of all repeats together; intervals are paired, by a bootstrap of subjects that keeps a subject's
repeats together. Features of the frozen network are kept in the cache folder. `--runs` adds lines
of runs of that protocol that are there already, such as the paper's stages.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attention
import clone  # noqa: F401  (the configs)
import numpy as np
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

from sscjax.configs import best_three_class
from sscjax.data import augment, lazy, splits
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import calibration, intervals, metrics, paired_tests
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import data_from_config
from sscjax.experiments.cross_validation import folds
from sscjax.system import cache_dir, formatting, terminal
from sscjax.training import (
    class_weights,
    evaluate,
    frozen_features,
    linear_probe,
    losses,
    setup,
    train_step,
)

PROBE: dict[str, object] = {"data.image_size": 128, "model.feature_layers": ()}
COPIES: dict[str, object] = {"augment.copies": 2, "augment.turn": True}
PROBE_LINE = "linear probe"
VARIANTS: dict[str, dict[str, object]] = {
    PROBE_LINE: PROBE,
    "best recipe": {},
    "128 pixels": {"data.image_size": 128},
    "the last layer alone": {"model.feature_layers": ()},
    "two copies, flipped, turned and cropped": COPIES,
    "two copies, stains changed too": {**COPIES, "augment.stain": 0.3},
    "labels smoothed": {"loss.label_smoothing": 0.1},
    "classes unweighted": {"loss.class_weights": "none"},
    "weak penalty, not chosen": {"stages.head.l2": (1e-5,)},
}
SKLEARN = "linear probe, scikit-learn, C=1"
# The best recipe with another classifier, or another sum over a subject's images.
ORDINAL, BAGGED = "ordered classes by CORN", "mean of ten, each of subjects drawn anew"
MEDIAN = "subjects by the median of their images"
# Classifiers of subjects: they say nothing of an image.
OF_SUBJECTS = {
    "subjects by attention over their images": attention.by_attention,
    "subjects by their mean features": attention.by_means,
}
_BAGS = 10


def main() -> int:
    """Cross-validate every line and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--classes", nargs="*", default=[], help="names of the classes in order")
    parser.add_argument("--repeats", type=int, default=5)
    others = {SKLEARN: by_sklearn, ORDINAL: by_corn, BAGGED: by_bags}
    every = [*VARIANTS, *others, MEDIAN, *OF_SUBJECTS]
    parser.add_argument("--lines", nargs="*", default=every, help="all of them")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="*",
        default=[],
        metavar="RUN/stages/NAME",
        help="stages of runs of the same protocol, to stand beside the lines",
    )
    parser.add_argument(
        "--subjects", type=int, nargs="*", default=[], help="instead: how accuracy grows with them"
    )
    args = parser.parse_args()
    base = best_three_class.get_config()
    base.data.path, base.pretrained = str(args.data), str(args.weights)
    base.data.classes = tuple(args.classes)
    base.protocol, base.cv.repeats = "kfold", args.repeats
    if args.subjects:
        print(growth(base, args.subjects))
        return 0
    tables: dict[str, Predictions] = {}
    for name in args.lines:
        started = time.monotonic()
        changed = base.copy_and_resolve_references()
        changed.update_from_flattened_dict(PROBE if name == SKLEARN else VARIANTS.get(name, {}))
        if name in OF_SUBJECTS:
            tables[name] = cross_validate_subjects(changed, OF_SUBJECTS[name])
        else:
            tables[name] = cross_validate(changed, others.get(name, by_run))
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    for stage in args.runs:
        tables[f"{stage.parent.parent.name}, {stage.name}"] = read_stage(stage)
    print("\n\n".join([tables_of(tables), *filter(None, map(swings, args.runs))]))
    return 0


# --- features -------------------------------------------------------------------------------------


class Frozen:
    """Features of the frozen network for the originals and their copies."""

    def __init__(self, config: ConfigDict) -> None:
        self.images, synthetic = data_from_config.load_images(config)
        one = config.copy_and_resolve_references()
        one.split.folds, one.split.fold = config.cv.folds, 0
        network = setup.build_network(
            one, data_from_config.split_images(one, self.images, synthetic), earlier_fallback=False
        )
        self._network = network
        self.program = train_step.Program(
            network.model,
            network.objective,
            setup.make_inputs(config, network.weights.convention.scaling, online=False),
            micro_batch=8,
        )
        copied = augment.augmented_copies(
            self.images, config.augment.copies, config.seed, augment.changes(config)
        )
        self._store = frozen_features.Store(cache_dir.cache_dir() / "recipe", 1e10)
        # Copy k of image i is row k * N + i.
        self.rows = self._compute(copied.images)
        self.copied = copied

    def _compute(self, images: lazy.Rows) -> np.ndarray:
        network, last = self._network, self.program.model.features_end
        key = frozen_features.key(
            self.program,
            last,
            network.params,
            network.batch_stats,
            images=lazy.fingerprint(images),
            scaling=network.weights.convention.scaling,
            batch_size=32,
        )
        found = frozen_features.compute(
            self.program,
            last,
            network.params,
            network.batch_stats,
            images,
            batch_size=32,
            progress=lambda count: None,
            keep=self._store.keep(key, held=True),
        )
        return np.asarray(found)


# --- one line -------------------------------------------------------------------------------------

Classifier = Callable[[np.ndarray], np.ndarray]
Fit = Callable[[ConfigDict, np.ndarray, ImageSet], Classifier]
FitSubjects = Callable[[ConfigDict, np.ndarray, ImageSet], attention.Ask]


def cross_validate(config: ConfigDict, fit: Fit, limit: int | None = None) -> Predictions:
    """Calibrated out-of-fold predictions of all repeats, one behind the other.

    Args:
      config: of the protocol.
      fit: makes a classifier of what is trained on.
      limit: subjects trained on, of each fold; None for all.
    """
    frozen = Frozen(config)
    images, found = frozen.images, []
    for fold in folds.plan(config, images):
        place = data_from_config.make_splits(fold.config, images)
        chosen = np.flatnonzero(place == "train")
        if limit is not None:
            chosen = chosen[some_subjects(images.take(chosen), limit, fold.config.seed)]
        # The originals that are trained on, and their copies.
        every = np.concatenate([chosen + k * len(images) for k in range(config.augment.copies + 1)])
        ask = fit(config, frozen.rows[every], frozen.copied.take(every))
        logits = ask(frozen.rows[: len(images)])
        found.append(calibrated(evaluate.table(images, place, shares(logits))))
    return Predictions.join(found)


def cross_validate_subjects(config: ConfigDict, fit: FitSubjects) -> Predictions:
    """As `cross_validate`, with a row for each subject, as `Predictions.by_subject` has it.

    Args:
      config: of the protocol, without copies.
      fit: makes a classifier of the images of what is trained on.
    """
    frozen = Frozen(config)
    images, found = frozen.images, []
    group, *_ = attention.subjects_of(images)
    even = np.full((len(images), len(images.classes)), 1 / len(images.classes))
    for fold in folds.plan(config, images):
        place = data_from_config.make_splits(fold.config, images)
        chosen = np.flatnonzero(place == "train")
        ask = fit(config, frozen.rows[chosen], images.take(chosen))
        # All images of a subject are in one split: a row each, in the same order.
        table = evaluate.table(images, place, even).by_subject()
        said = shares(ask(frozen.rows, group))
        found.append(calibrated(dataclasses.replace(table, probabilities=said)))
    return Predictions.join(found)


def shares(logits: np.ndarray) -> np.ndarray:
    """Probabilities [N,C] of logits [N,C]."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def calibrated(table: Predictions) -> Predictions:
    """The rows that are tested, at the temperature that fits those of validation."""
    temperature = calibration.fit_temperature(table.where("val")).value
    return calibration.apply(table.where("test"), temperature)


def some_subjects(training: ImageSet, limit: int, seed: int) -> np.ndarray:
    """[N] bool, the images of `limit` subjects: of the classes in turn, at random within each."""
    names, first = np.unique(training.subjects, return_index=True)
    rng = np.random.default_rng(seed)
    queues = [
        rng.permutation(names[training.labels[first] == label]).tolist()
        for label in np.unique(training.labels)
    ]
    taken: list[str] = []
    while len(taken) < limit and any(queues):
        taken += [queue.pop() for queue in queues if queue]
    return np.isin(training.subjects, taken[:limit])


def by_run(config: ConfigDict, rows_of: np.ndarray, training: ImageSet) -> Classifier:
    """As a stage with 'lbfgs' does it."""
    classes, stage = len(training.classes), config.stages.head
    weights = class_weights.class_weights(config.loss.class_weights, training.labels, classes)
    objective = dataclasses.replace(setup.make_objective(config, classes), class_weights=weights)
    problem = linear_probe.Problem(
        rows_of, training.labels, objective, classes, passes=stage.epochs
    )
    parts = splits.subject_folds(training, linear_probe.FOLDS, config.seed)
    found = problem.fit(problem.choose(stage.l2, parts).l2)
    return lambda x: x @ found.kernel + found.bias


def by_corn(config: ConfigDict, rows_of: np.ndarray, training: ImageSet) -> Classifier:
    """Is it more than class k, of those that are at least k: a problem for each k but the last.

    Conditional ordinal regression (CORN; Shi, Cao and Raschka 2023, Pattern Anal Applic 26:941).
    """
    stage, fitted = config.stages.head, []
    parts = splits.subject_folds(training, linear_probe.FOLDS, config.seed)
    for k in range(len(training.classes) - 1):
        chosen = training.labels >= k
        more = (training.labels[chosen] > k).astype(np.int32)
        weights = class_weights.class_weights(config.loss.class_weights, more, 2)
        objective = losses.Objective("sigmoid", class_weights=weights)
        problem = linear_probe.Problem(rows_of[chosen], more, objective, 1, passes=stage.epochs)
        fitted.append(problem.fit(problem.choose(stage.l2, parts[chosen]).l2))

    def ask(x: np.ndarray) -> np.ndarray:
        logits = np.concatenate([x @ one.kernel + one.bias for one in fitted], axis=1)
        # Logarithms of P(more than k | at least k), and of its opposite.
        yes, no = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
        above = np.cumsum(yes, axis=1)
        reached = np.concatenate([np.zeros_like(above[:, :1]), above], axis=1)
        return reached + np.concatenate([no, np.zeros_like(no[:, :1])], axis=1)

    return ask


def by_bags(config: ConfigDict, rows_of: np.ndarray, training: ImageSet) -> Classifier:
    """Ten classifiers, each of as many subjects drawn with replacement; their logits averaged."""
    classes, stage = len(training.classes), config.stages.head
    weights = class_weights.class_weights(config.loss.class_weights, training.labels, classes)
    objective = dataclasses.replace(setup.make_objective(config, classes), class_weights=weights)
    whole = linear_probe.Problem(rows_of, training.labels, objective, classes, passes=stage.epochs)
    parts = splits.subject_folds(training, linear_probe.FOLDS, config.seed)
    l2 = whole.choose(stage.l2, parts).l2
    names, place = np.unique(training.subjects, return_inverse=True)
    rng = np.random.default_rng(config.seed)
    found = []
    for _ in range(_BAGS):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        flat, _ = whole.solve(l2, drawn[place])
        found.append(flat)
    one = whole.classifier(np.mean(found, axis=0))
    return lambda x: x @ one.kernel + one.bias


def by_sklearn(config: ConfigDict, rows_of: np.ndarray, training: ImageSet) -> Classifier:
    """What a linear probe mostly is: scikit-learn's defaults on features as they are."""
    del config
    model = LogisticRegression(C=1.0, max_iter=1000).fit(rows_of, training.labels)
    return functools.partial(_scores, model)


def _scores(model: LogisticRegression, x: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(model.predict_proba(x), 1e-12))


def read_stage(stage: Path) -> Predictions:
    """A protocol's predictions of one stage, calibrated as `cross_validate` does it.

    Args:
      stage: RUN/stages/NAME, where RUN is the folder of a protocol.
    """
    found = []
    for fold in sorted(stage.parent.parent.glob(f"folds/*/stages/{stage.name}/predictions.csv")):
        found.append(calibrated(Predictions.read_csv(fold)))
    if not found:
        raise UserError(f"{stage} is no stage of a finished protocol: give RUN/stages/NAME")
    return Predictions.join(found)


def swings(stage: Path) -> str:
    """How a stage's balanced accuracy on validation swings from its third epoch on; '' without any.

    Args:
      stage: RUN/stages/NAME, where RUN is the folder of a protocol.
    """
    courses = []
    for path in stage.parent.parent.glob("folds/*/curves.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["stage"] == stage.name]
        courses.append([100 * float(row["val_balanced_accuracy"]) for row in kept][2:])
    if not courses or min(map(len, courses)) < 2:
        return ""
    deviation = np.mean([np.std(course, ddof=1) for course in courses])
    reach = np.mean([max(course) - min(course) for course in courses])
    return (
        f"{stage.parent.parent.name}, {stage.name}: from epoch 3 on balanced accuracy per image of "
        f"validation has a standard deviation of {deviation:.1f} points and a range of {reach:.1f} "
        f"(means of {len(courses)} folds)"
    )


def growth(base: ConfigDict, numbers: list[int]) -> str:
    """Figures of the best recipe and of the probe by the number of subjects trained on."""
    lines = [
        "| subjects trained on | recipe | balanced accuracy per image | per subject | AUROC |",
        "|---|---|---|---|---|",
    ]
    for limit in numbers:
        for name in ("best recipe", PROBE_LINE):
            changed = base.copy_and_resolve_references()
            changed.update_from_flattened_dict(VARIANTS[name])
            table = cross_validate(changed, by_run, limit)
            cells = [str(limit), name]
            for one in (table, subjects_of(table)):
                value = metrics.figures(one, True)["balanced_accuracy"]
                span = intervals.figures(one, True)["balanced_accuracy"]
                reach = "" if span is None else f" ({100 * span[0]:.1f} to {100 * span[1]:.1f})"
                cells.append(formatting.percent(value) + reach)
            cells.append(formatting.number(metrics.figures(table, True)["macro_auroc"]))
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


# --- the tables -----------------------------------------------------------------------------------


PER = ("image", "subject")
# Figures whose difference from the probe's is given beside them.
COMPARED = {
    "balanced_accuracy": "balanced accuracy",
    "quadratic_kappa": "kappa",
    "macro_auroc": "macro AUROC",
    "log_loss": "log loss",
}


def tables_of(found: dict[str, Predictions]) -> str:
    """A table per image and one per subject, with a line for each recipe."""
    titles = [part for title in COMPARED.values() for part in (title, "less the probe's")]
    parts = []
    for per in PER:
        head = [f"recipe, per {per}", *titles, "calibration error"]
        rows_of = (line(name, table, found.get(PROBE_LINE), per) for name, table in found.items())
        shown = [cells for cells in rows_of if cells]
        rule = ["---"] * len(head)
        parts.append("\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *shown)))
    return "\n\n".join(parts)


def line(name: str, table: Predictions, probe: Predictions | None, per: str) -> list[str]:
    """The cells of a recipe's line; none per image where it only tells subjects.

    Args:
      name: of the recipe.
      table: its predictions of images, or of subjects where it tells these alone.
      probe: of the linear probe, of images; None where it was left out.
      per: one of `PER`.
    """
    if per == "image" and name in OF_SUBJECTS:
        return []
    other = table if probe is None else probe
    if per == "subject":
        table, other = subjects_of(table, median=name == MEDIAN), subjects_of(other)
    elif name == MEDIAN:
        return []  # of images it is the best recipe
    figures = metrics.figures(table, True)
    apart = differences(table, table if probe is None else other)
    cells = [name]
    for figure in COMPARED:
        shown = formatting.percent if figure == "balanced_accuracy" else formatting.number
        cells += [shown(figures[figure]), apart[figure]]
    edges = calibration.bin_edges(table.confidence, 10, "mass")
    return [*cells, formatting.number(calibration.expected_calibration_error(table, edges))]


def subjects_of(table: Predictions, *, median: bool = False) -> Predictions:
    """One row for each subject and repeat: a subject's rows of one repeat follow each other's.

    Args:
      table: rows of images.
      median: of the images' probabilities, instead of their mean.
    """
    # Each repeat tests every image once: the n-th time an image occurs is the n-th repeat.
    seen: dict[str, int] = {}
    repeat = np.empty(len(table), int)
    for row, file in enumerate(table.files.tolist()):
        repeat[row] = seen.get(file, 0)
        seen[file] = repeat[row] + 1
    parts = [table.take(repeat == k) for k in range(repeat.max() + 1)]
    return Predictions.join([_by_median(one) if median else one.by_subject() for one in parts])


def _by_median(table: Predictions) -> Predictions:
    """As `Predictions.by_subject`, with the median of each probability; they sum to 1 again."""
    found = table.by_subject()
    middle = np.array(
        [
            np.median(table.probabilities[table.subjects == name], axis=0)
            for name in found.subjects.tolist()
        ]
    )
    shares = middle / middle.sum(1, keepdims=True)
    return dataclasses.replace(found, probabilities=shares.astype(found.probabilities.dtype))


def differences(table: Predictions, other: Predictions) -> dict[str, str]:
    """Of each figure in `COMPARED`, less the other's, with intervals; dashes from itself."""
    if np.array_equal(table.probabilities, other.probabilities):
        return dict.fromkeys(COMPARED, formatting.UNDEFINED)
    # By name, and the repeats of an image in their order.
    left, right = (one.take(np.argsort(one.files, kind="stable")) for one in (table, other))
    ours, theirs = metrics.figures(left, True), metrics.figures(right, True)
    spans = paired_tests.difference_intervals(left, right, True)
    found = {}
    for figure in COMPARED:
        # Accuracies in points.
        factor, form = (100, "+.1f") if figure == "balanced_accuracy" else (1, "+.3f")
        shown = format(factor * (ours[figure] - theirs[figure]), form)
        span = spans.get(figure)
        if span is not None:
            low, high = (format(factor * bound, form) for bound in span)
            shown += f" ({low} to {high})"
        found[figure] = shown
    return found


if __name__ == "__main__":
    sys.exit(terminal.call(main))
