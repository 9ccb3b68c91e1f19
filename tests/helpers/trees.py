"""Comparing trees of arrays."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def assert_same(found: Any, expected: Any) -> None:
    """The same structure, namedtuples and all, and the same bytes, which NaN has too."""
    for a, b in _pairs(found, expected):
        assert a.tobytes() == b.tobytes()


def assert_close(found: Any, reference: Any, limit: float = 1e-5) -> None:
    """The same structure, and each array within `limit` of its reference's largest value."""
    for a, b in _pairs(found, reference):
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error < limit, f"{error:.1e} for shape {a.shape}"


def _pairs(found: Any, expected: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    structure: Any = jax.tree.structure(expected)
    assert jax.tree.structure(found) == structure
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in leaves]
    for a, b in pairs:
        assert a.shape == b.shape and a.dtype == b.dtype
    return pairs
