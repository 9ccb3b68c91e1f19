"""Study 1 of Akay et al. 2021 to the letter, its leak included: compare, do not imitate.

1042 normal and 846 SSc images after augmentation, split by image afterwards, so that copies of
one biopsy stand in training and in test. One sigmoid output. No weight is frozen in stage 2 (its
34,112 frozen parameters are the BatchNorm running averages).

The paper names no optimizer, learning rate, batch size or dropout: they are ours.
"""

from ml_collections import ConfigDict

from sscjax.configs import two_class


def get_config() -> ConfigDict:
    """The design of study 1."""
    config = two_class.get_config()
    config.name = "paper_two_class"
    config.split.by = "image"
    # Copies of one image stand in several splits: that is the point.
    config.audit.on_leakage = "report"
    config.split.counts = "normal:834/104/104,ssc:678/84/84"
    config.augment.copies = 0
    config.augment.counts_before_split = "normal:1042,ssc:846"
    config.model.outputs = 1
    config.model.dropout = 0.0
    config.loss.class_weights = "none"
    # Without ImageNet weights it would be another study.
    config.pretrained_fallback = "error"
    config.select.metric = "none"
    config.select.stage = "last"
    config.stages.head.epochs = 100
    # Ends at epoch 150 in all.
    config.stages.finetune.epochs = 50
    config.stages.finetune.freeze_first = 0
    config.stages.finetune.schedule = "constant"
    config.stages.finetune.warmup_epochs = 0.0
    config.stages.finetune.online_augment = False
    return config
