"""Measure how a patient's images best become one row of probabilities.

    python scripts/evidence/patients.py --data=FOLDER --weights=FILE --classes A B C

FOLDER is an image set with subjects. Features are those of configs/best.py, from the
frozen backbone. In each of five folds by subject the other subjects are the development subjects:
what is compared there is compared by five-fold cross-validation over them alone, and then tested on
the fold. Compared are the mean and the geometric mean of the images' probabilities, a classifier of
the subjects' mean features, and attention over their images (Ilse, Tomczak and Welling 2018, ICML).
A temperature of subjects is fitted on the out-of-fold predictions of the development subjects, by
the rule of `sscjax.evaluation.calibration`. Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from scipy import special

import sscjax
from sscjax.configs import best
from sscjax.data import splits
from sscjax.data.dataset import ImageSet
from sscjax.evaluation import calibration, metrics
from sscjax.evaluation.predictions import Aggregation, Predictions
from sscjax.training import linear_probe, losses

FOLDS = 5
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)

# Of the attention: principal components that it reads, hidden units, and the penalty.
COMPONENTS, HIDDEN, PENALTY = 32, 16, 1e-2

# Subjects to learn from, and new ones: predictions of the new ones.
Method = Callable[["Rows", "Rows"], Predictions]


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Images of some subjects: features [N,D] float32, labels [N] int and subjects [N] str.

    `strengths` are the penalties of classifiers of images and of subjects' mean features, chosen by
    cross-validation over the development subjects, for all that is fitted to any of these.
    """

    features: np.ndarray
    labels: np.ndarray
    subjects: np.ndarray
    folds: np.ndarray
    classes: tuple[str, ...]
    strengths: tuple[float, float] = (0.0, 0.0)

    def take(self, rows: np.ndarray) -> Rows:
        """Some of them, by a mask."""
        return dataclasses.replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            subjects=self.subjects[rows],
            folds=self.folds[rows],
        )

    def table(self, probabilities: np.ndarray) -> Predictions:
        """Predictions for them, as a table of held-out rows."""
        numbers = np.arange(len(self.labels)).astype(str)
        splits_of = np.full(len(numbers), "test")
        return Predictions(
            numbers, self.subjects, splits_of, self.labels, probabilities, self.classes
        )

    def by_subject(self) -> Rows:
        """One row per subject, with the mean of its features; a subject has one label here."""
        _, first, group = np.unique(self.subjects, return_index=True, return_inverse=True)
        sums = np.zeros((len(first), self.features.shape[1]))
        np.add.at(sums, group, self.features)
        means = (sums / np.bincount(group)[:, None]).astype(np.float32)
        return dataclasses.replace(self.take(first), features=means)


def problem(development: Rows) -> linear_probe.Problem:
    """L2-regularised logistic regression with weighted classes."""
    outputs = len(development.classes)
    counts = np.bincount(development.labels, minlength=outputs)
    weights = tuple((counts.sum() / (outputs * counts)).tolist())
    objective = losses.Objective("softmax", class_weights=weights)
    return linear_probe.Problem(development.features, development.labels, objective, outputs)


def linear(development: Rows, new: Rows, strength: float) -> Predictions:
    fitted = problem(development).fit(strength)
    return new.table(special.softmax(new.features @ fitted.kernel + fitted.bias, axis=1))


def images(development: Rows, new: Rows) -> Predictions:
    """A classifier of images; `AGGREGATED` says what is made of its rows."""
    return linear(development, new, development.strengths[0])


def mean_features(development: Rows, new: Rows) -> Predictions:
    """A classifier of the mean features of subjects."""
    return linear(development.by_subject(), new.by_subject(), development.strengths[1])


def attention(development: Rows, new: Rows) -> Predictions:
    """Gated attention over a subject's images, on principal components, by L-BFGS."""
    centre, scale = development.features.mean(0), development.features.std(0) + 1e-6
    scaled = (development.features - centre) / scale
    _, singular, components = np.linalg.svd(scaled, full_matrices=False)
    reduce = components[:COMPONENTS].T / (singular[:COMPONENTS] / np.sqrt(len(scaled)))
    bags, labels = _bags(dataclasses.replace(development, features=scaled @ reduce))
    outputs = len(development.classes)
    shapes = ((COMPONENTS, HIDDEN), (COMPONENTS, HIDDEN), (HIDDEN,), (COMPONENTS, outputs))
    sizes = [int(np.prod(shape)) for shape in shapes]
    share = 1 / np.bincount(labels, minlength=outputs)[labels] / outputs

    def logits(flat: jax.Array, images: jax.Array, present: jax.Array) -> jax.Array:
        parts = jnp.split(flat, np.cumsum(sizes))
        tanh, gate, score, kernel = (
            part.reshape(shape) for part, shape in zip(parts, shapes, strict=False)
        )
        hidden = jnp.tanh(images @ tanh) * jax.nn.sigmoid(images @ gate)
        weight = jax.nn.softmax(jnp.where(present, hidden @ score, -jnp.inf), axis=1)
        return (weight[..., None] * images).sum(1) @ kernel + parts[-1][None]

    @jax.jit
    def loss(flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        def total(flat: jax.Array) -> jax.Array:
            logs = jax.nn.log_softmax(logits(flat, *bags))
            data = -(share * logs[jnp.arange(len(labels)), labels]).sum()
            return data + PENALTY * jnp.square(flat).sum()

        return jax.value_and_grad(total)(flat)

    def step(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = loss(jnp.asarray(flat, jnp.float32))
        return float(value), np.asarray(slope, np.float64)

    begin = np.random.default_rng(0).normal(0, 0.1, sum(sizes) + outputs)
    fitted = scipy.optimize.minimize(step, begin, jac=True, method="L-BFGS-B").x
    reduced = dataclasses.replace(new, features=((new.features - centre) / scale) @ reduce)
    found = logits(jnp.asarray(fitted, jnp.float32), *_bags(reduced)[0])
    return new.by_subject().table(special.softmax(np.asarray(found, np.float64), axis=1))


def _bags(rows: Rows) -> tuple[tuple[jax.Array, jax.Array], np.ndarray]:
    """Images [S,M,D] of each subject, which of them are there [S,M], and labels [S]."""
    _, first, group = np.unique(rows.subjects, return_index=True, return_inverse=True)
    sizes = np.bincount(group)
    bags = np.zeros((len(first), sizes.max(), rows.features.shape[1]), np.float32)
    for subject in range(len(first)):
        bags[subject, : sizes[subject]] = rows.features[group == subject]
    present = np.arange(sizes.max())[None] < sizes[:, None]
    return (jnp.asarray(bags), jnp.asarray(present)), rows.labels[first]


# The classifier of images is fitted once for both.
AGGREGATED: dict[str, Aggregation] = {
    "mean of probabilities": "mean",
    "geometric mean of probabilities": "geometric",
}
OF_SUBJECTS: dict[str, Method] = {"mean features": mean_features, "attention": attention}


def measure(image_set: ImageSet, features: np.ndarray, repeats: int) -> str:
    """The table; see the module's docstring."""
    lines = [
        "| a subject's row | log loss, development | with temperature | log loss, test | with "
        "temperature | calibration error, test | with temperature | right | folds with a "
        "temperature |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    every = []
    for repeat in range(repeats):
        outer = splits.subject_folds(image_set, FOLDS, repeat)
        for fold in range(FOLDS):
            every.append((_rows(image_set, features, outer != fold, repeat), outer == fold))
    of_images = [_predicted(images, *pair) for pair in every]
    rows = {
        name: [tuple(table.by_subject(kind) for table in pair) for pair in of_images]
        for name, kind in AGGREGATED.items()
    }
    for name, method in OF_SUBJECTS.items():
        rows[name] = [_predicted(method, *pair) for pair in every]
    for name, pairs in rows.items():
        lines.append(f"| {name} | " + " | ".join(_row(pairs)) + " |")
    return "\n".join(lines)


def _predicted(method: Method, rows: Rows, test: np.ndarray) -> tuple[Predictions, Predictions]:
    """Out-of-fold predictions of the development subjects, and those of the test subjects."""
    development = rows.take(~test)
    parts = []
    for fold in range(FOLDS):
        held_out = development.folds == fold
        parts.append(method(development.take(~held_out), development.take(held_out)))
    return Predictions.join(parts), method(development, rows.take(test))


def _rows(image_set: ImageSet, features: np.ndarray, development: np.ndarray, seed: int) -> Rows:
    """All rows, with folds and penalties of the development subjects."""
    inner = np.full(len(image_set), -1)
    inner[development] = splits.subject_folds(
        image_set.take(np.flatnonzero(development)), FOLDS, seed
    )
    labels, subjects = np.asarray(image_set.labels), np.asarray(image_set.subjects)
    rows = Rows(features, labels, subjects, inner, tuple(image_set.classes))
    own = rows.take(development)
    strengths = [problem(part).choose(STRENGTHS, part.folds).l2 for part in (own, own.by_subject())]
    return dataclasses.replace(rows, strengths=(strengths[0], strengths[1]))


def _row(pairs: Sequence[tuple[Predictions, ...]]) -> list[str]:
    """The cells of a method: means over folds, each test subject once per repeat."""
    inner: list[tuple[float, float]] = []
    tests: tuple[list[Predictions], list[Predictions]] = ([], [])
    used = 0
    for out_of_fold, test in pairs:
        temperature = calibration.fit_temperature(out_of_fold)
        used += temperature.value != 1
        loss = metrics.log_loss(out_of_fold) or 0.0
        # What temperatures gain that were fitted without the subject.
        gain = (temperature.gain or 0.0) if temperature.value != 1 else 0.0
        inner.append((loss, loss - gain))
        tests[0].append(test)
        tests[1].append(calibration.apply(test, temperature.value))
    cells = [f"{value:.3f}" for value in np.mean(inner, axis=0)]
    joined = [Predictions.join(tables) for tables in tests]
    cells += [f"{metrics.log_loss(table):.3f}" for table in joined]
    for table in joined:
        cells.append(f"{calibration.quality(table, 10, 'mass')['ece']:.3f}")
    right = joined[0].predicted == joined[0].labels
    return [*cells, f"{right.sum()} of {len(right)}", f"{used} of {len(pairs)}"]


def main() -> None:
    """Compute the features, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    parser.add_argument("--classes", nargs="*", default=[], help="names of the classes in order")
    parser.add_argument("--repeats", type=int, default=1, help="partitions into folds")
    args = parser.parse_args()
    image_set = sscjax.load_images(args.data, classes=tuple(args.classes), image_size=192)
    model = sscjax.create_model("mobilenet_v2", len(image_set.classes), pretrained=args.weights)
    features = sscjax.extract_features(model, image_set.images, best.FEATURE_LAYERS)
    print(measure(image_set, features, args.repeats))


if __name__ == "__main__":
    main()
