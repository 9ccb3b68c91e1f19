"""A classifier in a notebook: what it takes, predicts, explains, saves, and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_runs import write_folder
from trees import assert_same

import sscjax
import sscjax.experiments.api
from sscjax.errors import UserError
from sscjax.export.verify import ExportOptions
from sscjax.export.write import export
from sscjax.inference import explain, predict

CLASSES = ("normal", "early", "late")


pytestmark = pytest.mark.usefixtures("quick_compiler")


def _tree(classifier: Any) -> dict[str, Any]:
    return {"params": classifier.params, "batch_stats": classifier.batch_stats}


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("skin"), subjects=8, tiles=16)


@pytest.fixture(scope="module")
def tiny(skin: Path) -> SimpleNamespace:
    """A CNN of one block, trained for a moment."""
    data = sscjax.load_images(skin, classes=CLASSES, image_size=32)
    train, val, test = data.split(seed=0)
    model = sscjax.create_model(
        "cnn", 3, pretrained="none", image_size=32, cnn_widths=(4,), cnn_dense=(8,)
    )
    classifier = sscjax.fit(model, train, val, stages=[sscjax.Head(epochs=2)], micro_batch=8)
    return SimpleNamespace(**locals())


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
    record = json.loads((tmp_path / "predictions" / "predictions.json").read_text("utf-8"))
    written = [list(image["probabilities"].values()) for image in record["images"]]
    np.testing.assert_array_equal(tiny.classifier.predict_proba(skin), written)
    # The manifest knows the files that were trained on.
    assert record["trained_on"] == len(tiny.train) + len(tiny.val)
    image = skin / str(tiny.test.files[0])
    assert explain.explain(saved, [image], tmp_path / "explanations", most=1) == 0
    assert "For research only" in capsys.readouterr().out


@pytest.mark.extra
def test_what_was_saved_can_be_exported(tiny: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers", reason="the extra 'export' is not installed")
    tiny.classifier.save(tmp_path / "saved")
    summary = export(tmp_path / "saved", "stablehlo", tmp_path / "model.zip", ExportOptions())
    assert "0 decisions differ" in summary


@pytest.mark.parametrize("count", [0, 1, 33])
def test_any_number_and_size(tiny: SimpleNamespace, count: int) -> None:
    images = np.random.default_rng(count).integers(0, 256, (count, 20, 31, 3), np.uint8)
    probabilities = tiny.classifier.predict_proba(images)
    assert probabilities.shape == (count, 3) and probabilities.dtype == np.float64
    np.testing.assert_array_equal(probabilities, tiny.classifier.predict_proba(list(images)))
    assert len(tiny.classifier.predict(images)) == count
    assert tiny.classifier.explain(images).shape == (count, 32, 32)
    assert sscjax.extract_features(tiny.model, images).shape[0] == count
    # One by one they are the same images.
    alone = [tiny.classifier.predict_proba(image[None]) for image in images[:3]]
    np.testing.assert_array_equal(np.concatenate([probabilities[:0], *alone]), probabilities[:3])


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
    rules = tiny.classifier.rules.image
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


def test_save_replaces_a_classifier_and_nothing_else(tiny: SimpleNamespace, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    tiny.classifier.save(place)
    tiny.classifier.save(place)
    loaded = sscjax.load(place)
    assert_same(_tree(loaded), _tree(tiny.classifier))
    np.testing.assert_array_equal(
        loaded.predict_proba(tiny.test), tiny.classifier.predict_proba(tiny.test)
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    refused = {"other": "other files", "file": "is a file", "run": "a run|trained"}
    for where, message in refused.items():
        with pytest.raises(UserError, match=message):
            tiny.classifier.save(tmp_path / where)
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_load_refuses_what_is_no_run(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=str(place)):
            sscjax.load(place)
