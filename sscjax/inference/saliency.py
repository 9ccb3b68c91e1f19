"""Where a network looks: maps over an image of what supports a class.

Grad-CAM (Selvaraju et al. 2017, ICCV, arXiv:1610.02391) weighs each channel of a layer by the mean
of its gradient. HiResCAM (Draelos and Carin 2020, arXiv:2011.08891) multiplies gradient and
activation pixel by pixel: behind its layer a linear classifier, with or without average pooling,
makes the map's sum exactly the class's logit without its bias. Such a map shows the regions that
the prediction relied on, not that they were the right ones, nor why.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from sscjax.evaluation.map_check import Method as Method
from sscjax.models import Model, base
from sscjax.training import freezing, programs

TITLES: dict[Method, str] = {"grad_cam": "Grad-CAM", "hires_cam": "HiResCAM"}

# Images per call: one compiled shape for any number of them.
BATCH = 8


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


class Drawing:
    """Draws maps of a network, compiled once; its logits come from the same program.

    Args:
      model: the network.
      inputs: turns stored images into the network's input.
      layers: one layer whose output is [B,h,w,c], by its name; or all that the classifier reads,
        which () takes, see `Model.read_layers`.
      method: 'hires_cam' or 'grad_cam'. Of several layers each map is enlarged to the largest, and
        they are added: with 'hires_cam' the sum is still the class's logit without its bias.

    Raises:
      ValueError: there is no such layer, its output has no place in the image, or several are
        named that are not those that the classifier reads.
    """

    def __init__(
        self,
        model: Model,
        inputs: programs.Inputs,
        layers: Sequence[str] = (),
        method: Method = "hires_cam",
    ) -> None:
        self.layers = tuple(layers) or model.read_layers
        for layer in self.layers:
            if layer not in model.layer_names:
                raise ValueError(
                    f"layer {layer!r} is none of the network's: {', '.join(model.layer_names)}"
                )
        if len(self.layers) > 1 and self.layers != model.read_layers:
            raise ValueError(
                f"layers {self.layers}: expected one, or those that the classifier reads, "
                f"{model.read_layers}"
            )
        several = len(self.layers) > 1
        evidence = _of_pooled if several else _of_one
        self._run = programs.jit(functools.partial(evidence, model, inputs, self.layers, method))

    def __call__(
        self, params: freezing.Params, batch_stats: freezing.Params, stored: Any, classes: Any
    ) -> np.ndarray:
        """Maps [N,h,w] float32 of images stored [N,...] for classes [N].

        Dropout and augmentation have no part in them.
        """
        outputs = params["predictions"]["kernel"].shape[-1]
        return self._batches(params, batch_stats, stored, score_weights(classes, outputs))[0]

    def logits(
        self, params: freezing.Params, batch_stats: freezing.Params, stored: Any
    ) -> np.ndarray:
        """Logits [N,outputs] float32 of images stored [N,...]."""
        outputs = params["predictions"]["kernel"].shape[-1]
        nothing = np.zeros((len(stored), outputs), np.float32)
        return self._batches(params, batch_stats, stored, nothing)[1]

    def _batches(
        self, params: Any, batch_stats: Any, stored: Any, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        if not len(stored):
            raise ValueError("no images to explain")
        maps: list[np.ndarray] = []
        logits: list[np.ndarray] = []
        for start in range(0, len(stored), BATCH):
            # The last image fills the batch up; its surplus maps are dropped.
            index = np.minimum(np.arange(start, start + BATCH), len(stored) - 1)
            of_batch = self._run(params, batch_stats, jnp.asarray(stored[index]), weights[index])
            for parts, part in zip((maps, logits), of_batch, strict=True):
                parts.append(np.asarray(part)[: len(stored) - start])
        return np.concatenate(maps), np.concatenate(logits)


def _of_one(
    model: Model,
    inputs: programs.Inputs,
    layers: tuple[str, ...],
    method: Method,
    params: freezing.Params,
    batch_stats: freezing.Params,
    stored: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Maps [B,h,w] by the whole gradient of a layer's output, and logits."""
    [layer] = layers
    x, variables = inputs(stored, None), base.variables(params, batch_stats)

    def score(shift: jax.Array | None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        shifts = {} if shift is None else {layer: shift}
        logits, seen = model.apply(variables, x, train=False, shift=shifts, capture=(layer,))
        return (logits * weights).sum(), (seen[layer], logits)

    shape = jax.eval_shape(lambda: score(None))[1][0].shape
    if len(shape) != 4:
        raise ValueError(f"layer {layer!r} gives {shape}: expected [B,h,w,c], before pooling")
    gradients, (activations, logits) = jax.grad(score, has_aux=True)(jnp.zeros(shape))
    return _METHODS[method](activations, gradients), logits


def _of_pooled(
    model: Model,
    inputs: programs.Inputs,
    layers: tuple[str, ...],
    method: Method,
    params: freezing.Params,
    batch_stats: freezing.Params,
    stored: jax.Array,
    weights: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Maps [B,h,w] of all pooled layers, and logits.

    An early layer's output also reaches the classifier through the later ones. That evidence is in
    their maps: here a layer has the gradient of its own mean alone.
    """
    pool = model.layer_names[model.features_end - 1]
    x, variables = inputs(stored, None), base.variables(params, batch_stats)

    def score(shift: jax.Array | None) -> tuple[jax.Array, tuple[dict[str, Any], jax.Array]]:
        shifts = {} if shift is None else {pool: shift}
        logits, seen = model.apply(variables, x, train=False, shift=shifts, capture=(*layers, pool))
        return (logits * weights).sum(), (seen, logits)

    features = jax.eval_shape(lambda: score(None))[1][0][pool]
    gradients, (seen, logits) = jax.grad(score, has_aux=True)(jnp.zeros(features.shape))
    largest = max(seen[name].shape[1:3] for name in layers)
    ends = np.cumsum([seen[name].shape[-1] for name in layers])[:-1]
    total = jnp.zeros(())
    for name, part in zip(layers, jnp.split(gradients, ends, axis=-1), strict=True):
        activations = seen[name]
        # The gradient of a mean is the same for all its pixels.
        spread = jnp.broadcast_to(part[:, None, None], activations.shape) / math.prod(largest)
        evidence = _METHODS[method](activations, spread)
        total += jax.image.resize(evidence, (len(evidence), *largest), "linear")
    return total, logits


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
