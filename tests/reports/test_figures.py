"""Figures against the numbers they show: as lines, as pixels of a PNG, and as SVG within a page."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import _pylab_helpers
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from sklearn import metrics as sklearn_metrics
from small_figures import curve_rows, pixels

from sscjax.evaluation import curves
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import figures
from sscjax.reports.figures import canvas

LONG_NAMES = (
    *("adipose", "background", "debris", "lymphocytes", "mucus"),
    *("smooth muscle tissue of the colon", "normal mucosa", "stroma (cancer associated)"),
    *("adenocarcinoma", "other $x_1$ ünï"),
)

# The end of the colour scale: all images of a row.
DARKEST = "#08306b"


def line(axes: Axes, label: str) -> Line2D:
    [match] = [drawn for drawn in axes.lines if str(drawn.get_label()).startswith(label)]
    return match


def points(drawn: Line2D) -> np.ndarray:
    """[N,2] of a line."""
    return np.stack([np.asarray(drawn.get_xdata()), np.asarray(drawn.get_ydata())], axis=1)


# ---- ROC and precision-recall -------------------------------------------------------------------


def table(images: int = 60, subjects: int = 20) -> Predictions:
    """Three classes whose probabilities say something of the labels; subjects of one class each."""
    rng = np.random.default_rng(0)
    subject = np.arange(images) % subjects
    labels = subject % 3
    logits = rng.normal(size=(images, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(
        files=np.array([f"{index}.png" for index in range(images)]),
        subjects=np.array([f"s{index}" for index in subject]),
        splits=np.full(images, "test"),
        labels=labels,
        probabilities=probabilities,
        classes=("a", "b", "c"),
    )


def test_roc_is_the_curve_of_scikit_learn() -> None:
    rows = table()
    pair = curves.curves(rows, 1)
    assert pair is not None and pair[0].band is not None
    truth, scores = rows.labels == 1, rows.probabilities[:, 1]
    [axes] = figures.roc(pair[0], (0.5, 0.9)).axes
    drawn = line(axes, "AUROC")
    x, y, _ = sklearn_metrics.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(points(drawn), np.stack([x, y], axis=1))
    area = sklearn_metrics.roc_auc_score(truth, scores)
    assert drawn.get_label() == f"AUROC {area:.3f} (0.500 to 0.900)"
    np.testing.assert_allclose(points(line(axes, "guessing")), [(0, 0), (1, 1)])
    [band] = axes.collections
    corners = np.asarray(band.get_paths()[0].vertices)
    for edge in (pair[0].band.low, pair[0].band.high):
        for point in zip(curves.GRID, edge, strict=True):
            assert np.abs(corners - point).max(axis=1).min() < 1e-12


def test_precision_recall_is_the_curve_of_scikit_learn() -> None:
    rows = table()
    pair = curves.curves(rows, 2)
    assert pair is not None
    truth, scores = rows.labels == 2, rows.probabilities[:, 2]
    [axes] = figures.precision_recall(pair[1]).axes
    drawn = line(axes, "average precision")
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth, scores)
    expected = np.stack([recall, precision], axis=1)[::-1]
    # Its curve ends in an artificial point of precision 1 at recall 0.
    np.testing.assert_allclose(points(drawn)[1:], expected[1:])
    area = sklearn_metrics.average_precision_score(truth, scores)
    assert str(drawn.get_label()).startswith(f"average precision {area:.3f} (")
    np.testing.assert_allclose(points(line(axes, "guessing"))[:, 1], truth.mean())


# ---- learning curves ----------------------------------------------------------------------------


def test_learning_curves_are_the_rows() -> None:
    rows = curve_rows()
    rows[2]["val_loss"] = None
    for quantity in ("accuracy", "loss"):
        [axes] = figures.learning_curves(rows, 7, quantities=(quantity,)).axes
        for split, label in (("train", "training"), ("val", "validation")):
            values = [row[f"{split}_{quantity}"] for row in rows]
            expected = [(k + 1, np.nan if v is None else v) for k, v in enumerate(values)]
            np.testing.assert_array_equal(points(line(axes, label)), np.array(expected, float))
        np.testing.assert_array_equal(
            points(line(axes, "best epoch (7)")), [(7, rows[6][f"val_{quantity}"])]
        )


def fold_rows(folds: int) -> dict[str, list[dict[str, Any]]]:
    return {
        f"fold_{number}": [
            {"epoch": epoch, "val_accuracy": (number + epoch) / 10, "val_loss": None}
            # The last of seven folds stopped early.
            for epoch in range(1, 3 if number < 6 else 2)
        ]
        for number in range(folds)
    }


def test_few_folds_are_a_line_each() -> None:
    [axes] = figures.fold_curves(fold_rows(6), ("accuracy",)).axes
    assert [drawn.get_label() for drawn in axes.lines] == [f"fold_{k}" for k in range(6)]
    assert len({(drawn.get_color(), str(drawn.get_linestyle())) for drawn in axes.lines}) == 6
    np.testing.assert_allclose(points(axes.lines[3]), [(1, 0.4), (2, 0.5)])


def test_many_folds_are_drawn_as_their_range() -> None:
    """Lines of seven folds would share colours: the median is drawn within the extremes."""
    [axes] = figures.fold_curves(fold_rows(7), ("accuracy",)).axes
    [median], [band] = axes.lines, axes.collections
    np.testing.assert_allclose(points(median), [(1, 0.4), (2, 0.45)])
    assert median.get_label() == "median of 7 folds (band: lowest to highest)"
    corners = {tuple(np.round(corner, 9)) for corner in np.asarray(band.get_paths()[0].vertices)}
    assert corners == {(1, 0.1), (1, 0.7), (2, 0.2), (2, 0.7)}


# ---- calibration --------------------------------------------------------------------------------


def calibrated(reason: str | None = None) -> dict[str, Any]:
    def quality(error: float) -> dict[str, Any]:
        bins = [
            {"low": k / 2, "high": (k + 1) / 2, "n": 6 - 4 * k, "confidence": 0.3 + error + k / 2,
             "accuracy": 0.4 + k / 2, "interval": [0.1, 0.95] if k else None}
            for k in range(2)
        ]  # fmt: skip
        empty = {"low": 1, "high": 1, "n": 0, "confidence": None, "accuracy": None}
        return {"ece": error, "bins": [*bins, empty]}

    splits = {"test": {"before": quality(0.234), "after": quality(0.111)}}
    coverage = [{"coverage": share, "accuracy": 1 - share / 4} for share in (1.0, 0.25, 0.5)]
    return {"reason": reason, "splits": splits, "coverage": coverage}


def test_reliability_shows_each_bin_before_and_after() -> None:
    left, right = figures.calibration(calibrated()).axes
    for state, error in (("before", 0.234), ("after", 0.111)):
        drawn = line(left, f"{state} temperature scaling: calibration error {error}")
        np.testing.assert_allclose(points(drawn), [(0.3 + error, 0.4), (0.8 + error, 0.9)])
    whiskers = [drawn for drawn in left.lines if str(drawn.get_label()).startswith("_")]
    np.testing.assert_allclose(points(whiskers[1]), [(0.911, 0.1), (0.911, 0.95)])
    bars = [bar.get_path().transformed(bar.get_patch_transform()) for bar in left.patches]
    assert [bar.get_extents().height for bar in bars] == [0.75, 0.25]
    np.testing.assert_allclose(points(right.lines[0]), [(0.25, 0.9375), (0.5, 0.875), (1, 0.75)])


def test_reliability_without_scaling_is_drawn_once() -> None:
    [axes] = figures.calibration(calibrated("too few subjects"), ("test",)).axes
    labels = [str(drawn.get_label()) for drawn in axes.lines]
    assert [label for label in labels if not label.startswith("_")] == [
        "ideal",
        "no scaling: calibration error 0.111",
    ]


# ---- within a page ------------------------------------------------------------------------------


def roc_svg(name: str = "roc-1") -> str:
    pair = curves.curves(table(), 1)
    assert pair is not None
    return figures.svg(figures.roc(pair[0]), name, "ROC: <a> & b", "AUROC 0.9")


def test_svg_is_read_by_everyone() -> None:
    root = ElementTree.fromstring(roc_svg())
    assert root.tag == "svg" and root.get("role") == "img"
    texts = {child.get("id"): child.text for child in root if child.tag in ("title", "desc")}
    assert texts == {"roc-1-t": "ROC: <a> & b", "roc-1-d": "AUROC 0.9"}
    assert root.get("aria-labelledby") == "roc-1-t roc-1-d"
    shown = [element.text for element in root.iter("text")]
    assert "false positive rate" in shown and "guessing" in shown
    assert not list(root.iter("style")) and not list(root.iter("metadata"))


def test_svg_takes_its_colours_from_the_page() -> None:
    text = roc_svg()
    colours = set(re.findall(r"(?:fill|stroke):([^;\"]+)", text))
    assert colours == {"none", "var(--c0)", "var(--soft)", "var(--line)"}
    names = {name[4:-1] for name in canvas._CSS.values()}
    style = Path(figures.__file__).parents[1] / "html" / "templates" / "style.css"
    css = style.read_text("utf-8")
    light, dark = css.split("prefers-color-scheme: dark")
    for name in names:
        assert f"{name}:" in light and f"{name}:" in dark


def test_svg_is_the_same_twice_and_its_ids_are_its_own() -> None:
    first, again, other = roc_svg(), roc_svg(), roc_svg("roc-2")
    assert first == again and len(first) < 20_000
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (first, other)]
    assert not ids[0] & ids[1]
    for text, known in zip((first, other), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([\w-]+)', text)) <= known


def test_svg_draws_at_the_places_of_the_values() -> None:
    """The corners of a step, from the axes' frame in the drawing itself."""
    figure, [axes] = canvas.panels(1)
    axes.plot([0, 1, np.nan, 2], [0, 2, 1, 1], color=canvas.SERIES[0]["color"])
    axes.set(xlim=(0, 2), ylim=(0, 2))
    root = ElementTree.fromstring(figures.svg(figure, "n", "t", "d"))
    [clip] = root.iter("clipPath")
    frame = {key: float(clip[0].attrib[key]) for key in ("x", "y", "width", "height")}
    [path] = [part for part in root.iter("path") if "--c0" in part.get("style", "")]
    expected = []
    for kind, x, y in (("M", 0, 0), ("L", 1, 2), ("M", 2, 1)):
        across = frame["x"] + x / 2 * frame["width"]
        down = frame["y"] + (1 - y / 2) * frame["height"]
        expected.append((kind, across, down))
    parts = re.findall(r"([ML]) (\S+) (\S+)", path.get("d", ""))
    assert [kind for kind, _, _ in parts] == [kind for kind, _, _ in expected]
    drawn = np.array([[float(x), float(y)] for _, x, y in parts])
    np.testing.assert_allclose(drawn, [point[1:] for point in expected], atol=0.051 + 0.005)


# ---- PNG files ----------------------------------------------------------------------------------


def area(image: np.ndarray, code: str) -> int:
    """Pixels of a colour, given as `#rrggbb`."""
    rgb = [int(code[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(image - rgb).max(axis=-1) <= 3).sum())


def has_colour(image: np.ndarray, code: str) -> bool:
    return area(image, code) > 20


def test_learning_curves(tmp_path: Path) -> None:
    rows = curve_rows()
    figures.write_png(
        tmp_path / "all.png", figures.learning_curves(rows, best_epoch=7, title="a $run")
    )
    image = pixels(tmp_path / "all.png")
    assert image.shape[1] == 1000
    for colour in (canvas.TRAIN_STYLE["color"], canvas.VAL_STYLE["color"], canvas.BEST_COLOUR):
        assert has_colour(image, colour)
    figures.write_png(
        tmp_path / "again.png", figures.learning_curves(rows, best_epoch=7, title="a $run")
    )
    assert (tmp_path / "all.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    for row in rows:
        row["val_loss"] = row["val_accuracy"] = None
    figures.write_png(tmp_path / "train.png", figures.learning_curves(rows))
    image = pixels(tmp_path / "train.png")
    assert not has_colour(image, canvas.VAL_STYLE["color"])
    assert not has_colour(image, canvas.BEST_COLOUR)


def test_stage_boundary_is_drawn_in_both_panels(tmp_path: Path) -> None:
    """Columns with much dark grey: the frame has none, a boundary runs the panel's height."""
    columns = {}
    for name, rows in (("one", curve_rows(10, 0)), ("two", curve_rows(6, 4))):
        figures.write_png(tmp_path / f"{name}.png", figures.learning_curves(rows))
        grey = np.abs(pixels(tmp_path / f"{name}.png") - 0x55).max(axis=-1) < 0x38
        columns[name] = np.flatnonzero(grey.sum(axis=0) > 80)
    added = sorted(set(columns["two"]) - set(columns["one"]))
    assert added and added[0] < 500 < added[-1]
    # After 6 of 10 epochs: right of the middle of each panel, and nowhere else.
    left = [column for column in added if column < 500]
    assert 250 < left[0] and left[-1] - left[0] <= 3


@pytest.mark.parametrize("count", [0, 1, 2])
def test_learning_curves_of_few_epochs(tmp_path: Path, count: int) -> None:
    figures.write_png(tmp_path / "few.png", figures.learning_curves(curve_rows(count, 0), 1))
    assert pixels(tmp_path / "few.png").std() > 0


def test_learning_curves_of_many_stages_and_a_spike(tmp_path: Path) -> None:
    rows = curve_rows(40, 0)
    for index, row in enumerate(rows):
        row["stage"] = f"stage {index // 2}"
    rows[20]["train_loss"] = 1e6
    figures.write_png(tmp_path / "many.png", figures.learning_curves(rows, best_epoch=40))
    assert pixels(tmp_path / "many.png").shape[1] == 1000


@pytest.mark.parametrize("num_classes", [2, 3, 10, 40])
def test_confusion_png(tmp_path: Path, num_classes: int) -> None:
    names = [*LONG_NAMES, *(f"class {index}" for index in range(30))][-num_classes:]
    diagonal = np.eye(num_classes, dtype=int) * 20
    figures.write_png(tmp_path / "right.png", figures.confusion(diagonal, names, "50 % of $x"))
    figures.write_png(tmp_path / "wrong.png", figures.confusion(diagonal[::-1].tolist(), names))
    right = pixels(tmp_path / "right.png")
    assert right.shape[1] == 1000
    # The cells of the diagonal, where the whole row is; the colour bar's end is far smaller.
    side = (right[right.shape[0] // 2] < 250).any(axis=-1).sum() / 2
    assert area(right, DARKEST) > side**2 / num_classes / 2
    assert (right != pixels(tmp_path / "wrong.png")).any()


def test_confusion_png_with_an_absent_class_and_a_foreign_script(tmp_path: Path) -> None:
    figures.write_png(tmp_path / "c.png", figures.confusion([[3, 1], [0, 0]], ["正常", "$\\frac"]))
    assert 0 < area(pixels(tmp_path / "c.png"), DARKEST) < 200


def test_figures_leave_no_global_state(tmp_path: Path) -> None:
    """Neither pyplot nor any deep-learning library comes with the reports."""
    figures.write_png(tmp_path / "c.png", figures.confusion([[1, 0], [0, 1]], ["a", "b"]))
    assert not _pylab_helpers.Gcf.figs
    code = (
        "import sys, sscjax.reports.tables, sscjax.reports.figures, sscjax.evaluation.metrics\n"
        "heavy = {'jax', 'torch', 'tensorflow', 'tensorboardX', 'matplotlib.pyplot'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_curves_csv(tmp_path: Path) -> None:
    rows = curve_rows(2, 1)
    rows[1]["val_loss"] = None
    rows[2]["note"] = "stopped, early"
    rows[2]["train_loss"] = np.float32(0.1)
    figures.write_curves_csv(tmp_path / "curves.csv", rows)
    with (tmp_path / "curves.csv").open(encoding="utf-8", newline="") as file:
        back = list(csv.DictReader(file))
    assert list(back[0]) == [*rows[0], "note"]
    assert [float(row["train_loss"]) for row in back] == [row["train_loss"] for row in rows]
    assert back[1]["val_loss"] == "" and back[0]["note"] == ""
    assert back[2]["note"] == "stopped, early" and back[2]["epoch"] == "3"
