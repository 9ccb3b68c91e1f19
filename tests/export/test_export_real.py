"""The full network with real weights, exported: real tiles are predicted as the run predicts them.

Apart from the exports of small networks, so that another process can take these.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import open_page
from exported import EXACT, REASON
from small_runs import one_stage_config

from sscjax.data import image_io
from sscjax.experiments import single_run, summarize
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, explanations
from sscjax.inference.outputs import Outputs
from sscjax.reports import html

pytestmark = pytest.mark.slow

pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("flatbuffers", reason=REASON)


@pytest.fixture(scope="module")
def real_run(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full network with real weights, on real tiles of 128 pixels."""
    place = tmp_path_factory.mktemp("real")
    config = one_stage_config()
    config.data.path = str(_few_tiles(shared_data, place / "tiles"))
    config.data.image_size = 128
    # Neighbouring tiles overlap, and each counts as a subject: the audit finds them. What the
    # network learns does not matter here.
    config.audit.on_leakage = "report"
    config.model.name, config.model.alpha = "mobilenet_v2", 1.0
    config.pretrained = str(shared_data / "weights" / "mobilenet_v2_1.0_224_no_top.h5")
    if not Path(config.pretrained).is_file():
        # Optional: third-party weights are not part of the project.
        pytest.skip(f"no real weights: {config.pretrained} does not exist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summarize, "_draw", lambda *args: None)
        patch.setattr(explanations, "write", lambda *args: None)
        patch.setattr(html, "write", lambda folder: ())
        single_run.run(config, place / "run")
    return place / "run"


def test_real_tiles(real_run: Path, tmp_path: Path) -> None:
    """Sizes, and 200 tiles predicted alike by every runtime."""
    for name, suffix in EXACT.items():
        out = tmp_path / f"skin{suffix}"
        export_file.export(real_run, name, out, ExportOptions())
        record = json.loads(out.with_name(f"{out.name}.json").read_text("utf-8"))
        assert record["check"]["images"] == 200 and record["check"]["decisions_changed"] == 0
        assert out.stat().st_size < 10e6


def test_real_tiles_on_the_page(
    browser: Any, runtime: Path, real_run: Path, shared_data: Path, tmp_path: Path
) -> None:
    """The same network in Chromium: 200 tiles predicted as the run predicts them."""
    paths = sorted((shared_data / "data" / "prostate_gleason").glob("*/*.jpg"))
    tiles = paths[5 :: len(paths) // 200][:200]
    network = classifier.open_run(real_run)
    pixels = np.stack([image_io.read_image(tile, 128) for tile in tiles])
    batches = [pixels[start : start + 32] for start in range(0, 200, 32)]
    expected = Outputs.join(list(network.outputs(batches))).probabilities
    export_file.export(real_run, "web", tmp_path / "page", ExportOptions(ort_web=runtime))
    opened = open_page(browser, tmp_path / "page")
    opened.give(*tiles)
    rows = opened.table()
    assert [row["file"] for row in rows] == [tile.name for tile in tiles]
    shown = [[float(row[f"p_{name}"]) for name in network.columns] for row in rows]
    assert np.abs(np.array(shown) - expected).max() < 2e-5
    assert len({row["decision"] for row in rows}) >= 3
    assert opened.said == []
    opened.close()


def _few_tiles(shared_data: Path, folder: Path) -> Path:
    """A manifest over real tiles: up to 40 to train on of each class, 200 and more to test."""
    source = shared_data / "data" / "prostate_gleason"
    if not (source / "manifest.csv").is_file():
        # Optional: real images are not part of the project.
        pytest.skip(f"no real tiles: {source} does not exist")
    lines = (source / "manifest.csv").read_text("utf-8").splitlines()
    taken: dict[str, int] = {}
    chosen = ["file,label,subject,split"]
    for line in lines[1:]:
        file, label, _ = line.split(",")
        number = taken.setdefault(label, 0)
        taken[label] += 1
        if number < 120:
            split = "train" if number < 40 else "val" if number < 52 else "test"
            target = folder / f"{label}_{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, target)
            chosen.append(f"{target.name},{label},{label}_{number},{split}")
    (folder / "manifest.csv").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return folder
