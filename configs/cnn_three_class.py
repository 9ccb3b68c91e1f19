"""The CNN baseline on three classes, from random weights, split by subject."""

from ml_collections import ConfigDict

from sscjax.configs import default, three_class


def get_config() -> ConfigDict:
    """One stage that trains everything."""
    config = default.as_cnn(three_class.get_config(), "cnn_three_class", epochs=12)
    config.model.dropout = 0.5
    # The only stage augments online.
    config.augment.copies = 0
    config.stages.train.online_augment = True
    config.stages.train.patience = 4
    return config
