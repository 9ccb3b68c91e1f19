"""The fitted classifier: equal to scikit-learn's, its penalty chosen by subject, runs with it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from made_features import Made, fitted_without, made
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression
from small_runs import one_stage_config, written

from sscjax.data import splits, synthetic
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import metrics, predictions
from sscjax.experiments import data_from_config, run_stages, single_run, summarize
from sscjax.inference import classifier
from sscjax.inference.outputs import Outputs
from sscjax.reports import html
from sscjax.reports.html import provenance
from sscjax.reports.html import run_data as page_folder
from sscjax.training import linear_probe, losses, settings

pytestmark = pytest.mark.usefixtures("quick_compiler")


def reference(
    data: Made, l2: float, weights: np.ndarray, scale: float
) -> tuple[LogisticRegression, np.ndarray]:
    """scikit-learn on the standardised features: its C is one over the weight of the penalty."""
    x = data.features[:, :-1].astype(np.float64)
    x = (x - x.mean(0)) / x.std(0) / scale
    model = LogisticRegression(C=1 / (l2 * weights.sum()), tol=1e-8, max_iter=5000)
    return model.fit(x, data.labels, sample_weight=weights), x


@pytest.mark.parametrize("l2", [1e-2, 1e-4])
def test_equals_scikit_learn(l2: float) -> None:
    data = made(90, 0)
    by_class = (0.5, 1.0, 2.5)
    objective = losses.Objective("softmax", class_weights=by_class)
    found = linear_probe.Problem(data.features, data.labels, objective, 3, max_iter=2000).fit(l2)
    weights = np.array(by_class)[data.labels]
    model, x = reference(data, l2, weights, np.sqrt(13))
    logits = data.features.astype(np.float64) @ found.kernel + found.bias
    wanted = model.decision_function(x)
    # Softmax leaves a constant open; both penalties make the kernels' sum over classes zero.
    logits, wanted = (part - part.mean(1, keepdims=True) for part in (logits, wanted))
    np.testing.assert_allclose(logits, wanted, atol=1e-2 * np.abs(wanted).max())
    assert found.accuracy == pytest.approx((wanted.argmax(1) == data.labels).mean())
    probabilities = model.predict_proba(x)[np.arange(90), data.labels]
    assert found.loss == pytest.approx(-np.log(probabilities).mean(), rel=2e-2)
    assert not found.kernel[-1].any(), "a constant feature tells nothing"
    assert found.kernel.dtype == found.bias.dtype == np.float32


def test_one_logit_equals_scikit_learn() -> None:
    """A sigmoid has one column of penalised weights."""
    data = made(60, 1, classes=2)
    found = linear_probe.Problem(data.features, data.labels, losses.Objective("sigmoid"), 1).fit(
        1e-3
    )
    model, x = reference(data, 1e-3, np.ones(60), np.sqrt(13))
    logits = data.features.astype(np.float64) @ found.kernel + found.bias
    wanted = model.decision_function(x)
    np.testing.assert_allclose(logits[:, 0], wanted, atol=1e-2 * np.abs(wanted).max())


def test_weights_of_images_equal_repeating_them() -> None:
    data = made(30, 2)
    twice = np.arange(30) % 2 == 0
    rows = np.concatenate([np.arange(30), np.flatnonzero(twice)])
    objective = losses.Objective("softmax")
    weighted = linear_probe.Problem(data.features, data.labels, objective, 3)
    repeated = linear_probe.Problem(data.features[rows], data.labels[rows], objective, 3)
    first = weighted.classifier(weighted.minimise(1e-2, 1.0 + twice)[0])
    second = repeated.fit(1e-2)
    spread = data.features.std(0)[:, None]
    np.testing.assert_allclose(
        first.kernel * spread,
        second.kernel * spread,
        atol=2e-3 * np.abs(second.kernel * spread).max(),
    )


def test_penalty_is_chosen_by_held_out_loss() -> None:
    """The sums of a loop over folds and strengths with scikit-learn, each fit standardised."""
    data = made(60, 3)
    folds = np.arange(60) // 3 % 4
    strengths = (1e-4, 1e-2, 1.0)
    problem = linear_probe.Problem(
        data.features, data.labels, losses.Objective("softmax"), 3, max_iter=999
    )
    choice = problem.choose(strengths, folds)
    for l2 in strengths:
        total = 0.0
        for fold in range(4):
            inside = folds != fold
            rest = fitted_without(data, inside, l2)[~inside]
            total -= np.log(rest[np.arange((~inside).sum()), data.labels[~inside]]).sum()
        assert choice.losses[l2] == pytest.approx(total / 60, rel=2e-2)
    assert choice.l2 == min(choice.losses, key=choice.losses.__getitem__)
    assert choice.folds == 4
    assert problem.choose([0.5], folds) == linear_probe.Choice(0.5, {}, 0)


# --- folds of the training images ----------------------------------------------------------------


def subject_set(subjects: dict[str, int]) -> ImageSet:
    tiles = dict.fromkeys(subjects, 12)
    return synthetic.skin_biopsies(image_size=32, tiles=tiles, subjects=subjects)


def test_folds_keep_subjects_and_have_every_class() -> None:
    found = subject_set({"normal": 6, "early": 5, "late": 4})
    folds = splits.subject_folds(found, 5, 0)
    assert set(folds.tolist()) == {0, 1, 2, 3}, "a class has four subjects"
    for subject in set(found.subjects.tolist()):
        assert len(set(folds[found.subjects == subject].tolist())) == 1
    for fold in range(4):
        assert set(found.labels[folds == fold].tolist()) == {0, 1, 2}
    assert not splits.subject_folds(subject_set({"normal": 3, "early": 1, "late": 3}), 5, 0).any()


def test_folds_that_know_no_classes_keep_subjects() -> None:
    subjects = np.array(list("aabbbcddde"))
    folds = splits.unlabelled_folds(subjects, 3, 0)
    of_subject = {(name, fold) for name, fold in zip(subjects, folds.tolist(), strict=True)}
    assert len(of_subject) == 5 and sorted(np.bincount(sorted(f for _, f in of_subject))) == [
        1,
        2,
        2,
    ]
    assert set(splits.unlabelled_folds(subjects, 9, 0).tolist()) == set(range(5))


# --- runs ----------------------------------------------------------------------------------------


def lbfgs_config(model: str = "mobilenet_v2") -> ConfigDict:
    config = one_stage_config()
    config.model.name = model
    config.model.alpha = 0.35
    if model == "mobilenet_v2":
        config.model.feature_layers = ("block_2_add", "out_relu")
    else:
        config.model.cnn_dense = ()
    config.stages.head.optimizer = "lbfgs"
    config.stages.head.epochs = 200
    config.stages.head.l2 = (1e-3, 1e-1)
    config.augment.copies = 1
    return config


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summarize, "_draw", lambda *args: None)
    monkeypatch.setattr(html, "write", lambda folder: ())


@pytest.mark.usefixtures("quick")
def test_a_run_fitted_by_lbfgs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ends, says its penalty, is left alone when finished, and answers.

    It trains on all images that are not for testing, and rules rest on out-of-fold predictions.
    """
    # On several layers of MobileNetV2: test_export.py.
    config = lbfgs_config("cnn")
    with caplog.at_level(logging.INFO):
        single_run.run(config, tmp_path / "one")
    assert "-fold cross-validation over the training subjects" in caplog.text
    recorded = json.loads((tmp_path / "one/stages/head/stage.json").read_text("utf-8"))
    assert recorded["progress"]["l2"] in (1e-3, 1e-1) and recorded["progress"]["best_epoch"] == 1
    [row] = recorded["progress"]["curves"]
    assert row["train_accuracy"] > 0.5 and np.isfinite(row["out_of_fold_loss"])
    assert "no validation images: every stage is fitted to convergence" in caplog.text
    before = written(tmp_path / "one")
    single_run.run(config, tmp_path / "one")
    assert written(tmp_path / "one") == before
    said = provenance.provenance(page_folder.read(tmp_path / "one"))
    assert [one["l2"] for one in said["fitted"]] == [recorded["progress"]["l2"]]
    opened = classifier.open_run(tmp_path / "one")
    image_set, _ = data_from_config.load_images(settings.read(config))
    table = predictions.Predictions.read_csv(tmp_path / "one/predictions.csv")
    assert table.files.tolist() == image_set.files.tolist()
    found = Outputs.join(opened.outputs([image_set.images[:32], image_set.images[32:]]))
    np.testing.assert_allclose(found.probabilities, table.probabilities, atol=1e-6)
    assert set(table.splits.tolist()) == {"train", "test"}
    _refer_to_out_of_fold(tmp_path / "one", table)


def _refer_to_out_of_fold(folder: Path, table: predictions.Predictions) -> None:
    """Each training image once, copies not; stage, rules and report go by these predictions."""
    held_out = predictions.Predictions.read_csv(folder / "stages/head/out_of_fold.csv")
    assert held_out.files.tolist() == table.where("train").files.tolist()
    stage = json.loads((folder / "stages/head/stage.json").read_text("utf-8"))
    [row] = stage["progress"]["curves"]
    assert stage["value"] == row["out_of_fold_balanced_accuracy"]
    assert stage["value"] == metrics.validation_metric("balanced_accuracy", held_out)
    content = json.loads((folder / "calibration.json").read_text("utf-8"))
    assert content["held_out"]["source"] == "out-of-fold"
    assert content["held_out"]["images"] == len(held_out)
    assert content["image"]["log_loss"]["held_out"][0] == pytest.approx(row["out_of_fold_loss"])
    figures = json.loads((folder / "metrics.json").read_text("utf-8"))
    assert figures["out_of_fold"]["image"]["n"] == len(held_out)
    text = (folder / "report.txt").read_text("utf-8")
    assert "train (out of fold)" in text
    assert "each by a classifier that was" in " ".join(text.split())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_resumes_after_it_was_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the checkpoint and the end of the stage: nothing is fitted again."""
    config = lbfgs_config("cnn")
    undisturbed = tmp_path / "one"
    single_run.run(config, undisturbed)

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_stages, "_write_finished", die)
        single_run.run(config, tmp_path / "two")
    with monkeypatch.context() as patch:
        patch.setattr(linear_probe, "Problem", die)
        single_run.run(config, tmp_path / "two")
    for name in (
        *("predictions.csv", "metrics.json", "curves.csv", "calibration.json"),
        "stages/head/out_of_fold.csv",
    ):
        assert (undisturbed / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_without_epochs_no_curve_is_drawn(tmp_path: Path) -> None:
    single_run.run(lbfgs_config("cnn"), tmp_path)
    assert not (tmp_path / "curves.png").exists() and (tmp_path / "calibration.png").is_file()
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Confusion" in page and "Accuracy by epoch" not in page
    assert "there is no curves.csv" not in page and "Training (not in this run)" not in page


@pytest.mark.usefixtures("quick")
def test_one_subject_of_a_class_leaves_no_choice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And no out-of-fold predictions: no rule is chosen, and the report says so."""
    config = lbfgs_config("cnn")
    # Two subjects of each class: one to test, one to train on.
    for name in ("normal", "early", "late"):
        config.data.synthetic[f"{name}_subjects"] = 2
    config.split.folds = 2
    config.stages.head.l2 = (1e-4, 1e-2, 1.0)
    single_run.run(config, tmp_path)
    assert "too few subjects of a class to choose l2" in caplog.text
    recorded = json.loads((tmp_path / "stages/head/stage.json").read_text("utf-8"))
    assert recorded["progress"]["l2"] == 1e-2 and recorded["value"] is None
    assert not (tmp_path / "stages/head/out_of_fold.csv").exists()
    content = json.loads((tmp_path / "calibration.json").read_text("utf-8"))
    assert content["image"]["temperature"] == content["subject"]["temperature"] == 1
    assert content["image"]["abstention"]["value"] is None
    assert content["image"]["threshold"]["value"] == 0.5
    # The limit of the flag needs no labels: other subjects' images are there.
    assert content["outliers"]["threshold"] > 0
    assert "no rules could be chosen" in " ".join((tmp_path / "report.txt").read_text().split())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"model.feature_layers": ("block_2_ad",)},
            "'block_2_ad' is not the output of .*'block_2_add'",
        ),
        ({"model.feature_layers": ("block_2_project",)}, "did you mean 'block_2_project_BN'"),
        ({"model.feature_layers": ("out_relu", "out_relu")}, "or is there twice"),
        ({"stages.head.trainable": "all"}, "fits the classifier alone; set trainable='head'"),
        ({"stages.head.online_augment": True}, "needs the same images all the time"),
        ({"stages.head.l2": ()}, r"l2=\(\), expected numbers above 0"),
        ({"stages.head.l2": (0.0,)}, r"l2=\(0.0,\), expected numbers above 0"),
        (
            {"model.name": "cnn", "model.cnn_dense": (8,)},
            r"fits one dense layer, and the classifier has 2 \(dense1, predictions\)",
        ),
        (
            {"features.max_megabytes": 0, "features.disk_megabytes": 0},
            "raise config.features.max_megabytes",
        ),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, object], expected: str) -> None:
    config = lbfgs_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=expected):
        single_run.run(config, tmp_path)
