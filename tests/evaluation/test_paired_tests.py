"""Paired tests against published examples, scipy and brute force; errors by simulation."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from prediction_tables import CLASSES, two_tables
from scipy import stats

from sscjax.evaluation import metrics, paired_tests, resampling
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import paper

# ---- McNemar, Holm, two shares ------------------------------------------------------------------


def test_mcnemar_published() -> None:
    """Fagerland, Lydersen and Laake 2013, table 1: 1 and 7 discordant pairs, 0.070 and 0.039."""
    found = paired_tests.mcnemar(1, 7)
    assert found["exact_p"] == pytest.approx(0.0703, abs=5e-5)
    assert found["mid_p"] == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize(("one", "other"), [(0, 6), (12, 31), (5, 5), (200, 160)])
def test_mcnemar_is_scipys_binomial_test(one: int, other: int) -> None:
    expected = stats.binomtest(one, one + other).pvalue
    found = paired_tests.mcnemar(one, other)
    assert found["exact_p"] == pytest.approx(expected)
    assert found["mid_p"] < found["exact_p"]
    assert paired_tests.mcnemar(other, one) == found
    # The mid-p value is the mean of P(as far or farther) and P(farther).
    pmf = stats.binom.pmf(np.arange(one + other + 1), one + other, 0.5)
    far = abs(np.arange(one + other + 1) - (one + other) / 2)
    here = abs(one - (one + other) / 2)
    assert found["mid_p"] == pytest.approx((pmf[far >= here].sum() + pmf[far > here].sum()) / 2)


def test_no_discordant_pairs_differ_in_nothing() -> None:
    assert paired_tests.mcnemar(0, 0) == {"mid_p": 1.0, "exact_p": 1.0}


def test_mcnemar_bounds_by_all_pairings() -> None:
    """Every way in which two models can be right on 4 and 3 images, written out."""
    right, other, totals = (3, 1), (2, 3), (4, 3)
    found = set()
    for chosen in itertools.product(
        itertools.combinations(range(4), 3),
        itertools.combinations(range(4), 2),
        itertools.combinations(range(3), 1),
        itertools.combinations(range(3), 3),
    ):
        first = {(0, i) for i in chosen[0]} | {(1, i) for i in chosen[2]}
        second = {(0, i) for i in chosen[1]} | {(1, i) for i in chosen[3]}
        found.add(paired_tests.mcnemar(len(first - second), len(second - first))["mid_p"])
    assert paired_tests.mcnemar_bounds(right, other, totals) == (min(found), max(found))


def test_the_papers_networks_differ_whatever_the_pairing() -> None:
    """3 classes, test: 182 and 168 of 192 are right; from none to ten images only the CNN has."""
    entries = [paper.result(3, model, "test") for model in paper.MODELS]
    rights = [[entry.confusion[k][k] for k in range(3)] for entry in entries]
    low, high = paired_tests.mcnemar_bounds(rights[0], rights[1], paper.STUDIES[3].test)
    assert low == pytest.approx(paired_tests.mcnemar(14, 0)["mid_p"])
    assert high == pytest.approx(paired_tests.mcnemar(24, 10)["mid_p"])
    assert high < 0.05


def test_newcombe_published() -> None:
    """Newcombe 1998, Statistics in Medicine 17: 873-890, table II, method 10."""
    for first, second, expected in (
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((6, 7), (2, 7), (0.0582, 0.8062)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
    ):
        assert paired_tests.unpaired_difference(first, second) == pytest.approx(expected, abs=6e-5)


def test_fisher_is_the_lady_tasting_tea() -> None:
    """Three of four cups each: 34/70, two-sided."""
    assert paired_tests.unpaired_p((3, 4), (1, 4)) == pytest.approx(34 / 70)


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
        for name in ("accuracy", "balanced_accuracy", "quadratic_kappa", "log_loss"):
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
    result = paired_tests.compare(first, second, ordered=True)["mcnemar"]
    assert every and result["first_only"] + result["second_only"] > 3
    assert found["accuracy"] == pytest.approx(result["exact_p"])
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


def test_swap_of_ranks_ignores_how_sure_a_model_is() -> None:
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
def test_swaps_of_few_subjects_hold_their_level() -> None:
    """Equal models that differ from subject to subject, 8 subjects of 12 images: the swap rejects
    at most 5 times in a hundred; McNemar's test of images far more often."""
    rejected = dict.fromkeys(metrics.OVERALL, 0)
    naive = 0
    runs = 300
    for seed in range(runs):
        first, second = two_tables(seed, (3, 3, 2), images=12)
        found, _ = paired_tests.swap_test(first, second, ordered=True)
        for name in rejected:
            rejected[name] += found[name] <= 0.05
        rights = [one.predicted == one.labels for one in (first, second)]
        only = int((rights[0] & ~rights[1]).sum()), int((rights[1] & ~rights[0]).sum())
        naive += paired_tests.mcnemar(*only)["mid_p"] <= 0.05
    for name, count in rejected.items():
        # At 5 % the standard deviation of these shares is 1.3 %.
        assert count / runs < 0.08, name
    assert naive / runs > 0.12


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
    assert [entry["name"] for entry in found["figures"]] == list(metrics.OVERALL)
    for entry, other in zip(found["figures"], back["figures"], strict=True):
        low, high = entry["interval"]
        assert low < entry["difference"] < high
        assert other["difference"] == -entry["difference"] and other["p"] == entry["p"]
        assert other["interval"] == pytest.approx([-high, -low])
    counts = found["mcnemar"]
    rights = metrics.accuracy(metrics.confusion_matrix(first.labels, first.predicted, 3))
    assert (counts["both"] + counts["first_only"]) / 78 == pytest.approx(rights)
    assert sum(counts[k] for k in ("both", "first_only", "second_only", "neither")) == 78
    assert [entry["name"] for entry in found["delong"]] == ["macro", *CLASSES]
    macro = found["delong"][0]
    assert macro["difference"] == pytest.approx(found["figures"][2]["difference"])
    assert paired_tests.compare(first, second, ordered=False)["figures"][3]["p"] is None


def test_compare_of_other_rows_is_refused() -> None:
    first, second = two_tables(0)
    with pytest.raises(ValueError, match="differ in files"):
        paired_tests.compare(first, dataclasses.replace(second, files=second.files[::-1]), False)


def test_a_single_subject_gives_no_figure_of_chance() -> None:
    first, second = two_tables(0, (1, 0, 0))
    found = paired_tests.compare(first, second, ordered=True)
    assert all(entry["interval"] is None for entry in found["figures"])
    assert found["figures"][0]["p"] == 1 and found["delong"][0]["p"] is None
