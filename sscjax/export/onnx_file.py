"""A run as an ONNX file, for onnxruntime and whatever else reads ONNX.

The graph is built operation by operation, not traced from JAX: XLA's formulations for a CPU would
be slow in another runtime. Inside, images are NCHW, as runtimes want them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sscjax
from sscjax.export import graph, metadata, verify
from sscjax.export.graph import Graph, Operation
from sscjax.export.verify import ExportOptions, Outcome
from sscjax.inference.classifier import Classifier

# Old enough for onnxruntime 1.14 and onnxruntime-web of the same year, and later ones
# would add nothing that is used here.
OPSET, IR_VERSION = 17, 8

BATCH = "N"


def write(opened: Classifier, path: Path, options: ExportOptions) -> Outcome:
    """Write an ONNX file, run it by onnxruntime and compare.

    Args:
      opened: the run.
      path: the file to write; it does not exist.
      options: settings beside the format.

    Raises:
      UserError: a package is missing, the run's images are, or the file disagrees with the run.
    """
    libraries()
    about = metadata.metadata(opened, options.intended_use)
    path.write_bytes(serialise(build(graph.from_classifier(opened), about), about))
    sample = verify.sample(opened, options.data)
    agreement = verify.compare(opened, load(path), sample)
    verify.demand(agreement, path.name)
    return Outcome(about, agreement)


def load(path: Path, threads: int = 0) -> verify.Run:
    """A function that runs an ONNX file on a CPU.

    Args:
      path: the file.
      threads: of onnxruntime; 0 takes one per core.
    """
    _, runtime = libraries()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # From memory: on Windows an open file could not be renamed.
    session = runtime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {metadata.INPUT: images}), strict=True))

    return run


def libraries() -> tuple[Any, Any]:
    """The packages `onnx` and `onnxruntime`; a UserError where one is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise verify.missing(error) from error
    return onnx, onnxruntime


def serialise(model: Any, about: dict[str, Any]) -> bytes:
    """The file's bytes, with the metadata inside; the same for the same run."""
    onnx, _ = libraries()
    onnx.helper.set_model_props(model, {metadata.KEY: metadata.text(about)})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


# --- the graph ------------------------------------------------------------------------------------


class _Builder:
    """Nodes and constants in the order in which they are added."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: Any) -> str:
        """Adds a float32 array and returns its name."""
        array = np.ascontiguousarray(values, np.float32)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def indices(self, name: str, values: Sequence[int]) -> str:
        """Adds an int64 vector, such as axes, and returns its name."""
        self.constants.append(
            self._onnx.numpy_helper.from_array(np.asarray(values, np.int64), name)
        )
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node named like its one output, and returns that name."""
        made = self._onnx.helper.make_node(kind, list(inputs), [output], output, **attributes)
        self.nodes.append(made)
        return output


def build(network: Graph, about: dict[str, Any]) -> Any:
    """The `onnx.ModelProto` of a network, without the metadata inside.

    Inputs and outputs are those that the metadata names: uint8 [N,S,S,3]; probabilities [N,C],
    distance [N] and, where there are any, maps [N,h,w,C], float32, and masks [N,S,S] uint8.

    Args:
      network: the network.
      about: what `metadata.metadata` gives.
    """
    onnx, _ = libraries()
    builder = _Builder(onnx)
    logits = _network(builder, network)
    _probabilities(builder, logits, network.temperature)
    _distance(builder, network)
    size, columns = network.image_size, len(about["columns"])
    float32, info = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    outputs = [
        info(metadata.PROBABILITIES, float32, [BATCH, columns]),
        info(metadata.DISTANCE, float32, [BATCH]),
    ]
    if network.maps:
        _maps(builder, network)
        outputs.append(info(metadata.MAPS, float32, [BATCH, *about["maps"]["size"], columns]))
    if network.masks:
        # Channels first here; their axis is gone afterwards.
        best = builder.node("ArgMax", [network.masks], "masks/classes", axis=1, keepdims=0)
        builder.node("Cast", [best], metadata.MASKS, to=onnx.TensorProto.UINT8)
        outputs.append(info(metadata.MASKS, onnx.TensorProto.UINT8, [BATCH, size, size]))
    images = info(metadata.INPUT, onnx.TensorProto.UINT8, [BATCH, size, size, 3])
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            builder.nodes, about["run"]["name"], [images], outputs, builder.constants
        ),
        producer_name="sscjax",
        producer_version=sscjax.__version__,
        doc_string=about["notice"],
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )


def _network(builder: _Builder, network: Graph) -> str:
    """From images to logits; returns the name of these."""
    last = builder.node("Transpose", [metadata.INPUT], "planes", perm=[0, 3, 1, 2])
    last = builder.node("Cast", [last], "values", to=1)  # TensorProto.FLOAT
    scale = builder.constant("scale", network.scale.reshape(1, 3, 1, 1))
    shift = builder.constant("shift", network.shift.reshape(1, 3, 1, 1))
    last = builder.node("Mul", [last, scale], "scaled")
    last = builder.node("Add", [last, shift], graph.INPUT)
    bounds: list[str] = []
    if any(operation.kind == "relu6" for operation in network.operations):
        bounds = [builder.constant("zero", 0.0), builder.constant("six", 6.0)]
    side, flat = network.image_size, ""
    sides = graph.sides(network.operations, network.image_size)
    for operation in network.operations:
        side = sides.get(operation.name, side)
        if operation.kind in ("conv", "transpose"):
            last = _conv(builder, operation, last)
        elif operation.kind == "relu":
            last = builder.node("Relu", [last], operation.name)
        elif operation.kind == "relu6":
            last = builder.node("Clip", [last, *bounds], operation.name)
        elif operation.kind == "add":
            last = builder.node("Add", [last, operation.other], operation.name)
        elif operation.kind == "concat":
            last = builder.node("Concat", [operation.other, last], operation.name, axis=1)
        elif operation.kind == "max_pool":
            last = builder.node(
                "MaxPool", [last], operation.name, kernel_shape=[2, 2], strides=[2, 2]
            )
        elif operation.kind == "pool":
            last = _pool(builder, operation)
        elif operation.kind == "flatten":
            last, flat = builder.node("Flatten", [last], operation.name), operation.name
        elif operation.kind == "dense":
            last = _dense(builder, operation, last, side if last == flat else 0)
    return last


def _mean(builder: _Builder, image: str, name: str) -> str:
    pooled = builder.node("GlobalAveragePool", [image], f"{name}/pooled")
    return builder.node("Flatten", [pooled], name)


def _pool(builder: _Builder, operation: Operation) -> str:
    """As `models.layers.pool`, of each output read."""
    parts = [_mean(builder, name, f"{operation.name}/{name}/mean") for name in operation.reads]
    return builder.node("Concat", parts, operation.name, axis=1)


def _conv(builder: _Builder, operation: Operation, last: str) -> str:
    """A convolution, transposed or not."""
    assert operation.kernel is not None and operation.bias is not None
    if operation.kind == "transpose":
        kind, axes = "ConvTranspose", (2, 3, 0, 1)
        settings: dict[str, Any] = {"strides": [2, 2]}
    else:
        kind, axes = "Conv", (3, 2, 0, 1)
        settings = {
            "strides": [operation.stride, operation.stride],
            "pads": list(operation.padding),
        }
        settings["group"] = operation.groups
    kernel = builder.constant(f"{operation.name}/kernel", operation.kernel.transpose(axes))
    bias = builder.constant(f"{operation.name}/bias", operation.bias)
    shape = list(operation.kernel.shape[:2])
    return builder.node(kind, [last, kernel, bias], operation.name, kernel_shape=shape, **settings)


def _dense(builder: _Builder, operation: Operation, last: str, side: int) -> str:
    """A matrix product; `side` of the image that was flattened before it, channels first here."""
    assert operation.kernel is not None and operation.bias is not None
    kernel = operation.kernel
    if side:
        kernel = kernel.reshape(side, side, -1, kernel.shape[-1]).transpose(2, 0, 1, 3)
        kernel = kernel.reshape(operation.kernel.shape)
    names = [builder.constant(f"{operation.name}/kernel", kernel)]
    names.append(builder.constant(f"{operation.name}/bias", operation.bias))
    return builder.node("Gemm", [last, *names], operation.name)


def _probabilities(builder: _Builder, logits: str, temperature: float) -> None:
    """As `calibration.calibrate`, its lower limit included."""
    if temperature != 1.0:
        logs = builder.node("LogSoftmax", [logits], "logarithms", axis=1)
        least = builder.constant("least", np.log(graph.LEAST))
        clipped = builder.node("Max", [logs, least], "logarithms/clipped")
        divisor = builder.constant("temperature", temperature)
        logits = builder.node("Div", [clipped, divisor], "calibrated")
    builder.node("Softmax", [logits], metadata.PROBABILITIES, axis=1)


def _distance(builder: _Builder, network: Graph) -> None:
    """As `ood.Detector.distances`; what the components leave is taken before it is squared."""
    features = network.features
    if features == network.trunk:
        features = _mean(builder, network.trunk, "features")
    length = builder.node("ReduceL2", [features], "length", axes=[1], keepdims=1)
    length = builder.node("Max", [length, builder.constant("shortest", 1e-12)], "length/clipped")
    direction = builder.node("Div", [features, length], "direction")
    offset = builder.node("Sub", [direction, builder.constant("mean", network.mean)], "offset")
    axes = builder.indices("over_features", [1])
    terms, rest = [], offset
    if len(network.components):
        components = network.components
        across = builder.constant("components", components)
        along = builder.node("Gemm", [offset, across], "along", transB=1)
        rest = builder.node(
            "Sub", [offset, builder.node("MatMul", [along, across], "known")], "rest"
        )
        deviations = builder.constant("deviations", np.sqrt(network.variances))
        scaled = builder.node("Div", [along, deviations], "along/scaled")
        square = builder.node("Mul", [scaled, scaled], "along/square")
        terms.append(builder.node("ReduceSum", [square, axes], "along/sum", keepdims=0))
    noise = builder.constant("noise", np.sqrt(network.noise))
    scaled = builder.node("Div", [rest, noise], "rest/scaled")
    square = builder.node("Mul", [scaled, scaled], "rest/square")
    terms.append(builder.node("ReduceSum", [square, axes], "rest/sum", keepdims=0))
    total = builder.node("Sum", terms, "squares")
    width = builder.constant("features/width", float(len(network.mean)))
    builder.node("Sqrt", [builder.node("Div", [total, width], "squares/mean")], metadata.DISTANCE)


def _maps(builder: _Builder, network: Graph) -> None:
    """Each pixel times the classifier, a 1x1 convolution; enlarged by matrices, as elsewhere."""
    parts = []
    for evidence in network.maps:
        name = f"maps/{evidence.name}"
        kernel = builder.constant(f"{name}/kernel", evidence.kernel.T[:, :, None, None])
        planes = builder.node(
            "Conv", [evidence.name, kernel], f"{name}/planes", kernel_shape=[1, 1]
        )
        if evidence.up is not None:
            up, across = (
                builder.constant(f"{name}/{side}", matrix)
                for side, matrix in (("up", evidence.up), ("across", evidence.up.T))
            )
            planes = builder.node("MatMul", [up, planes], f"{name}/tall")
            planes = builder.node("MatMul", [planes, across], f"{name}/large")
        parts.append(planes)
    total = parts[0] if len(parts) == 1 else builder.node("Sum", parts, "maps/planes")
    builder.node("Transpose", [total], metadata.MAPS, perm=[0, 2, 3, 1])
