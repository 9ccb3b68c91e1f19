"""An interval of a training procedure, from the folds of a cross-validation.

The intervals of `intervals` take the trained models as they are: how well do these models do on
other patients? A paper often means another question: how well does a model do that is trained in
this way on another set of so many patients? Then the training patients are a sample, too.

The standard deviation of the folds' figures is no measure of that: it is mostly the difference
between the few patients that each fold tests. And the folds are not independent, for they share
most of their training patients, so that s^2 / J understates the variance of their mean. Nadeau and
Bengio (2003, Machine Learning 52: 239-281) correct it: (1/J + n_test / n_train) s^2, where a share
of the variance as large as that of the test set is added for the shared training sets; Bouckaert
and Frank (2004, PAKDD: 3-12) use it for repeated folds. No estimate of this variance is unbiased
(Bengio and Grandvalet 2004); this one is on the safe side where folds have patients of every class.

The interval is symmetric for the logit of a share and for the logarithm of a loss: of few patients
AUROC is near 1 in many folds, and a symmetric interval lay above the truth in one study of eight
(`scripts/evidence/procedure_coverage.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from sscjax.evaluation.clustered import Interval
from sscjax.evaluation.limits import LEVEL

# With fewer folds their scatter is not known.
FEWEST_FOLDS = 3


def procedure_interval(
    values: Sequence[float | None],
    folds: int,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    level: float = LEVEL,
) -> Interval | None:
    """The interval of the mean figure of models that are trained on other patients.

    Args:
      values: the figure of each fold on the patients that it tests; of several repeats all of them.
        One that is undefined is None.
      folds: of each repeat, so that a fold tests 1/folds of the patients.
      bounds: of the figure: 0 and 1 for a share, 0 and infinity for a loss; both infinite for one
        without bounds.
      level: share of intervals that are to hold the truth.

    Returns:
      None where a fold has no figure, for fewer than three folds, or where they do not differ.

    Example:
      >>> low, high = procedure_interval([0.70, 0.74, 0.66, 0.72, 0.68], 5)
      >>> round(low, 3), round(high, 3)
      (0.641, 0.759)
    """
    if len(values) < FEWEST_FOLDS or folds < 2 or any(value is None for value in values):
        return None
    figures = np.array(values, np.float64)
    variance = float(figures.var(ddof=1))
    if variance < 1e-15:
        return None
    error = math.sqrt(variance * (1 / len(figures) + 1 / (folds - 1)))
    # Repeats test the same patients again: they do not know the scatter better than one does.
    reach = float(stats.t.ppf((1 + level) / 2, min(len(figures), folds) - 1)) * error
    return _ends(float(figures.mean()), reach, bounds)


def _ends(mean: float, reach: float, bounds: tuple[float, float]) -> Interval:
    """The mean, less and more `reach` on the scale that has no bounds (delta method)."""
    least, most = bounds
    if math.isinf(least):
        return mean - reach, mean + reach
    above = mean - least
    if math.isinf(most):
        factor = math.exp(min(reach / above, 700.0)) if above > 0 else 1.0
        return least + above / factor, least + above * factor
    span = most - least
    share = above / span
    odds = special.logit(share)
    step = reach / span / (share * (1 - share))
    low, high = special.expit(odds - step), special.expit(odds + step)
    return least + span * float(low), least + span * float(high)
