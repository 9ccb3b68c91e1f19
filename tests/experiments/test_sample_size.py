"""Subjects for the next study: by hand, by published formulas and by simulated studies."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from prediction_tables import two_tables, write_run
from scipy import stats

from sscjax.cli import sample_size
from sscjax.errors import UserError
from sscjax.evaluation import intervals, metrics, study_size
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import sample_size as experiments_sample_size
from sscjax.system import formatting, terminal


def study(subjects: int, seed: int, images: int = 4, mean: float = 0.9) -> Predictions:
    """Two classes; a subject's images share an effect, so that they are not independent."""
    rng = np.random.default_rng(seed)
    of_image = np.repeat(np.arange(subjects), images)
    labels = (np.arange(subjects) % 2)[of_image]
    score = mean + rng.normal(0, 1, subjects)[of_image] + rng.normal(0, 1, len(of_image))
    right = 1 / (1 + np.exp(-score))
    return Predictions(
        files=np.array([f"{k}.png" for k in range(len(of_image))]),
        subjects=np.array([f"s{k}" for k in of_image]),
        splits=np.full(len(of_image), "test"),
        labels=labels,
        probabilities=np.where(labels[:, None] == np.arange(2), right[:, None], 1 - right[:, None]),
        classes=("healthy", "ill"),
    )


def test_fewest_for_by_hand() -> None:
    # 1 - 2h = 0.025 ** (1/n): with h = 0.05, n = 35.01.
    assert experiments_sample_size.fewest_for(0.05) == 36
    low, high = intervals.clopper_pearson(36, 36)
    assert (high - low) / 2 <= 0.05 < (1 - intervals.clopper_pearson(35, 35)[0]) / 2


def test_power_is_that_of_the_textbook_for_a_mean() -> None:
    """Paired differences of standard deviation s: n = ((z_a + z_b) s / d) ** 2."""
    for power, z_power in ((0.8, 0.841621), (0.9, 1.281552)):
        wanted = ((1.959964 + z_power) * 0.42 / 0.1) ** 2
        found = experiments_sample_size.subjects_to_show(0.42, 0.1, power)
        assert found == pytest.approx(wanted, rel=1e-5)


def test_power_is_near_connors_for_mcnemar() -> None:
    """Connor 1987 (Biometrics 43:207), pairs that differ: 30 %, difference 10 points, 80 %."""
    differ, difference = 0.3, 0.1
    z, z_power = stats.norm.ppf(0.975), stats.norm.ppf(0.8)
    root = math.sqrt(differ - difference**2)
    wanted = ((z * math.sqrt(differ) + z_power * root) / difference) ** 2
    found = experiments_sample_size.subjects_to_show(root, difference, 0.8)
    assert found == pytest.approx(wanted, rel=0.03)


def half_width(table: Predictions, name: str) -> float:
    """Of the interval that a report would show."""
    low, high = intervals.figures(table, False)[name]
    return (high - low) / 2


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "mean"), [("image", 0.9), ("subject", 0.9), ("subject", 1.8)])
def test_next_studies_reach_the_width_with_the_assurance(unit: str, mean: float) -> None:
    """Each pilot of 40 subjects plans a study, which is then made, three times: at least 80 % of
    these reach the width. Planned by the pilot's own width about half of them would."""

    def unit_of(table: Predictions) -> Predictions:
        return table if unit == "image" else table.by_subject()

    def width(table: Predictions) -> float:
        right, every = table.predicted == table.labels, np.ones(len(table), bool)
        interval = intervals.clustered_share(right, every, table.subjects)
        assert interval is not None
        return (interval[1] - interval[0]) / 2

    reached, naive = [], []
    for seed in range(40):
        pilot = unit_of(study(40, seed, mean=mean))
        own = study_size.contributions(pilot, False, prior=True)["accuracy"]
        own = study_size.widened(own, width(pilot))
        plan = study_size.plan(own, 0.075, assurance=0.8)
        assert plan.low <= plan.subjects
        by_width = math.ceil(40 * (width(pilot) / 0.075) ** 2)
        for repeat in range(3):
            seeds = 1000 + 10 * seed + repeat
            reached.append(width(unit_of(study(plan.subjects, seeds, mean=mean))) <= 0.075)
            naive.append(width(unit_of(study(by_width, seeds, mean=mean))) <= 0.075)
    # 120 studies: the standard deviation of the share is 3.7 points.
    assert np.mean(reached) >= 0.8 - 0.04
    assert np.mean(naive) < np.mean(reached)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_auroc"])
def test_next_studies_reach_the_width_of_other_figures(name: str) -> None:
    reached = []
    for seed in range(25):
        pilot = study(40, seed, mean=0.5)
        index = experiments_sample_size.OVERALL.index(name)
        need = experiments_sample_size.needs_of(pilot, [0.08])[index]
        reached.append(
            half_width(study(need.plans[0].subjects, 500 + seed, mean=0.5), name) <= 0.08
        )
    assert np.mean(reached) >= 0.8 - 0.08


def test_contributions_are_the_jackknifes() -> None:
    """Leaving out one subject after the other gives nearly the same variance of each figure."""
    table, _ = two_tables(1, (30, 28, 26), images=5)
    found = study_size.contributions(table, True, prior=False)
    names = np.unique(table.subjects)
    left_out = [metrics.figures(table.take(table.subjects != name), True) for name in names]
    for name in ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa", "log_loss"):
        values = np.array([one[name] for one in left_out])
        jackknife = (len(names) - 1) / len(names) * ((values - values.mean()) ** 2).sum()
        infinitesimal = (found[name].values ** 2).sum() / len(names) ** 2
        assert infinitesimal == pytest.approx(jackknife, rel=0.12), name


def test_assured_widths_of_shares_are_those_of_the_report() -> None:
    """One population, the pilot itself: its width is that of the pilot's interval."""
    pilot = study(40, 3)
    own = study_size.contributions(pilot, False, prior=False)["accuracy"]
    right, every = pilot.predicted == pilot.labels, np.ones(len(pilot), bool)
    low, high = intervals.clustered_share(right, every, pilot.subjects) or (0.0, 0.0)
    own = study_size.widened(own, (high - low) / 2)
    widths = own.half_widths(40, np.full((400, 40), 1 / 40))
    assert np.median(widths) == pytest.approx((high - low) / 2, rel=0.1)


def test_more_images_of_a_patient_replace_patients_as_kish_says() -> None:
    """ICC by hand: three patients with 3, 2 and 0 of 3 images right."""
    rights = [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    right = np.array(rights).ravel()
    table = Predictions(
        files=np.arange(9).astype(str),
        subjects=np.repeat(["a", "b", "c"], 3),
        splits=np.full(9, "test"),
        labels=np.zeros(9, int),
        probabilities=np.where(right[:, None] == [1, 0], 0.9, 0.1),
        classes=("healthy", "ill"),
    )
    own = study_size.clustering(table)
    # Mean squares: between 3 * ((4/9)^2 + (1/9)^2 + (5/9)^2) / 2, within (2/3) / 6.
    between, within = 3 * (16 + 1 + 25) / 81 / 2, (2 / 3) / 6
    assert own.correlation == pytest.approx((between - within) / (between + 2 * within))
    assert own.design_effect(3) == pytest.approx(1 + 2 * own.correlation)
    # The truth known, one resample: n = z^2 p (1 - p) (1 + (m - 1) r) / (m w^2), and some more.
    known = dataclasses.replace(
        own, correlation=0.3, shares=np.full(2000, 0.8), correlations=np.full(2000, 0.3)
    )
    counts = []
    for images in (1, 4, 40):
        counts.append(study_size.subjects_with_images(known, images, 0.05))
        exact = 1.96**2 * 0.16 * (1 + (images - 1) * 0.3) / (images * 0.05**2)
        assert exact <= counts[-1] <= 1.25 * exact
    assert counts[0] > counts[1] > counts[2] > 0.3 * counts[0]


def test_correlation_of_a_known_population() -> None:
    """Beta-binomial patients with ICC 0.4: the estimate and its interval."""
    rng = np.random.default_rng(0)
    shares = rng.beta(0.7 * 1.5, 0.3 * 1.5, 300)
    right = (rng.random((300, 8)) < shares[:, None]).ravel().astype(int)
    table = Predictions(
        files=np.arange(2400).astype(str),
        subjects=np.repeat(np.arange(300), 8).astype(str),
        splits=np.full(2400, "test"),
        labels=np.zeros(2400, int),
        probabilities=np.where(right[:, None] == [1, 0], 0.9, 0.1),
        classes=("healthy", "ill"),
    )
    own = study_size.clustering(table)
    assert own.interval is not None and own.interval[0] < 0.4 < own.interval[1]
    assert own.correlation == pytest.approx(0.4, abs=0.06) and own.images == 8


def test_classes_are_counted_by_their_own_subjects() -> None:
    """A figure of a class that the model has all right needs enough subjects of that class."""
    table = study(40, 0)
    sure = np.where(table.labels[:, None] == np.arange(2), 0.9, 0.1)
    right = Predictions(
        table.files, table.subjects, table.splits, table.labels, sure, table.classes
    )
    needs = {
        need.name: need for need in experiments_sample_size.needs_of(right.by_subject(), [0.05])
    }
    # At least 36 of each class, which is half of the subjects.
    assert needs["sensitivity ill"].plans[0].subjects >= 72
    assert needs["sensitivity ill"].value == 1.0
    assert needs["accuracy"].plans[0].subjects >= 36


def _program(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["samplesize", *map(str, arguments)])
    return terminal.call(sample_size.main)


@pytest.mark.slow
def test_whole_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = two_tables(3, (6, 6, 6), images=3, gain=0.5)
    one, two = write_run(tmp_path / "one", first), write_run(tmp_path / "two", second)
    assert _program(monkeypatch, one, two, f"--json={tmp_path / 's.json'}") == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert [line for line in printed.splitlines() if len(line) > formatting.WIDTH] == []
    assert "+-5 points" in printed and "to show that" in printed
    assert "macro AUROC" in printed and "quadratic kappa" in printed
    assert "images per patient" in printed and "with a probability of 80%" in printed
    found = json.loads((tmp_path / "s.json").read_text("utf-8"))
    assert found["subjects"] == 18 and set(found["needs"]) == {"image", "subject"}
    for entry in found["needs"]["image"]:
        wanted = [plan["subjects"] for plan in entry["plans"]]
        assert wanted == sorted(wanted)
        assert all(plan["low"] <= plan["high"] for plan in entry["plans"])
    by_images = {
        int(key): value for key, value in found["clustering"]["subjects_by_images"].items()
    }
    assert by_images[1] >= by_images[3] >= by_images[50]
    accuracy = found["differences"]["image"][0]
    assert accuracy["for_points"]["5"] == pytest.approx(4 * accuracy["for_points"]["10"], rel=0.01)
    assert _program(monkeypatch, one, "--within", "10", "2.5", "--assurance=0.95") == 0
    printed = capsys.readouterr().out
    assert "+-2.5 points" in printed and "with a probability of 95%" in printed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--within", "0"], "expected points above 0 and below 50"),
        (["--power", "1"], "expected a probability of 0.5 to less than 1"),
        (["--assurance", "0.4"], "--assurance=0.4: expected a probability of 0.5"),
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
