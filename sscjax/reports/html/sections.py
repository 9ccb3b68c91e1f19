"""What each section of the page says, as plain values: the templates only lay it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscjax.evaluation.predictions import Predictions
from sscjax.reports import paper as published
from sscjax.reports import site_table, tables, tested
from sscjax.reports.html import method
from sscjax.reports.html.run_data import Folder
from sscjax.reports.tested import names_subjects
from sscjax.system import formatting

SPLIT_TITLES = {"train": "Training", "val": "Validation", "test": "Test"}
MODEL_TITLES = {
    "mobilenet_v2": "MobileNetV2",
    "cnn": "CNN",
    "fd_unet": "UNet",
    "mobilenet_unet": "MobileNetV2 UNet",
}

# Rows of the table of subjects: beyond them the page points to predictions.csv.
MOST_SUBJECTS = 300


def model_title(model: Mapping[str, Any]) -> str:
    """What a network is called, by `config.model`."""
    if model["name"] == "fd_unet" and model["unet_block"] == "dense":
        return "Fully dense UNet"
    return MODEL_TITLES.get(model["name"], model["name"])


def plural(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def evaluated_split(folder: Folder) -> str:
    """The split whose figures are reported: 'test', or the last that has rows."""
    present = [split for split in ("test", "val", "train") if split in folder.metrics["splits"]]
    return present[0]


# ---- warnings and summary -----------------------------------------------------------------------


def warnings(folder: Folder) -> list[str]:
    """What a reader must know before any figure."""
    # What a fold warns of by itself need not hold of all together.
    lines = list(folder.metrics.get("warnings", []))
    if folder.repeated:
        lines.append(
            "SEVERAL TESTS OF AN IMAGE: tables of results aggregate all repeats; counts of images, "
            "curves and the table of subjects are of the first test of each image that was tested."
        )
    if not lines and "warnings" not in folder.metrics:
        lines = _warnings_of_record(folder)
    planned = (folder.optional["protocol"] or {}).get("folds")
    if (
        folder.is_cross_validation
        and isinstance(planned, list)
        and len(folder.folds) < len(planned)
    ):
        lines.append(f"NOT FINISHED: {len(folder.folds)} of {len(planned)} folds are here.")
    return [" ".join(line.split()) for line in dict.fromkeys(lines)]


def _warnings_of_record(folder: Folder) -> list[str]:
    """For folders written before warnings were kept with the figures."""
    lines = []
    if folder.record["data"]["synthetic"]:
        lines.append("SYNTHETIC IMAGES, drawn by a program: no figure says anything of patients.")
    weights = folder.record["weights"]
    if weights.get("fallback"):
        kind = "bundled" if weights.get("kind") == "file" else "random"
        lines.append(f"{tables.STAND_INS[kind]}: no ImageNet weights could be had.")
    if folder.config["split"]["by"] == "image":
        lines.append("SPLIT BY IMAGE: images of one subject stand in training and test alike.")
    return lines


def summary(folder: Folder) -> dict[str, Any]:
    """One sentence, and the figures that count most."""
    split = evaluated_split(folder)
    figures = folder.metrics["splits"][split]
    ranges = folder.metrics.get("test_intervals") or {} if split == "test" else {}
    cards = []
    for unit, key, title in (
        ("subject", "accuracy", "Accuracy per subject"),
        ("subject", "balanced_accuracy", "Balanced accuracy per subject"),
        ("subject", "macro_auroc", "Mean AUROC per subject"),
        ("image", "balanced_accuracy", "Balanced accuracy per image"),
    ):
        ours, interval = figures[unit], ranges.get(unit, {}).get(key)
        show = formatting.number if key == "macro_auroc" else formatting.percent
        cards.append(
            {
                "title": title,
                "value": show(ours[key]),
                "interval": formatting.span(key, interval) if interval else "",
                "of": f"{ours['n']:,} tests" if folder.repeated else plural(ours["n"], unit),
            }
        )
    test = folder.metrics.get("tested")
    return {
        "tested": tested.sentence(test) if test else "",
        "tested_detail": tested.detail(test) if test else "",
        "intended_use": " ".join(folder.config.get("intended_use", "").split()),
        "model": model_title(folder.config["model"]),
        "classes": folder.record["data"]["classes"],
        "split": split,
        # Of each the first test: of several repeats all tests stand behind the figures.
        "images": len(folder.predictions.where(split)),
        "subjects": figures["image"]["n_subjects"],
        "tests": figures["image"]["n"] if folder.repeated else 0,
        "by": folder.config["split"]["by"],
        "cards": cards,
        "named": names_subjects(folder.predictions),
        "sites_apart": bool((folder.metrics.get("sites") or {}).get("apart")),
    }


# ---- data ---------------------------------------------------------------------------------------


def flow(folder: Folder) -> dict[str, Any]:
    """Images and subjects on their way from the source into splits or folds."""
    table, data = folder.predictions, folder.record["data"]
    # Each fold has every image, while repeated hold-outs may have tested only some.
    all_images = next(iter(folder.folds.values())).predictions if folder.folds else table
    training = 0 if folder.is_cross_validation else data["training_images"]
    splits = []
    for split, title in SPLIT_TITLES.items():
        rows = table.where(split)
        if len(rows) and not folder.is_cross_validation:
            before = folder.config["augment"]["counts_before_split"]
            copied = split == "train" and (method.uses_copies(folder.config) or before)
            copies = training - len(rows) if copied else 0
            splits.append({"title": title, **_counts(rows, data["classes"]), "copies": copies})
    return {
        "source": data["source"],
        "private": bool(folder.config.get("private", False)),
        "skipped": list(data.get("skipped", {}).items()),
        "all": _counts(all_images, data["classes"]),
        "splits": splits,
        "folds": [_fold(name, fold) for name, fold in folder.folds.items()],
        "tested": _tested(folder, table, all_images) if folder.folds else "",
        "size": folder.config["data"]["image_size"],
        "preparation": method.preparation(folder),
        "split": folder.config["split"],
        "augmentation": method.augmentation(folder.config),
        "merge": folder.config["data"]["merge"],
    }


def _tested(folder: Folder, table: Predictions, read: Predictions) -> str:
    """How often the images were tested, and by a model that had seen what."""
    count, total = len(set(table.files.tolist())), len(set(read.files.tolist()))
    if folder.config["protocol"] == "repeated":
        often = f"Each hold-out is drawn again: {count:,} of {total:,} images were tested, some of "
        often += "them several times"
    elif count < total:
        often = f"{count:,} of {total:,} images were tested"
    else:
        often = "Every image was tested" + (" once in each repeat" if folder.repeated else " once")
    if folder.config["split"]["by"] == "image":
        return f"{often}. Split by image: a model may have seen other images of the same subject."
    unseen = "subject"
    if folder.metrics.get("sites", {}).get("apart"):
        unseen = "subject, nor any of its site"
    return f"{often}, by a model that saw no image of its {unseen}."


def _counts(table: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Images and subjects of a table, in all and by class; repeats of an image count once."""
    by_class = [
        {
            "name": name,
            "images": len(set(table.files[table.labels == index].tolist())),
            "subjects": len(set(table.subjects[table.labels == index].tolist())),
        }
        for index, name in enumerate(classes)
    ]
    return {
        "images": len(set(table.files.tolist())),
        "subjects": len(set(table.subjects.tolist())),
        "classes": by_class,
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
    }


# ---- results ------------------------------------------------------------------------------------


def results(folder: Folder) -> dict[str, Any]:
    """Tables of figures with their intervals; of a cross-validation also fold by fold."""
    by_split, ranges = folder.metrics["splits"], folder.metrics.get("test_intervals") or {}
    rows = tables.interval_rows(by_split["test"], ranges) if "test" in by_split and ranges else []
    return {
        "rows": rows,
        "subjects": ranges.get("image", {}).get("n_subjects"),
        "methods": tables.method_notes(ranges),
        "splits": [
            {"title": SPLIT_TITLES[split], "units": by_split[split]}
            for split in ("test", "val")
            if split in by_split
        ],
        "folds": [_fold(name, fold) for name, fold in folder.folds.items()],
        "procedure": _procedure(folder),
        "sites": _sites(folder.metrics.get("sites") or {}),
    }


def _sites(by_site: Mapping[str, Any]) -> dict[str, Any] | None:
    """Tables per site, of subjects and of images; None where no site is known."""
    if not by_site:
        return None
    units = [site_table.rows(by_site, unit) for unit in ("subject", "image")]
    return {"tables": units, "note": site_table.note(by_site)}


def _procedure(folder: Folder) -> list[list[str]]:
    """Means of the folds with intervals of the training procedure; [] where there are none."""
    ranges, means = folder.metrics.get("procedure_intervals"), folder.metrics.get("over_folds")
    if not ranges or not means:
        return []
    rows = [["mean of folds", "per image", "95 % interval", "per subject", "95 % interval"]]
    for name in ranges["image"]:
        show = formatting.percent if name in formatting.SHARES else formatting.number
        cells = [
            cell
            for unit in ("image", "subject")
            for cell in (
                show(means[unit][name]["mean"]),
                formatting.span(name, ranges[unit][name]),
            )
        ]
        rows.append([tables.figure_title(name), *cells])
    return rows


def paper(folder: Folder) -> dict[str, Any] | None:
    """The paper's figures beside the run's, or why there are none; None: see `paper.compares`."""
    if not published.compares(folder.config["name"]):
        return None
    classes, model = len(folder.record["data"]["classes"]), folder.config["model"]["name"]
    rows = tables.paper_rows(classes, model, folder.metrics["splits"])
    by = folder.config["split"]["by"] if names_subjects(folder.predictions) else "image"
    return {
        "rows": rows,
        "gap": "" if rows else tables.paper_gap(classes, model),
        "notes": tables.paper_notes(by, folder.record["data"]["synthetic"]) if rows else [],
        "title": f"{MODEL_TITLES.get(model, model)}, {classes} classes",
    }


def confusions(folder: Folder) -> list[dict[str, Any]]:
    """Matrices of counts with the share of each true class."""
    matrices = []
    for split in ("test", "val"):
        for unit, figures in folder.metrics["splits"].get(split, {}).items():
            indices = _shown_classes(figures, folder.record["data"]["classes"])
            rows = []
            for index in indices:
                counts = figures["confusion"][index]
                total = sum(counts)
                cells = [
                    {"count": counts[other], "share": counts[other] / total if total else 0.0}
                    for other in indices
                ]
                rows.append({"name": figures["classes"][index], "total": total, "cells": cells})
            title = f"{SPLIT_TITLES[split]}, {tables.UNITS[unit]}"
            title += ", all repeats" if folder.repeated else ""
            classes = [figures["classes"][index] for index in indices]
            matrices.append({"title": title, "classes": classes, "rows": rows})
    return matrices


def _shown_classes(figures: Mapping[str, Any], classes: Sequence[str]) -> list[int]:
    """All but outputs that stand for no class and that no image was predicted as."""
    confusion = figures["confusion"]
    return [
        index
        for index, name in enumerate(figures["classes"])
        if name in classes or any(row[index] for row in confusion) or any(confusion[index])
    ]


def subjects(folder: Folder) -> dict[str, Any]:
    """Each subject of that split: its label, its aggregated prediction, right or wrong."""
    split = evaluated_split(folder)
    images, table = folder.predictions.where(split), folder.subjects.where(split)
    names, group = np.unique(images.subjects, return_inverse=True)
    tiles = dict(zip(names.tolist(), np.bincount(group).tolist(), strict=True))
    right = np.bincount(group, images.predicted == images.labels).astype(int)
    tiles_right = dict(zip(names.tolist(), right.tolist(), strict=True))
    rows = []
    for index, name in enumerate(table.subjects.tolist()):
        label, predicted = int(table.labels[index]), int(table.predicted[index])
        rows.append(
            {
                "name": name,
                "label": table.classes[label],
                "prediction": table.classes[predicted],
                "probability": float(table.probabilities[index, predicted]),
                "of_label": float(table.probabilities[index, label]),
                "tiles": tiles[name],
                "tiles_right": tiles_right[name],
                "right": label == predicted,
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
