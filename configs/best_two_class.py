"""Normal against systemic sclerosis by the recipe that did best on unseen patients."""

from ml_collections import ConfigDict

from sscjax.configs import best, two_class


def get_config() -> ConfigDict:
    """The two-class run with the best recipe."""
    config = best.best(two_class.get_config())
    config.name = "best_two_class"
    return config
