"""Calibration of probabilities, and temperature scaling.

Four in five of the images predicted with 80 % should be right. Networks are usually
overconfident. Temperature scaling (Guo et al. 2017, ICML) divides all logits by one number that is
fitted on the validation images: a class that was the most probable of an image stays so.

Confidence is the largest probability of a row. Its bins hold equally many images by default: most
confidences are high, and bins of equal width would be empty but for the last.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import optimize, special

from sscjax.evaluation import calibration_error, intervals, metrics
from sscjax.evaluation.calibration_error import Binning
from sscjax.evaluation.predictions import Predictions

# Temperatures are sought between these; a linear classifier of 1280 features that fitted all its
# 900 training images needed 3 to 7.
LOWEST, HIGHEST = 0.05, 20.0

# Validation subjects that a temperature needs.
FEWEST_SUBJECTS = 4

# Parts of the validation subjects, each left out once, that a temperature has to prove itself on.
_PARTS = 10

# The least positive number that float32, in which networks compute, keeps in full: 0 means less.
_LEAST = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Temperature:
    """What the logits are divided by; `reason` says why it is 1 where none could be fitted."""

    value: float
    reason: str = ""


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
    return np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST))


def apply(predictions: Predictions, temperature: float) -> Predictions:
    """The same table with calibrated probabilities."""
    calibrated = calibrate(predictions.probabilities, temperature)
    return dataclasses.replace(predictions, probabilities=calibrated)


def fit_temperature(predictions: Predictions) -> Temperature:
    """The temperature with the smallest log loss; 1 where none can be fitted.

    That is where they come from fewer than `FEWEST_SUBJECTS` subjects; where every row is right
    (the loss then falls for ever as the temperature goes to 0) or the best lies outside `LOWEST` to
    `HIGHEST`; and where temperatures fitted on a part of the subjects do not lower the loss of the
    others. The last keeps a handful of images from making probabilities worse.

    Args:
      predictions: the validation images.
    """
    number = len(set(predictions.subjects.tolist()))
    if number < FEWEST_SUBJECTS:
        return Temperature(1.0, f"only {number} validation subjects, {FEWEST_SUBJECTS} are needed")
    logs, labels = _logs(predictions.probabilities), predictions.labels
    if (predictions.predicted == labels).all():
        return Temperature(1.0, "every validation image is right, so the log loss has no minimum")
    temperature = _smallest_loss(logs, labels)
    if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:
        return Temperature(
            1.0, f"none between {LOWEST:g} and {HIGHEST:g} has the smallest log loss"
        )
    if not _helps_others(logs, labels, predictions.subjects):
        return Temperature(
            1.0,
            "fitted on some validation subjects, it does not lower the log loss of the others",
        )
    return Temperature(temperature)


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


def _helps_others(logs: np.ndarray, labels: np.ndarray, subjects: np.ndarray) -> bool:
    """Whether temperatures of the other parts lower the loss of each part's subjects, in sum."""
    _, group = np.unique(subjects, return_inverse=True)
    part = group % _PARTS
    gain = 0.0
    for excluded in sorted(set(part.tolist())):
        held_out = part == excluded
        temperature = _smallest_loss(logs[~held_out], labels[~held_out])
        change = _losses(logs[held_out], labels[held_out], 1.0) - _losses(
            logs[held_out], labels[held_out], temperature
        )
        gain += float(change.sum())
    return gain > 0


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
      None, clustered by subject.
    """
    edges = calibration_error.bin_edges(predictions.confidence, bins, binning)
    error = calibration_error.estimate(predictions, edges)
    brier = intervals.brier(predictions)
    return {
        "ece": error.value,
        "ece_interval": error.interval,
        "ece_by_chance": calibration_error.by_chance(predictions, edges),
        "brier": brier.value,
        "brier_interval": brier.interval,
        "bins": reliability(predictions, edges),
    }


def compare(
    predictions: Predictions, temperature: Temperature, bins: int, binning: Binning
) -> dict[str, Any]:
    """The quality of validation and test before and after scaling, ready for JSON.

    Args:
      predictions: all images, as the network gave them.
      temperature: what `fit_temperature` found on the validation images.
      bins: see `bin_edges`.
      binning: see `bin_edges`.

    Returns:
      temperature and reason; log_loss, for each split [before, after]; splits, for each split
      {'before': quality, 'after': quality}.
    """
    before, after = predictions, apply(predictions, temperature.value)
    losses: dict[str, list[float | None]] = {}
    splits: dict[str, Any] = {}
    for split in ("val", "test"):
        pair = before.where(split), after.where(split)
        if len(pair[0]):
            losses[split] = [metrics.log_loss(table) for table in pair]
            good = [quality(table, bins, binning) for table in pair]
            splits[split] = {"before": good[0], "after": good[1]}
    return {
        "fitted_on": "val",
        "temperature": temperature.value,
        "reason": temperature.reason,
        "binning": binning,
        "log_loss": losses,
        "splits": splits,
    }
