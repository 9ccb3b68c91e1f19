"""Learning curves: nested subsets, figures of given tables, and the command on real features."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prediction_tables import table

from sscjax.cli import learning_curve as command
from sscjax.configs import best_three_class, cnn_three_class
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import learning_curve as curves
from sscjax.evaluation import metrics
from sscjax.evaluation.learning_curve import Measured
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import frozen_head, learning_curve
from sscjax.experiments.learning_curve import Options
from sscjax.system import formatting, terminal
from sscjax.training.losses import Objective


class Recorder:
    """Images without pixels, and whom classifiers were fitted to and asked about."""

    def __init__(self, of_class: tuple[int, ...] = (12, 8, 5), images: int = 4) -> None:
        owner = np.repeat(np.arange(sum(of_class)), images)
        labels = np.repeat(np.arange(len(of_class)), of_class)[owner].astype(np.int32)
        names = tuple("abcdef"[: len(of_class)])
        self.images = ImageSet(
            images=np.zeros((len(owner), 1, 1, 3), np.uint8),
            labels=labels,
            subjects=np.array([f"s{number:02d}" for number in owner]),
            files=np.array([f"{index}.png" for index in range(len(owner))]),
            classes=names,
        )
        self.calls: list[tuple[np.ndarray, np.ndarray]] = []

    def predict(self, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        self.calls.append((train, test))
        classes = len(self.images.classes)
        return np.full((len(test), classes), 1 / classes)


def test_subsets_are_nested_by_subject_and_have_every_class() -> None:
    head: Any = Recorder()
    measured = learning_curve.measure(head, Options(folds=4, repeats=2, sizes=(3, 6, 10, 15)))
    assert measured.sizes.tolist() == [3, 6, 10, 15] and len(head.calls) == 4 * 2 * 4
    subjects, labels = head.images.subjects, head.images.labels
    for start in range(0, len(head.calls), 4):
        sets = []
        for (train, test), size in zip(head.calls[start : start + 4], (3, 6, 10, 15), strict=True):
            named = set(subjects[train].tolist())
            assert len(named) == size and not named & set(subjects[test].tolist())
            # All images of a subject, and every class.
            assert len(train) == 4 * size and set(labels[train].tolist()) == {0, 1, 2}
            sets.append(named)
        assert sets[0] < sets[1] < sets[2] < sets[3]
        # With 15 of about 19 subjects the classes have nearly their shares in the set.
        counts = np.bincount(labels[head.calls[start + 3][0]]) / 60
        np.testing.assert_allclose(counts, np.array([12, 8, 5]) / 25, atol=0.1)
    # Each repeat tests each image once for each size, and trains on others.
    for repeat in range(2):
        calls = head.calls[16 * repeat : 16 * repeat + 16 : 4]
        tested = np.concatenate([test for _, test in calls])
        assert sorted(tested.tolist()) == list(range(100))
    assert {tuple(c[0]) for c in head.calls[:16]} != {tuple(c[0]) for c in head.calls[16:]}


def test_sizes_reach_from_a_few_to_all() -> None:
    head: Any = Recorder()
    sizes = learning_curve.measure(head, Options(folds=5, repeats=1)).sizes
    assert sizes[0] == 6 and sizes[-1] in (19, 20) and (np.diff(sizes) > 0).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sizes": (2, 6, 10)}, "2 training subjects: expected 3, one for each class, to"),
        ({"sizes": (3, 6, 99)}, "99 training subjects"),
        ({"folds": 6}, "class 'c' has 5 subjects.* by 6 folds needs 6"),
    ],
)
def test_what_cannot_be_measured(options: dict[str, Any], expected: str) -> None:
    head: Any = Recorder()
    with pytest.raises(UserError, match=expected):
        learning_curve.measure(head, Options(**options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"folds": 1}, "--folds=1: expected 2 or more"),
        ({"repeats": 0}, "--repeats=0: expected 1 or more"),
        ({"sizes": (5, 5, 9)}, "three or more different"),
    ],
)
def test_wrong_options(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Options(**options).check()


def better(predictions: Predictions, gain: float) -> Predictions:
    """The same with more of each image's probability on its label."""
    own = np.eye(3)[predictions.labels]
    return dataclasses.replace(
        predictions, probabilities=(1 - gain) * predictions.probabilities + gain * own
    )


def measured_tables(repeats: int = 3) -> Measured:
    sizes = np.array([6, 12, 24])
    gains = 0.3 - 0.9 / sizes
    tables = [
        [better(table(seed, (8, 8, 8), images=4), gain) for gain in gains]
        for seed in range(repeats)
    ]
    return Measured(sizes, tables)


@pytest.mark.parametrize(("figure", "unit", "rises"), learning_curve.FIGURES)
def test_points_are_means_of_the_repeats_figures(figure: str, unit: str, rises: bool) -> None:
    measured = measured_tables()
    curve = curves.curve_of(measured, figure, unit, rises)
    for place, point in enumerate(curve.points):
        tables = [row[place] for row in measured.tables]
        tables = tables if unit == "image" else [one.by_subject() for one in tables]
        expected = np.mean([metrics.figures(one, False)[figure] for one in tables])
        assert point.subjects == measured.sizes[place] and point.value == pytest.approx(expected)
        assert point.low is not None and point.high is not None
        assert point.low < point.value < point.high
    values = [point.value for point in (*curve.points, *curve.forecast)]
    assert values == sorted(values, reverse=not rises)
    assert [point.subjects for point in curve.forecast] == [36, 48]
    assert curve.drawn[0].subjects == 6 and curve.drawn[-1].subjects == 48
    beyond = curve.limit.value - curve.forecast[-1].value
    assert beyond >= 0 if rises else beyond <= 0


def test_intervals_hold_the_tested_subjects_and_the_repeats() -> None:
    """More repeats of equal classifiers do not make the tested subjects more."""
    one = curves.curve_of(measured_tables(1), "log_loss", "image", False).points[0]
    same = Measured(measured_tables(1).sizes, measured_tables(1).tables * 8)
    many = curves.curve_of(same, "log_loss", "image", False).points[0]
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


def test_l2_regularised_classifier_is_that_of_scikit_learn() -> None:
    """A fixed penalty: probabilities of images that were not fitted."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    recorder = Recorder((6, 6, 6))
    features = rng.normal(0, 1, (72, 12)).astype(np.float32)
    features[:, :3] += 1.5 * np.eye(3)[recorder.images.labels]
    head = frozen_head.FrozenHead(
        *(recorder.images, False, features, Objective("softmax"), "none", (1e-2,), 0, "")
    )
    train, test = np.arange(0, 72, 2), np.arange(1, 72, 2)
    found = head.predict(train, test)
    mean, scale = features[train].mean(0), features[train].std(0) * np.sqrt(12)
    ready = (features - mean) / scale
    # l2 / 2 |w|^2 beside the mean loss, against |w|^2 / 2 beside C times their sum.
    reference = LogisticRegression(C=1 / (1e-2 * len(train)), max_iter=5000, tol=1e-8)
    reference.fit(ready[train], recorder.images.labels[train])
    np.testing.assert_allclose(found, reference.predict_proba(ready[test]), atol=2e-3)


# --- the command ----------------------------------------------------------------------------------


def write_record(folder: Path, config: Any, name: str = "run.json") -> Path:
    """What the command reads of a finished run."""
    record = {
        **{"status": "finished", "config": config.to_dict(), "data": {}, "weights": {}},
        **{"stages": [{"micro_batch": 8}], "versions": {}, "folds": []},
    }
    folder.mkdir()
    (folder / name).write_text(json.dumps(record), encoding="utf-8")
    return folder


def small_config() -> Any:
    config = best_three_class.get_config()
    config.data.image_size = 32
    config.pretrained = "bundled"
    config.model.feature_layers = ()
    for name in ("normal", "early", "late"):
        config.data.synthetic[name] = 24
        config.data.synthetic[f"{name}_subjects"] = 8
    return config


def _program(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["learning-curve", *map(str, arguments)])
    return terminal.call(command.main)


@pytest.mark.slow
def test_a_finished_run_gives_text_tables_and_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    run = write_record(tmp_path / "run", small_config(), "protocol.json")
    options = ("--folds=2", "--repeats=2", "--sizes", "3", "6", "9")
    assert _program(monkeypatch, run, *options) == 0
    printed = capsys.readouterr().out
    # Paths are as long as they are.
    lines = [line for line in printed.splitlines() if str(run) not in line]
    assert printed.isascii() and max(map(len, lines)) <= formatting.WIDTH
    assert "extrapolated" in printed and "24 subjects" in printed
    out = run / "learning_curve"
    assert (out / "learning_curve.txt").read_text("utf-8").strip() in printed
    about = json.loads((out / "learning_curve.json").read_text("utf-8"))
    assert about["images"] == 72 and about["subjects"] == 24 and len(about["curves"]) == 4
    with (out / "learning_curve.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * (3 + 2)
    first = about["curves"][0]
    assert float(rows[0]["value"]) == first["points"][0]["value"]
    assert first["figure"] == "balanced_accuracy" and 0 <= first["points"][0]["value"] <= 1
    with Image.open(out / "learning_curve.png") as picture:
        assert picture.size[0] > 600
    # The same again, from the features that are kept.
    assert len(list((tmp_path / "cache" / "features").glob("*.npy"))) == 1
    assert _program(monkeypatch, run, *options, f"--out={tmp_path / 'again'}") == 0
    again = json.loads((tmp_path / "again" / "learning_curve.json").read_text("utf-8"))
    assert again == about


def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cnn = write_record(tmp_path / "cnn", cnn_three_class.get_config())
    random = small_config()
    random.pretrained = "none"
    for arguments, expected in (
        ((tmp_path / "none",), "does not exist: give the folder of a run or of images"),
        ((cnn,), "config.model.name='cnn': its features are random"),
        ((write_record(tmp_path / "random", random),), "frozen features need trained weights"),
        ((tmp_path, "--config=best_tree"), "did you mean 'best_three_class'"),
        ((cnn, "--folds=1"), "expected 2 or more"),
    ):
        assert _program(monkeypatch, *arguments) == terminal.USER_ERROR
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1, error


def test_a_folder_of_images_takes_the_best_recipe(tmp_path: Path) -> None:
    config = learning_curve.config_of(tmp_path, "best_three_class", None, ("b", "a"), "bundled")
    assert config.name == "best_three_class" and config.data.path == str(tmp_path)
    assert config.data.classes == ("b", "a") and config.pretrained == "bundled"
