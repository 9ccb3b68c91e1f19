"""The paper's printed figures from its counts, and, where the text is at hand, from its text."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from sscjax.reports import paper, tables

# Keras' MobileNetV2 at 128x128, alpha 1, without top; the second number within the first.
BASE_PARAMETERS = 2_257_984
MOVING_STATISTICS = 34_112


@pytest.mark.parametrize("study", paper.STUDIES.values(), ids=["two classes", "three classes"])
def test_splits_add_up(study: paper.Study) -> None:
    for total, *parts in zip(study.total, study.train, study.val, study.test, strict=True):
        assert total == sum(parts)
    assert sum(study.train) == 1512


def test_totals_of_the_text() -> None:
    assert sum(paper.STUDIES[2].total) == 1888
    assert sum(paper.STUDIES[3].total) == 1887


@pytest.mark.parametrize("entry", paper.RESULTS, ids=str)
def test_confusions_cover_their_split(entry: paper.Result) -> None:
    expected = getattr(paper.STUDIES[entry.num_classes], entry.split)
    assert tuple(map(sum, entry.confusion)) == expected


def test_one_result_per_model_and_split() -> None:
    keys = [(entry.num_classes, entry.model, entry.split) for entry in paper.RESULTS]
    assert len(set(keys)) == len(keys) == 2 * 2 * 3
    assert {model for _, model, _ in keys} == set(paper.MODELS) == set(paper.MODEL_TITLES)
    assert paper.result(3, "cnn", "test").confusion[1] == (10, 35, 4)
    with pytest.raises(KeyError):
        paper.result(4, "cnn", "test")


# Right answers and images as the text counts them.
@pytest.mark.parametrize(
    ("num_classes", "model", "split", "right"),
    [
        (2, "mobilenet_v2", "val", (81 + 101, 188)),
        (2, "mobilenet_v2", "test", (80 + 99, 188)),
        (2, "cnn", "val", (65 + 100, 188)),
        (2, "cnn", "test", (60 + 96, 188)),
        (3, "mobilenet_v2", "val", (178, 183)),
        (3, "mobilenet_v2", "test", (182, 192)),
        (3, "cnn", "val", (160, 183)),
        (3, "cnn", "test", (168, 192)),
    ],
)
def test_right_answers(num_classes: int, model: str, split: str, right: tuple[int, int]) -> None:
    assert paper.counts(paper.result(num_classes, model, split)) == right


@pytest.mark.parametrize("entry", paper.PRINTED, ids=str)
def test_every_printed_percentage_follows_from_the_counts(entry: paper.Printed) -> None:
    result = paper.result(entry.num_classes, entry.model, entry.split)
    if entry.quantity == "accuracy":
        computed = paper.accuracy(result)
        right, total = paper.counts(result)
    else:
        # SSc is the disease: its sensitivity, and as specificity the share of normal that is right.
        computed = getattr(paper, entry.quantity)(result, 1)
        row = 1 if entry.quantity == "sensitivity" else 0
        right, total = result.confusion[row][row], sum(result.confusion[row])
    if (entry.num_classes, entry.model, entry.split) == (3, "mobilenet_v2", "test"):
        # The erratum: the one percentage that is rounded up.
        assert (computed, entry.percent) == (94.7, 94.8)
        assert round(100 * right / total, 1) == entry.percent
    else:
        assert computed == entry.percent
        assert 0 <= 100 * right / total - entry.percent < 0.1


def test_training_is_perfect() -> None:
    for entry in paper.RESULTS:
        if entry.split == "train":
            assert paper.accuracy(entry) == 100.0


def test_truncation_cuts_and_does_not_round() -> None:
    assert paper.truncated_percent(99, 104) == 95.1  # 95.19
    assert paper.truncated_percent(65, 84) == 77.3  # 77.38
    assert paper.truncated_percent(999, 1000) == 99.9
    assert paper.truncated_percent(9999, 10000) == 99.9
    assert paper.truncated_percent(0, 7) == 0.0
    # int(29 / 100 * 100 * 10) is 289: truncation must be done in whole numbers.
    assert paper.truncated_percent(29, 100) == 29.0
    assert paper.truncated_percent(58, 100) == 58.0


def test_class_figures_by_hand() -> None:
    entry = paper.result(3, "cnn", "val")
    assert [paper.sensitivity(entry, index) for index in range(3)] == [91.2, 77.5, 87.5]
    # Of 80 that are not normal 10 are called so; of 143 not early 11; of 143 not late 2.
    assert [paper.specificity(entry, index) for index in range(3)] == [87.5, 92.3, 98.6]
    assert paper.rejections(entry.confusion, 0) == (70, 80)
    assert paper.hits(entry.confusion, 1) == (31, 40)


def test_parameters_reveal_the_head() -> None:
    for study in paper.STUDIES.values():
        assert study.kept + study.fine_tuned == study.parameters
        assert study.parameters - BASE_PARAMETERS == (paper.HEAD_INPUTS + 1) * study.outputs
    assert paper.STUDIES[2].kept == MOVING_STATISTICS


def test_errata_name_two_different_figures() -> None:
    for erratum in paper.ERRATA:
        assert erratum.states != erratum.follows and erratum.why
    percentages = {(e.states, e.follows) for e in paper.ERRATA if "%" in e.states}
    expected = {("94.8 %", "94.7 %")}
    for entry in paper.PRINTED:
        if entry.in_abstract not in (None, entry.percent):
            expected.add((f"{entry.in_abstract} %", f"{entry.percent} %"))
    assert percentages == expected and len(expected) == 3


def test_errata_stand_in_the_report_and_the_docs() -> None:
    """Eleven, each beside the paper's table; one percentage is said to be rounded."""
    assert len(paper.ERRATA) == 11
    notes = tables.paper_notes("image", synthetic=False)
    page = Path(__file__).resolve().parents[2] / "docs" / "results.md"
    documented = page.read_text(encoding="utf-8")
    for erratum in paper.ERRATA:
        [note] = [one for one in notes if f", {erratum.what}:" in one]
        assert erratum.states in note and erratum.follows in note and erratum.why in note
        assert f"| {erratum.what} | {erratum.states} | {erratum.follows} |" in documented
    assert "except 94.8 %, which is rounded" in notes[0]


def test_only_the_papers_own_configs_stand_beside_it() -> None:
    assert paper.compares("paper_three_class") and not paper.compares("three_class")


def test_study_2_has_the_images_of_study_1() -> None:
    first, second = paper.STUDIES[2], paper.STUDIES[3]
    assert first.total[1] == sum(second.total[1:]) and first.total[0] - second.total[0] == 1
    assert second.head_epochs == 200 and first.outputs == 1


def test_printed_lookup() -> None:
    assert paper.printed(3, "mobilenet_v2", "test", "accuracy") == 94.8
    assert paper.printed(3, "mobilenet_v2", "test", "sensitivity") is None


@pytest.fixture(scope="module")
def text(shared_data: Path) -> str:
    path = shared_data / "seed" / "akay2021_ssc_mobilenetv2.txt"
    if not path.is_file():
        # Optional: the paper's text is not part of the project.
        pytest.skip(f"no text of the paper: {path} does not exist")
    return path.read_text(encoding="utf-8")


def test_no_percentage_of_the_text_is_missing(text: str) -> None:
    in_text = Counter(float(figure) for figure in re.findall(r"(\d+\.\d)%", text))
    ours = Counter(entry.percent for entry in paper.PRINTED)
    ours.update(entry.in_abstract for entry in paper.PRINTED if entry.in_abstract is not None)
    assert in_text == ours


def test_sensitivities_and_specificities_of_the_text(text: str) -> None:
    found = re.findall(
        r"diagnosed (\d+) of (\d+) SSc image sets and misdiagnosed (\d+) of them, yielding a "
        r"sensitivity of ([\d.]+)%.*?(\d+) out of (\d+) normal.*?specificity of ([\d.]+)% and an "
        r"overall accuracy of ([\d.]+)%",
        text,
        flags=re.DOTALL,
    )
    pairs = [(model, split) for model in paper.MODELS for split in ("val", "test")]
    assert len(found) == len(pairs)
    for (model, split), figures in zip(pairs, found, strict=True):
        entry = paper.result(2, model, split)
        (normal, false_alarms), (missed, ssc) = entry.confusion
        assert figures == (
            str(ssc),
            str(ssc + missed),
            str(missed),
            str(paper.sensitivity(entry, 1)),
            str(normal),
            str(normal + false_alarms),
            str(paper.specificity(entry, 1)),
            str(paper.accuracy(entry)),
        )


def test_confusions_of_the_text(text: str) -> None:
    """Every `a out of b <class> ... misclassified as <class>` of study 2, in order."""
    study_2 = text[text.index("B. Study 2") : text.index("IV. DISCUSSION")]
    found = re.findall(
        r"(\d+) out of (\d+) (normal|early|late)[^,.]*? misclassified as (normal|early|late)",
        study_2,
    )
    classes = paper.STUDIES[3].classes
    expected: Counter[tuple[str, str, str, str]] = Counter()
    for entry in paper.RESULTS:
        if entry.num_classes == 3:
            for true, row in enumerate(entry.confusion):
                for called, count in enumerate(row):
                    if count and true != called:
                        wrong = (str(count), str(sum(row)), classes[true], classes[called])
                        expected[wrong] += 1
    assert Counter(found) == expected


def test_parameters_of_the_text(text: str) -> None:
    for study in paper.STUDIES.values():
        for figure in (study.parameters, study.kept, study.fine_tuned):
            assert f"{figure} parameters" in text
