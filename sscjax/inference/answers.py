"""What a network says of images, and the rules by which a class is made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

# Images per call: one compiled shape for any number of them.
BATCH = 32


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is made of probabilities, as chosen on the run's validation images.

    Attributes:
      temperature: the logits are divided by it.
      threshold: a probability of disease from here on is called positive; disease is every class
        but the first.
      positive, negative: what the two answers are called.
      threshold_rule: how the threshold was chosen, for people.
      least_confidence: below it no answer is given; None where no such limit could be chosen.
      abstention_rule: how that was chosen, for people.
    """

    temperature: float
    threshold: float
    positive: str
    negative: str
    threshold_rule: str
    least_confidence: float | None
    abstention_rule: str


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What a network says of N images.

    Attributes:
      probabilities: [N,C] float64, calibrated, rows sum to 1; a column for each of `columns`.
      distances: [N] float64, how unlike the training images each is; about 1 is like them.
      masks: [N,image_size,image_size] uint8, the most probable mask class of each pixel; None of a
        network without masks.
    """

    probabilities: np.ndarray
    distances: np.ndarray
    masks: np.ndarray | None = None

    @classmethod
    def join(cls, parts: Iterable[Answers]) -> Answers:
        """Several as one, in their order."""
        found = list(parts)
        masks = [one.masks for one in found if one.masks is not None]
        return cls(
            np.concatenate([one.probabilities for one in found]),
            np.concatenate([one.distances for one in found]),
            np.concatenate(masks) if masks else None,
        )
