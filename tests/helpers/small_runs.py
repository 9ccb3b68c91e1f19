"""Runs small enough for tests: a CNN of one block on 48 synthetic tiles of 32x32 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from sscjax.configs import smoke
from sscjax.data import synthetic
from sscjax.data.dataset import Images
from sscjax.experiments import data_from_config, single_run, summarize
from sscjax.reports import html
from sscjax.training import settings


def small_config() -> ConfigDict:
    """Two stages of four epochs, a checkpoint after each epoch."""
    config = smoke.get_config()
    config.name = "small"
    config.data.synthetic.normal = 24
    config.data.synthetic.early = 12
    config.data.synthetic.late = 12
    for name in ("normal", "early", "late"):
        config.data.synthetic[f"{name}_subjects"] = 6
    config.model.name = "cnn"
    config.model.cnn_widths = (4,)
    config.model.cnn_dense = (8,)
    config.stages.head.epochs = 4
    config.stages.finetune.epochs = 4
    config.stages.finetune.freeze_first = 0
    config.stages.finetune.online_augment = True
    config.checkpoint.every_seconds = 0.0
    return config


def one_stage_config() -> ConfigDict:
    """The head alone, for two epochs: where a test is not about stages and resuming."""
    config = small_config()
    config.stage_order = ("head",)
    del config.stages.finetune
    config.stages.head.epochs = 2
    return config


def images_of(config: ConfigDict) -> Images:
    """The images of a run: loaded, split and augmented."""
    of_run = settings.read(config)
    return data_from_config.split_images(of_run, *data_from_config.load_images(of_run))


def written(folder: Path) -> dict[Path, int]:
    """When each file and folder below was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def write_folder(folder: Path, *, subjects: int = 6, tiles: int = 12) -> Path:
    """The synthetic set as PNG files and a manifest: `tiles` of each class."""
    names = ("normal", "early", "late")
    found = synthetic.skin_biopsies(
        image_size=32, tiles=dict.fromkeys(names, tiles), subjects=dict.fromkeys(names, subjects)
    )
    lines = ["file,label,subject"]
    for index, file in enumerate(found.files.tolist()):
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(found.images[index]).save(path)
        label = found.classes[found.labels[index]]
        lines.append(f"{file},{label},{found.subjects[index]}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def finished_run(folder: Path, images: Path, model: str, **changes: object) -> Path:
    """A run on a folder of images, without pictures and page; `a__b=1` sets config.a.b."""
    config = one_stage_config()
    config.data.path = str(images)
    config.model.name = model
    config.model.alpha = 0.35
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in changes.items()}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        patch.setattr(html, "write", lambda folder: ())
        single_run.run(config, folder)
    return folder


def put(path: Path, side: int = 32) -> Path:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
