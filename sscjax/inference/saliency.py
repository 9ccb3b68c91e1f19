"""Where a network looks: maps over an image of what supports a class.

Grad-CAM (Selvaraju et al. 2017, ICCV, arXiv:1610.02391) weighs each channel of a layer by the mean
of its gradient. HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) multiplies gradient and
activation pixel by pixel: behind its layer a linear classifier, with or without average pooling,
makes the map's sum exactly the class's logit without its bias. Such a map shows the regions that
the prediction relied on, not that they were the right ones, nor why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from sscjax.models import Model, base
from sscjax.training import freezing, programs

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
      outputs: logits. A single one is the evidence for class 1, and negated for class 0.
    """
    if outputs == 1:
        return np.where(np.asarray(classes) == 1, 1.0, -1.0).astype(np.float32)[:, None]
    return np.eye(outputs, dtype=np.float32)[np.asarray(classes)]


def check_layer(model: Model, layer: str, image_size: int) -> tuple[int, int]:
    """Height and width of a layer's output.

    Raises:
      ValueError: there is no such layer, or its output has no place in the image.
    """
    if layer not in model.layer_names:
        raise ValueError(
            f"layer {layer!r} is none of the network's: {', '.join(model.layer_names)}"
        )
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    _, found = jax.eval_shape(
        lambda variables, x: model.apply(variables, x, train=False, capture=(layer,)),
        variables,
        image,
    )
    shape = found[layer].shape
    if len(shape) != 4:
        raise ValueError(f"layer {layer!r} gives {shape}: expected [B,h,w,c], before pooling")
    return int(shape[1]), int(shape[2])


def make_maps(
    model: Model, inputs: programs.Inputs, layer: str = "", method: Method = "grad_cam"
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

    @programs.jit
    def maps(
        params: freezing.Params, batch_stats: freezing.Params, stored: jax.Array, weights: jax.Array
    ) -> jax.Array:
        x = inputs(stored, None)
        variables = base.variables(params, batch_stats)

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
        params: freezing.Params,
        batch_stats: freezing.Params,
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


# --- a check on maps ------------------------------------------------------------------------------


def occlusion(
    probabilities: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    classes: np.ndarray,
    *,
    patch: int,
    stride: int,
) -> np.ndarray:
    """How much of a class's probability is lost where a grey patch hides a part of the image.

    Zeiler and Fergus 2014, ECCV, arXiv:1311.2901. It looks into no network, so it can contradict a
    map that does; what is seen in two places, though, is lost by hiding neither.

    Args:
      probabilities: f(uint8 [M,H,W,3]) -> [M,C].
      images: uint8 [N,H,W,3].
      classes: [N] int, whose probability is watched.
      patch: side of the patch in pixels, 1 to the image's; it has the image's mean colour.
      stride: pixels from one patch to the next, 1 or more. The outermost lie at the image's edges.

    Returns:
      [N,h,w] float64, from -1 to 1, a value for the place of each patch; negative where hiding it
      made the class more probable.
    """
    rows, columns = (_places(side, patch, stride) for side in images.shape[1:3])
    found = []
    for image, index in zip(images, classes.tolist(), strict=True):
        # The image itself stands first.
        hidden = np.repeat(image[None], 1 + len(rows) * len(columns), axis=0)
        colour = image.reshape(-1, 3).mean(axis=0).round().astype(np.uint8)
        for k, (top, left) in enumerate((top, left) for top in rows for left in columns):
            hidden[1 + k, top : top + patch, left : left + patch] = colour
        share = probabilities(hidden)[:, index]
        found.append((share[0] - share[1:]).reshape(len(rows), len(columns)))
    return np.array(found, np.float64).reshape(-1, len(rows), len(columns))


def _places(side: int, patch: int, stride: int) -> list[int]:
    """Starts of patches over a side, evenly, from edge to edge."""
    if not 1 <= patch <= side or stride < 1:
        raise ValueError(f"patch {patch} and stride {stride} do not fit {side} pixels")
    count = 1 + math.ceil((side - patch) / stride)
    return np.linspace(0, side - patch, count).round().astype(int).tolist()


def agreement(one: np.ndarray, other: np.ndarray) -> float | None:
    """Rank correlation (Spearman) of two maps of an image; the finer is averaged to the coarser.

    Args:
      one: [h,w].
      other: [h',w'].

    Returns:
      -1 to 1; None where a map is the same everywhere.
    """
    size = tuple(min(pair) for pair in zip(one.shape, other.shape, strict=True))
    ranks = [stats.rankdata(_reduced(part, size).ravel()) for part in (one, other)]
    if any(np.ptp(part) == 0 for part in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def _reduced(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """[h,w] averaged to a smaller size, each cell by what of it lies in the new one."""
    for axis, count in enumerate(size):
        weights = np.zeros((count, values.shape[axis]))
        edges = np.linspace(0, values.shape[axis], count + 1)
        cells = np.arange(values.shape[axis])
        for k in range(count):
            overlap = np.minimum(cells + 1, edges[k + 1]) - np.maximum(cells, edges[k])
            weights[k] = np.maximum(overlap, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        values = np.moveaxis(np.tensordot(weights, values, axes=(1, axis)), 0, axis)
    return values
