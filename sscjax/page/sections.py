"""What each section of the page says, as plain values: the templates only lay it out."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax import pictures, report
from sscjax.metrics import Predictions
from sscjax.page.folder import EXPLANATIONS, Folder

SPLIT_TITLES = {"train": "Training", "val": "Validation", "test": "Test"}
MODEL_TITLES = {"mobilenet_v2": "MobileNetV2", "cnn": "CNN"}

# Rows of the table of subjects, and pictures in a gallery: beyond them the page points to files.
MOST_SUBJECTS = 300
MOST_PICTURES = 12

# Side in pixels to which pictures inside the page are reduced.
PICTURE_SIDE = 192


def plural(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def judged(folder: Folder) -> str:
    """The split whose figures count: 'test', or the last that has rows."""
    present = [split for split in ("test", "val", "train") if split in folder.metrics["splits"]]
    return present[0]


def names_subjects(predictions: Predictions) -> bool:
    """Whether any row's subject is more than the name of its file."""
    pairs = zip(predictions.subjects.tolist(), predictions.files.tolist(), strict=True)
    return any(subject != re.sub(r"#\d+$", "", file) for subject, file in pairs)


# ---- warnings and summary -----------------------------------------------------------------------


def warnings(folder: Folder) -> list[str]:
    """What a reader must know before any figure."""
    sources = [folder, *folder.folds.values()]
    said = [line for source in sources for line in source.metrics.get("warnings", [])]
    if not said and "warnings" not in folder.metrics:
        said = _warnings_of_record(folder)
    audit = folder.optional["audit"] or {}
    for finding in audit.get("findings", []):
        if finding.get("severity") == "leak":
            said.append(f"LEAKAGE: {finding.get('title', finding.get('kind', ''))}")
    if audit.get("protocol_allows_leakage"):
        said.append("LEAKAGE ALLOWED: the config asks for a protocol that leaks, as the paper's.")
    if folder.is_protocol and (folder.optional["protocol"] or {}).get("status") != "finished":
        said.append("NOT FINISHED: folds of this protocol may be missing.")
    return [" ".join(line.split()) for line in dict.fromkeys(said)]


def _warnings_of_record(folder: Folder) -> list[str]:
    """For folders written before warnings were kept with the figures."""
    found = []
    if folder.record["data"]["synthetic"]:
        found.append("SYNTHETIC IMAGES, drawn by a program: no figure says anything of patients.")
    if folder.record["weights"].get("fallback"):
        found.append("RANDOM starting weights: no ImageNet weights could be had.")
    if folder.config["split"]["by"] == "image":
        found.append("SPLIT BY IMAGE: images of one subject stand in training and test alike.")
    return found


def summary(folder: Folder) -> dict[str, Any]:
    """One sentence, and the figures that count most."""
    split = judged(folder)
    figures = folder.metrics["splits"][split]
    ranges = folder.metrics.get("test_intervals") or {} if split == "test" else {}
    cards = []
    for unit, key, title in (
        ("image", "accuracy", "Accuracy per image"),
        ("subject", "accuracy", "Accuracy per subject"),
        ("image", "balanced_accuracy", "Balanced accuracy per image"),
        ("image", "macro_auroc", "Mean AUROC per image"),
    ):
        ours, interval = figures[unit], ranges.get(unit, {}).get(key)
        show = report.number if key == "macro_auroc" else report.percent
        cards.append(
            {
                "title": title,
                "value": show(ours[key]),
                "interval": report.span(key, interval) if interval else "",
                "of": plural(ours["n"], unit),
            }
        )
    return {
        "model": MODEL_TITLES.get(folder.config["model"]["name"], folder.config["model"]["name"]),
        "classes": folder.record["data"]["classes"],
        "split": split,
        "images": figures["image"]["n"],
        "subjects": figures["image"]["n_subjects"],
        "by": folder.config["split"]["by"],
        "cards": cards,
        "named": names_subjects(folder.predictions),
    }


# ---- data ---------------------------------------------------------------------------------------


def flow(folder: Folder) -> dict[str, Any]:
    """Images and subjects on their way from the source into splits or folds."""
    table, data = folder.predictions, folder.record["data"]
    training = 0 if folder.is_protocol else data["training_images"]
    splits = []
    for split, title in SPLIT_TITLES.items():
        rows = table.where(split)
        if len(rows) and not folder.is_protocol:
            copies = training - len(rows) if split == "train" else 0
            splits.append({"title": title, **_counts(rows, data["classes"]), "copies": copies})
    return {
        "source": data["source"],
        "all": _counts(table, data["classes"]),
        "excluded": data.get("excluded", []),
        "splits": splits,
        "folds": [_fold(name, fold) for name, fold in folder.folds.items()],
        "protocol": folder.optional["protocol"],
        "size": folder.config["data"]["image_size"],
        "convention": folder.record["weights"].get("convention", ""),
        "split": folder.config["split"],
        "augment": folder.config["augment"],
        "merge": folder.config["data"]["merge"],
    }


def _counts(table: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Images and subjects of a table, in all and by class."""
    return {
        "images": len(table),
        "subjects": len(set(table.subjects.tolist())),
        "classes": [
            {
                "name": name,
                "images": int((table.labels == index).sum()),
                "subjects": len(set(table.subjects[table.labels == index].tolist())),
            }
            for index, name in enumerate(classes)
        ],
    }


def _fold(name: str, fold: Folder) -> dict[str, Any]:
    """A fold's sizes, and its own figures on the images that it alone tested."""
    figures = fold.metrics["splits"].get("test", {})
    sizes = {split: len(fold.predictions.where(split)) for split in SPLIT_TITLES}
    tested = fold.predictions.where("test")
    return {
        "name": name,
        "sizes": sizes,
        "subjects": len(set(tested.subjects.tolist())),
        "image": figures.get("image"),
        "subject": figures.get("subject"),
        "stage": fold.metrics.get("final_stage", ""),
    }


# ---- results ------------------------------------------------------------------------------------


def results(folder: Folder) -> dict[str, Any]:
    """Tables of figures with their intervals; of a protocol also fold by fold."""
    found, ranges = folder.metrics["splits"], folder.metrics.get("test_intervals") or {}
    rows = report.interval_rows(found["test"], ranges) if "test" in found and ranges else []
    return {
        "rows": rows,
        "subjects": ranges.get("image", {}).get("n_subjects"),
        "resamples": ranges.get("image", {}).get("resamples"),
        "splits": [
            {"title": SPLIT_TITLES[split], "units": found[split]}
            for split in ("test", "val")
            if split in found
        ],
        "stages": folder.metrics.get("stages", {}),
        "final": folder.metrics.get("final_stage", ""),
        "folds": [_fold(name, fold) for name, fold in folder.folds.items()],
    }


def paper(folder: Folder) -> dict[str, Any]:
    """The paper's figures beside the run's, or why there are none."""
    classes, model = len(folder.record["data"]["classes"]), folder.config["model"]["name"]
    rows = report.paper_rows(classes, model, folder.metrics["splits"])
    by = folder.config["split"]["by"] if names_subjects(folder.predictions) else "image"
    return {
        "rows": rows,
        "gap": "" if rows else report.paper_gap(classes, model),
        "notes": report.paper_notes(by, folder.record["data"]["synthetic"]) if rows else [],
        "title": f"{MODEL_TITLES.get(model, model)}, {classes} classes",
    }


def confusions(folder: Folder) -> list[dict[str, Any]]:
    """Matrices of counts with the share of each true class."""
    found = []
    for split in ("test", "val"):
        for unit, figures in folder.metrics["splits"].get(split, {}).items():
            rows = []
            for name, counts in zip(figures["classes"], figures["confusion"], strict=True):
                total = sum(counts)
                cells = [
                    {"count": count, "share": count / total if total else 0.0} for count in counts
                ]
                rows.append({"name": name, "total": total, "cells": cells})
            # A column that nothing is and nothing is called says nothing.
            title = f"{SPLIT_TITLES[split]}, {report.UNITS[unit]}"
            found.append({"title": title, "classes": figures["classes"], "rows": rows})
    return found


def subjects(folder: Folder) -> dict[str, Any]:
    """Each subject that was judged: its label, the mean of its images, right or wrong."""
    split = judged(folder)
    images = folder.predictions.where(split)
    table = images.by_subject()
    tiles = {name: (images.subjects == name) for name in table.subjects.tolist()}
    rows = []
    for index, name in enumerate(table.subjects.tolist()):
        label, answer = int(table.labels[index]), int(table.predicted[index])
        own = tiles[name]
        rows.append(
            {
                "name": name,
                "label": table.classes[label],
                "answer": table.classes[answer],
                "probability": float(table.probabilities[index, answer]),
                "of_label": float(table.probabilities[index, label]),
                "tiles": int(own.sum()),
                "tiles_right": int((images.predicted[own] == images.labels[own]).sum()),
                "right": label == answer,
            }
        )
    rows.sort(key=lambda row: (row["right"], -row["probability"], row["name"]))
    return {
        "split": split,
        "rows": rows[:MOST_SUBJECTS],
        "left": max(0, len(rows) - MOST_SUBJECTS),
        "wrong": sum(not row["right"] for row in rows),
        "total": len(rows),
        "named": names_subjects(images),
    }


# ---- galleries ----------------------------------------------------------------------------------


def galleries(folder: Folder) -> dict[str, Any] | None:
    """Pictures of errors and right answers with their maps; of a protocol those of all folds."""
    sources = list(folder.folds.values()) if folder.is_protocol else [folder]
    found = [
        (source, source.optional["explanations"])
        for source in sources
        if source.optional["explanations"]
    ]
    if not found:
        return None
    entries = [(source, entry) for source, index in found for entry in index["images"]]
    entries.sort(key=lambda pair: -pair[1]["probability"])
    errors = [pair for pair in entries if not pair[1]["right"]]
    right = [pair for pair in entries if pair[1]["right"]]
    classes = folder.record["data"]["classes"]
    right.sort(key=lambda pair: (_place(classes, pair[1]["label"]), -pair[1]["probability"]))
    if folder.is_protocol:
        right = _first_of_each(right)
    return {
        "method": found[0][1]["method"],
        "layer": found[0][1]["layer"],
        "map_size": found[0][1]["map_size"],
        "split": found[0][1]["split"],
        "errors_in_all": sum(index["errors_in_all"] for _, index in found),
        "errors": [_picture(*pair) for pair in errors[:MOST_PICTURES]],
        "right": [_picture(*pair) for pair in right[:MOST_PICTURES]],
    }


def _place(classes: Sequence[str], name: str) -> int:
    return classes.index(name) if name in classes else len(classes)


def _first_of_each(pairs: list[tuple[Folder, dict[str, Any]]]) -> list[Any]:
    """At most two of each class."""
    taken: dict[str, int] = {}
    found = []
    for pair in pairs:
        label = pair[1]["label"]
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= 2:
            found.append(pair)
    return found


def _picture(source: Folder, entry: Mapping[str, Any]) -> dict[str, Any]:
    place = source.path / EXPLANATIONS
    return {
        **entry,
        "uri": pictures.data_uri(place / entry["image"], PICTURE_SIDE),
        "maps": [
            {
                "class": found["class"],
                "uri": pictures.data_uri(place / found["overlay"], PICTURE_SIDE),
            }
            for found in entry["maps"]
        ],
    }


# ---- provenance ---------------------------------------------------------------------------------


def provenance(folder: Folder) -> dict[str, Any]:
    """Everything that identifies the run and lets it be run again."""
    record, config = folder.record, folder.config
    stages = []
    for name, kept in folder.stages.items():
        course = kept["course"]
        counted = folder.metrics.get("stages", {}).get(name, {})
        stages.append(
            {
                "name": name,
                "epochs": course["epoch"],
                "best": course["best_epoch"] or None,
                "early": course["stopped_early"],
                "seconds": course["seconds"],
                "frozen": counted.get("frozen_parameters"),
                "trained": counted.get("trained_parameters"),
            }
        )
    manifest = folder.optional["manifest"]
    return {
        "stages": stages,
        "weights": record["weights"],
        "pretrained": config["pretrained"],
        "model": config["model"],
        "seed": config["seed"],
        "versions": record["versions"],
        "fingerprints": {
            key.removesuffix("_fingerprint") if key != "fingerprint" else "images": value
            for key, value in record["data"].items()
            if key.endswith("fingerprint")
        },
        "command": command(record),
        "config": [(key, _shown(value)) for key, value in flat(config)],
        "manifest": None if manifest is None else _outline(manifest),
    }


def command(record: Mapping[str, Any]) -> str:
    """The command line that began the run, '' where none was kept."""
    arguments = [part for part in record.get("command", []) if part.lstrip("-") != "fresh"]
    return shlex.join(["python", "-m", "sscjax.main", *arguments]) if arguments else ""


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every field of nested mappings with its dotted name, in their order."""
    found: list[tuple[str, Any]] = []
    for key, part in value.items():
        name = f"{prefix}{key}"
        found += flat(part, f"{name}.") if isinstance(part, Mapping) else [(name, part)]
    return found


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _outline(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Fields of a manifest: what is short as it is, what is long by its number of entries."""
    found = []
    for key, value in manifest.items():
        if isinstance(value, Mapping) and len(flat(value)) <= 12:
            found += [(f"{key}.{name}", _shown(part)) for name, part in flat(value)]
        elif isinstance(value, (list, Mapping)):
            found.append((key, plural(len(value), "entry").replace("entrys", "entries")))
        else:
            found.append((key, _shown(value)))
    return found


# ---- calibration --------------------------------------------------------------------------------


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
        for state in ("before", "after"):
            if state in states:
                one = states[state]
                rows.append(
                    {
                        "split": SPLIT_TITLES.get(split, split),
                        "state": state,
                        "ece": _with_interval(one.get("ece"), one.get("ece_interval")),
                        "brier": _with_interval(one.get("brier"), one.get("brier_interval")),
                        "log_loss": report.number(_log_loss(found, split, state)),
                    }
                )
    return {
        "fitted_on": SPLIT_TITLES.get(found.get("fitted_on", ""), found.get("fitted_on", "")),
        "temperature": found.get("temperature"),
        "rows": rows,
        "threshold": _threshold(found.get("threshold")),
        "coverage": found.get("coverage") or [],
        "abstention": [(key, _shown(value)) for key, value in flat(found.get("abstention") or {})],
        "outliers": found.get("outliers"),
        "folds": folds,
    }


def _log_loss(found: Mapping[str, Any], split: str, state: str) -> float | None:
    pair = (found.get("log_loss") or {}).get(split)
    return None if not pair else pair[0 if state == "before" else 1]


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or not math.isfinite(value):
        return report.UNDEFINED
    return report.number(value) + (f" ({report.span('', interval)})" if interval else "")


def _threshold(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The operating point, with each figure on validation and on test side by side."""
    if not found:
        return None
    sides = {side: found.get(side) or {} for side in ("val", "test")}
    names = [
        name
        for name in dict.fromkeys([*sides["val"], *sides["test"]])
        if any(isinstance(side.get(name), Mapping) for side in sides.values())
    ]
    rows = []
    for name in names:
        cells = [name.replace("_", " ")]
        for side in sides.values():
            one = side.get(name)
            one = one if isinstance(one, Mapping) else {}
            cells.append(report.percent(one.get("value")))
            cells.append(report.span("accuracy", one.get("interval")))
        rows.append(cells)
    return {"rule": found.get("rule"), "positive": found.get("positive"), "value": found.get("value"), "rows": rows}  # fmt: skip


def audit(folder: Folder) -> dict[str, Any] | None:
    """audit.json, the gravest findings first."""
    found = folder.optional["audit"]
    if found is None:
        return None
    order = {"leak": 0, "warning": 1, "note": 2}
    findings = sorted(found.get("findings", []), key=lambda one: order.get(one["severity"], 3))
    return {**found, "findings": findings, "checks": found.get("checks", [])}


def finite(values: Sequence[float | None]) -> list[float]:
    """The values with NaN where there is none."""
    return [math.nan if value is None else float(value) for value in values]


def corners(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """The points of a line without those that lie on the way between their neighbours."""
    if len(x) < 3:
        return x.tolist(), y.tolist()
    before = np.diff(x)[:-1] * np.diff(y)[1:] - np.diff(y)[:-1] * np.diff(x)[1:]
    keep = np.concatenate([[True], np.abs(before) > 1e-12, [True]])
    return x[keep].tolist(), y[keep].tolist()
