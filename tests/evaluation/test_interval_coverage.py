"""A small part of the grid of `scripts/evidence/interval_coverage.py`; its population, drawn."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from sscjax.evaluation import metrics

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "evidence"))
import coverage_population
import interval_coverage


@pytest.mark.parametrize("unit", coverage_population.UNITS)
def test_population_is_what_large_tables_show(unit: str) -> None:
    """The figures that intervals are compared with are those of `metrics` for 6,000 subjects."""
    design = coverage_population.Design((3000, 1500, 1500), "10", 0.5, 0.8, 1.0)
    rows = coverage_population.table(design, 5)
    rows = rows if unit == "image" else rows.by_subject()
    counts = np.bincount(rows.labels).astype(float)
    truth = coverage_population.Population(design, unit, 6000)
    known = truth.figures(counts, interval_coverage.edges_of(rows), rows.classes)
    figures = metrics.figures(rows, ordered=True)
    for name in (*metrics.OVERALL, *metrics.PROBABILITIES):
        assert known[name] == pytest.approx(figures[name], abs=0.02), name
    for entry in figures["per_class"]:
        for kind in ("sensitivity", "specificity", "precision", "npv", "f1", "auroc"):
            assert known[f"{kind} {entry['name']}"] == pytest.approx(entry[kind], abs=0.02), kind
        precision = known[f"average_precision {entry['name']}"]
        assert precision == pytest.approx(entry["average_precision"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "design",
    [
        coverage_population.Design((32, 4, 4), "10", 0.5, 0.8, 1.0),
        coverage_population.Design((24, 20, 12), "2-60", 0.5, 0.95, 1.0),
        coverage_population.Design((7, 7, 6), "80 among 5", 0.5, 0.7, 2.0),
        coverage_population.Design((16, 4), "1", 0.5, 0.95, 1.0),
    ],
    ids=str,
)
def test_coverage(design: coverage_population.Design) -> None:
    """Designs in which the methods of earlier versions held the truth in 64 to 85 % of tables."""
    measured = list(interval_coverage.measure(design, repeats=60, size=4000))
    assert len(measured) == 2 * (7 + 7 * len(design.subjects))
    for one in measured:
        # Of 95 %, 60 tables fall below 0.88 less than twice in a hundred times.
        assert one.share >= 0.88, one
        # Only what is undefined in a table, such as the PPV of no predictions, has no interval.
        assert one.tables >= (0.5 if one.figure.startswith("precision") else 1) * one.drawn, one
    assert np.mean([one.share for one in measured]) > 0.94
