"""How many subjects the next study needs, judged by a pilot that is itself uncertain.

An interval shrinks with the root of the number of subjects. A plan that takes the width seen in the
pilot for the true one is right in about half of the studies: the pilot may have been lucky, and the
next study may be unlucky. Assurance (O'Hagan, Stevens and Campbell 2005, Pharmaceutical Statistics
4: 187-201) is the probability that the next study reaches the width, over both:

1. What the population is like, given the pilot: weights of its subjects, drawn by the Bayesian
   bootstrap (Rubin 1981, The Annals of Statistics 9: 130-134) within each class. Of a share, each
   class has half a subject more that is wrong in all images (Jeffreys' prior), or a class that is
   all right in the pilot would count as never wrong.
2. Whom the next study happens to include: subjects drawn from that population.

All figures are handled alike, by what each subject contributes to them (the infinitesimal
jackknife): a study's variance is that of its subjects' contributions.

More images per patient help less the more the images of a patient resemble each other: with
intraclass correlation r, m images count as m / (1 + (m - 1) r) independent ones (Kish 1965).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from sscjax.evaluation import resampling
from sscjax.evaluation.clustered import Interval
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions

ASSURANCE = 0.8

# Populations drawn from the pilot.
DRAWS = 600

# Larger studies are not planned.
MOST_SUBJECTS = 1_000_000

# The range of what is uncertain holds this share of the drawn populations.
RANGE = 0.9

# Step of a subject's weight, as a share of its own, for the derivative of a figure.
_STEP = 1e-3

# How much wider the exact interval of a small study may be than the formula for large ones.
_WIDEST = 1.5

# The prior's subject counts as half of one (Jeffreys).
_PRIOR = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Contributions:
    """What each subject of a pilot contributes to one figure.

    Attributes:
      values: [S] float64; the mean over subjects is about 0, and the variance of the figure in a
        study of n subjects is their variance over n.
      strata: [S] int from 0, the groups within which subjects are drawn and compared.
      shares: [G] float, the share of subjects in each group; sums to 1.
      mass: [S] float, how much of a subject each counts as, 1, or less for one that the prior adds.
      widening: the pilot's own interval over that of the formula, 1 or more.
      value: of the figure where it is a share of the rows, else None: the formula is then Korn and
        Graubard's, which is exact where all rows are right.
      counted: share of the subjects whose rows are in its denominator.
    """

    values: np.ndarray
    strata: np.ndarray
    shares: np.ndarray
    mass: np.ndarray
    widening: float = 1.0
    value: float | None = None
    counted: float = 1.0

    def populations(self, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
        """Shares of the subjects in each drawn population: [draws,S], summing to 1 by group."""
        rng = np.random.default_rng(seed)
        weights = rng.gamma(self.mass[None], size=(draws, len(self.mass)))
        for group in range(len(self.shares)):
            inside = self.strata == group
            weights[:, inside] /= weights[:, inside].sum(axis=1, keepdims=True)
        return weights

    def deviation(self, weights: np.ndarray) -> np.ndarray:
        """Standard deviation of one subject's contribution in each population: [B]."""
        total = np.zeros(len(weights))
        for group, share in enumerate(self.shares):
            inside = self.strata == group
            values, own = self.values[inside], weights[:, inside]
            mean = own @ values
            total += share * np.maximum(own @ values**2 - mean**2, 0)
        return np.sqrt(total)

    def half_widths(self, subjects: int, weights: np.ndarray, seed: int = 0) -> np.ndarray:
        """Of the 95 % interval in one study of each population: [B]; infinite if not estimable.

        Args:
          subjects: of the study.
          weights: [B,S] as `populations` gives them.
          seed: of whom the studies include.
        """
        rng = np.random.default_rng([seed, subjects])
        variance, moved = np.zeros(len(weights)), np.zeros(len(weights))
        total = 0
        for group, share in enumerate(self.shares):
            inside = self.strata == group
            size = max(2, round(share * subjects))
            total += size
            counts = rng.multinomial(size, weights[:, inside])
            values = self.values[inside]
            mean = counts @ values / size
            spread = np.maximum(counts @ values**2 / size - mean**2, 0) * size / (size - 1)
            variance += share * spread
            moved += share * mean
        variance /= total
        freedom = max(total - len(self.shares), 1)
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
        known = max(2.0, self.counted * total)
        if self.value is not None:
            return self.widening * _share_half_widths(self.value + moved, variance, known, quantile)
        return self.widening * quantile * np.sqrt(variance)


def _share_half_widths(
    shares: np.ndarray, variances: np.ndarray, subjects: float, quantile: float
) -> np.ndarray:
    """Of Korn and Graubard's intervals of shares [B] with these variances [B]: [B]."""
    tail = (1 - LEVEL) / 2
    shares = np.clip(shares, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = shares * (1 - shares) / variances * (stats.norm.isf(tail) / quantile) ** 2
    # All right or all wrong: a subject tells no more than one image.
    alike = (variances < 1e-12) | (shares * (1 - shares) < 1e-9)
    effective = np.where(alike, subjects, effective)
    right = shares * effective
    wrong = effective - right
    low = np.where(right > 1e-9, stats.beta.ppf(tail, np.maximum(right, 1e-9), wrong + 1), 0.0)
    high = np.where(wrong > 1e-9, stats.beta.isf(tail, right + 1, np.maximum(wrong, 1e-9)), 1.0)
    return (high - low) / 2


@dataclasses.dataclass(frozen=True)
class Plan:
    """Subjects for an interval of one width.

    Attributes:
      subjects: the fewest with which the next study reaches the width with the assurance.
      low: what would do in populations as favourable as 5 in 100 of those that fit the pilot.
      high: what it takes in populations as unfavourable as 5 in 100.
    """

    subjects: int
    low: int
    high: int


def contributions(
    predictions: Predictions, ordered: bool, *, prior: bool
) -> dict[str, Contributions]:
    """What each subject contributes to each figure of `resampling.bootstrap`; {} without rows.

    Args:
      predictions: of the pilot, a row per image or per subject.
      ordered: whether kappa has a meaning.
      prior: add to each class half a subject that is wrong in all images; of shares alone.
    """
    if not len(predictions):
        return {}
    count = len(np.unique(predictions.subjects))
    table = _with_prior(predictions) if prior else predictions
    group, strata = resampling.subjects_of(table)
    number = len(strata)
    real = np.zeros(number, dtype=bool)
    real[np.unique(group[: len(predictions)])] = True
    weights = np.where(real, 1.0, 0.0)[None]
    base = resampling.weighted(table, group, weights, ordered)
    moved = resampling.weighted(table, group, weights + _STEP * np.eye(number), ordered)
    _, dense = np.unique(strata, return_inverse=True)
    shares = np.bincount(dense[real]) / count
    mass = np.where(real, 1.0, _PRIOR)
    derived = {}
    for name, value in base.items():
        slopes = count * (moved[name] - value[0]) / _STEP
        if not np.isfinite(slopes).all():
            continue
        # Of all images together a subject is compared with all others, whatever their class.
        alone = name == "accuracy"
        figure, _, index = name.partition(" ")
        is_share = figure in ("accuracy", "sensitivity", "specificity")
        of_class = float((strata[real] == int(index)).mean()) if index else 0.0
        counted = {"sensitivity": of_class, "specificity": 1 - of_class}.get(figure, 1.0)
        derived[name] = Contributions(
            values=slopes,
            strata=np.zeros(number, int) if alone else dense,
            shares=np.ones(1) if alone else shares,
            mass=mass,
            value=float(value[0]) if is_share else None,
            counted=counted,
        )
    return derived


def widened(own: Contributions, half_width: float) -> Contributions:
    """The same, with the ratio of the pilot's interval, of that half width, to the formula's."""
    real = own.mass == 1
    weights = np.zeros((1, len(real)))
    for group in range(len(own.shares)):
        inside = real & (own.strata == group)
        weights[:, inside] = 1 / inside.sum()
    count = int(real.sum())
    freedom = max(count - len(own.shares), 1)
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, freedom))
    variance = own.deviation(weights) ** 2 / freedom
    if own.value is None:
        formula = quantile * math.sqrt(float(variance[0]))
    else:
        known = max(2.0, own.counted * count)
        shares = np.array([own.value])
        formula = float(_share_half_widths(shares, variance, known, quantile)[0])
    ratio = half_width / formula if formula > 0 else _WIDEST
    return dataclasses.replace(own, widening=float(np.clip(ratio, 1.0, _WIDEST)))


def plan(
    own: Contributions, half_width: float, assurance: float = ASSURANCE, seed: int = 0
) -> Plan:
    """Subjects with which the next study's interval reaches a half width.

    Args:
      own: of the figure, from the pilot.
      half_width: wanted, in the figure's unit (a share 0 to 1).
      assurance: probability that the next study reaches it, 0.5 to less than 1.
      seed: of the drawn populations and studies.

    Returns:
      subjects in all, with classes in the pilot's shares.
    """
    weights = own.populations(seed)
    spread = own.widening * own.deviation(weights)
    quantile = stats.norm.ppf((1 + LEVEL) / 2)
    needed = (quantile * spread / half_width) ** 2
    low, high = np.quantile(needed, [(1 - RANGE) / 2, (1 + RANGE) / 2])
    smallest = 2 * len(own.shares)

    def enough(subjects: int) -> bool:
        return bool((own.half_widths(subjects, weights, seed) <= half_width).mean() >= assurance)

    return Plan(
        fewest(enough, smallest), max(smallest, math.ceil(low)), max(smallest, math.ceil(high))
    )


def fewest(enough: Callable[[int], bool], least: int) -> int:
    """The smallest number from `least` on that is enough, where larger ones are, too."""
    high = least
    while not enough(high):
        if high >= MOST_SUBJECTS:
            return MOST_SUBJECTS
        high *= 2
    low = least if high == least else high // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def _with_prior(predictions: Predictions) -> Predictions:
    """The table and, of each class that occurs, a subject of typical size that is all wrong."""
    _, strata = resampling.subjects_of(predictions)
    classes = len(predictions.classes)
    tables = [predictions]
    for label in np.unique(strata).tolist():
        of_class = int((strata == label).sum())
        size = max(1, round(int((predictions.labels == label).sum()) / of_class))
        wrong = np.eye(classes)[(label + 1) % classes]
        name = f"prior {label} {predictions.subjects.dtype}"
        tables.append(
            Predictions(
                files=np.array([f"{name} {k}" for k in range(size)]),
                subjects=np.full(size, name),
                splits=np.full(size, "test"),
                labels=np.full(size, label),
                probabilities=np.tile(wrong, (size, 1)),
                classes=predictions.classes,
            )
        )
    return Predictions.join(tables)


# --- patients against images per patient ----------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Clustering:
    """How alike the images of a patient are in being predicted right.

    Attributes:
      share: of the images that are right, 0 to 1.
      correlation: the intraclass correlation, 0 to 1.
      interval: its 95 % confidence interval, or None with too few subjects.
      images: mean images per patient in the pilot.
      shares, correlations: [B] the same in resamples of the patients.
    """

    share: float
    correlation: float
    interval: Interval | None
    images: float
    shares: np.ndarray
    correlations: np.ndarray

    def design_effect(self, images: float) -> float:
        """By how much `images` of each patient inflate the variance, 1 to `images`."""
        return 1 + (images - 1) * self.correlation


def clustering(predictions: Predictions, seed: int = 0) -> Clustering:
    """Intraclass correlation of right and wrong, by a one-way analysis of variance.

    Args:
      predictions: a row per image, one or more (else a ValueError).
      seed: of the resamples of patients.
    """
    if not len(predictions):
        raise ValueError("a pilot needs one image or more")
    names, group = np.unique(predictions.subjects, return_inverse=True)
    sizes = np.bincount(group).astype(np.float64)
    hits = np.bincount(group, predictions.predicted == predictions.labels)
    once = np.ones((1, len(names)))
    share, correlation = _anova(hits, sizes, once)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
    shares, correlations = _anova(hits, sizes, counts.astype(np.float64))
    return Clustering(
        float(share[0]),
        float(correlation[0]),
        resampling.percentile(correlations, len(names)) if len(names) > 1 else None,
        float(sizes.mean()),
        shares,
        correlations,
    )


def _anova(
    hits: np.ndarray, sizes: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share right and intraclass correlation, 0 to 1, of each resample: [B] and [B].

    Args:
      hits: [S] images that are right.
      sizes: [S] images.
      counts: [B,S] how often each subject stands in a resample.
    """
    subjects, images = counts.sum(axis=1), counts @ sizes
    share = counts @ hits / images
    inside = counts @ (hits * (1 - hits / sizes))
    between = counts @ (sizes * (hits / sizes) ** 2) - images * share**2
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_inside = inside / (images - subjects)
        mean_between = between / (subjects - 1)
        typical = (images - counts @ sizes**2 / images) / (subjects - 1)
        ratio = (mean_between - mean_inside) / (mean_between + (typical - 1) * mean_inside)
    return share, np.clip(np.nan_to_num(ratio), 0.0, 1.0)


def subjects_with_images(
    own: Clustering, images: int, half_width: float, assurance: float = ASSURANCE
) -> int:
    """Patients with so many images each for the accuracy per image to reach a half width.

    The next study's variance scatters as that of beta-binomial counts does.

    Args:
      own: from the pilot.
      images: of each patient.
      half_width: of the 95 % interval, a share.
      assurance: probability that the next study reaches it.
    """
    # Half an image more that is wrong, and one that is right: a share is never 0 or 1.
    total = len(own.shares)
    share = (own.shares * total + 0.5) / (total + 1)
    correlation = np.clip(own.correlations, 1e-3, 1 - 1e-3)
    strength = 1 / correlation - 1
    variance = share * (1 - share) * (correlation + (1 - correlation) / images)
    first, second = share * strength, (1 - share) * strength
    excess = stats.betabinom.stats(images, first, second, moments="k")
    freedom_share = 2 / np.maximum(np.asarray(excess, np.float64) + 2, 0.1)

    def enough(subjects: int) -> bool:
        quantile = stats.t.ppf((1 + LEVEL) / 2, max(subjects - 1, 1))
        freedom = np.maximum(freedom_share * subjects, 1.0)
        limit = (half_width / quantile) ** 2 * subjects / variance
        return float(stats.chi2.cdf(limit * freedom, freedom).mean()) >= assurance

    return fewest(enough, 2)
