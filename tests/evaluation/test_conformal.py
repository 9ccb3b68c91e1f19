"""Prediction sets: quantiles by hand, sets against a loop, coverage by simulation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import special

from sscjax.evaluation import conformal
from sscjax.evaluation.predictions import Predictions


def drawn(
    rng: np.random.Generator, subjects: int, images: int = 1, shares: tuple[float, ...] = (0.5, 0.5)
) -> Predictions:
    """Subjects who differ in how hard they are; a miscalibrated classifier."""
    labels = rng.choice(len(shares), subjects, p=shares)
    owner = np.repeat(np.arange(subjects), images)
    logits = rng.normal(0, 1, (len(owner), len(shares)))
    logits += rng.normal(0, 1, (subjects, len(shares)))[owner]
    logits[np.arange(len(owner)), labels[owner]] += 1.5
    return Predictions(
        files=np.arange(len(owner)).astype(str),
        subjects=owner.astype(str),
        splits=np.full(len(owner), "val"),
        labels=labels[owner],
        probabilities=special.softmax(3 * logits, axis=1),
        classes=tuple("abcd"[: len(shares)]),
    )


# ---- the quantile -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, 9, 10, 19, 20, 50, 99])
def test_quantile_by_hand(count: int) -> None:
    """The ceil((n + 1) 0.9)-th smallest of n scores, one per subject; none below nine."""
    scores = np.random.default_rng(count).random(count)
    limit = conformal.quantile(scores, np.arange(count), 0.9)
    rank = int(np.ceil((count + 1) * 0.9))
    assert limit == (np.sort(scores)[rank - 1] if rank <= count else None)
    assert (count < conformal.needed(0.9)) == (limit is None)


@pytest.mark.parametrize(("level", "fewest"), [(0.9, 9), (0.8, 4), (0.95, 19), (0.5, 1)])
def test_needed_subjects(level: float, fewest: int) -> None:
    assert conformal.needed(level) == fewest
    assert conformal.quantile(np.arange(fewest), np.arange(fewest), level) is not None
    assert conformal.quantile(np.arange(fewest - 1), np.arange(fewest - 1), level) is None


def test_images_of_a_subject_share_its_weight() -> None:
    """One subject with a hundred images counts as one of ten, by hand."""
    owner = np.concatenate([np.zeros(100, int), np.arange(1, 10)])
    scores = np.concatenate([np.full(100, 0.99), np.arange(1, 10) / 10])
    # Ten subjects and the new one: nine of eleven weights are not 0.9, ten are.
    assert conformal.quantile(scores, owner, 0.9) == 0.99
    assert conformal.quantile(scores, owner, 0.8) == 0.9


# ---- the sets -----------------------------------------------------------------------------------


def test_sets_row_by_row() -> None:
    table = drawn(np.random.default_rng(0), 60, shares=(0.4, 0.3, 0.3))
    sets = conformal.fit(table, 3, 0.9, cross=False)
    assert sets.by_class and not sets.says_nothing
    new = drawn(np.random.default_rng(1), 40, shares=(0.4, 0.3, 0.3)).probabilities
    members = sets.members(new)
    for row, inside in zip(new, members, strict=True):
        limits = [limit for limit in sets.limits if limit is not None]
        expected = [1 - p <= limit + 1e-9 for p, limit in zip(row, limits, strict=True)]
        expected[int(row.argmax())] = True
        assert inside.tolist() == expected
    figures = conformal.figures(dataclasses.replace(table, probabilities=table.probabilities),
                                sets.members(table.probabilities))  # fmt: skip
    inside = sets.members(table.probabilities)
    assert figures["mean_size"] == pytest.approx(inside.sum(1).mean())
    assert figures["coverage"]["value"] == pytest.approx(inside[np.arange(60), table.labels].mean())
    assert figures["right_of_one"]["n"] == (inside.sum(1) == 1).sum()


def test_too_few_subjects_exclude_nothing_and_say_so() -> None:
    table = drawn(np.random.default_rng(0), 8)
    sets = conformal.fit(table, 2, 0.9, cross=False)
    assert sets.limits == (None, None) and sets.says_nothing
    assert sets.members(table.probabilities).all()
    assert "8 held-out subjects are too few (9 are needed for 90 %)" in sets.rule


def test_classes_have_limits_of_their_own_where_they_have_enough_subjects() -> None:
    rng = np.random.default_rng(0)
    table = drawn(rng, 60, shares=(0.4, 0.3, 0.3))
    rare = np.flatnonzero(table.labels == 2)[4:]
    few = table.take(np.setdiff1d(np.arange(60), rare))
    # Four subjects of the last class cannot exclude it: one limit for all.
    sets = conformal.fit(few, 3, 0.9, cross=False)
    assert not sets.by_class and len(set(sets.limits)) == 1
    scores = 1 - few.probabilities[np.arange(len(few)), few.labels]
    assert sets.limits[0] == conformal.quantile(scores, few.subjects, 0.9)
    # Two small classes together have enough: they share a limit.
    other = table.take(np.sort(np.concatenate([
        np.flatnonzero(table.labels == 0),
        np.flatnonzero(table.labels == 1)[:5],
        np.flatnonzero(table.labels == 2)[:5],
    ])))  # fmt: skip
    shared = conformal.fit(other, 3, 0.9, cross=False)
    assert shared.limits[1] == shared.limits[2] != shared.limits[0]


def test_unused_outputs_are_never_in_a_set() -> None:
    table = drawn(np.random.default_rng(0), 40, shares=(0.5, 0.5, 0.0))
    sets = conformal.fit(table, 2, 0.9, cross=True)
    assert sets.members(table.probabilities).shape == (40, 2)
    assert "cross-conformal" in sets.rule and conformal.CONDITION in sets.rule


# ---- coverage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("subjects", "images"), [(9, 1), (20, 1), (45, 1), (20, 6)])
def test_the_level_holds_for_new_patients(subjects: int, images: int) -> None:
    """On average over held-out sets, though the classifier is far too sure of itself.

    Of images, for a random one of a new patient. The standard error of the mean over the sets is
    below 0.01.
    """
    rng = np.random.default_rng(3)
    new = drawn(rng, 4000, shares=(0.6, 0.4))
    covered, by_label = [], []
    for _ in range(150):
        held_out = drawn(rng, subjects, images, shares=(0.6, 0.4))
        sets = conformal.fit(held_out, 2, 0.9, cross=False)
        inside = sets.members(new.probabilities)[np.arange(4000), new.labels]
        covered.append(inside.mean())
        if sets.by_class:
            by_label.append([inside[new.labels == k].mean() for k in range(2)])
    assert np.mean(covered) > 0.89
    if by_label:
        assert min(np.mean(by_label, axis=0)) > 0.88


def test_limits_are_not_needlessly_wide() -> None:
    """With many subjects the coverage is the level, not more."""
    rng = np.random.default_rng(4)
    sets = conformal.fit(drawn(rng, 4000, shares=(0.6, 0.4)), 2, 0.9, cross=False)
    new = drawn(rng, 8000, shares=(0.6, 0.4))
    inside = sets.members(new.probabilities)[np.arange(8000), new.labels]
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
