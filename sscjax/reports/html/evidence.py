"""What the leakage audit and the calibration wrote, made ready for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.reports import figures
from sscjax.reports.html.run_data import Folder
from sscjax.reports.html.sections import SPLIT_TITLES
from sscjax.system import formatting


def audit(folder: Folder) -> dict[str, Any] | None:
    """audit.json, the gravest findings first."""
    found = folder.optional["audit"]
    if found is None:
        return None
    order = {"leak": 0, "warning": 1, "note": 2}
    findings = sorted(found.get("findings", []), key=lambda one: order.get(one["severity"], 3))
    return {
        "n_images": found["n_images"],
        "n_subjects": found["n_subjects"],
        "seconds": found.get("seconds"),
        "findings": [_finding(one) for one in findings],
        "checks": found.get("checks", []),
    }


def _finding(found: Mapping[str, Any]) -> dict[str, Any]:
    """A finding with its examples as a table: columns are whatever fields the examples have."""
    examples = found.get("examples", [])
    columns = list(dict.fromkeys(key for example in examples for key in example))
    cells = [[_cell(example.get(key)) for key in columns] for example in examples]
    return {
        "severity": found["severity"],
        "title": found.get("title", found.get("kind", "")),
        "detail": found.get("detail", ""),
        "count": found.get("count"),
        "rows": [[key.replace("_", " ") for key in columns], *cells] if cells else [],
    }


def _cell(value: Any) -> str:
    if value is None:
        return formatting.UNDEFINED
    return formatting.number(value) if isinstance(value, float) else str(value)


def calibration(folder: Folder) -> dict[str, Any] | None:
    """calibration.json with its tables ready; of a protocol also a row for each fold."""
    found = folder.optional["calibration"]
    folds = [
        {"name": name, "temperature": one.get("temperature")}
        for name, fold in folder.folds.items()
        if (one := fold.optional["calibration"]) is not None
    ]
    if found is None and not folds:
        return None
    found = found or {}
    rows = []
    for split, states in (found.get("splits") or {}).items():
        for state in figures.calibration_states(found):
            if state in states:
                one = states[state]
                rows.append(
                    {
                        "split": SPLIT_TITLES.get(split, split),
                        "state": state,
                        "ece": _with_interval(one.get("ece"), one.get("ece_interval")),
                        "by_chance": formatting.number(one.get("ece_by_chance")),
                        "brier": _with_interval(one.get("brier"), one.get("brier_interval")),
                        "log_loss": formatting.number(_log_loss(found, split, state)),
                    }
                )
    return {
        "fitted_on": SPLIT_TITLES.get(found.get("fitted_on", ""), found.get("fitted_on", "")),
        "temperature": found.get("temperature"),
        "reason": found.get("reason") or "",
        "rows": rows,
        "threshold": _threshold(found.get("threshold")),
        "coverage": found.get("coverage") or [],
        "abstention": found.get("abstention"),
        "outliers": found.get("outliers"),
        "folds": folds,
    }


def _log_loss(found: Mapping[str, Any], split: str, state: str) -> float | None:
    pair = (found.get("log_loss") or {}).get(split)
    return None if not pair else pair[0 if state == "before" else 1]


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or not math.isfinite(value):
        return formatting.UNDEFINED
    return formatting.number(value) + (f" ({formatting.span('', interval)})" if interval else "")


_NAMES = {"ppv": "PPV", "npv": "NPV"}


def _threshold(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The operating point, with each figure on validation and on test side by side."""
    if not found:
        return None
    sides = {
        "validation": found.get("val") or {},
        "test": found.get("test") or {},
        "test subjects": (found.get("per_subject") or {}).get("test") or {},
    }
    sides = {title: side for title, side in sides.items() if side}
    names = [
        name
        for name in dict.fromkeys(name for side in sides.values() for name in side)
        if any(isinstance(side.get(name), Mapping) for side in sides.values())
    ]
    rows = [["figure", *(title for side in sides for title in (side, "95 % interval"))]]
    for name in names:
        cells = [_NAMES.get(name, name.replace("_", " "))]
        for side in sides.values():
            one = side.get(name)
            one = one if isinstance(one, Mapping) else {}
            cells.append(formatting.percent(one.get("value")))
            cells.append(formatting.span("accuracy", one.get("interval")))
        rows.append(cells)
    return {**{key: found.get(key) for key in ("rule", "positive", "value")}, "rows": rows}
