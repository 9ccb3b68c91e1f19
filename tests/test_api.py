"""The public functions: the notebook's ten lines, and what each of them promises."""

from __future__ import annotations

import doctest
import inspect
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import sklearn.metrics
from small_runs import small_config, write_folder, written
from snippets import page
from trees import assert_same

import sscjax
import sscjax.experiments.api
from sscjax.configs import default, smoke
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.evaluation import result
from sscjax.export.verify import ExportOptions
from sscjax.export.write import export
from sscjax.inference import explain, predict

CLASSES = ("normal", "early", "late")

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("skin"), subjects=8, tiles=16)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """What docs/notebook.md leaves behind, run as it stands: MobileNetV2 in two stages."""
    names: dict[str, Any] = {"folder": tmp_path_factory.mktemp("notebook")}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(names["folder"])
        exec(page("notebook.md"), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def tiny(skin: Path) -> SimpleNamespace:
    """A CNN of one block, trained for a moment."""
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    train, val, test = data.split(seed=0)
    model = _cnn()
    stages = [sscjax.Head(epochs=2)]
    classifier = sscjax.fit(model, train, val, stages=stages, micro_batch=8)
    return SimpleNamespace(**locals())


def _cnn(**fields: Any) -> Any:
    given = {"cnn_widths": (4,), "cnn_dense": (8,), **fields}
    return sscjax.create_model("cnn", 3, pretrained="none", image_size=32, **given)


def _tree(classifier: Any) -> dict[str, Any]:
    return {"params": classifier.params, "batch_stats": classifier.batch_stats}


# --- importing ------------------------------------------------------------------------------------


def _process(code: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(sscjax.__file__).parent.parent,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_is_quick_and_changes_nothing() -> None:
    found = _process(
        "import json, logging, os, sys, time\n"
        "def state(): return [list(sys.path), dict(os.environ), logging.root.level,"
        " len(logging.root.handlers), sorted(logging.root.manager.loggerDict)]\n"
        "before, start = state(), time.process_time()\n"
        "import sscjax\n"
        "took = time.process_time() - start\n"
        "heavy = [name for name in ('numpy', 'jax', 'ml_collections') if name in sys.modules]\n"
        "same = before == state()\n"
        "missing = sorted(set(sscjax.__all__) - set(dir(sscjax)))\n"
        "print(json.dumps([took, heavy, same, missing]))"
    )
    took, heavy, same, missing = found
    assert took < 0.1 and heavy == [] and same and missing == []


def test_using_it_leaves_loggers_and_allocator_alone() -> None:
    """What other libraries do when they are imported is theirs."""
    code = (
        "import json, logging, sys\n"
        "import absl.logging, jax, matplotlib, orbax.checkpoint\n"
        "def state(): return [[logging.getLogger(n).level for n in"
        " ('', 'absl', 'orbax', 'sscjax')],"
        " list(sys.path), jax.config.values['jax_cpu_enable_async_dispatch'],"
        " jax.config.values['jax_compilation_cache_dir']]\n"
        "before = state()\n"
        "from sscjax import fit, load, run\n"
        "print(json.dumps([before, state()]))"
    )
    before, after = _process(code)
    assert before == after


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = sscjax.fitt
    assert all(
        getattr(sscjax, name) is getattr(sscjax.experiments.api, name) for name in sscjax.__all__
    )


# --- the ten lines --------------------------------------------------------------------------------


def test_ten_lines(skin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the design promises, with a small network in place of ImageNet's."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(skin, "skin")
    data = sscjax.load_images("skin", classes=("normal", "early", "late"), image_size=32)
    train, val, test = data.split(by="subject", seed=0)
    model = sscjax.create_model(
        "cnn", num_classes=3, pretrained="none", image_size=32, cnn_widths=(4,)
    )
    features = sscjax.extract_features(model, train.images)
    stages = [sscjax.Head(epochs=2), sscjax.Finetune(epochs=2, freeze_first=0)]
    classifier = sscjax.fit(model, train, val, stages=stages, micro_batch=8)
    probabilities = classifier.predict_proba(test.images)
    result = sscjax.evaluate(
        test.labels, probabilities, subjects=test.subjects, classes=test.classes
    )
    subject = result["balanced_accuracy"].per_subject
    maps = classifier.explain(test.images[:4])
    classifier.save("saved")
    again = sscjax.load("saved")
    assert len(features) == len(train) and features.dtype == np.float32
    assert probabilities.shape == (len(test), 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    recall = sklearn.metrics.balanced_accuracy_score(test.labels, probabilities.argmax(axis=1))
    assert result["balanced_accuracy"].per_image.value == pytest.approx(recall)
    assert subject.low is None and "subjects" in subject.reason  # one test subject of each class
    assert maps.shape == (4, 32, 32) and maps.dtype == np.float32
    assert maps.min() >= 0 and maps.max() <= 1
    np.testing.assert_array_equal(again.predict_proba(test.images), probabilities)


def test_the_page_runs_as_it_stands(notebook: SimpleNamespace) -> None:
    count = len(notebook.train)
    assert notebook.features.shape == (count, 1280) and np.isfinite(notebook.features).all()
    assert notebook.lower.shape == (count, 8 + 1280)
    np.testing.assert_allclose(notebook.lower[:, 8:], notebook.features, rtol=1e-4, atol=1e-6)
    assert notebook.maps.shape == (4, 32, 32) and notebook.maps.max() == 1
    probabilities = notebook.classifier.predict_proba(notebook.test.images)
    np.testing.assert_array_equal(probabilities, notebook.probabilities)
    assert (notebook.folder / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert (notebook.folder / "runs" / "smoke" / "report.html").is_file()


def test_layers_are_averaged_and_joined(tiny: SimpleNamespace) -> None:
    images = tiny.train.images[:3]
    names = tiny.model.layers[1:3]
    both = sscjax.extract_features(tiny.model, images, layers=names)
    variables = {"params": tiny.model.network.params}
    x = tiny.model.program.inputs(images, None)
    _, seen = tiny.model.network.model.apply(variables, x, train=False, capture=names)
    expected = [np.asarray(seen[name]).mean(axis=(1, 2)) for name in names]
    np.testing.assert_allclose(both, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)
    # BatchNorm is folded into the convolution Conv1, whose own output nobody sees.
    narrow = sscjax.create_model("mobilenet_v2", 3, pretrained="none", image_size=32, alpha=0.35)
    for wrong in ("block_2_ad", "Conv1", "predictions"):
        with pytest.raises(UserError, match="no layer whose output can be read"):
            sscjax.extract_features(narrow, images, layers=[wrong])


def test_the_commands_take_what_was_saved(
    tiny: SimpleNamespace, skin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "saved"
    tiny.classifier.save(saved)
    predict.predict(saved, [skin], tmp_path / "predictions")
    found = json.loads((tmp_path / "predictions" / "predictions.json").read_text("utf-8"))
    told = np.array([list(row["probabilities"].values()) for row in found["images"]])
    np.testing.assert_array_equal(tiny.classifier.predict_proba(skin), told)
    # The manifest knows the files that were trained on.
    assert found["trained_on"] == len(tiny.train) + len(tiny.val)
    image = skin / str(tiny.test.files[0])
    assert explain.explain(saved, [image], tmp_path / "explanations", most=1) == 0
    assert "For research only" in capsys.readouterr().out


@pytest.mark.extra
def test_what_was_saved_can_be_exported(tiny: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="the extra 'export' is not installed")
    tiny.classifier.save(tmp_path / "saved")
    summary = export(tmp_path / "saved", "stablehlo", tmp_path / "model.zip", ExportOptions())
    assert "0 decisions differ" in summary


# --- any number and size --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 33])
def test_any_number_and_size(tiny: SimpleNamespace, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 20, 31, 3), np.uint8)
    found = tiny.classifier.predict_proba(images)
    assert found.shape == (count, 3) and found.dtype == np.float64
    np.testing.assert_array_equal(found, tiny.classifier.predict_proba(list(images)))
    assert len(tiny.classifier.predict(images)) == count
    assert tiny.classifier.explain(images).shape == (count, 32, 32)
    assert sscjax.extract_features(tiny.model, images).shape[0] == count
    # One by one they are the same images.
    alone = [tiny.classifier.predict_proba(image[None]) for image in images[:3]]
    np.testing.assert_array_equal(np.concatenate([found[:0], *alone]), found[:3])


def test_files_arrays_and_sets_give_the_same(tiny: SimpleNamespace, skin: Path) -> None:
    paths = [skin / file for file in tiny.test.files.tolist()]
    expected = tiny.classifier.predict_proba(tiny.test.images)
    for images in (tiny.test, paths, [str(path) for path in paths], list(tiny.test.images)):
        np.testing.assert_array_equal(tiny.classifier.predict_proba(images), expected)
    np.testing.assert_array_equal(tiny.classifier.predict_proba(paths[0]), expected[:1])
    assert tiny.classifier.predict(paths).files.tolist() == [path.name for path in paths]
    assert tiny.classifier.predict(tiny.test).subjects.tolist() == tiny.test.subjects.tolist()


def test_decisions_are_those_of_the_rules(tiny: SimpleNamespace) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    images = np.concatenate([tiny.test.images[:], noise])
    found = tiny.classifier.predict(images)
    rules = tiny.classifier.rules
    least = 0 if rules.confidence_threshold is None else rules.confidence_threshold
    np.testing.assert_array_equal(found.abstained, found.probabilities.max(axis=1) < least)
    np.testing.assert_array_equal(
        found.out_of_distribution, found.distances > tiny.classifier.distance_limit
    )
    best = np.array(CLASSES)[found.probabilities.argmax(axis=1)]
    np.testing.assert_array_equal(found.classes, best)
    plain = ~found.abstained & ~found.out_of_distribution
    np.testing.assert_array_equal(found.decisions[plain], best[plain])
    assert set(found.decisions[found.out_of_distribution]) <= {"out_of_distribution"}
    np.testing.assert_array_equal(found.positive, found.scores >= rules.threshold)
    record = found.records()[0]
    assert json.loads(json.dumps(record))["decision"] == found.decisions[0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), "expected uint8"),
        (np.zeros((32, 32, 3), np.uint8), r"images\[None\]"),
        (np.zeros((2, 32, 32, 4), np.uint8), r"expected \[N,H,W,3\]"),
        (np.zeros((2, 4, 32, 3), np.uint8), "expected at least 8x8"),
        ([np.zeros((32, 32), np.uint8)], r"images\[0\]: an array of shape"),
        ([np.zeros((32, 32, 3), np.uint8), "a.png"], r"images\[1\] is a str"),
        ("missing.png", "no such file"),
        (7, "images are a int"),
        (None, "images are a NoneType"),
    ],
)
def test_what_is_no_image_is_one_line(tiny: SimpleNamespace, images: Any, message: str) -> None:
    for call in (tiny.classifier.predict_proba, tiny.classifier.predict, tiny.classifier.explain):
        with pytest.raises(UserError, match=message) as caught:
            call(images)
        assert "\n" not in str(caught.value)


def test_explain_of_a_class_and_layer(tiny: SimpleNamespace) -> None:
    images = tiny.test.images[:2]
    late = tiny.classifier.explain(images, of="late", method="hires_cam")
    early = tiny.classifier.explain(images, of="early", method="hires_cam")
    assert not np.array_equal(late, early)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"of": "lat"}, "did you mean 'late'"),
        ({"layer": "nowhere"}, "nowhere"),
        ({"layer": "predictions"}, "predictions"),
        ({"method": "cam"}, "expected one of"),
        ({"save": Path(__file__) / "x.png"}, "cannot be written"),
    ]
    for arguments, message in wrong:
        with pytest.raises(UserError, match=message):
            tiny.classifier.explain(images, **arguments)


# --- training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(skin: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of two stages with copies and augmentation on line."""
    folder = tmp_path_factory.mktemp("ran") / "run"
    return sscjax.run(
        small_config(), folder, **cast(Any, {"data.path": skin, "data.classes": CLASSES})
    )


def _fit_alike(skin: Path, **arguments: Any) -> Any:
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    train, val, _ = data.split(by="subject", seed=0)
    stages = [
        sscjax.Head(epochs=4),
        sscjax.Finetune(epochs=4, freeze_first=0),
    ]
    fields = {"micro_batch": 8, "augment.copies": 1, "checkpoint.every_seconds": 0.0}
    given = {"stages": stages, "batch_size": 16, **fields, **arguments}
    return sscjax.fit(_cnn(), train, val, **given)


def test_fit_gives_the_bits_of_a_run(ran: Any, skin: Path, tmp_path: Path) -> None:
    """Also where it is interrupted between its stages, and called again."""
    of_run = ran.classifier()
    fitted = _fit_alike(skin, workdir=tmp_path / "work")
    assert_same(_tree(fitted), _tree(of_run))
    assert fitted.rules == of_run.rules and fitted.distance_limit == of_run.distance_limit
    test = ran.predictions.where("test")
    images = [skin / file for file in test.files.tolist()]
    np.testing.assert_array_equal(fitted.predict_proba(images), of_run.predict_proba(images))
    np.testing.assert_allclose(fitted.predict_proba(images), test.probabilities, rtol=1e-6)
    before = written(tmp_path / "work" / "stages")
    assert_same(_tree(_fit_alike(skin, workdir=tmp_path / "work")), _tree(of_run))
    assert written(tmp_path / "work" / "stages") == before
    for name in ("stages/finetune", "checkpoints/1000004000000"):
        shutil.rmtree(tmp_path / "work" / name)
    (tmp_path / "work" / "report.txt").unlink()
    assert_same(_tree(_fit_alike(skin, workdir=tmp_path / "work")), _tree(of_run))
    with pytest.raises(UserError, match="config.seed: 0 then, 1 now"):
        _fit_alike(skin, workdir=tmp_path / "work", seed=1)


def test_stages_have_the_defaults_of_the_config() -> None:
    config = default.get_config()
    known = set(config.stages.head)
    for made, block in (
        (sscjax.Stage(), default.stage()),
        (sscjax.Head(), config.stages.head),
        (sscjax.Finetune(), config.stages.finetune),
    ):
        for name, value in made.fields().items():
            assert block[name] == value, name
        assert set(made.fields()) <= known


def test_fit_without_subjects_to_spare_and_other_mistakes(tiny: SimpleNamespace) -> None:
    train, val = tiny.train, tiny.val
    only_normal = train.take(np.flatnonzero(train.labels == 0))
    small: dict[str, Any] = {"pretrained": "none", "cnn_widths": (4,)}
    two = sscjax.create_model("cnn", 2, image_size=32, **small)
    large = sscjax.create_model("cnn", 3, image_size=48, **small)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        ((tiny.model, only_normal, val), {}, "train has no image of class 'early'"),
        ((tiny.model, train, train), {}, "hold an image twice"),
        ((tiny.model, train.images, val), {}, "train is a View: expected an ImageSet"),
        ((two, train, val), {}, "num_classes=3"),
        ((large, train, val), {}, "the same image_size"),
        (("cnn", train, val), {}, "model is a str"),
        ((tiny.model, train, val), {"stages": []}, "stage_order is empty"),
        ((tiny.model, train, val), {"stages": [3]}, r"stages\[0\] is a int"),
        ((tiny.model, train, val), {"stages": [sscjax.Head(epochs=0)]}, "epochs=0"),
        ((tiny.model, train, val), {"stages": [sscjax.Head(optimizer="lion")]}, "lion"),  # type: ignore[arg-type]
        ((tiny.model, train, val), {"sed": 1}, "did you mean 'seed'"),
        ((tiny.model, train, val), {"model.dropout": 0.1}, "fixed by create_model"),
        ((tiny.model, train, val), {"seed": "one"}, "seed='one': expected int"),
    ]
    for arguments, more, message in wrong:
        with pytest.raises(UserError, match=message) as caught:
            sscjax.fit(*arguments, **more)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mobilenet"}, "did you mean 'mobilenet_v2'"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"image_size": 8}, "image_size=8"),
        ({"alfa": 0.5}, "did you mean 'alpha'"),
        ({"alpha": "wide"}, "model.alpha='wide': expected float"),
        ({"pretrained": "missing.pth"}, "missing.pth"),
        ({"fallback": "hope", "pretrained": "imagenet"}, "hope"),
    ],
)
def test_create_model_refuses(arguments: dict[str, Any], message: str) -> None:
    given = {"name": "mobilenet_v2", "num_classes": 3, "pretrained": "none", "image_size": 32}
    with pytest.raises(UserError, match=message):
        sscjax.create_model(**{**given, **arguments})


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("missing", {}, "missing"),
        ("", {}, "path is empty"),
        (None, {"classes": "normal"}, "expected several names"),
        (None, {"image_size": 8}, "image_size=8"),
        (None, {"corupt": "skip"}, "did you mean 'corrupt'"),
        (None, {"synthetic": 3}, "block of fields"),
    ],
)
def test_load_images_refuses(path: str | None, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sscjax.load_images(path, **fields)


def test_split_is_that_of_a_run(ran: Any, skin: Path) -> None:
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    parts = dict(zip(("train", "val", "test"), data.split(seed=0), strict=True))
    for name, part in parts.items():
        assert part.files.tolist() == ran.predictions.where(name).files.tolist()
    by_image = data.split(by="image", seed=1, fractions=(0.5, 0.25, 0.25))
    assert [len(part) for part in by_image] == [24, 12, 12]
    with pytest.raises(UserError, match="expected 'subject' or 'image'"):
        data.split(by="patient")


def test_save_replaces_a_classifier_and_nothing_else(tiny: SimpleNamespace, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    tiny.classifier.save(place)
    tiny.classifier.save(place)
    assert_same(_tree(sscjax.load(place)), _tree(tiny.classifier))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    for where, message in (
        ("other", "other files"),
        ("file", "is a file"),
        ("run", "a run|trained"),
    ):
        with pytest.raises(UserError, match=message):
            tiny.classifier.save(tmp_path / where)
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


# --- figures --------------------------------------------------------------------------------------


def _random(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    probabilities = rng.dirichlet(np.ones(classes), count)
    probabilities[np.arange(count), labels] += 0.4
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_values_are_those_of_scikit_learn() -> None:
    labels, p = _random(200, 3)
    names = ["normal", "early", "late"]
    found = sscjax.evaluate(labels, p, subjects=np.arange(200) // 5, classes=names, ordered=True)
    value = {name: figure.per_image.value for name, figure in found.items()}
    predicted, sk = p.argmax(axis=1), sklearn.metrics
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "macro_auroc": sk.roc_auc_score(labels, p, multi_class="ovr"),
        "quadratic_kappa": sk.cohen_kappa_score(labels, predicted, weights="quadratic"),
        "log_loss": sk.log_loss(labels, p),
        "brier": ((np.eye(3)[labels] - p) ** 2).sum(axis=1).mean(),
    }
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted)
    confusion = sk.confusion_matrix(labels, predicted)
    for k, name in enumerate(names):
        negatives = confusion.sum() - confusion[k].sum()
        wrong = confusion[:, k].sum() - confusion[k, k]
        expected |= {
            f"sensitivity {name}": recall[k],
            f"specificity {name}": 1 - wrong / negatives,
            f"precision {name}": precision[k],
            f"f1 {name}": f1[k],
            f"auroc {name}": sk.roc_auc_score(labels == k, p[:, k]),
        }
    assert set(value) == {*expected, "ece"}
    for name, number in expected.items():
        assert value[name] == pytest.approx(number, abs=1e-12), name
    np.testing.assert_array_equal(found.confusion, confusion)
    interval = found["accuracy"].per_image
    assert interval.low is not None and interval.high is not None
    assert interval.low < expected["accuracy"] < interval.high


def test_a_subject_has_the_mean_of_its_images() -> None:
    labels, p = np.repeat([0, 1, 0, 1], 3), _random(12, 2)[1]
    subjects = np.repeat(["a", "b", "c", "d"], 3)
    found = sscjax.evaluate(labels, p, subjects=subjects)
    means = p.reshape(4, 3, 2).mean(axis=1)
    right = (means.argmax(axis=1) == [0, 1, 0, 1]).mean()
    assert found["accuracy"].per_subject.value == right
    loss = sklearn.metrics.log_loss([0, 1, 0, 1], means)
    assert found["log_loss"].per_subject.value == pytest.approx(loss)
    assert "Clopper and Pearson" in str(found["accuracy"].per_subject.method)
    assert "Korn and Graubard" in str(found["accuracy"].per_image.method)


def test_names_and_one_column_are_taken_too() -> None:
    labels, p = _random(60, 2)
    names = ("normal", "ssc")
    whole = sscjax.evaluate(labels, p, classes=names)
    for given, probabilities in (
        (np.array(names)[labels], p),
        (np.array(names, object)[labels].tolist(), p.tolist()),
        (labels.astype(bool), p[:, 1]),
        (labels, p.astype(np.float32)),
    ):
        found = sscjax.evaluate(given, probabilities, classes=names)
        assert found["auroc ssc"].per_image.value == whole["auroc ssc"].per_image.value
    nothing = whole["accuracy"].per_subject
    assert nothing.value is None and nothing.reason == "no subjects were given"
    assert set(json.loads(json.dumps(whole.to_dict()))["figures"]) == set(whole)


def test_every_missing_number_has_its_reason() -> None:
    labels, p = np.zeros(5, int), np.full((5, 3), [0.8, 0.1, 0.1])
    for subjects in (None, np.zeros(5), np.arange(5)):
        found = sscjax.evaluate(labels, p, subjects=subjects, ordered=True)
        for figure in found.values():
            for one in (figure.per_image, figure.per_subject):
                complete = None not in (one.value, one.low, one.high, one.method)
                assert complete != bool(one.reason), (figure.name, one)
    assert "no figure 'accurcy'; did you mean 'accuracy'" in str(
        pytest.raises(UserError, found.__getitem__, "accurcy").value
    )
    assert "accurcy" not in found and found.get("accurcy") is None


@pytest.mark.parametrize(
    ("labels", "probabilities", "more", "message"),
    [
        ([0, 1], [[0.5, 0.5]], {}, r"labels have shape \(2,\)"),
        ([0], [[0.5, np.nan]], {}, "not finite, first in row 0"),
        ([0], [[2.0, -1.0]], {}, "expected 0 to 1"),
        ([0], [[0.5, 0.4]], {}, "row 0 of the probabilities sums to 0.9"),
        ([0], [[1.0]], {}, r"shape \(1, 1\)"),
        ([], np.zeros((0, 2)), {}, "there are no predictions"),
        ([], [], {}, r"shape \(0,\)"),
        ([2], [[0.5, 0.5]], {}, "labels reach from 2 to 2"),
        ([0.5], [[0.5, 0.5]], {}, "whole numbers or names"),
        (["ssc"], [[0.5, 0.5]], {}, "name the classes"),
        (["sick"], [[0.5, 0.5]], {"classes": ("normal", "ssc")}, "label 'sick' is none"),
        ([0], [[0.5, 0.5]], {"classes": ("a", "b", "c")}, "have 2 columns"),
        ([0], [[0.5, 0.5]], {"classes": ("a", "a")}, "a distinct name"),
        ([0], [[0.5, 0.5]], {"classes": "ab"}, "expected several names"),
        ([0], [[0.5, 0.5]], {"subjects": ["a", "b"]}, "subjects have shape"),
        ([0], [["x", "y"]], {}, "not numbers"),
    ],
)
def test_evaluate_refuses(labels: Any, probabilities: Any, more: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sscjax.evaluate(labels, probabilities, **more)
    assert "\n" not in str(caught.value)


# --- whole runs -----------------------------------------------------------------------------------


def test_run_returns_what_the_command_writes(
    ran: Any, skin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields: dict[str, Any] = {"data.path": skin, "data.classes": list(CLASSES)}
    again = sscjax.run(small_config(), ran.folder, **fields)
    assert capsys.readouterr().out == ""
    assert again.text == ran.text == (ran.folder / "report.txt").read_text("utf-8")
    figures = json.loads((ran.folder / "metrics.json").read_text("utf-8"))
    test, ends = figures["splits"]["test"], figures["test_intervals"]
    for unit in ("image", "subject"):
        for name in ("accuracy", "balanced_accuracy", "macro_auroc", "log_loss"):
            one = getattr(ran.figures[name], f"per_{unit}")
            assert one.value == test[unit][name]
            assert ([one.low, one.high] if one.method else None) == ends[unit][name]
    calibration = json.loads((ran.folder / "calibration.json").read_text("utf-8"))
    brier = calibration["splits"]["test"]["after"]["brier"]
    assert ran.figures["brier"].per_image.value == brier


def test_run_of_a_cross_validation(tmp_path: Path) -> None:
    config = small_config()
    config.stage_order = ("head",)
    fields: dict[str, Any] = {
        "protocol": "kfold",
        "cv.folds": 2,
        "stages.head.epochs": 1,
        "seed": np.int64(3),
    }
    found = sscjax.run(config, tmp_path / "cv", **fields)
    assert config.protocol == "holdout" and config.seed == 0
    assert len(found.predictions) == 48 and "2 networks" in repr(found.classifier())
    written_figures = json.loads((tmp_path / "cv" / "metrics.json").read_text("utf-8"))
    test = written_figures["splits"]["test"]
    assert found.figures["accuracy"].per_subject.value == test["subject"]["accuracy"]
    assert found.figures["log_loss"].per_image.value == test["image"]["log_loss"]
    ensemble = found.classifier()
    ensemble.save(tmp_path / "saved")
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 32, 3), np.uint8)
    expected = np.mean([one.predict_proba(images) for one in ensemble.networks], axis=0)
    np.testing.assert_allclose(sscjax.load(tmp_path / "saved").predict_proba(images), expected)
    assert ensemble.explain(images).shape == (3, 32, 32)


def test_every_way_to_name_a_config_is_the_same(tmp_path: Path) -> None:
    from sscjax.experiments import overrides

    file = tmp_path / "mine.py"
    file.write_text(Path(str(smoke.__file__)).read_text("utf-8"), encoding="utf-8")
    for config in ("smoke", "configs/smoke.py", "smoke.py", smoke, file, smoke.get_config()):
        assert overrides.config_of(config).to_dict() == smoke.get_config().to_dict()


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        ("thre_class", {}, "did you mean 'three_class'"),
        ("nothing/like.py", {}, "does not exist"),
        (3, {}, "config is a int"),
        (json, {}, "get_config"),
        ("three_class", {"data.pth": "x"}, "did you mean 'data.path'"),
        ("three_class", {"stages.head": 3}, "is a block of fields"),
        ("three_class", {"seed": 1.5}, "seed=1.5: expected int"),
        ("three_class", {"private": 1}, "private=1: expected bool"),
        ("three_class", {"protocol": "kfolds"}, "did you mean 'kfold'"),
    ],
)
def test_run_refuses(config: Any, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sscjax.run(config, tmp_path / "run", **fields)
    assert "\n" not in str(caught.value)


def test_load_refuses_what_is_no_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=str(place)):
            sscjax.load(place)


# --- words ----------------------------------------------------------------------------------------


def test_everything_is_short_when_printed(notebook: SimpleNamespace, ran: Any) -> None:
    answers = notebook.classifier.predict(np.zeros((100, 32, 32, 3), np.uint8))
    for one in (
        *(
            notebook.data,
            notebook.train,
            notebook.train.images,
            notebook.model,
            notebook.classifier,
        ),
        *(ran, ran.predictions, notebook.result["accuracy"], sscjax.Head()),
    ):
        assert len(repr(one)) < 600 and "\n" not in repr(one)
    for table in (notebook.result, answers):
        assert len(repr(table)) < 3000 and max(map(len, repr(table).splitlines())) <= 100
    names = tuple(f"class {k} of a large set" for k in range(300))
    texts = np.arange(300).astype(str)
    large = ImageSet(np.zeros((300, 8, 8, 3), np.uint8), np.arange(300), texts, texts, names)
    assert repr(large) == "ImageSet(300 images of 300 subjects, 8x8 pixels: 300 classes)"


@pytest.fixture
def plain_logging() -> Iterator[None]:
    """Examples print what they return, and no warning of a run."""
    logging.getLogger("sscjax").setLevel(logging.ERROR)
    yield
    logging.getLogger("sscjax").setLevel(logging.NOTSET)


@pytest.mark.usefixtures("plain_logging")
@pytest.mark.parametrize(
    "function",
    [
        *(
            getattr(sscjax.experiments.api, name)
            for name in ("load_images", "create_model", "load", "run")
        ),
        *(
            sscjax.experiments.api.extract_features,
            sscjax.experiments.api.fit,
            result.evaluate,
            ImageSet.split,
        ),
    ],
    ids=lambda function: function.__name__,
)
def test_examples_of_the_docstrings(function: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(function) or ""
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in text
    examples = doctest.DocTestParser().get_doctest(text, {}, function.__name__, None, 0)
    assert examples.examples
    failed = doctest.DocTestRunner().run(examples)
    assert failed.failed == 0
