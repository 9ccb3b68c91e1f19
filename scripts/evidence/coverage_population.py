"""The populations and tables of `coverage.py`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from sscjax.evaluation.predictions import Predictions

SUBJECTS = ((4, 4, 4), (7, 7, 6), (16, 4), (24, 20, 12), (32, 4, 4), (50, 6))
IMAGES = ("1", "10", "2-60", "80 among 5")
CORRELATIONS = (0.1, 0.5, 0.8)
# With how much more confident the network is than it should be.
NETWORKS = ((0.7, 2.0), (0.8, 1.0), (0.95, 1.0), (0.98, 2.0))
UNITS = ("image", "subject")

# How much less likely a class two grades away is than a neighbouring one, in scores.
_FAR = 0.6
BINS = 10

Interval = tuple[float, float]
Known = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Design:
    """What tables are drawn."""

    subjects: tuple[int, ...]  # of each class
    images: str  # of each subject
    correlation: float
    accuracy: float
    confidence: float

    def __str__(self) -> str:
        classes = "/".join(map(str, self.subjects))
        network = "calibrated" if self.confidence == 1 else "overconfident"
        kind = f"ICC {self.correlation:g}, accuracy {self.accuracy:g} {network}"
        return f"{classes}; {self.images} images; {kind}"


def grid() -> list[Design]:
    """All designs; of one image by subject there is one correlation."""
    return [
        Design(subjects, images, correlation, *network)
        for subjects in SUBJECTS
        for images in IMAGES
        for correlation in (CORRELATIONS if images != "1" else CORRELATIONS[1:2])
        for network in NETWORKS
    ]


# --- the population -------------------------------------------------------------------------------


def _means(classes: int, height: float) -> np.ndarray:
    """Mean scores [C,C] of images of each class."""
    apart = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes)))
    return np.where(apart == 0, height, -_FAR * (apart - 1.0))


@functools.cache
def _solved(classes: int, accuracy: float, correlation: float) -> tuple[float, float]:
    """Height of the means, and the share of the variance that a subject's images share."""
    rng = np.random.default_rng(7)
    shared, *own = (rng.normal(size=(40_000, classes)) for _ in range(3))
    labels = np.arange(40_000) % classes

    def search(low: float, high: float, too_low: Callable[[float], bool]) -> float:
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if too_low(middle) else (low, middle)
        return (low + high) / 2

    def right(height: float, part: float, noise: np.ndarray) -> np.ndarray:
        scores = _means(classes, height)[labels] + np.sqrt(part) * shared
        return (scores + np.sqrt(1 - part) * noise).argmax(1) == labels

    def icc(part: float) -> float:
        first, second = (right(height, part, noise) for noise in own)
        share = (first.mean() + second.mean()) / 2
        return float(((first & second).mean() - share**2) / (share * (1 - share)))

    height = search(0.0, 8.0, lambda middle: right(middle, 0.0, own[0]).mean() < accuracy)
    return height, search(0.0, 0.999, lambda part: icc(part) < correlation)


def sizes_of(images: str, subjects: int, rng: np.random.Generator, of: int) -> np.ndarray:
    """Images of each subject; `of` is how many subjects a table has."""
    if images == "2-60":
        return np.floor(np.exp(rng.uniform(np.log(2), np.log(61), subjects))).astype(int)
    if images == "80 among 5":
        sizes = np.full(subjects, 5)
        if subjects == of:
            sizes[rng.integers(subjects)] = 80
        else:
            sizes[rng.random(subjects) < 1 / of] = 80
        return sizes
    return np.full(subjects, int(images))


def draw(
    design: Design, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The subject of each image [N], and its probabilities [N,C]; labels are the subjects'."""
    classes = len(design.subjects)
    height, part = _solved(classes, design.accuracy, design.correlation)
    sizes = sizes_of(design.images, len(labels), rng, sum(design.subjects))
    owner = np.repeat(np.arange(len(labels)), sizes)
    shared = np.sqrt(part) * rng.normal(size=(len(labels), classes))
    scores = _means(classes, height)[labels[owner]] + shared[owner]
    scores = scores + np.sqrt(1 - part) * rng.normal(size=scores.shape)
    odds = np.exp(design.confidence * height * (scores - scores.max(1, keepdims=True)))
    return owner, odds / odds.sum(1, keepdims=True)


def table(design: Design, seed: int) -> Predictions:
    """The test images of one study."""
    labels = np.repeat(np.arange(len(design.subjects)), design.subjects)
    owner, probabilities = draw(design, labels, np.random.default_rng([seed, len(labels)]))
    return Predictions(
        files=np.arange(len(owner)).astype(str),
        subjects=np.array([f"s{index:03d}" for index in owner]),
        splits=np.full(len(owner), "test"),
        labels=labels[owner],
        probabilities=probabilities,
        classes=tuple(f"c{index}" for index in range(len(design.subjects))),
    )


class Population:
    """The figures of a population, for any number of images of each class.

    Args:
      design: whose population.
      unit: 'image' or 'subject'.
      size: images, or subjects, of each class that stand for the population.
    """

    def __init__(self, design: Design, unit: str, size: int) -> None:
        classes = len(design.subjects)
        if unit == "image":
            design = dataclasses.replace(design, images="1")
        self.size, self.labels = size, np.repeat(np.arange(classes), size)
        probabilities = np.zeros((len(self.labels), classes))
        rng = np.random.default_rng(99)
        for part in np.array_split(np.arange(len(self.labels)), 8):
            owner, rows = draw(design, self.labels[part], rng)
            sums = np.zeros((len(part), classes))
            np.add.at(sums, owner, rows)
            probabilities[part] = sums / np.bincount(owner)[:, None]
        rows, right = np.arange(len(self.labels)), probabilities.argmax(1) == self.labels
        chosen = probabilities[rows, self.labels]
        truth = np.eye(classes)[self.labels]

        def by_class(values: np.ndarray) -> np.ndarray:
            return values.reshape(classes, size).mean(1)

        self.called = np.stack([by_class(probabilities.argmax(1) == k) for k in range(classes)], 1)
        self.log_loss = by_class(-np.log(np.maximum(chosen, np.finfo(float).eps)))
        self.brier = by_class(((probabilities - truth) ** 2).sum(1))
        self.wins, self.ranked = np.zeros((classes, classes)), []
        for k in range(classes):
            own = np.sort(probabilities[self.labels == k, k])
            for other in range(classes):
                scores = probabilities[self.labels == other, k]
                below = np.searchsorted(own, scores, "left") + np.searchsorted(own, scores, "right")
                self.wins[k, other] = 1 - below.mean() / 2 / size
            order = self.labels[np.argsort(-probabilities[:, k], kind="stable")]
            self.ranked.append(np.cumsum(order[:, None] == np.arange(classes), 0) / size)
        confidence = probabilities.max(1)
        self.excess = []
        for k in range(classes):
            own = np.flatnonzero(self.labels == k)
            own = own[np.argsort(confidence[own])]
            sums = np.concatenate([[0.0], np.cumsum(confidence[own] - right[own])]) / size
            self.excess.append((confidence[own], sums))

    def figures(self, counts: np.ndarray, edges: np.ndarray, names: tuple[str, ...]) -> Known:
        """Every figure of a table with so many rows [C] of each class and these bins."""
        confusion = counts[:, None] * self.called
        total, right = counts.sum(), np.diagonal(confusion)
        called, grade = confusion.sum(0), np.arange(len(counts))
        cost = np.subtract.outer(grade, grade) ** 2
        chance = float(counts @ cost @ called) / total
        gaps = np.zeros(len(edges) - 1)
        for count, (values, sums) in zip(counts, self.excess, strict=True):
            ends = np.searchsorted(values, edges[1:-1], "right")
            gaps += count * np.diff(sums[np.concatenate([[0], ends, [len(values)]])])
        known = {
            "accuracy": right.sum() / total,
            "balanced_accuracy": (right / counts).mean(),
            "quadratic_kappa": 1 - (confusion * cost).sum() / chance,
            "log_loss": counts @ self.log_loss / total,
            "brier": counts @ self.brier / total,
            "ece": np.abs(gaps).sum() / total,
        }
        areas = []
        for k, name in enumerate(names):
            others = grade != k
            areas.append(counts[others] @ self.wins[k, others] / counts[others].sum())
            missed, wrong = counts[k] - right[k], called[k] - right[k]
            reached = self.ranked[k]
            steps = np.diff(reached[:, k], prepend=0.0)
            precision = counts[k] * reached[:, k] / np.maximum(reached @ counts, 1e-300)
            known |= {
                f"sensitivity {name}": right[k] / counts[k],
                f"specificity {name}": 1 - wrong / (total - counts[k]),
                f"precision {name}": right[k] / called[k],
                f"npv {name}": 1 - missed / (total - called[k]),
                f"f1 {name}": 2 * right[k] / (counts[k] + called[k]),
                f"auroc {name}": areas[k],
                f"average_precision {name}": (steps * precision).sum(),
            }
        known["macro_auroc"] = np.mean(areas)
        return {name: float(value) for name, value in known.items()}


@functools.cache
def population(design: Design, unit: str, size: int) -> Population:
    """Per image, neither the number of images nor their correlation matters."""
    return Population(design, unit, size)


def truth_of(design: Design, unit: str, size: int = 6000) -> Population:
    """The population of a design, drawn once for all designs that share it."""
    if unit == "image":
        classes = len(design.subjects)
        design = dataclasses.replace(design, subjects=(1,) * classes, images="1", correlation=0.5)
    elif design.images != "80 among 5":
        design = dataclasses.replace(design, subjects=(1,) * len(design.subjects))
    return population(design, unit, size if unit == "subject" else 3 * size)
