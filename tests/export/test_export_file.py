"""What an exported file and its record contain, and everything a user can get wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from exported import EXACT, REASON, Runs, noise
from hand_rules import rules, unit_rules
from PIL import Image
from small_runs import put
from snippets import snippets

from sscjax import export
from sscjax.cli import export as export_command
from sscjax.data import image_io
from sscjax.data.inputs import InputImage
from sscjax.errors import UserError
from sscjax.evaluation.predictions import Predictions
from sscjax.export import formats, graph, intended_use, metadata, verify
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, decisions
from sscjax.inference.classifier import Classifier
from sscjax.inference.outputs import Outputs
from sscjax.system import terminal

pytest.importorskip("onnx", reason=REASON)
pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("flatbuffers", reason=REASON)


pytestmark = [pytest.mark.extra, pytest.mark.usefixtures("quick_compiler")]


REPOSITORY = Path(__file__).resolve().parents[2]


# ---- what the file contains ---------------------------------------------------------------------


def test_same_run_same_bytes_and_a_record_beside(runs: Runs, tmp_path: Path) -> None:
    for name, suffix in EXACT.items():
        one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
        export_file.export(runs("cnn"), name, one, ExportOptions())
        export_file.export(runs("cnn"), name, other, ExportOptions())
        assert one.read_bytes() == other.read_bytes()
        record = json.loads(one.with_name(f"{one.name}.json").read_text("utf-8"))
        assert record["file"] == {
            "name": one.name,
            "bytes": one.stat().st_size,
            "sha256": hashlib.sha256(one.read_bytes()).hexdigest(),
        }
        assert record["check"]["images"] == 6 and record["check"]["split"] == "test"
        assert record["check"]["decisions_changed"] == 0
        assert record["check"]["largest_difference"]["probabilities"] < 1e-5
        # No path of the machine that it was made on.
        for path in (REPOSITORY, Path.home(), runs("cnn").parent):
            assert str(path).encode() not in one.read_bytes()
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.slow
def test_metadata_says_what_the_run_says(runs: Runs) -> None:
    run = runs("mobilenet_v2")
    about = metadata.metadata(classifier.open_run(run))
    files = {
        name: json.loads((run / f"{name}.json").read_text("utf-8"))
        for name in ("run", "calibration", "manifest")
    }
    assert about["classes"] == about["columns"] == files["run"]["data"]["classes"]
    calibration = files["calibration"]
    assert about["rules"] == calibration["rules"]
    for unit in ("subject", "image"):
        own, reported = about["rules"][unit], calibration[unit]
        assert own["temperature"] == reported["temperature"]
        assert own["threshold"] == reported["threshold"]["value"]
        assert own["confidence_threshold"] == reported["abstention"]["value"]
    assert about["temperature"] == calibration["image"]["temperature"]
    outliers = calibration["outliers"]
    limit = pytest.approx(outliers["threshold"]) if outliers["usable"] else None
    assert about["distance"]["limit"] == limit
    assert about["run"]["trained"] == files["manifest"]["sessions"][-1]["finished"]
    assert about["run"]["weights"]["sha256"] == files["run"]["weights"]["sha256"]
    assert about["preparation"]["image_size"] == 32
    assert any("IN THE ORDER OF THEIR NAMES" in line for line in about["warnings"])


def test_it_says_whom_it_is_for_and_what_it_was_trained_on(runs: Runs) -> None:
    run = runs("cnn")
    opened = classifier.open_run(run)
    about = metadata.metadata(opened)
    assert about["intended_use"] == {"text": intended_use.NOT_STATED, "stated": False}
    trained = Predictions.read_csv(run / "predictions.csv").where("train")
    assert about["training"]["images"] == len(trained)
    assert about["training"]["subjects"] == len(set(trained.subjects.tolist()))
    for label, of_class in enumerate(about["training"]["classes"]):
        own = trained.subjects[trained.labels == label]
        assert (of_class["images"], of_class["subjects"]) == (len(own), len(set(own.tolist())))
    assert about["tested"]["sentence"].startswith(f"{about['tested']['number']} patients never")
    known, trained_on, *_, answers = about["limits"]
    assert "early, late, normal and no other" in known and f"{len(trained)} images" in trained_on
    assert opened.rules.subject.sets.rule in answers
    stated = metadata.metadata(opened, " Adults,\nnot children. ")["intended_use"]
    assert stated == {"text": "Adults, not children.", "stated": True}
    with pytest.raises(UserError, match="1,001 characters, expected at most 1,000"):
        metadata.metadata(opened, 1001 * "x")


def test_digest_of_the_network_knows_its_values(runs: Runs) -> None:
    opened = classifier.open_run(runs("cnn"))
    head = opened.params["predictions"]
    other = {**head, "bias": np.asarray(head["bias"]) + np.float32(1e-3)}
    different = dataclasses.replace(opened, params={**opened.params, "predictions": other})
    one, two = (metadata.metadata(part)["network"] for part in (opened, different))
    assert one["sha256"] != two["sha256"] and one["parameters"] == two["parameters"] > 6000


def test_date_and_names_may_be_missing(runs: Runs, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs("cnn"), tmp_path / "copy"))
    (copy / "manifest.json").unlink()
    about = metadata.metadata(classifier.open_run(copy))
    assert about["run"]["trained"] is None and about["run"]["weights"]["name"] is None


def test_documented_rules_are_those_of_the_run(runs: Runs) -> None:
    """Against `decisions.decide`, limits included, with a column that stands for no class."""
    names: dict[str, Any] = {"np": np}
    exec(snippets("What goes in and what comes out"), names)
    columns = ["a", "b", "unused"]
    about: dict[str, Any] = {
        "classes": ["a", "b"],
        "columns": columns,
        "distance": {"limit": 2.0},
    }
    rng = np.random.default_rng(0)
    shares = np.round(rng.dirichlet([1, 1, 1], 200), 1)
    shares[:, 2] = 1 - shares[:, :2].sum(axis=1)
    shares = shares[shares[:, :2].sum(axis=1) > 0]
    distances = rng.integers(1, 4, len(shares)).astype(float)
    some = [InputImage(Path(), str(k), str(k)) for k in range(len(shares))]
    for least, aggregation in ((0.6, "mean"), (None, "geometric")):
        # Those of subjects are others, so that one taken for the other would be seen.
        own = rules(
            image=unit_rules(confidence_threshold=least),
            subject=unit_rules(temperature=0.4, threshold=0.3, confidence_threshold=0.8),
            aggregation=aggregation,
        )
        about["rules"] = own.to_json()
        table = decisions.decide(some, Outputs(shares, distances), own, 2, 2.0)
        pairs = list(zip(shares, distances, strict=True))
        of_image = about["rules"]["image"]
        for row, pair, outcome in zip(
            range(len(pairs)), pairs, table.outcomes(columns), strict=True
        ):
            assert outcome == names["decide"](about, of_image, *pair)
            positive = names["disease"](about, of_image, pair[0]) == "sick"
            assert positive == table.positive[row]
            assert (
                names["prediction_set"](about, of_image, pair[0]) == table.set_names(columns)[row]
            )
        assert len(set(table.outcomes(columns))) >= 4
        subject = decisions.by_subject(
            dataclasses.replace(table, subjects=np.full(len(table), "one")), own, 2
        )
        aggregated = names["aggregate"](about, shares)
        np.testing.assert_allclose(aggregated, subject.probabilities[0], rtol=1e-6)


def test_documented_preparation_is_that_of_the_run(tmp_path: Path) -> None:
    names: dict[str, Any] = {"np": np}
    exec(snippets("What goes in and what comes out"), names)
    path = tmp_path / "a.png"
    Image.fromarray(noise(1, 91)[0, :60]).save(path)
    np.testing.assert_array_equal(names["prepared"](path, 32), image_io.read_image(path, 32))


# ---- a file that is wrong, and everything a user can get wrong -----------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_a_file_that_disagrees_is_not_kept(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = graph.from_classifier

    def wrong(opened: Classifier) -> graph.Graph:
        network = right(opened)
        last = network.operations[-1]
        assert last.bias is not None
        bias = last.bias + np.array([0, 0, 0.01], np.float32)
        last = dataclasses.replace(last, bias=bias)
        return dataclasses.replace(network, operations=(*network.operations[:-1], last))

    monkeypatch.setattr(graph, "from_classifier", wrong)
    out = tmp_path / f"one{EXACT[name]}"
    out.write_text("an earlier one")
    with pytest.raises(UserError, match="does not predict as the run does: on 6 images"):
        export_file.export(runs("cnn"), name, out, ExportOptions(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "an earlier one"


@pytest.mark.parametrize("field", ["probabilities", "distances"])
def test_what_is_not_a_number_disagrees(field: str) -> None:
    agreement = verify.Agreement(1, "test", 0.0, 0.0, 0, None, (1.0, 1.0), (None, None))
    verify.demand(agreement, "one.onnx")
    with pytest.raises(UserError, match="does not predict"):
        verify.demand(
            dataclasses.replace(agreement, **cast(Any, {field: float("nan")})), "one.onnx"
        )


def test_results_are_never_replaced_unasked(runs: Runs, tmp_path: Path) -> None:
    out = tmp_path / "one.onnx"
    export_file.export(runs("cnn"), "onnx", out, ExportOptions())
    before = out.read_bytes()
    with pytest.raises(UserError, match="exists: add --overwrite"):
        export_file.export(runs("cnn"), "onnx", out, ExportOptions())
    export_file.export(runs("cnn"), "onnx", out, ExportOptions(), overwrite=True)
    assert out.read_bytes() == before


def test_names_that_cannot_be_meant(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a name that ends in .onnx"):
        export_file.export(runs("cnn"), "onnx", tmp_path / "one.zip", ExportOptions())
    (tmp_path / "one.onnx").mkdir()
    with pytest.raises(UserError, match="is a folder, expected a file"):
        export_file.export(
            runs("cnn"), "onnx", tmp_path / "one.onnx", ExportOptions(), overwrite=True
        )
    (tmp_path / "notes").write_text("not a folder")
    with pytest.raises(UserError, match="cannot be written .*: name another"):
        export_file.export(runs("cnn"), "onnx", tmp_path / "notes" / "one.onnx", ExportOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "one.onnx"]


@pytest.mark.parametrize(
    ("package", "name"),
    [("onnx", "onnx"), ("onnxruntime", "onnx"), ("flatbuffers", "stablehlo")],
)
def test_missing_packages_are_named(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / f"one{formats.FORMATS[name].suffix}"
    expected = rf"the package {package} is not installed.*pip install 'sscjax\[export\]'"
    with pytest.raises(UserError, match=expected):
        export_file.export(runs("cnn"), name, out, ExportOptions())
    assert not list(tmp_path.iterdir())


def test_images_that_were_moved(runs: Runs, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs("cnn"), tmp_path / "copy"))
    record = json.loads((copy / "run.json").read_text("utf-8"))
    record["config"]["data"]["path"] = str(tmp_path / "gone")
    (copy / "run.json").write_text(json.dumps(record))
    for name, suffix in EXACT.items():
        with pytest.raises(UserError, match="gone: the run's images are not there.*--data=PATH"):
            export_file.export(copy, name, tmp_path / f"one{suffix}", ExportOptions())
    assert not list(tmp_path.glob("*one*"))
    export_file.export(copy, "onnx", tmp_path / "one.onnx", ExportOptions(data=str(runs.images)))
    others = tmp_path / "others"
    for name in record["data"]["classes"]:
        put(others / name / "p1" / f"{name}.png")
    with pytest.raises(UserError, match="holds no test images of .*--data=PATH"):
        export_file.export(copy, "onnx", tmp_path / "two.onnx", ExportOptions(data=str(others)))


def test_zip_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "one.zip"
    with pytest.raises(UserError, match="one.zip cannot be read"):
        export.load_stablehlo(path)
    path.write_bytes(b"no zip")
    with pytest.raises(UserError, match="one.zip cannot be read.*--format=stablehlo"):
        export.load_stablehlo(path)


def test_the_program(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("set_up_jax", "set_up_log"):
        monkeypatch.setattr(terminal, name, lambda: None)
    out = tmp_path / "deep" / "one.onnx"

    def call(run: Path) -> int:
        monkeypatch.setattr("sys.argv", ["export", str(run), "--format=onnx", f"--out={out}"])
        return terminal.call(export_command.main)

    assert call(runs("cnn")) == 0 and out.is_file()
    said = capsys.readouterr().out
    assert f"{out}: 0.0" in said and "6 test images" in said
    out.unlink()
    assert call(tmp_path / "nowhere") == terminal.USER_ERROR
    error = capsys.readouterr().err
    assert "does not exist" in error and error.count("\n") == 1 and not out.exists()
