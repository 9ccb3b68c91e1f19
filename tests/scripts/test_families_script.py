"""The table of what each family brings, against figures by hand; what the trainings are."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from sscjax import pretrain
from sscjax.textures.draw import FAMILIES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import families as script  # noqa: E402


def test_distances_are_in_deviations_of_the_seeds() -> None:
    found = {
        "all, seed 0": np.array([0.50, 0.7, 0.6, 0.1]),
        "all, seed 1": np.array([0.52, 0.7, 0.6, 0.1]),
        "all, seed 2": np.array([0.54, 0.7, 0.6, 0.1]),
        "without cells": np.array([0.48, 0.7, 0.6, 0.1]),
    }
    lines = script.table(found)
    assert len(lines) == 4
    # Mean 0.52, deviation 0.02 by n - 1.
    assert lines[2].startswith("| all, mean of 3 seeds | 0.520 (deviation 0.020) |")
    assert lines[3].startswith("| without cells | 0.480 (z -2.0) | 0.700 (z +0.0) |")


def test_each_training_lacks_one_family_and_has_as_many_pictures() -> None:
    trainings = script.trainings(1000, 3)
    assert len(trainings) == 3 + len(FAMILIES) + 2
    assert len({config.seed for name, config in trainings.items() if "all" in name}) == 3
    for family in FAMILIES:
        config = trainings[f"without {family}"]
        assert set(FAMILIES) - set(config.families) == {family}
        assert config.images == (1000,) and config.seed == 0


def test_all_see_as_many_pictures_at_once() -> None:
    """With and without two looks of each texture."""
    trainings = script.trainings(1000, 3)
    plans = {name: pretrain.make_plan(config) for name, config in trainings.items()}
    for name, config in trainings.items():
        plan = dataclasses.replace(plans[name], each=config.each[0])
        assert plan.batch == (60 if name.startswith("without") else 64)
    assert plans["VICReg alone"].similarity == 1.0 and plans["VICReg alone"].classes == 0
    assert plans["VICReg as well"].similarity == 1.0 and plans["VICReg as well"].classes == 1


def test_too_few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--out=a", "--data=b", "--slide=c", "--seeds=2", "--classes", "x"]
    monkeypatch.setattr(sys, "argv", ["families.py", *flags])
    with pytest.raises(ValueError, match="--seeds=2: expected 3 or more"):
        script.main()
