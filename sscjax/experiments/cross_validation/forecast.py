"""What a run will do and how long it will take, before it is started."""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

from sscjax.data.dataset import ImageSet
from sscjax.experiments import data_from_config
from sscjax.experiments.cross_validation import choice, estimate, folds
from sscjax.training import settings as run_settings


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What is known beforehand.

    Attributes:
      reason: how the set will be tested and why, in a sentence; '' where the config says it.
      seconds: of the whole run; None where nothing is known, as of a single split.
    """

    reason: str
    seconds: float | None


def forecast(config: ConfigDict, image_set: ImageSet) -> Forecast:
    """The forecast of a run that is not started yet; its weights are loaded to measure them.

    Args:
      config: of the run, see `configs/default.py`.
      image_set: its images, as `data_from_config.load_images` gives them.

    Raises:
      UserError: these images cannot be split so, or weights that are not available.
    """
    config, reason = choice.resolved(config, image_set)
    settings = run_settings.read(config)
    if settings.protocol == "holdout":
        return Forecast(reason, None)
    image_set = data_from_config.copies_before_split(settings, image_set)
    plan = folds.plan(config, image_set)
    repeats = [fold.repeat for fold in plan]
    measured = estimate.measure(settings, image_set, plan, fallback=False)
    return Forecast(reason, None if measured is None else measured.of_all(repeats))
