"""Partitioning of groups of images into parts of given shares, with every class in every part.

A random assignment is improved by moving and swapping groups until no single step brings the shares
closer to the target: exact optimisation is not needed, and would give one split for all seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sscjax.errors import UserError

# Weight of a class that is missing from a part, far above any sum of squared differences.
_MISSING = 1e3
_RESTARTS = 20
# Cost of parts that no patient is worth moving for; with hundreds of groups any search gets there.
_EVEN = 1e-4
_MAX_STEPS = 500
_SWAPPED = 150


def partition(
    table: np.ndarray,
    shares: Sequence[float],
    seed: Sequence[int],
    classes: Sequence[str],
    by: str,
) -> np.ndarray:
    """Assign groups to parts of the given shares, with every class in every part.

    Args:
      table: [G,K] images of each class in each group.
      shares: the target share of each part, sum 1.
      seed: of the random generator.
      classes: K names, for messages.
      by: 'subject' or 'image', what a group is, for messages.

    Returns:
      [G] int, the part of each group.

    Raises:
      UserError: a class has fewer groups than there are parts, or no assignment was found.
    """
    parts = len(shares)
    for name, column in zip(classes, table.T, strict=True):
        holders = np.count_nonzero(column)
        if holders < parts:
            raise UserError(
                f"class {name!r} has {holders} {by}(s) for {parts} parts, expected at "
                f"least one for each; add {by}s of this class, or merge classes"
            )
    rng = np.random.default_rng(seed)
    if np.all(table.sum(1) == 1):
        return _by_image(table.argmax(1), np.asarray(shares), rng)
    # The total counts as one more column: balanced classes alone could leave it unbalanced.
    counts = np.column_stack([table, table.sum(1)]).astype(float)
    search = _Search(counts / counts.sum(0), np.asarray(shares))
    for _ in range(_RESTARTS):
        part = search.improve(search.start(rng), rng)
        sums = np.zeros((parts, table.shape[1]), np.int64)
        np.add.at(sums, part, table)
        if np.all(sums > 0):
            return part
    raise UserError(
        f"found no way to give each of {parts} parts every class without dividing a {by} "
        f"({len(table)} {by}s, {len(classes)} classes); add {by}s, or merge classes"
    )


def nearest(table: np.ndarray, shares: Sequence[float], seed: Sequence[int]) -> np.ndarray:
    """Assign groups to parts as near to the given shares as a search gets; parts may lack a class.

    A class that several groups hold is in two parts or more, where any search finds that, so that
    each part can be tested by a model that saw the class in others.

    Args:
      table: [G,K] counts of each class in each group, G at least the number of parts.
      shares: the target share of each part, sum 1.
      seed: of the random generator.

    Returns:
      [G] int, the part of each group.
    """
    present = table[:, table.any(0)]
    counts = np.column_stack([present, present.sum(1)]).astype(float)
    search = _Search(counts / counts.sum(0), np.asarray(shares))
    rng = np.random.default_rng(seed)
    best, found = (np.inf, np.inf), np.zeros(len(table), np.int64)
    for _ in range(_RESTARTS):
        part = search.improve(search.start(rng), rng)
        sums = np.zeros((len(shares), counts.shape[1]))
        np.add.at(sums, part, search.weights)
        in_one_part = int(((sums > 0).sum(0) == 1).sum())
        # Rounded, so that the order of summation decides nothing.
        score = (in_one_part, round(float(search.cost(sums, search.shares).sum()), 9))
        if score < best:
            best, found = score, part
        if best < (0, _EVEN):
            break
    return found


def _by_image(labels: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The partition if each group is one image: exact, and fast for very many images."""
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
    """Integers near `wanted` with the same sum, each at least 1."""
    numbers = np.maximum(np.floor(wanted + 1e-9), 1).astype(np.int64)
    total = round(wanted.sum())
    while numbers.sum() < total:
        numbers[np.argmax(wanted - numbers + 1e-3 * owed)] += 1
    while numbers.sum() > total:
        surplus = np.where(numbers > 1, numbers - wanted, -np.inf)
        numbers[np.argmax(surplus)] -= 1
    return numbers


class _Search:
    """Local search for an assignment of groups to parts with shares near the target shares.

    The cost of a part is the squared difference between its share of each column and the target
    share, over the target share (as in a chi-squared statistic: one patient too many weighs more
    in a small part), plus `_MISSING` for each column of which it has nothing.
    """

    def __init__(self, weights: np.ndarray, shares: np.ndarray) -> None:
        self.weights = weights  # [G,K], each column sums to 1
        self.shares = shares  # [P]

    def cost(self, sums: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Cost of parts: sums [...,K] and shares broadcast to [...]."""
        difference = np.square(sums - shares[..., None]).sum(-1) / shares
        return difference + _MISSING * (sums < 1e-12).sum(-1)

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Assign groups in random order, each to the part where it lowers the cost most."""
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
        """Apply the best single move or swap until none lowers the cost."""
        part = part.copy()
        for _ in range(_MAX_STEPS):
            sums = np.zeros((len(self.shares), self.weights.shape[1]))
            np.add.at(sums, part, self.weights)
            gain, group, target = self._best_move(part, sums)
            sample = rng.permutation(len(part))[:_SWAPPED]
            swap_gain, first, second = self._best_swap(part, sums, np.sort(sample))
            if max(gain, swap_gain) < 1e-9:
                break
            if gain >= swap_gain:
                part[group] = target
            else:
                part[first], part[second] = part[second], part[first]
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
        self, part: np.ndarray, sums: np.ndarray, sample: np.ndarray
    ) -> tuple[float, int, int]:
        """The best swap among the groups `sample` [S]: [S,S] pairs at once."""
        here = part[sample]
        cost = self.cost(sums, self.shares)[here]
        received = self.weights[sample][None] - self.weights[sample][:, None]
        after = self.cost(sums[here][:, None] + received, self.shares[here][:, None])
        gains = cost[:, None] + cost[None] - after - after.T
        gains[here[:, None] == here[None]] = 0.0
        first, second = np.unravel_index(np.argmax(gains), gains.shape)
        return float(gains[first, second]), int(sample[first]), int(sample[second])
