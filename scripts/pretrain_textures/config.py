"""The bundled backbone: MobileNetV2 1.0 on drawn textures; docs/bundled_backbone.md."""

from __future__ import annotations

from ml_collections import ConfigDict

from .draw import FAMILIES


def get_config() -> ConfigDict:
    """What `train` reads; any field can be set as --config.FIELD=VALUE."""
    config = ConfigDict()
    config.name = "pretrain_textures"
    # Of the initial weights and of every picture.
    config.seed = 0
    # Width multiplier of MobileNetV2.
    config.alpha = 1.0

    # What is drawn: names of families, and how many recipes, which are the classes, of each.
    config.families = tuple(FAMILIES)
    config.recipes = 48

    # Sides in pixels of the pictures, one after the other, and how many are seen of each size.
    # Small ones cost less; structures have the same size in pixels.
    config.sizes = (32, 64)
    config.images = (199_680, 240_000)
    # Textures of every family in a batch, of each size.
    config.each = (4, 2)

    # Of the targets of the recipes.
    config.smoothing = 0.1

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
    # of training that is done, a checkpoint saved, and the backbone written beside it (0: never).
    config.test_images = 512
    config.test_size = 64
    config.test_every = 20_000
    config.save_every = 20_000
    config.keep_every = 20_000
    return config
