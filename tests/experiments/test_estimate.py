"""The estimate of a cross-validation's time: what it counts is what is done."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sscjax.evaluation import ood
from sscjax.experiments import final_model
from sscjax.experiments.cross_validation import estimate
from sscjax.experiments.cross_validation.estimate import Estimate
from sscjax.training import linear_probe
from sscjax.training.losses import LossSettings


@pytest.mark.parametrize(
    ("folds", "strengths"),
    [(5, (1e-3, 1e-2, 1e-1)), (5, (1e-2,)), (3, (1e-2, 1e-1)), (2, (1e-2, 1e-1))],
)
def test_fits_are_counted_as_they_are_made(
    folds: int, strengths: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(folds)
    labels = np.arange(30) % 2
    features = (rng.standard_normal((30, 4)) + labels[:, None]).astype(np.float32)
    problem = linear_probe.Problem(features, labels, LossSettings().objective(2), 2, max_iter=2)
    fits: list[float] = []
    made = problem.minimise

    def counted(l2: float, *rest: object) -> object:
        fits.append(l2)
        return made(l2, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(problem, "minimise", counted)
    choice, _ = problem.cross_fit(strengths, np.arange(30) // 2 % folds)
    problem.fit(choice.l2)
    assert len(fits) == estimate.number_of_fits(folds, len(strengths))


def test_a_class_with_one_subject_leaves_a_single_fit() -> None:
    assert estimate.number_of_fits(1, 5) == 1


def test_what_each_step_is_made_of() -> None:
    """The first fold has the features besides; of later repeats no maps are drawn."""
    idle = Estimate(images_per_second=100.0, features=15.0, audit=3.0, fits=8.0, tests=4503)
    kinds = idle.by_kind
    assert kinds["first"] - kinds["drawn"] == pytest.approx(15)
    assert kinds["drawn"] > kinds["fold"] == kinds["model"]
    images = final_model.MADE_UP * len(ood.made_up(np.zeros((1, 64, 64, 3), np.uint8), 0))
    assert kinds["fold"] == pytest.approx(3 + 8 + images / 100 + estimate._BESIDES)
    # Other programs make what is not measured wait as much as what is.
    busy = dataclasses.replace(idle, waiting=4.0).by_kind
    assert [busy[kind] for kind in ("report", "page")] == [4 * kinds["report"], 4 * kinds["page"]]
