"""What a stage is fed: images, or the outputs of its frozen layers, computed once."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sscjax.data import lazy
from sscjax.data.dataset import Images, ImageSet
from sscjax.data.lazy import Rows
from sscjax.system.progress import Progress
from sscjax.training import frozen_features, programs
from sscjax.training.network import Network
from sscjax.training.stage import Stage

_LOG = logging.getLogger(__name__)


def prepare(
    stage: Stage,
    images: Images,
    network: Network,
    program: programs.Program,
    labels: dict[str, str],
    store: frozen_features.Store,
) -> tuple[programs.Program, Rows, Rows]:
    """Training inputs and inputs of all originals: images, or features of the frozen prefix.

    Args:
      stage: that is fed.
      images: the run's images.
      network: with the parameters that the stage starts from.
      program: how the network is run, from the image on.
      labels: 'train' or 'freeze' by layer name.
      store: where features are kept.

    Returns:
      how the network is run from what is stored on; what is trained on [M,...]; the same for all
      originals [N,...]. Where masks are trained nothing is computed ahead, and what is trained on
      has them as a fourth channel.
    """
    training = images.training_for(online=stage.online_augment)
    raw = training.images, images.originals.images
    if program.predicts_masks:
        assert training.masks is not None
        return program, lazy.Beside(training.images, training.masks), images.originals.images
    last = frozen_features.prefix_length(network.model, labels)
    if last == 0:
        return program, *raw
    if stage.online_augment:
        _LOG.info("stage %s: augmented online, so no features are computed ahead", stage.name)
        return program, *raw
    # The training set's originals are among the originals: only its copies are to be computed.
    chosen = np.flatnonzero(images.splits == "train")
    copies = training.take(np.arange(len(chosen), len(training)))
    parts = [part for part in (images.originals, copies) if len(part)]
    total = sum(map(len, parts))
    megabytes = _megabytes(network, last, (total, *parts[0].images.shape[1:]))
    held = megabytes <= stage.feature_megabytes
    if not held and not store.takes(megabytes * 2**20):
        _LOG.info(
            "stage %s: features of %d MB are over features.max_megabytes and disk_megabytes, so "
            "none are computed ahead",
            *(stage.name, megabytes),
        )
        return program, *raw
    with Progress("features", total) as progress:
        # The originals by themselves: other folds and seeds reuse them.
        features = lazy.Joined(
            [
                _features(stage, network, program, last, part, store, held, progress.advance)
                for part in parts
            ]
        )
    count = len(images.originals)
    of_training = np.concatenate([chosen, np.arange(count, total)])
    behind = _program_behind(program, last)
    return behind, lazy.View(features, of_training), lazy.View(features, np.arange(count))


def _program_behind(program: programs.Program, last: int) -> programs.Program:
    """How the network is run from the outputs of its first `last` layers on."""
    # A classifier alone is too little work for a loop over parts of the batch.
    micro_batch = 0 if last >= program.model.features_end else program.micro_batch
    return dataclasses.replace(
        program, inputs=lambda stored, key: stored, first=last, micro_batch=micro_batch
    )


def _megabytes(network: Network, last: int, images: tuple[int, ...]) -> float:
    """Size of the outputs of the first `last` layers for images [N,H,W,3]."""
    shape = frozen_features.prefix_shape(network.model, network.variables, last, images)
    return math.prod(shape) * np.dtype(np.float32).itemsize / 2**20


# What decides the features' bits, and where they go: all of it is needed, and here alone.
def _features(
    stage: Stage,
    network: Network,
    program: programs.Program,
    last: int,
    part: ImageSet,
    store: frozen_features.Store,
    held: bool,
    progress: Callable[[int], Any],
) -> Rows:
    """Outputs of the first `last` layers: read from the store, or computed and stored."""
    key = frozen_features.key(
        program,
        last,
        network.params,
        network.batch_stats,
        images=lazy.fingerprint(part.images),
        scaling=network.weights.convention.scaling,
        batch_size=stage.batch_size,
    )
    return frozen_features.compute(
        program,
        last,
        network.params,
        network.batch_stats,
        part.images,
        batch_size=stage.batch_size,
        progress=progress,
        entry=store.entry(key, held=held),
    )
