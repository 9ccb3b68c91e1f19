"""Cutting groups of images into parts of given shares, with every class in every part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sscjax.errors import UserError

# Weight of a class that is missing from a part, far above any sum of squared differences.
_MISSING = 1e3
_RESTARTS = 20
_MAX_STEPS = 500
_SWAPPED = 150


def partition(
    table: np.ndarray,
    shares: Sequence[float],
    seed: Sequence[int],
    classes: Sequence[str],
    by: str,
) -> np.ndarray:
    """Cuts groups into parts of the wanted shares, with every class in every part.

    Args:
      table: [G,K] images of each class in each group.
      shares: the wanted share of each part, sum 1.
      seed: of the random generator.
      classes: K names, for messages.
      by: what a group is, for messages.

    Returns:
      [G] int, the part of each group.
    """
    parts = len(shares)
    for name, column in zip(classes, table.T, strict=True):
        holders = np.count_nonzero(column)
        if holders < parts:
            mend = "merge classes or split by='image'" if by == "subject" else "merge classes"
            raise UserError(
                f"class {name!r} has {holders} {by}(s) to be cut into {parts} parts, expected at "
                f"least one for each; {mend}"
            )
    rng = np.random.default_rng(seed)
    if np.all(table.sum(1) == 1):
        return _cut_singles(table.argmax(1), np.asarray(shares), rng)
    # All images count beside the classes, so that equal classes do not hide a skewed whole.
    counts = np.column_stack([table, table.sum(1)]).astype(float)
    fitting = _Parts(counts / counts.sum(0), np.asarray(shares))
    for _ in range(_RESTARTS):
        part = fitting.improve(fitting.start(rng), rng)
        sums = np.zeros((parts, table.shape[1]), np.int64)
        np.add.at(sums, part, table)
        if np.all(sums > 0):
            return part
    raise UserError(
        f"found no way to give each of {parts} parts every class while keeping each {by} whole "
        f"({len(table)} {by}s, {len(classes)} classes); merge classes or split by='image'"
    )


def _cut_singles(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The partition when each group is one image: exact, and cheap for very many images."""
    part = np.empty(len(labels), np.int64)
    owed = np.zeros(len(shares))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Ties in rounding go to the part that earlier classes left short.
        numbers = _round_to_sum(len(members) * shares, owed)
        owed += len(members) * shares - numbers
        part[rng.permutation(members)] = np.repeat(np.arange(len(shares)), numbers)
    return part


def _round_to_sum(wanted: np.ndarray, owed: np.ndarray) -> np.ndarray:
    """Whole numbers next to `wanted` with the same sum, each at least 1."""
    numbers = np.maximum(np.floor(wanted + 1e-9), 1).astype(np.int64)
    total = round(wanted.sum())
    while numbers.sum() < total:
        numbers[np.argmax(wanted - numbers + 1e-3 * owed)] += 1
    while numbers.sum() > total:
        surplus = np.where(numbers > 1, numbers - wanted, -np.inf)
        numbers[np.argmax(surplus)] -= 1
    return numbers


class _Parts:
    """Searches for an assignment of groups to parts whose shares are near to the wanted ones.

    The cost of a part is the squared difference between its share of each column and the wanted
    share, over the wanted share (as in a chi-squared statistic: one patient too many weighs more
    in a small part), plus `_MISSING` for each column of which it holds nothing.
    """

    def __init__(self, weights: np.ndarray, shares: np.ndarray) -> None:
        self.weights = weights  # [G,K], each column sums to 1
        self.shares = shares  # [P]

    def cost(self, sums: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Cost of parts: sums [...,K] and shares broadcast to [...]."""
        difference = np.square(sums - shares[..., None]).sum(-1) / shares
        return difference + _MISSING * (sums < 1e-12).sum(-1)

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Groups in random order, each to the part where it lowers the cost most."""
        part = np.empty(len(self.weights), np.int64)
        sums = np.zeros((len(self.shares), self.weights.shape[1]))
        cost = self.cost(sums, self.shares)
        for group in rng.permutation(len(self.weights)):
            after = self.cost(sums + self.weights[group], self.shares)
            best = int(np.argmin(after - cost))
            part[group] = best
            sums[best] += self.weights[group]
            cost[best] = after[best]
        return part

    def improve(self, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The best single move or swap, again and again until none lowers the cost."""
        part = part.copy()
        for _ in range(_MAX_STEPS):
            sums = np.zeros((len(self.shares), self.weights.shape[1]))
            np.add.at(sums, part, self.weights)
            gain, group, target = self._best_move(part, sums)
            some = rng.permutation(len(part))[:_SWAPPED]
            swap_gain, one, other = self._best_swap(part, sums, np.sort(some))
            if max(gain, swap_gain) < 1e-9:
                break
            if gain >= swap_gain:
                part[group] = target
            else:
                part[one], part[other] = part[other], part[one]
        return part

    def _best_move(self, part: np.ndarray, sums: np.ndarray) -> tuple[float, int, int]:
        cost = self.cost(sums, self.shares)
        without = self.cost(sums[part] - self.weights, self.shares[part])
        added = self.cost(sums[None] + self.weights[:, None], self.shares[None])
        gains = (cost[part] - without)[:, None] + cost[None] - added
        gains[np.arange(len(part)), part] = 0.0
        group, target = np.unravel_index(np.argmax(gains), gains.shape)
        return float(gains[group, target]), int(group), int(target)

    def _best_swap(
        self, part: np.ndarray, sums: np.ndarray, some: np.ndarray
    ) -> tuple[float, int, int]:
        """The best swap among the groups `some`: [S,S] pairs at once."""
        here = part[some]
        cost = self.cost(sums, self.shares)[here]
        received = self.weights[some][None] - self.weights[some][:, None]
        after = self.cost(sums[here][:, None] + received, self.shares[here][:, None])
        gains = cost[:, None] + cost[None] - after - after.T
        gains[here[:, None] == here[None]] = 0.0
        one, other = np.unravel_index(np.argmax(gains), gains.shape)
        return float(gains[one, other]), int(some[one]), int(some[other])
