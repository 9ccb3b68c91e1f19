"""Three classes and their tissues: MobileNetV2 with an expanding path, from ImageNet weights."""

from ml_collections import ConfigDict

from sscjax.configs import three_class


def get_config() -> ConfigDict:
    """First all that is new, then the last blocks of MobileNetV2 as well."""
    config = three_class.get_config()
    config.name = "mobilenet_unet_three_class"
    config.model.name = "mobilenet_unet"
    config.model.unet_width = 8
    config.model.unet_growth = 2
    config.model.unet_layers = 2
    config.loss.segmentation = 1.0
    config.augment.copies = 0
    # The expanding path starts from random weights: it normalises by the batch, the rest does not.
    config.stages.head.epochs = 8
    config.stages.head.learning_rate = 1e-3
    config.stages.head.batch_norm = "batch"
    config.stages.head.online_augment = True
    config.stages.finetune.epochs = 8
    return config
