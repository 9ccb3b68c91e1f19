"""`sscjax train FOLDER`, from a folder of patients to the model that is handed on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from small_runs import written

import sscjax
from sscjax import main
from sscjax.data import synthetic
from sscjax.evaluation import calibration, ood, reliability
from sscjax.evaluation.predictions import Predictions, group_means
from sscjax.experiments.cross_validation import choice
from sscjax.inference.classifier import Classifier
from sscjax.reports import headline
from sscjax.training.settings import CrossValidationSettings, Settings

REPOSITORY = Path(__file__).resolve().parents[2]

# A CNN of one block from random weights: what is tested is the path, not the network.
TINY = (
    *("--config.model.name=cnn", "--config.model.cnn_widths=8", "--config.model.cnn_dense=()"),
    *("--config.model.feature_layers=()", "--config.pretrained=none"),
    *("--config.data.image_size=32", "--config.cv.repeats=2", "--config.cv.folds=3"),
)


@pytest.mark.parametrize(
    ("subjects", "fewest", "repeats", "expected"),
    [
        (40, 10, 0, ("kfold", 5, 3)),
        (40, 3, 0, ("kfold", 3, 3)),  # no more folds than the smallest class has patients
        (40, 1, 0, ("kfold", 2, 3)),  # refused later, by name
        (40, 10, 1, ("kfold", 5, 1)),
        (199, 60, 0, ("kfold", 5, 3)),
        (200, 60, 0, ("holdout", 5, 0)),
    ],
)
def test_the_number_of_patients_chooses_the_test(
    subjects: int, fewest: int, repeats: int, expected: tuple[object, ...]
) -> None:
    made = choice.choose(Settings(cv=CrossValidationSettings(repeats=repeats)), subjects, fewest)
    assert (made.protocol, made.folds, made.repeats) == expected
    assert made.reason.startswith(f"{subjects} patients")


@pytest.mark.parametrize(
    ("name", "expected"), [("skin", "skin"), ("skin/manifest.csv", "skin"), ("tiles.csv", "tiles")]
)
def test_a_folder_is_all_that_is_needed(name: str, expected: str) -> None:
    config = main.parse([name, "--classes=normal,early"]).config
    assert config.data.path == name and config.name == expected and config.protocol == "auto"
    assert config.data.classes == ("normal", "early")
    assert config.stages.head.optimizer == "lbfgs" and len(config.model.feature_layers) == 6
    other = main.parse([name, "--config=three_class", "--config.protocol=loso"]).config
    assert other.protocol == "loso" and "finetune" in other.stages


def test_the_first_line_waits_for_no_import() -> None:
    """Those of JAX take seconds on a busy machine."""
    code = (
        "import sys, sscjax.main\nsscjax.main._greet(['skin'])\n"
        "print(sorted({'jax', 'numpy', 'scipy', 'ml_collections'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "[]" and done.stderr.startswith("sscjax ")


# ---- the whole path ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def skin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """class/patient/image.png, 18 patients, as a clinic would sort them."""
    folder = tmp_path_factory.mktemp("own") / "skin"
    names = ("normal", "early", "late")
    drawn = synthetic.skin_biopsies(
        image_size=32, tiles=dict.fromkeys(names, 18), subjects=dict.fromkeys(names, 6)
    )
    for index in range(len(drawn.files)):
        label = drawn.classes[drawn.labels[index]]
        path = folder / label / str(drawn.subjects[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.images[index]).save(path)
    return folder


@pytest.fixture(scope="module")
def screen(skin: Path) -> str:
    """What a terminal of 80 columns shows of the command, whose question is answered."""
    import pty
    import termios

    outside, inside = pty.openpty()
    termios.tcsetwinsize(inside, (24, 80))
    settings = termios.tcgetattr(inside)
    settings[3] &= ~termios.ECHO  # what is typed is written before the program asks
    termios.tcsetattr(inside, termios.TCSANOW, settings)
    environment = {name: text for name, text in os.environ.items() if name != "COLUMNS"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "SSCJAX_CACHE": str(skin.parent / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "sscjax", "train", "skin", *TINY],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        cwd=skin.parent,
        env=environment,
    )
    os.close(inside)
    os.write(outside, b"normal,erly,late\nnormal,early,late\n")
    shown = b""
    while True:
        try:
            part = os.read(outside, 2**16)
        except OSError:  # Linux' end of a terminal
            break
        if not part:
            break
        shown += part
    os.close(outside)
    assert process.wait(timeout=60) == 0, shown.decode()
    return shown.decode()


@pytest.fixture(scope="module")
def run(skin: Path, screen: str) -> Path:
    return skin.parent / "runs" / "skin"


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


slow = pytest.mark.slow
no_terminal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")


@slow
@no_terminal
def test_a_terminal_of_80_columns_shows_the_path(screen: str, run: Path) -> None:
    lines = [line for line in re.split(r"[\r\n]+|\x1b\[K", screen) if line.strip()]
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert lines[0].startswith("sscjax ")
    assert "did you mean early?" in text  # the first answer had a slip
    assert "18 patients, fewer than 200: cross-validation by patient, 3 folds, 2 times" in text
    estimates = re.findall(r"^About (\S+ \S+) on this machine", text, re.MULTILINE)
    assert len(estimates) == 1 and f"(estimated at the start: about {estimates[0]})" in text
    bars = [line for line in lines if line.startswith("[")]
    assert any("fold 6 of 6" in bar and bar.endswith(" left") for bar in bars)
    assert not re.search(r"XLA_FLAGS|slow_operation|Orbax|absl|Traceback", screen)
    # The end is the headline, which fits a screen; it is made of the folder alone.
    closing = headline.text(run).splitlines()
    assert len(closing) <= 24 and lines[-1].startswith("Report: ")
    assert closing[0] in text and re.match(
        r"18 patients never seen in training: \d+ right on average, \d+ % \(\d+ to \d+ %\)$",
        closing[0],
    )


@slow
@no_terminal
def test_the_model_is_that_of_scikit_learn_on_all_patients(skin: Path, run: Path) -> None:
    classifier = sscjax.load(run)
    assert classifier.folder == run / "model"
    data = sscjax.load_images(skin, classes=("normal", "early", "late"), image_size=32)
    assert classifier.classes == data.classes
    assert isinstance(classifier, Classifier)
    # Not the means of the maps, which `extract_features` gives: this network reads all of them.
    maps = classifier.program.outputs(
        classifier.params, classifier.batch_stats, data.images[:], classifier.model.features_end
    )
    features = np.asarray(maps, np.float64).reshape(len(data), -1)
    [stage] = (run / "model" / "stages").glob("*/stage.json")
    l2 = read(stage)["progress"]["l2"]
    deviation = features.std(0)
    alive = deviation > 1e-6 * deviation.max()
    scaled = (features - features.mean(0))[:, alive] / deviation[alive] / features.shape[1] ** 0.5
    weights = 1 / np.bincount(data.labels)[data.labels]
    model = LogisticRegression(C=1 / l2, tol=1e-9, max_iter=5000)
    model.fit(scaled, data.labels, sample_weight=weights / weights.sum())
    expected = calibration.calibrate(
        model.predict_proba(scaled), classifier.rules.image.temperature
    )
    np.testing.assert_allclose(classifier.predict_proba(data), expected, atol=2e-3)


@slow
@no_terminal
def test_its_rules_are_those_of_the_cross_validation(run: Path, skin: Path) -> None:
    """By hand from the folds' own files: raw test predictions, and their detectors."""
    own, whole = (read(path / "calibration.json") for path in (run / "model", run))
    assert own["rules"] == whole["rules"] and own["held_out"] == whole["held_out"]
    figures = read(run / "model" / "metrics.json")
    assert figures["splits"] == read(run / "metrics.json")["splits"]
    assert read(run / "model" / "run.json")["tested_by"] == {
        **{"protocol": "kfold", "folds": 6, "repeats": 2, "images": 54, "subjects": 18},
    }
    raw = Predictions.join(
        [
            Predictions.read_csv(path).where("test")
            for path in sorted(run.glob("folds/*/stages/head/predictions.csv"))
        ]
    )
    names, first, of = np.unique(raw.files, return_index=True, return_inverse=True)
    assert len(names) == 54 and len(raw) == 108
    mean = raw.take(first)
    mean = type(mean)(**{**vars(mean), "probabilities": group_means(raw.probabilities, of)})
    fit = reliability.fit_unit(mean, "image", 3, reliability.Options(), "out-of-fold")
    np.testing.assert_equal(fit.rules.to_json(), own["rules"]["image"])

    classifier = sscjax.load(run)
    data = sscjax.load_images(skin, classes=("normal", "early", "late"), image_size=32)
    assert isinstance(classifier, Classifier)
    # From random weights a fold's own features are others, so its detector is made again.
    features = sscjax.extract_features(classifier, data)
    distances: list[float] = []
    for fold in sorted(run.glob("folds/repeat_0-*")):
        tested = Predictions.read_csv(fold / "predictions.csv").where("test").files
        rows = np.isin(data.files, tested)
        distances += ood.fit(features[~rows]).distances(features[rows]).tolist()
    limit = sorted(distances)[int(np.ceil(0.95 * 55)) - 1]
    assert len(distances) == 54
    assert classifier.distance_limit == pytest.approx(limit, rel=1e-3)


@slow
@no_terminal
def test_the_same_command_does_nothing_twice(skin: Path, run: Path) -> None:
    """A run whose model and report are lost makes them again, to the bit, and no fold."""
    results = ("metrics.json", "calibration.json", "predictions.csv", "outliers.npz")
    kept = {name: (run / "model" / name).read_bytes() for name in results}
    folds = written(run / "folds")
    for path in sorted((run / "model").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    record = read(run / "protocol.json")
    (run / "protocol.json").write_text(json.dumps({**record, "status": "started"}), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "sscjax", "train", "skin", *TINY],
        capture_output=True,
        text=True,
        cwd=skin.parent,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "SSCJAX_CACHE": str(skin.parent / "c")},
        check=False,
    )
    # Not a terminal: nothing is asked; the order of the classes is that of the first start.
    assert done.returncode == 0, done.stderr
    assert written(run / "folds") == folds
    assert {name: (run / "model" / name).read_bytes() for name in results} == kept
    assert read(run / "protocol.json")["config"]["data"]["classes"] == ["normal", "early", "late"]
    assert done.stdout.strip().splitlines()[0] == headline.text(run).splitlines()[0]


@slow
@no_terminal
def test_all_commands_take_the_folder_of_the_run(
    skin: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sscjax.export.verify import ExportOptions
    from sscjax.export.write import export
    from sscjax.inference.explain import explain
    from sscjax.inference.predict import predict
    from sscjax.reports import html

    monkeypatch.chdir(skin.parent)
    patient = next((skin / "late").iterdir())
    assert predict(run, [patient], tmp_path / "new") == 0
    assert read(tmp_path / "new" / "predictions.json")["run"]["models"] == [str(run / "model")]
    assert explain(run, [patient], tmp_path / "maps") == 0
    # One check of maps, of the model that is handed on, for all of them.
    kept = read(run / "model" / "maps.json")
    assert len(kept["check"]["occlusion"]) == 8
    assert read(tmp_path / "new" / "predictions.json")["maps"] == {**kept, "drawn": kept["shown"]}
    assert read(tmp_path / "maps" / "explanations.json")["maps"]["verdict"] == kept["verdict"]
    shown = (tmp_path / "new" / "index.html").read_text("utf-8")
    assert kept["verdict"] in shown and headline.text(run).splitlines()[0] in shown
    text = export(run, "stablehlo", tmp_path / "model.zip", ExportOptions(data=None, ort_web=None))
    assert "0 decisions differ" in text
    for folder in (run, run / "model"):
        html.write_again(folder)
    page = (run / "report.html").read_text("utf-8")
    assert "Paper" not in page and "18" in page and kept["verdict"] in page
