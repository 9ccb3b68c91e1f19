"""What the model of a finished run makes of the images, kept by its stage or computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import random_weights

from sscjax.data import lazy
from sscjax.data.dataset import Images, ImageSet
from sscjax.experiments import final_model
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.training import frozen_features, losses, programs, setup

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

MODEL = MobileNetV2(outputs=3, alpha=0.35, feature_layers=("block_1_expand_relu", "out_relu"))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
SCALING: Literal["minus_one_one"] = "minus_one_one"


def _images() -> Images:
    subjects = np.array(list("aabbcc"))
    labels = np.array([0, 0, 1, 1, 2, 2], np.int32)
    files = np.array(list("123456"))
    image_set = ImageSet(PIXELS, labels, subjects, files, ("x", "y", "z"))
    splits = np.array(["train"] * 4 + ["test"] * 2)
    return Images(image_set, splits, image_set, False, "subject", True)


def test_features_that_the_stage_kept_are_those_computed_again(tmp_path: Path) -> None:
    variables = random_weights.draw(MODEL, 32)
    program = programs.Program(
        MODEL, losses.Objective("softmax"), setup.make_inputs(SCALING), micro_batch=2
    )
    model = final_model.FinalModel(program, variables, SCALING, batch_size=4, seed=0)
    store = frozen_features.Store(tmp_path, 1e9)
    images = _images()
    computed = model.features(images, store)
    assert not list(tmp_path.glob("*.npy"))  # of a model of this run alone nothing is kept
    key = frozen_features.key(
        program,
        MODEL.features_end,
        variables["params"],
        variables["batch_stats"],
        images=lazy.fingerprint(PIXELS),
        scaling=SCALING,
        batch_size=4,
    )
    rows = frozen_features.compute(
        program,
        MODEL.features_end,
        variables["params"],
        variables["batch_stats"],
        PIXELS,
        batch_size=4,
        progress=lambda count: None,
        entry=store.entry(key, held=True),
    )
    kept = np.asarray(rows)
    np.testing.assert_array_equal(computed.images, kept)
    # Were they computed again, other numbers in the file would change nothing.
    [path] = tmp_path.glob("*.npy")
    with lazy.create(path, kept.shape, np.float32) as file:
        file[:] = kept + 1
    np.testing.assert_array_equal(model.features(images, store).images, kept + 1)
