"""Tables read back as text, events through TensorBoard's schema."""

from __future__ import annotations

import errno
import importlib
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_figures import curve_rows

from sscjax.evaluation import intervals, metrics
from sscjax.evaluation.predictions import Predictions
from sscjax.reports import paper, tables, tensorboard
from sscjax.system import formatting

LONG_NAMES = (
    "adipose",
    "background",
    "debris",
    "lymphocytes",
    "mucus",
    "smooth muscle tissue of the colon",
    "normal mucosa",
    "stroma (cancer associated)",
    "adenocarcinoma",
    "other $x_1$ ünï",
)


def predictions_of(confusion: paper.Confusion, classes: tuple[str, ...], split: str) -> Predictions:
    """A table with this confusion matrix; two images a subject."""
    labels = [t for t, row in enumerate(confusion) for count in row for _ in range(count)]
    called = [p for row in confusion for p, count in enumerate(row) for _ in range(count)]
    probabilities = np.full((len(labels), len(classes)), 0.1 / (len(classes) - 1))
    probabilities[np.arange(len(labels)), called] = 0.9
    return Predictions(
        files=np.array([f"{index}.png" for index in range(len(labels))]),
        subjects=np.array([f"{label}-{index // 2}" for index, label in enumerate(labels)]),
        splits=np.array([split] * len(labels)),
        labels=np.array(labels),
        probabilities=probabilities,
        classes=classes,
    )


def by_split(num_classes: int, model: str, **rename: str) -> dict[str, dict[str, Any]]:
    """The paper's own results as if they were a run's."""
    classes = tuple(rename.get(name, name) for name in paper.STUDIES[num_classes].classes)
    result: dict[str, dict[str, Any]] = {}
    for split in ("val", "test"):
        entry = paper.result(num_classes, model, split)
        table = predictions_of(entry.confusion, classes, split)
        result.update(metrics.figures_by_split(table, ordered=num_classes > 2))
    return result


def cells(line: str) -> list[str]:
    """The columns of an aligned line, which two blanks or more keep apart."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_results_table() -> None:
    run = by_split(3, "mobilenet_v2")
    overall, val, test = tables.results_table(run).split("\n\n")
    heading, *rows = map(cells, overall.splitlines())
    assert heading[:5] == ["split", "per", "n", "accuracy", "balanced"]
    assert [row[:2] for row in rows] == [
        ["val", "subject"],
        ["val", "image"],
        ["test", "subject"],
        ["test", "image"],
    ]
    figures_ = run["test"]["image"]
    assert rows[3][2:7] == [
        "192",
        "94.8 %",
        f"{100 * (103 / 104 + 41 / 49 + 38 / 39) / 3:.1f} %",
        f"{figures_['macro_auroc']:.3f}",
        f"{figures_['quadratic_kappa']:.3f}",
    ]
    assert cells(test.splitlines()[0])[0] == "test" and cells(val.splitlines()[0])[0] == "val"
    early = cells(test.splitlines()[2])
    assert early[-3:] == ["49", f"{100 * 41 / 49:.1f} %", f"{100 * 141 / 143:.1f} %"]


def test_results_table_shows_what_there_is() -> None:
    run = by_split(2, "cnn")
    del run["val"]
    run["test"]["subject"]["macro_auroc"] = None
    overall = tables.results_table(run, splits=("train", "val", "test")).split("\n\n")[0]
    row = cells(overall.splitlines()[1])
    # Two classes are no scale: no kappa.
    assert row[0] == "test" and row[5:7] == ["-", "-"]
    assert "val" not in overall and "train" not in overall


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_tables_fit_a_terminal(num_classes: int) -> None:
    rng = np.random.default_rng(num_classes)
    names = LONG_NAMES[-num_classes:]
    confusion = tuple(map(tuple, rng.integers(0, 100, (num_classes, num_classes)).tolist()))
    table = predictions_of(confusion, names, "test")
    run = metrics.figures_by_split(table, ordered=True)
    many = [[1000 + count for count in row] for row in confusion]
    for text in (tables.results_table(run), tables.confusion_text(many, names)):
        assert max(map(len, text.splitlines())) <= formatting.WIDTH


def test_a_wide_table_is_divided() -> None:
    rows = [["name", *(f"figure {k}" for k in range(12))]]
    rows.append(["a", *(str(k) for k in range(12))])
    blocks = formatting.align(rows, together=2).split("\n\n")
    assert len(blocks) == 2 and all(block.startswith("name  figure") for block in blocks)
    assert max(len(line) for block in blocks for line in block.splitlines()) <= 80
    shown = [cell for block in blocks for cell in cells(block.splitlines()[1])[1:]]
    assert shown == [str(k) for k in range(12)]


def test_intervals_table() -> None:
    """Every value with the interval that `intervals` gives, per subject and per image."""
    confusion = ((7, 1), (2, 6))
    table = predictions_of(confusion, ("normal", "ssc"), "test")
    values = metrics.figures_by_split(table, ordered=False)
    ranges = intervals.test_figures(table, ordered=False)
    text = tables.intervals_table(values["test"], ranges, "Intervals by subject (8).")
    lines = text.splitlines()
    assert lines[0].split() == [
        *("test,", "per", "subject", "95", "%", "interval", "image", "95", "%", "interval")
    ]
    low, high = ranges["image"]["accuracy"]
    span = f"{100 * low:.1f} to {100 * high:.1f} %"
    assert lines[1].startswith("accuracy") and "81.2 %" in lines[1] and span in lines[1]
    assert lines[4].split() == ["quadratic", "kappa", "-", "-", "-", "-"]
    rest = ("sensitivity", "specificity", "PPV", "NPV", "F1", "AUROC", "average precision")
    names = ["Brier score", "calibration error"]
    names += [f"{name} {label}" for name in rest for label in ("normal", "ssc")]
    assert [line.partition("  ")[0] for line in lines[6:22]] == names
    low, high = ranges["subject"]["per_class"][1]["sensitivity"]
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in lines[9]
    assert "\nIntervals by subject (8).\n" in text
    # The method and its source, with the figures that are by it.
    notes = " ".join(text.partition("Intervals by subject (8).\n")[2].split())
    for method in set(ranges["image"]["methods"].values()):
        assert f"{method}: " in notes
    assert "(Zou and Donner 2008): accuracy, balanced accuracy, " in notes
    assert "the score interval of Newcombe 2006: macro AUROC, AUROC" in notes


def test_intervals_table_of_an_earlier_version() -> None:
    """Runs that have no PPV, Brier score or methods are shown without."""
    table = predictions_of(((7, 1), (2, 6)), ("normal", "ssc"), "test")
    values = metrics.figures_by_split(table, ordered=False)["test"]
    ranges = intervals.test_figures(table, ordered=False)
    for content in (*values.values(), *ranges.values()):
        for name in ("brier", "ece", "methods", "reasons"):
            content.pop(name, None)
        for entry in content["per_class"]:
            entry.pop("npv")
            entry.pop("average_precision")
    lines = tables.intervals_table(values, ranges, "").splitlines()
    assert not any(line.startswith(("NPV", "Brier", "average")) for line in lines)
    assert any(line.startswith("PPV ssc") for line in lines)
    assert not any("Zou and Donner" in line for line in lines)


def test_intervals_table_fits_a_terminal() -> None:
    table = predictions_of(tuple((2,) * 10 for _ in range(10)), LONG_NAMES, "test")
    values = metrics.figures_by_split(table, ordered=True)
    ranges = intervals.test_figures(table, ordered=True)
    text = tables.intervals_table(values["test"], ranges, "")
    assert max(map(len, text.splitlines())) <= formatting.WIDTH


def test_confusion_text() -> None:
    text = tables.confusion_text([[9, 1, 0], [2, 6, 0], [0, 0, 0]], ["normal", "early", "late"])
    assert [cells(line) for line in text.splitlines()] == [
        ["true \\ predicted", "normal", "early", "late", "right"],
        ["normal", "9", "1", "0", "90.0 %"],
        ["early", "2", "6", "0", "75.0 %"],
        ["late", "0", "0", "0", "-"],
    ]


def test_wide_confusion_text_numbers_its_columns() -> None:
    text = tables.confusion_text(np.eye(10, dtype=int).tolist(), LONG_NAMES)
    heading, first, *_, last = map(cells, text.splitlines())
    assert heading[1:11] == [str(number) for number in range(1, 11)]
    assert first[0] == "1 adipose" and last[0].startswith("10 other")


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("model", paper.MODELS)
def test_paper_table_against_itself(num_classes: int, model: str) -> None:
    """A run with the paper's counts: the same fractions, and percentages that differ by 0.1."""
    run = by_split(num_classes, model)
    text = tables.paper_table(num_classes, model, run, split_by="image", synthetic=False)
    assert paper.MODEL_TITLES[model] in text.splitlines()[0]
    body = text.split("\n\n")[1].splitlines()[1:]
    assert len(body) == 2 * (3 if num_classes == 2 else 7)
    for line in body:
        theirs, their_images, ours, our_images = cells(line)[-4:]
        assert their_images == our_images
        assert 0 <= float(ours.rstrip(" %")) - float(theirs.rstrip(" %")) < 0.11


def test_paper_table_prints_the_paper_s_figures() -> None:
    run = by_split(2, "mobilenet_v2")
    text = tables.paper_table(2, "mobilenet_v2", run, split_by="image", synthetic=False)
    body = [cells(line) for line in text.split("\n\n")[1].splitlines()[1:]]
    assert body[3][:4] == ["test", "accuracy", "95.2 %", "179/188"]
    assert body[4][:3] == ["sensitivity ssc", "95.2 %", "80/84"]
    assert body[5][:3] == ["specificity ssc", "95.1 %", "99/104"]
    text = tables.paper_table(
        3, "mobilenet_v2", by_split(3, "mobilenet_v2"), split_by="image", synthetic=False
    )
    assert "94.8 %  182/192" in text


def test_paper_table_matches_classes_by_name() -> None:
    run = by_split(3, "cnn", early="gleason 3", late="Late")
    text = tables.paper_table(3, "cnn", run, split_by="subject", synthetic=False)
    assert "sensitivity early" not in text and "sensitivity late" in text


def test_paper_table_with_an_unused_output() -> None:
    entry = paper.result(3, "cnn", "test")
    table = predictions_of(entry.confusion, ("normal", "early", "late", "unused"), "test")
    run = metrics.figures_by_split(table, ordered=True)
    text = tables.paper_table(3, "cnn", run, split_by="image", synthetic=False)
    assert cells(text.split("\n\n")[1].splitlines()[1])[-1] == "168/192"


def test_paper_table_says_what_cannot_be_compared() -> None:
    run = by_split(3, "cnn")
    notes = {
        (split_by, synthetic): tables.paper_table(
            3, "cnn", run, split_by=split_by, synthetic=synthetic
        ).split("\n\n")[-1]
        for split_by in ("subject", "image")
        for synthetic in (True, False)
    }
    assert "copies of one biopsy" in notes["subject", False]
    assert "synthetic" in notes["image", True] and "synthetic" in notes["subject", True]
    assert "synthetic" not in notes["image", False]
    assert "Not comparable" not in notes["image", False]
    assert "overstate" in notes["image", False] and "overstate" not in notes["subject", True]


def test_paper_table_without_a_counterpart() -> None:
    run = by_split(3, "cnn")
    text = tables.paper_table(10, "cnn", run, split_by="subject", synthetic=False)
    assert text == "The paper has no study of 10 classes to set beside this run."
    text = tables.paper_table(3, "fd_unet", run, split_by="subject", synthetic=False)
    assert "no results of fd_unet" in text and "\n" not in text


def test_parameter_line_is_the_paper_s() -> None:
    study = paper.STUDIES[3]
    layers = ("Conv1", "bn_Conv1", "block_1_expand_BN")
    assert tables.parameter_line(study.kept, study.fine_tuned, layers) == (
        "frozen 37,664 parameters (layers Conv1 to block_1_expand_BN), trained 2,225,444"
    )
    assert tables.parameter_line(34_112, 5) == (
        "frozen 34,112 parameters (moving averages of BatchNorm), trained 5"
    )
    assert tables.parameter_line(0, 5) == "frozen 0 parameters, trained 5"
    assert "(layer Conv1)" in tables.parameter_line(1, 5, ("Conv1",))


def read_events(path: Path) -> list[Any]:
    """Through TensorBoard's own schema and checksum as tensorboardX carries them."""
    event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
    masked_crc = importlib.import_module("tensorboardX.record_writer").masked_crc32c
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc(data[:8])
        payload = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc(payload)
        events.append(event_pb2.Event.FromString(payload))
        data = data[16 + length :]
    return events


def scalars(path: Path | None) -> dict[str, list[tuple[int, float]]]:
    assert path is not None
    result: dict[str, list[tuple[int, float]]] = {}
    for event in read_events(path)[1:]:
        (value,) = event.summary.value
        result.setdefault(value.tag, []).append((event.step, value.simple_value))
    return result


def test_event_log(tmp_path: Path) -> None:
    rows = curve_rows(200, 100)
    with tensorboard.EventLog(tmp_path) as log:
        for row in rows:
            log.add(row)
        # Already on disk, as a killed run would leave it.
        assert len(scalars(log.path)["train/loss"]) == 300
    log.close()
    assert log.path is not None
    first, *rest = read_events(log.path)
    assert first.file_version == "brain.Event:2"
    assert all(event.wall_time > 1.6e9 for event in rest)
    found = scalars(log.path)
    tags = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "run/learning_rate")
    assert set(found) == set(tags)
    for tag in tags:
        key = tag.removeprefix("run/").replace("/", "_")
        assert found[tag] == [(row["epoch"], float(np.float32(row[key]))) for row in rows]


def test_event_log_resumes_without_doubled_points(tmp_path: Path) -> None:
    rows = curve_rows()
    with tensorboard.EventLog(tmp_path / "events") as log:
        for row in rows[:7]:
            log.add(row)
    # Killed after 7 epochs were logged, of which the last checkpoint knows 5.
    with tensorboard.EventLog(tmp_path / "events", rows[:5]) as log:
        for row in rows[5:]:
            log.add(row)
    (only,) = (tmp_path / "events").iterdir()
    assert "tfevents" in only.name
    assert [step for step, _ in scalars(only)["val/accuracy"]] == list(range(1, 11))


def test_event_log_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    row = {"epoch": 1, "stage": "head", "val_loss": None, "is_best": True, "train_loss": 0.5}
    with tensorboard.EventLog(tmp_path, [row]) as log:
        pass
    assert scalars(log.path) == {"train/loss": [(1, 0.5)]}


def test_without_tensorboardx_no_folder_is_written_and_one_line_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)  # as Python does where it is missing
    tensorboard._library.cache_clear()
    try:
        with caplog.at_level("DEBUG"):
            for _ in range(2):  # a run has several stages
                with tensorboard.EventLog(tmp_path / "tensorboard", curve_rows(2, 0)) as log:
                    log.add(curve_rows(1, 0)[0])
    finally:
        tensorboard._library.cache_clear()
    assert log.path is None and not list(tmp_path.iterdir())
    (line,) = caplog.records
    assert line.levelname == "INFO" and "pip install 'sscjax[tensorboard]'" in line.getMessage()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_is_said_once(tmp_path: Path) -> None:
    """Closing, too, would fail: what comes out is the error of the first write, and no other."""
    with pytest.raises(OSError) as caught, tensorboard.EventLog(tmp_path) as log:
        assert log.path is not None
        log._writer._writer.close()
        log._writer._writer = open("/dev/full", "wb")
        log.add(curve_rows(1, 0)[0])
    assert caught.value.errno == errno.ENOSPC and caught.value.__context__ is None
