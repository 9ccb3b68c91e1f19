"""The program that compares runs: the same images or one clear error; the paper's table by hand."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prediction_tables import two_tables, write_run

from sscjax.cli import compare as cli_compare
from sscjax.errors import UserError
from sscjax.evaluation import calibration, metrics, paired_tests
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import compare, run_predictions
from sscjax.reports import comparison
from sscjax.system import formatting, terminal


@pytest.fixture
def tables() -> tuple[Predictions, Predictions]:
    return two_tables(3, (5, 4, 4), images=3, gain=0.5)


def _program(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["compare", *map(str, arguments)])
    return terminal.call(cli_compare.main)


def test_the_papers_table() -> None:
    """By hand: of three classes, test, 182 and 168 of 192 are right."""
    found = {(one["num_classes"], one["split"]): one for one in compare.compare_paper()}
    assert list(found) == [(2, "val"), (2, "test"), (3, "val"), (3, "test")]
    three = found[3, "test"]
    assert (three["first"], three["second"], three["n"]) == (182, 168, 192)
    assert three["difference"] == pytest.approx(14 / 192)
    two = found[2, "test"]
    assert (two["first"], two["second"], two["n"]) == (179, 156, 188)
    for entry in found.values():
        low, high = entry["interval"]
        assert low < entry["difference"] < high and not any(key[:1] == "p" for key in entry)


def test_the_papers_table_stands_beside_the_papers_configs_alone(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    """Of two runs both must follow it; a cross-validation names its config in its own record."""
    runs = {}
    for name, record, config in (
        ("own", "run.json", "three_class"),
        ("paper", "run.json", "paper_three_class"),
        ("folds", "protocol.json", "paper_cnn_three_class"),
    ):
        folder = write_run(tmp_path / name, tables[0])
        (folder / record).write_text(json.dumps({"config": {"name": config}}), encoding="utf-8")
        runs[name] = run_predictions.read_run(folder, "test")
    assert [run.config for run in runs.values()] == [
        *("three_class", "paper_three_class", "paper_cnn_three_class"),
    ]
    both = compare.compare_runs([runs["paper"], runs["folds"]], "test")
    assert len(both["paper"]) == 4 and "The paper's own comparison" in comparison.terminal(both)
    mixed = compare.compare_runs([runs["paper"], runs["own"]], "test")
    assert mixed["paper"] == [] and "own comparison" not in comparison.terminal(mixed)


def test_whole_program(
    tmp_path: Path,
    tables: tuple[Predictions, Predictions],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three runs, one by its stage and with its rows in another order; JSON, Markdown, terminal."""
    first, second = tables
    one = write_run(tmp_path / "one", first, hashes={f: "ab" for f in first.files.tolist()})
    back = np.arange(len(second))[::-1]
    two = write_run(tmp_path / "two", second)
    second.take(back).write_csv(two / "stages" / "head" / "predictions.csv")
    three = write_run(tmp_path / "a|b", two_tables(8, (5, 4, 4), images=3)[0])
    shuffled = dataclasses.replace(first, probabilities=np.roll(first.probabilities, 1, axis=0))
    shuffled.write_csv(three / "predictions.csv")
    code = _program(
        monkeypatch,
        *(one, two / "stages" / "head", three / "predictions.csv"),
        *(f"--json={tmp_path / 'c.json'}", f"--markdown={tmp_path / 'c.md'}"),
    )
    printed = capsys.readouterr().out
    assert code == 0 and printed.isascii()
    assert max(map(len, printed.splitlines())) <= formatting.WIDTH
    assert printed.startswith("These runs: 39 images of 13 subjects")
    assert "the same by name alone" in printed
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert found["n"] == 39 and found["n_subjects"] == 13 and not found["same_pixels"]
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert list(pairs) == [("A", "B"), ("A", "C"), ("B", "C")]
    # Rows in another order are put in order: the same as the tables as they were.
    left, right = (table.take(np.argsort(table.files)) for table in tables)
    direct = paired_tests.compare(left, right, ordered=True)
    for entry, wanted in zip(pairs["A", "B"]["image"]["figures"], direct["figures"], strict=True):
        assert {key: entry[key] for key in wanted} == wanted
    # All that is tabulated: 3 pairs, 2 units, 5 figures and the areas of 3 classes.
    entries = [
        e for p in found["pairs"] for unit in ("image", "subject") for e in p[unit]["figures"]
    ]
    assert found["tests"] == len(entries) == 3 * 2 * 8
    entries.sort(key=lambda entry: entry["p"])
    steps = [(48 - rank) * entry["p"] for rank, entry in enumerate(entries)]
    expected = np.minimum(np.maximum.accumulate(steps), 1)
    assert [entry["p_holm"] for entry in entries] == pytest.approx(expected.tolist())
    text = (tmp_path / "c.md").read_text("utf-8")
    assert "a\\|b" in text and text.count("|---|") == 6
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line[:1] == "|"]
    assert set(widths) == {8}  # seven columns


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"files": "other"}, "39 only in the first, 39 only in the second"),
        ({"labels": 1}, r"differ in the label of 39 images: .*\.png \(\w+ and \w+\)"),
        ({"subjects": "nobody"}, "differ in the subject of 39 images"),
    ],
)
def test_other_images_are_refused(
    tmp_path: Path,
    tables: tuple[Predictions, Predictions],
    change: dict[str, str | int],
    expected: str,
) -> None:
    first, second = tables
    [(name, value)] = change.items()
    old = getattr(second, name)
    new = (old + value) % 3 if name == "labels" else np.char.add(old, str(value))
    columns: dict[str, Any] = {name: new}
    other = dataclasses.replace(second, **columns)
    runs = [
        run_predictions.read_run(write_run(tmp_path / place, one), "test")
        for place, one in (("one", first), ("two", other))
    ]
    with pytest.raises(UserError, match=expected):
        compare.align(runs, intersection=False)


def test_same_names_with_other_contents_are_refused(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    names = tables[0].files.tolist()
    hashes = {name: f"{index:064d}" for index, name in enumerate(names)}
    runs = []
    for place, one in zip(("one", "two"), tables, strict=True):
        runs.append(
            run_predictions.read_run(write_run(tmp_path / place, one, hashes=hashes), "test")
        )
        hashes = {**hashes, names[4]: "f" * 64}
    assert compare.compare_runs(compare.align([runs[0]] * 2, False), "test")["same_pixels"]
    with pytest.raises(UserError, match=f"in the content of 1 images: {names[4]}"):
        compare.align(runs, intersection=False)


def test_intersection_only_when_asked_for(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    first, second = tables
    runs = [
        run_predictions.read_run(write_run(tmp_path / place, one), "test")
        for place, one in (
            ("one", first.take(np.arange(30))),
            ("two", second.take(np.arange(9, 39))),
        )
    ]
    with pytest.raises(UserError, match="compare the 21 that both have by --intersection"):
        compare.align(runs, intersection=False)
    one, two = (run.predictions for run in compare.align(runs, intersection=True))
    assert len(one) == 21 and one.files.tolist() == two.files.tolist()
    runs[1] = dataclasses.replace(runs[1], predictions=second.take(np.arange(30, 39)))
    with pytest.raises(UserError, match="no image in common"):
        compare.align(runs, intersection=True)


def _with_answers(folder: Path, table: Predictions, temperature: float) -> Predictions:
    """Write what a run with a geometric mean and this temperature writes; its subjects' rows."""
    write_run(folder, table)
    subjects = calibration.apply(table.by_subject("geometric"), temperature)
    subjects.write_csv(folder / "predictions_by_subject.csv")
    rules = {"aggregation": "geometric", "subject": {"temperature": temperature}}
    content = {"rules": rules, "subject_label": "majority"}
    (folder / "calibration.json").write_text(json.dumps(content), encoding="utf-8")
    return subjects


def test_subjects_are_compared_by_the_answers_of_the_runs(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    """Aggregated and calibrated as each run does it, not by plain means."""
    wanted = [
        _with_answers(tmp_path / place, table, temperature)
        for place, table, temperature in zip("ab", tables, (0.5, 2.0), strict=True)
    ]
    found = compare.compare_folders([tmp_path / "a", tmp_path / "b"], "test")
    order = np.argsort(wanted[0].files)
    direct = paired_tests.compare(wanted[0].take(order), wanted[1].take(order), ordered=True)
    assert found["pairs"][0]["subject"]["n"] == 13
    for entry, one in zip(found["pairs"][0]["subject"]["figures"], direct["figures"], strict=True):
        for key in ("first", "second", "p", "interval"):
            assert entry[key] == pytest.approx(one[key], abs=1e-5), (entry["name"], key)
    plain = metrics.figures(tables[0].by_subject(), True)["log_loss"]
    losses = {entry["name"]: entry["first"] for entry in direct["figures"]}
    assert abs(losses["log_loss"] - plain) > 0.01


def test_a_subject_of_whom_images_are_left_out_is_aggregated_again(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    """Of subjects of three images the fourth loses two, the first three lose all."""
    whole = _with_answers(tmp_path / "a", tables[0], 0.5)
    _with_answers(tmp_path / "b", tables[1].take(np.arange(11, 39)), 0.5)
    runs = [run_predictions.read_run(tmp_path / place, "test") for place in "ab"]
    first, second = compare.align(runs, intersection=True)
    assert first.subjects.subjects.tolist() == second.subjects.subjects.tolist()
    assert len(first.subjects) == 10
    known = dict(zip(whole.subjects.tolist(), whole.probabilities, strict=True))
    for name, row in zip(
        first.subjects.subjects.tolist(), first.subjects.probabilities, strict=True
    ):
        if name == "subject 3":
            [image] = calibration.calibrate(tables[0].probabilities[11:12], 0.5)
            np.testing.assert_allclose(row, image, atol=1e-6)
        else:
            np.testing.assert_allclose(row, known[name], atol=1e-6)


def test_subjects_of_other_labels_or_images_are_refused(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    subjects = _with_answers(tmp_path / "a", tables[0], 1.0)
    _with_answers(tmp_path / "b", tables[1], 1.0)
    changed = dataclasses.replace(subjects, labels=np.roll(subjects.labels, 5))
    changed.write_csv(tmp_path / "b" / "predictions_by_subject.csv")
    with pytest.raises(UserError, match=r"the same config\.data\.subject_label"):
        compare.compare_folders([tmp_path / "a", tmp_path / "b"], "test")
    names = np.char.add(subjects.subjects, "x")
    dataclasses.replace(subjects, subjects=names, files=names).write_csv(
        tmp_path / "b" / "predictions_by_subject.csv"
    )
    with pytest.raises(UserError, match="has the subject subject 0x, unlike"):
        run_predictions.read_run(tmp_path / "b", "test")
    (tmp_path / "b" / "calibration.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="calibration.json is damaged"):
        run_predictions.read_run(tmp_path / "b", "test")


def test_unused_outputs_of_one_model(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    """Four outputs for three classes against three: the figures of both stay what they were."""
    first, second = tables
    wide = np.concatenate([0.9 * second.probabilities, np.full((39, 1), 0.1)], axis=1)
    names = (*second.classes, "unused")
    second = dataclasses.replace(second, probabilities=wide, classes=names)
    runs = [
        run_predictions.read_run(write_run(tmp_path / place, one), "test")
        for place, one in (("one", first), ("two", second))
    ]
    pair = [run.predictions for run in compare.align(runs, intersection=False)]
    assert pair[0].classes == names
    found = paired_tests.compare(pair[0], pair[1], ordered=True)
    for place, one in (("first", first), ("second", second)):
        expected = metrics.figures(one, ordered=True)
        for entry in found["figures"][: len(metrics.OVERALL)]:
            assert entry[place] == pytest.approx(expected[entry["name"]])


def test_classes_in_another_order_have_no_kappa(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    first, second = tables
    turned = dataclasses.replace(
        second,
        labels=2 - second.labels,
        probabilities=second.probabilities[:, ::-1],
        classes=second.classes[::-1],
    )
    runs = [
        run_predictions.read_run(write_run(tmp_path / place, one), "test")
        for place, one in (("one", first), ("two", turned), ("three", second))
    ]
    pair = compare.align(runs[:2], intersection=False)
    assert pair[1].predictions.classes == first.classes and not pair[1].ordered
    assert pair[1].predictions.labels.tolist() == pair[0].predictions.labels.tolist()
    assert all(run.ordered for run in compare.align([runs[0], runs[2]], intersection=False))


def test_classes_of_another_spelling_are_the_same_and_others_are_named(
    tmp_path: Path, tables: tuple[Predictions, Predictions], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tables
    shouted = tuple(name.upper() for name in second.classes)
    names = (*second.classes[:-1], "something")
    runs = [
        run_predictions.read_run(write_run(tmp_path / str(k), table), "test")
        for k, table in enumerate(
            (first, *(dataclasses.replace(second, classes=known) for known in (shouted, names)))
        )
    ]
    plain = run_predictions.read_run(write_run(tmp_path / "plain", second), "test")
    wanted = compare.compare_runs(compare.align([runs[0], plain], False), "test")
    found = compare.compare_runs(compare.align(runs[:2], False), "test")
    assert found["pairs"] == wanted["pairs"] and found["classes"] == list(first.classes)
    assert caplog.text.count("they differ only in capitals") == 3
    with pytest.raises(UserError, match="has no image of something; compare runs of one"):
        compare.align([runs[0], runs[2]], False)


def test_of_a_protocol_s_repeats_the_first_counts(
    tmp_path: Path, tables: tuple[Predictions, Predictions]
) -> None:
    """Repeat after repeat in its table; without the protocol's record it is some table."""
    once, again = tables
    both = write_run(tmp_path / "both", Predictions.join([once, again]))
    with pytest.raises(UserError, match="expected once"):
        run_predictions.read_run(both, "test")
    (both / "protocol.json").write_text("{}", encoding="utf-8")
    found = run_predictions.read_run(both, "test").predictions
    assert found.files.tolist() == once.files.tolist()
    np.testing.assert_allclose(found.probabilities, once.probabilities, atol=1e-6)
    stage = write_run(both / "stages" / "head", Predictions.join([once, again]))
    assert len(run_predictions.read_run(stage, "test").predictions) == len(once)
    # Every image twice, but not in turn: hold-outs, of which none has them all.
    mixed = Predictions.join([once, again]).take(np.repeat(np.arange(len(once)), 2))
    write_run(both, mixed)
    with pytest.raises(UserError, match="expected once"):
        run_predictions.read_run(both, "test")


def test_mistakes_are_one_line(
    tmp_path: Path,
    tables: tuple[Predictions, Predictions],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = write_run(tmp_path / "one", tables[0])
    twice = write_run(tmp_path / "twice", tables[0].take(np.array([0, 1, 1])))
    for arguments, expected in (
        ((run,), "1 run given"),
        ((run, tmp_path / "none"), "none holds no predictions.csv"),
        ((run, run, "--split=val"), "no rows of the split 'val'"),
        ((run, twice), "2 times in the split 'test', expected once"),
    ):
        assert _program(monkeypatch, *arguments) == terminal.USER_ERROR
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1


def test_p_values_keep_their_digits() -> None:
    shown = [comparison.p_value(value) for value in (None, 1.0, 0.0496, 0.0021, 0.00002)]
    assert shown == ["-", "1.000", "0.050", "0.0021", "<0.0001"]
