"""Where a network looks: maps over an image of what spoke for a class.

Grad-CAM (Selvaraju et al. 2017, ICCV, arXiv:1610.02391) weighs each channel of a layer by the mean
of its gradient. HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) multiplies gradient and
activation pixel by pixel: behind its layer a linear classifier, with or without average pooling,
makes the map's sum exactly the class's logit without its bias. Such a map says where a network
found what it answered by, not that this was the right place, nor why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from sscjax import optim, steps
from sscjax.models import Model

Method = Literal["grad_cam", "hires_cam"]

TITLES: dict[Method, str] = {"grad_cam": "Grad-CAM", "hires_cam": "HiResCAM"}

# Images per call: one compiled shape for any number of them.
BATCH = 8


def default_layer(model: Model) -> str:
    """The last layer whose output has a place in the image, pooling left out: it only coarsens."""
    names = model.layer_names[: model.head_start]
    return next(name for name in reversed(names) if not name.startswith("pool"))


def grad_cam(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """Grad-CAM of each image: [B,h,w], 0 or more.

    Args:
      activations: [B,h,w,c] of one layer.
      gradients: [B,h,w,c] of the class's score over them.
    """
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return jnp.maximum((weights * activations).sum(axis=-1), 0.0)


def hires_cam(activations: jax.Array, gradients: jax.Array) -> jax.Array:
    """HiResCAM of each image: [B,h,w]; what speaks against the class is negative.

    Args:
      activations: [B,h,w,c] of one layer.
      gradients: [B,h,w,c] of the class's score over them.
    """
    return (gradients * activations).sum(axis=-1)


_METHODS: dict[Method, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
}


def score_weights(classes: np.ndarray, outputs: int) -> np.ndarray:
    """What each class's score is, as weights of the logits: [N,outputs] float32.

    Args:
      classes: [N] int.
      outputs: logits. A single one speaks for class 1, and turned about for class 0.
    """
    if outputs == 1:
        return np.where(np.asarray(classes) == 1, 1.0, -1.0).astype(np.float32)[:, None]
    return np.eye(outputs, dtype=np.float32)[np.asarray(classes)]


def make_maps(
    model: Model, inputs: steps.Inputs, layer: str = "", method: Method = "grad_cam"
) -> Callable[..., np.ndarray]:
    """A function that draws maps, compiled once.

    Args:
      model: the network.
      inputs: turns stored images into the network's input.
      layer: any layer whose output is [B,h,w,c], by its name; '' takes `default_layer`.
      method: 'grad_cam' or 'hires_cam'.

    Returns:
      f(params, batch_stats, stored [N,...], classes [N]) -> maps [N,h,w] float32 for these
      classes, in which dropout and augmentation have no part.

    Raises:
      ValueError: there is no such layer, or its output has no place in the image.
    """
    layer = layer or default_layer(model)
    if layer not in model.layer_names:
        raise ValueError(
            f"layer {layer!r} is none of the network's: {', '.join(model.layer_names)}"
        )

    @steps.jit
    def maps(
        params: optim.Params, batch_stats: optim.Params, stored: jax.Array, weights: jax.Array
    ) -> jax.Array:
        x = inputs(stored, None)
        variables = {"params": params, "batch_stats": batch_stats}

        def score(shift: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, found = model.apply(
                variables, x, train=False, shift={layer: shift}, capture=(layer,)
            )
            return (logits * weights).sum(), found[layer]

        _, found = jax.eval_shape(
            lambda x: model.apply(variables, x, train=False, capture=(layer,)), x
        )
        shape = found[layer].shape
        if len(shape) != 4:
            raise ValueError(f"layer {layer!r} gives {shape}: expected [B,h,w,c], before pooling")
        gradients, activations = jax.grad(score, has_aux=True)(jnp.zeros(shape))
        return _METHODS[method](activations, gradients)

    def draw(
        params: optim.Params,
        batch_stats: optim.Params,
        stored: np.ndarray,
        classes: np.ndarray,
    ) -> np.ndarray:
        kernel = params["predictions"]["kernel"]
        weights = score_weights(classes, kernel.shape[-1])
        parts = []
        for start in range(0, len(stored), BATCH):
            # The last image fills the batch up; its surplus maps are dropped.
            index = np.minimum(np.arange(start, start + BATCH), len(stored) - 1)
            found = maps(params, batch_stats, jnp.asarray(stored[index]), weights[index])
            parts.append(np.asarray(found)[: len(stored) - start])
        if not parts:
            raise ValueError("no images to explain")
        return np.concatenate(parts)

    return draw
