"""The interface of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sscjax.models.layers import KernelDraw


def variables(params: Mapping[str, Any], batch_stats: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and running averages as Linen's `apply` and the files of a model have them."""
    return {"params": params, "batch_stats": batch_stats}


class Model(Protocol):
    """What the rest of the package uses of a network."""

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Layers after the input, in order."""

    @property
    def head_start(self) -> int:
        """Index of the classifier's first layer in `layer_names`."""

    @property
    def features_end(self) -> int:
        """Layers before the classifier, whose input is features [B,D] or a map [B,h,w,D]."""

    @property
    def read_layers(self) -> tuple[str, ...]:
        """Layers [B,h,w,c] that the classifier reads, in order: by their means, or as they are."""

    @property
    def cut_points(self) -> tuple[int, ...]:
        """Layer counts after which a single activation is all that the rest needs."""

    @property
    def mask_classes(self) -> int:
        """Classes of the masks that `layers.MASK` predicts; 0 without that layer."""

    @property
    def norm_after(self) -> dict[str, str]:
        """The BatchNorm layer that follows each convolution, by the convolution's name."""

    def initializer(self, layer: str) -> KernelDraw:
        """How the kernel of a layer starts."""

    def fold(
        self, params: Mapping[str, Any], batch_stats: Mapping[str, Any], layers: int
    ) -> dict[str, Any]:
        """Parameters with BatchNorm folded into the kernels of the first `layers` layers."""

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """Linen's apply."""

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Linen's init."""
