"""What differs between the results of two runs: tables, predictions, figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.evaluation import metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.reports.tables import UNITS, figure_title
from sscjax.system import files, formatting, run_dir

# Files that must come out the same byte by byte, and files of figures that are compared one by one.
TABLES = (run_dir.SPLITS, run_dir.CURVES)
FIGURES = (run_dir.METRICS, run_dir.CALIBRATION)


def compare_outcomes(folder: Path, target: Path) -> dict[str, Any]:
    """What two runs' folders hold, compared; ready for JSON.

    Returns:
      identical: bool; tables: {file: identical}; predictions: {file: rows, differing, changed
      (rows of another class), largest (difference of a probability)}; n_figures; figures: a list
      of file, figure, then, now, difference of those that differ.
    """
    tables = {
        name: (folder / name).read_bytes() == _bytes(target / name)
        for name in TABLES
        if (folder / name).is_file()
    }
    run = run_dir.RunDir(folder)
    paths = [run.predictions]
    of_stages = [path for stage in run.stages() for path in (stage.predictions, stage.out_of_fold)]
    paths += [path for path in of_stages if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    predictions = {name: _compare_predictions(folder / name, target / name) for name in names}
    count, differing = 0, []
    for name in FIGURES:
        if (folder / name).is_file():
            then, now = _figures(folder / name), _figures(target / name)
            count += len(then)
            differing += [
                {"file": name, **_figure(key, then.get(key), now.get(key))}
                for key in sorted(then | now)
                if key not in then or key not in now or then[key] != now[key]
            ]
    same = all(tables.values()) and not differing
    same = same and not any(entry["differing"] for entry in predictions.values())
    return {
        "identical": same,
        "tables": tables,
        "predictions": predictions,
        "n_figures": count,
        "figures": differing,
    }


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _compare_predictions(then_path: Path, now_path: Path) -> dict[str, Any]:
    then = Predictions.read_csv(then_path)
    now = Predictions.read_csv(now_path)
    before, after = (
        {
            (file, split): (label, tuple(row))
            for file, split, label, row in zip(
                predictions.files.tolist(),
                predictions.splits.tolist(),
                predictions.labels.tolist(),
                predictions.probabilities.tolist(),
                strict=True,
            )
        }
        for predictions in (then, now)
    )
    common = [key for key in before if key in after and then.classes == now.classes]
    differing = [key for key in common if before[key] != after[key]]
    gaps = [np.abs(np.subtract(before[key][1], after[key][1])).max() for key in differing]
    classes = [(np.argmax(before[key][1]), np.argmax(after[key][1])) for key in differing]
    return {
        "rows": len(before),
        "differing": len(differing) + len(before.keys() | after.keys()) - len(common),
        "changed": sum(bool(one != other) for one, other in classes),
        "largest": float(max(gaps, default=0.0)),
    }


def _figures(path: Path) -> dict[str, Any]:
    """Every value of a JSON file by its place, as `splits.test.image.accuracy`."""
    if not path.is_file():
        return {}
    return dict(_flat(files.read_json(path), ""))


def _flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in pairs:
            yield from _flat(part, f"{place}.{key}" if place else str(key))
    else:
        yield place, value


def _figure(name: str, then: Any, now: Any) -> dict[str, Any]:
    numbers = all(isinstance(value, int | float) for value in (then, now))
    return {
        "figure": name,
        "then": then,
        "now": now,
        "difference": now - then if numbers else None,
    }


def outcome_text(name: str, outcome: Mapping[str, Any]) -> str:
    """One run's outcome in lines; each figure that differs is named."""
    predicted = sum(entry["rows"] for entry in outcome["predictions"].values())
    if outcome["identical"]:
        return (
            f"{name}: identical to the bit: {outcome['n_figures']} figures, "
            f"{predicted} predictions, {', '.join(outcome['tables'])}"
        )
    lines = [f"{name}: differs"]
    for file, same in outcome["tables"].items():
        lines.append(f"  {file}: {'identical' if same else 'differs'}")
    for file, entry in outcome["predictions"].items():
        if entry["differing"]:
            lines.append(
                f"  {file}: {entry['differing']} of {entry['rows']} rows differ, "
                f"{entry['changed']} in the class, probabilities by up to {entry['largest']:.3g}"
            )
        else:
            lines.append(f"  {file}: identical")
    rows = [["figure that differs", "then", "now", "difference"]]
    for entry in outcome["figures"]:
        gap = entry["difference"]
        cells = [repr(entry["then"]), repr(entry["now"]), "" if gap is None else f"{gap:+.3g}"]
        rows.append([formatting.clean_name(entry["figure"], 46), *(cell[:22] for cell in cells)])
    same = outcome["n_figures"] - len(outcome["figures"])
    lines.append(f"  figures: {same} of {outcome['n_figures']} identical")
    return "\n".join([*lines, *([formatting.align(rows)] if len(rows) > 1 else [])])


def figures_text(folder: Path, target: Path) -> str:
    """The overall test figures of both runs, and of each whether it is identical."""
    then, now = (_figures(path / run_dir.METRICS) for path in (folder, target))
    rows = [["test", "figure", "then", "now", ""]]
    for unit in UNITS:
        for name in metrics.OVERALL:
            key = f"splits.test.{unit}.{name}"
            before, after = then.get(key), now.get(key)
            if before is not None or after is not None:
                gap = _figure(key, before, after)["difference"]
                said = "identical" if before == after else f"{gap:+.3g}" if gap else "differs"
                cells = [formatting.number(before), formatting.number(after), said]
                rows.append([f"per {unit}", figure_title(name), *cells])
    return formatting.align(rows, left=2)
