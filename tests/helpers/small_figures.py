"""Learning curves to draw, and PNG files as pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def curve_rows(head: int = 6, finetune: int = 4) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(1, head + finetune + 1):
        row = {
            "epoch": epoch,
            "stage": "head" if epoch <= head else "finetune",
            "train_loss": 1 / 3 / epoch,
            "train_accuracy": 1 - 0.5 / epoch,
            "val_loss": 0.7 / epoch,
            "val_accuracy": 1 - 0.7 / epoch,
            "learning_rate": 1e-3,
        }
        rows.append(row)
    return rows


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)
