"""Paired tests against published examples, scipy and brute force; errors by simulation."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from prediction_tables import CLASSES, two_tables
from scipy import stats

from sscjax.evaluation import delong, metrics, paired_tests, resampling
from sscjax.evaluation.predictions import Predictions

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "evidence"))

import type_one_error

# ---- two shares, several comparisons ------------------------------------------------------------


def test_newcombe_published() -> None:
    """Newcombe 1998, Statistics in Medicine 17: 873-890, table II, method 10."""
    for first, second, expected in (
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((6, 7), (2, 7), (0.0582, 0.8062)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
    ):
        assert paired_tests.unpaired_difference(first, second) == pytest.approx(expected, abs=6e-5)


def test_holm_by_hand() -> None:
    assert paired_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired_tests.holm([None, 0.6, 0.8, None]) == [None, 1.0, 1.0, None]
    assert paired_tests.holm([0.2]) == [0.2] and paired_tests.holm([]) == []


# ---- swaps of subjects --------------------------------------------------------------------------


def _swap(one: Predictions, other: Predictions, subjects: set[str]) -> Predictions:
    chosen = np.isin(one.subjects, list(subjects))[:, None]
    return dataclasses.replace(
        one, probabilities=np.where(chosen, other.probabilities, one.probabilities)
    )


def test_swaps_are_all_swaps_row_by_row() -> None:
    """Each of 2^6 swaps built as two tables and handed to `metrics`."""
    first, second = two_tables(4, (2, 2, 2), images=4)
    names = sorted(set(first.subjects.tolist()))
    differences: dict[str, list[float]] = {}
    for chosen in itertools.product((False, True), repeat=6):
        swapped = {name for name, flag in zip(names, chosen, strict=True) if flag}
        pair = _swap(first, second, swapped), _swap(second, first, swapped)
        figures = [metrics.figures(one, ordered=True) for one in pair]
        for name in ("accuracy", "balanced_accuracy", "quadratic_kappa", "log_loss", "macro_auroc"):
            differences.setdefault(name, []).append(figures[0][name] - figures[1][name])
    found, every = paired_tests.swap_test(first, second, ordered=True)
    assert every
    for name, values in differences.items():
        share = np.mean(np.abs(values) >= abs(values[0]) - 1e-9)
        assert found[name] == pytest.approx(share), name


def test_swap_test_of_shares_is_the_sign_flip_test_of_scipy() -> None:
    """One image each: the accuracy's p is the exact sign test, which is McNemar's exact one."""
    first, second = two_tables(1, (5, 4, 4), images=1)
    found, every = paired_tests.swap_test(first, second, ordered=True)
    counts = paired_tests.compare(first, second, ordered=True)["correct"]
    alone = counts["first_only"], counts["second_only"]
    assert every and sum(alone) > 3
    assert found["accuracy"] == pytest.approx(stats.binomtest(alone[0], sum(alone)).pvalue)
    losses = [-np.log(one.probabilities[np.arange(13), one.labels]) for one in (first, second)]
    expected = stats.permutation_test(
        losses, lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert found["log_loss"] == pytest.approx(expected.pvalue)


def test_drawn_swaps_come_near_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = two_tables(2, (4, 4, 4), images=3, gain=0.6)
    exact, every = paired_tests.swap_test(first, second, ordered=True)
    assert every
    monkeypatch.setattr(paired_tests, "PERMUTATIONS", 1999)
    drawn, every = paired_tests.swap_test(first, second, ordered=True)
    assert not every and paired_tests.swap_test(first, second, ordered=True)[0] == drawn
    for name, value in exact.items():
        assert drawn[name] == pytest.approx(value, abs=0.04), name


def test_models_that_rank_alike_have_equal_areas_however_sure_they_are() -> None:
    """The same model, unsure of everything: the same order of the images, another log loss."""
    first, _ = two_tables(3, (6, 0, 6), images=4, gain=2.0)
    kept = first.probabilities[:, [0, 2]]
    chance = kept / kept.sum(1, keepdims=True)
    one, other = (
        dataclasses.replace(first, probabilities=p, labels=first.labels // 2, classes=("no", "yes"))
        for p in (chance, 0.5 + 0.2 * (chance - 0.5))
    )
    found, every = paired_tests.swap_test(one, other, ordered=False)
    assert every and metrics.macro_auroc(one) == metrics.macro_auroc(other)
    assert found["log_loss"] < 0.05 and found["macro_auroc"] == found["accuracy"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("of_class", [(3, 3, 2), (16, 4), (12, 5, 3)])
def test_every_p_value_holds_its_level_in_clustered_designs(
    of_class: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal models that differ from subject to subject: each p rejects in 6 % of studies at most,
    per image and per subject. A test that takes images for independent rejects far more often."""
    monkeypatch.setattr(paired_tests, "PERMUTATIONS", 199)
    rng = np.random.default_rng(5)
    rejected: dict[str, int] = {}
    naive, studies = 0, 300
    for _ in range(studies):
        images = type_one_error.models(rng, of_class, images=None)
        for unit in ("image", "subject"):
            first, second = images if unit == "image" else [one.by_subject() for one in images]
            found, _ = paired_tests.swap_test(first, second, ordered=True)
            for name, p in found.items():
                rejected[f"{name} per {unit}"] = rejected.get(f"{name} per {unit}", 0) + (p <= 0.05)
        right = [one.predicted == one.labels for one in images]
        alone = [int((right[k] & ~right[1 - k]).sum()) for k in (0, 1)]
        naive += sum(alone) > 0 and stats.binomtest(alone[0], sum(alone)).pvalue <= 0.05
    # At 5 % the standard deviation of these shares is 1.3 points: 6 % at most, and two of these.
    for name, count in rejected.items():
        assert count / studies <= 0.06 + 0.026, name
    assert naive / studies > 0.15


# ---- the bootstrap of a difference --------------------------------------------------------------


def test_difference_is_of_the_same_subjects() -> None:
    """Of a model and itself nothing varies; of two, less than if their subjects were others."""
    first, second = two_tables(0, (6, 6, 6), images=30, own=0.1)
    assert set(paired_tests.difference_intervals(first, first, ordered=True).values()) == {None}
    ranges = paired_tests.difference_intervals(first, second, ordered=True)
    one = resampling.bootstrap(first, True)["accuracy"]
    other = resampling.bootstrap(second, True, seed=1)["accuracy"]
    apart = resampling.percentile(one - other, 18, 3)
    together = ranges["accuracy"]
    assert together is not None and apart is not None
    assert together[1] - together[0] < 0.9 * (apart[1] - apart[0])


@pytest.mark.slow
def test_coverage_of_the_difference() -> None:
    """Models of which one is better, 14 subjects: the intervals hold the true difference."""
    many = two_tables(99, (2000, 2000, 1600), images=6, gain=0.5)
    figures = [metrics.figures(one, ordered=True) for one in many]
    truth = {name: figures[0][name] - figures[1][name] for name in metrics.OVERALL}
    held = dict.fromkeys(truth, 0)
    runs = 200
    for seed in range(runs):
        first, second = two_tables(seed, (5, 5, 4), gain=0.5)
        drawn = [resampling.bootstrap(one, True, resamples=300) for one in (first, second)]
        for name in held:
            found = resampling.percentile(drawn[0][name] - drawn[1][name], 14, 3)
            held[name] += found is not None and found[0] <= truth[name] <= found[1]
    for name, count in held.items():
        assert 0.9 < count / runs, name


# ---- all of it ----------------------------------------------------------------------------------


def test_compare_holds_together() -> None:
    first, second = two_tables(7, (5, 4, 4), gain=0.8)
    found = paired_tests.compare(first, second, ordered=True)
    back = paired_tests.compare(second, first, ordered=True)
    assert found["n"] == 78 and found["n_subjects"] == 13 and found["swaps"] == "all"
    names = [*metrics.OVERALL, *(f"auroc {name}" for name in CLASSES)]
    assert [entry["name"] for entry in found["figures"]] == names
    for entry, other in zip(found["figures"], back["figures"], strict=True):
        low, high = entry["interval"]
        assert low < entry["difference"] < high
        assert other["difference"] == -entry["difference"] and other["p"] == entry["p"]
        assert other["interval"] == pytest.approx([-high, -low])
    counts = found["correct"]
    rights = metrics.accuracy(metrics.confusion_matrix(first.labels, first.predicted, 3))
    assert (counts["both"] + counts["first_only"]) / 78 == pytest.approx(rights)
    assert sum(counts.values()) == 78
    assert paired_tests.compare(first, second, ordered=False)["figures"][3]["p"] is None


def test_areas_have_delongs_interval_and_the_p_of_the_swap() -> None:
    first, second = two_tables(7, (5, 4, 4), gain=0.8)
    found = {e["name"]: e for e in paired_tests.compare(first, second, ordered=True)["figures"]}
    p_values, _ = paired_tests.swap_test(first, second, ordered=True)
    for index, name in enumerate(CLASSES):
        of_first, of_second = (
            delong.area(table.probabilities[:, index], table.labels == index, table.subjects)
            for table in (first, second)
        )
        assert of_first is not None and of_second is not None
        difference = delong.compare(of_first, of_second, 0.95)
        assert difference is not None
        entry = found[f"auroc {name}"]
        assert entry["difference"] == pytest.approx(difference.value)
        assert entry["interval"] == pytest.approx(list(difference.interval))
        assert entry["p"] == p_values[f"auroc {index}"]


def test_compare_of_other_rows_is_refused() -> None:
    first, second = two_tables(0)
    with pytest.raises(ValueError, match="differ in files"):
        paired_tests.compare(first, dataclasses.replace(second, files=second.files[::-1]), False)


def test_a_single_subject_gives_no_figure_of_chance() -> None:
    first, second = two_tables(0, (1, 0, 0))
    found = paired_tests.compare(first, second, ordered=True)
    assert all(entry["interval"] is None for entry in found["figures"])
    assert found["figures"][0]["p"] == 1
