"""Subjects for the next study: by hand, by published formulas and by simulated studies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from prediction_tables import two_tables, write_run
from scipy import stats

from sscjax.cli import sample_size
from sscjax.errors import UserError
from sscjax.evaluation import intervals
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import sample_size as experiments_sample_size
from sscjax.system import formatting, terminal


def study(subjects: int, seed: int, images: int = 4) -> Predictions:
    """Two classes; a subject's images share an effect, so that they are not independent."""
    rng = np.random.default_rng(seed)
    of_image = np.repeat(np.arange(subjects), images)
    labels = (np.arange(subjects) % 2)[of_image]
    score = 0.9 + rng.normal(0, 1, subjects)[of_image] + rng.normal(0, 1, len(of_image))
    right = 1 / (1 + np.exp(-score))
    return Predictions(
        files=np.array([f"{k}.png" for k in range(len(of_image))]),
        subjects=np.array([f"s{k}" for k in of_image]),
        splits=np.full(len(of_image), "test"),
        labels=labels,
        probabilities=np.where(labels[:, None] == np.arange(2), right[:, None], 1 - right[:, None]),
        classes=("healthy", "ill"),
    )


def test_by_hand() -> None:
    # Half the width takes four times the subjects.
    assert experiments_sample_size.subjects_for(40, 0.10, 0.05) == 160
    assert experiments_sample_size.subjects_for(40, 0.10, 0.10) == 40
    # 1 - 2h = 0.025 ** (1/n): with h = 0.05, n = 35.01.
    assert experiments_sample_size.fewest_for(0.05) == 36
    low, high = intervals.clopper_pearson(36, 36)
    assert (high - low) / 2 <= 0.05 < (1 - intervals.clopper_pearson(35, 35)[0]) / 2


def test_power_is_that_of_the_textbook_for_a_mean() -> None:
    """Paired differences of standard deviation s: n = ((z_a + z_b) s / d) ** 2."""
    deviation, subjects, difference = 0.42, 50, 0.1
    half_width = 1.959964 * deviation / math.sqrt(subjects)
    for power, z_power in ((0.8, 0.841621), (0.9, 1.281552)):
        wanted = ((1.959964 + z_power) * deviation / difference) ** 2
        found = experiments_sample_size.subjects_to_show(subjects, half_width, difference, power)
        assert found == math.ceil(wanted)


def test_power_is_near_connors_for_mcnemar() -> None:
    """Connor 1987 (Biometrics 43:207), pairs that differ: 30 %, difference 10 points, 80 %."""
    differ, difference = 0.3, 0.1
    z, z_power = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    root = math.sqrt(differ - difference**2)
    wanted = ((z * math.sqrt(differ) + z_power * root) / difference) ** 2
    half_width = z * root / math.sqrt(100)
    found = experiments_sample_size.subjects_to_show(100, half_width, difference, 0.8)
    assert found == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("unit", ["image", "subject"])
def test_studies_of_that_size_have_that_width(unit: str) -> None:
    """Planned by studies of 40 subjects, larger ones are made: their intervals are as planned."""

    def half_width(table: Predictions) -> float:
        low, high = intervals.figures(table, False)["accuracy"]
        return (high - low) / 2

    def unit_of(table: Predictions) -> Predictions:
        return table if unit == "image" else table.by_subject()

    planned = []
    for seed in range(8):
        [need, *_] = experiments_sample_size.needs_of(unit_of(study(40, seed)), [0.05])
        planned.append(need.wanted[0])
    size = int(np.median(planned))
    assert size > 80
    widths = [half_width(unit_of(study(size, 100 + seed))) for seed in range(8)]
    assert np.mean(widths) == pytest.approx(0.05, rel=0.12)


def test_classes_are_counted_by_their_own_subjects() -> None:
    """A figure of a class that the model has all right needs enough subjects of that class."""
    table = study(40, 0)
    sure = np.where(table.labels[:, None] == np.arange(2), 0.9, 0.1)
    right = Predictions(
        table.files, table.subjects, table.splits, table.labels, sure, table.classes
    )
    needs = {one.name: one for one in experiments_sample_size.needs_of(right.by_subject(), [0.05])}
    # At least 36 of each class, which is half of the subjects.
    assert needs["sensitivity ill"].wanted[0] >= 72
    assert needs["sensitivity ill"].value == 1.0
    assert needs["accuracy"].wanted[0] >= 36


def _program(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["samplesize", *map(str, arguments)])
    return terminal.call(sample_size.main)


def test_whole_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two_tables(3, (6, 6, 6), images=3, gain=0.5)
    one, two = write_run(tmp_path / "one", first), write_run(tmp_path / "two", second)
    assert _program(monkeypatch, one, two, f"--json={tmp_path / 's.json'}") == 0
    printed = capsys.readouterr().out
    assert printed.isascii() and max(map(len, printed.splitlines())) <= formatting.WIDTH
    assert "+-5 points" in printed and "to show that" in printed
    found = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert found["subjects"] == 18 and set(found["needs"]) == {"image", "subject"}
    for entry in found["needs"]["image"]:
        assert list(entry["wanted"]) == sorted(entry["wanted"])
    [accuracy, _] = found["differences"]["image"]
    assert accuracy["for_points"]["5"] == pytest.approx(4 * accuracy["for_points"]["10"], rel=0.01)
    assert _program(monkeypatch, one, "--within", "10", "2.5") == 0
    assert "+-2.5 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--within", "0"], "expected points above 0 and below 50"),
        (["--power", "1"], "expected a chance of 0.5 to less than 1"),
    ],
)
def test_wrong_flags(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    expected: str,
) -> None:
    run = write_run(tmp_path / "one", two_tables(3, (6, 6, 6), images=3)[0])
    assert _program(monkeypatch, run, *flags) == terminal.USER_ERROR
    assert expected in capsys.readouterr().err


def test_too_few_subjects_to_plan_by(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", two_tables(3, (3, 3, 3), images=3)[0])
    with pytest.raises(UserError, match="9 subjects: at least 10 .*protocol=kfold"):
        experiments_sample_size.samplesize(run)
    with pytest.raises(UserError, match=r"holds no predictions\.csv"):
        experiments_sample_size.samplesize(tmp_path)
