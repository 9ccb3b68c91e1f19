"""L2-regularised logistic regression on features, fitted to convergence by L-BFGS.

The loss is convex, so the result does not depend on where the fit starts, nor on a learning rate.
The strength of the penalty matters most where images are few; it is chosen by cross-validation over
the subjects of the training images.

A classifier that is fitted to convergence needs no validation images to say when to stop. What they
would be needed for besides, calibration and thresholds, is learnt from out-of-fold predictions:
each image is predicted by a classifier that was fitted to the other folds of subjects. The strength
of that classifier is chosen without the fold, too (nested cross-validation; Varma and Simon 2006,
BMC Bioinformatics 7: 91), so that the predictions are no better than those of new subjects.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import threadpoolctl

from sscjax.training.losses import Objective

# A change of the loss below this share of it ends the fit: the precision of float32. To compare two
# penalties in cross-validation a coarser one is enough.
_TOLERANCE, _COARSE_TOLERANCE = 1e-7, 1e-5

# Of the cross-validation that chooses a penalty.
FOLDS = 5

# Of the share that a class has in the loss.
_DIGITS = 6

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


@dataclasses.dataclass(frozen=True, eq=False)
class OutOfFold:
    """Predictions of images by classifiers that were not fitted to their folds.

    Attributes:
      probabilities: [N,C] float32.
      l2: the strength of each fold's classifier, by fold.
    """

    probabilities: np.ndarray
    l2: dict[int, float]


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    """The libraries that are loaded; finding them takes as long as a fit."""
    return threadpoolctl.ThreadpoolController()


class Problem:
    """Features and labels, to be fitted with any strength and to any of the images.

    Features are standardised over the images fitted to and divided by the root of the number of
    features, so that strengths mean the same for any features. The penalty is l2/2 times the sum of
    the squared kernel on that scale, beside the weighted MEAN of the losses. Where a part of the
    images is fitted to, nothing is taken from the others: the scale and the weights of classes are
    the part's own.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        objective: Objective,
        outputs: int,
        *,
        max_iter: int = 200,
        factors: np.ndarray | None = None,
    ) -> None:
        """Set up; nothing is fitted yet.

        Args:
          features: [N,D] float32.
          labels: [N] int.
          objective: losses, with their class weights.
          outputs: number of logits.
          max_iter: iterations of L-BFGS, at most, for one fit.
          factors: [D] float64 above 0, by which standardised features are multiplied: those of s
            are penalised by 1/s^2 of the strength; None: all by 1.
        """
        features = np.asarray(features, np.float32)
        deviation = features.std(0)
        constant = deviation <= _SMALLEST_DEVIATION * deviation.max(initial=0.0)
        self._mean = features.mean(0)
        self._factors = np.ones(features.shape[1]) if factors is None else factors
        self._scale = np.where(constant, np.inf, deviation) * np.sqrt(features.shape[1])
        if factors is not None:
            self._scale = self._scale / factors
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
        pull = l2[:, None] * kernel
        parts = ((transposed @ slope + pull).ravel(), slope.sum(0))
        return total + 0.5 * (pull * kernel).sum(), jnp.concatenate(parts)

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
        weights = self._weights_of(chosen)
        shares = jnp.asarray(weights / weights.sum(), jnp.float32)
        strengths = jnp.asarray(l2 * self._variances_of(chosen), jnp.float32)

        def step(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = self._step(
                jnp.asarray(flat, jnp.float32), shares, strengths, self._arrays
            )
            return float(value), np.asarray(slope, np.float64)

        size = (self._features.shape[1] + 1) * self._outputs
        begin = np.zeros(size) if start is None else start
        options = {"maxiter": self._max_iter, "ftol": tolerance, "gtol": 1e-6}
        # L-BFGS itself multiplies vectors: BLAS' threads make that five times slower, and their
        # number would decide the last bits.
        with _blas().limit(limits=1, user_api="blas"):
            result = scipy.optimize.minimize(
                step, begin, jac=True, method="L-BFGS-B", options=options
            )
        return result.x, int(result.nfev)

    def _weights_of(self, chosen: np.ndarray | None) -> np.ndarray:
        """[N] weights of the images in the loss; each class has the share that it has in all."""
        if chosen is None or not self._objective.class_weights:
            return self._weights if chosen is None else self._weights * chosen
        labels = np.asarray(self._labels)
        totals = np.bincount(labels, self._weights)
        counts = np.bincount(labels, chosen, minlength=len(totals))
        # Rounded: the last bits of balanced weights would tell of the labels of all images.
        shares = np.round(totals / totals.sum(), _DIGITS)
        return chosen * (shares / np.maximum(counts, 1))[labels]

    def _variances_of(self, chosen: np.ndarray | None) -> np.ndarray:
        """[D] variance of each feature over the chosen images, as a share of that over all.

        The penalty counts the kernel on the scale of the chosen images.
        """
        width = self._features.shape[1]
        if chosen is None:
            return np.ones(width)
        features = np.asarray(self._features)
        shares = (chosen / chosen.sum()).astype(np.float32)
        variances = shares @ np.square(features - shares @ features) * width
        variances = variances / np.square(self._factors)
        constant = variances <= _SMALLEST_DEVIATION**2 * variances.max(initial=0.0)
        # What is constant gets the kernel 0 under any penalty: the bias, which has none, serves.
        return np.where(constant, 1.0, variances)

    def fit(self, l2: float) -> Linear:
        """The classifier fitted to all images, for features as they were given."""
        flat, iterations = self.minimise(l2)
        return self.classifier(flat, iterations)

    def classifier(self, flat: np.ndarray, iterations: int = 0) -> Linear:
        """Parameters on the standardised scale, converted to the scale of the given features."""
        losses, predicted = self.losses(flat), self._probabilities(flat).argmax(-1)
        kernel = flat[: -self._outputs].reshape(-1, self._outputs) / self._scale[:, None]
        bias = flat[-self._outputs :] - self._mean.astype(np.float64) @ kernel
        return Linear(
            kernel.astype(np.float32),
            bias.astype(np.float32),
            float(losses.mean()),
            float((predicted == np.asarray(self._labels)).mean()),
            iterations,
        )

    def losses(self, flat: np.ndarray) -> np.ndarray:
        """Loss of each image, without weights and penalty: [N] float64."""
        return np.asarray(self._losses(jnp.asarray(flat, jnp.float32), self._arrays), np.float64)

    def _probabilities(self, flat: np.ndarray) -> np.ndarray:
        """[N,C] float32."""
        logits = self._logits(jnp.asarray(flat, jnp.float32), self._features)
        return np.asarray(self._objective.probabilities(logits))

    # --- cross-validation -------------------------------------------------------------------------

    def choose(self, strengths: Sequence[float], folds: np.ndarray) -> Choice:
        """The strength whose classifiers do best on images they were not fitted to.

        Args:
          strengths: candidates, each above 0.
          folds: [N] int from 0, the fold of each image; all images of a subject in one.
        """
        return self._choose(_Paths(self, strengths, folds))

    def cross_fit(self, strengths: Sequence[float], folds: np.ndarray) -> tuple[Choice, OutOfFold]:
        """The strength, as of `choose`, and a prediction of each image without its fold.

        Nothing of a fold's labels is used in its predictions: the strength of the classifier that
        predicts it is chosen by leaving out the other folds, one at a time, besides it. With two
        folds nothing would be left to fit to; it is then the middle one of the strengths.

        Args:
          strengths: candidates, each above 0.
          folds: as of `choose`, two or more.
        """
        paths = _Paths(self, strengths, folds)
        chosen: dict[int, float] = {}
        result: np.ndarray | None = None
        for fold in paths.folds:
            others = folds != fold
            chosen[fold] = middle(strengths)
            if len(paths.strengths) > 1 and len(paths.folds) > 2:
                losses = paths.losses([other for other in paths.folds if other != fold], fold)
                chosen[fold] = self._best(paths.strengths, losses, others)[0]
            flat, _ = self.minimise(chosen[fold], others, paths.of(fold)[chosen[fold]])
            predicted = self._probabilities(flat)
            result = np.zeros_like(predicted) if result is None else result
            result[~others] = predicted[~others]
        assert result is not None
        return self._choose(paths), OutOfFold(result, chosen)

    def _choose(self, paths: _Paths) -> Choice:
        if len(paths.strengths) == 1:
            return Choice(paths.strengths[0], {}, 0)
        every = np.ones(len(self._labels), bool)
        best, losses = self._best(paths.strengths, paths.losses(paths.folds), every)
        return Choice(best, losses, len(paths.folds))

    def _best(
        self, strengths: Sequence[float], losses: np.ndarray, chosen: np.ndarray
    ) -> tuple[float, dict[float, float]]:
        """The strength with the least mean weighted loss over the chosen images; that of each."""
        weights = self._weights_of(chosen)
        means = (losses @ weights / weights.sum()).tolist()
        return strengths[int(np.argmin(means))], dict(zip(strengths, means, strict=True))


def middle(strengths: Sequence[float]) -> float:
    """The strength that is taken where none can be chosen."""
    return sorted(strengths)[len(strengths) // 2]


class _Paths:
    """Classifiers of every strength, fitted without one fold or without two; each fitted once."""

    def __init__(self, problem: Problem, strengths: Sequence[float], folds: np.ndarray) -> None:
        # The strongest first: each is a good start for the next.
        self.strengths = sorted(set(strengths), reverse=True)
        self.folds: list[int] = np.unique(folds).tolist()
        self._problem, self._fold_of = problem, folds
        self._fitted: dict[tuple[int, ...], dict[float, np.ndarray]] = {}

    def of(self, *without: int) -> dict[float, np.ndarray]:
        """The parameters by strength, of classifiers that are fitted to all but these folds."""
        key = tuple(sorted(without))
        if key not in self._fitted:
            chosen = ~np.isin(self._fold_of, key)
            flat: np.ndarray | None = None
            self._fitted[key] = {}
            for l2 in self.strengths:
                flat, _ = self._problem.minimise(l2, chosen, flat, _COARSE_TOLERANCE)
                self._fitted[key][l2] = flat
        return self._fitted[key]

    def losses(self, folds: Sequence[int], *without: int) -> np.ndarray:
        """[S,N] loss of each image by each strength, where its fold was left out; else 0.

        Args:
          folds: whose images.
          without: folds that are left out besides.
        """
        losses = np.zeros((len(self.strengths), len(self._fold_of)))
        for fold in folds:
            inside = self._fold_of == fold
            for row, flat in enumerate(self.of(fold, *without).values()):
                losses[row, inside] = self._problem.losses(flat)[inside]
        return losses
