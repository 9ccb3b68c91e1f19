"""Tables of 0 to 3 rows, and what no result of a function on them may be."""

from __future__ import annotations

import dataclasses
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

import sscjax
from sscjax.errors import UserError
from sscjax.evaluation.predictions import Predictions

NAMES = ("normal", "early", "late")

_PACKAGE = sscjax.__path__[0]


@st.composite
def tables(draw: Callable[..., Any], least: int = 0) -> Predictions:
    """Up to three rows of up to three subjects, two or three classes, probabilities that tie."""
    rows, classes = draw(st.integers(least, 3)), draw(st.integers(2, 3))
    of = lambda most: np.array(draw(st.lists(st.integers(0, most), min_size=rows, max_size=rows)))  # noqa: E731
    odds = np.array(
        draw(
            st.lists(
                st.lists(st.sampled_from((0.0, 1.0, 2.0)), min_size=classes, max_size=classes),
                min_size=rows,
                max_size=rows,
            )
        )
    ).reshape(rows, classes)
    # A row without any odds is even.
    odds[odds.sum(1) == 0] = 1
    return Predictions(
        files=np.array([f"{row}.png" for row in range(rows)], str),
        subjects=np.array([f"s{owner}" for owner in of(2).tolist()], str),
        splits=np.array(["test"] * rows, str),
        labels=of(classes - 1).astype(np.int32),
        probabilities=odds / odds.sum(1, keepdims=True),
        classes=NAMES[:classes],
    )


def sound(name: str, function: Callable[[], Any], may_be_nan: tuple[str, ...] = ()) -> None:
    """Call a function; fail on a warning, on NaN, and on errors that the package did not mean.

    Args:
      name: for the message.
      function: that is called.
      may_be_nan: fields that are documented to be NaN where there is nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = function()
        except (UserError, ValueError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            assert last.filename.startswith(_PACKAGE) and (last.line or "").startswith("raise"), (
                f"{name}: {error!r} in {last.filename}:{last.lineno}"
            )
            return
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error
    place = _nan(result, may_be_nan)
    assert place is None, f"{name}: NaN at {place or 'its result'}: {result!r:.300}"


def _nan(value: Any, but: tuple[str, ...], path: str = "") -> str | None:
    """Where a result holds NaN; None if nowhere."""
    if isinstance(value, float | np.ndarray | np.floating):
        numbers = np.asarray(value)
        return path if numbers.dtype.kind == "f" and np.isnan(numbers).any() else None
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif dataclasses.is_dataclass(value):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    found = (_nan(part, but, f"{path}/{key}") for key, part in parts if key not in but)
    return next((place for place in found if place is not None), None)
