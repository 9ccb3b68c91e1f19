"""The CNN of Akay et al. 2021 in its study 2, with the paper's split: compare, do not imitate.

120 epochs, as the paper gives them. The widths of its CNN are in a figure only; these, the
optimizer, its rate and the batch size are ours.
"""

from ml_collections import ConfigDict

from sscjax.configs import default, paper_three_class


def get_config() -> ConfigDict:
    """The design of study 2, with one stage that trains everything."""
    config = default.as_cnn(paper_three_class.get_config(), "paper_cnn_three_class", epochs=120)
    # One output per class: the text has a softmax.
    config.model.outputs = 0
    return config
