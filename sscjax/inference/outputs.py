"""What a network outputs for images, and the rules that turn it into decisions."""

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
      positive, negative: names of the two results of that threshold.
      threshold_rule: how the threshold was chosen, for people.
      confidence_threshold: 0 to 1; below it the classifier abstains; None: none could be chosen.
      abstention_rule: how that was chosen, for people.
    """

    temperature: float
    threshold: float
    positive: str
    negative: str
    threshold_rule: str
    confidence_threshold: float | None
    abstention_rule: str


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gives for N images.

    Attributes:
      probabilities: [N,C] float64, calibrated, rows sum to 1; a column for each of `columns`.
      distances: [N] float64, 0 or more, see `ood.Detector`; about 1 is like the training images.
      masks: [N,image_size,image_size] uint8, the most probable mask class of each pixel; None of a
        network without masks.
    """

    probabilities: np.ndarray
    distances: np.ndarray
    masks: np.ndarray | None = None

    @classmethod
    def join(cls, parts: Iterable[Outputs]) -> Outputs:
        """Several as one, in their order."""
        joined = list(parts)
        masks = [part.masks for part in joined if part.masks is not None]
        return cls(
            np.concatenate([part.probabilities for part in joined]),
            np.concatenate([part.distances for part in joined]),
            np.concatenate(masks) if masks else None,
        )
