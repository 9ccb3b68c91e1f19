"""The bundled backbone: MobileNetV2 1.0 on drawn textures; docs/bundled_backbone.md."""

from ml_collections import ConfigDict

from sscjax.textures.draw import FAMILIES


def get_config() -> ConfigDict:
    """What `python -m sscjax.pretrain` reads."""
    config = ConfigDict()
    config.name = "pretrain_textures"
    # Of the initial weights and of every picture.
    config.seed = 0
    # Width multiplier of MobileNetV2.
    config.alpha = 1.0

    # What is drawn: names of families (leave one out to see what it brings) ...
    config.families = tuple(FAMILIES)
    # ... and how many recipes, which are the classes, of each.
    config.recipes = 48

    # Pictures seen in all, and the sides in pixels that they have, one after the other, with the
    # share of the pictures at each. Small ones cost less; structures have the same size in pixels.
    config.images = 500_000
    config.sizes = (64,)
    config.shares = (1.0,)
    # A batch has so many groups, over each of which BatchNorm takes its statistics, and a group so
    # many textures of every family, each in so many looks. On a GPU one large group is quickest:
    # --config.groups=1 --config.each=16.
    config.groups = 4
    config.each = 1
    config.looks = 1

    # Weights of the losses: which recipe; which parameters; two looks of a texture alike (VICReg,
    # needs looks=2).
    config.loss = ConfigDict()
    config.loss.classes = 1.0
    config.loss.parameters = 1.0
    config.loss.similarity = 0.0
    config.loss.smoothing = 0.1

    # AdamW (Loshchilov and Hutter 2019), a warm-up over this share of the steps, then a cosine.
    config.learning_rate = 2e-3
    config.warmup = 0.03
    config.weight_decay = 0.05
    # Gradients are scaled down to this norm.
    config.clip = 1.0
    # Shares of the old kept: of BatchNorm's running averages, and of the averaged weights, which
    # are the result.
    config.bn_momentum = 0.99
    config.average = 0.999

    # Pictures of fresh draws that the averaged weights are tested on, and after how many pictures
    # of training that is done, a checkpoint saved, and the backbone kept.
    config.test_images = 1024
    config.test_every = 25_600
    config.save_every = 25_600
    config.keep_every = 51_200
    return config
