"""A stage that L-BFGS fits: one set of metrics and one checkpoint instead of epochs.

In a run that has no validation images, its metrics are those of out-of-fold predictions.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import jax.numpy as jnp
import numpy as np

from sscjax.data import splits
from sscjax.errors import UserError
from sscjax.training import freezing, linear_probe, validation
from sscjax.training.stage import StageProgress
from sscjax.training.stage_work import StageWork, snapshot
from sscjax.training.train_step import TrainState

_LOG = logging.getLogger(__name__)


def fit(work: StageWork, tree: dict[str, Any], progress: StageProgress) -> dict[str, Any]:
    """Fit the classifier to the features; changes `progress`, returns the checkpoint's tree.

    A stage that was fitted before is left as it is.

    Raises:
      UserError: the features are not computed ahead.
    """
    if progress.epoch:
        return tree
    stage, last, started = work.stage, tree["last"], time.monotonic()
    if work.program.first == 0:
        raise UserError(
            f"stage {stage.name}: optimizer='lbfgs' works on features that are computed ahead; "
            "raise config.features.max_megabytes"
        )
    [layer] = last["params"]
    problem = linear_probe.Problem(
        np.reshape(work.stored[:], (len(work.stored), -1)),
        work.training_labels,
        work.network.objective,
        last["params"][layer]["bias"].shape[0],
        max_iter=stage.epochs,
    )
    choice, out_of_fold = _cross_validate(work, problem)
    classifier = problem.fit(choice.l2)
    params = {
        layer: {"kernel": jnp.asarray(classifier.kernel), "bias": jnp.asarray(classifier.bias)}
    }
    state = TrainState(
        jnp.int32(classifier.iterations),
        freezing.combine(params, work.frozen),
        last["batch_stats"],
        tree["opt_state"],
    )
    if len(work.validation):
        held_out, value = validation.make_validate(work)(state, 1)
    else:
        held_out, value = validation.out_of_fold(work, out_of_fold)
    figures = {"train_loss": classifier.loss, "train_accuracy": classifier.accuracy, **held_out}
    progress.end_epoch(1, figures)
    progress.best_epoch, progress.best_value = 1, value
    progress.l2, progress.seconds = choice.l2, time.monotonic() - started
    work.on_epoch(progress.curves)
    best = None if stage.metric == "none" else snapshot(params, state.batch_stats)
    tree = work.checkpoint_tree(state, best, out_of_fold)
    work.save(progress, tree)
    _LOG.info(
        "stage %s: fitted by L-BFGS in %d evaluations, %s",
        *(stage.name, classifier.iterations, validation.summary(figures)),
    )
    return tree


def _cross_validate(
    work: StageWork, problem: linear_probe.Problem
) -> tuple[linear_probe.Choice, np.ndarray]:
    """The penalty, and out-of-fold probabilities as of `StageWork.no_out_of_fold`.

    Both by folds of the training subjects. A class with a single subject leaves no folds: then the
    penalty is the middle one, and there are no out-of-fold probabilities.
    """
    stage, out_of_fold = work.stage, work.no_out_of_fold()
    # Augmented copies are in the fold of their subject.
    folds = splits.subject_folds(work.images.training, linear_probe.FOLDS, stage.seed)
    if not folds.any():
        l2 = linear_probe.middle(stage.l2)
        if len(set(stage.l2)) > 1:
            _LOG.warning(
                "stage %s: too few subjects of a class to choose l2 by cross-validation: %g is "
                "taken",
                *(stage.name, l2),
            )
        return linear_probe.Choice(l2, {}, 0), out_of_fold
    if len(work.validation):
        choice = problem.choose(stage.l2, folds)
    else:
        choice, predicted = problem.cross_fit(stage.l2, folds)
        # The originals come first; copies of them are not predicted.
        out_of_fold = predicted.probabilities[: len(out_of_fold)]
    if choice.losses:
        losses = ", ".join(f"{l2:g}: {loss:.3f}" for l2, loss in choice.losses.items())
        _LOG.info(
            "stage %s: l2 %g, by %d-fold cross-validation over the training subjects (log loss %s)",
            *(stage.name, choice.l2, choice.folds, losses),
        )
    return choice, out_of_fold
