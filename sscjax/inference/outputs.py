"""What a network outputs for images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

# Images per call: one compiled shape for any number of them.
BATCH = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """What a network gives for N images.

    Attributes:
      probabilities: [N,C] float64, calibrated by the temperature of images, rows sum to 1; a column
        for each of `columns`.
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
