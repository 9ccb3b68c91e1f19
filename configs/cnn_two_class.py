"""The CNN baseline on two classes, from random weights, split by subject."""

from ml_collections import ConfigDict

from sscjax.configs import default, two_class


def get_config() -> ConfigDict:
    """One stage that trains everything."""
    config = default.as_cnn(two_class.get_config(), "cnn_two_class", epochs=12)
    config.model.dropout = 0.5
    # The only stage augments online.
    config.augment.copies = 0
    config.stages.train.online_augment = True
    config.stages.train.patience = 4
    return config
