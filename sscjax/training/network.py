"""A network as it is trained: model, parameters, objective and where its weights come from."""

from __future__ import annotations

import dataclasses
from typing import Any

from sscjax.models import (
    Model,
    base,
)
from sscjax.models.pretrained import preprocessing
from sscjax.training import losses


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where the starting weights come from.

    Attributes:
      kind: 'file', or 'random'; the bundled backbone is a file.
      name: the file's name, or why the weights are random.
      sha256: of the file, or of the drawn parameters.
      convention: what the weights assume.
      fallback: whether the bundled backbone, or random weights, stand in for ImageNet's, which
        could not be had.
    """

    kind: str
    name: str
    sha256: str
    convention: preprocessing.Convention
    fallback: bool = False

    def identity(self) -> dict[str, Any]:
        """What must stay the same for a run to be resumed, JSON-ready."""
        return {
            "kind": self.kind,
            "sha256": self.sha256,
            "convention": self.convention.name,
            "fallback": self.fallback,
        }


@dataclasses.dataclass(frozen=True)
class Network:
    """A network ready to train.

    Attributes:
      model: the Linen module.
      params: all parameters by layer.
      batch_stats: all running averages by layer; empty without BatchNorm.
      objective: loss and probabilities.
      weights: where they come from.
    """

    model: Model
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    objective: losses.Objective
    weights: Weights

    @property
    def variables(self) -> dict[str, Any]:
        """All parameters and running averages, as `Model.apply` takes them."""
        return base.variables(self.params, self.batch_stats)
