"""L2-regularised logistic regression on features, fitted to convergence by L-BFGS.

The loss is convex, so the result does not depend on where the fit starts, nor on a learning rate.
The strength of the penalty matters most where images are few; it is chosen by cross-validation over
the subjects of the training images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from sscjax.training.losses import Objective

# A change of the loss below this share of it ends the fit: the precision of float32. To compare two
# penalties in cross-validation a coarser one is enough.
_TOLERANCE, _COARSE_TOLERANCE = 1e-7, 1e-5

# Of the cross-validation that chooses a penalty.
FOLDS = 5

# Features whose deviation is below this share of the largest count as constant.
_SMALLEST_DEVIATION = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """A classifier.

    Attributes:
      kernel: [D,outputs] float32; logits are `features @ kernel + bias`.
      bias: [outputs] float32.
      loss: mean loss of the images it was fitted to, classes unweighted and without the penalty.
      accuracy: share of these images that it classifies correctly.
      iterations: evaluations of the loss and its gradient over all features.
    """

    kernel: np.ndarray
    bias: np.ndarray
    loss: float
    accuracy: float
    iterations: int


@dataclasses.dataclass(frozen=True)
class Choice:
    """The chosen strength of the penalty.

    Attributes:
      l2: the chosen strength.
      losses: mean weighted loss of held-out images by strength; empty where only one was given.
      folds: of the cross-validation; 0 where there was none.
    """

    l2: float
    losses: dict[float, float]
    folds: int


class Problem:
    """Features and labels, to be fitted with any strength and to any of the images.

    Features are standardised over all images given and divided by the root of their number, so
    that strengths mean the same for any features. The penalty is l2/2 times the sum of the squared
    kernel on that scale, beside the weighted MEAN of the losses.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        objective: Objective,
        outputs: int,
        *,
        max_iter: int = 200,
    ) -> None:
        """Set up; nothing is fitted yet.

        Args:
          features: [N,D] float32.
          labels: [N] int.
          objective: losses, with their class weights.
          outputs: number of logits.
          max_iter: iterations of L-BFGS, at most, for one fit.
        """
        features = np.asarray(features, np.float32)
        deviation = features.std(0)
        constant = deviation <= _SMALLEST_DEVIATION * deviation.max(initial=0.0)
        self._mean = features.mean(0)
        self._scale = np.where(constant, np.inf, deviation) * np.sqrt(features.shape[1])
        self._outputs, self._max_iter = outputs, max_iter
        self._labels = jnp.asarray(labels, jnp.int32)
        self._weights = np.asarray(objective.weights(self._labels))
        self._objective = objective
        self._features = jnp.asarray((features - self._mean) / self._scale)
        # XLA:CPU takes six times as long for the product with the transpose of a matrix of few
        # columns than for that with a matrix that is stored transposed.
        self._transposed = jnp.asarray(np.asarray(self._features).T.copy())
        # Arguments, not constants: as constants they would be copied into the programs.
        self._arrays = self._features, self._transposed, self._labels
        self._step, self._losses = jax.jit(self._penalised), jax.jit(self._each)

    def _split(self, flat: jax.Array) -> tuple[jax.Array, jax.Array]:
        return flat[: -self._outputs].reshape(-1, self._outputs), flat[-self._outputs :]

    def _logits(self, flat: jax.Array, features: jax.Array) -> jax.Array:
        kernel, bias = self._split(flat)
        return features @ kernel + bias[None]

    def _each(self, flat: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
        features, _, labels = arrays
        return self._objective.losses(self._logits(flat, features), labels)

    def _penalised(
        self, flat: jax.Array, weights: jax.Array, l2: jax.Array, arrays: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        """What is minimised, and its gradient."""
        features, transposed, labels = arrays
        kernel, _ = self._split(flat)
        total, slope = jax.value_and_grad(
            lambda logits: (weights * self._objective.losses(logits, labels)).sum()
        )(self._logits(flat, features))
        parts = ((transposed @ slope + l2 * kernel).ravel(), slope.sum(0))
        return total + 0.5 * l2 * jnp.square(kernel).sum(), jnp.concatenate(parts)

    def minimise(
        self,
        l2: float,
        chosen: np.ndarray | None = None,
        start: np.ndarray | None = None,
        tolerance: float = _TOLERANCE,
    ) -> tuple[np.ndarray, int]:
        """The flat parameters on the standardised scale, and how many evaluations it took.

        Args:
          l2: strength of the penalty, above 0.
          chosen: [N], the images to fit to (bool), or how often each counts; None: each once.
          start: where to begin; None for zeros.
          tolerance: relative change of the loss below which the fit ends.
        """
        weights = self._weights if chosen is None else self._weights * chosen
        shares = jnp.asarray(weights / weights.sum(), jnp.float32)
        strength = jnp.float32(l2)

        def step(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self._step(
                jnp.asarray(flat, jnp.float32), shares, strength, self._arrays
            )
            return float(value), np.asarray(slope, np.float64)

        size = (self._features.shape[1] + 1) * self._outputs
        begin = np.zeros(size) if start is None else start
        options = {"maxiter": self._max_iter, "ftol": tolerance, "gtol": 1e-6}
        result = scipy.optimize.minimize(step, begin, jac=True, method="L-BFGS-B", options=options)
        return result.x, int(result.nfev)

    def loss(self, flat: np.ndarray, chosen: np.ndarray | None = None) -> float:
        """Mean weighted loss of the chosen images, without the penalty."""
        weights = self._weights if chosen is None else self._weights * chosen
        losses = np.asarray(self._losses(jnp.asarray(flat, jnp.float32), self._arrays), np.float64)
        return float((weights * losses).sum() / weights.sum())

    def fit(self, l2: float) -> Linear:
        """The classifier fitted to all images, for features as they were given."""
        flat, iterations = self.minimise(l2)
        return self.classifier(flat, iterations)

    def classifier(self, flat: np.ndarray, iterations: int = 0) -> Linear:
        """Parameters on the standardised scale, converted to the scale of the given features."""
        parameters = jnp.asarray(flat, jnp.float32)
        losses = np.asarray(self._losses(parameters, self._arrays), np.float64)
        predicted = self._objective.probabilities(self._logits(parameters, self._features)).argmax(
            -1
        )
        kernel = flat[: -self._outputs].reshape(-1, self._outputs) / self._scale[:, None]
        bias = flat[-self._outputs :] - self._mean.astype(np.float64) @ kernel
        return Linear(
            kernel.astype(np.float32),
            bias.astype(np.float32),
            float(losses.mean()),
            float((predicted == self._labels).mean()),
            iterations,
        )

    def choose(self, strengths: Sequence[float], folds: np.ndarray) -> Choice:
        """The strength whose classifiers do best on images they were not fitted to.

        Args:
          strengths: candidates, each above 0.
          folds: [N] int from 0, the fold of each image; all images of a subject in one.
        """
        falling = sorted(set(strengths), reverse=True)
        if len(falling) == 1:
            return Choice(falling[0], {}, 0)
        losses = dict.fromkeys(falling, 0.0)
        for fold in np.unique(folds):
            held_out = folds == fold
            share = float((self._weights * held_out).sum() / self._weights.sum())
            flat: np.ndarray | None = None
            # The strongest first: each is a good start for the next.
            for l2 in falling:
                flat, _ = self.minimise(l2, ~held_out, flat, _COARSE_TOLERANCE)
                losses[l2] += share * self.loss(flat, held_out)
        return Choice(min(falling, key=losses.__getitem__), losses, len(np.unique(folds)))
