"""Models that were cross-validated several times: figures, swaps and how many subjects it takes."""

from __future__ import annotations

import numpy as np
from prediction_tables import two_tables

from sscjax.evaluation import metrics, paired_tests, repeated


def test_one_repeat_is_the_test_of_two_models() -> None:
    """All swaps of eight subjects are tried, so both ways give the same number."""
    first, second = two_tables(3, gain=0.5)
    expected, every = paired_tests.swap_test(first, second, ordered=False)
    assert every
    found = repeated.swap_p_values([first], [second])
    for name in repeated.FIGURES:
        assert found[name] == expected[name]


def test_one_repeat_has_the_intervals_of_two_models() -> None:
    first, second = two_tables(5, of_class=(6, 5, 7), gain=0.5)
    expected = paired_tests.difference_intervals(first, second, ordered=False)
    found = repeated.intervals([first], [second])
    for name in repeated.FIGURES:
        ours, theirs = found[name], expected[name]
        assert ours and theirs
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_figures_are_means_over_the_repeats() -> None:
    tables = list(two_tables(1, of_class=(4, 4, 4)))
    found = repeated.figures(tables, np.ones((1, 12)))
    for name in repeated.FIGURES:
        each = [metrics.figures(table, False)[name] for table in tables]
        np.testing.assert_allclose(found[name], [np.mean(each)], rtol=1e-12)


def test_a_model_does_not_differ_from_itself() -> None:
    first, second = two_tables(2)
    p_values = repeated.swap_p_values([first, second], [first, second])
    assert set(p_values.values()) == {1.0}


def test_repeats_of_one_model_are_no_new_evidence() -> None:
    """The same tables again leave every p-value as it was."""
    first, second = two_tables(4, gain=1.0)
    once = repeated.swap_p_values([first], [second])
    assert repeated.swap_p_values([first] * 5, [second] * 5) == once


def test_too_few_subjects_give_no_interval() -> None:
    first, second = two_tables(0, of_class=(3, 6, 6))
    assert set(repeated.intervals([first], [second]).values()) == {None}


def test_subjects_to_tell_by_simulation() -> None:
    """With so many subjects four of five intervals exclude zero."""
    rng = np.random.default_rng(0)
    true, deviation, seen = 0.1, 0.4, 30
    error = deviation / np.sqrt(seen)
    needed = repeated.subjects_to_tell(true, (true - 1.96 * error, true + 1.96 * error), seen)
    assert needed is not None
    means = rng.normal(true, deviation / np.sqrt(needed), 20_000)
    told = np.abs(means) > 1.96 * deviation / np.sqrt(needed)
    assert abs(told.mean() - 0.8) < 0.02
    assert repeated.subjects_to_tell(0.0, (-1, 1), 30) is None
    assert repeated.subjects_to_tell(0.1, None, 30) is None
