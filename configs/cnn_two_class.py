"""The CNN baseline on two classes, from random weights, split by subject."""

from ml_collections import ConfigDict

from configs import default, two_class


def get_config() -> ConfigDict:
    """One stage that trains everything."""
    config = two_class.get_config()
    config.name = "cnn_two_class"
    config.model.name = "cnn"
    config.model.dropout = 0.5
    config.pretrained = "none"
    # The only stage augments on line.
    config.augment.copies = 0
    config.micro_batch = 8
    config.stage_order = ("train",)
    del config.stages.head, config.stages.finetune
    config.stages.train = default.stage()
    config.stages.train.epochs = 12
    config.stages.train.online_augment = True
    config.stages.train.learning_rate = 3e-4
    config.stages.train.patience = 4
    return config
