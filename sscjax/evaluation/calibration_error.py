"""The expected calibration error, its interval, and its value by chance, clustered by subject.

Rows are put into bins by their confidence, the largest probability. The gap of a bin is the sum of
confidence less right over its rows, by all rows; the calibration error is the sum of the gaps'
absolute values (Naeini, Cooper and Hauskrecht 2015, AAAI). Scatter alone makes it larger: a
calibrated network with few patients shows an error, too. An interval around the error would
therefore lie too high.

The lower end comes from a test (test inversion: Carpenter 1999, Journal of the Royal Statistical
Society B 61: 159-171): it is the smallest error, with gaps in the proportions that were seen, that
reaches the error that was seen in 2.5 % of draws. The gaps are drawn from a multivariate t
distribution with their covariance by subject (`limits`). The upper end is the delta method's, with
the signs of the gaps as seen.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from scipy import special

from sscjax.evaluation import clustered, limits
from sscjax.evaluation.clustered import Estimate
from sscjax.evaluation.limits import LEVEL
from sscjax.evaluation.predictions import Predictions

Binning = Literal["mass", "width"]
BINNINGS: tuple[Binning, ...] = ("mass", "width")

# Of the calibration error, as in `configs/default.py`.
BINS = 10

# Fewer images than this in a bin, and its accuracy says nothing.
FEWEST_IN_BIN = 10

METHOD = (
    "test inversion (Carpenter 1999), upper end by the delta method, variance by subject of Bell "
    "and McCaffrey 2002"
)

# Subjects that err in a bin, from which its variance is estimated.
_FEWEST_ERRING = 2

_DRAWS = 1000
# Errors that are tried as the lower end, as shares of the one that was seen.
_TRIED = np.linspace(0.0, 1.0, 41)


def bin_edges(values: np.ndarray, bins: int = BINS, binning: Binning = "mass") -> np.ndarray:
    """Ends of the bins of confidence, [bins + 1] in 0..1.

    Args:
      values: [N] confidences; without any the one bin is 0 to 1.
      bins: how many at most; fewer where a bin would hold less than `FEWEST_IN_BIN` on average.
      binning: 'mass', equally many values in each, or 'width', equally wide ones.
    """
    number = int(np.clip(len(values) // FEWEST_IN_BIN, 1, bins))
    steps = np.linspace(0.0, 1.0, number + 1)
    return np.quantile(values, steps) if binning == "mass" and len(values) else steps


def bin_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each value, [N] int from 0: equal values are never parted."""
    return np.searchsorted(edges[1:-1], values)


def expected_calibration_error(predictions: Predictions, edges: np.ndarray) -> float:
    """Mean distance of accuracy from mean confidence in the bins, weighed by their images: 0..1.

    Raises:
      ValueError: there are no rows.
    """
    _require_rows(predictions)
    bins, number = bin_of(predictions.confidence, edges), len(edges) - 1
    excess = predictions.confidence - (predictions.predicted == predictions.labels)
    return float(np.abs(np.bincount(bins, excess, number)).sum() / len(predictions))


def _require_rows(predictions: Predictions) -> None:
    if not len(predictions):
        raise ValueError("there are no rows: a calibration error needs one or more")


@dataclasses.dataclass(frozen=True)
class _Gaps:
    """The gaps of B bins and how they vary over samples of subjects.

    Attributes:
      value: [B].
      covariance: [B,B].
      freedom: degrees of freedom of the covariance.
    """

    value: np.ndarray
    covariance: np.ndarray
    freedom: float


def _sums(predictions: Predictions, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence less right of each bin and subject [B,S], and the rows of each subject [B,S]."""
    excess = predictions.confidence - (predictions.predicted == predictions.labels)
    sizes = _by_subject(predictions, edges, np.ones(len(predictions))).sum(0)
    sums = _by_subject(predictions, edges, excess)
    return sums, np.broadcast_to(sizes, sums.shape)


def _by_subject(predictions: Predictions, edges: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums [B,S] of values of the rows [N]."""
    names, group = np.unique(predictions.subjects, return_inverse=True)
    number = len(edges) - 1
    cell = bin_of(predictions.confidence, edges) * len(names) + group
    return np.bincount(cell, values, number * len(names)).reshape(number, len(names))


def _gaps(predictions: Predictions, edges: np.ndarray) -> _Gaps:
    """The gaps of two or more subjects."""
    sums, sizes = _sums(predictions, edges)
    rows, count = len(predictions), sums.shape[1]
    of = limits.spread(sums, sizes)
    covariance = of.residuals @ of.residuals.T
    # Where hardly a subject errs in a bin, the share of errors may still not be 0: its variance is
    # taken for one error more, of as many trials as there are subjects.
    inside = _by_subject(predictions, edges, np.ones(rows))
    wrong = _by_subject(predictions, edges, predictions.predicted != predictions.labels)
    with np.errstate(divide="ignore", invalid="ignore"):
        trials = inside.sum(1) ** 2 / (inside**2).sum(1)
        errors = (wrong.sum(1) / inside.sum(1) * trials + 1) / (trials + 2)
        least = (inside.sum(1) / rows) ** 2 * errors * (1 - errors) / trials
    few = (wrong > 0).sum(1) < _FEWEST_ERRING
    missing = np.where(few, np.nan_to_num(least) - np.diag(covariance), 0.0)
    covariance = covariance + np.diag(np.maximum(missing, 0.0))
    freedom = float(limits.spread(sums.sum(0), sizes[0]).freedom)
    # Where the subjects do not differ at all there is nothing to compute them from.
    freedom = freedom if np.isfinite(freedom) else count - 1.0
    return _Gaps(sums.sum(1) / rows, covariance, freedom)


def estimate(predictions: Predictions, edges: np.ndarray | None = None) -> Estimate:
    """The calibration error and its interval.

    Args:
      predictions: one row per image or per subject.
      edges: of the bins; None: those of `bin_edges` for the confidences. The interval is of the
        error in these bins.
    """
    if not len(predictions):
        return Estimate(None, reason="there are no rows")
    if edges is None:
        edges = bin_edges(predictions.confidence)
    value = expected_calibration_error(predictions, edges)
    if len(np.unique(predictions.subjects)) < 2:
        return Estimate(value, reason=clustered.FEW)
    gaps = _gaps(predictions, edges)
    freedom = (
        gaps.freedom if np.isfinite(gaps.freedom) else len(np.unique(predictions.subjects)) - 1
    )
    rng = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(gaps.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    noise = rng.normal(size=(_DRAWS, len(values))) @ root.T
    noise *= np.sqrt(freedom / rng.chisquare(freedom, _DRAWS))[:, None]
    drawn = np.abs(_TRIED[:, None, None] * gaps.value + noise).sum(2)
    reaches = np.quantile(drawn, (1 + LEVEL) / 2, axis=1) >= value
    # One step below the first that reaches it, so as not to round inwards.
    low = value * _TRIED[max(0, int(reaches.argmax()) - 1)] if reaches.any() else value
    signs = np.where(gaps.value >= 0, 1.0, -1.0)
    error = float(np.sqrt(signs @ gaps.covariance @ signs))
    high = value + float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Estimate(value, float(low), min(1.0, high), method=METHOD)


def by_chance(predictions: Predictions, edges: np.ndarray) -> float:
    """The mean calibration error of a network whose confidences are true, for these subjects.

    The mean absolute value of normal gaps around 0. Their variance is that of independent images,
    times the inflation by subjects, whose images are right or wrong together, over all bins.

    Raises:
      ValueError: there are no rows.
    """
    _require_rows(predictions)
    confidence, number = predictions.confidence, len(edges) - 1
    bins = bin_of(confidence, edges)
    variance = np.bincount(bins, confidence * (1 - confidence), number) / len(predictions) ** 2
    inflation = 1.0
    if len(np.unique(predictions.subjects)) >= 2 and variance.sum() > 0:
        of = limits.spread(*_sums(predictions, edges))
        inflation = max(1.0, float((of.residuals**2).sum() / variance.sum()))
    return float(np.sqrt(2 / np.pi * inflation) * np.sqrt(variance).sum())
