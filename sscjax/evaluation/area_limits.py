"""Confidence limits of an area under the ROC curve, with images that come in clusters.

Two intervals, of which each end is the one farther out:

1. The t interval of the area's logit, with DeLong's variance by subject (Obuchowski 1997,
   Biometrics 53: 567-578) and Satterthwaite's degrees of freedom (1946, Biometrics Bulletin 2:
   110-114) over both sides. It says how much the subjects that were seen differ.
2. The score interval of Newcombe (2006, Statistics in Medicine 25: 559-573, method 5): the areas
   from which the one that was seen lies less than 1.96 standard errors away. The variance is Hanley
   and McNeil's (1982, Radiology 143: 29-36) at the area that is tried. Where all subjects that were
   seen are easy, the first interval knows nothing of hard ones; the second asks how often an area
   that is not 1 would show none.

The score interval is of independent images. It takes as many as there are subjects, or more, if
images of a subject are seen to differ: it believes the variance by subject as far as that has
degrees of freedom (`_DOUBT`).
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

from sscjax.evaluation.limits import LEVEL

METHOD = (
    "t interval of the logit, DeLong's variance by subject (Obuchowski 1997), Satterthwaite's "
    "degrees of freedom; no narrower than the score interval of Newcombe 2006"
)

# Degrees of freedom with which a subject counts as one independent image. With none, intervals per
# image held the truth in 78 % of tables where one subject in twenty is hard; with 2, in 85 %, with
# 12 and more in 93 %.
_DOUBT = 12.0

# Variances below are rounding.
_ROUNDING = 1e-14


def score_variance(area: float, positives: float, negatives: float) -> float:
    """The variance of an area, by Hanley and McNeil's formula as Newcombe made it symmetric.

    Args:
      area: 0..1.
      positives: independent images of the class, 1 or more, need not be a whole number.
      negatives: those of the others, likewise.

    Example:
      >>> round(score_variance(0.8, 20, 30) ** 0.5, 4)
      0.0646
    """
    typical = (positives + negatives) / 2
    shape = (1 - area) / (2 - area) + area / (1 + area)
    return area * (1 - area) * (1 + (typical - 1) * shape) / (positives * negatives)


def score_limits(
    area: float, positives: float, negatives: float, level: float = LEVEL
) -> tuple[float, float]:
    """Newcombe's score interval.

    Args:
      area: 0..1, as it was seen.
      positives: see `score_variance`.
      negatives: likewise.
      level: nominal coverage of the interval.

    Example:
      >>> [round(end, 3) for end in score_limits(1.0, 4, 8)]
      [0.662, 1.0]
    """
    reach = float(special.ndtri((1 + level) / 2))

    def lower(area: float) -> float:
        if area <= 0:
            return 0.0

        def outside(tried: float) -> float:
            error = math.sqrt(score_variance(tried, positives, negatives))
            return area - tried - reach * error

        # An area of 1 has no variance, so that 1 itself would be a second solution.
        return float(optimize.brentq(outside, 0.0, area * (1 - 1e-9), xtol=1e-12))

    return lower(area), 1 - lower(1 - area)


def area_limits(
    area: float,
    variance: float,
    freedom: float,
    positives: float,
    negatives: float,
    level: float = LEVEL,
) -> tuple[float, float]:
    """Limits of an area.

    Args:
      area: 0..1.
      variance: of it, by subject.
      freedom: degrees of freedom of the variance.
      positives: subjects of the class; effective ones (Kish 1965) where they have unequally many
        images.
      negatives: those of the other classes, likewise.
      level: nominal coverage.
    """
    if variance <= _ROUNDING or not 0 < area < 1:
        return score_limits(area, positives, negatives, level)
    seen = min(1.0, variance / score_variance(area, positives, negatives))
    alike = (freedom * seen + _DOUBT) / (freedom + _DOUBT)
    low, high = score_limits(area, positives / alike, negatives / alike, level)
    logit = float(special.logit(area))
    reach = float(special.stdtrit(freedom, (1 + level) / 2)) * math.sqrt(variance)
    reach /= area * (1 - area)
    ends = special.expit(np.array([logit - reach, logit + reach]))
    return min(low, float(ends[0])), max(high, float(ends[1]))
