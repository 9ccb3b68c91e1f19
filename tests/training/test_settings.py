"""Settings: what a config becomes, and what is refused before anything is computed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from ml_collections import ConfigDict

from sscjax.configs import default
from sscjax.errors import UserError
from sscjax.experiments import overrides
from sscjax.models.factory import ModelSettings
from sscjax.training import settings
from sscjax.training.settings import OtherVersionError
from sscjax.training.stage import Stage


def test_what_a_config_says_is_in_the_settings() -> None:
    """Fields of every block, with values other than the defaults."""
    config = default.get_config()
    changed = {
        **{"seed": 5, "batch_size": 4, "micro_batch": 2, "pretrained_fallback": "random"},
        **{"data.image_size": 64, "data.seed": 7, "data.synthetic.early": 9, "split.val": 0.1},
        **{"split.test": 0.2, "augment.crop": 0.5, "augment.rot90": True, "model.alpha": 0.35},
        **{"scratch.momentum": 0.5, "loss.dice": 2.0, "select.metric": "log_loss"},
        **{"calibration.bins": 3, "checkpoint.keep": 4, "features.disk_megabytes": 5},
        **{"cv.folds": 3, "stages.head.l2": (0.5,), "stages.finetune.patience": 6},
    }
    overrides.set_fields(config, changed)
    flat = _flat(dataclasses.asdict(settings.read(config)))
    assert {name: flat[name] for name in changed} == changed
    assert flat == _flat(config.to_dict())


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {}
        fields |= inner or {f"{prefix}{name}": value}
    return fields


def test_the_config_of_a_record_gives_the_same_settings() -> None:
    """JSON has lists for tuples."""
    config = default.get_config()
    recorded = json.loads(json.dumps(config.to_dict()))
    assert settings.read(recorded) == settings.read(ConfigDict(recorded)) == settings.read(config)


def test_records_of_other_versions_can_be_read() -> None:
    """Fields that they lack have their defaults; fields that are gone are passed over."""
    recorded = default.get_config().to_dict()
    del recorded["augment"]["stain"], recorded["features"], recorded["stages"]["head"]["l2"]
    recorded["model"]["depth"] = recorded["stages"]["head"]["rate"] = recorded["rest"] = 3
    assert settings.read(recorded, of_record=True) == settings.Settings()
    with pytest.raises(OtherVersionError, match="no field .*augment.stain"):
        settings.read(recorded)


@pytest.mark.parametrize("name", ("private", "data.corrupt"))
def test_a_run_can_lack_what_was_added_later(name: str) -> None:
    config = default.get_config()
    *blocks, last = name.split(".")
    del (config[blocks[0]] if blocks else config)[last]
    assert settings.read(config) == settings.Settings()


def test_an_unknown_field_is_named_with_its_neighbour() -> None:
    config = default.get_config()
    config.stages.head.unlock()
    config.stages.head.learning_rates = 1e-3
    with pytest.raises(UserError, match="learning_rates; did you mean stages.head.learning_rate?"):
        settings.read(config)


@pytest.mark.parametrize(
    ("block", "field", "value", "message"),
    [
        ("", "model", 3, "config.model=3: expected a block of fields"),
        ("", "stages", "all", "config.stages='all': expected a block for each stage"),
        ("", "seed", True, "config.seed=True: expected a whole number"),
        ("model", "alpha", "wide", "config.model.alpha='wide': expected a number"),
        ("model", "unet_depth", 2.5, "config.model.unet_depth=2.5: expected a whole number"),
        ("augment", "flip", 1, "config.augment.flip=1: expected True or False"),
        ("loss", "class_weights", None, "config.loss.class_weights=None: expected a text"),
        ("data", "classes", "ssc", "config.data.classes='ssc': expected values with commas"),
    ],
)
@pytest.mark.parametrize("of_record", (False, True))
def test_values_of_another_type(
    block: str, field: str, value: Any, message: str, of_record: bool
) -> None:
    """As a damaged record may have them: a ConfigDict holds to its types itself."""
    recorded = default.get_config().to_dict()
    (recorded[block] if block else recorded)[field] = value
    with pytest.raises(UserError, match=message):
        settings.read(recorded, of_record=of_record)


def test_stages_take_what_they_need_from_other_blocks() -> None:
    config = default.get_config()
    config.select.metric, config.checkpoint.every_seconds = "log_loss", 3.0
    config.features.max_megabytes, config.stage_order = 7, ("finetune",)
    [stage] = settings.read(config).ordered_stages()
    assert isinstance(stage, Stage) and (stage.name, stage.index) == ("finetune", 0)
    assert (stage.metric, stage.checkpoint_seconds) == ("log_loss", 3.0)
    assert (stage.feature_megabytes, stage.drawn_by) == (7, 0)


def test_seeds_follow_the_run_unless_they_are_set() -> None:
    config = default.get_config()
    config.seed = 4
    assert (settings.read(config).data_seed, settings.read(config).split_seed) == (4, 4)
    config.data.seed, config.split.seed = 0, 9
    assert (settings.read(config).data_seed, settings.read(config).split_seed) == (0, 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": "kfolds"}, "did you mean 'kfold'"),
        ({"seed": -1}, "config.seed=-1: expected 0 or more"),
        ({"private": True, "data.storage": "array_record"}, "set data.storage=direct"),
        ({"data.path": "a", "data.tfds": "b"}, "are both set"),
        ({"data.merge": "early"}, "expected distinct NAME=VALUE parts"),
        ({"split.by": "patient"}, "expected 'subject' or 'image'"),
        ({"split.train": 0.9}, "sum to 1"),
        ({"split.folds": 3, "split.fold": 3}, "fold 3 of 3"),
        ({"split.counts": "normal:1/x/2", "split.by": "image"}, "expected whole numbers"),
        ({"augment.counts_before_split": "normal:9"}, "set config.split.by=image"),
        ({"augment.crop": 1.5}, "crop is 1.5"),
        ({"augment.copies": -1}, "config.augment.copies=-1"),
        ({"audit.on_leakage": "ignore"}, "expected 'stop' or 'report'"),
        ({"model.name": "resnet"}, "expected one of mobilenet_v2, cnn"),
        ({"model.feature_layers": ("out_relo",)}, "did you mean 'out_relu'"),
        ({"model.name": "cnn"}, "there are no weights for model.name='cnn'"),
        ({"loss.segmentation": 1.0}, "has no head for masks"),
        ({"loss.class_weights": "even"}, "expected 'balanced' or 'none'"),
        ({"loss.mask_weights": "even"}, "expected 'root' or 'none'"),
        ({"loss.classification": 0.0}, "to train masks alone"),
        ({"pretrained_fallback": "none"}, "expected 'bundled', 'random' or 'error'"),
        ({"scratch.momentum": 1.0}, "config.scratch.momentum=1.0"),
        ({"calibration.bins": 0}, "config.calibration.bins=0"),
        ({"features.max_megabytes": -1}, "config.features.max_megabytes=-1"),
        ({"cv.folds": 1}, "config.cv.folds=1: expected 2 or more"),
        ({"stage_order": ("head", "last")}, "config.stages has finetune, head"),
        ({"stages.finetune.schedule": "cosines"}, "stage finetune: schedule='cosines'"),
        ({"stages.finetune.optimizer": "lion"}, "stage finetune: optimizer='lion'"),
        ({"stages.head.trainable": "top"}, "stage head: trainable='top'"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    config = overrides.set_fields(default.get_config(), fields)
    with pytest.raises(UserError, match=message):
        settings.read(config)


def test_classes_decide_how_many_outputs_make_sense() -> None:
    assert [ModelSettings().output_count(classes) for classes in (2, 3)] == [2, 3]
    assert ModelSettings(outputs=4).output_count(3) == 4
    assert ModelSettings(outputs=1).output_count(2) == 1
    with pytest.raises(UserError, match="outputs=2: expected at least 3"):
        ModelSettings(outputs=2).output_count(3)
    with pytest.raises(UserError, match="outputs=1 is for two classes"):
        ModelSettings(outputs=1).output_count(3)
