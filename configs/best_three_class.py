"""Three ordered classes by the recipe that did best on unseen patients; docs/results.md."""

from ml_collections import ConfigDict

from sscjax.configs import best, default


def get_config() -> ConfigDict:
    """The default with the best recipe."""
    config = best.best(default.get_config())
    config.name = "best_three_class"
    return config
