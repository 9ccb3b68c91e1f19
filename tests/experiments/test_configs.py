"""Every config loads, holds only known fields, and says what the paper says where it claims to."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from sscjax.configs import default
from sscjax.data.settings import parse_pairs
from sscjax.reports import paper
from sscjax.training import settings
from sscjax.training.stage import StageSettings

FILES = Path(str(default.__file__)).parent.glob("[!_]*.py")
NAMES = sorted(path.stem for path in FILES)


def _config(name: str) -> ConfigDict:
    return importlib.import_module(f"sscjax.configs.{name}").get_config()


def test_every_wanted_config_is_there() -> None:
    wanted = {
        *("default", "two_class", "three_class", "cnn_two_class", "cnn_three_class"),
        *("paper_two_class", "paper_three_class", "smoke"),
        *("paper_cnn_two_class", "paper_cnn_three_class"),
        *("best", "best_two_class", "best_three_class"),
        *("fd_unet_two_class", "fd_unet_three_class", "mobilenet_unet_three_class"),
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config_has_only_documented_fields(name: str) -> None:
    config = _config(name)
    assert config.name == name
    # An unknown field, or one that is missing, is an error.
    stages = settings.read(config).ordered_stages()
    assert {stage.name for stage in stages} == set(config.stages.keys())


def test_the_config_has_the_fields_and_defaults_of_the_settings() -> None:
    """With the same types: 1 is neither 1.0 nor True."""
    config = default.get_config().to_dict()
    assert _typed(config) == _typed(dataclasses.asdict(settings.Settings()))
    assert _typed(default.stage().to_dict()) == _typed(dataclasses.asdict(StageSettings()))


def _typed(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _typed(value) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(map(_typed, values))
    return (type(values), values)


def test_every_field_is_documented() -> None:
    text = Path(str(default.__file__)).read_text(encoding="utf-8")
    before_stages = text.split("    config.stages.head = stage()")[0]
    # A comment may stand above several fields, but no field without one in its paragraph.
    for paragraph in before_stages.split("\n\n"):
        fields = [line for line in paragraph.splitlines() if line.strip().startswith("config.")]
        if any("ConfigDict()" not in line for line in fields):
            assert "# " in paragraph, paragraph


@pytest.mark.parametrize(("name", "classes"), [("paper_two_class", 2), ("paper_three_class", 3)])
def test_paper_configs_follow_the_paper(name: str, classes: int) -> None:
    config, study = _config(name), paper.STUDIES[classes]
    before = parse_pairs(config.augment.counts_before_split, ":", "augment")
    counts = parse_pairs(config.split.counts, ":", "split.counts")
    # train, val and test by class add up to the images after augmentation.
    for label, wanted in counts.items():
        assert sum(int(n) for n in wanted.split("/")) == int(before[label])
    totals = {2: (1888, 1512, 188, 188), 3: (1887, 1512, 183, 192)}[classes]
    assert sum(int(n) for n in before.values()) == totals[0]
    for place, total in enumerate(totals[1:]):
        assert sum(int(wanted.split("/")[place]) for wanted in counts.values()) == total
    assert config.model.outputs == study.outputs
    assert config.split.by == "image"
    assert config.stages.head.epochs == {2: 100, 3: 200}[classes]
    assert config.stages.finetune.freeze_first == {2: 0, 3: 10}[classes]


@pytest.mark.parametrize("classes", ("two", "three"))
def test_paper_cnn_has_the_same_images_and_120_epochs(classes: str) -> None:
    config, other = _config(f"paper_cnn_{classes}_class"), _config(f"paper_{classes}_class")
    for block in ("data", "split", "augment", "loss", "select"):
        assert config[block] == other[block]
    assert config.stage_order == ("train",) and config.stages.train.epochs == 120
    assert config.model.name == "cnn" and config.pretrained == "none"
