"""Leaving out one site after the other, from a manifest to the report and its page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import one_stage_config, write_folder

from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import summarize
from sscjax.experiments.cross_validation import all_folds
from sscjax.inference import explanations

pytestmark = [pytest.mark.usefixtures("quick_compiler"), pytest.mark.slow]


def of(table: Predictions) -> np.ndarray:
    """Its sites, which it has."""
    assert table.sites is not None
    return table.sites


def named_sites(folder: Path) -> Path:
    """The drawn set at three hospitals: all that is late at one of them."""
    rows = (write_folder(folder) / "manifest.csv").read_text("utf-8").splitlines()
    lines = [f"{rows[0]},Hospital"]
    for row in rows[1:]:
        subject = row.rpartition(",")[2]
        site = (
            "North"
            if subject.startswith("late")
            else ("East", "North", "South")[int(subject[-2:]) % 3]
        )
        lines.append(f"{row},{site}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_each_site_is_tested_by_models_of_the_others(
    tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summarize, "_draw", lambda *args: None)
    monkeypatch.setattr(explanations, "write", lambda *args: None)
    config = one_stage_config()
    config.data.path = str(named_sites(tmp_path / "images"))
    config.data.classes = ("normal", "early", "late")
    config.protocol = "leave_one_site_out"
    config.stages.head.epochs = 1
    if optimizer == "lbfgs":
        config.model.cnn_dense = ()
        config.stages.head.optimizer = optimizer
        config.stages.head.l2 = (1e-1, 1.0)
    text = all_folds.run(config, tmp_path / "run")
    assert "CLASSES OF ONE SITE: late (at North)." in text
    assert "SITES STAND IN TRAINING AND TEST ALIKE" not in text
    assert text.index("Test figures per site") < text.index("saw none of its images")
    table = Predictions.read_csv(tmp_path / "run" / "predictions.csv")
    assert len(table) == 36
    found: dict[str, Any] = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert found["sites"]["apart"] is True
    for site in found["sites"]["sites"]:
        here = of(table) == site["name"]
        accuracy = np.mean(table.predicted[here] == table.labels[here])
        assert site["splits"]["test"]["image"]["accuracy"] == pytest.approx(accuracy)
        low, high = site["test_intervals"]["image"]["accuracy"]
        assert low <= accuracy <= high
    for place, name in zip(range(3), ("East", "North", "South"), strict=True):
        of_fold = Predictions.read_csv(tmp_path / "run" / "folds" / f"fold_{place}/predictions.csv")
        assert set(of(of_fold.where("test"))) == {name}
        assert name not in set(of(of_fold.where("train")))
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "Test figures of each site, per subject" in page and "nor any of its site" in page
    audit = json.loads((tmp_path / "run" / "audit.json").read_text("utf-8"))
    assert "sites_in_images" in {check["kind"] for check in audit["checks"]}
