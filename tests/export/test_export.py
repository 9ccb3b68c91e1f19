"""Exported files answer as the run does, in runtimes of their own; every mistake in one line.

The snippets of docs/export.md are run as they stand there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_runs import finished_run, put, write_folder
from snippets import run_snippet, snippets

from sscjax import export
from sscjax.cli import export as export_command
from sscjax.data import image_io
from sscjax.data.inputs import InputImage
from sscjax.errors import UserError
from sscjax.export import formats, graph, graph_jax, metadata, onnx_file, verify
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions
from sscjax.inference import classifier, decisions, saliency
from sscjax.inference.classifier import Classifier
from sscjax.inference.outputs import Outputs, Rules
from sscjax.models.pretrained import preprocessing
from sscjax.system import terminal

REASON = "the extra 'export' is not installed: pip install 'sscjax[export]'"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("flatbuffers", reason=REASON)

pytestmark = [pytest.mark.extra, pytest.mark.usefixtures("quick_compiler")]

REPOSITORY = Path(__file__).resolve().parents[2]

EXACT = {"onnx": ".onnx", "stablehlo": ".zip"}
MODELS = ("cnn", "mobilenet_v2")

# MobileNetV2 whose classifier L-BFGS fits, on several layers.
READER = "reader"
READING = {
    "model__feature_layers": ("block_2_add", "block_16_project_BN", "out_relu"),
    "stages__head__optimizer": "lbfgs",
    "stages__head__l2": (1e-2,),
    "stages__head__epochs": 50,
}


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "skin")


Runs = Callable[[str], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, skin: Path) -> Runs:
    """A finished run of a network, trained when it is first asked for."""
    found: dict[str, Path] = {}

    def get(model: str) -> Path:
        if model not in found:
            place = tmp_path_factory.mktemp(model) / "run"
            if model == READER:
                found[model] = finished_run(place, skin, "mobilenet_v2", **READING)
            else:
                found[model] = finished_run(place, skin, model)
        return found[model]

    return get


def noise(count: int, size: int) -> np.ndarray:
    """Images of one colour with noise of another strength in each: far and near ones."""
    rng = np.random.default_rng(count)
    base = rng.integers(60, 200, (count, 1, 1, 3))
    strength = rng.integers(1, 60, (count, 1, 1, 1))
    grain = rng.standard_normal((count, size, size, 3))
    return np.clip(base + strength * grain, 0, 255).astype(np.uint8)


def in_jax(whole: graph.Graph, pixels: np.ndarray) -> dict[str, jax.Array]:
    return dict(jax.jit(lambda pixels: graph_jax.outputs(whole, pixels))(pixels))


def in_onnxruntime(
    whole: graph.Graph, found: dict[str, Any], pixels: np.ndarray
) -> dict[str, np.ndarray]:
    model = onnx_file.build(whole, found).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {metadata.INPUT: pixels}), strict=True))


def predicted(opened: Classifier, pixels: np.ndarray) -> Outputs:
    return next(iter(opened.outputs([pixels])))


def assert_as(
    opened: Classifier, pixels: np.ndarray, outputs: Any, tolerance: float = 2e-5
) -> None:
    expected = predicted(opened, pixels)
    found = np.asarray(outputs["probabilities"])
    np.testing.assert_allclose(found, expected.probabilities, atol=tolerance)
    np.testing.assert_allclose(
        np.asarray(outputs["distance"]), expected.distances, rtol=10 * tolerance
    )


# ---- the same answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cnn", pytest.param(READER, marks=pytest.mark.slow)])
def test_snippets_answer_as_the_run(
    runs: Runs,
    tmp_path: Path,
    model: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each format: what the documentation says how to read gives what `Classifier` gives."""
    opened = classifier.open_run(runs(model))
    pixels = noise(5, 32)
    if model == READER:
        # What is compared here is not compared before as well: XLA takes long for it.
        alike = verify.Agreement(1, "test", 0.0, 0.0, 0, None, (1.0, 1.0), (None, None))
        monkeypatch.setattr(verify, "compare", lambda *args: alike)
    for name, suffix in EXACT.items():
        # Nor is this, which test_export_real.py has of the whole network.
        if model == READER and name == "stablehlo":
            continue
        said = export_file.export(runs(model), name, tmp_path / f"skin{suffix}", ExportOptions())
        assert "0 decisions" in said and "For research only" in said
    read = run_snippet("ONNX", tmp_path, pixels)
    assert_as(opened, pixels, read["outputs"])
    assert list(read["outputs"]) == read["about"]["outputs"]
    if model != READER:
        compiled = run_snippet("StableHLO", tmp_path, pixels)
        assert_as(opened, pixels, compiled["outputs"])
        assert compiled["about"] == read["about"]
        assert "maps" not in read["outputs"] and read["about"]["maps"] is None
        assert read["about"]["maps_absent"]
    # onnxruntime complains on the process's own streams, which Python does not see.
    assert "onnxruntime" not in capfd.readouterr().err


def test_stablehlo_needs_nothing_of_this_package(runs: Runs, tmp_path: Path) -> None:
    export_file.export(runs("cnn"), "stablehlo", tmp_path / "skin.zip", ExportOptions())
    pixels = noise(3, 32)
    np.save(tmp_path / "images.npy", pixels)
    code = "\n".join(
        [
            "import sys; sys.modules['sscjax'] = None",
            "import numpy as np; images = np.load('images.npy')",
            snippets("StableHLO"),
            "np.savez('outputs.npz', **outputs)",
        ]
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "outputs.npz") as outputs:
        assert_as(classifier.open_run(runs("cnn")), pixels, outputs)
    call, about = export.load_stablehlo(tmp_path / "skin.zip")
    for count in (1, 4):
        assert call(noise(count, 32))["probabilities"].shape == (count, 3)
    assert about["classes"] == ["early", "late", "normal"]


def changed(opened: Classifier, kind: str) -> Classifier:
    """A run of another sort, with this one's parameters."""
    model, params = opened.model, opened.params
    if kind == "as it is":
        return opened
    if kind == "size":
        return dataclasses.replace(opened, image_size=97)
    if kind == "torch":

        def inputs(stored: jax.Array, key: Any) -> jax.Array:
            return preprocessing.preprocess(stored.astype(np.float32), "imagenet")

        model = model.clone(padding="torch")  # type: ignore[attr-defined]
        different = dataclasses.replace(opened.program, model=model, inputs=inputs)
        return dataclasses.replace(opened, program=different, scaling="imagenet", image_size=64)
    if kind == "temperature":
        return dataclasses.replace(opened, rules=dataclasses.replace(opened.rules, temperature=2.5))
    assert kind == "sigmoid"
    head = {"kernel": params["predictions"]["kernel"][:, :1], "bias": np.array([0.3], np.float32)}
    objective = dataclasses.replace(opened.program.objective, kind="sigmoid")
    model = model.clone(outputs=1)  # type: ignore[attr-defined]
    return dataclasses.replace(
        opened,
        classes=("a", "b"),
        columns=("a", "b"),
        image_size=64 if "Conv1" in params else 32,
        program=dataclasses.replace(opened.program, model=model, objective=objective),
        params={**params, "predictions": head},
        rules=dataclasses.replace(opened.rules, temperature=0.5),
    )


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        pytest.param(READER, "as it is", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "size", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "torch", marks=pytest.mark.slow),
        ("cnn", "temperature"),
        ("cnn", "sigmoid"),
    ],
)
def test_graph_of_other_networks(runs: Runs, tmp_path: Path, model: str, kind: str) -> None:
    """Sizes that divide by nothing, either padding and scaling, one sigmoid; and the maps."""
    opened = changed(classifier.open_run(runs(model)), kind)
    whole, found = graph.from_classifier(opened), metadata.metadata(opened)
    path = tmp_path / "one.onnx"
    path.write_bytes(onnx_file.serialise(onnx_file.build(whole, found), found))
    pixels = noise(3, opened.image_size)
    outputs = onnx_file.load(path)(pixels)
    assert_as(opened, pixels, outputs)
    compiled = in_jax(whole, pixels)
    assert_as(opened, pixels, compiled)
    if model == "mobilenet_v2":
        draw = saliency.make_maps(opened.model, opened.program.inputs, "", "hires_cam")
        for column in range(len(opened.columns)):
            wanted = draw(opened.params, opened.batch_stats, pixels, np.full(3, column))
            assert wanted.shape[1:] == tuple(found["maps"]["size"]) != (1, 1)
            scale = np.abs(wanted).max()
            for maps in (outputs["maps"], compiled["maps"]):
                np.testing.assert_allclose(maps[..., column], wanted, atol=5e-4 * scale)


@pytest.mark.slow
def test_maps_of_several_layers(runs: Runs) -> None:
    """The sum of each layer's own, enlarged; they add up to the logits, but for the bias."""
    size = 96
    opened = dataclasses.replace(classifier.open_run(runs(READER)), image_size=size)
    whole, found = graph.from_classifier(opened), metadata.metadata(opened)
    pixels = noise(2, size)
    outputs = in_onnxruntime(whole, found, pixels)
    side = found["maps"]["size"][0]
    head = opened.params["predictions"]
    program, start, expected = opened.program, 0, 0.0
    # Where several layers are read the network has no cut between them: as one that reads the last.
    plain = dataclasses.replace(program, model=opened.model.clone(feature_layers=()))  # type: ignore[attr-defined]
    for name in ("block_2_add", "block_16_project_BN", "out_relu"):
        last = opened.model.layer_names.index(name) + 1
        x = plain.outputs(opened.params, opened.batch_stats, jnp.asarray(pixels), last)
        said = x @ head["kernel"][start : start + x.shape[-1]]
        start += x.shape[-1]
        shape = (*said.shape[:1], side, side, said.shape[-1])
        expected += jax.image.resize(said, shape, "linear") / side**2
    np.testing.assert_allclose(outputs["maps"], expected, atol=2e-4 * np.abs(expected).max())
    in_place = in_jax(whole, pixels)["maps"]
    np.testing.assert_allclose(in_place, outputs["maps"], atol=2e-4 * np.abs(expected).max())
    # Every side divides the largest.
    logits = program.outputs(opened.params, opened.batch_stats, jnp.asarray(pixels))
    np.testing.assert_allclose(
        outputs["maps"].sum((1, 2)) + np.asarray(head["bias"]), logits, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("few", "many"), [(4, 25), (7, 7), (1, 6), (12, 24)])
def test_maps_are_enlarged_as_jax_does(few: int, many: int) -> None:
    values = np.random.default_rng(few).normal(size=(few, few)).astype(np.float32)
    up = graph._bilinear(few, many)
    expected = jax.image.resize(values, (many, many), "linear")
    np.testing.assert_allclose(up @ values @ up.T, expected, atol=1e-5)


def test_probabilities_near_zero_are_calibrated_alike(runs: Runs) -> None:
    """Below the least number of float32 the run's logarithms stop, and so must the file's."""
    opened = changed(classifier.open_run(runs("cnn")), "temperature")
    opened = dataclasses.replace(opened, rules=dataclasses.replace(opened.rules, temperature=20.0))
    head = {**opened.params["predictions"], "bias": np.array([0.0, 100.0, 250.0], np.float32)}
    opened = dataclasses.replace(opened, params={**opened.params, "predictions": head})
    whole, found = graph.from_classifier(opened), metadata.metadata(opened)
    pixels = noise(2, 32)
    probabilities = in_onnxruntime(whole, found, pixels)["probabilities"]
    expected = predicted(opened, pixels).probabilities
    assert expected[:, 0].min() > 0.01
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(in_jax(whole, pixels)["probabilities"], expected, atol=1e-5)


def test_detector_without_components(runs: Runs) -> None:
    """Few training images leave none: every direction counts alike."""
    opened = classifier.open_run(runs("cnn"))
    bare = dataclasses.replace(
        opened.detector,
        components=opened.detector.components[:0],
        variances=opened.detector.variances[:0],
    )
    opened = dataclasses.replace(opened, detector=bare)
    whole, found = graph.from_classifier(opened), metadata.metadata(opened)
    pixels = noise(4, 32)
    distance = in_onnxruntime(whole, found, pixels)["distance"]
    expected = predicted(opened, pixels).distances
    np.testing.assert_allclose(distance, expected, rtol=1e-4)
    np.testing.assert_allclose(in_jax(whole, pixels)["distance"], expected, rtol=1e-4)


# ---- what stands in the file --------------------------------------------------------------------


def test_same_run_same_bytes_and_a_record_beside(runs: Runs, tmp_path: Path) -> None:
    for name, suffix in EXACT.items():
        one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
        export_file.export(runs("cnn"), name, one, ExportOptions())
        export_file.export(runs("cnn"), name, other, ExportOptions())
        assert one.read_bytes() == other.read_bytes()
        kept = json.loads(one.with_name(f"{one.name}.json").read_text("utf-8"))
        assert kept["file"] == {
            "name": one.name,
            "bytes": one.stat().st_size,
            "sha256": hashlib.sha256(one.read_bytes()).hexdigest(),
        }
        assert kept["check"]["images"] == 6 and kept["check"]["split"] == "test"
        assert kept["check"]["decisions_changed"] == 0
        assert kept["check"]["largest_difference"]["probabilities"] < 1e-5
        # No place on the machine that it was made on.
        for place in (str(REPOSITORY), str(Path.home()), str(runs("cnn").parent)):
            assert place.encode() not in one.read_bytes()
    assert len(list(tmp_path.iterdir())) == 8


@pytest.mark.slow
def test_onnx_is_what_old_readers_read(runs: Runs, tmp_path: Path) -> None:
    path = tmp_path / "one.onnx"
    export_file.export(runs("mobilenet_v2"), "onnx", path, ExportOptions())
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    kinds = [node.op_type for node in model.graph.node]
    # 52 convolutions and the maps; BatchNorm is gone, and so are shifted products.
    assert kinds.count("Conv") == 53 and "BatchNormalization" not in kinds
    assert kinds.count("Clip") == 35 and "Slice" not in kinds
    [entry] = model.graph.input
    assert entry.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert entry.type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.slow
def test_metadata_says_what_the_run_says(runs: Runs) -> None:
    run = runs("mobilenet_v2")
    found = metadata.metadata(classifier.open_run(run))
    kept = {
        name: json.loads((run / f"{name}.json").read_text("utf-8"))
        for name in ("run", "calibration", "manifest")
    }
    assert found["classes"] == found["columns"] == kept["run"]["data"]["classes"]
    assert found["temperature"] == kept["calibration"]["temperature"]
    assert found["threshold"]["value"] == kept["calibration"]["threshold"]["value"]
    assert found["confidence_threshold"]["value"] == kept["calibration"]["abstention"]["threshold"]
    assert found["distance"]["limit"] == pytest.approx(kept["calibration"]["outliers"]["threshold"])
    assert found["run"]["trained"] == kept["manifest"]["sessions"][-1]["finished"]
    assert found["run"]["weights"]["sha256"] == kept["run"]["weights"]["sha256"]
    assert found["preparation"]["image_size"] == 32
    assert any("IN THE ORDER OF THEIR NAMES" in line for line in found["warnings"])


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
    found = metadata.metadata(classifier.open_run(copy))
    assert found["run"]["trained"] is None and found["run"]["weights"]["name"] is None


def test_documented_rules_are_those_of_the_run(runs: Runs) -> None:
    """Against `decisions.decide`, limits included, with a column that stands for no class."""
    rules = Rules(1.0, 0.5, "sick", "well", "by hand", 0.6, "by hand")
    names: dict[str, Any] = {"np": np}
    exec(snippets("What goes in and what comes out"), names)
    columns = ["a", "b", "unused"]
    about: dict[str, Any] = {
        "classes": ["a", "b"],
        "columns": columns,
        "threshold": {"value": 0.5, "positive": "sick", "negative": "well"},
        "confidence_threshold": {"value": 0.6},
        "distance": {"limit": 2.0},
    }
    rng = np.random.default_rng(0)
    shares = np.round(rng.dirichlet([1, 1, 1], 200), 1)
    shares[:, 2] = 1 - shares[:, :2].sum(axis=1)
    shares = shares[shares[:, :2].sum(axis=1) > 0]
    distances = rng.integers(1, 4, len(shares)).astype(float)
    some = [InputImage(Path(), str(k), str(k)) for k in range(len(shares))]
    for least in (0.6, None):
        about["confidence_threshold"]["value"] = least
        own = dataclasses.replace(rules, confidence_threshold=least)
        table = decisions.decide(some, Outputs(shares, distances), own, 2, 2.0)
        pairs = list(zip(shares, distances, strict=True))
        assert table.outcomes(columns) == [names["decide"](about, *one) for one in pairs]
        disease = [names["disease"](about, p) == "sick" for p in shares]
        assert table.positive.tolist() == disease
    assert len(set(table.outcomes(columns))) == 4


def test_documented_preparation_is_that_of_the_run(tmp_path: Path) -> None:
    names: dict[str, Any] = {"np": np}
    exec(snippets("What goes in and what comes out"), names)
    path = tmp_path / "a.png"
    Image.fromarray(noise(1, 91)[0, :60]).save(path)
    np.testing.assert_array_equal(names["prepared"](path, 32), image_io.read_image(path, 32))


# ---- a file that is wrong, and everything a user can get wrong ----------------------------------


@pytest.mark.parametrize("name", EXACT)
def test_a_file_that_disagrees_is_not_kept(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    right = graph.from_classifier

    def wrong(opened: Classifier) -> graph.Graph:
        whole = right(opened)
        last = whole.operations[-1]
        assert last.bias is not None
        bias = last.bias + np.array([0, 0, 0.01], np.float32)
        last = dataclasses.replace(last, bias=bias)
        return dataclasses.replace(whole, operations=(*whole.operations[:-1], last))

    monkeypatch.setattr(graph, "from_classifier", wrong)
    out = tmp_path / f"one{EXACT[name]}"
    out.write_text("an earlier one")
    with pytest.raises(UserError, match="does not predict as the run does: on 6 images"):
        export_file.export(runs("cnn"), name, out, ExportOptions(), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "an earlier one"


def test_what_is_not_a_number_disagrees() -> None:
    odd = verify.Agreement(1, "test", float("nan"), 0.0, 0, None, (1.0, 1.0), (None, None))
    with pytest.raises(UserError, match="does not predict"):
        verify.demand(odd, "one.onnx")
    odd = dataclasses.replace(odd, probabilities=0.0, distances=float("nan"))
    with pytest.raises(UserError, match="does not predict"):
        verify.demand(odd, "one.onnx")


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
    [
        ("onnx", "onnx"),
        ("onnxruntime", "onnx"),
        ("flatbuffers", "stablehlo"),
    ],
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


def test_images_that_were_moved(runs: Runs, skin: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(runs("cnn"), tmp_path / "copy"))
    kept = json.loads((copy / "run.json").read_text("utf-8"))
    kept["config"]["data"]["path"] = str(tmp_path / "gone")
    (copy / "run.json").write_text(json.dumps(kept))
    for name, suffix in EXACT.items():
        with pytest.raises(UserError, match="gone: the run's images are not there.*--data=PATH"):
            export_file.export(copy, name, tmp_path / f"one{suffix}", ExportOptions())
    assert not list(tmp_path.glob("*one*"))
    export_file.export(copy, "onnx", tmp_path / "one.onnx", ExportOptions(data=str(skin)))
    others = tmp_path / "others"
    for name in kept["data"]["classes"]:
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
    skin: Path,
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
