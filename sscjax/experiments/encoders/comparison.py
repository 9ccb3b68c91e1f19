"""Encoders compared: the same images, folds and repeats for all, and what their differences say."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import splits
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import calibration_error, paired_tests, repeated
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import frozen_head
from sscjax.experiments.encoders import features
from sscjax.experiments.encoders.features import Encoder
from sscjax.experiments.frozen_head import FrozenHead
from sscjax.system.progress import Progress

UNITS = ("subject", "image")


@dataclasses.dataclass(frozen=True)
class Options:
    """How encoders are compared.

    Attributes:
      folds: of each repeat.
      repeats: with other folds.
      seed: of folds, resamples and swaps.
    """

    folds: int = 5
    repeats: int = 5
    seed: int = 0

    def check(self) -> None:
        """Raise a UserError for a number out of its range."""
        for name, value, least in (("folds", self.folds, 2), ("repeats", self.repeats, 1)):
            if value < least:
                raise UserError(f"--{name}={value}: expected {least} or more")


def compare(texts: Sequence[str], config: ConfigDict, options: Options) -> dict[str, Any]:
    """Compare encoders on the images of a config; ready for JSON.

    Args:
      texts: two or more, as given to `--features`.
      config: names the images.
      options: folds and repeats.

    Returns:
      images, subjects, classes, folds, repeats; encoders: name, weights, parameters, megabytes,
      licence, images_per_second, features, and by unit the figures with their intervals; pairs:
      first, second and by unit and figure difference, interval, p, p_holm and subjects_to_tell.

    Raises:
      UserError: fewer than two encoders, one twice, features or weights that are not to be had, or
        too few subjects for the folds.
    """
    options.check()
    if len(texts) < 2 or len(set(texts)) < len(texts):
        raise UserError(f"--features {' '.join(texts)}: expected two or more different encoders")
    heads, encoders = _encode(texts, config)
    images = heads[0].images
    plan = _plan(images, options)
    tables: list[dict[str, list[Predictions]]] = []
    with Progress("classifiers", len(heads) * options.repeats * options.folds) as progress:
        for head in heads:
            repeats = [_repeat(head, folds, progress) for folds in plan]
            tables.append({"image": repeats, "subject": [one.by_subject() for one in repeats]})
    rows = [
        {**_facts(encoder), **{unit: _figures(of[unit], options.seed) for unit in UNITS}}
        for encoder, of in zip(encoders, tables, strict=True)
    ]
    return {
        "images": len(images),
        "subjects": len(set(images.subjects.tolist())),
        "classes": list(images.classes),
        "folds": options.folds,
        "repeats": options.repeats,
        "encoders": rows,
        "pairs": _pairs([encoder.name for encoder in encoders], tables, rows, options.seed),
    }


def _encode(texts: Sequence[str], config: ConfigDict) -> tuple[list[FrozenHead], list[Encoder]]:
    """Every encoder's features as a frozen head; files of features take the images of others."""
    encoders: list[Encoder] = []
    found: FrozenHead | None = None
    images: ImageSet | None = None
    for text in texts:
        encoder, head = features.encode(text, config, images)
        found = head or found
        if head is not None:
            if images is not None and not np.array_equal(images.files, head.images.files):
                raise UserError(f"--features {text} reads other images than the ones before it")
            images = head.images
        encoders.append(encoder)
    base = found or frozen_head.without_features(config)
    heads = [
        dataclasses.replace(
            base,
            features=np.concatenate(encoder.blocks, axis=1),
            widths=tuple(block.shape[1] for block in encoder.blocks),
        )
        for encoder in encoders
    ]
    return heads, encoders


def _plan(images: ImageSet, options: Options) -> list[np.ndarray]:
    """The fold of each image [N], for each repeat."""
    plan = []
    for repeat in range(options.repeats):
        seed = int(np.random.SeedSequence([options.seed, repeat]).generate_state(1)[0] >> 1)
        folds = splits.subject_folds(images, options.folds, seed)
        if folds.max(initial=0) + 1 < options.folds:
            raise UserError(
                f"--folds={options.folds}: a class has too few subjects for so many folds; lower it"
            )
        plan.append(folds)
    return plan


def _repeat(head: FrozenHead, folds: np.ndarray, progress: Progress) -> Predictions:
    """Every image predicted by a classifier that was fitted to the other folds."""
    images = head.images
    probabilities = np.zeros((len(images), len(images.classes)))
    for fold in range(int(folds.max()) + 1):
        test = np.flatnonzero(folds == fold)
        probabilities[test] = head.predict(np.flatnonzero(folds != fold), test)
        progress.advance(1)
    return Predictions(
        files=images.files,
        subjects=images.subjects,
        splits=np.full(len(images), "test"),
        labels=images.labels,
        probabilities=probabilities,
        classes=images.classes,
    )


def _facts(encoder: Encoder) -> dict[str, Any]:
    """Everything about an encoder but its features."""
    facts = {
        field.name: getattr(encoder, field.name)
        for field in dataclasses.fields(encoder)
        if field.name != "blocks"
    }
    return {**facts, "features": sum(block.shape[1] for block in encoder.blocks)}


def _figures(tables: Sequence[Predictions], seed: int) -> dict[str, Any]:
    """Means over the repeats, the calibration error among them."""
    subjects = len(set(tables[0].subjects.tolist()))
    values = repeated.figures(tables, np.ones((1, subjects)))
    ranges = repeated.intervals(tables, None, seed=seed)
    errors = [_calibration_error(table) for table in tables]
    found: dict[str, Any] = {
        name: {"value": float(values[name][0]), "interval": _listed(ranges[name])}
        for name in repeated.FIGURES
    }
    return {**found, "calibration_error": float(np.mean(errors))}


def _calibration_error(table: Predictions) -> float:
    edges = calibration_error.bin_edges(table.confidence)
    return calibration_error.expected_calibration_error(table, edges)


def _listed(interval: Sequence[float] | None) -> list[float] | None:
    return None if interval is None else [float(end) for end in interval]


def _pairs(
    names: Sequence[str],
    tables: Sequence[dict[str, list[Predictions]]],
    rows: Sequence[dict[str, Any]],
    seed: int,
) -> list[dict[str, Any]]:
    """Every two encoders; Holm's correction over all pairs, for each unit and figure."""
    pairs: list[dict[str, Any]] = []
    subjects = len(set(tables[0]["image"][0].subjects.tolist()))
    for one, other in itertools.combinations(range(len(names)), 2):
        pair: dict[str, Any] = {"first": names[one], "second": names[other]}
        for unit in UNITS:
            first, second = tables[one][unit], tables[other][unit]
            ranges = repeated.intervals(first, second, seed=seed)
            p_values = repeated.swap_p_values(first, second, seed)
            pair[unit] = {}
            for name in repeated.FIGURES:
                difference = rows[one][unit][name]["value"] - rows[other][unit][name]["value"]
                needed = repeated.subjects_to_tell(difference, ranges[name], subjects)
                pair[unit][name] = {
                    "difference": difference,
                    "interval": _listed(ranges[name]),
                    "p": p_values[name],
                    "subjects_to_tell": needed,
                }
        pairs.append(pair)
    for unit, name in itertools.product(UNITS, repeated.FIGURES):
        corrected = paired_tests.holm([pair[unit][name]["p"] for pair in pairs])
        for pair, p in zip(pairs, corrected, strict=True):
            pair[unit][name]["p_holm"] = p
    return pairs


def default_folder(path: Path) -> Path:
    """Where the comparison is written by default."""
    return Path("runs") / f"{path.resolve().name}_features"
