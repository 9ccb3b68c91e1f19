"""The page: well-formed, whole, its figures those of metrics.json, deaf to what names contain."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import html5lib
import numpy as np
import pytest
from small_runs import one_stage_config

from sscjax.configs import default
from sscjax.data import understood
from sscjax.data.listing import ImageRecord
from sscjax.evaluation import intervals, metrics, predictions
from sscjax.evaluation.map_check import Check, Maps
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import single_run
from sscjax.reports import html
from sscjax.reports.html import checklists, method, render
from sscjax.system import formatting

pytestmark = pytest.mark.usefixtures("quick_compiler")

Element = ElementTree.Element
HTML, SVG = "{http://www.w3.org/1999/xhtml}", "{http://www.w3.org/2000/svg}"

# What file names and labels may hold, and must not do anything.
NASTY = (
    '<script>alert("x")</script>',
    'it\'s "quoted" & <b>bold</b>',
    "two\nlines\tand tab",
    "turned \u202etxt.exe\u2066",
    "{{ 7 * 7 }} {% raw %}",
    "مريض | `code` [a](javascript:alert(1))",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real run, of the embedded synthetic set."""
    folder = tmp_path_factory.mktemp("page") / "run"
    single_run.run(one_stage_config(), folder, command=["--config=configs/smoke.py", "--fresh"])
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copy"))


def parse(folder: Path) -> Element:
    """The page as a tree; any error of its syntax is an exception."""
    text = (folder / html.PAGE).read_text(encoding="utf-8")
    return html5lib.HTMLParser(html5lib.getTreeBuilder("etree"), strict=True).parse(text)


def all_of(root: Element, *tags: str) -> Iterator[Element]:
    return (one for one in root.iter() if one.tag in {HTML + tag for tag in tags})


def text_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def section(root: Element, key: str) -> Element:
    return next(one for one in all_of(root, "section") if one.get("id") == key)


def table_rows(root: Element, caption: str) -> list[list[str]]:
    """The cells of the table with this caption, its heading first."""
    for table in all_of(root, "table"):
        if text_of(next(all_of(table, "caption"))) == caption:
            return [
                [text_of(cell) for cell in all_of(row, "th", "td")] for row in all_of(table, "tr")
            ]
    raise AssertionError(f"no table {caption!r}")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


# ---- the page as a document ---------------------------------------------------------------------


def test_run_ends_with_a_well_formed_page(run: Path) -> None:
    root = parse(run)
    assert root.get("lang") == "en"
    ids = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(ids) == len(set(ids))
    for link in all_of(root, "a"):
        assert str(link.get("href")).removeprefix("#") in ids, link.get("href")
    shown = [one.get("id") for one in all_of(root, "section") if one.get("id")]
    # Neither masks, nor folds, nor the paper's own config.
    others = ("masks", "labels", "paper")
    assert shown == [key for key, _, _ in render.SECTIONS if key not in others]
    levels = [int(one.tag[-1]) for one in all_of(root, "h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert len(list(all_of(root, "main"))) == len(list(all_of(root, "nav"))) == 1


def test_everything_has_a_text_for_those_who_do_not_see_it(run: Path) -> None:
    root = parse(run)
    pictures = list(all_of(root, "img"))
    assert pictures and all(one.get("alt") for one in pictures)
    drawn = [one for one in root.iter(SVG + "svg") if one.get("role") == "img"]
    assert len(drawn) >= 2
    for svg in drawn:
        names = str(svg.get("aria-labelledby")).split()
        found = {one.get("id"): one.text for one in svg if one.tag in (SVG + "title", SVG + "desc")}
        assert set(found) == set(names) and all(found.values())
    for table in all_of(root, "table"):
        assert text_of(next(all_of(table, "caption")))
        assert all(cell.get("scope") in ("col", "row") for cell in all_of(table, "th"))


def test_page_loads_nothing(run: Path) -> None:
    root = parse(run)
    assert not list(all_of(root, "script", "link", "iframe", "object", "embed", "base", "form"))
    for one in root.iter():
        for name in ("src", "href", "srcset", "data", "action", "poster", "background"):
            value = one.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,")), value
        assert not [name for name in one.attrib if name.startswith("on")]
    style = "".join(text_of(one) for one in all_of(root, "style"))
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert len((run / html.PAGE).read_bytes()) < 400_000


def test_figures_are_those_of_the_run(run: Path) -> None:
    root, kept = parse(run), json.loads((run / "metrics.json").read_text("utf-8"))
    figures, ranges = kept["splits"]["test"], kept["test_intervals"]
    rows = {row[0]: row[1:] for row in table_rows(root, "Test figures with 95 % intervals")}
    for column, unit in ((0, "subject"), (2, "image")):
        assert rows["accuracy"][column] == formatting.percent(figures[unit]["accuracy"])
        interval = formatting.span("accuracy", ranges[unit]["accuracy"])
        assert rows["accuracy"][column + 1] == interval
        assert rows["macro AUROC"][column] == formatting.number(figures[unit]["macro_auroc"])
        for entry in figures[unit]["per_class"]:
            found = rows[f"sensitivity {entry['name']}"][column]
            assert found == formatting.percent(entry["sensitivity"])
    for title, unit in (("Test, subjects", "subject"), ("Test, images", "image")):
        matrix = table_rows(root, title)
        counts = [[int(cell.split()[0]) for cell in row[1:]] for row in matrix[1:]]
        assert counts == figures[unit]["confusion"]
    # One test subject of each class: a curve would show these three alone.
    assert "a curve would show these few alone" in text_of(section(root, "curves"))
    flow = text_of(section(root, "data"))
    assert "in 1 copy of each training image, made after the split (stage head)" in flow
    table = Predictions.read_csv(run / "predictions.csv")
    for split in predictions.SPLITS:
        chosen = table.where(split)
        assert f"{len(chosen)} images of {len(set(chosen.subjects.tolist()))} subjects" in flow


def test_subjects_and_provenance(run: Path) -> None:
    root = parse(run)
    table = Predictions.read_csv(run / "predictions.csv").where("test")
    subjects = Predictions.read_csv(run / "predictions_by_subject.csv").where("test")
    rows = {row[0]: row for row in table_rows(root, "Test subjects")[1:]}
    assert set(rows) == set(subjects.subjects.tolist())
    for index, name in enumerate(subjects.subjects.tolist()):
        right = subjects.predicted[index] == subjects.labels[index]
        own = table.subjects == name
        hits = int((table.predicted[own] == table.labels[own]).sum())
        assert rows[name][1] == ("right" if right else "wrong")
        assert rows[name][4] == formatting.percent(subjects.probabilities[index].max())
        assert rows[name][6] == f"{hits} of {own.sum()}"
    record = json.loads((run / "run.json").read_text("utf-8"))
    said = text_of(section(root, "provenance"))
    assert record["weights"]["sha256"] in said and record["data"]["fingerprint"] in said
    # Deleting the run first is no part of repeating it.
    command = next(all_of(section(root, "provenance"), "pre"))
    assert text_of(command) == "python -m sscjax.main --config=configs/smoke.py"
    stages = table_rows(root, "Stages in their order")
    assert stages[1][:2] == ["head", "2"]
    warned = text_of(next(all_of(root, "section")))
    assert "SYNTHETIC IMAGES" in warned


def test_what_is_said_where_the_last_epoch_is_taken(copy: Path) -> None:
    record = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    assert "Diamond: the epoch" in html.write(copy)[0].read_text(encoding="utf-8")
    record["config"]["select"]["metric"] = "none"
    record["config"]["model"] |= {"name": "fd_unet", "unet_block": "dense"}
    (copy / "run.json").write_text(json.dumps(record), encoding="utf-8")
    text = html.write(copy)[0].read_text(encoding="utf-8")
    assert "Diamond: the epoch" not in text and "The last epoch was kept" in text
    assert "Fully dense UNet, trained to classify" in text


def test_missing_parts_are_named(copy: Path) -> None:
    shutil.rmtree(copy / "explanations")
    for name in ("curves.csv", "audit.json", "calibration.json", "manifest.json"):
        (copy / name).unlink(missing_ok=True)
    html.write(copy)
    root = parse(copy)
    for key, file in (
        ("audit", "audit.json"),
        ("calibration", "calibration.json"),
        ("training", "curves.csv"),
        ("errors", "explanations/explanations.json"),
        ("provenance", "manifest.json"),
    ):
        assert f"there is no {file}" in text_of(section(root, key))
    assert "Calibration (not in this run)" in text_of(section(root, "checklists"))


@pytest.mark.parametrize("passed", [True, False, None])
def test_maps_are_shown_where_they_passed_their_check(copy: Path, passed: bool | None) -> None:
    if passed is None:
        (copy / "maps.json").unlink()
    else:
        maps = Maps(
            "hires_cam", ("conv1_2_relu",), Check((0.9 if passed else 0.1,) * 8, (0.1,) * 8)
        )
        write_json(copy / "maps.json", maps.to_json())
    html.write(copy)
    errors = section(parse(copy), "errors")
    index = json.loads((copy / "explanations" / "explanations.json").read_text("utf-8"))
    expected = sum(1 + len(entry["maps"]) * bool(passed) for entry in index["images"])
    assert len(list(all_of(errors, "img"))) == expected
    said = text_of(errors)
    assert ("HiResCAM of conv1_2_relu: yellow" in said) == bool(passed)
    assert ("maps are not shown" in said) == (not passed)
    words = {True: "Passed: maps agree with occlusion on 8", False: "Failed", None: "not checked"}
    assert words[passed] in said


def test_made_anew_it_is_the_same(run: Path, copy: Path) -> None:
    html.write(copy)  # which names its own folder
    before = {name: (copy / name).read_bytes() for name in (html.PAGE, html.CARD)}
    for name in before:
        (copy / name).unlink()
    command = [sys.executable, "-m", "sscjax", "report", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str((copy / name).resolve()) for name in before]
    assert {name: (copy / name).read_bytes() for name in before} == before


# ---- names from outside -------------------------------------------------------------------------


def rename(folder: Path) -> None:
    """Give classes, files, subjects and every other text of a run names that try to get out."""
    table = Predictions.read_csv(folder / "predictions.csv")
    number = np.arange(len(table))
    renamed = Predictions(
        files=np.array([f"{NASTY[k % 6]}{k}" for k in number]),
        subjects=np.array([f"{NASTY[int(name[-2:]) % 6]}{name}" for name in table.subjects]),
        splits=table.splits,
        labels=table.labels,
        probabilities=table.probabilities,
        classes=NASTY[:2] + NASTY[5:],
    )
    renamed.write_csv(folder / "predictions.csv")
    renamed.by_subject().write_csv(folder / "predictions_by_subject.csv")
    kept = json.loads((folder / "metrics.json").read_text("utf-8"))
    kept["splits"] = metrics.figures_by_split(renamed, True)
    kept["test_intervals"] = intervals.test_figures(renamed, True)
    kept["warnings"] = list(NASTY)
    write_json(folder / "metrics.json", kept)
    record = json.loads((folder / "run.json").read_text("utf-8"))
    record["data"]["classes"] = list(renamed.classes)
    record["data"]["source"] = record["config"]["name"] = NASTY[0]
    record["config"]["pretrained"] = NASTY[1]
    record["command"] = list(NASTY)
    write_json(folder / "run.json", record)
    index = json.loads((folder / "explanations" / "explanations.json").read_text("utf-8"))
    for k, entry in enumerate(index["images"]):
        entry["file"], entry["subject"] = NASTY[k % 6], NASTY[(k + 1) % 6]
        entry["label"] = entry["prediction"] = NASTY[0]
        for one in entry["maps"]:
            one["class"] = NASTY[1]
    write_json(folder / "explanations" / "explanations.json", index)
    records = [ImageRecord(Path(name), name, name, "one") for name in NASTY]
    origin = understood.Origin(NASTY[0], "folder level 2", "none", ignored=NASTY)
    examples = [{"a": name, "b": name, "relation": name, "similarity": 0.5} for name in NASTY]
    write_json(
        folder / "audit.json",
        {
            "n_images": 48,
            "n_subjects": 18,
            "understood": understood.describe(records, NASTY, origin),
            "seconds": 1.0,
            "findings": [
                {"severity": "leak", "title": NASTY[0], "detail": NASTY[1], "examples": examples},
                {"severity": "note", "kind": "size", "title": "No examples, no count"},
            ],
            "checks": [{"kind": "x", "title": NASTY[0], "passed": False}],
        },
    )
    write_json(
        folder / "manifest.json", {"version": NASTY[0], "images": {name: 1 for name in NASTY}}
    )


def test_names_do_nothing_but_show(copy: Path) -> None:
    rename(copy)
    html.write(copy)
    root = parse(copy)
    assert not list(all_of(root, "script"))
    assert not [one for one in all_of(root, "b") if one.text == "bold"]
    said = text_of(root)
    assert '<script>alert("x")</script>' in said
    assert 'it\'s "quoted" & <b>bold</b>' in said
    assert "two\\nlines\\tand tab" in said
    assert "turned \\u202etxt.exe\\u2066" in said
    assert "{{ 7 * 7 }} {% raw %}" in said
    assert "مريض" in said
    raw = (copy / html.PAGE).read_text(encoding="utf-8")
    assert "\u202e" not in raw and "\u2066" not in raw
    # In attributes as well: nothing but what the templates write.
    allowed = {"style", "class", "id", "role", "tabindex", "scope", "alt", "src", "href", "lang"}
    allowed |= {"content", "name", "charset", "aria-label", "aria-labelledby", "aria-hidden"}
    used = {name for one in root.iter() if one.tag.startswith(HTML) for name in one.attrib}
    assert used <= allowed, used - allowed
    audit = text_of(section(root, "audit"))
    assert "6 examples" in audit and "No examples, no count" in audit
    assert "patients: from folder level 2" in audit and "Classes as they were read" in audit


def test_model_card_keeps_its_form(copy: Path) -> None:
    rename(copy)
    html.write(copy)
    text = (copy / html.CARD).read_text(encoding="utf-8")
    assert re.findall("^## (.*)$", text, re.MULTILINE) == [
        *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data"),
        *("Training data", "Quantitative analyses", "Ethical considerations"),
        "Caveats and recommendations",
    ]
    assert "<script" not in text and "\u202e" not in text and "](javascript" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    # A bar within a name must not make a column.
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {6}
    accuracy = next(line for line in table if line.startswith("| accuracy"))
    kept = json.loads((copy / "metrics.json").read_text("utf-8"))
    assert formatting.percent(kept["splits"]["test"]["image"]["accuracy"]) in accuracy


# ---- calibration and protocols ------------------------------------------------------------------


def test_calibration_is_shown_for_subjects_first(copy: Path) -> None:
    content = json.loads((copy / "calibration.json").read_text("utf-8"))
    for unit, ece in (("subject", 0.234), ("image", 0.456)):
        block = content[unit]
        block |= {"temperature": 1.7, "reason": "", "gain": 0.25, "standard_error": 0.125}
        after = block["splits"]["test"]["after"]
        after |= {"ece": ece, "ece_interval": [0.1, 0.3], "brier": 0.5, "brier_interval": None}
        block["log_loss"]["test"] = [1.25, 0.75]
        # Of at least ten rows there are charts.
        for entry in after["bins"]:
            entry["n"] = 10
        block["coverage"][-1]["n"] = 10
        block["threshold"]["test"]["sensitivity"] = {"value": 0.6, "interval": [0.4, 0.8], "n": 5}
        block["threshold"]["held_out"]["sensitivity"] = {"value": 0.9, "interval": None, "n": 5}
        block["abstention"] |= {"value": 0.8, "rule": f"of {unit}s"}
        block["abstention"]["test"] = {
            "coverage": {"value": 0.5, "interval": None, "n": 16},
            "accuracy": {"value": 0.875, "interval": None, "n": 8},
        }
    content["outliers"]["share_flagged"]["test"] = 0.25
    content["outliers"]["warnings"] = ["The flag is not usable."]
    write_json(copy / "calibration.json", content)
    html.write(copy)
    root = parse(copy)
    said = text_of(section(root, "calibration"))
    assert said.index("Per subject") < said.index("Per image")
    assert "held out for validation" in said
    for unit, shown in (("subject", "0.234"), ("image", "0.456")):
        name = f"Calibration per {unit}, with 95 % intervals where there are enough subjects"
        rows = table_rows(root, name)
        last = next(row for row in rows if row[:2] == ["test", "after"])
        assert last[2] == f"{shown} (0.100 to 0.300)" and last[4:] == ["0.500", "0.750"]
        # No interval of the rows on which the temperature was fitted.
        held_out = [row for row in rows if row[0] == "held-out"]
        assert held_out and all("(" not in cell for row in held_out for cell in row)
        assert table_rows(root, f"At the threshold of {unit}s")[1] == [
            *("sensitivity", "60.0 %", "40.0 to 80.0 %", "90.0 %")
        ]
        assert f"(of {unit}s)" in said
    for part in ("1.70", "of these 87.5 % right", "25.0 % of test", "The flag is not usable."):
        assert part in said
    names = [svg.get("aria-labelledby") for svg in section(root, "calibration").iter(SVG + "svg")]
    for unit in ("subject", "image"):
        assert f"reliability-{unit}-test-t reliability-{unit}-test-d" in names
        assert f"coverage-{unit}-t coverage-{unit}-d" in names


def test_protocol_sums_up_its_folds(run: Path, tmp_path: Path) -> None:
    """Two folds that each tested some of the images: pooled as a protocol pools them."""
    folder = tmp_path / "protocol"
    whole = Predictions.read_csv(run / "predictions.csv")
    for number, split in enumerate(("test", "val")):
        fold = Path(shutil.copytree(run, folder / "folds" / f"fold_{number}"))
        splits = np.where(whole.splits == split, "test", "train")
        changed = Predictions(whole.files, whole.subjects, splits, whole.labels,
                              whole.probabilities, whole.classes)  # fmt: skip
        changed.write_csv(fold / "predictions.csv")
        changed.by_subject().write_csv(fold / "predictions_by_subject.csv")
        kept = json.loads((fold / "metrics.json").read_text("utf-8"))
        kept["splits"] = metrics.figures_by_split(changed, True)
        write_json(fold / "metrics.json", kept)
    chosen = np.flatnonzero(whole.splits != "train")
    pooled = Predictions(
        files=whole.files[chosen],
        subjects=whole.subjects[chosen],
        splits=np.full(len(chosen), "test"),
        labels=whole.labels[chosen],
        probabilities=whole.probabilities[chosen],
        classes=whole.classes,
    )
    pooled.write_csv(folder / "predictions.csv")
    figures = metrics.figures_by_split(pooled, True)
    ranges = intervals.test_figures(pooled, True)
    write_json(folder / "metrics.json", {"splits": figures, "test_intervals": ranges})
    planned = [{"name": f"fold_{number}"} for number in range(3)]
    write_json(folder / "protocol.json", {"kind": "kfold", "status": "started", "folds": planned})
    html.write(folder)
    root = parse(folder)
    assert "2 of 3 folds are here" in text_of(next(all_of(root, "section")))
    rows = table_rows(root, "Test figures with 95 % intervals")
    assert rows[1][1] == formatting.percent(figures["test"]["subject"]["accuracy"])
    assert rows[1][3] == formatting.percent(figures["test"]["image"]["accuracy"])
    folds = table_rows(root, "Fold by fold")
    assert [row[0] for row in folds[1:]] == ["fold_0", "fold_1"]
    assert [int(row[4]) for row in folds[1:]] == [
        int((whole.splits == split).sum()) for split in ("test", "val")
    ]
    assert "fold_0, head" in [row[0] for row in table_rows(root, "Stages in their order")]
    said = text_of(section(root, "data"))
    # What was read is more than what these two folds tested.
    assert f"{len(whole)} images of" in said
    assert f"{len(pooled)} of {len(whole)} images were tested, by a model that saw no" in said


@pytest.mark.parametrize(
    ("protocol", "by", "share", "repeats", "said"),
    [
        ("kfold", "subject", 1.0, 1, "Every image was tested once, by a model that saw no image"),
        ("kfold", "subject", 1.0, 2, "Every image was tested once in each repeat, by a model"),
        ("repeated", "subject", 0.5, 2, "{half} of {all} images were tested, some of them several"),
        ("kfold", "image", 1.0, 1, "may have seen other images of the same subject"),
    ],
)
def test_the_page_says_how_often_images_were_tested(
    run: Path, tmp_path: Path, protocol: str, by: str, share: float, repeats: int, said: str
) -> None:
    folder = tmp_path / "protocol"
    shutil.copytree(run, folder / "folds" / "fold_0")
    config = json.loads((run / "run.json").read_text("utf-8"))["config"]
    config["protocol"], config["split"]["by"] = protocol, by
    write_json(folder / "protocol.json", {"kind": protocol, "status": "finished", "config": config})
    whole = Predictions.read_csv(run / "predictions.csv")
    tested = dataclasses.replace(whole, splits=np.full(len(whole), "test"))
    tested.take(np.arange(int(share * len(whole)))).write_csv(folder / "predictions.csv")
    over: Any = {"image": {}} if repeats > 1 else None
    figures = metrics.figures_by_split(tested, True)
    write_json(folder / "metrics.json", {"splits": figures, "over_repeats": over})
    html.write(folder)
    expected = said.format(half=len(whole) // 2, all=len(whole))
    assert expected in text_of(section(parse(folder), "data"))


PAPER = "horizontal and vertical flips, crops of at least 80% of the side, enlarged back"


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {},
            f"Random augmentation of training images: {PAPER}; in 2 copies of each training image, "
            "made after the split (stage head); on-line, drawn again for every step (stage "
            "finetune).",
        ),
        (
            {"augment.copies": 0},
            f"Random augmentation of training images: {PAPER}; on-line, drawn again for every step "
            "(stage finetune).",
        ),
        (
            {
                "augment.flip": False,
                "augment.rot90": True,
                "augment.stain": 0.3,
                "augment.crop": 1.0,
                "augment.copies": 1,
                "stages.finetune.online_augment": False,
            },
            "Random augmentation of training images: quarter turns, amounts of stain changed by up "
            "to 30%; in 1 copy of each training image, made after the split (stage head, "
            "finetune).",
        ),
        (
            {
                "augment.copies": 0,
                "augment.counts_before_split": "a:9,b:8",
                "stage_order": ("head",),
            },
            f"Random augmentation of training images: {PAPER}; in copies made BEFORE the split, up "
            "to a:9,b:8 per class.",
        ),
        (
            {"augment.flip": False, "augment.crop": 1.0, "stage_order": ("head",)},
            "Training images were repeated without any change, in 2 copies of each training image, "
            "made after the split (stage head).",
        ),
        # On-line with nothing to change, and copies that no stage reads.
        (
            {"augment.flip": False, "augment.crop": 1.0, "stage_order": ("finetune",)},
            "Training images were not augmented.",
        ),
        ({"augment.copies": 0, "stage_order": ("head",)}, "Training images were not augmented."),
    ],
)
def test_augmentation_is_told_as_it_was(changes: dict[str, Any], said: str) -> None:
    config = default.get_config()
    config.update_from_flattened_dict(changes)
    assert method.augmentation(config.to_dict()) == said


def test_unused_output_is_left_out(copy: Path) -> None:
    """Four outputs for three classes, as the paper had: the fourth is shown only if it answers."""
    whole = Predictions.read_csv(copy / "predictions.csv")
    four = np.pad(whole.probabilities, ((0, 0), (0, 1)))
    for answers in (False, True):
        if answers:
            four[np.flatnonzero(whole.splits == "test")[0]] = [0, 0, 0, 1]
        classes = (*whole.classes, "unused")
        table = Predictions(whole.files, whole.subjects, whole.splits, whole.labels, four, classes)
        table.write_csv(copy / "predictions.csv")
        kept = json.loads((copy / "metrics.json").read_text("utf-8"))
        kept["splits"] = metrics.figures_by_split(table, True)
        kept["test_intervals"] = intervals.test_figures(table, True)
        write_json(copy / "metrics.json", kept)
        html.write(copy)
        heading = table_rows(parse(copy), "Test, images")[0]
        assert ("unused" in heading) == answers and len(heading) == 4 + answers


# ---- mistakes -----------------------------------------------------------------------------------


# ---- guidelines ---------------------------------------------------------------------------------


def test_checklists_are_whole() -> None:
    claim, stard, tripod = checklists.CHECKLISTS
    assert [item.number for item in claim.items] == [str(k) for k in range(1, 45)]
    # STARD-AI has 40 items in 48 rows, TRIPOD+AI 27 in 52.
    for checklist, items, rows in ((stard, 40, 48), (tripod, 27, 52)):
        numbers = [item.number for item in checklist.items]
        assert len(numbers) == len(set(numbers)) == rows
        leading = [int(re.sub("[a-z]", "", number)) for number in numbers]
        assert leading == sorted(leading) and set(leading) == set(range(1, items + 1))
    known = {key for key, _, _ in render.SECTIONS}
    for checklist in checklists.CHECKLISTS:
        for item in checklist.items:
            assert set(item.sections) <= known
            assert item.sections or item.author, item
