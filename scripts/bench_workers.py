"""What `scripts/benchmark.py` measures: one framework per process, timed on demand.

    python scripts/bench_workers.py CASE [--threads=2 --size=128 --batch=32 --micro-batch=8]

A worker sets its case up, runs it once unmeasured, prints `ready` with the seconds that took, and
then answers each line on standard input with a line of JSON: seconds, seconds of processors, images
and peak resident bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clone import ROOT

# The reference models are those of the tests.
sys.path.insert(0, str(ROOT / "tests"))

LEARNING_RATE = 1e-4
FROZEN = 10
CLASSES = 3
# The FD-UNet of configs/fd_unet_three_class.py.
UNET: dict[str, Any] = {"depth": 3, "width": 8, "growth": 2, "layers_per_block": 4}
UNET_BATCH = 8

# What a step may do to its images first: fields of `augment.Changes`.
AUGMENT: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "place": {},
    "stain": {"turn": True, "stain": 0.2},
}

# Images of the paper's second study.
TRAINING, VALIDATION, TEST = 1512, 183, 192

Run = Callable[[], int]
"""Does the work once, to its end, and returns how many images that were."""


def images(args: argparse.Namespace, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 images [N,H,W,3] and labels [N] int32; the values do not change the time."""
    rng = np.random.default_rng(0)
    shape = (count, args.size, args.size, 3)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, CLASSES, count).astype(np.int32)


# ---- this package -------------------------------------------------------------------------------


def _program(args: argparse.Namespace, model: Any) -> Any:
    import jax.numpy as jnp

    from sscjax.data import augment
    from sscjax.training import losses, train_step

    changes = AUGMENT[args.augment]
    how = None if changes is None else augment.Changes(**changes)

    def inputs(stored: Any, key: Any) -> Any:
        pixels = stored.astype(jnp.float32)
        if how is not None and key is not None:
            pixels = augment.augment_batch(key, pixels, how)
        return pixels / 127.5 - 1.0

    return train_step.Program(
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
    from sscjax.training import train_step

    model = MobileNetV2(CLASSES)
    variables = random_weights.draw(model, args.size)
    predict = train_step.make_predict(_program(args, model))
    x = jnp.asarray(images(args, args.batch)[0])

    def run() -> int:
        np.asarray(predict(variables["params"], variables["batch_stats"], x))
        return args.batch

    return run


def sscjax_head(args: argparse.Namespace) -> Run:
    """Stage 1 of the paper's second study as a run does it: features, 200 epochs, checkpoints.

    Its images are the synthetic ones, drawn beforehand.
    """
    import tempfile

    from sscjax.configs import paper_three_class
    from sscjax.experiments import data_from_config, single_run
    from sscjax.training import frozen_features, loop, setup
    from sscjax.training.checkpoint import Checkpoints

    config = paper_three_class.get_config()
    config.pretrained = args.weights
    config.data.image_size, config.batch_size = args.size, args.batch
    config.micro_batch = args.micro_batch
    images = data_from_config.split_images(config, *data_from_config.load_images(config))
    network = setup.build_network(config, images, earlier_fallback=False)
    head = single_run.make_stages(config)[0]
    inputs = setup.make_inputs(config, network.weights.convention.scaling, online=False)

    def run() -> int:
        with (
            tempfile.TemporaryDirectory() as folder,
            Checkpoints(Path(folder), config.checkpoint.keep) as checkpoints,
        ):
            loop.run_stage(
                head,
                images,
                network,
                inputs,
                # Nothing is found from an earlier round.
                store=frozen_features.Store(Path(folder) / "features", 0),
                checkpoints=checkpoints,
                curves=[],
                on_epoch=lambda curves: None,
            )
        return head.epochs * TRAINING

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


def _keras_fit(args: argparse.Namespace, freeze: int | None, count: int, held_out: int = 0) -> Run:
    model = _keras_model(args, freeze)
    x, y = images(args, count + held_out)
    validation = (x[count:], y[count:]) if held_out else None

    def run() -> int:
        model.fit(
            x[:count],
            y[:count],
            batch_size=args.batch,
            epochs=1,
            verbose=0,
            validation_data=validation,
        )
        return count

    return run


def keras_finetune(args: argparse.Namespace) -> Run:
    """Eight steps of `fit`, so that its start and end weigh little."""
    return _keras_fit(args, FROZEN, 8 * args.batch)


def keras_head_epoch(args: argparse.Namespace) -> Run:
    """An epoch of the paper's second study with the base frozen, validation included."""
    return _keras_fit(args, None, TRAINING, VALIDATION)


def keras_finetune_epoch(args: argparse.Namespace) -> Run:
    """An epoch of the same with the first ten layers frozen."""
    return _keras_fit(args, FROZEN, TRAINING, VALIDATION)


def keras_forward(args: argparse.Namespace) -> Run:
    model = _keras_model(args, None)
    x, _ = images(args, 8 * args.batch)

    def run() -> int:
        model.predict(x, batch_size=args.batch, verbose=0)
        return len(x)

    return run


def write_weights(path: Path, size: int) -> None:
    """Random weights in Keras' format, for runs whose time is measured."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    shape = (size, size, 3)
    keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights=None).save_weights(
        path
    )


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
    *(sscjax_finetune, sscjax_forward, sscjax_cnn, sscjax_fd_unet, sscjax_head, plain_finetune),
    *(torch_finetune, torch_forward, torch_cnn, torch_fd_unet),
    *(keras_finetune, keras_forward, keras_head_epoch, keras_finetune_epoch, sgemm),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases = [*(case.__name__ for case in CASES), "write_weights"]
    parser.add_argument("case", choices=cases)
    parser.add_argument("--weights", default="", help="a file that `write_weights` made, or real")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--augment", choices=AUGMENT, default="nothing")
    parser.add_argument("--seconds", type=float, default=1.5, help="least time of an answer")
    args = parser.parse_args()
    # Every framework sizes its pool of threads by the processors it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    if args.case == "write_weights":
        write_weights(Path(args.weights), args.size)
        return
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
        found = {
            "seconds": time.perf_counter() - started,
            "busy": time.process_time() - busy,
            "images": count,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
