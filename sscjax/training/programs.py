"""How a network runs in one stage: its programs compiled by XLA, whole or in micro-batches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sscjax.models import MASK, Model
from sscjax.training import freezing
from sscjax.training.losses import Objective

# XLA hands convolutions to a library (YNNPACK) that takes three times as long as its own code for
# some widths. Matrix products, which that library does well, stay with it.
_COMPILER_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


@functools.cache
def _compiler_options() -> dict[str, str]:
    """The options above, where this version of XLA knows them: they are experimental."""
    try:
        jax.jit(lambda: 0, compiler_options=_COMPILER_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _COMPILER_OPTIONS


def jit(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit` with the compiler options of all programs here."""
    return jax.jit(function, compiler_options=_compiler_options(), **options)


Inputs = Callable[[jax.Array, jax.Array | None], jax.Array]
"""Turns stored inputs [B,...] (uint8 images or features) into what the network is fed; the key is
None where nothing may be random."""


@dataclasses.dataclass(frozen=True)
class Program:
    """How a network is run in one stage.

    Attributes:
      model: the network.
      objective: turns logits into losses and probabilities.
      inputs: turns stored inputs into what layer `first` is fed.
      first: layers already applied to the stored inputs.
      batch_statistics_from: see `MobileNetV2.__call__`.
      micro_batch: images that go through the network at a time, so that their activations stay
        in the processor's cache; 0 takes the whole batch. Gradients are summed, so that the
        result is the whole batch's as long as BatchNorm uses its running averages.
      drawn_by: the micro-batch that dropout is drawn by, a multiple of `micro_batch`: one that is
        made smaller later changes no draw; 0: `micro_batch` itself.
    """

    model: Model
    objective: Objective
    inputs: Inputs
    first: int = 0
    batch_statistics_from: int | None = None
    micro_batch: int = 0
    drawn_by: int = 0

    @property
    def folded(self) -> int:
        """How many layers run with BatchNorm folded into their kernels while training."""
        layers = len(self.model.layer_names)
        return layers if self.batch_statistics_from is None else self.batch_statistics_from

    @property
    def predicts_masks(self) -> bool:
        """Whether masks are trained: they are then a fourth channel of what is stored."""
        return self.objective.segmentation > 0 and self.model.mask_classes > 0

    def logits(
        self,
        folded: freezing.Params,
        batch_stats: freezing.Params,
        x: jax.Array,
        key: jax.Array,
        drawn: tuple[int, jax.Array] | None = None,
    ) -> tuple[tuple[jax.Array, dict[str, jax.Array]], freezing.Params]:
        """Logits [B,outputs] in training and the running averages after this batch.

        `folded` are the parameters after `model.fold` of the first `self.folded` layers, `drawn`
        see `models.layers.dropout`. With the logits goes a dict: the masks' logits [B,H,W,M] by
        `MASK`, where they are trained.
        """
        capture = (MASK,) if self.predicts_masks else ()
        batch_from = self.batch_statistics_from
        result = self.model.apply(
            {"params": folded, "batch_stats": batch_stats},
            x,
            train=True,
            batch_statistics_from=batch_from,
            first=self.first,
            folded=self.folded,
            capture=capture,
            drawn=drawn,
            rngs={"dropout": key},
            mutable=["batch_stats"] if batch_from is not None else False,
        )
        if batch_from is not None:
            result, updated = result
            batch_stats = {**batch_stats, **updated["batch_stats"]}
        return (result if capture else (result, {})), batch_stats

    def outputs(
        self,
        params: freezing.Params,
        batch_stats: freezing.Params,
        stored: jax.Array,
        last: int | None = None,
        capture: str = "",
    ) -> jax.Array:
        """Output of the first `last` layers (None: logits) for `stored` [B,...], nothing random.

        With `capture` the output of that layer instead, which must be among them.
        """
        names = (capture,) if capture else ()
        output, captured = self.captured(params, batch_stats, stored, last, names)
        return captured[capture] if capture else output

    def captured(
        self,
        params: freezing.Params,
        batch_stats: freezing.Params,
        stored: jax.Array,
        last: int | None = None,
        names: tuple[str, ...] = (),
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Output of the first `last` layers, and of those of them that are named.

        Goes through the network in micro-batches if `micro_batch` says so.
        """
        layers = len(self.model.layer_names)
        variables = {
            "params": self.model.fold(params, batch_stats, layers),
            "batch_stats": batch_stats,
        }

        def apply(stored: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            x = self.inputs(stored, None)
            result = self.model.apply(
                variables,
                x,
                train=False,
                first=self.first,
                last=last,
                folded=layers,
                capture=names,
            )
            return result if names else (result, {})

        size, batch = self.micro_batch, len(stored)
        if size <= 0 or batch % size or batch == size:
            return apply(stored)
        outputs = jax.lax.map(apply, stored.reshape(batch // size, size, *stored.shape[1:]))
        return jax.tree.map(lambda leaf: leaf.reshape(batch, *leaf.shape[2:]), outputs)


def part_size(micro_batch: int, batch: int) -> int:
    """Images that go through a network at a time: the largest divisor of `batch` up to a limit.

    A `micro_batch` of 0 takes the whole batch.
    """
    if micro_batch <= 0:
        return batch
    return max(size for size in range(1, min(micro_batch, batch) + 1) if batch % size == 0)


def make_predict(program: Program) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,...]) -> probabilities [B,C], deterministic.

    Runs in micro-batches if `micro_batch` says so.
    """

    @jit
    def predict(
        params: freezing.Params, batch_stats: freezing.Params, stored: jax.Array
    ) -> jax.Array:
        return program.objective.probabilities(program.outputs(params, batch_stats, stored))

    return predict


def make_masks(program: Program) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,H,W,3]) -> masks [B,H,W] uint8, deterministic."""

    @jit
    def predict(
        params: freezing.Params, batch_stats: freezing.Params, stored: jax.Array
    ) -> jax.Array:
        logits = program.outputs(params, batch_stats, stored, capture=MASK)
        return logits.argmax(-1).astype(jnp.uint8)

    return predict


def make_features(program: Program, last: int) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, stored [B,...]) -> output of the first `last` layers."""
    return jit(functools.partial(program.outputs, last=last))
