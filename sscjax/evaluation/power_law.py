"""An inverse power law fitted to a learning curve: what more training subjects would gain.

The figure with n training subjects is taken as a - b n^-c (of a loss: a + b n^-c), as Figueroa et
al. 2012 (BMC Medical Informatics and Decision Making 12: 8) do: a is what endless data would give,
b what is lacking with one subject, c how fast it is gained. The fit weighs each point by the
inverse of its variance. For a given c the least squares are linear in a and b, so the best c is
found on a grid, for many resamples at once, and without a starting value.
"""

from __future__ import annotations

import dataclasses

import numpy as np

# Exponents that are tried. Below 0.05 the curve is a straight line on the range of any study.
EXPONENTS = np.geomspace(0.05, 3.0, 60)


@dataclasses.dataclass(frozen=True, eq=False)
class PowerLaw:
    """Fitted curves a + sign b n^-c, one for each resample.

    Attributes:
      limit: [B] float64, a.
      gain: [B] float64, b, 0 or more.
      exponent: [B] float64, c.
      sign: -1 for figures that rise with more data, 1 for losses.
    """

    limit: np.ndarray
    gain: np.ndarray
    exponent: np.ndarray
    sign: int

    def at(self, subjects: np.ndarray) -> np.ndarray:
        """The curves at numbers of subjects [P]: [B,P]."""
        powers = np.asarray(subjects, np.float64)[None] ** -self.exponent[:, None]
        return self.limit[:, None] + self.sign * self.gain[:, None] * powers


def fit(
    subjects: np.ndarray,
    values: np.ndarray,
    variances: np.ndarray,
    *,
    rises: bool,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> PowerLaw:
    """Fit a curve to each row by weighted least squares.

    Args:
      subjects: [P] numbers of training subjects, three or more different ones.
      values: [B,P] the figure, a row for each resample.
      variances: [P] of the figure at each point, above 0.
      rises: whether more data raise the figure; False for losses.
      bounds: of the limit a: 0 to 1 for shares, 0 to infinity for a loss.

    Example:
      >>> n = np.array([8, 12, 16, 24, 32])
      >>> curve = fit(n, 0.8 - 0.6 * n[None] ** -0.5, np.ones(5), rises=True)
      >>> bool(abs(curve.at(np.array([64]))[0, 0] - (0.8 - 0.6 / 8)) < 1e-3)
      True
    """
    values = np.atleast_2d(np.asarray(values, np.float64))
    weights = 1 / np.asarray(variances, np.float64)
    weights = weights / weights.sum()
    sign = -1 if rises else 1
    best = np.full(len(values), np.inf)
    limit, gain, exponent = (np.zeros(len(values)) for _ in range(3))
    for power in EXPONENTS:
        basis = sign * np.asarray(subjects, np.float64) ** -power
        a, b = _line(basis, values, weights, bounds)
        residuals = values - a[:, None] - b[:, None] * basis[None]
        loss = residuals**2 @ weights
        # Of equal fits the first: where nothing is gained, any exponent fits.
        better = loss < best - 1e-15
        best = np.where(better, loss, best)
        limit, gain = np.where(better, a, limit), np.where(better, b, gain)
        exponent = np.where(better, power, exponent)
    return PowerLaw(limit, gain, exponent, sign)


def _line(
    basis: np.ndarray, values: np.ndarray, weights: np.ndarray, bounds: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares of values [B,P] by a + b basis, a within bounds and b not below 0."""
    middle = weights @ basis
    means = values @ weights
    spread = weights @ (basis - middle) ** 2
    slope = np.maximum(((values - means[:, None]) * (basis - middle)[None]) @ weights / spread, 0)
    start = means - slope * middle
    inside = np.clip(start, *bounds)
    # With the limit at its bound, the best slope for that limit.
    bounded = (values - inside[:, None]) * basis[None] @ weights / (weights @ basis**2)
    return inside, np.where(inside == start, slope, np.maximum(bounded, 0))
