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
from sscjax.export import graph as frozen
from sscjax.export import metadata, verify
from sscjax.export.graph import Frozen, Operation
from sscjax.export.verify import ExportOptions, Outcome
from sscjax.inference.classifier import Classifier

# Old enough for onnxruntime 1.14 and onnxruntime-web of the same year, and later ones
# would add nothing that is used here.
OPSET, IR_VERSION = 17, 8

BATCH = "N"


def write(opened: Classifier, place: Path, wish: ExportOptions) -> Outcome:
    """Write an ONNX file, run it by onnxruntime and compare.

    Args:
      opened: the run.
      place: the file to write; it does not exist.
      wish: what the user asked for.

    Raises:
      UserError: a package is missing, the run's images are, or the file disagrees with the run.
    """
    libraries()
    found = metadata.metadata(opened)
    place.write_bytes(serialise(build(frozen.freeze(opened), found), found))
    sample = verify.sample(opened, wish.data)
    agreement = verify.compare(opened, load(place), sample)
    verify.demand(agreement, place.name)
    return Outcome(found, agreement)


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
    names = [one.name for one in session.get_outputs()]

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


def serialise(model: Any, found: dict[str, Any]) -> bytes:
    """The file's bytes, with the metadata inside; the same for the same run."""
    onnx, _ = libraries()
    onnx.helper.set_model_props(model, {metadata.KEY: metadata.text(found)})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


# --- the graph ------------------------------------------------------------------------------------


class _Graph:
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


def build(whole: Frozen, found: dict[str, Any]) -> Any:
    """The `onnx.ModelProto` of a network, without the metadata inside.

    Inputs and outputs are those that the metadata names: uint8 [N,S,S,3]; probabilities [N,C],
    distance [N] and, where there are any, maps [N,h,w,C], float32, and masks [N,S,S] uint8.

    Args:
      whole: the network.
      found: what `metadata.metadata` gives.
    """
    onnx, _ = libraries()
    graph = _Graph(onnx)
    logits = _network(graph, whole)
    _probabilities(graph, logits, whole.temperature)
    _distance(graph, whole)
    size, columns = whole.image_size, len(found["columns"])
    float32, info = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    outputs = [
        info(metadata.PROBABILITIES, float32, [BATCH, columns]),
        info(metadata.DISTANCE, float32, [BATCH]),
    ]
    if whole.maps:
        _maps(graph, whole)
        outputs.append(info(metadata.MAPS, float32, [BATCH, *found["maps"]["size"], columns]))
    if whole.masks:
        # Channels first here; their axis is gone afterwards.
        best = graph.node("ArgMax", [whole.masks], "masks/classes", axis=1, keepdims=0)
        graph.node("Cast", [best], metadata.MASKS, to=onnx.TensorProto.UINT8)
        outputs.append(info(metadata.MASKS, onnx.TensorProto.UINT8, [BATCH, size, size]))
    images = info(metadata.INPUT, onnx.TensorProto.UINT8, [BATCH, size, size, 3])
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes, found["run"]["name"], [images], outputs, graph.constants
        ),
        producer_name="sscjax",
        producer_version=sscjax.__version__,
        doc_string=found["notice"],
        ir_version=IR_VERSION,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )


def _network(graph: _Graph, whole: Frozen) -> str:
    """From images to logits; returns the name of these."""
    last = graph.node("Transpose", [metadata.INPUT], "planes", perm=[0, 3, 1, 2])
    last = graph.node("Cast", [last], "values", to=1)  # TensorProto.FLOAT
    scale = graph.constant("scale", whole.scale.reshape(1, 3, 1, 1))
    shift = graph.constant("shift", whole.shift.reshape(1, 3, 1, 1))
    last = graph.node("Mul", [last, scale], "scaled")
    last = graph.node("Add", [last, shift], frozen.INPUT)
    bounds: list[str] = []
    if any(one.kind == "relu6" for one in whole.operations):
        bounds = [graph.constant("zero", 0.0), graph.constant("six", 6.0)]
    side, flat = whole.image_size, ""
    sides = frozen.sides(whole.operations, whole.image_size)
    for one in whole.operations:
        side = sides.get(one.name, side)
        if one.kind in ("conv", "transpose"):
            last = _conv(graph, one, last)
        elif one.kind == "relu":
            last = graph.node("Relu", [last], one.name)
        elif one.kind == "relu6":
            last = graph.node("Clip", [last, *bounds], one.name)
        elif one.kind == "add":
            last = graph.node("Add", [last, one.other], one.name)
        elif one.kind == "concat":
            last = graph.node("Concat", [one.other, last], one.name, axis=1)
        elif one.kind == "max_pool":
            last = graph.node("MaxPool", [last], one.name, kernel_shape=[2, 2], strides=[2, 2])
        elif one.kind == "pool":
            last = _pool(graph, one)
        elif one.kind == "flatten":
            last, flat = graph.node("Flatten", [last], one.name), one.name
        elif one.kind == "dense":
            last = _dense(graph, one, last, side if last == flat else 0)
    return last


def _mean(graph: _Graph, image: str, name: str) -> str:
    pooled = graph.node("GlobalAveragePool", [image], f"{name}/pooled")
    return graph.node("Flatten", [pooled], name)


def _pool(graph: _Graph, one: Operation) -> str:
    """As `models.layers.pool`, of each output read."""
    parts = [_mean(graph, name, f"{one.name}/{name}/mean") for name in one.reads]
    return graph.node("Concat", parts, one.name, axis=1)


def _conv(graph: _Graph, one: Operation, last: str) -> str:
    """A convolution, transposed or not."""
    assert one.kernel is not None and one.bias is not None
    if one.kind == "transpose":
        kind, axes = "ConvTranspose", (2, 3, 0, 1)
        settings: dict[str, Any] = {"strides": [2, 2]}
    else:
        kind, axes = "Conv", (3, 2, 0, 1)
        settings = {"strides": [one.stride, one.stride], "pads": list(one.padding)}
        settings["group"] = one.groups
    kernel = graph.constant(f"{one.name}/kernel", one.kernel.transpose(axes))
    bias = graph.constant(f"{one.name}/bias", one.bias)
    shape = list(one.kernel.shape[:2])
    return graph.node(kind, [last, kernel, bias], one.name, kernel_shape=shape, **settings)


def _dense(graph: _Graph, one: Operation, last: str, side: int) -> str:
    """A matrix product; `side` of the image that was flattened before it, channels first here."""
    assert one.kernel is not None and one.bias is not None
    kernel = one.kernel
    if side:
        kernel = kernel.reshape(side, side, -1, kernel.shape[-1]).transpose(2, 0, 1, 3)
        kernel = kernel.reshape(one.kernel.shape)
    names = [graph.constant(f"{one.name}/kernel", kernel)]
    names.append(graph.constant(f"{one.name}/bias", one.bias))
    return graph.node("Gemm", [last, *names], one.name)


def _probabilities(graph: _Graph, logits: str, temperature: float) -> None:
    """As `calibration.calibrate`, its lower limit included."""
    if temperature != 1.0:
        logs = graph.node("LogSoftmax", [logits], "logarithms", axis=1)
        least = graph.constant("least", np.log(frozen.LEAST))
        kept = graph.node("Max", [logs, least], "logarithms/kept")
        divisor = graph.constant("temperature", temperature)
        logits = graph.node("Div", [kept, divisor], "calibrated")
    graph.node("Softmax", [logits], metadata.PROBABILITIES, axis=1)


def _distance(graph: _Graph, whole: Frozen) -> None:
    """As `ood.Detector.distances`; what the components leave is taken before it is squared."""
    features = whole.features
    if features == whole.trunk:
        features = _mean(graph, whole.trunk, "features")
    length = graph.node("ReduceL2", [features], "length", axes=[1], keepdims=1)
    length = graph.node("Max", [length, graph.constant("shortest", 1e-12)], "length/kept")
    direction = graph.node("Div", [features, length], "direction")
    offset = graph.node("Sub", [direction, graph.constant("mean", whole.mean)], "offset")
    axes = graph.indices("over_features", [1])
    terms, rest = [], offset
    if len(whole.components):
        components = whole.components
        across = graph.constant("components", components)
        along = graph.node("Gemm", [offset, across], "along", transB=1)
        rest = graph.node("Sub", [offset, graph.node("MatMul", [along, across], "known")], "rest")
        deviations = graph.constant("deviations", np.sqrt(whole.variances))
        scaled = graph.node("Div", [along, deviations], "along/scaled")
        square = graph.node("Mul", [scaled, scaled], "along/square")
        terms.append(graph.node("ReduceSum", [square, axes], "along/sum", keepdims=0))
    noise = graph.constant("noise", np.sqrt(whole.noise))
    scaled = graph.node("Div", [rest, noise], "rest/scaled")
    square = graph.node("Mul", [scaled, scaled], "rest/square")
    terms.append(graph.node("ReduceSum", [square, axes], "rest/sum", keepdims=0))
    total = graph.node("Sum", terms, "squares")
    width = graph.constant("features/width", float(len(whole.mean)))
    graph.node("Sqrt", [graph.node("Div", [total, width], "squares/mean")], metadata.DISTANCE)


def _maps(graph: _Graph, whole: Frozen) -> None:
    """Each pixel times the classifier, a 1x1 convolution; enlarged by matrices, as elsewhere."""
    parts = []
    for one in whole.maps:
        name = f"maps/{one.name}"
        kernel = graph.constant(f"{name}/kernel", one.kernel.T[:, :, None, None])
        planes = graph.node("Conv", [one.name, kernel], f"{name}/planes", kernel_shape=[1, 1])
        if one.up is not None:
            up, across = (
                graph.constant(f"{name}/{side}", matrix)
                for side, matrix in (("up", one.up), ("across", one.up.T))
            )
            planes = graph.node("MatMul", [up, planes], f"{name}/tall")
            planes = graph.node("MatMul", [planes, across], f"{name}/large")
        parts.append(planes)
    total = parts[0] if len(parts) == 1 else graph.node("Sum", parts, "maps/planes")
    graph.node("Transpose", [total], metadata.MAPS, perm=[0, 2, 3, 1])
