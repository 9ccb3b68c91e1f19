"""Classifiers of subjects from the features of all their images: a measured alternative.

`by_attention` is multiple-instance learning by gated attention (Ilse, Tomczak and Welling 2018,
ICML, arXiv:1802.04712) on features of the frozen network: what an image counts for in its subject
is learned from the labels of subjects. `by_means` is the linear classifier of subjects' mean
features, which tells whether it is attention, or one label for each subject, that makes a
difference. `recipe.py` measures both; docs/results.md has what came of it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import clone  # noqa: F401  (the package beside it)
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from scipy import special

from sscjax.data import splits
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.training import class_weights, evaluate, linear_probe, setup
from sscjax.training.losses import Objective

# Units of the tanh and of the gate.
HIDDEN = 64

# AdamW, all subjects in every step; the number of steps is chosen among multiples of the stride.
_RATE, _STRIDE, _STRIDES = 2e-3, 25, 12

# What else is chosen: the principal components that images are seen through, and the weight decay.
COMPONENTS, DECAYS = (16, 64), (0.01, 1.0)

# Networks whose probabilities are averaged: the loss is not convex, so each start ends elsewhere.
_STARTS = 3

# Numbers of images and subjects are rounded up to multiples, so that few programs are compiled.
_IMAGES, _SUBJECTS = 128, 8

Ask = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""f(features [N,D], group [N]) -> logits [S,C]; `group` is each image's subject, 0 to S-1."""


# --- subjects -------------------------------------------------------------------------------------


def subjects_of(images: ImageSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The subjects of N images, in the order of first appearance.

    Returns:
      the subject of each image, [N] int from 0 to S-1; the subjects' labels [S], those of
      `Predictions.by_subject`; the first image of each [S].
    """
    even = np.full((len(images), len(images.classes)), 1 / len(images.classes))
    labels = evaluate.table(images, np.full(len(images), "train"), even).by_subject().labels
    _, first, group = np.unique(images.subjects, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[group], labels, np.sort(first)


def memberships(group: np.ndarray, subjects: int, images: int) -> np.ndarray:
    """Which images are a subject's: [subjects,images] bool; what is beyond those given is nobody's.

    Args:
      group: [N] int, the subject of each image, from 0.
      subjects: rows.
      images: columns, N or more.
    """
    found = np.zeros((subjects, images), bool)
    found[group, np.arange(len(group))] = True
    return found


# --- the network ----------------------------------------------------------------------------------


class Weights(NamedTuple):
    """Of the network: D features, L = `HIDDEN` units, C classes."""

    tanh: jax.Array  # [D,L]
    tanh_bias: jax.Array  # [L]
    gate: jax.Array  # [D,L]
    gate_bias: jax.Array  # [L]
    score: jax.Array  # [L,1]
    kernel: jax.Array  # [D,C]
    bias: jax.Array  # [C]


def initial(key: jax.Array, features: int, classes: int) -> Weights:
    """Random attention, and a classifier of zeros."""
    draw, keys = jax.nn.initializers.lecun_normal(), jax.random.split(key, 3)
    return Weights(
        tanh=draw(keys[0], (features, HIDDEN)),
        tanh_bias=jnp.zeros(HIDDEN),
        gate=draw(keys[1], (features, HIDDEN)),
        gate_bias=jnp.zeros(HIDDEN),
        score=draw(keys[2], (HIDDEN, 1)),
        kernel=jnp.zeros((features, classes)),
        bias=jnp.zeros(classes),
    )


def _kernels(weights: Weights) -> Any:
    """Which of them decay: all but biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, weights)


def attention(weights: Weights, features: jax.Array, members: jax.Array) -> jax.Array:
    """What each image counts for in each subject: [S,N], each row with a member sums to 1.

    Args:
      weights: of the network.
      features: [N,D].
      members: [S,N] bool, the images of each subject; all others count for 0 there.
    """
    hidden = jnp.tanh(features @ weights.tanh + weights.tanh_bias[None])
    gate = jax.nn.sigmoid(features @ weights.gate + weights.gate_bias[None])
    scores = ((hidden * gate) @ weights.score)[:, 0]
    # Not minus infinity: a row that is padding has no member, and would have NaN for gradients.
    return jax.nn.softmax(jnp.where(members, scores[None], -1e9), axis=1)


def logits(weights: Weights, features: jax.Array, members: jax.Array) -> jax.Array:
    """Of each subject [S,C]: a linear classifier on the mean of its images, weighted by attention.

    Args:
      weights: of the network.
      features: [N,D].
      members: [S,N] bool, the images of each subject.
    """
    pooled = attention(weights, features, members) @ features
    return pooled @ weights.kernel + weights.bias[None]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _train(
    objective: Objective,
    classes: int,
    keys: jax.Array,
    decay: jax.Array,
    shares: jax.Array,
    data: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[Weights, jax.Array]:
    """Networks after each stride of training, and the logarithms of their probabilities.

    Args:
      objective: losses, without class weights.
      classes: C.
      keys: [R] random keys, one for each start.
      decay: weight decay.
      shares: [F,S] factors of the subjects' losses; a row for each part that is trained on.
      data: features [N,D], members [S,N] bool and labels [S].

    Returns:
      weights, each [F,R,T,...], and [F,R,T,S,C], where T is the number of strides.
    """
    features, members, labels = data
    optimizer = optax.adamw(_RATE, weight_decay=decay, mask=_kernels)

    def one(key: jax.Array, share: jax.Array) -> Any:
        def loss(weights: Weights) -> jax.Array:
            found = objective.losses(logits(weights, features, members), labels)
            return (share * found).sum()

        def step(state: Any, _: None) -> Any:
            weights, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(weights), moments, weights)
            return (optax.apply_updates(weights, updates), moments), None

        def stride(state: Any, _: None) -> Any:
            state, _ = jax.lax.scan(step, state, length=_STRIDE)
            return state, (state[0], jax.nn.log_softmax(logits(state[0], features, members)))

        start = initial(key, features.shape[1], classes)
        return jax.lax.scan(stride, (start, optimizer.init(start)), length=_STRIDES)[1]

    return jax.vmap(lambda share: jax.vmap(lambda key: one(key, share))(keys))(shares)


_logits = jax.jit(jax.vmap(logits, (0, None, None)))


# --- classifiers ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Components:
    """Principal components of standardised features, all on one scale: of mean square 1.

    Attributes:
      mean: [D] of the features.
      kernel: [D,K].
    """

    mean: np.ndarray
    kernel: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, count: int) -> Components:
        """Of features [N,D], `count` at most."""
        mean, deviation = features.mean(0), features.std(0)
        constant = deviation <= 1e-6 * deviation.max(initial=0.0)
        scale = np.where(constant, np.inf, deviation)
        standard = ((features - mean) / scale).astype(np.float64)
        # The smaller of the two products of the matrix with itself; its vectors are the same.
        values, vectors = np.linalg.eigh(standard @ standard.T)
        first = slice(-1, -1 - min(count, len(values)), -1)
        values, vectors = np.maximum(values[first], 1e-12), vectors[:, first]
        kernel = standard.T @ vectors / np.sqrt(values) / np.sqrt(values.mean() / len(features))
        return cls(mean, (kernel / scale[:, None]).astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """[N,K] float32."""
        return np.asarray((features - self.mean) @ self.kernel, np.float32)


def by_attention(config: ConfigDict, features: np.ndarray, training: ImageSet) -> Ask:
    """Gated attention; components, decay and steps are chosen by folds among the subjects.

    Args:
      config: of the protocol.
      features: [N,D] float32.
      training: the N images.
    """
    group, labels, parts, weights, objective = _setting(config, training)
    classes = len(training.classes)
    # The weights are in `shares`: as constants they would compile a program for each fold.
    objective = dataclasses.replace(objective, class_weights=())
    folds = parts == np.unique(parts)[:, None]
    if len(folds) < 2:
        raise UserError("nothing can be chosen by folds: some class has a single training subject")
    rows, subjects = _up(len(group), _IMAGES), _up(len(labels), _SUBJECTS)
    members = memberships(group, subjects, rows)
    padded = np.zeros(subjects, np.int32)
    padded[: len(labels)] = labels
    keys = jax.random.split(jax.random.key(config.seed), _STARTS)

    def train(seen: np.ndarray, decay: float, chosen: np.ndarray, starts: int) -> Any:
        """On subjects chosen [F,S]: as `_train`, without padding."""
        shares = np.zeros((len(chosen), subjects), np.float32)
        shares[:, : len(labels)] = chosen * weights
        shares /= shares.sum(1, keepdims=True)
        data = jnp.asarray(seen), jnp.asarray(members), jnp.asarray(padded)
        found, logs = _train(
            objective, classes, keys[:starts], jnp.float32(decay), jnp.asarray(shares), data
        )
        return found, np.asarray(logs)[..., : len(labels), :]

    best: tuple[float, Any] = (np.inf, None)
    for count in COMPONENTS:
        components = Components.of(features, count)
        seen = np.pad(components(features), ((0, rows - len(features)), (0, 0)))
        for decay in DECAYS:
            # Of one start: five folds tell the choices apart, and three starts take as many times.
            _, logs = train(seen, decay, ~folds, 1)
            right = logs[:, 0][..., np.arange(len(labels)), labels]  # [F,T,S]
            losses = -(right * (folds * weights)[:, None]).sum((0, 2)) / weights.sum()
            if losses.min() < best[0]:
                best = losses.min(), (components, seen, decay, int(losses.argmin()))
    components, seen, decay, stride = best[1]
    found, _ = train(seen, decay, np.ones((1, len(labels)), bool), _STARTS)
    networks = jax.tree.map(lambda leaf: leaf[0, :, stride], found)

    def ask(features: np.ndarray, group: np.ndarray) -> np.ndarray:
        members = jnp.asarray(memberships(group, group.max() + 1, len(group)))
        logs = jax.nn.log_softmax(_logits(networks, jnp.asarray(components(features)), members))
        return _together(np.asarray(logs)[None])[0]

    return ask


def by_means(config: ConfigDict, features: np.ndarray, training: ImageSet) -> Ask:
    """`linear_probe.Problem` on the mean features of each subject, its penalty chosen as for images.

    Args:
      config: of the protocol.
      features: [N,D] float32.
      training: the N images.
    """
    group, labels, parts, _, objective = _setting(config, training)
    stage, classes = config.stages.head, len(training.classes)
    problem = linear_probe.Problem(
        means(features, group), labels, objective, classes, passes=stage.epochs
    )
    found = problem.fit(problem.choose(stage.l2, parts).l2)
    return lambda features, group: means(features, group) @ found.kernel + found.bias


def means(features: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Mean features of each subject: [S,D] float32.

    Args:
      features: [N,D].
      group: [N] int, the subject of each, 0 to S-1.
    """
    shares = memberships(group, group.max() + 1, len(group)) / np.bincount(group)[:, None]
    return (shares @ features).astype(np.float32)


def _setting(
    config: ConfigDict, training: ImageSet
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Objective]:
    """What is fitted to.

    Returns:
      the subject of each image [N]; of each subject its label, its fold and the factor of its loss,
      [S] each; the losses, with the factors in them.
    """
    group, labels, first = subjects_of(training)
    parts = splits.subject_folds(training, linear_probe.FOLDS, config.seed)[first]
    classes = len(training.classes)
    factors = class_weights.class_weights(config.loss.class_weights, labels, classes)
    objective = dataclasses.replace(setup.make_objective(config, classes), class_weights=factors)
    weights = np.asarray(objective.weights(jnp.asarray(labels)))
    return group, labels, parts, weights, objective


def _together(logs: np.ndarray) -> np.ndarray:
    """Logarithms of the mean probabilities of several networks: [F,R,...] to [F,...]."""
    return special.logsumexp(logs, axis=1) - np.log(logs.shape[1])


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
