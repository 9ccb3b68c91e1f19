"""JAX's switches: with 64-bit numbers allowed or no implicit promotion a step stays in float32."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sscjax.data.augment import Changes
from sscjax.models import factory
from sscjax.models.init import initial_variables
from sscjax.training import freezing, optimizers, programs, setup, train_step
from sscjax.training.losses import Objective

SIZE, BATCH, MASKS = 32, 8, 3

MODELS = {
    "mobilenet_v2": factory.ModelSettings("mobilenet_v2", alpha=0.35),
    "cnn": factory.ModelSettings("cnn", cnn_widths=(4,)),
    "fd_unet": factory.ModelSettings("fd_unet", unet_depth=1, unet_width=4, unet_layers=1),
    "mobilenet_unet": factory.ModelSettings("mobilenet_unet", alpha=0.35, unet_width=4),
}


def traced(name: str, optimizer: optax.GradientTransformation, by_batch: bool) -> list[Any]:
    """Shapes and types of what a step starts from, of what it gives, and of predictions."""
    settings = MODELS[name]
    masks = MASKS if settings.backbone.predicts_masks else 0
    model: Any = factory.build_model(settings, factory.Task(3, SIZE, masks))
    objective = Objective(
        "softmax",
        label_smoothing=0.1,
        class_weights=(1.0, 2.0, 0.5),
        segmentation=1.0 if masks else 0.0,
        dice=1.0 if masks else 0.0,
        mask_weights=(1.0,) * masks,
    )
    changes = Changes(rot90=True, stain=0.3)
    program = programs.Program(
        model,
        objective,
        setup.make_inputs("imagenet", changes),
        batch_statistics_from=0 if by_batch else None,
        micro_batch=4,
    )
    variables = jax.tree.map(jnp.asarray, initial_variables(model, SIZE, 0))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    labels = dict.fromkeys(params, freezing.TRAIN)
    masked = freezing.freeze_mask(optimizer, labels)
    state = train_step.TrainState(jnp.int32(0), params, batch_stats, masked.init(params))
    epoch = train_step.make_epoch(program, masked, labels)
    stored = np.zeros((2 * BATCH, SIZE, SIZE, 4 if masks else 3), np.uint8)
    arguments = (
        *(stored, np.zeros(2 * BATCH, np.int32), np.zeros((2, BATCH), np.int32)),
        *(np.ones((2, BATCH), np.float32), jax.random.key(0)),
    )
    after = jax.eval_shape(epoch, state, *arguments)
    shown = programs.make_predict(program)
    predicted = jax.eval_shape(shown, params, batch_stats, stored[:BATCH, ..., :3])
    return jax.tree.leaves((jax.eval_shape(lambda: state), after, predicted))


@pytest.mark.parametrize("switch", ["x64", "strict"])
@pytest.mark.parametrize(
    ("name", "rule", "by_batch"),
    [
        ("mobilenet_v2", "adamw", False),
        ("cnn", "sgd", False),
        ("fd_unet", "adamw", True),
        pytest.param("mobilenet_unet", "adamw", True, marks=pytest.mark.exhaustive),
    ],
)
def test_a_step_is_in_float32_whatever_jax_is_set_to(
    name: str, rule: Literal["adamw", "sgd"], by_batch: bool, switch: str
) -> None:
    schedule = optimizers.make_schedule("cosine", 1e-3, steps=20, warmup_steps=4)
    strict = switch == "strict"
    with jax.numpy_dtype_promotion("strict") if strict else jax.enable_x64(True):
        optimizer = optimizers.make_optimizer(rule, schedule, weight_decay=0.1, clip_norm=1.0)
        leaves = traced(name, optimizer, by_batch)
    assert leaves and not [leaf for leaf in leaves if leaf.dtype in (jnp.float64, jnp.int64)]
