"""Every config loads, holds only known fields, and says what the paper says where it claims to."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from sscjax.configs import default
from sscjax.experiments import data_from_config
from sscjax.experiments.run_stages import make_stages
from sscjax.reports import paper
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
        *("best_two_class", "best_three_class"),
        *("fd_unet_two_class", "fd_unet_three_class", "mobilenet_unet_three_class"),
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config_has_only_documented_fields(name: str) -> None:
    config, known = _config(name), default.get_config()
    assert config.name == name
    assert set(config.keys()) == set(known.keys())
    for block in (
        "data",
        "split",
        "augment",
        "model",
        "loss",
        "select",
        "checkpoint",
        "cv",
        "features",
        "scratch",
    ):
        assert set(config[block].keys()) == set(known[block].keys())
    fields = set(default.stage().keys())
    for stage in config.stages.keys():
        assert set(config.stages[stage].keys()) == fields
    assert set(config.stage_order) == set(config.stages.keys())
    assert make_stages(config)


def test_a_stage_of_the_config_has_the_fields_and_defaults_of_its_settings() -> None:
    assert default.stage().to_dict() == dataclasses.asdict(StageSettings())


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
    before = data_from_config.parse_pairs(config.augment.counts_before_split, ":", "augment")
    counts = data_from_config.parse_pairs(config.split.counts, ":", "split.counts")
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
