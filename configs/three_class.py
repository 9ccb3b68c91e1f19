"""Normal, early and late systemic sclerosis; MobileNetV2 in two stages, split by subject."""

from ml_collections import ConfigDict

from sscjax.configs import default


def get_config() -> ConfigDict:
    """The default, under its own name."""
    config = default.get_config()
    config.name = "three_class"
    return config
