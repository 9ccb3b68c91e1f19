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
    content = folder.optional["audit"]
    if content is None:
        return None
    order = {"leak": 0, "warning": 1, "note": 2}
    findings = sorted(
        content.get("findings", []), key=lambda finding: order.get(finding["severity"], 3)
    )
    return {
        "n_images": content["n_images"],
        "n_subjects": content["n_subjects"],
        "seconds": content.get("seconds"),
        "findings": [_finding(finding) for finding in findings],
        "checks": content.get("checks", []),
    }


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding with its examples as a table: columns are whatever fields the examples have."""
    examples = finding.get("examples", [])
    columns = list(dict.fromkeys(key for example in examples for key in example))
    cells = [[_cell(example.get(key)) for key in columns] for example in examples]
    return {
        "severity": finding["severity"],
        "title": finding.get("title", finding.get("kind", "")),
        "detail": finding.get("detail", ""),
        "count": finding.get("count"),
        "rows": [[key.replace("_", " ") for key in columns], *cells] if cells else [],
    }


def _cell(value: Any) -> str:
    if value is None:
        return formatting.UNDEFINED
    return formatting.number(value) if isinstance(value, float) else str(value)


def calibration(folder: Folder) -> dict[str, Any] | None:
    """calibration.json with its tables ready; of a cross-validation also a row for each fold."""
    content = folder.optional["calibration"]
    folds = [
        {"name": name, "temperature": quality.get("temperature")}
        for name, fold in folder.folds.items()
        if (quality := fold.optional["calibration"]) is not None
    ]
    if content is None and not folds:
        return None
    content = content or {}
    lines = []
    for split, states in (content.get("splits") or {}).items():
        for state in figures.calibration_states(content):
            if state in states:
                quality = states[state]
                lines.append(
                    {
                        "split": SPLIT_TITLES.get(split, split),
                        "state": state,
                        "ece": _with_interval(quality.get("ece"), quality.get("ece_interval")),
                        "by_chance": formatting.number(quality.get("ece_by_chance")),
                        "brier": _with_interval(
                            quality.get("brier"), quality.get("brier_interval")
                        ),
                        "log_loss": formatting.number(_log_loss(content, split, state)),
                    }
                )
    return {
        "fitted_on": SPLIT_TITLES.get(content.get("fitted_on", ""), content.get("fitted_on", "")),
        "temperature": content.get("temperature"),
        "reason": content.get("reason") or "",
        "rows": lines,
        "threshold": _threshold(content.get("threshold")),
        "coverage": content.get("coverage") or [],
        "abstention": content.get("abstention"),
        "outliers": content.get("outliers"),
        "folds": folds,
    }


def _log_loss(content: Mapping[str, Any], split: str, state: str) -> float | None:
    pair = (content.get("log_loss") or {}).get(split)
    return None if not pair else pair[0 if state == "before" else 1]


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or not math.isfinite(value):
        return formatting.UNDEFINED
    return formatting.number(value) + (f" ({formatting.span('', interval)})" if interval else "")


_NAMES = {"ppv": "PPV", "npv": "NPV"}


def _threshold(point: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The operating point, with each figure on validation and on test side by side."""
    if not point:
        return None
    sides = {
        "validation": point.get("val") or {},
        "test": point.get("test") or {},
        "test subjects": (point.get("per_subject") or {}).get("test") or {},
    }
    sides = {title: side for title, side in sides.items() if side}
    names = [
        name
        for name in dict.fromkeys(name for side in sides.values() for name in side)
        if any(isinstance(side.get(name), Mapping) for side in sides.values())
    ]
    lines = [["figure", *(title for side in sides for title in (side, "95 % interval"))]]
    for name in names:
        cells = [_NAMES.get(name, name.replace("_", " "))]
        for side in sides.values():
            figure = side.get(name)
            figure = figure if isinstance(figure, Mapping) else {}
            cells.append(formatting.percent(figure.get("value")))
            cells.append(formatting.span("accuracy", figure.get("interval")))
        lines.append(cells)
    return {**{key: point.get(key) for key in ("rule", "positive", "value")}, "rows": lines}
