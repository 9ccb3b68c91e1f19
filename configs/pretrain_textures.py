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

    # Sides in pixels of the pictures, one after the other, and how many are seen of each size (may
    # be changed for sizes that a training under way has not finished, until its learning rate
    # falls). Small ones cost less; structures have the same size in pixels.
    config.sizes = (32, 64)
    config.images = (199_680, 240_000)
    # A batch has so many groups, over each of which BatchNorm takes its statistics, and a group so
    # many textures of every family (of each size: small pictures give BatchNorm less to average),
    # each in so many looks.
    config.groups = 1
    config.each = (4, 2)
    config.looks = 1

    # Weights of the losses: which recipe; which family; which parameters; two looks of a texture
    # alike (VICReg, needs looks=2).
    config.loss = ConfigDict()
    config.loss.classes = 1.0
    config.loss.families = 1.0
    config.loss.parameters = 1.0
    config.loss.similarity = 0.0
    config.loss.smoothing = 0.1

    # AdamW (Loshchilov and Hutter 2019). The rate rises over so many pictures, and falls to 0 over
    # the last share of all.
    config.learning_rate = 1.5e-3
    config.warmup = 12_800
    config.cooldown = 0.3
    config.weight_decay = 0.05
    # Gradients are scaled down to this norm.
    config.clip = 1.0
    # Shares of the old kept: of BatchNorm's running averages, and of the averaged weights, which
    # are the result.
    config.bn_momentum = 0.99
    config.average = 0.998

    # Pictures of fresh draws that the averaged weights are tested on, and after how many pictures
    # of training that is done, a checkpoint saved, and the backbone kept.
    config.test_images = 512
    config.test_size = 64
    config.test_every = 20_000
    config.save_every = 20_000
    config.keep_every = 20_000
    return config
