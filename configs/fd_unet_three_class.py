"""The fully dense UNet on three classes, from random weights, split by subject."""

from ml_collections import ConfigDict

from sscjax.configs import default, three_class


def get_config() -> ConfigDict:
    """One stage that trains everything, on images of 64x64 pixels."""
    return default.as_unet(three_class.get_config(), "fd_unet_three_class", epochs=24)
