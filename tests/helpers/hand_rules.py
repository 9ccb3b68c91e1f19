"""Rules made by hand, so that tests know them."""

from __future__ import annotations

from typing import Any

from sscjax.evaluation.conformal import Sets
from sscjax.evaluation.rules import Rules, UnitRules


def unit_rules(**fields: Any) -> UnitRules:
    """Of two classes, called diseased from 0.5 on, answered from 0.6 on."""
    usual: dict[str, Any] = {
        "temperature": 1.0,
        "threshold": 0.5,
        "threshold_rule": "by hand",
        "confidence_threshold": 0.6,
        "abstention_rule": "by hand",
        "sets": Sets(0.9, (0.5, 0.7), True, 20, False),
    }
    return UnitRules(**{**usual, **fields})


def rules(subject: UnitRules | None = None, image: UnitRules | None = None, **fields: Any) -> Rules:
    """The same for subjects and images, but for what is given."""
    usual: dict[str, Any] = {"aggregation": "mean", "positive": "sick", "negative": "well"}
    return Rules(subject or unit_rules(), image or unit_rules(), **{**usual, **fields})
