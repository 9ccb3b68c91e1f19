"""The grid of nested cross-validation: what its text means, what it refuses, whom it prefers."""

from __future__ import annotations

import pytest

from sscjax.configs import default, smoke
from sscjax.errors import UserError
from sscjax.experiments.cross_validation import grid


def test_grid_is_every_combination_with_values_of_the_fields_types() -> None:
    config = smoke.get_config()
    config.cv.search = (
        "stages.head.learning_rate=1e-4, 1e-3",
        "config.model.cnn_widths=(4,), (8, 16)",
        "augment.flip=true",
        "stages.head.optimizer=sgd",
    )
    found = grid.candidates(config)
    assert [one.overrides["stages.head.learning_rate"] for one in found] == [1e-4, 1e-4, 1e-3, 1e-3]
    assert [one.overrides["model.cnn_widths"] for one in found] == [(4,), (8, 16)] * 2
    applied = found[3].applied(config)
    assert applied.stages.head.learning_rate == 1e-3 and applied.model.cnn_widths == (8, 16)
    assert applied.augment.flip is True and applied.stages.head.optimizer == "sgd"
    assert config.stages.head.learning_rate == 1e-4  # the config itself is left alone
    assert str(found[2]).startswith("stages.head.learning_rate=0.001, model.cnn_widths=(4,)")


def test_default_grids_fit_their_configs() -> None:
    assert len(grid.candidates(default.get_config())) == 3
    assert len(grid.candidates(default.as_cnn(default.get_config(), "cnn", 2))) == 3


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ((), "one or more entries"),
        (("batch_size",), "expected 'FIELD=VALUE"),
        (("batch_size=8", "batch_size=16"), "another field"),
        (("batch_size=8,8",), "names a value twice"),
        (("batch_size=1e-4",), "value of type int"),
        (("augment.flip=maybe",), "value of type bool"),
        (("model.cnn_widths=four",), "value of type tuple"),
        (("stages.head.lerning_rate=1",), "no field stages.head.lerning_rate"),
        (("stages.head=1",), "is a block"),
        (("seed=1,2",), "changes the data or the metric"),
        (("split.by=subject,image",), "changes the data or the metric"),
        (("select.metric=accuracy",), "changes the data or the metric"),
    ],
)
def test_wrong_entries_are_named(entries: tuple[str, ...], message: str) -> None:
    config = smoke.get_config()
    config.cv.search = entries
    with pytest.raises(UserError, match=message):
        grid.candidates(config)


def test_without_a_metric_there_is_no_choice() -> None:
    config = smoke.get_config()
    config.select.metric = "none"
    with pytest.raises(UserError, match="select.metric"):
        grid.candidates(config)


def test_best_mean_wins_in_the_metrics_own_direction() -> None:
    scores: list[list[float | None]] = [[0.5, 0.7], [0.9, 0.5], [1.0, None]]
    assert grid.best("balanced_accuracy", scores) == 1
    assert grid.best("log_loss", scores) == 0
    assert grid.best("accuracy", [[0.5, 0.5], [0.4, 0.6]]) == 0  # of equals the first
    assert grid.mean_score([0.25, 0.5]) == 0.375 and grid.mean_score([1.0, None]) is None
    with pytest.raises(UserError, match="every candidate"):
        grid.best("accuracy", [[None], [0.5, None]])
