"""What the leakage audit and the calibration wrote, made ready for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.data import understood
from sscjax.reports import calibration_text, figures
from sscjax.reports.html.run_data import Folder
from sscjax.reports.tables import UNITS
from sscjax.system import formatting

# Of a finding on the page; audit.json has more.
MOST_EXAMPLES = 20


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
        "read": _read(content.get("understood")),
        "n_images": content["n_images"],
        "n_subjects": content["n_subjects"],
        "seconds": content.get("seconds"),
        "findings": [_finding(finding) for finding in findings],
        "checks": content.get("checks", []),
        "unchecked": content.get("unchecked", []),
    }


def _read(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """How the images were read, as a table and a list; None for images that are no files."""
    if not content:
        return None
    return {
        "classes": understood.class_rows(content),
        "rows": understood.rows(content),
    }


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding with its examples as a table: columns are whatever fields the examples have."""
    examples = finding.get("examples", [])
    more, examples = max(0, len(examples) - MOST_EXAMPLES), examples[:MOST_EXAMPLES]
    columns = list(dict.fromkeys(key for example in examples for key in example))
    cells = [[_cell(example.get(key)) for key in columns] for example in examples]
    return {
        "severity": finding["severity"],
        "title": finding.get("title", finding.get("kind", "")),
        "detail": finding.get("detail", ""),
        "count": finding.get("count"),
        "rows": [[key.replace("_", " ") for key in columns], *cells] if cells else [],
        "more": more,
    }


def _cell(value: Any) -> str:
    if value is None:
        return formatting.UNDEFINED
    return formatting.number(value) if isinstance(value, float) else str(value)


def calibration(folder: Folder) -> dict[str, Any] | None:
    """calibration.json with its tables ready, the subjects' part first; see `calibration_text`."""
    content = folder.optional["calibration"]
    folds = [
        {"name": name, **{unit: (quality.get(unit) or {}).get("temperature") for unit in UNITS}}
        for name, fold in folder.folds.items()
        if (quality := fold.optional["calibration"]) is not None
    ]
    if content is None and not folds:
        return None
    content = content or {}
    return {
        "held_out": content.get("held_out"),
        "held_out_line": calibration_text.held_out_line(content) if "held_out" in content else "",
        "aggregated": calibration_text.AGGREGATED.get(content.get("aggregation", ""), ""),
        "units": [_unit(unit, content[unit], folder.repeated) for unit in UNITS if unit in content],
        "flag": calibration_text.flag_lines(content["outliers"]) if "outliers" in content else [],
        "flag_method": (content.get("outliers") or {}).get("method", ""),
        "folds": folds,
    }


def _unit(unit: str, block: Mapping[str, Any], repeated: bool) -> dict[str, Any]:
    """What the page shows of a unit."""
    threshold = block["threshold"]
    return {
        "unit": unit,
        "rows_called": UNITS[unit],
        "line": calibration_text.temperature_line(block),
        "rows": _quality_rows(block),
        "positive": threshold["positive"],
        "value": threshold["value"],
        "rule": threshold["rule"],
        "threshold_rows": _threshold_rows(threshold, UNITS[unit]),
        "abstention": calibration_text.abstention_lines(block["abstention"], unit, repeated),
        "sets": calibration_text.set_lines(block["prediction_set"], unit, repeated),
    }


def _quality_rows(block: Mapping[str, Any]) -> list[list[str]]:
    """Calibration error, Brier's score and log loss, the test rows first."""
    lines = [["rows", "scaling", "expected calibration error", "by chance alone"]]
    lines[0] += ["Brier score", "log loss"]
    for table in ("test", "held_out"):
        states = block["splits"].get(table, {})
        for state in figures.calibration_states(block):
            if state in states:
                quality = states[state]
                # Chosen on these rows: an interval would say nothing.
                ends = ("ece_interval", "brier_interval") if table == "test" else ("", "")
                lines.append(
                    [
                        calibration_text.TABLES[table],
                        state,
                        _with_interval(quality.get("ece"), quality.get(ends[0])),
                        formatting.number(quality.get("ece_by_chance")),
                        _with_interval(quality.get("brier"), quality.get(ends[1])),
                        formatting.number(block["log_loss"][table][state == "after"]),
                    ]
                )
    return lines if len(lines) > 1 else []


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or not math.isfinite(value):
        return formatting.UNDEFINED
    return formatting.number(value) + (f" ({formatting.span('', interval)})" if interval else "")


_NAMES = {"ppv": "PPV", "npv": "NPV"}


def _threshold_rows(point: Mapping[str, Any], rows: str) -> list[list[str]]:
    """Figures at the operating point, of the test rows with intervals, then of the held-out."""
    test, held_out = point.get("test") or {}, point.get("held_out") or {}
    names = list(dict.fromkeys([*test, *held_out]))
    lines = [["figure", f"test {rows}", "95 % interval"] + [f"held-out {rows}"] * bool(held_out)]
    for name in names:
        figure = test.get(name) or {}
        cells = [_NAMES.get(name, name.replace("_", " ")), formatting.percent(figure.get("value"))]
        cells.append(formatting.span("accuracy", figure.get("interval")))
        if held_out:
            cells.append(formatting.percent((held_out.get(name) or {}).get("value")))
        lines.append(cells)
    return lines if names else []
