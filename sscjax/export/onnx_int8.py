"""A run as an ONNX file with 8-bit weights and activations: a third of the size, other answers.

Static quantisation by onnxruntime, calibrated on training images of the run and measured on its
test images. Four things keep MobileNetV2, which quantises badly, near to itself: a scale for each
output channel; 7 bits of each weight, because on processors with AVX2 alone sums of two products
with all 8 overflow 16 bits; biases that restore the mean of every channel (Nagel et al. 2019, ICCV,
arXiv:1906.04721, section 4.2, here measured on images); and first layers that stay in float32: they
hold few weights, and their activations have the widest ranges.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sscjax.export import apply, check, frozen, images, metadata, onnx_file
from sscjax.export.check import Outcome, Wish
from sscjax.export.frozen import Frozen
from sscjax.trained import Trained

# Training images that ranges and biases come from, and test images that are measured.
CALIBRATION, MEASURED = 128, 2000

# Bytes of earlier outputs that may be kept while weights are rounded; fewer images are taken then.
MOST_KEPT = 2e9

# First layers stay in float32 as long as they hold together no more than this share of the weights.
FLOAT_SHARE = 0.02

# Of a weight: -64 to 64, as onnxruntime's `reduce_range` has it.
LEVELS = 64

_BATCH = 16

# What onnxruntime's own preparation leaves behind; all that it does is done here: shapes are known
# and BatchNorm is folded.
_PREPARED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def write(opened: Trained, place: Path, wish: Wish) -> Outcome:
    """Write the 8-bit file and measure it; arguments and errors as of `onnx_file`.

    The metadata has one key more than `metadata.metadata` says: quantised, with weight_bits,
    activation_bits, float32 (operations left as they were), calibrated_on (training images) and
    measured: what `check.Agreement.as_json` gives.
    """
    onnx, _ = onnx_file.libraries()
    found, whole = metadata.metadata(opened), frozen.freeze(opened)
    calibration = images.find(opened, wish.data, ("train",), CALIBRATION)
    left = left_alone(whole)
    # Kept twice: as it is, and rounded.
    most = int(MOST_KEPT // (2 * kept_bytes(whole)))
    rounded = round_weights(whole, left, calibration.images[: max(1, most)])
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".quantised.") as folder:
        path = Path(folder) / "model.onnx"
        _quantise(rounded, found, path, left, calibration.images)
        model = onnx.load(path)
        test = images.find(opened, wish.data, ("test", "val"), MEASURED)
        agreement = check.compare(opened, onnx_file.load(path), test)
    about = {
        "weight_bits": 7,
        "activation_bits": 8,
        "float32": [one.name for one in whole.operations if one.name in left],
        "calibrated_on": len(calibration),
        "measured": agreement.as_json(),
    }
    found["quantised"] = about
    del model.metadata_props[:]
    model.producer_name = "sscjax, onnxruntime.quantization"
    place.write_bytes(onnx_file.serialise(model, found))
    then, now = agreement.accuracy
    share = agreement.changed / agreement.images
    note = (
        f"8 bit: {100 * share:.1f} % of the answers are others; accuracy {100 * then:.1f} % in "
        f"float32, {100 * now:.1f} % here"
    )
    return Outcome(found, agreement, (note,))


def left_alone(whole: Frozen) -> set[str]:
    """Names of operations that stay in float32: the first ones, and the last of each output."""
    kernels = {one.name: one.kernel.size for one in whole.operations if one.kernel is not None}
    most, so_far = FLOAT_SHARE * sum(kernels.values()), 0
    found = {whole.operations[-1].name, whole.masks}
    for one in whole.operations:
        so_far += kernels.get(one.name, 0)
        if so_far > most:
            break
        found.add(one.name)
    return found


def round_weights(whole: Frozen, left: set[str], pixels: np.ndarray) -> Frozen:
    """Kernels rounded to what the file can hold, and biases that make up for the mean of that.

    Both networks are fed the same images, operation by operation: what a rounded kernel adds to the
    mean of a channel, errors of earlier operations included, is taken from its bias.

    Args:
      whole: the network.
      left: names of operations that are not rounded.
      pixels: uint8 [N,S,S,3], all run at once.
    """
    shape = (1, 1, 1, 3)
    x = jnp.asarray(pixels.astype(np.float32) * whole.scale.reshape(shape))
    x += whole.shift.reshape(shape)
    ends = _last_reads(whole)
    exact, coarse, operations = x, x, []
    # Outputs that are added later; the others would not fit into memory together.
    kept: list[dict[str, jax.Array]] = [{frozen.INPUT: x}, {frozen.INPUT: x}]
    for one in whole.operations:
        new = one
        if one.kernel is not None and one.name not in left:
            new = dataclasses.replace(one, kernel=_rounded(one.kernel))
        exact, coarse = apply.step(one, exact, kept[0]), apply.step(new, coarse, kept[1])
        if new is not one and one.bias is not None:
            gap = (exact - coarse).mean(axis=tuple(range(exact.ndim - 1)))
            new = dataclasses.replace(new, bias=one.bias + np.asarray(gap))
            coarse += gap.reshape((1,) * (coarse.ndim - 1) + (-1,))
        if one.name in ends:
            kept[0][one.name], kept[1][one.name] = exact, coarse
        for name in [name for name in kept[0] if ends.get(name, "") == one.name]:
            del kept[0][name], kept[1][name]
        operations.append(new)
    return dataclasses.replace(whole, operations=tuple(operations))


def _last_reads(whole: Frozen) -> dict[str, str]:
    """Of each output that is read by another operation than the next, the last that does."""
    found = {}
    for one in whole.operations:
        for name in (one.other, *one.reads):
            if name:
                found[name] = one.name
    return found


def kept_bytes(whole: Frozen) -> int:
    """The most bytes of earlier outputs that one image has to have kept, in float32."""
    ends, sides = _last_reads(whole), frozen.sides(whole.operations, whole.image_size)
    channels = frozen.channels(whole.operations)
    size = {name: 4 * side * side * channels[name] for name, side in sides.items()}
    now: dict[str, int] = {frozen.INPUT: 4 * 3 * whole.image_size**2}
    most = sum(now.values())
    for one in whole.operations:
        if one.name in ends:
            now[one.name] = size[one.name]
        most = max(most, sum(now.values()))
        for name in [name for name in now if ends.get(name, "") == one.name]:
            del now[name]
    return most


def _rounded(kernel: np.ndarray) -> np.ndarray:
    """The nearest kernel [...,D] of `LEVELS` steps up and down, by output channel."""
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    step = np.maximum(largest, np.finfo(np.float32).tiny * LEVELS) / LEVELS
    return (np.round(kernel / step) * step).astype(np.float32)


def _quantise(
    whole: Frozen, found: dict[str, Any], path: Path, left: set[str], pixels: np.ndarray
) -> None:
    """Let onnxruntime write an 8-bit file; what comes after the logits stays in float32."""
    from onnxruntime import quantization

    onnx, _ = onnx_file.libraries()
    model = onnx_file.build(whole, found)
    onnx.helper.set_model_props(model, _PREPARED)
    kinds = ["Conv", "ConvTranspose", "Gemm", "Clip", "Relu", "Add", "MaxPool"]
    # Nodes are named like operations; those after the logits are none.
    own = {one.name for one in whole.operations} - left
    names = [one.name for one in model.graph.node if one.op_type in kinds and one.name in own]
    # By name: given a model, older releases write it to pieces and lose them.
    exact = path.with_name("float32.onnx")
    onnx.save(model, exact)
    quantization.quantize_static(
        exact,
        path,
        _Batches(pixels),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=kinds,
        nodes_to_quantize=names,
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )


class _Batches:
    """Images as onnxruntime asks for them, one batch after the other, then None."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._parts = iter(
            [pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH)]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch as the graph's inputs."""
        part = next(self._parts, None)
        return None if part is None else {metadata.INPUT: part}
