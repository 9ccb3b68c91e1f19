"""Tables of predictions made for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data.manifest import KEYS
from sscjax.evaluation import metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.system import files
from sscjax.system.run_dir import MANIFEST

CLASSES = ("normal", "early", "late")


def table(
    seed: int, of_class: tuple[int, int, int] = (3, 3, 2), images: int = 6, split: str = "test"
) -> Predictions:
    """Subjects of one class each, who differ in how hard they are."""
    rng = np.random.default_rng(seed)
    subjects = sum(of_class)
    owner = np.repeat(np.arange(subjects), images)
    labels = np.repeat(np.arange(3), of_class)[owner]
    skill = rng.normal(1.0, 1.0, subjects)
    logits = rng.normal(0, 1, (len(owner), 3))
    logits[np.arange(len(owner)), labels] += skill[owner]
    # Coarse, so that scores tie.
    odds = np.round(np.exp(logits), 1) + 0.1
    return Predictions(
        files=np.array([f"{index}.png" for index in range(len(owner))]),
        subjects=np.array([f"subject {index}" for index in owner]),
        splits=np.array([split] * len(owner)),
        labels=labels,
        probabilities=odds / odds.sum(1, keepdims=True),
        classes=CLASSES,
    )


def two_tables(
    seed: int,
    of_class: tuple[int, int, int] = (3, 3, 2),
    images: int = 6,
    gain: float = 0.0,
    own: float = 1.0,
) -> tuple[Predictions, Predictions]:
    """Two models on the same subjects: how hard a subject is they share, and each has its own.

    Args:
      seed: of everything random.
      of_class: subjects of each class.
      images: of each subject.
      gain: what the first model knows more.
      own: how much the two differ from subject to subject.
    """
    rng = np.random.default_rng(seed)
    subjects = sum(of_class)
    owner = np.repeat(np.arange(subjects), images)
    labels = np.repeat(np.arange(3), of_class)[owner]
    skill = rng.normal(0.8, 0.7, subjects)
    tables = []
    for better in (gain, 0.0):
        logits = rng.normal(0, 1, (len(owner), 3))
        logits[np.arange(len(owner)), labels] += (skill + rng.normal(better, own, subjects))[owner]
        odds = np.round(np.exp(logits), 1) + 0.1
        tables.append(
            Predictions(
                files=np.array([f"{index}.png" for index in range(len(owner))]),
                subjects=np.array([f"subject {index}" for index in owner]),
                splits=np.array(["test"] * len(owner)),
                labels=labels,
                probabilities=odds / odds.sum(1, keepdims=True),
                classes=CLASSES,
            )
        )
    return tables[0], tables[1]


def write_run(
    folder: Path, predictions: Predictions, *, hashes: dict[str, str] | None = None
) -> Path:
    """What a comparison needs of a run's folder; with `hashes`, its manifest's images too."""
    predictions.write_csv(folder / "predictions.csv")
    splits = metrics.figures_by_split(predictions, ordered=True)
    files.write_json(folder / "metrics.json", {"splits": splits})
    if hashes is not None:
        same = {"label": "a", "subject": "s", "split": "test", "of": "file"}
        rows = [{**same, "file": file, "sha256": value} for file, value in hashes.items()]
        manifest: dict[str, Any] = dict.fromkeys(KEYS)
        manifest |= {"images": rows, "sessions": [{}]}
        files.write_json(folder / MANIFEST, manifest)
    return folder
