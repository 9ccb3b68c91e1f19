"""Each sentence of the report is there if, and only if, the run did what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sscjax.configs import default
from sscjax.evaluation import intervals, metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import html, weaknesses
from sscjax.system import formatting

Config = dict[str, Any]
CLASSES = ("healthy", "early", "late")

BASE: Config = {"protocol": "holdout", "pretrained": "none", "data.path": "skin"}
BEST: Config = BASE | {
    "augment.copies": 0,
    "stage_order": ("head",),
    "stages.head.optimizer": "lbfgs",
    "model.feature_layers": ("block_5_add", "out_relu"),
}
PLAIN: Config = BASE | {"augment.flip": False, "augment.crop": 1.0, "augment.copies": 0}
RUNS: dict[str, Config] = {
    "default": BASE,
    "plain": PLAIN,
    "best": BEST,
    "given penalty": BEST | {"stages.head.l2": (0.01,)},
    "folds": BEST | {"protocol": "kfold"},
    "folds of epochs": PLAIN | {"protocol": "kfold", "loss.class_weights": "none"},
    "stains": BASE | {"augment.stain": 0.3, "augment.rot90": True, "data.path": ""},
    "by image": BASE | {"split.by": "image", "select.metric": "none", "pretrained": "imagenet"},
    "sgd": BASE | {"stages.finetune.optimizer": "sgd", "stages.head.optimizer": "adamw"},
    "cnn": BASE | {"model.name": "cnn", "stage_order": ("head",), "model.dropout": 0.0},
    "bundled": BASE | {"pretrained": "bundled", "data.mpp": 0.5},
}


def stages(config: Config) -> list[Config]:
    return [config["stages"][name] for name in config["stage_order"]]


def changes_images(config: Config) -> bool:
    block = config["augment"]
    online = any(one["online_augment"] for one in stages(config))
    copied = block["copies"] and not all(one["online_augment"] for one in stages(config))
    return bool(online or copied)


def optimizer(name: str) -> Callable[[Config], bool]:
    return lambda config: any(one["optimizer"] == name for one in stages(config))


def has_epochs(config: Config) -> bool:
    return not all(one["optimizer"] == "lbfgs" for one in stages(config))


# What the page may say, and of which runs it is true.
CLAIMS: dict[str, Callable[[Config], bool]] = {
    r"\bflips\b": lambda c: changes_images(c) and c["augment"]["flip"],
    r"quarter turns": lambda c: changes_images(c) and c["augment"]["rot90"],
    r"amounts of stain changed|Tellez": lambda c: changes_images(c) and c["augment"]["stain"] > 0,
    r"crops of at least": lambda c: changes_images(c) and c["augment"]["crop"] < 1,
    r"were not augmented": lambda c: (
        not changes_images(c) or (not c["augment"]["flip"] and c["augment"]["crop"] == 1)
    ),
    r"L-BFGS|Nocedal": optimizer("lbfgs"),
    r"\bAdam,|Kingma": optimizer("adam"),
    r"AdamW|Loshchilov": optimizer("adamw"),
    r"Nesterov": optimizer("sgd"),
    r"chosen among .* by cross-validation": lambda c: (
        optimizer("lbfgs")(c) and len(c["stages"]["head"]["l2"]) > 1
    ),
    r"(?:Accuracy|Loss) by epoch|in batches of": has_epochs,
    r"dropout \d": lambda c: has_epochs(c) and c["model"]["dropout"] > 0,
    r"last epoch was kept": lambda c: has_epochs(c) and c["select"]["metric"] == "none",
    r"The epoch was kept that is best": lambda c: has_epochs(c) and c["select"]["metric"] != "none",
    r"is that of the (?:last )?stage": lambda c: len(c["stage_order"]) > 1,
    r"reads the 2 layers block_5_add, out_relu": lambda c: bool(c["model"]["feature_layers"]),
    r"reads the last layer": lambda c: (
        c["model"]["name"] == "mobilenet_v2" and not c["model"]["feature_layers"]
    ),
    r"Sandler": lambda c: c["model"]["name"] == "mobilenet_v2",
    r"from ImageNet weights|Deng J": lambda c: c["pretrained"] == "imagenet",
    r"from random weights": lambda c: c["pretrained"] == "none",
    r"bundled with sscjax": lambda c: c["pretrained"] == "bundled",
    r"micrometres per pixel": lambda c: c["data"]["mpp"] > 0,
    r"central square": lambda c: bool(c["data"]["path"]),
    r"Images were drawn": lambda c: not c["data"]["path"],
    r"weighted by the inverse": lambda c: c["loss"]["class_weights"] == "balanced",
    r"averages the probabilities|an ensemble": lambda c: c["protocol"] == "kfold",
    r"One network predicts|One split was made": lambda c: c["protocol"] == "holdout",
    r"each by a model that was not trained on it": lambda c: c["protocol"] == "kfold",
    r"none of them used for training": lambda c: (
        c["protocol"] == "holdout" and c["split"]["by"] == "subject"
    ),
    r"there is no ensemble": lambda c: False,
    r"5-fold cross-validation \(": lambda c: c["protocol"] == "kfold",
    r"all images of a subject stand on one side": lambda c: c["split"]["by"] == "subject",
    r"may stand in training and test alike": lambda c: c["split"]["by"] == "image",
}


def nested(changes: Config) -> Config:
    config = default.get_config()
    config.update_from_flattened_dict(changes)
    return dict(json.loads(json.dumps(config.to_dict())))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def table(subjects: int, splits: tuple[str, ...]) -> Predictions:
    """Two images of each subject, so many of each class in each split."""
    rng = np.random.default_rng(subjects)
    rows = [
        (f"{split}{label}{subject}_{tile}.png", f"{split}{label}{subject}", split, label)
        for split in splits
        for label in range(3)
        for subject in range(subjects)
        for tile in range(2)
    ]
    files, names, of_split, labels = (np.array(column) for column in zip(*rows, strict=True))
    scores = rng.dirichlet(np.ones(3), len(rows)) + 0.5 * np.eye(3)[labels]
    probabilities = scores / scores.sum(1, keepdims=True)
    return Predictions(files, names, of_split, labels, probabilities, CLASSES)


def write_run(folder: Path, config: Config, subjects: int, splits: tuple[str, ...]) -> None:
    """What a finished run leaves of which the page is made, without training it."""
    predictions = table(subjects, splits)
    predictions.write_csv(folder / "predictions.csv")
    predictions.by_subject().write_csv(folder / "predictions_by_subject.csv")
    figures = {
        "final_stage": config["stage_order"][-1],
        "splits": metrics.figures_by_split(predictions, True),
        "test_intervals": intervals.test_figures(predictions, True),
    }
    tested, ranges = predictions.where("test"), figures["test_intervals"]
    figures["warnings"] = weaknesses.find(tested, CLASSES, ranges, {}, {}, config["split"]["by"])
    write(folder / "metrics.json", figures)
    bundled = config["pretrained"] == "bundled"
    kind = "file" if bundled or config["pretrained"] == "imagenet" else "random"
    record = {
        "status": "finished",
        "config": config,
        "data": {
            "source": "skin",
            "synthetic": not config["data"]["path"],
            "classes": list(CLASSES),
            "training_images": len(predictions.where("train")),
            "fingerprint": "0",
        },
        "weights": {"kind": kind, "sha256": "0", "convention": "keras", "fallback": False},
        "versions": {"sscjax": "1", "jax": "1", "python": "3"},
    }
    write(folder / "run.json", record)
    lines = ["epoch,stage,train_loss,train_accuracy,val_loss,val_accuracy"]
    for name in config["stage_order"]:
        fitted = config["stages"][name]["optimizer"] == "lbfgs"
        progress: Config = {
            "epoch": 1 if fitted else 3,
            "best_epoch": 0 if fitted else 2,
            "seconds": 1.0,
        }
        progress |= {"stopped_early": False, "l2": 0.01 if fitted else None}
        about = {"progress": progress, "counts": {"total": 9, "trained": 3}, "out_of_fold": fitted}
        write(folder / "stages" / name / "stage.json", about)
        lines += [f"{k},{name},0.5,0.6,0.7,0.8" for k in range(1, 1 + int(progress["epoch"]))]
    (folder / "curves.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def page(folder: Path, changes: Config, subjects: int = 6) -> str:
    """The text of the page and the card, without the config, which names every field."""
    config = nested(changes)
    if config["protocol"] == "holdout":
        write_run(folder, config, subjects, ("train", "val", "test"))
    else:
        for number in range(5):
            write_run(folder / "folds" / f"fold_{number}", config, subjects, ("train", "test"))
        write_run(folder, config, subjects, ("test",))
        (folder / "run.json").unlink()
        write(folder / "protocol.json", {"status": "finished", "config": config})
    text, card = (path.read_text(encoding="utf-8") for path in html.write(folder))
    text = re.sub(r'<section id="checklists".*?</section>', "", text, flags=re.DOTALL)
    text = text[: text.index("Every field of the config")] + text[text.index('id="limits"') :]
    return " ".join(
        (re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL) + card).split()
    )


@pytest.mark.parametrize("name", RUNS)
def test_sentences_are_true_of_the_run(name: str, tmp_path: Path) -> None:
    text, config = page(tmp_path / "run", RUNS[name]), nested(RUNS[name])
    said = {claim: re.search(claim, text) is not None for claim in CLAIMS}
    assert said == {claim: bool(holds(config)) for claim, holds in CLAIMS.items()}


@pytest.mark.parametrize("subjects", [2, 6])
def test_few_subjects_are_warned_of_and_not_drawn(subjects: int, tmp_path: Path) -> None:
    text = page(tmp_path / "run", BEST, subjects)
    few = subjects < weaknesses.FEW
    assert (f"{subjects} of healthy, {subjects} of early, {subjects} of late" in text) == few
    assert ("ROC: healthy against" in text) != few
    of_images = Predictions.read_csv(tmp_path / "run" / "predictions.csv").where("test")
    auroc = metrics.figures_by_split(of_images, True)["test"]["image"]["per_class"][0]["auroc"]
    assert (f"false positive rate; AUROC {formatting.number(auroc)}" in text) != few
    assert ("a curve would show these few alone" in text) == few


def test_weak_intervals_and_thresholds() -> None:
    ranges = {"accuracy": [0.5, 0.79], "balanced_accuracy": [0.5, 0.81], "macro_auroc": None}
    (line,) = weaknesses.wide(ranges, "subject")
    assert "balanced accuracy 50.0 to 81.0 %" in line and "accuracy 50.0 to 79.0" not in line
    assert not weaknesses.wide({"accuracy": [0.5, 0.79]}, "subject")
    assert "FROM 7 SUBJECTS" in weaknesses.few_held_out({"held_out": {"subjects": 7}})[0]
    assert "NO THRESHOLDS" in weaknesses.few_held_out({"held_out": {"subjects": 0}})[0]
    assert not weaknesses.few_held_out({"held_out": {"subjects": 20}})
