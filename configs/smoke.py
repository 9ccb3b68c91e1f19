"""A whole run in under a minute: small images, a narrow network, few epochs. Shows no accuracy."""

from ml_collections import ConfigDict

from sscjax.configs import default


def get_config() -> ConfigDict:
    """Everything that a run does, on 96 tiles of 32x32 pixels."""
    config = default.get_config()
    config.name = "smoke"
    config.data.image_size = 32
    config.data.synthetic.normal = 48
    config.data.synthetic.early = 24
    config.data.synthetic.late = 24
    config.data.synthetic.normal_subjects = 8
    config.data.synthetic.early_subjects = 8
    config.data.synthetic.late_subjects = 8
    config.augment.copies = 1
    config.model.alpha = 0.35
    config.pretrained = "none"
    config.batch_size = 16
    config.stages.head.epochs = 3
    config.stages.finetune.epochs = 2
    # Only the last blocks train: the step compiles sooner.
    config.stages.finetune.freeze_first = 133
    config.stages.finetune.online_augment = False
    return config
