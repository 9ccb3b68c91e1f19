"""Normal against systemic sclerosis (early and late together); MobileNetV2, split by subject."""

from ml_collections import ConfigDict

from sscjax.configs import default


def get_config() -> ConfigDict:
    """Two classes out of three labels; tiles as in the paper's study 1."""
    config = default.get_config()
    config.name = "two_class"
    config.data.merge = "early=ssc,late=ssc"
    config.data.ordered = False
    # 521 and 423 tiles make the paper's 1042 and 846 with one copy of each.
    config.data.synthetic.normal = 521
    config.data.synthetic.early = 212
    config.data.synthetic.late = 211
    config.augment.copies = 1
    return config
