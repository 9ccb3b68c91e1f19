"""What a run's metrics.json, pictures and report are made of."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Summary:
    """Figures, rules and warnings of a run.

    Attributes:
      chosen: the stage whose model the run ends with.
      by_stage: figures of each stage by split, of the probabilities that its network gave.
      stage_intervals: intervals of the test figures of each stage.
      figures: figures of the chosen stage by split, of calibrated probabilities.
      intervals: intervals of its test figures.
      tested: how many were tested and how many were right, see `tested.about`; None without a test.
      calibration: calibration.json.
      warnings: what a reader must know before any figure.
      masks: figures of the masks by split; None without masks.
      out_of_fold: as `figures`, of out-of-fold predictions of the training images; None where there
        are none.
      held_out_by_stage: of each stage the figures of the rows that chose between stages, of the
        probabilities that its networks gave; None where there are none.
      by_site: test figures of each site; {} where no site is known.
    """

    chosen: str
    by_stage: dict[str, Any]
    stage_intervals: dict[str, Any]
    figures: dict[str, Any]
    intervals: dict[str, Any]
    tested: dict[str, Any] | None
    calibration: dict[str, Any]
    warnings: list[str]
    masks: dict[str, Any] | None
    out_of_fold: dict[str, Any] | None
    held_out_by_stage: dict[str, dict[str, Any] | None]
    by_site: dict[str, Any]
