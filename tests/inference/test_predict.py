"""New images answered as the run itself answered them; rules by hand; every mistake in one line."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
import math
import shutil
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
from hand_rules import rules, unit_rules
from PIL import Image
from sklearn.metrics import accuracy_score
from small_runs import finished_run, put, write_folder

import sscjax
from sscjax.cli import predict
from sscjax.data import inputs
from sscjax.data.inputs import InputImage
from sscjax.data.slides import output
from sscjax.errors import UserError
from sscjax.evaluation import predictions
from sscjax.evaluation.conformal import Sets
from sscjax.inference import classifier, decisions, decisive, slides
from sscjax.inference import predict as inference_predict
from sscjax.inference.outputs import Outputs
from sscjax.system import terminal

pytestmark = pytest.mark.usefixtures("quick_compiler")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "skin")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    return finished_run(tmp_path_factory.mktemp("run") / "run", images, "cnn")


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def predicted(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / inference_predict.ALL).read_text("utf-8"))
    return found


# ---- the same answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cnn", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
def test_answers_are_those_of_the_run(
    model: str, run: Path, images: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From the files alone: probabilities of predictions.csv, distances of calibration.json."""
    if model != "cnn":
        run = finished_run(tmp_path_factory.mktemp(model) / "run", images, model)
    assert inference_predict.predict(run, [images], tmp_path / "out") == 0
    table = predictions.Predictions.read_csv(run / "predictions.csv")
    expected = dict(zip(table.files.tolist(), table.probabilities.tolist(), strict=True))
    found = predicted(tmp_path / "out")
    assert len(found["images"]) == len(table) == 36
    for row in found["images"]:
        got = [row["probabilities"][name] for name in table.classes]
        np.testing.assert_allclose(got, expected[row["file"]], atol=1e-6)
    kept = json.loads((run / "calibration.json").read_text("utf-8"))
    far = {row["file"]: row for row in kept["outliers"]["farthest"]}
    for row in found["images"]:
        if row["file"] in far:
            assert row["distance"] == pytest.approx(far[row["file"]]["distance"], rel=1e-4)
    assert {key: found["rules"][key] for key in kept["rules"]} == kept["rules"]
    usable = kept["outliers"]["usable"]
    assert (found["rules"]["distance_limit"] is None) is not usable
    # Subjects, too: the run's own table, calibrated by their own temperature.
    by_subject = predictions.Predictions.read_csv(run / "predictions_by_subject.csv")
    expected = dict(
        zip(by_subject.subjects.tolist(), by_subject.probabilities.tolist(), strict=True)
    )
    for row in found["subjects"]:
        got = [row["probabilities"][name] for name in table.classes]
        np.testing.assert_allclose(got, expected[row["subject"]], atol=1e-5)


def test_the_page_shows_what_the_json_holds(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    inference_predict.predict(run, [images], out, show="anyway")
    found = predicted(out)
    text = (out / inference_predict.PAGE).read_text("utf-8")
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)
    cards = list(tree.iter("article"))
    assert [card.get("data-name") for card in cards] == [
        row["subject"] for row in found["subjects"]
    ]
    for card, row in zip(cards, found["subjects"], strict=True):
        assert float(card.get("data-confidence")) == row["confidence"]
        # The pictures are of its images, those with the most of its most probable class.
        own = [one for one in found["images"] if one["subject"] == row["subject"]]
        own.sort(key=lambda one: -one["probabilities"][row["most_probable"]])
        shown = [one for one in card.iter("img") if one.get("class") != "map"]
        expected = [one["file"] for one in own[: decisive.EACH]]
        assert [one.get("alt") for one in shown] == expected
        assert len(list(card.iter("img"))) == 2 * len(expected)
    # How the model was tested, counted by hand.
    table = predictions.Predictions.read_csv(run / "predictions_by_subject.csv").where("test")
    right = int((table.predicted == table.labels).sum())
    assert f"{len(table)} patients never seen in training: {right} right" in text
    assert f"Open {out / inference_predict.PAGE} in a browser" in capsys.readouterr().out
    kept = json.loads((run / "maps.json").read_text("utf-8"))
    assert found["maps"] == {**kept, "drawn": True} and kept["verdict"] in text


def test_each_call_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    today = datetime.date.today().isoformat()
    run = tmp_path / "runs" / "skin"
    for name in (f"{today}_skin", f"{today}_skin_2", f"{today}_skin_3"):
        folder = inference_predict.new_folder(run)
        assert folder == Path("predictions") / name
        folder.mkdir(parents=True)


def test_many_subjects_share_the_pictures() -> None:
    """Of each the most decisive images of its own class; late subjects have none."""
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.1, 0.9]])
    images = table_of(probabilities, subjects=["a", "b", "a", "b", "c"])
    subjects = table_of(
        np.array([[0.75, 0.25], [0.25, 0.75], [0.1, 0.9]]), subjects=["a", "b", "c"]
    )
    assert decisive.choose(images, subjects).rows == [[0, 2], [1, 3], [4]]
    few = decisive.choose(images, subjects, most=3)
    assert few.rows == [[0], [1], [4]] and few.explained == {0: 0, 1: 1, 4: 1}
    assert decisive.choose(images, subjects, most=2).rows == [[0], [1], []]


def table_of(probabilities: np.ndarray, subjects: list[str]) -> decisions.Decisions:
    """Decisions for rows of these probabilities."""
    given = [InputImage(Path(f"{k}.png"), f"{k}.png", name) for k, name in enumerate(subjects)]
    outputs = Outputs(probabilities, np.zeros(len(given)))
    by_subject = [dataclasses.replace(one, file=one.subject) for one in given]
    unique = len(set(subjects)) == len(subjects)
    return decisions.decide(by_subject if unique else given, outputs, rules(), 2, math.inf)


def test_another_page_than_in_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [Image.fromarray(np.full((40, 40), value, np.uint8)) for value in (20, 200)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    for number, page in enumerate(pages, 1):
        page.save(tmp_path / f"{number}.png")
    names = [str(tmp_path / name) for name in ("two.tif", "1.png", "2.png")]
    monkeypatch.setattr("sys.argv", ["predict", str(run), *names, "--out", str(tmp_path / "a")])
    assert predict.main() == 1
    assert "--config.data.pages=first" in json.dumps(predicted(tmp_path / "a")["failed"])
    again = ["--out", str(tmp_path / "b"), "--config.data.pages=2"]
    monkeypatch.setattr("sys.argv", ["predict", str(run), *names, *again])
    assert predict.main() == 0
    rows = {row["file"]: row["probabilities"] for row in predicted(tmp_path / "b")["images"]}
    assert rows["two.tif"] == rows["2.png"] != rows["1.png"]


def test_order_and_batches_change_nothing(run: Path, images: Path) -> None:
    opened = classifier.open_run(run)
    found = inputs.find(images, opened.classes)
    whole, _ = inference_predict.predict_images(opened, found)
    backwards, _ = inference_predict.predict_images(opened, found[::-1])
    alone, _ = inference_predict.predict_images(opened, found[5:6])
    np.testing.assert_allclose(whole.probabilities, backwards.probabilities[::-1], atol=1e-6)
    np.testing.assert_allclose(whole.probabilities[5:6], alone.probabilities, atol=1e-6)


def test_known_labels_are_compared(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inference_predict.predict(run, [images], tmp_path / "out")
    found = predicted(tmp_path / "out")
    table = predictions.Predictions.read_csv(run / "predictions.csv")
    assert found["trained_on"] == int((table.splits != "test").sum()) > 0
    # The figures are those of the others, which here are the run's own test images.
    test = {file for file, split in zip(table.files, table.splits, strict=True) if split == "test"}
    rows = [row for row in found["images"] if row["file"] in test]
    share = accuracy_score([row["label"] for row in rows], [row["most_probable"] for row in rows])
    truth = found["against_labels"]
    assert truth["images"] == len(test)
    assert truth["figures"]["image"]["accuracy"] == pytest.approx(share)
    kept = json.loads((run / "metrics.json").read_text("utf-8"))
    assert truth["intervals"]["image"]["accuracy"] == kept["test_intervals"]["image"]["accuracy"]
    said = capsys.readouterr().out
    assert f"trained on, or chosen by, {found['trained_on']} of the 36 images" in said
    assert inference_predict.RESEARCH_ONLY in said and "accuracy" in said


def test_what_was_trained_on_may_be_unknown(
    copy: Path, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copy / "manifest.json").unlink()
    assert inference_predict.predict(copy, [images], tmp_path / "out") == 0
    assert predicted(tmp_path / "out")["trained_on"] is None
    assert any("not known: " in line for line in caplog.messages)


def test_csv_holds_what_json_holds(run: Path, images: Path, tmp_path: Path) -> None:
    inference_predict.predict(run, [images], tmp_path / "out")
    found = predicted(tmp_path / "out")
    for name, rows in (
        (inference_predict.IMAGES, found["images"]),
        (inference_predict.SUBJECTS, found["subjects"]),
    ):
        with (tmp_path / "out" / name).open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        assert len(table) == len(rows)
        for line, row in zip(table, rows, strict=True):
            assert line["decision"] == row["decision"] and line["subject"] == row["subject"]
            for key, value in row["probabilities"].items():
                assert float(line[f"p_{key}"]) == value


# ---- rules by hand ------------------------------------------------------------------------------

THREE = Sets(0.9, (0.6, 0.75, None), True, 20, False)
IMAGE = unit_rules(confidence_threshold=0.6, sets=THREE)
RULES = rules(image=IMAGE, subject=IMAGE, positive="early or late", negative="normal")


def test_rules_by_hand() -> None:
    probabilities = np.array(
        [[0.7, 0.2, 0.1], [0.45, 0.3, 0.25], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.5, 0.25, 0.25]]
    )
    distances = np.array([1.0, 1.0, 3.0, 2.0, 1.0])
    some = [InputImage(Path(f"{k}.png"), f"{k}.png", f"s{k // 3}") for k in range(5)]
    columns = ("normal", "early", "late")
    judged = decisions.decide(some, Outputs(probabilities, distances), RULES, 3, 2.0)
    # A distance at the limit is not above it; 0.5 reaches the threshold of disease.
    assert judged.outcomes(columns) == [
        "normal",
        "abstain",
        "out_of_distribution",
        "late",
        "abstain",
    ]
    assert judged.positive.tolist() == [False, True, True, True, True]
    np.testing.assert_allclose(judged.scores, [0.3, 0.55, 0.9, 0.9, 0.5])
    # Limits of 0.6 and 0.75 keep probabilities from 0.4 and from 0.25 on; the last class stays.
    assert judged.set_names(columns) == [
        ["normal", "late"],
        ["normal", "early", "late"],
        ["early", "late"],
        ["late"],
        ["normal", "early", "late"],
    ]
    subjects = decisions.by_subject(judged, RULES, 3)
    assert subjects.names.tolist() == ["s0", "s1"] and subjects.images.tolist() == [3, 2]
    np.testing.assert_allclose(subjects.probabilities[0], [1.25 / 3, 1.3 / 3, 0.45 / 3])
    # One of three images is out-of-distribution: not most of them. The mean is below 60 %.
    assert subjects.outcomes(columns) == ["abstain", "abstain"]
    never = dataclasses.replace(IMAGE, confidence_threshold=None)
    always = dataclasses.replace(RULES, subject=never)
    assert decisions.by_subject(judged, always, 3).outcomes(columns) == ["early", "late"]
    most = dataclasses.replace(
        judged, out_of_distribution=np.array([True, True, False, True, False])
    )
    # Two of three, and one of two, which is not most.
    assert decisions.by_subject(most, always, 3).outcomes(columns) == [
        "out_of_distribution",
        "late",
    ]


def test_subjects_have_rules_of_their_own() -> None:
    """Aggregated, calibrated and judged by the subject's rules; an unusable flag flags nothing."""
    rows = np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]])
    some = [InputImage(Path(f"{k}"), f"{k}", "s") for k in range(2)]
    own = unit_rules(
        temperature=0.5,
        threshold=0.4,
        confidence_threshold=0.65,
        sets=Sets(0.9, (0.8, 0.8, 0.8), True, 20, False),
    )
    # Logits divided by one half: squares of the mean, and of the geometric mean.
    mean = rows.mean(0) ** 2 / (rows.mean(0) ** 2).sum()
    product = rows.prod(0) / rows.prod(0).sum()
    for aggregation, expected in (("mean", mean), ("geometric", product)):
        given = rules(image=IMAGE, subject=own, aggregation=aggregation)
        judged = decisions.decide(some, Outputs(rows, np.array([9.0, 9.0])), given, 3, math.inf)
        subject = decisions.by_subject(judged, given, 3)
        np.testing.assert_allclose(subject.probabilities[0], expected)
        assert not subject.out_of_distribution.any()
        confident = expected.max() >= 0.65
        assert subject.outcomes(("a", "b", "c")) == ["a" if confident else "abstain"]
        assert subject.positive[0] == (1 - expected[0] >= 0.4)
        assert subject.set_names(("a", "b", "c")) == [
            [name for name, p in zip("abc", expected, strict=True) if p >= 0.2]
        ]
    text = decisions.legend(given, "subject", math.inf, ("a", "b", "c"))
    assert "geometric mean" in text and "out of distribution: never" in text
    assert "temperature of 0.50" in text and max(map(len, text.splitlines())) <= 100


def test_unused_outputs_do_not_count_as_disease() -> None:
    answer = Outputs(np.array([[0.3, 0.3, 0.4]]), np.array([1.0]))
    judged = decisions.decide([InputImage(Path("a"), "a", "a")], answer, rules(), 2, 2.0)
    assert judged.scores.tolist() == pytest.approx([0.5])


def test_long_tables_are_cut() -> None:
    count = decisions.MOST_ROWS + 3
    some = [InputImage(Path(f"{k}"), f"{k}\x1b[2J.png", f"{k}") for k in range(count)]
    found = Outputs(np.tile([[0.7, 0.3]], (count, 1)), np.ones(count))
    judged = decisions.decide(some, found, rules(), 2, 2.0)
    text = decisions.table_text(judged, ("a", "b"), "image", "images.csv")
    assert text.endswith("... and 3 more in images.csv") and "\x1b" not in text


# ---- what is asked ------------------------------------------------------------------------------


def test_one_image(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png")
    assert inputs.find(path, ("x", "y")) == [InputImage(path, "a.png", "a.png")]


def test_folders_of_subjects(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    for name in ("p1/a.png", "p1/b.png", "p2/deep/c.png", "d.png"):
        put(folder / name)
    (folder / "notes.txt").write_text("not an image")
    found = {one.file: one.subject for one in inputs.find(folder, ("x", "y"))}
    assert found == {"p1/a.png": "p1", "p1/b.png": "p1", "p2/deep/c.png": "p2/deep", "d.png": "all"}


def test_folders_of_classes(tmp_path: Path) -> None:
    for name in ("x/p1/a.png", "y/b.png"):
        put(tmp_path / name)
    found = [(one.file, one.subject, one.label) for one in inputs.find(tmp_path, ("x", "y", "z"))]
    assert found == [("x/p1/a.png", "p1", "x"), ("y/b.png", "y/b.png", "y")]


def test_manifest_without_labels(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    put(tmp_path / "b.png")
    table = tmp_path / "list.csv"
    table.write_text("file,slide\na.png,s1\nb.png,\n", encoding="utf-8")
    found = [(one.file, one.subject, one.label) for one in inputs.find(table, ("x", "y"))]
    assert found == [("a.png", "s1", ""), ("b.png", "b.png", "")]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("X/p1/a.png", "y/b.png"), [("p1", "x"), ("y/b.png", "y")]),
        (("p1/X/a.png", "p2/y/b.png"), [("p1", "x"), ("p2", "y")]),
        (("test/x/p1/a.png", "val/y/b.png"), [("p1", "x"), ("val/y/b.png", "y")]),
        (("x/p1/a.png", "zz/p2/b.png"), [("p1", "x"), ("p2", "zz")]),
        (("x/a.png", "p1/b.png", "p2/c.png"), [("p1", ""), ("p2", ""), ("x", "")]),
        (("old/p1/a.png", "y/p2/b.png"), [("p1", "x"), ("p2", "y")]),
    ],
)
def test_levels_that_name_classes(
    tmp_path: Path, names: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    for name in names:
        put(tmp_path / name)
    found = inputs.find(tmp_path, ("x", "y"), {"old": "x"})
    assert [(one.subject, one.label) for one in found] == expected


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({}, 0, "balanced accuracy"),
        ({0: " EARLY "}, 0, "balanced accuracy"),
        (
            {0: "erly", 1: "lat"},
            1,
            "label of 2 of 6 images is not understood: 'erly' (1), 'lat' (1)",
        ),
        ({2: ""}, 1, "1 of 6 images have no label"),
        ({k: "" for k in range(6)}, 0, "6 images of"),
    ],
)
def test_labels_that_are_not_understood(
    run: Path,
    tmp_path: Path,
    change: dict[int, str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = ["early", "late", "normal"] * 2
    rows = ["file,label"]
    for k, label in enumerate(labels):
        put(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{change.get(k, label)}")
    (tmp_path / "list.csv").write_text("\n".join(rows), encoding="utf-8")
    assert inference_predict.predict(run, [tmp_path / "list.csv"], tmp_path / "out") == code
    shown = " ".join(capsys.readouterr().out.split())
    assert words in shown
    found = predicted(tmp_path / "out")
    assert bool(found["against_labels"]) == ("balanced accuracy" in words)
    assert bool(found["labels_problem"]) == bool(code)


def test_mistakes_in_what_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        inputs.find(tmp_path / "nowhere", ("x", "y"))
    with pytest.raises(UserError, match="holds no image"):
        inputs.find(tmp_path, ("x", "y"))
    table = tmp_path / "list.csv"
    for text, message in (
        ("name\na.png\n", "missing column.* file"),
        ("file\n", "has no rows"),
        ("file,subject\n,p\n", "row 2: empty file"),
        ("file\n../a.png\n", "leaves the folder"),
        ("file\na.png\n", "row 2: a.png does not exist"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            inputs.find(table, ("x", "y"))


def test_an_image_given_twice(run: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is given twice"):
        inference_predict.predict(run, [images, images], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_broken_images_are_left_out(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "some"
    for number in range(classifier.BATCH + 2):
        put(folder / f"{number:02d}.png")
    (folder / "03.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (folder / "07.png").write_bytes(b"no image at all")
    assert inference_predict.predict(run, [folder], tmp_path / "out") == inference_predict.FAILED
    found = predicted(tmp_path / "out")
    assert len(found["failed"]) == 2 and len(found["images"]) == classifier.BATCH
    assert {"03.png", "07.png"}.isdisjoint(row["file"] for row in found["images"])
    assert sum("left out" in line for line in caplog.messages) == 2
    for path in folder.glob("*"):
        path.write_bytes(b"no image at all")
    with pytest.raises(UserError, match="none of the 34 images could be read"):
        inference_predict.predict(run, [folder], tmp_path / "none")
    assert not (tmp_path / "none").exists()


# ---- where it goes, and what is opened ----------------------------------------------------------


def test_results_are_never_replaced_unasked(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert inference_predict.predict(run, [images], out) == 0
    before = (out / inference_predict.ALL).read_bytes()
    with pytest.raises(UserError, match="holds earlier results.* --overwrite"):
        inference_predict.predict(run, [images], out)
    assert (out / inference_predict.ALL).read_bytes() == before
    assert inference_predict.predict(run, [images], out, overwrite=True) == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds something else"):
        inference_predict.predict(run, [images], tmp_path / "full", overwrite=True)
    with pytest.raises(UserError, match="is a file"):
        inference_predict.predict(run, [images], tmp_path / "full" / "thesis.txt")


def test_slides_of_something_else_are_left_alone(run: Path, images: Path, tmp_path: Path) -> None:
    """Among the results a folder of this name is theirs where they cut it themselves."""
    out = tmp_path / "out"
    assert inference_predict.predict(run, [images], out) == 0
    for name in ("scan.svs", output.SETTINGS):  # tiles of the user have settings, too
        put(out / "slides" / "scan.png").rename(out / "slides" / name)
    with pytest.raises(UserError, match="holds a folder slides of something else"):
        slides.refuse_folder(out)
    assert inference_predict.predict(run, [images], out, overwrite=True) == 0
    assert len(list((out / "slides").iterdir())) == 2
    shutil.copytree(out / "slides", tmp_path / "study" / "slides")
    with pytest.raises(UserError, match="holds something else"):
        inference_predict.predict(run, [images], tmp_path / "study")

    (out / "slides" / slides._MARK).touch()
    slides.refuse_folder(out)
    broken = put(tmp_path / "broken.png")
    broken.write_bytes(b"no image at all")
    with pytest.raises(UserError, match="nothing is predicted"):
        inference_predict.predict(run, [broken], out, overwrite=True)
    assert slides.ours(out)
    assert inference_predict.predict(run, [images], out, overwrite=True) == 0
    assert not (out / "slides").exists()


def test_a_model_that_is_gone_or_another(copy: Path) -> None:
    shutil.rmtree(copy / "stages" / "head" / "model")
    with pytest.raises(UserError, match="model .* cannot be read"):
        classifier.open_run(copy)


def test_a_run_of_another_version(copy: Path) -> None:
    kept = json.loads((copy / "run.json").read_text("utf-8"))
    del kept["config"]["model"]["name"]
    (copy / "run.json").write_text(json.dumps(kept))
    with pytest.raises(UserError, match="is damaged"):
        classifier.open_run(copy)
    kept["versions"]["sscjax"] = "99.0"
    (copy / "run.json").write_text(json.dumps(kept))
    expected = f"made by sscjax 99.0, and this is {sscjax.__version__}.*install that version"
    with pytest.raises(UserError, match=expected):
        classifier.open_run(copy)


def test_the_program(
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(terminal, "set_up_jax", lambda: None)
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["predict", str(run), str(images), f"--out={out}"])
    assert terminal.call(predict.main) == 0
    assert "36 images of 18 subjects" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["predict", str(images), str(images), "--out=x"])
    assert terminal.call(predict.main) == terminal.USER_ERROR
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "holds no run" in line
