"""The CNN of Akay et al. 2021 in its study 2, with the paper's split: compare, do not imitate.

120 epochs, as the paper gives them. The widths of its CNN are in a figure only; these, the
optimizer, its rate and the batch size are ours.
"""

from ml_collections import ConfigDict

from configs import default, paper_three_class


def get_config() -> ConfigDict:
    """The protocol of study 2, with one stage that trains everything."""
    config = paper_three_class.get_config()
    config.name = "paper_cnn_three_class"
    config.model.name = "cnn"
    # One output per class: the text has a softmax.
    config.model.outputs = 0
    config.pretrained = "none"
    config.stage_order = ("train",)
    del config.stages.head, config.stages.finetune
    config.stages.train = default.stage()
    config.stages.train.epochs = 120
    config.stages.train.learning_rate = 3e-4
    return config
