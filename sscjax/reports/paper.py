"""The published study as data: its counts, its printed figures and where it contradicts itself.

Akay M. et al., "Deep Learning Classification of Systemic Sclerosis Skin Using the MobileNetV2
Model", IEEE Open J. Eng. Med. Biol. 2021, doi 10.1109/OJEMB.2021.3066097. Study 1 classifies
normal skin and SSc, study 2 normal skin, early and late SSc. All counts are of images after
augmentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

MODELS = ("mobilenet_v2", "cnn")
CONFIGS = (
    *("paper_two_class", "paper_three_class"),
    *("paper_cnn_two_class", "paper_cnn_three_class"),
)
MODEL_TITLES = {"mobilenet_v2": "MobileNetV2", "cnn": "CNN"}


@dataclasses.dataclass(frozen=True)
class Study:
    """One of the two studies.

    Attributes:
      classes: names in label order.
      total, train, val, test: images per class, in the order of `classes`.
      parameters: what the text calls the parameters of MobileNetV2; it includes the head.
      kept: parameters that stage 2 does not train, BatchNorm's moving statistics among them.
      fine_tuned: parameters that stage 2 trains, the head among them.
      outputs: units of the final dense layer that these numbers imply.
      head_epochs: epochs of stage 1.
      last_epoch: epoch at which stage 2 ends, or None where the text gives none.
      cnn_epochs: epochs of the CNN baseline.
    """

    classes: tuple[str, ...]
    total: tuple[int, ...]
    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    parameters: int
    kept: int
    fine_tuned: int
    outputs: int
    head_epochs: int
    last_epoch: int | None
    cnn_epochs: int = 120


# By number of classes.
STUDIES: dict[int, Study] = {
    2: Study(
        classes=("normal", "ssc"),
        total=(1042, 846),
        train=(834, 678),
        val=(104, 84),
        test=(104, 84),
        parameters=2_259_265,
        kept=34_112,
        fine_tuned=2_225_153,
        outputs=1,
        head_epochs=100,
        last_epoch=150,
    ),
    3: Study(
        classes=("normal", "early", "late"),
        total=(1041, 423, 423),
        train=(834, 334, 344),
        val=(103, 40, 40),
        test=(104, 49, 39),
        parameters=2_263_108,
        kept=37_664,
        fine_tuned=2_225_444,
        outputs=4,
        head_epochs=200,
        last_epoch=None,
    ),
}

# Inputs of the final dense layer; the text calls this number the parameters of the head.
HEAD_INPUTS = 1280

Confusion = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """What one model did on one split; `confusion` has the true class in rows."""

    num_classes: int
    model: str
    split: str
    confusion: Confusion


RESULTS: tuple[Result, ...] = (
    Result(2, "mobilenet_v2", "train", ((834, 0), (0, 678))),
    Result(2, "mobilenet_v2", "val", ((101, 3), (3, 81))),
    Result(2, "mobilenet_v2", "test", ((99, 5), (4, 80))),
    Result(2, "cnn", "train", ((834, 0), (0, 678))),
    Result(2, "cnn", "val", ((100, 4), (19, 65))),
    Result(2, "cnn", "test", ((96, 8), (24, 60))),
    Result(3, "mobilenet_v2", "train", ((834, 0, 0), (0, 334, 0), (0, 0, 344))),
    Result(3, "mobilenet_v2", "val", ((102, 1, 0), (2, 36, 2), (0, 0, 40))),
    Result(3, "mobilenet_v2", "test", ((103, 1, 0), (2, 41, 6), (0, 1, 38))),
    Result(3, "cnn", "train", ((834, 0, 0), (0, 334, 0), (0, 0, 344))),
    Result(3, "cnn", "val", ((94, 9, 0), (7, 31, 2), (3, 2, 35))),
    Result(3, "cnn", "test", ((99, 4, 1), (10, 35, 4), (1, 4, 34))),
)


def compares(config: str) -> bool:
    """Whether a run's figures may stand beside the paper's: only for the paper's own configs.

    Beside figures of another protocol they would invite a comparison that says nothing.

    Args:
      config: the name of the run's config.
    """
    return config in CONFIGS


def result(num_classes: int, model: str, split: str) -> Result:
    """The one entry of `RESULTS` for these three; KeyError if the paper has none."""
    for entry in RESULTS:
        if (entry.num_classes, entry.model, entry.split) == (num_classes, model, split):
            return entry
    raise KeyError((num_classes, model, split))


def truncated_percent(correct: int, total: int) -> float:
    """`correct` of `total` in percent, cut (not rounded) after one decimal, as the paper prints."""
    return (1000 * correct // total) / 10


def counts(entry: Result) -> tuple[int, int]:
    """Images that are right, and all images."""
    right = sum(entry.confusion[index][index] for index in range(entry.num_classes))
    return right, sum(map(sum, entry.confusion))


def accuracy(entry: Result) -> float:
    """Share of all images that are right, truncated percent."""
    return truncated_percent(*counts(entry))


def hits(confusion: Sequence[Sequence[int]], index: int) -> tuple[int, int]:
    """Images of class `index` that are called so, and all of that class."""
    return confusion[index][index], sum(confusion[index])


def rejections(confusion: Sequence[Sequence[int]], index: int) -> tuple[int, int]:
    """Images of the other classes that are not called `index`, and all of those classes."""
    others = [row for number, row in enumerate(confusion) if number != index]
    total = sum(map(sum, others))
    return total - sum(row[index] for row in others), total


def sensitivity(entry: Result, index: int) -> float:
    """Share of the images of class `index` that are called so, truncated percent."""
    return truncated_percent(*hits(entry.confusion, index))


def specificity(entry: Result, index: int) -> float:
    """Share of the images of other classes that are not called `index`, truncated percent."""
    return truncated_percent(*rejections(entry.confusion, index))


@dataclasses.dataclass(frozen=True)
class Printed:
    """A percentage that stands in the text.

    Attributes:
      quantity: 'accuracy', or 'sensitivity' or 'specificity' for SSc in study 1.
      percent: the figure in the section on results.
      in_abstract: the figure the abstract gives for the same thing, or None.
    """

    num_classes: int
    model: str
    split: str
    quantity: str
    percent: float
    in_abstract: float | None = None


PRINTED: tuple[Printed, ...] = (
    Printed(2, "mobilenet_v2", "val", "sensitivity", 96.4),
    Printed(2, "mobilenet_v2", "val", "specificity", 97.1),
    Printed(2, "mobilenet_v2", "val", "accuracy", 96.8, in_abstract=96.8),
    Printed(2, "mobilenet_v2", "test", "sensitivity", 95.2),
    Printed(2, "mobilenet_v2", "test", "specificity", 95.1),
    Printed(2, "mobilenet_v2", "test", "accuracy", 95.2, in_abstract=95.2),
    Printed(2, "cnn", "val", "sensitivity", 77.3),
    Printed(2, "cnn", "val", "specificity", 96.1),
    Printed(2, "cnn", "val", "accuracy", 87.7, in_abstract=87.7),
    Printed(2, "cnn", "test", "sensitivity", 71.4),
    Printed(2, "cnn", "test", "specificity", 92.3),
    Printed(2, "cnn", "test", "accuracy", 82.9, in_abstract=82.9),
    Printed(3, "mobilenet_v2", "val", "accuracy", 97.2, in_abstract=97.2),
    Printed(3, "mobilenet_v2", "test", "accuracy", 94.8, in_abstract=94.8),
    Printed(3, "cnn", "val", "accuracy", 87.4, in_abstract=87.7),
    Printed(3, "cnn", "test", "accuracy", 87.5, in_abstract=82.9),
)


def printed(num_classes: int, model: str, split: str, quantity: str) -> float | None:
    """The percentage in the paper's section on results, or None where it prints none."""
    for entry in PRINTED:
        key = (entry.num_classes, entry.model, entry.split, entry.quantity)
        if key == (num_classes, model, split, quantity):
            return entry.percent
    return None


@dataclasses.dataclass(frozen=True)
class Erratum:
    """Two statements of the paper that cannot both hold.

    Attributes:
      what: what is stated.
      states: what does not follow from the paper's own counts.
      follows: what does.
      why: how it follows.
    """

    what: str
    states: str
    follows: str
    why: str


ERRATA: tuple[Erratum, ...] = (
    Erratum(
        "accuracy of the 3-class CNN, validation",
        states="87.7 %",
        follows="87.4 %",
        why="the abstract repeats the 2-class figure, and 160 of 183 images are right",
    ),
    Erratum(
        "accuracy of the 3-class CNN, test",
        states="82.9 %",
        follows="87.5 %",
        why="the abstract repeats the 2-class figure, and 168 of 192 images are right",
    ),
    Erratum(
        "accuracy of the 3-class MobileNetV2, test",
        states="94.8 %",
        follows="94.7 %",
        why="182 of 192 is 94.79 %, rounded here while every other percentage is truncated",
    ),
    Erratum(
        "SSc images in the training split of study 1",
        states="1512",
        follows="678",
        why="1512 is all of the training split, 834 normal and 678 SSc",
    ),
    Erratum(
        "SSc images in the training split of study 2",
        states="1512",
        follows="678",
        why="1512 is all of the training split, 834 normal, 334 early and 344 late",
    ),
    Erratum(
        "parameters of the head in study 1",
        states="1280",
        follows="1281",
        why="2,259,265 less the base's 2,257,984 is one output with 1280 weights and a bias",
    ),
    Erratum(
        "parameters of the head in study 2",
        states="1280",
        follows="5124",
        why="2,263,108 less the base's 2,257,984 is four outputs, though there are three classes",
    ),
    Erratum(
        "parameters of the first 10 layers in study 1",
        states="34112",
        follows="37664",
        why="34,112 are the moving statistics of BatchNorm alone, so no weight was frozen; "
        "study 2, which does freeze those layers, has 37,664",
    ),
    Erratum(
        "images of study 2",
        states="an additional 1887",
        follows="those of study 1",
        why="the 846 SSc images of study 1 are the 423 early and 423 late ones of study 2, and "
        "1,042 normal ones became 1,041",
    ),
    Erratum(
        "epochs with a frozen base in study 2",
        states="100",
        follows="200",
        why="the discussion says 100 of both studies, and the section on study 2 says 200",
    ),
    Erratum(
        "the output of study 1",
        states="softmax",
        follows="sigmoid",
        why="its parameters imply one output, and a softmax of one output is always 1",
    ),
)

TRUNCATED = (
    "The paper truncates its percentages, except 94.8 %, which is rounded (182 of 192 is 94.79 %); "
    "per class they follow from its counts."
)


def errata() -> list[str]:
    """The contradictions, a sentence each."""
    return [
        f"Contradiction, {entry.what}: it states {entry.states}; from its own figures follows "
        f"{entry.follows}, for {entry.why}."
        for entry in ERRATA
    ]
