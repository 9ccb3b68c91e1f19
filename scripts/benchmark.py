"""Measure this package beside PyTorch, Keras on TensorFlow and plain Flax, in one run.

    pip install '.[bench]'
    python scripts/benchmark.py [--rounds=9] [--threads=2] [--out=benchmark.json] [--only=WORD]

Every case is a process of its own that holds one framework and waits while others are timed. A
round times each case of a row once, in turn, so that a slow minute of the machine meets all of
them; what counts are medians over the rounds, and ratios of a row within each round.

The process of a case (`--case=NAME`) runs it once unmeasured, prints `ready` with the seconds that
took, and then answers each line on standard input with a line of JSON: seconds, seconds of
processors, and images.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent

# The clone, and the reference models of its tests.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    # row: our case, then its peers
    "fine-tune step": ("sscjax_finetune", ("torch_finetune", "keras_finetune", "plain_finetune")),
    "forward": ("sscjax_forward", ("torch_forward", "keras_forward")),
    "CNN step": ("sscjax_cnn", ("torch_cnn",)),
    "FD-UNet step": ("sscjax_fd_unet", ("torch_fd_unet",)),
}
START = "warm start"

LEARNING_RATE = 1e-4
FROZEN = 10
CLASSES = 3
# The FD-UNet of configs/fd_unet_three_class.py.
UNET: dict[str, Any] = {"depth": 3, "width": 8, "growth": 2, "layers_per_block": 4}
UNET_BATCH = 8

Run = Callable[[], int]
"""Does the work once, to its end, and returns how many images that were."""


# ---- the table ----------------------------------------------------------------------------------


class Worker:
    """One case in a process of its own."""

    def __init__(self, case: str, flags: list[str], cache: str | None = None) -> None:
        self.case = case
        # Nothing compiled elsewhere: perhaps it was for another number of processors.
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache or ""}
        self.process = subprocess.Popen(
            [sys.executable, __file__, f"--case={case}", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.ready = self._answer()["ready"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker {self.case} ended with exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def time(self) -> dict[str, Any]:
        """Run the case once: seconds, of processors too, and images."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(cases: list[str], flags: list[str], rounds: int) -> dict[str, Any]:
    """Time each case once per round, in turn.

    Returns:
      by case: 'rates' (images per second of each round), 'busy' (processors, of each round) and
      'first' (seconds of set-up and the first run).
    """
    workers = []
    for case in cases:
        print(f"  starting {case}", file=sys.stderr, flush=True)
        workers.append(Worker(case, flags))
    results: dict[str, Any] = {
        worker.case: {"rates": [], "busy": [], "first": worker.ready} for worker in workers
    }
    for _ in range(rounds):
        for worker in workers:
            # A moment's rest, or the case before is still winding up its threads.
            time.sleep(0.2)
            answer = worker.time()
            results[worker.case]["rates"].append(answer["images"] / answer["seconds"])
            results[worker.case]["busy"].append(answer["busy"] / answer["seconds"])
    for worker in workers:
        worker.close()
    return results


def start(flags: list[str]) -> dict[str, float]:
    """Seconds to the end of the first fine-tune step, with an empty cache and with a filled one."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            worker = Worker("sscjax_finetune", flags, cache)
            seconds[name] = worker.ready
            worker.close()
    return seconds


def multiply_adds(size: int, freeze: int) -> tuple[float, float]:
    """Millions of multiply-adds per image of MobileNetV2 1.0: forward, and of a training step.

    The step adds the kernel gradient of every layer that trains, and the input gradient of every
    layer after the first that trains.
    """
    from sscjax.models import MobileNetV2

    model = MobileNetV2(3)
    forward = step = 0
    pixels, channels, trained = size, 3, False
    for index, layer in enumerate(model.layers):
        work = 0
        if layer.kind in ("conv", "depthwise"):
            pixels = -(-pixels // layer.stride)
            inputs = 1 if layer.kind == "depthwise" else channels
            work = pixels**2 * layer.kernel**2 * inputs * layer.channels
            channels = layer.channels
        elif layer.kind == "dense":
            work = channels * layer.channels
        forward += work
        step += work
        if index >= freeze and work:
            step += work * (2 if trained else 1)
            trained = True
    return forward / 1e6, step / 1e6


def versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "torch", "tensorflow", "tensorflow-cpu", "keras", "numpy")
    machine = platform.processor() or platform.machine()
    installed = {"python": platform.python_version(), "machine": machine}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _rates(rates: list[float]) -> str:
    """Their median and range."""
    return f"{statistics.median(rates):.1f} ({min(rates):.3g} to {max(rates):.3g})"


def table(results: dict[str, Any], size: int) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| work | sscjax, images/s (range) | against | images/s (range) | ratio |",
        "|---|---|---|---|---|",
    ]
    for row, (ours, peers) in ROWS.items():
        if row not in results:
            continue
        rates = {case: measured["rates"] for case, measured in results[row].items()}
        for peer in peers:
            ratio = statistics.median(a / b for a, b in zip(rates[ours], rates[peer], strict=True))
            lines.append(
                f"| {row} | {_rates(rates[ours])} | {peer.partition('_')[0]} | "
                f"{_rates(rates[peer])} | {ratio:.2f} |"
            )
        if "sgemm" in rates:
            forward, step = multiply_adds(size, FROZEN)
            work = step if row == "fine-tune step" else forward
            pairs = zip(rates[ours], rates["sgemm"], strict=True)
            share = statistics.median(a * work / b for a, b in pairs)
            gemm = statistics.median(rates["sgemm"])
            lines.append(
                f"| {row} | {_rates(rates[ours])} | SGEMM at {2 * gemm / 1000:.0f} GFLOP/s, "
                f"{work:.0f} M multiply-adds | {gemm / work:.0f} | {share:.0%} |"
            )
    if START in results:
        warm, cold = results[START]["warm"], results[START]["cold"]
        lines.append(
            f"| first fine-tune step, warm cache | {warm:.1f} s | cold | {cold:.1f} s | "
            f"{cold / warm:.1f} |"
        )
    ranges = [
        f"{case} {min(measured['busy']):.1f} to {max(measured['busy']):.1f}"
        for row in ROWS
        for case, measured in results.get(row, {}).items()
    ]
    if ranges:
        lines += ["", f"Processors busy: {', '.join(ranges)}."]
    return "\n".join(lines)


def images(args: argparse.Namespace, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 images [N,H,W,3] and labels [N] int32; the values do not change the time."""
    rng = np.random.default_rng(0)
    shape = (count, args.size, args.size, 3)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, CLASSES, count).astype(np.int32)


# ---- this package -------------------------------------------------------------------------------


def _program(args: argparse.Namespace, model: Any) -> Any:
    import jax.numpy as jnp

    from sscjax.training import losses, programs

    def inputs(stored: Any, key: Any) -> Any:
        return stored.astype(jnp.float32) / 127.5 - 1.0

    return programs.Program(
        model, losses.Objective("softmax"), inputs, micro_batch=args.micro_batch
    )


def _step(args: argparse.Namespace, model: Any, freeze: int, *, scratch: bool = False) -> Run:
    """A training step; `scratch` normalises by the batch, as networks from random weights do."""
    import jax
    import jax.numpy as jnp
    import random_weights

    from sscjax.training import freezing, optimizers, train_step

    variables = random_weights.draw(model, args.size)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    labels = freezing.label_layers(
        model.layer_names, model.head_start, params, trainable="all", freeze_first=freeze
    )
    adam = optimizers.make_optimizer(
        "adam", optimizers.make_schedule("constant", LEARNING_RATE, steps=1)
    )
    optimizer = freezing.freeze_mask(adam, labels)
    program = _program(args, model)
    if scratch:
        program = dataclasses.replace(program, batch_statistics_from=0, micro_batch=0)
    epoch = train_step.make_epoch(program, optimizer, labels)
    state = train_step.TrainState(jnp.int32(0), params, statistics, jax.jit(optimizer.init)(params))
    x, y = (jnp.asarray(part) for part in images(args, args.batch))
    order, real = np.arange(args.batch, dtype=np.int32)[None], np.ones((1, args.batch), np.float32)

    def run() -> int:
        nonlocal state
        state, sums = epoch(state, x, y, order, real, jax.random.key(0))
        float(sums.loss)
        jax.block_until_ready(state)
        return args.batch

    return run


def sscjax_finetune(args: argparse.Namespace) -> Run:
    from sscjax.models import MobileNetV2

    return _step(args, MobileNetV2(CLASSES, dropout_rate=0.2), FROZEN)


def sscjax_cnn(args: argparse.Namespace) -> Run:
    from sscjax.models import CNN

    return _step(args, CNN(CLASSES, dropout_rate=0.5), 0)


def sscjax_fd_unet(args: argparse.Namespace) -> Run:
    from sscjax.models import FDUNet

    return _step(_half(args), FDUNet(CLASSES, **UNET), 0, scratch=True)


def _half(args: argparse.Namespace) -> argparse.Namespace:
    """Images of half the side, in small batches, which the UNets' configs have."""
    return argparse.Namespace(**{**vars(args), "size": args.size // 2, "batch": UNET_BATCH})


def sscjax_forward(args: argparse.Namespace) -> Run:
    import jax.numpy as jnp
    import random_weights

    from sscjax.models import MobileNetV2
    from sscjax.training import programs

    model = MobileNetV2(CLASSES)
    variables = random_weights.draw(model, args.size)
    predict = programs.make_predict(_program(args, model))
    x = jnp.asarray(images(args, args.batch)[0])

    def run() -> int:
        np.asarray(predict(variables["params"], variables["batch_stats"], x))
        return args.batch

    return run


def plain_finetune(args: argparse.Namespace) -> Run:
    """The same step in Flax as usually written; only what trains is differentiated, too."""
    import jax
    import jax.numpy as jnp
    import optax
    import random_weights
    from flax_mobilenet_v2 import PlainMobileNetV2

    from sscjax.models import MobileNetV2
    from sscjax.training import freezing

    like = MobileNetV2(CLASSES)
    plain, variables = PlainMobileNetV2(like), random_weights.draw(like, args.size)
    params, statistics = variables["params"], variables["batch_stats"]
    labels = freezing.label_layers(
        like.layer_names, like.head_start, params, trainable="all", freeze_first=FROZEN
    )
    trained, frozen = freezing.partition(params, labels)
    optimizer = optax.adam(LEARNING_RATE)
    state = optimizer.init(trained)
    x, y = (jnp.asarray(part) for part in images(args, args.batch))

    @jax.jit
    def step(trained: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        def loss(trained: Any) -> Any:
            both = {"params": {**frozen, **trained}, "batch_stats": statistics}
            logits: Any = plain.apply(both, x.astype(jnp.float32) / 127.5 - 1.0)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradients = jax.value_and_grad(loss)(trained)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(trained, updates), state, value

    def run() -> int:
        nonlocal trained, state
        trained, state, value = step(trained, state, x, y)
        float(value)
        return args.batch

    return run


# ---- torch --------------------------------------------------------------------------------------


def _torch(args: argparse.Namespace) -> Any:
    import torch

    torch.set_num_threads(args.threads)
    return torch


def _torch_step(args: argparse.Namespace, model: Any) -> Run:
    torch = _torch(args)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], LEARNING_RATE, foreach=True
    )
    stored, labels = images(args, args.batch)
    x = torch.from_numpy(stored).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(labels).long()

    def run() -> int:
        optimizer.zero_grad(set_to_none=True)
        logits = model(x.float() / 127.5 - 1.0)
        loss = torch.nn.functional.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        loss.item()
        return args.batch

    return run


def torch_finetune(args: argparse.Namespace) -> Run:
    import torch_mobilenet_v2

    torch = _torch(args)
    model = torch_mobilenet_v2.MobileNetV2(1.0, CLASSES)
    # The first ten Keras layers: the stem, the first block, and the expansion of the second.
    frozen = [model.features[0], model.features[1], model.features[2].conv[0]]
    for module in frozen:
        module.requires_grad_(False)
    model.eval()  # BatchNorm by its running averages
    model.classifier[0].train()
    assert torch.is_grad_enabled()
    return _torch_step(args, model)


def torch_cnn(args: argparse.Namespace) -> Run:
    torch = _torch(args)
    nn = torch.nn
    layers: list[Any] = []
    inputs, size = 3, args.size
    for width in (32, 64, 128, 256):
        for channels in (inputs, width):
            layers += [nn.Conv2d(channels, width, 3), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        inputs, size = width, (size - 4) // 2
    head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs * size * size, 128), nn.ReLU()]
    return _torch_step(args, nn.Sequential(*layers, *head, nn.Dropout(0.5), nn.Linear(128, 3)))


def torch_fd_unet(args: argparse.Namespace) -> Run:
    import torch_fd_unet

    sizes = {"f": UNET["width"], "k": UNET["growth"], "count": UNET["layers_per_block"]}
    whole = torch_fd_unet.Network(False, UNET["depth"], **sizes, masks=0, classes=CLASSES)

    # Of what it gives, the classes' logits are the first.
    whole.register_forward_hook(lambda module, given, found: found[0])
    return _torch_step(_half(args), whole.train())


def torch_forward(args: argparse.Namespace) -> Run:
    import torch_mobilenet_v2

    torch = _torch(args)
    model = torch_mobilenet_v2.MobileNetV2(1.0, CLASSES).eval()
    model = model.to(memory_format=torch.channels_last)
    stored, _ = images(args, args.batch)
    x = torch.from_numpy(stored).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def run() -> int:
        with torch.inference_mode():
            model(x.float() / 127.5 - 1.0).softmax(-1).numpy()
        return args.batch

    return run


# ---- Keras on TensorFlow ------------------------------------------------------------------------


def _keras(args: argparse.Namespace) -> Any:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    return keras


def _keras_model(args: argparse.Namespace, freeze: int | None) -> Any:
    """As Keras' own guide to transfer learning builds it; None freezes the whole base."""
    keras = _keras(args)
    shape = (args.size, args.size, 3)
    base = keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights=None)
    if freeze is None:
        base.trainable = False
    else:
        for layer in base.layers[: freeze + 1]:  # the input is a layer there
            layer.trainable = False
    inputs = keras.Input(shape)
    x = base(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs), training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Dropout(0.2)(x))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
    return model


def _keras_fit(args: argparse.Namespace, freeze: int | None, count: int) -> Run:
    model = _keras_model(args, freeze)
    x, y = images(args, count)

    def run() -> int:
        model.fit(x, y, batch_size=args.batch, epochs=1, verbose=0)
        return count

    return run


def keras_finetune(args: argparse.Namespace) -> Run:
    """Eight steps of `fit`, so that its start and end weigh little."""
    return _keras_fit(args, FROZEN, 8 * args.batch)


def keras_forward(args: argparse.Namespace) -> Run:
    model = _keras_model(args, None)
    x, _ = images(args, 8 * args.batch)

    def run() -> int:
        model.predict(x, batch_size=args.batch, verbose=0)
        return len(x)

    return run


# ---- the machine --------------------------------------------------------------------------------


def sgemm(args: argparse.Namespace) -> Run:
    """NumPy's product of two 2048x2048 matrices; 'images' are millions of multiply-adds."""
    a = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)

    def run() -> int:
        for _ in range(4):
            a @ a
        return 4 * 2048**3 // 10**6

    return run


CASES = (
    *(sscjax_finetune, sscjax_forward, sscjax_cnn, sscjax_fd_unet, plain_finetune),
    *(torch_finetune, torch_forward, torch_cnn, torch_fd_unet, keras_finetune, keras_forward),
    sgemm,
)


# ---- both programs ------------------------------------------------------------------------------


def answer(args: argparse.Namespace) -> None:
    """The process of a case."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is not an answer
    started = time.perf_counter()
    if args.case.startswith("sscjax"):
        from sscjax.system import terminal

        terminal.set_up_jax()
    run = next(case for case in CASES if case.__name__ == args.case)(args)
    run()
    print(json.dumps({"ready": time.perf_counter() - started}), file=answers, flush=True)
    for _ in sys.stdin:
        started, busy, count = time.perf_counter(), time.process_time(), 0
        while not count or time.perf_counter() - started < args.seconds:
            count += run()
        measured = {
            "seconds": time.perf_counter() - started,
            "busy": time.process_time() - busy,
            "images": count,
        }
        print(json.dumps(measured), file=answers, flush=True)


def main() -> None:
    """Measure every row, or answer as the process of a case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.5, help="least time of a measurement")
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    names = [case.__name__ for case in CASES]
    parser.add_argument("--case", choices=names, help="be the process of this case")
    args = parser.parse_args()
    # Every framework sizes its pool of threads by the processors it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    if args.case:
        answer(args)
        return
    flags = [
        f"--{name.replace('_', '-')}={getattr(args, name)}"
        for name in ("threads", "size", "batch", "micro_batch", "seconds")
    ]
    results: dict[str, Any] = {}
    record = {"flags": flags, "rounds": args.rounds, "versions": versions(), "rows": results}
    record["started"] = time.strftime("%Y-%m-%d")
    for row in (*ROWS, START):
        if args.only not in row:
            continue
        print(row, file=sys.stderr, flush=True)
        if row == START:
            results[row] = start(flags)
        else:
            ours, peers = ROWS[row]
            # Whose multiply-adds are counted: MobileNetV2's.
            extra = ["sgemm"] if row in ("fine-tune step", "forward") else []
            results[row] = measure([ours, *peers, *extra], flags, args.rounds)
        # What was measured stays, whatever happens to the next row.
        args.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(table(results, args.size))


if __name__ == "__main__":
    main()
