"""Calibration of probabilities, and temperature scaling.

Four in five of the rows predicted with 80 % should be right. Networks are usually
overconfident of single images; the aggregate of a patient's images is usually not confident enough.
Temperature scaling (Guo et al. 2017, ICML) divides all logits by one number that is fitted on
held-out rows: a class that was the most probable of a row stays so. A temperature below 1 raises
the confidence.

Confidence is the largest probability of a row. Its bins hold equally many images by default: most
confidences are high, and bins of equal width would be empty but for the last.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import optimize, special

from sscjax.evaluation import calibration_error, intervals, metrics
from sscjax.evaluation.calibration_error import Binning
from sscjax.evaluation.predictions import LEAST, Predictions

# Temperatures are sought between these; a linear classifier of 1280 features that fitted all its
# 900 training images needed 3 to 7.
LOWEST, HIGHEST = 0.05, 20.0

# Held-out subjects that a temperature needs.
FEWEST_SUBJECTS = 4

# Parts of the held-out subjects, each left out once, that a temperature has to prove itself on.
_PARTS = 10


@dataclasses.dataclass(frozen=True)
class Temperature:
    """What the logits are divided by.

    Attributes:
      value: above 0; 1 changes nothing.
      reason: why it is 1 where none could be fitted, or none may be used; else ''.
      gain: by how much temperatures fitted on some held-out subjects lower the log loss of the
        others, the mean per row in nats; None where that was not tried.
      standard_error: of the gain, by subject.
    """

    value: float
    reason: str = ""
    gain: float | None = None
    standard_error: float | None = None


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [N,C] float64 with the logits divided by the temperature.

    p^(1/T), scaled to a sum of 1, is the softmax of logits / T, for p is the softmax of the logits;
    for a single sigmoid the same holds of its two probabilities.

    Args:
      probabilities: [N,C], rows sum to 1; outputs that stand for no class are among them.
      temperature: above 0. More than 1 lowers the confidence; 1 changes nothing.
    """
    if temperature == 1.0:
        return np.asarray(probabilities, np.float64)
    return special.softmax(_logs(probabilities) / temperature, axis=1)


def _logs(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), LEAST))


def apply(predictions: Predictions, temperature: float) -> Predictions:
    """The same table with calibrated probabilities."""
    calibrated = calibrate(predictions.probabilities, temperature)
    return dataclasses.replace(predictions, probabilities=calibrated)


def fit_temperature(predictions: Predictions) -> Temperature:
    """The temperature with the smallest log loss; 1 where none can be fitted, or none helps.

    None can be fitted to fewer than `FEWEST_SUBJECTS` subjects; where every row is right (the loss
    then falls for ever as the temperature goes to 0) or the best lies outside `LOWEST` to
    `HIGHEST`. None is used unless temperatures fitted on parts of the subjects lower the loss of
    the others by more than one standard error, which counts subjects: a handful of subjects would
    otherwise make the probabilities worse about as often as better.

    Args:
      predictions: held-out rows, of images or of subjects.
    """
    number = len(set(predictions.subjects.tolist()))
    if number < FEWEST_SUBJECTS:
        return Temperature(1.0, f"only {number} held-out subjects, {FEWEST_SUBJECTS} are needed")
    logs, labels = _logs(predictions.probabilities), predictions.labels
    if (predictions.predicted == labels).all():
        return Temperature(1.0, "every held-out row is right, so the log loss has no minimum")
    temperature = _smallest_loss(logs, labels)
    if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:
        return Temperature(
            1.0, f"none between {LOWEST:g} and {HIGHEST:g} has the smallest log loss"
        )
    gain, error = _gain(logs, labels, predictions.subjects)
    if gain <= error:
        return Temperature(
            1.0,
            f"fitted on some of the {number} held-out subjects, it lowers the log loss of the "
            f"others by {gain:.3f}, not more than one standard error ({error:.3f})",
            gain,
            error,
        )
    return Temperature(temperature, "", gain, error)


def _losses(logs: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    scaled = logs / temperature
    return special.logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]


def _smallest_loss(logs: np.ndarray, labels: np.ndarray) -> float:
    """The loss is convex in 1/T, so that a bounded search over ln T finds its only minimum."""
    result = optimize.minimize_scalar(
        lambda log_t: float(_losses(logs, labels, float(np.exp(log_t))).mean()),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(result.x))


def _gain(logs: np.ndarray, labels: np.ndarray, subjects: np.ndarray) -> tuple[float, float]:
    """Mean fall of the loss per row by temperatures of the other parts, and its standard error.

    The standard error is that of a ratio of sums over subjects (Cochran 1977, Sampling Techniques,
    section 6.4).
    """
    _, group = np.unique(subjects, return_inverse=True)
    part = group % _PARTS
    gains = np.zeros(len(labels))
    for excluded in sorted(set(part.tolist())):
        held_out = part == excluded
        temperature = _smallest_loss(logs[~held_out], labels[~held_out])
        gains[held_out] = _losses(logs[held_out], labels[held_out], 1.0) - _losses(
            logs[held_out], labels[held_out], temperature
        )
    sizes, mean = np.bincount(group), float(gains.mean())
    residuals = np.bincount(group, gains) - mean * sizes
    number = len(sizes)
    variance = number / (number - 1) * float((residuals**2).sum()) / len(labels) ** 2
    return mean, float(np.sqrt(variance))


# --- how far confidence is from accuracy ------------------------------------------------------


def reliability(predictions: Predictions, edges: np.ndarray) -> list[dict[str, Any]]:
    """The bars of a reliability diagram: a dict for each bin that is not empty.

    `low` and `high` are its ends, `n` its images, `confidence` their mean and `accuracy` the share
    that is right, `interval` that share's 95 % interval by subject or None.
    """
    confidence, right = predictions.confidence, predictions.predicted == predictions.labels
    bin_index = calibration_error.bin_of(confidence, edges)
    bars = []
    for index in sorted(set(bin_index.tolist())):
        inside = bin_index == index
        interval = intervals.clustered_share(right, inside, predictions.subjects)
        bars.append(
            {
                "low": float(edges[index]),
                "high": float(edges[index + 1]),
                "n": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
                "interval": None if interval is None else list(interval),
            }
        )
    return bars


def quality(predictions: Predictions, bins: int, binning: Binning) -> dict[str, Any]:
    """Calibration error and Brier score of a table, ready for JSON.

    Returns:
      ece, ece_interval, ece_by_chance, brier, brier_interval, bins; intervals are [low, high] or
      None, clustered by subject. Without rows all are None, and there are no bins.
    """
    edges = calibration_error.bin_edges(predictions.confidence, bins, binning)
    error = calibration_error.estimate(predictions, edges)
    brier = intervals.brier(predictions)
    return {
        "ece": error.value,
        "ece_interval": error.interval,
        "ece_by_chance": calibration_error.by_chance(predictions, edges)
        if len(predictions)
        else None,
        "brier": brier.value,
        "brier_interval": brier.interval,
        "bins": reliability(predictions, edges),
    }


def compare(
    before: Mapping[str, Predictions],
    after: Mapping[str, Predictions],
    bins: int,
    binning: Binning,
) -> dict[str, Any]:
    """How good the probabilities of some tables are before and after scaling, ready for JSON.

    Args:
      before: rows of one unit by the name of the table, such as 'held_out' and 'test'.
      after: the same rows with calibrated probabilities.
      bins: see `bin_edges`.
      binning: see `bin_edges`.

    Returns:
      binning; log_loss, for each table [before, after]; splits, for each table {'before': quality,
      'after': quality}. Empty tables are left out.
    """
    names = [name for name, table in before.items() if len(table)]
    return {
        "binning": binning,
        "log_loss": {
            name: [metrics.log_loss(before[name]), metrics.log_loss(after[name])] for name in names
        },
        "splits": {
            name: {
                "before": quality(before[name], bins, binning),
                "after": quality(after[name], bins, binning),
            }
            for name in names
        },
    }
