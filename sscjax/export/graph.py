"""A run's network with nothing left to train: plain operations on plain arrays.

Every format is written from this one description: BatchNorm is folded into the kernels, padding is
in pixels, and what follows the logits (temperature, distance, maps) is given as arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from sscjax.errors import UserError
from sscjax.inference.classifier import Classifier
from sscjax.models import CNN, MASK, FDUNet, MobileNetV2
from sscjax.models.ops import elementwise
from sscjax.models.pretrained import preprocessing

Kind = Literal[
    "conv",
    "transpose",
    "relu",
    "relu6",
    "add",
    "concat",
    "max_pool",
    "pool",
    "flatten",
    "dense",
]

INPUT = "pixels"


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One step of the network; it is fed the output of the one before it.

    Attributes:
      name: the model's layer whose output this is.
      kind: 'conv', 'transpose' (transposed 2x2 convolution of stride 2: [N,h,w,C] to
        [N,2h,2w,D]), 'relu' (max(x,0)), 'relu6' (clip to 0..6), 'add' (of an earlier output),
        'concat' (an earlier output's channels before these), 'max_pool' (2x2, stride 2, an odd last
        row or column left out), 'pool' (the mean over space of each of several outputs [N,h,w,C],
        one beside the other), 'flatten' ([N,h,w,C] to [N,h*w*C], channels last) or 'dense'.
      kernel: of 'conv' [K,K,C/groups,D], of 'transpose' [2,2,C,D] (the first two say which of the
        four pixels), of 'dense' [C,D], float32.
      bias: [D] float32.
      stride: of 'conv', on both axes.
      padding: zeros that 'conv' adds (top, left, bottom, right), in pixels.
      groups: of 'conv': 1, or one per channel.
      other: of 'add', the operation whose output is added; of 'concat', whose channels are first.
      reads: of 'pool', the operations whose outputs are pooled, in order.
    """

    name: str
    kind: Kind
    kernel: np.ndarray | None = None
    bias: np.ndarray | None = None
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    other: str = ""
    reads: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """What one output adds to the maps: `up @ (output @ kernel) @ up.T`, for each class.

    Attributes:
      name: of the operation, whose output is [N,s,s,D].
      kernel: [D,C] float32.
      up: [S,s] float32, bilinear interpolation to the side of the maps; None where that is s.
    """

    name: str
    kernel: np.ndarray
    up: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Everything numeric that an exported file holds: the network after folding, and its rules.

    Attributes:
      image_size: side S of the images in pixels.
      scale, shift: [3] float32; the network is fed uint8 pixels * scale + shift.
      operations: from there to logits [N,C], whose softmax is the probability. A single sigmoid has
        become two columns, -x/2 and x/2, with the same probabilities.
      temperature: the logarithms of the probabilities, not below those of `LEAST`, are divided by
        it, and their softmax is taken: see `calibration.calibrate`.
      trunk: the last operation whose output has a height and a width.
      features: the operation whose output, averaged over space where it has a height and a width,
        the detector reads.
      masks: the operation whose output [N,S,S,M] are the logits of masks; '' without masks.
      maps: what adds up to HiResCAM of each class (see `saliency.hires_cam`) over the outputs that
        the classifier reads; () where the logits are not linear in their means.
      mean, components, variances, noise: of the detector, see `ood.Detector`.
    """

    image_size: int
    scale: np.ndarray
    shift: np.ndarray
    operations: tuple[Operation, ...]
    temperature: float
    trunk: str
    features: str
    masks: str
    maps: tuple[Evidence, ...]
    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    noise: float


# As `calibration` does: float32 keeps less than this imprecisely, or as 0.
LEAST = float(np.finfo(np.float32).tiny)


def from_classifier(opened: Classifier) -> Graph:
    """Fold and flatten the network of an opened run."""
    model = opened.model
    params = model.fold(opened.params, opened.batch_stats, len(model.layer_names))
    if isinstance(model, MobileNetV2):
        operations = _mobilenet_v2(model, params, opened.image_size)
    elif isinstance(model, CNN):
        operations = _cnn(model, params)
    elif not isinstance(model, FDUNet):
        raise UserError(
            f"a {type(model).__name__} cannot be exported: expected a run with mobilenet_v2, cnn, "
            "fd_unet or mobilenet_unet; `sscjax predict` runs this one"
        )
    else:
        operations = _unet(model, params, opened.image_size)
    trunk = model.layer_names[model.head_start - 1]
    logits, maps = operations[-1], _evidence(operations, opened.image_size)
    if opened.program.objective.kind == "sigmoid":
        assert logits.kernel is not None and logits.bias is not None
        kernel, bias = (_two_columns(part) / np.float32(2) for part in (logits.kernel, logits.bias))
        operations[-1] = dataclasses.replace(logits, kernel=kernel, bias=bias)
    scale, shift = _scaling(opened.scaling)
    detector = opened.detector
    return Graph(
        image_size=opened.image_size,
        scale=scale,
        shift=shift,
        operations=tuple(operations),
        temperature=opened.rules.image.temperature,
        trunk=trunk,
        features=model.layer_names[model.features_end - 1],
        masks=MASK if opened.mask_classes else "",
        maps=maps,
        mean=np.asarray(detector.mean, np.float32),
        components=np.asarray(detector.components, np.float32),
        variances=np.asarray(detector.variances, np.float32),
        noise=float(detector.noise),
    )


def _evidence(operations: Sequence[Operation], size: int) -> tuple[Evidence, ...]:
    """Of each pooled output the gradient of the logits with respect to its pixels.

    The maps have the side of the largest. The evidence in a pixel of a smaller one is spread over
    the pixels that it covers, so that a map still sums to its logit, but for the bias.
    """
    pool, logits = operations[-2:]
    if pool.kind != "pool":
        return ()
    assert logits.kernel is not None
    kernel = _two_columns(logits.kernel)
    sides_of, widths = sides(operations, size), channels(operations)
    largest = max(sides_of[name] for name in pool.reads)
    ends = np.cumsum([widths[name] for name in pool.reads])
    parts = np.split(kernel / np.float32(largest * largest), ends[:-1])
    return tuple(
        Evidence(
            name, part, None if sides_of[name] == largest else bilinear(sides_of[name], largest)
        )
        for name, part in zip(pool.reads, parts, strict=True)
    )


def bilinear(few: int, many: int) -> np.ndarray:
    """[many,few] float32: interpolation between the centres of pixels, level beyond the last."""
    positions = np.clip((np.arange(many) + 0.5) * few / many - 0.5, 0, few - 1)
    weights = np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(few)[None]))
    return weights.astype(np.float32)


def _two_columns(weights: np.ndarray) -> np.ndarray:
    """[...,1] of a single logit as [...,2], against class 1 and for it; others as they are."""
    return np.concatenate([-weights, weights], axis=-1) if weights.shape[-1] == 1 else weights


def _scaling(name: preprocessing.Scaling) -> tuple[np.ndarray, np.ndarray]:
    """Factor and summand [3] of what `preprocessing.preprocess` does: it is linear."""
    ends = np.array([[0.0] * 3, [255.0] * 3])
    low, high = preprocessing.preprocess(ends, name).astype(np.float64)
    return ((high - low) / 255.0).astype(np.float32), low.astype(np.float32)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


def _mobilenet_v2(model: MobileNetV2, params: dict[str, Any], size: int) -> list[Operation]:
    """Convolution and BatchNorm are one operation, named as the latter; `size` in pixels."""
    stack, operations = model.layers, list[Operation]()
    starts = {*model.block_ends, model.layer_names.index("Conv1_relu") + 1}
    last = shortcut = INPUT
    for index, layer in enumerate(stack):
        if index in starts:
            shortcut = last
        if layer.kind in ("conv", "depthwise"):
            norm = stack[index + 1]
            before, after = elementwise.pad_amounts(size, layer.kernel, layer.stride, model.padding)
            operations.append(
                Operation(
                    norm.name,
                    "conv",
                    _array(params[layer.name]["kernel"]),
                    _array(params[norm.name]["bias"]),
                    layer.stride,
                    (before, before, after, after),
                    layer.channels if layer.kind == "depthwise" else 1,
                )
            )
            size = (size + before + after - layer.kernel) // layer.stride + 1
        elif layer.kind == "relu6":
            operations.append(Operation(layer.name, "relu6"))
        elif layer.kind == "add":
            operations.append(Operation(layer.name, "add", other=shortcut))
        elif layer.kind == "pool":
            operations.append(Operation(layer.name, "pool", reads=model.read_layers))
        elif layer.kind == "dense":
            operations.append(_dense(layer.name, params))
        last = operations[-1].name if operations else INPUT
    return operations


def _cnn(model: CNN, params: dict[str, Any]) -> list[Operation]:
    operations = []
    for name in model.layer_names:
        if name.endswith("_relu"):
            operations.append(Operation(name, "relu"))
        elif name.startswith("conv"):
            arrays = params[name]
            operations.append(
                Operation(name, "conv", _array(arrays["kernel"]), _array(arrays["bias"]))
            )
        elif name.startswith("pool"):
            operations.append(Operation(name, "max_pool"))
        elif name == "flatten":
            operations.append(Operation(name, "flatten"))
        elif not name.startswith("dropout"):
            operations.append(_dense(name, params))
    return operations


def _unet(model: FDUNet, params: dict[str, Any], size: int) -> list[Operation]:
    """As `_mobilenet_v2`; the masks' logits are an operation whose output no other reads."""
    stack, operations = model.layers, list[Operation]()
    renamed = {"": INPUT}  # layers that are part of the operation after or before them
    last = INPUT
    for index, layer in enumerate(stack):
        name, kernel = layer.name, params.get(layer.name, {}).get("kernel")
        if layer.kind in ("conv", "depthwise", "transpose", "mask"):
            norm = name if layer.kind == "mask" else stack[index + 1].name
            amounts = (0, 0)
            if layer.kind in ("conv", "depthwise"):
                amounts = elementwise.pad_amounts(size, layer.kernel, layer.stride, model.padding)
                size = (size + sum(amounts) - layer.kernel) // layer.stride + 1
            elif layer.kind == "transpose":
                size *= 2
            operations.append(
                Operation(
                    norm,
                    "transpose" if layer.kind == "transpose" else "conv",
                    _array(kernel),
                    _array(params[norm]["bias"]),
                    layer.stride,
                    (amounts[0], amounts[0], amounts[1], amounts[1]),
                    layer.channels if layer.kind == "depthwise" else 1,
                )
            )
        elif layer.kind in ("relu", "relu6"):
            operations.append(Operation(name, layer.kind))
        elif layer.kind in ("add", "concat"):
            operations.append(Operation(name, layer.kind, other=renamed[layer.joins]))
        elif layer.kind == "max_pool":
            operations.append(Operation(name, "max_pool"))
            size //= 2
        elif layer.kind == "pool":
            reads = renamed[layer.joins] if layer.joins else last
            operations.append(Operation(name, "pool", reads=(reads,)))
        elif layer.kind == "dense":
            operations.append(_dense(name, params))
        if layer.kind != "mask":
            last = operations[-1].name if operations else INPUT
        renamed[name] = last
    return operations


def _dense(name: str, params: dict[str, Any]) -> Operation:
    return Operation(name, "dense", _array(params[name]["kernel"]), _array(params[name]["bias"]))


def channels(operations: Sequence[Operation]) -> dict[str, int]:
    """Of each output that has a height and a width."""
    counts, last = dict[str, int](), 3
    for operation in operations:
        if operation.kind in ("conv", "transpose"):
            assert operation.bias is not None
            last = len(operation.bias)
        elif operation.kind == "concat":
            last += counts[operation.other]
        counts[operation.name] = last
    return counts


def sides(operations: Sequence[Operation], size: int) -> dict[str, int]:
    """Height, which is the width, in pixels, of each output that has them.

    Args:
      operations: of a network.
      size: of its images.
    """
    lengths: dict[str, int] = {}
    for operation in operations:
        if operation.kind in ("pool", "flatten"):
            break
        if operation.kind == "conv":
            assert operation.kernel is not None
            size = (
                size + operation.padding[0] + operation.padding[2] - len(operation.kernel)
            ) // operation.stride + 1
        elif operation.kind == "max_pool":
            size //= 2
        elif operation.kind == "transpose":
            size *= 2
        lengths[operation.name] = size
    return lengths
