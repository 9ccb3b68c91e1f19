"""One case of `benchmark.py` in a process of its own.

    python scripts/benchmark_cases.py sscjax_forward '{"size": 64}'

It runs the case once unmeasured, prints `ready` with the seconds that took, and then answers each
line on standard input with a line of JSON: seconds, processor seconds, and images. A case is a
function of the `Settings` that prepares its work and returns it as a `Run`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# The clone, and the reference models of its tests.
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

LEARNING_RATE = 1e-4
FROZEN = 10  # layers, as in configs/three_class.py
CLASSES = 3
# The FD-UNet of configs/fd_unet_three_class.py.
UNET: dict[str, Any] = {"depth": 3, "width": 8, "growth": 2, "layers_per_block": 4}
UNET_BATCH = 8

Run = Callable[[], int]
"""Does the work once, to its end, and returns how many images that were."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all cases share.

    Attributes:
      threads: of every framework's pool.
      size: height and width of the images in pixels.
      batch: images of a step.
      micro_batch: images of a part of it, in this package.
      seconds: least time of a measurement.
    """

    threads: int = 2
    size: int = 128
    batch: int = 32
    micro_batch: int = 8
    seconds: float = 1.5

    @property
    def of_unet(self) -> Settings:
        """Images of half the side, in small batches, as the UNets' configs have them."""
        return dataclasses.replace(self, size=self.size // 2, batch=UNET_BATCH)

    def images(self, batches: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Random uint8 images [N,H,W,3] and labels [N] int32; values do not change the time."""
        rng, count = np.random.default_rng(0), batches * self.batch
        pixels = rng.integers(0, 256, (count, self.size, self.size, 3), np.uint8)
        return pixels, rng.integers(0, CLASSES, count).astype(np.int32)


# ---- this package and plain Flax -----------------------------------------------------------------


def _network(name: str) -> Any:
    from sscjax import models

    networks: dict[str, Callable[[int], Any]] = {
        "mobilenet_v2": functools.partial(models.MobileNetV2, dropout_rate=0.2),
        "cnn": functools.partial(models.CNN, dropout_rate=0.5),
        "fd_unet": functools.partial(models.FDUNet, **UNET),
    }
    return networks[name](CLASSES)


def _program(settings: Settings, model: Any) -> Any:
    import jax.numpy as jnp

    from sscjax.training import losses, programs

    def inputs(images: Any, key: Any) -> Any:
        return images.astype(jnp.float32) / 127.5 - 1.0

    objective = losses.Objective("softmax")
    return programs.Program(model, objective, inputs, micro_batch=settings.micro_batch)


def _labels(model: Any, params: Any, freeze_first: int) -> Any:
    from sscjax.training import freezing

    return freezing.label_layers(
        model.layer_names, model.head_start, params, trainable="all", freeze_first=freeze_first
    )


def _sscjax_step(
    settings: Settings, network: str, freeze_first: int = 0, *, batch_norm_by_batch: bool = False
) -> Run:
    """A training step; networks from random weights normalise by the batch."""
    import jax
    import jax.numpy as jnp
    import random_weights

    from sscjax.training import freezing, optimizers, train_step

    model = _network(network)
    variables = random_weights.draw(model, settings.size)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    labels = _labels(model, params, freeze_first)
    schedule = optimizers.make_schedule("constant", LEARNING_RATE, steps=1)
    optimizer = freezing.freeze_mask(optimizers.make_optimizer("adam", schedule), labels)
    program = _program(settings, model)
    if batch_norm_by_batch:
        program = dataclasses.replace(program, batch_statistics_from=0, micro_batch=0)
    epoch = train_step.make_epoch(program, optimizer, labels)
    state = train_step.TrainState(jnp.int32(0), params, statistics, jax.jit(optimizer.init)(params))
    x, y = map(jnp.asarray, settings.images())
    order = np.arange(settings.batch, dtype=np.int32)[None]
    weights = np.ones((1, settings.batch), np.float32)

    def run() -> int:
        nonlocal state
        state, sums = epoch(state, x, y, order, weights, jax.random.key(0))
        float(sums.loss)
        jax.block_until_ready(state)
        return settings.batch

    return run


def sscjax_finetune(settings: Settings) -> Run:
    return _sscjax_step(settings, "mobilenet_v2", FROZEN)


def sscjax_cnn(settings: Settings) -> Run:
    return _sscjax_step(settings, "cnn")


def sscjax_fd_unet(settings: Settings) -> Run:
    return _sscjax_step(settings.of_unet, "fd_unet", batch_norm_by_batch=True)


def sscjax_forward(settings: Settings) -> Run:
    import jax.numpy as jnp
    import random_weights

    from sscjax.training import programs

    model = _network("mobilenet_v2")
    variables = random_weights.draw(model, settings.size)
    predict = programs.make_predict(_program(settings, model))
    x = jnp.asarray(settings.images()[0])

    def run() -> int:
        np.asarray(predict(variables["params"], variables["batch_stats"], x))
        return settings.batch

    return run


def plain_finetune(settings: Settings) -> Run:
    """The same step in Flax as usually written; only what trains is differentiated, too."""
    import jax
    import jax.numpy as jnp
    import optax
    import random_weights
    from flax_mobilenet_v2 import PlainMobileNetV2

    from sscjax.training import freezing

    model = _network("mobilenet_v2")
    plain, variables = PlainMobileNetV2(model), random_weights.draw(model, settings.size)
    labels = _labels(model, variables["params"], FROZEN)
    trained, frozen = freezing.partition(variables["params"], labels)
    optimizer = optax.adam(LEARNING_RATE)
    state = optimizer.init(trained)
    x, y = map(jnp.asarray, settings.images())

    @jax.jit
    def step(trained: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
        def loss(trained: Any) -> Any:
            both = {"params": {**frozen, **trained}, "batch_stats": variables["batch_stats"]}
            logits: Any = plain.apply(both, x.astype(jnp.float32) / 127.5 - 1.0)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, gradients = jax.value_and_grad(loss)(trained)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(trained, updates), state, value

    def run() -> int:
        nonlocal trained, state
        trained, state, value = step(trained, state, x, y)
        float(value)
        return settings.batch

    return run


# ---- PyTorch -------------------------------------------------------------------------------------


def _torch(settings: Settings, model: Any) -> tuple[Any, Any, Any, Any]:
    """The module, the model, images and labels: channels last, which is torch's fastest layout."""
    import torch

    torch.set_num_threads(settings.threads)
    layout = torch.channels_last
    pixels, labels = settings.images()
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    return torch, model.to(memory_format=layout), x, torch.from_numpy(labels).long()


def _torch_step(settings: Settings, model: Any) -> Run:
    torch, model, x, y = _torch(settings, model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, LEARNING_RATE, foreach=True)

    def run() -> int:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(x.float() / 127.5 - 1.0), y)
        loss.backward()
        optimizer.step()
        loss.item()
        return settings.batch

    return run


def torch_finetune(settings: Settings) -> Run:
    import torch_mobilenet_v2

    model = torch_mobilenet_v2.MobileNetV2(1.0, CLASSES)
    # The first ten Keras layers: the stem, the first block, and the expansion of the second.
    for module in (model.features[0], model.features[1], model.features[2].conv[0]):
        module.requires_grad_(False)
    model.eval()  # BatchNorm by its running averages
    model.classifier[0].train()
    return _torch_step(settings, model)


def torch_cnn(settings: Settings) -> Run:
    from torch import nn

    layers: list[Any] = []
    inputs, size = 3, settings.size
    for width in (32, 64, 128, 256):
        for channels in (inputs, width):
            layers += [nn.Conv2d(channels, width, 3), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        inputs, size = width, (size - 4) // 2
    head = [nn.Flatten(), nn.Dropout(0.5), nn.Linear(inputs * size * size, 128), nn.ReLU()]
    model = nn.Sequential(*layers, *head, nn.Dropout(0.5), nn.Linear(128, CLASSES))
    return _torch_step(settings, model)


def torch_fd_unet(settings: Settings) -> Run:
    import torch_fd_unet

    sizes = {"f": UNET["width"], "k": UNET["growth"], "count": UNET["layers_per_block"]}
    network = torch_fd_unet.Network(False, UNET["depth"], **sizes, masks=0, classes=CLASSES)
    # Of its outputs the classes' logits are the first.
    network.register_forward_hook(lambda module, inputs, outputs: outputs[0])
    return _torch_step(settings.of_unet, network.train())


def torch_forward(settings: Settings) -> Run:
    import torch_mobilenet_v2

    network = torch_mobilenet_v2.MobileNetV2(1.0, CLASSES).eval()
    torch, model, x, _ = _torch(settings, network)

    def run() -> int:
        with torch.inference_mode():
            model(x.float() / 127.5 - 1.0).softmax(-1).numpy()
        return settings.batch

    return run


# ---- Keras on TensorFlow -------------------------------------------------------------------------

# Steps of one `fit` or `predict`, so that its start and end weigh little.
KERAS_STEPS = 8


def _keras_model(settings: Settings, freeze_first: int | None) -> Any:
    """As Keras' own guide to transfer learning builds it; None freezes the complete base."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
    tf.config.threading.set_inter_op_parallelism_threads(settings.threads)
    shape = (settings.size, settings.size, 3)
    base = keras.applications.MobileNetV2(input_shape=shape, include_top=False, weights=None)
    if freeze_first is None:
        base.trainable = False
    else:
        for layer in base.layers[: freeze_first + 1]:  # the input is a layer there
            layer.trainable = False
    inputs = keras.Input(shape)
    x = base(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs), training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(CLASSES)(keras.layers.Dropout(0.2)(x))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
    return model


def keras_finetune(settings: Settings) -> Run:
    x, y = settings.images(KERAS_STEPS)
    fit = functools.partial(_keras_model(settings, FROZEN).fit, x, y, epochs=1)
    return lambda: (fit(batch_size=settings.batch, verbose=0), len(x))[1]


def keras_forward(settings: Settings) -> Run:
    x, _ = settings.images(KERAS_STEPS)
    predict = functools.partial(_keras_model(settings, None).predict, x)
    return lambda: (predict(batch_size=settings.batch, verbose=0), len(x))[1]


# ---- the machine, and the process ----------------------------------------------------------------


def sgemm(settings: Settings) -> Run:
    """NumPy's product of two 2048x2048 matrices; 'images' are millions of multiply-adds."""
    a = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)

    def run() -> int:
        for _ in range(4):
            a @ a
        return 4 * 2048**3 // 10**6

    return run


CASES = {
    case.__name__: case
    for case in (
        *(sscjax_finetune, sscjax_forward, sscjax_cnn, sscjax_fd_unet, plain_finetune),
        *(torch_finetune, torch_forward, torch_cnn, torch_fd_unet, keras_finetune, keras_forward),
        sgemm,
    )
}


def main() -> None:
    """Prepare the case, then measure it once per line of standard input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("settings", type=json.loads, help="fields of Settings, as JSON")
    given = parser.parse_args()
    settings = Settings(**given.settings)
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is not a result
    started = time.perf_counter()
    if given.case.startswith("sscjax"):
        from sscjax.system import terminal

        terminal.set_up_jax()
    run = CASES[given.case](settings)
    run()
    print(json.dumps({"ready": time.perf_counter() - started}), file=results, flush=True)
    for _ in sys.stdin:
        started, processors, count = time.perf_counter(), time.process_time(), 0
        while not count or time.perf_counter() - started < settings.seconds:
            count += run()
        measured = {
            "seconds": time.perf_counter() - started,
            "processor_seconds": time.process_time() - processors,
            "images": count,
        }
        print(json.dumps(measured), file=results, flush=True)


if __name__ == "__main__":
    main()
