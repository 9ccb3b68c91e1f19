"""The odds that a rule misses its target on new patients, for the few on which it was chosen."""

from __future__ import annotations

import numpy as np
from scipy import stats


def miss(
    right: np.ndarray, subjects: np.ndarray, target: float, optimism: float = 0.0
) -> float | None:
    """The odds, 0 to 1, that the true share right lies below the target.

    Of n independent rows, of which k are right, the share lies below the target with the
    probability that Beta(k, n - k + 1) gives. For a threshold set just below the lowest of the
    scores that it has to catch, this is exact, for the share of new scores above the r-th lowest
    of n has that distribution whatever the scores (Wilks 1941, Ann. Math. Statist. 12: 91-96); a
    threshold further below does better. For one that was the best of many, k is first lowered by
    the rule's optimism. `tests/evaluation/test_odds.py` compares both with simulations.

    Rows of a subject count as the number of independent rows whose share would vary as much, at
    most the rows and at least the subjects.

    Args:
      right: [N] bool, rows on which the rule was chosen and which it concerns: the diseased for a
        sensitivity, those answered for an accuracy.
      subjects: [N], whose rows are not independent.
      target: the share that the rule is to reach, in (0, 1].
      optimism: how much of the share right is owed to the choice, 0 or more.

    Returns:
      None without rows.

    >>> round(miss(np.ones(5, bool), np.arange(5), 0.95), 3)  # 0.95 to the fifth
    0.774
    """
    if not len(right):
        return None
    number = effective_number(right, subjects)
    share = max(0.0, float(right.mean()) - optimism)
    return float(stats.beta.cdf(target, share * number, number * (1 - share) + 1)) if share else 1.0


def effective_number(right: np.ndarray, subjects: np.ndarray) -> float:
    """How many independent rows would vary as much as these clusters do; 0 without rows."""
    if not len(right):
        return 0.0
    _, group = np.unique(subjects, return_inverse=True)
    number, total, share = int(group.max()) + 1, len(right), float(right.mean())
    if number == total:
        return float(total)
    if number < 2 or share in (0.0, 1.0):
        return float(number)
    sizes = np.bincount(group)
    residuals = np.bincount(group, right) - share * sizes
    variance = number / (number - 1) * float((residuals**2).sum()) / total**2
    effective = share * (1 - share) / variance if variance > 0 else float(total)
    return float(np.clip(effective, number, total))
