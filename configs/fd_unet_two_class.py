"""The fully dense UNet on two classes, from random weights, split by subject."""

from ml_collections import ConfigDict

from sscjax.configs import default, two_class


def get_config() -> ConfigDict:
    """One stage that trains everything, on images of 64x64 pixels."""
    return default.as_unet(two_class.get_config(), "fd_unet_two_class", epochs=24)
