"""Every config on sets of every kind: a report, or one line that says what is wrong."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from any_sets import SETS, write
from ml_collections import ConfigDict

from sscjax.configs import smoke
from sscjax.experiments import api, run_stages
from sscjax.inference import explanations
from sscjax.system import terminal
from sscjax.training import settings

CONFIGS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs").glob("*.py"))

# Every config and every set once or twice; all pairs would take an hour.
PAIRS = [(name, list(SETS)[number % len(SETS)]) for number, name in enumerate(CONFIGS)]
# The config that trains masks needs a set that has some.
PAIRS.append(("mobilenet_unet_three_class", "with masks"))
# Of the smaller networks, and of the recipe that anyone's own images get.
OFTEN = ("cnn_two_class", "cnn_three_class", "best", "best_two_class")
MARKED = [
    pytest.param(*pair, marks=pytest.mark.slow if pair[0] in OFTEN else pytest.mark.exhaustive)
    for pair in PAIRS
]

_PAPER_SPLIT = "normal:24/4/4,early:24/4/4,late:24/4/4"
_PAPER_COPIES = "normal:32,early:32,late:32"


def small(name: str, data: Path) -> ConfigDict:
    """The config, with narrow networks that start from random weights, for an epoch a stage."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.path = str(data)
    config.data.image_size = 32
    config.pretrained = "none"
    config.model.alpha = 0.35
    config.model.cnn_widths, config.model.cnn_dense = (4,), (8,)
    config.model.unet_depth, config.model.unet_width, config.model.unet_layers = 1, 4, 1
    config.batch_size = 8
    if config.split.counts:
        # The paper's 1,900 copies, in small.
        two = "ssc" in config.split.counts
        config.split.counts = "normal:24/4/4,ssc:24/4/4" if two else _PAPER_SPLIT
        config.augment.counts_before_split = "normal:32,ssc:32" if two else _PAPER_COPIES
    if config.loss.segmentation:
        config.data.mask_classes = ("dark", "bright")
    for stage in config.stage_order:
        config.stages[stage].epochs = 1 if config.stages[stage].optimizer != "lbfgs" else 20
        config.stages[stage].warmup_epochs = 0.0
        if stage == "finetune":
            # The last block alone: the step compiles sooner.
            config.stages[stage].freeze_first = 144
    return config


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize(("name", "data"), MARKED)
def test_a_report_or_one_line(
    name: str,
    data: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # It runs the whole network again; that it works on few images is tested elsewhere.
    monkeypatch.setattr(explanations, "write", lambda *args: None)
    config, folder = small(name, write(tmp_path / "images", SETS[data])), tmp_path / "run"

    def train() -> None:
        api.run(config, folder)

    code = terminal.call(train)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error:")]
    if code == 0:
        assert not lines and (folder / "report.html").is_file()
    else:
        assert code == 2 and len(lines) == 1
        # An audit that found a leak is kept, so that it can be read.
        left = {path.name for path in folder.rglob("*")} if folder.exists() else set()
        assert left <= {"audit.json"}, (lines, left)


@pytest.mark.parametrize(("batch", "warned"), [(31, True), (32, False), (30, False), (7, False)])
def test_a_batch_that_cannot_be_divided_is_warned_of(
    batch: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = smoke.get_config()
    config.batch_size = batch
    run_stages.warn_of_small_parts(settings.read(config).ordered_stages())
    assert ("--config.batch_size=32 is not" in caplog.text) is warned
