"""Image classifiers trained on small medical data sets, on an ordinary computer, in JAX.

The names below are imported when they are first used: `import sscjax` is quick and changes nothing.
See docs/notebook.md for all of them at work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sscjax.experiments.api import (
        Finetune,
        Head,
        ImageSet,
        Stage,
        UserError,
        create_model,
        evaluate,
        extract_features,
        fit,
        load,
        load_images,
        run,
    )

__version__ = "0.3.0"

__all__ = [
    "Finetune",
    "Head",
    "ImageSet",
    "Stage",
    "UserError",
    "create_model",
    "evaluate",
    "extract_features",
    "fit",
    "load",
    "load_images",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module("sscjax.experiments.api"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
