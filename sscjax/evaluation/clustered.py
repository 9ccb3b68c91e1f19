"""Means over images that come in clusters, their subjects, and figures made of such means.

`limits` has the formulas; this module turns rows of a table into sums by subject, and means with
limits into figures with intervals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from sscjax.evaluation import limits
from sscjax.evaluation.limits import LEVEL

Interval = tuple[float, float]

_FREEDOM = "variance by subject of Bell and McCaffrey 2002"
EXACT = "Clopper and Pearson 1934, exact binomial"
SHARE = f"Korn and Graubard 1998, {_FREEDOM}"
COMBINED = (
    f"Korn and Graubard 1998 for each class, {_FREEDOM}; classes combined by MOVER (Zou and Donner "
    "2008)"
)
LOSS = (
    f"t interval of the logarithm, {_FREEDOM}; upper end with as many errors as Korn and Graubard "
    "1998 allow"
)

FEW = "its rows are of fewer than two subjects"
FEW_OF_CLASS = "a class has fewer than two subjects"


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure of one table and its 95 % confidence interval.

    Attributes:
      value: the figure; None where it is undefined.
      low: lower end of the interval; None where there is none.
      high: upper end, likewise.
      method: name and source of the interval's method; None where there is none.
      reason: why there is no value or no interval; '' where there are both.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    reason: str = ""

    @property
    def interval(self) -> list[float] | None:
        """[low, high], or None."""
        return None if self.low is None or self.high is None else [self.low, self.high]


@dataclasses.dataclass(frozen=True)
class Part:
    """What the images of one class contribute to a figure: a mean by subject.

    Attributes:
      value: the mean.
      low: its lower limit.
      high: its upper limit.
      residuals: [S] of each subject, see `limits.Spread`.
      freedom: degrees of freedom of their squares' sum.
      effective: subjects, see `limits.Spread`.
      exact: the limits are those of independent trials.
    """

    value: float
    low: float
    high: float
    residuals: np.ndarray
    freedom: float
    effective: float
    exact: bool = False

    def times(self, weight: float) -> Part:
        """The part of a weighted sum; the weight is not negative."""
        ends = (weight * self.value, weight * self.low, weight * self.high)
        return Part(*ends, weight * self.residuals, self.freedom, self.effective)


class Means:
    """Means by subject of bounded quantities; the limits of all are computed at once.

    Args:
      subjects: [N], what rows are not independent within.
    """

    def __init__(self, subjects: np.ndarray) -> None:
        names, self.group = np.unique(subjects, return_inverse=True)
        self.count = len(names)
        self._sums: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._within: list[float] = []
        self._binary: list[bool] = []
        self._ends: list[Interval] = []
        self._caution: list[float] = []

    def subjects_of(self, counted: np.ndarray) -> int:
        """How many subjects have a row that counts."""
        return len(np.unique(self.group[counted]))

    def add(
        self,
        values: np.ndarray,
        counted: np.ndarray,
        ends: Interval = (0.0, 1.0),
        caution: float = 1.0,
    ) -> int:
        """Ask for a mean; its number in what `parts` returns.

        Args:
          values: [N] float or bool.
          counted: [N] bool, the rows that the mean is of.
          ends: the least and the greatest value that a row could have.
          caution: see `limits.spread`.
        """
        low, high = ends
        owners = self.group[counted]
        scaled = (values[counted].astype(np.float64) - low) / (high - low)
        scaled = np.clip(scaled, 0.0, 1.0)
        sizes = np.bincount(owners, minlength=self.count)
        self._sums.append(np.bincount(owners, scaled, self.count))
        self._sizes.append(sizes)
        self._within.append(float(scaled.var()) / len(scaled) if len(scaled) else 0.0)
        self._binary.append(bool(sizes.max(initial=0) == 1 and np.isin(scaled, (0, 1)).all()))
        self._ends.append(ends)
        self._caution.append(caution)
        return len(self._sums) - 1

    def parts(self, level: float = LEVEL) -> list[Part | None]:
        """All means that were asked for; None where they are of fewer than two subjects."""
        if not self._sums:
            return []
        sums, sizes = np.stack(self._sums), np.stack(self._sizes)
        caution = np.array(self._caution)
        of = limits.spread(sums, sizes, caution)
        within = np.array(self._within)
        low, high = limits.mean_limits(sums, sizes, within, caution, level)
        binary, images = np.array(self._binary), sizes.sum(1)
        exact = limits.beta_limits(of.mean, np.maximum(images, 1), level)
        low, high = np.where(binary, exact[0], low), np.where(binary, exact[1], high)
        found: list[Part | None] = []
        for index, (least, greatest) in enumerate(self._ends):
            if (sizes[index] > 0).sum() < 2:
                found.append(None)
                continue
            span = greatest - least
            value, lower, upper = (least + span * float(end[index]) for end in (of.mean, low, high))
            found.append(
                Part(
                    *(value, lower, upper, span * of.residuals[index]),
                    freedom=float(of.freedom[index]),
                    effective=float(of.effective[index]),
                    exact=bool(binary[index]),
                )
            )
        return found


def of_part(value: float, part: Part) -> Estimate:
    """A figure that is one mean."""
    return Estimate(value, part.low, part.high, method=EXACT if part.exact else SHARE)


def mean_loss(
    losses: np.ndarray, if_wrong: np.ndarray, wrong: np.ndarray, subjects: np.ndarray, most: float
) -> Estimate:
    """A mean loss and its interval, symmetric for its logarithm.

    With few errors a loss is much smaller than it will be, for one image predicted wrongly with
    confidence adds more than a hundred predicted rightly. The upper end is therefore not below the
    loss with as many errors as Korn and Graubard's interval allows.

    Args:
      losses: [N] float, not negative.
      if_wrong: [N] float, the loss of each row if the next most probable class had been true.
      wrong: [N] bool.
      subjects: [N], what rows are not independent within.
      most: the greatest loss that is possible.
    """
    if not len(losses):
        return Estimate(None, reason="there are no rows")
    means = Means(subjects)
    value, sizes = float(losses.mean()), np.bincount(means.group)
    means.add(wrong, np.ones(len(losses), bool))
    [errors] = means.parts()
    if errors is None:
        return Estimate(value, reason=FEW)
    of = limits.spread(np.bincount(means.group, losses), sizes)
    variance = max(float(of.variance), float(losses.var()) / len(losses))
    low, high = value, value
    if variance > 0:
        reach = float(special.stdtrit(of.freedom, (1 + LEVEL) / 2)) * np.sqrt(variance) / value
        low, high = value * float(np.exp(-reach)), value * float(np.exp(min(reach, 700.0)))
    if not wrong.all():
        more = float((if_wrong - losses)[~wrong].mean())
        high = max(high, value + (errors.high - errors.value) * more)
    return Estimate(value, low, min(most, high), method=LOSS)


def combined(
    value: float,
    parts: Sequence[Part],
    moved: Sequence[Interval] | None = None,
    ends: Interval = (0.0, 1.0),
) -> Estimate:
    """A figure made of several parts, with its interval.

    Args:
      value: the figure.
      parts: what it is made of.
      moved: for each part, the figure if this part were at its lower limit, and at its upper; None:
        the figure is the sum of its parts.
      ends: least and greatest value that the figure can have.
    """
    if moved is None:
        moved = [(value - part.value + part.low, value - part.value + part.high) for part in parts]
    below = [max(0.0, value - low) for low, _ in moved]
    above = [max(0.0, high - value) for _, high in moved]
    residuals = np.stack([part.residuals for part in parts])
    low, high = limits.combine(value, below, above, residuals)
    return Estimate(value, max(ends[0], low), min(ends[1], high), method=COMBINED)
