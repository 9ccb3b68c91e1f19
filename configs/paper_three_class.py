"""Study 2 of Akay et al. 2021 to the letter, its leak included: compare, do not imitate.

1041 normal, 423 early and 423 late images after augmentation, split by image afterwards. Four
outputs for three classes, as its count of 2,263,108 parameters shows. The first ten Keras layers
are frozen in stage 2.

The paper names no optimizer, learning rate, batch size or dropout: they are ours.
"""

from ml_collections import ConfigDict

from sscjax.configs import three_class


def get_config() -> ConfigDict:
    """The design of study 2."""
    config = three_class.get_config()
    config.name = "paper_three_class"
    config.split.by = "image"
    # Copies of one image stand in several splits: that is the point.
    config.audit.on_leakage = "report"
    # The paper gives 334+344 training, 40+40 validation and 49+39 test images.
    config.split.counts = "normal:834/103/104,early:334/40/49,late:344/40/39"
    config.augment.copies = 0
    config.augment.counts_before_split = "normal:1041,early:423,late:423"
    config.model.outputs = 4
    config.model.dropout = 0.0
    config.loss.class_weights = "none"
    # Without ImageNet weights it would be another study.
    config.pretrained_fallback = "error"
    config.select.metric = "none"
    config.select.stage = "last"
    config.stages.head.epochs = 200
    # The paper gives no number for stage 2 of this study: study 1's.
    config.stages.finetune.epochs = 50
    config.stages.finetune.schedule = "constant"
    config.stages.finetune.warmup_epochs = 0.0
    config.stages.finetune.online_augment = False
    return config
