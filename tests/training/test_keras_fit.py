"""Training against Keras' own `compile` and `fit`: the same weights, batches, losses and updates.

Keras runs on its JAX backend. Its `fit` goes through one epoch of ten batches without shuffling;
ours takes the same batches in the same order through `make_epoch`, with gradients summed over
micro-batches as in a run. No dropout, no augmentation: nothing is random.

Where Keras counts layers: `base.layers` begins with the InputLayer, `layer_names` after it. The
paper's ten frozen layers are `layer_names[:10]` and so `base.layers[:11]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import random_weights
from trees import assert_same

from sscjax.models import Model
from sscjax.models.cnn import CNN
from sscjax.models.mobilenet_v2 import MobileNetV2
from sscjax.models.pretrained.load import backbone_tree, load_backbone
from sscjax.models.pretrained.preprocessing import preprocess
from sscjax.training import class_weights as class_weights_module
from sscjax.training import freezing, optimizers, programs, train_step
from sscjax.training.losses import Objective

# Where it is installed, its backend must be chosen before it is imported.
keras_mobilenet_v2 = pytest.importorskip(
    "keras_mobilenet_v2", reason="Keras 3, the reference, is not installed"
)
keras: Any = pytest.importorskip("keras")

# Keras 3 converts its variables in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy",
)

STEPS, BATCH, CLASSES = 10, 16, 3
# Limits: losses, relative; parameters, absolute; all moves of the parameters, relative in norm.
# What differs is about 1e-6 of each. They leave room for one activation that lies within rounding
# of a bound of ReLU6 and falls on the other side elsewhere: its gradient comes or goes, and
# deep in the network, where channels have few pixels, that is 1 % of a step of the layers before.
LOSS, PARAMETER, MOVE = 1e-4, 1e-4, 2e-2


@pytest.fixture(autouse=True)
def broadcasting() -> Iterator[None]:
    """Keras broadcasts between ranks, which these tests otherwise forbid."""
    with jax.numpy_rank_promotion("allow"):
        yield


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images [N,size,size,3] uint8, labels [N], and the images of each step [S,B]."""

    images: np.ndarray
    labels: np.ndarray
    order: np.ndarray

    @property
    def class_weights(self) -> tuple[float, ...]:
        """Of the unequal classes, as a run weighs them."""
        return class_weights_module.class_weights("balanced", self.labels, CLASSES)


def examples(size: int, step_count: int = STEPS) -> Examples:
    """Blobs on noise, tinted by class, so that there is something to learn."""
    rng = np.random.default_rng(size)
    count = step_count * BATCH
    labels = rng.choice(CLASSES, count, p=(0.6, 0.3, 0.1)).astype(np.int32)
    coarse = rng.uniform(0, 200, (count, size // 8, size // 8, 3))
    coarse[np.arange(count), :, :, labels] += 55
    images = coarse.repeat(8, axis=1).repeat(8, axis=2) + rng.uniform(
        -20, 20, (count, size, size, 3)
    )
    order = rng.permutation(count).reshape(step_count, BATCH).astype(np.int32)
    return Examples(images.clip(0, 255).astype(np.uint8), labels, order)


def scaled(stored: Any, key: jax.Array | None) -> Any:
    return preprocess(stored, "minus_one_one")


# ---- Keras --------------------------------------------------------------------------------------


class Losses(keras.callbacks.Callback):
    """What `fit` logs after each batch, the mean since the epoch's start, as single batches'."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[tuple[float, float]] = []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        self.means.append((float(logs["loss"]), float(logs["unweighted"])))

    def of_batches(self) -> np.ndarray:
        """[S,2]: the loss with class weights, and without."""
        sums = np.array(self.means) * np.arange(1, len(self.means) + 1)[:, None]
        return np.diff(sums, axis=0, prepend=0.0)


def keras_fit(network: Any, optimizer: Any, given: Examples) -> np.ndarray:
    """Losses [S,2] of one epoch of Keras' `fit`: with class weights and without."""
    network.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalCrossentropy("unweighted", from_logits=True)],
    )
    order, losses = given.order.ravel(), Losses()
    network.fit(
        scaled(given.images[order], None),
        given.labels[order],
        batch_size=BATCH,
        epochs=1,
        shuffle=False,
        class_weight=dict(enumerate(given.class_weights)),
        callbacks=[losses],
        verbose=0,
    )
    return losses.of_batches()


class Classifier(keras.Model):
    """The base, global pooling and one dense layer.

    With `training=False` BatchNorm keeps to its running averages even in `fit`, while its scales
    and shifts can be trained. A subclass, because a functional network of Keras 3 hands `fit`'s
    `training=True` down to a base that it was built with as `base(x, training=False)`
    (github.com/keras-team/keras/issues/20285): its running averages then move.
    """

    def __init__(self, base: Any, *, training: bool | None) -> None:
        super().__init__()
        self.base, self.training = base, training
        self.pool = keras.layers.GlobalAveragePooling2D()
        self.dense = keras.layers.Dense(CLASSES, name="predictions")
        self.dense.build((None, base.output.shape[-1]))
        kernel = np.random.default_rng(1).normal(0, 0.05, self.dense.kernel.shape)
        self.dense.set_weights([kernel.astype(np.float32), np.zeros(CLASSES, np.float32)])

    def call(self, x: Any, training: bool | None = None) -> Any:
        mode = training if self.training is None else self.training
        return self.dense(self.pool(self.base(x, training=mode)))


def variables_of(network: Classifier, alpha: float, folder: Path) -> dict[str, Any]:
    """Keras' weights in our trees, by way of a file as in a run."""
    network.base.save_weights(folder / "keras.weights.h5")
    loaded = load_backbone(folder / "keras.weights.h5", *backbone_tree(alpha))
    kernel, bias = network.dense.get_weights()
    head = {"predictions": {"kernel": kernel, "bias": bias}}
    trees = {"params": {**loaded.params, **head}, "batch_stats": loaded.batch_stats}
    return jax.tree.map(np.array, trees)


# ---- ours ---------------------------------------------------------------------------------------


def our_fit(
    program: programs.Program,
    variables: dict[str, Any],
    labels: dict[str, str],
    optimizer: optax.GradientTransformation,
    given: Examples,
    stored: Any = None,
) -> tuple[train_step.TrainState, np.ndarray]:
    """The state after an epoch, and the losses [S,2] with class weights and without."""
    stored = given.images if stored is None else stored
    masked = freezing.freeze_mask(optimizer, labels)
    params, batch_stats = jax.tree.map(
        jnp.array, (variables["params"], variables.get("batch_stats", {}))
    )
    state = train_step.TrainState(jnp.int32(0), params, batch_stats, masked.init(params))
    run = train_step.make_epoch(program, masked, labels)

    @programs.jit
    def weighted(state: train_step.TrainState, x: jax.Array, labels: jax.Array) -> jax.Array:
        # What is differentiated; the step itself tells the loss without class weights.
        key = jax.random.key(0)
        fold = program.model.fold(state.params, state.batch_stats, program.folded)
        (logits, _), _ = program.logits(fold, state.batch_stats, program.inputs(x, None), key)
        objective = program.objective
        return (objective.losses(logits, labels) * objective.weights(labels)).mean()

    losses = []
    for batch in given.order:
        loss = float(weighted(state, stored[batch], given.labels[batch]))
        real = np.ones((1, BATCH), np.float32)
        state, sums = run(state, stored, given.labels, batch[None], real, jax.random.key(0))
        assert int(sums.count) == BATCH
        losses.append((loss, float(sums.loss) / BATCH))
    return state, np.array(losses)


def program_of(model: Model, given: Examples, **changes: Any) -> programs.Program:
    objective = Objective("softmax", class_weights=given.class_weights)
    settings = {"micro_batch": BATCH // 2, "inputs": scaled, **changes}
    return programs.Program(model, objective, **settings)


def rule(name: Any, rate: float) -> optax.GradientTransformation:
    return optimizers.make_optimizer(name, optimizers.make_schedule("constant", rate, steps=STEPS))


def assert_same_course(found: np.ndarray, reference: np.ndarray) -> None:
    """Losses of every batch, in which the class weights must be seen."""
    assert found.shape == reference.shape
    assert (np.abs(reference[:, 0] / reference[:, 1] - 1) > 10 * LOSS).all()
    errors = np.abs(found / reference - 1)
    print(f"losses: {reference[0, 0]:.3f} to {reference[-1, 0]:.3f}, error {errors.max():.1e}")
    assert errors.max() < LOSS, errors


def assert_same_end(found: Any, reference: Any, start: Any, labels: dict[str, str]) -> None:
    """Parameters after the last step; frozen ones are those of the start to the bit, in both."""
    errors, moves = {}, {}
    for name, label in labels.items():
        if label == freezing.FREEZE:
            assert_same(jax.tree.map(np.asarray, found[name]), start[name])
            assert_same(reference[name], start[name])
            continue
        for kind, expected in reference[name].items():
            errors[name, kind] = np.asarray(found[name][kind]) - expected
            moves[name, kind] = expected - start[name][kind]
    largest = {key: float(np.abs(error).max()) for key, error in errors.items()}
    worst = max(largest, key=lambda key: largest[key])
    error, move = (np.concatenate([*map(np.ravel, x.values())]) for x in (errors, moves))
    share = float(np.linalg.norm(error) / np.linalg.norm(move))
    farthest = float(np.abs(move).max())
    print(f"parameters: error {largest[worst]:.1e} in {worst}, moved {farthest:.1e}; {share:.1e}")
    # A limit below the moves, or standing still would do.
    assert farthest > 5 * PARAMETER
    assert largest[worst] < PARAMETER, f"{worst}: {largest[worst]:.1e}"
    assert share < MOVE


# ---- stages of fine-tuning ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "alpha", "size"),
    [
        pytest.param("head", 0.35, 64, marks=pytest.mark.slow),
        pytest.param("finetune", 0.35, 64, marks=pytest.mark.slow),
        pytest.param("finetune", 1.0, 96, marks=pytest.mark.exhaustive),
    ],
)
def test_stage(stage: Literal["head", "finetune"], alpha: float, size: int, tmp_path: Path) -> None:
    """Ten steps of Adam: of the dense layer alone, then of all but the first ten layers."""
    given, rate = examples(size), 1e-3 if stage == "head" else 1e-4
    base = keras_mobilenet_v2.build(alpha, size, seed=size)
    network = Classifier(base, training=False)
    start = variables_of(network, alpha, tmp_path)
    model = MobileNetV2(outputs=CLASSES, alpha=alpha)
    if stage == "head":
        base.trainable = False
    else:
        freeze(base, PAPER_LAYERS)
    labels = freezing.label_layers(
        model.layer_names,
        model.head_start,
        start["params"],
        trainable="head" if stage == "head" else "all",
        freeze_first=10,
    )
    trainable = {variable.path.split("/")[-2] for variable in network.trainable_variables}
    assert trainable == {name for name, label in labels.items() if label == freezing.TRAIN}

    reference = keras_fit(network, keras.optimizers.Adam(rate), given)
    expected = variables_of(network, alpha, tmp_path)
    assert_same(expected["batch_stats"], start["batch_stats"])

    program, stored = program_of(model, given), None
    if stage == "head":  # as in a run: on the outputs of the frozen layers, computed once
        end = model.features_end
        last = programs.make_features(program, end)
        stored = np.asarray(last(start["params"], start["batch_stats"], given.images))
        program = dataclasses.replace(program, first=end, micro_batch=0, inputs=lambda x, key: x)
    state, losses = our_fit(program, start, labels, rule("adam", rate), given, stored)
    assert int(state.step) == STEPS
    assert_same_course(losses, reference)
    assert_same(jax.tree.map(np.asarray, state.batch_stats), start["batch_stats"])
    assert_same_end(state.params, expected["params"], start["params"], labels)


PAPER_LAYERS = 1 + 10  # of Keras' `base.layers`: the InputLayer, and the paper's ten


def freeze(base: Any, layers: int) -> None:
    """Freeze `base.layers[:layers]`, the InputLayer among them, as users of Keras do."""
    assert isinstance(base.layers[0], keras.layers.InputLayer)
    for layer in base.layers[:layers]:
        layer.trainable = False


@pytest.mark.parametrize(
    ("layers", "freeze_first", "last", "frozen"),
    [
        (PAPER_LAYERS, 10, "block_1_expand_BN", 37_664),  # the paper's figure
        (10, 9, "block_1_expand", 37_472),  # what `base.layers[:10]` freezes
    ],
)
def test_counts_of_frozen_parameters(
    layers: int, freeze_first: int, last: str, frozen: int
) -> None:
    """Study 2 with four outputs: 192 parameters depend on whether the InputLayer is counted."""
    base = keras_mobilenet_v2.build(1.0, 128, seed=0)
    freeze(base, layers)
    assert base.layers[layers - 1].name == last
    assert sum(variable.value.size for variable in base.non_trainable_variables) == frozen

    model = MobileNetV2(outputs=4)
    assert model.layer_names[freeze_first - 1] == last
    variables = random_weights.shapes(model, 128)
    labels = freezing.label_layers(
        model.layer_names,
        model.head_start,
        variables["params"],
        trainable="all",
        freeze_first=freeze_first,
    )
    counts = freezing.count_parameters(variables["params"], variables["batch_stats"], labels)
    assert (counts.total, counts.frozen) == (2_263_108, frozen)


# ---- from random weights ------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_batch_norm_by_the_batch(tmp_path: Path) -> None:
    """A step of SGD of all layers, which shows the gradients, and the running averages after it.

    Of MobileNetV2: the CNN has no BatchNorm. The images and weights are such that no activation
    lies at a bound of ReLU6 (see `MOVE`); with seed 2 a single one does, by 3e-6.
    """
    alpha, size, rate = 0.35, 64, 2e-3
    given = examples(size, step_count=1)
    network = Classifier(keras_mobilenet_v2.build(alpha, size, seed=3), training=None)
    start = variables_of(network, alpha, tmp_path)
    sgd = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    reference = keras_fit(network, sgd, given)
    expected = variables_of(network, alpha, tmp_path)

    model = MobileNetV2(outputs=CLASSES, alpha=alpha)
    program = program_of(model, given, batch_statistics_from=0)
    labels = dict.fromkeys(start["params"], freezing.TRAIN)
    state, losses = our_fit(program, start, labels, rule("sgd", rate), given)
    assert_same_course(losses, reference)
    assert_same_end(state.params, expected["params"], start["params"], labels)
    errors = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - b).max()),
        state.batch_stats,
        expected["batch_stats"],
    )
    moves = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max()), start["batch_stats"], expected["batch_stats"]
    )
    worst, least = max(jax.tree.leaves(errors)), min(jax.tree.leaves(moves))
    print(f"running averages: moved at least {least:.1e}, error {worst:.1e}")
    assert worst < 1e-6 and least > 1e-4


@pytest.mark.slow
def test_cnn() -> None:
    """Ten steps of Adam of everything, which the CNN trains in its only stage."""
    size, rate = 32, 1e-3
    given = examples(size)
    model = CNN(outputs=CLASSES, widths=(8, 16), dense=(16,))
    start = jax.tree.map(np.array, random_weights.draw(model, size))
    layers = keras.layers
    network = keras.Sequential([keras.Input((size, size, 3))])
    for block, width in enumerate(model.widths, 1):
        for part in (1, 2):
            network.add(layers.Conv2D(width, 3, activation="relu", name=f"conv{block}_{part}"))
        network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    network.add(layers.Dense(16, activation="relu", name="dense1"))
    network.add(layers.Dense(CLASSES, name="predictions"))
    for name, leaves in start["params"].items():
        network.get_layer(name).set_weights([leaves["kernel"], leaves["bias"]])

    reference = keras_fit(network, keras.optimizers.Adam(rate), given)
    trained = {name: network.get_layer(name).get_weights() for name in start["params"]}
    expected = {name: {"kernel": kernel, "bias": bias} for name, (kernel, bias) in trained.items()}
    labels = dict.fromkeys(start["params"], freezing.TRAIN)
    state, losses = our_fit(program_of(model, given), start, labels, rule("adam", rate), given)
    assert_same_course(losses, reference)
    assert_same_end(state.params, expected, start["params"], labels)
