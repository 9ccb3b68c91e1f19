"""Vision transformers: their shapes by name, and the Linen module that all of them are."""

from __future__ import annotations

from sscjax.models.vit.architecture import ARCHITECTURES, Architecture
from sscjax.models.vit.module import VisionTransformer

__all__ = ["ARCHITECTURES", "Architecture", "VisionTransformer"]
