"""Where a network's starting weights come from: a file, or random numbers."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from sscjax.models.pretrained import bundled, download, preprocessing
from sscjax.training.network import Weights
from sscjax.training.settings import Settings

_LOG = logging.getLogger(__name__)


def find(settings: Settings, earlier_fallback: bool) -> tuple[Path | None, Weights]:
    """The weight file to load, or None with the reason why the weights stay random.

    Args:
      settings: of a run; its `pretrained`, `pretrained_fallback`, width and size of images.
      earlier_fallback: the run that is resumed could not get ImageNet's weights: it takes what
        replaced them, without looking for them again.

    Returns:
      the file, and what is known of the weights before it is read.

    Raises:
      UserError: the weights are not available, and nothing may replace them.
    """
    random = Weights("random", "config.pretrained is 'none'", "", preprocessing.KERAS)
    alpha = settings.model.alpha
    if settings.pretrained == "none":
        return None, random
    if settings.pretrained == "bundled":
        return bundled.bundled_weights(alpha), random
    if settings.pretrained != "imagenet":
        return Path(settings.pretrained).expanduser(), random
    missing = dataclasses.replace(random, name="no ImageNet weights to be had", fallback=True)
    if earlier_fallback:
        return _replacement(settings), missing
    try:
        return download.imagenet_weights(settings.data.image_size, alpha), random
    except download.WeightsUnavailableError:
        if settings.pretrained_fallback == "error":
            raise
        # The whole error names four ways out; who has not asked for it reads two lines.
        _LOG.warning(
            "no ImageNet weights: they cannot be fetched, and the cache folder has none; connect "
            "once, or name a file by --config.pretrained=FILE "
            "(--config.pretrained_fallback=error says why)"
        )
        path = _replacement(settings)
        if settings.pretrained_fallback == "bundled" and path is None:
            _LOG.warning("the bundled backbone exists for alpha %g only", bundled.ALPHA)
        return path, missing


def _replacement(settings: Settings) -> Path | None:
    """The file in place of ImageNet's; None for random weights.

    Read only where it is needed: a damaged file must not stop runs that have ImageNet's.
    """
    fits = settings.pretrained_fallback == "bundled" and settings.model.alpha == bundled.ALPHA
    return bundled.bundled_weights(bundled.ALPHA) if fits else None
