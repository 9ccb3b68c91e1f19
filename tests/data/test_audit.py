"""The audit finds what was planted among drawn and real tiles, and nothing where nothing is."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score
from small_runs import one_stage_config, write_folder

from sscjax.cli import audit
from sscjax.data import synthetic
from sscjax.data.audit import checks, confounders, duplicates, findings, sites, thumbnails
from sscjax.data.audit.alignment import align
from sscjax.data.dataset import ImageSet
from sscjax.data.image_io import read_image
from sscjax.errors import UserError
from sscjax.experiments import single_run
from sscjax.system import run_dir, terminal

pytestmark = pytest.mark.usefixtures("quick_compiler")

LEFT_RIGHT, HALF = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180
QUARTER = Image.Transpose.ROTATE_90
NAMES = ("normal", "early", "late")


@pytest.fixture(scope="module")
def tiles() -> np.ndarray:
    """90 drawn tiles of 96 pixels, of 30 subjects."""
    return np.asarray(drawn().images)


def drawn() -> ImageSet:
    return synthetic.skin_biopsies(
        image_size=96, tiles=dict.fromkeys(NAMES, 30), subjects=dict.fromkeys(NAMES, 10)
    )


def encoded(image: Image.Image, quality: int = 60) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "jpeg", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def crop(image: Image.Image, top: int = 5, left: int = 13) -> Image.Image:
    cut = image.crop((left, top, left + 77, top + 77))
    return cut.resize(image.size, Image.Resampling.BILINEAR)


PLANTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "identical": lambda image: image,
    "re-encoded": encoded,
    "flipped": lambda image: image.transpose(LEFT_RIGHT),
    "turned": lambda image: encoded(image.transpose(HALF)),
    "cropped": crop,
    "cropped and flipped": lambda image: encoded(crop(image.transpose(LEFT_RIGHT)), 90),
}


# ---- copies -------------------------------------------------------------------------------------


def test_drawn_tiles_are_no_copies_of_each_other(tiles: np.ndarray) -> None:
    found = duplicates.find(tiles)
    assert found.pairs == []
    np.testing.assert_allclose(found.colours, tiles.mean((1, 2)), atol=1e-3)


@pytest.mark.parametrize("relation", PLANTS)
def test_planted_copies_are_found_and_named(tiles: np.ndarray, relation: str) -> None:
    owners = [4, 31, 60, 77, 85]
    copies = [np.asarray(PLANTS[relation](Image.fromarray(tiles[owner]))) for owner in owners]
    done: list[int] = []
    found = duplicates.find(np.concatenate([tiles, np.stack(copies)]), done.append)
    assert sum(done) == 95
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert set(pairs) <= {(owner, 90 + k) for k, owner in enumerate(owners)}
    # One crop in ten may be missed, the others not.
    assert len(pairs) >= (4 if "cropped" in relation else 5)
    assert [pair.relation for pair in pairs.values()] == [relation] * len(pairs)
    assert all(pair.likeness > duplicates.LIKENESS for pair in pairs.values())


def test_equal_images_are_linked_to_the_first_and_to_no_other(tiles: np.ndarray) -> None:
    found = duplicates.find(np.concatenate([tiles, tiles[[7, 7, 7]], tiles[7:8, :, ::-1]]))
    pairs = {(pair.first, pair.second): pair.relation for pair in found.pairs}
    assert pairs == {**{(7, k): "identical" for k in (90, 91, 92)}, (7, 93): "flipped"}


def test_a_window_is_found_where_it_was_cut(tiles: np.ndarray) -> None:
    """Laid down a twentieth of the side and of the size away from where it belongs."""
    rng = np.random.default_rng(0)
    box = np.array([[5, 13, 77], [17, 2, 77], [9, 9, 83], [0, 19, 77]])  # top, left, side
    cut = [
        Image.fromarray(tiles[k]).crop((left, top, left + side, top + side)).resize((96, 96))
        for k, (top, left, side) in enumerate(box.tolist())
    ]
    [grey] = thumbnails.grey_thumbnails(
        np.concatenate([tiles[:4], np.stack([np.asarray(image) for image in cut])]),
        lambda pixels: None,
    )
    start = box / 96 + rng.choice([-0.03, 0.03], box.shape)
    likeness, placed = align(grey, np.arange(4), np.arange(4, 8), np.zeros(4, int), start)
    assert likeness.min() > 0.9
    found = np.stack([placed.top, placed.left, placed.height, placed.width], axis=1)
    np.testing.assert_allclose(found, box[:, [0, 1, 2, 2]] / 96, atol=0.5 / 96)


def test_pairs_given_up_on_the_way_and_no_pairs_at_all() -> None:
    """All pairs of a chunk are given up before the last level: nothing is left to lay over."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64), np.uint8)
    for pairs in (0, 1, 2):
        first, second = np.arange(pairs), np.arange(pairs) + 2
        start = np.tile([0.0, 0.0, 1.0], (pairs, 1))
        likeness, placed = align(noise, first, second, np.zeros(pairs, int), start)
        assert likeness.tolist() == [-1.0] * pairs
        assert placed.overlap.shape == (pairs,)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["noise", "fibres", "copy", "blank", "tile"]), max_size=6),
    subjects=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    labels=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    split=st.booleans(),
    seed=st.integers(0, 99),
)
def test_sets_of_any_size_are_audited(
    kinds: list[str], subjects: list[int], labels: list[int], split: bool, seed: int
) -> None:
    """From no image to six, of one subject or several, of one class or several."""
    rng, count = np.random.default_rng(seed), len(kinds)
    tile = np.asarray(drawn().images[:1])[0][:64, :64]
    stripes = 128 + 90 * np.sin(np.arange(64) / rng.uniform(1, 4) + rng.uniform(0, 6))
    fibres = np.tile(stripes[:, None, None], (1, 64, 3))
    kind_of = {
        "noise": lambda: rng.integers(0, 256, (64, 64, 3)),
        "fibres": lambda: fibres + rng.normal(0, 3, (64, 64, 3)),
        "copy": lambda: tile[:, ::-1],
        "blank": lambda: np.full((64, 64, 3), 240),
        "tile": lambda: tile,
    }
    images = np.array([np.clip(kind_of[kind](), 0, 255) for kind in kinds], np.uint8)
    image_set = ImageSet(
        images.reshape(count, 64, 64, 3),
        np.array(labels[:count], np.int32),
        np.array([f"s{subject}" for subject in subjects[:count]], np.str_),
        np.array([f"{k}.png" for k in range(count)], np.str_),
        NAMES,
    )
    splits = np.array(["train", "val", "test"])[np.arange(count) % 3] if split else None
    found = checks.audit(image_set, splits, None)
    assert found["n_images"] == count
    json.dumps(found, allow_nan=False)
    copies = [k for k, kind in enumerate(kinds) if kind in ("copy", "tile")]
    pairs = duplicates.find(image_set.images).pairs
    assert {p.first for p in pairs} | {p.second for p in pairs} >= (
        set(copies) if len(copies) > 1 else set()
    )


def test_blank_tiles_are_no_copies() -> None:
    rng = np.random.default_rng(0)
    blank = (240 + rng.normal(0, 1, (6, 64, 64, 3))).astype(np.uint8)
    found = duplicates.find(blank)
    assert found.blank.all() and found.pairs == []
    same = duplicates.find(np.repeat(blank[:1], 3, axis=0))
    assert [(pair.first, pair.second) for pair in same.pairs] == [(0, 1), (0, 2)]


@pytest.mark.slow
def test_real_tiles(shared_data: Path) -> None:
    """100 real tiles, a copy of every kind of ten of them and forty crops; all else differs."""
    folder = shared_data / "data" / "prostate_gleason"
    if not folder.is_dir():
        # Optional: real images are not part of the project.
        pytest.skip(f"no real tiles: {folder} does not exist")
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file)][::15][:100]
    images = [read_image(folder / name, 128) for name in names]
    planted = [
        np.asarray(plant(Image.fromarray(image)))
        for plant in (*list(PLANTS.values())[:4], lambda image: image.transpose(QUARTER))
        for image in images[:10]
    ]
    rng = np.random.default_rng(0)
    for image in images[:40]:
        left, top = rng.integers(0, 27, 2).tolist()
        cut = Image.fromarray(image).crop((left, top, left + 102, top + 102))
        turned = cut.resize((128, 128)).transpose(Image.Transpose(int(rng.integers(7))))
        planted.append(np.asarray(encoded(turned, 75)))
    found = duplicates.find(np.stack(images + planted))
    pairs = {(pair.first, pair.second) for pair in found.pairs}
    assert {(k % 10, 100 + k) for k in range(50)} <= pairs
    assert sum((k, 150 + k) in pairs for k in range(40)) >= 36
    assert not any(second < 100 for _, second in pairs)


# ---- confounds ----------------------------------------------------------------------------------


def test_a_property_that_tells_the_label_is_found() -> None:
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(30), 4)
    labels = np.repeat(np.arange(30) % 3, 4)
    size = rng.normal(100, 10, 120) + 25 * (labels == 1)
    properties = {"file size": size, "noise": rng.normal(size=120), "width": np.full(120, 128.0)}
    found = confounders.find(properties, labels, subjects, 3)
    assert [(one.name, one.label, one.higher) for one in found] == [("file size", 1, True)]
    means = np.array([size[subjects == s].mean() for s in range(30)])
    assert found[0].area == pytest.approx(roc_auc_score(np.arange(30) % 3 == 1, means))
    assert found[0].p < 0.05


def test_images_of_few_subjects_are_no_evidence() -> None:
    """A property of the subject, whatever it is, tells a hundred images of two subjects apart."""
    subjects = np.repeat(np.arange(4), 50)
    labels = np.repeat([0, 0, 1, 1], 50)
    assert confounders.find({"mean red": subjects.astype(float)}, labels, subjects, 2) == []


def test_chance_is_seldom_called_a_confound() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(60):
        labels = rng.permutation(np.arange(24) % 3)
        properties = {f"p{k}": rng.normal(size=24) for k in range(7)}
        alarms += bool(confounders.find(properties, labels, np.arange(24), 3))
    assert alarms <= 8  # 5 % are three; more than eight would be one in a hundred


# ---- a whole set --------------------------------------------------------------------------------


def kinds(found: dict[str, Any]) -> dict[str, str]:
    return {one["kind"]: one["severity"] for one in found["findings"]}


def test_a_clean_set_is_clean() -> None:
    image_set = drawn()
    splits = np.array(["train", "val", "test", "train", "train"])[
        np.unique(image_set.subjects, return_inverse=True)[1] % 5
    ]
    found = checks.audit(image_set, splits, None)
    assert found["findings"] == [] and checks.leaks(found) == []
    assert all(check["passed"] for check in found["checks"])
    # Three images of a subject are too few to say that two subjects are one patient.
    left_out = {"twins", "files", *sites.CHECKS}
    assert {check["kind"] for check in found["checks"]} == set(findings.CHECKS) - left_out
    assert {check["kind"] for check in found["unchecked"]} == left_out
    checks.refuse(found)
    json.dumps(found, allow_nan=False)


def planted(by_subject: bool) -> tuple[ImageSet, np.ndarray]:
    """A copy of tile 0 at another subject's, one under another label, one at its own."""
    image_set = drawn()
    images = np.asarray(image_set.images).copy()
    order = np.argsort(image_set.labels, kind="stable")
    other = int(np.flatnonzero(image_set.subjects != image_set.subjects[0])[0])
    wrong = int(order[-1])
    images[other] = images[0][:, ::-1]
    images[wrong] = images[5]
    images[2] = images[1]
    found = ImageSet(
        images, image_set.labels, image_set.subjects, image_set.files, image_set.classes
    )
    splits = np.where(found.subjects == found.subjects[0], "train", "test")
    splits[wrong] = splits[5]
    if not by_subject:
        splits[1] = "test"
    return found, splits


def test_leaks_are_told_apart() -> None:
    image_set, splits = planted(by_subject=True)
    found = checks.audit(image_set, splits, None)
    severities = kinds(found)
    assert severities["copies_across_splits"] == "leak"
    assert severities["identical_labels"] == "leak"
    assert severities["copies_within_subjects"] == "note"
    [example] = found["findings"][0]["examples"]
    assert example["split_a"] == "train" and example["split_b"] == "test"
    assert example["relation"] == "flipped" and example["similarity"] > 0.9
    with pytest.raises(UserError, match="1 pair of images with a copy in another split .*normal/"):
        checks.refuse(found)
    # Without splits what another subject has may be parted.
    whole = kinds(checks.audit(image_set, None, None))
    assert whole["copies_across_subjects"] == "leak" and "copies_across_splits" not in whole


def test_what_the_protocol_wants_is_let_pass_but_not_two_labels() -> None:
    image_set, splits = planted(by_subject=False)
    found = checks.audit(image_set, splits, None, allowed=True)
    assert kinds(found)["subjects_across_splits"] == "leak"
    with pytest.raises(UserError, match="identical images under two labels"):
        checks.refuse(found)
    found["findings"] = [one for one in found["findings"] if one["kind"] != "identical_labels"]
    checks.refuse(found)


def test_found_again_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    image_set, splits = planted(by_subject=True)
    first = checks.audit(image_set, splits, None)

    def refuse(*args: Any) -> Any:
        raise AssertionError("searched a second time")

    monkeypatch.setattr(duplicates, "find", refuse)
    again = checks.audit(image_set, splits, None)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


# ---- the programs -------------------------------------------------------------------------------


def test_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "images")
    lines = (folder / "manifest.csv").read_text("utf-8").splitlines()
    file, label, _ = lines[1].split(",")
    Image.open(folder / file).transpose(LEFT_RIGHT).save(folder / "copy.png")
    out = tmp_path / "audit.json"
    for extra, code in (([], 0), ([f"copy.png,{label},someone"], checks.LEAK)):
        (folder / "manifest.csv").write_text("\n".join(lines + extra) + "\n", encoding="utf-8")
        monkeypatch.setattr("sys.argv", ["audit", str(folder), "--image-size=32", f"--json={out}"])
        assert terminal.call(audit.main) == code
        printed = capsys.readouterr().out
        assert ("LEAK: 1 pair" in printed) == bool(code)
    assert "copy.png (normal, someone)" in printed and "flipped" in printed
    assert json.loads(out.read_text("utf-8"))["n_images"] == 37
    # Across the splits of a run: the copy stands in another.
    rows = [line.split(",") for line in [*lines[1:], f"copy.png,{label},someone"]]
    table = [",".join([*row, "test" if row[2] == "someone" else "train"]) for row in rows]
    splits = tmp_path / "splits.csv"
    splits.write_text("\n".join(["file,label,subject,split", *table]) + "\n", encoding="utf-8")
    wish = ["audit", str(folder), "--image-size=32", f"--splits={splits}"]
    monkeypatch.setattr("sys.argv", wish)
    assert terminal.call(audit.main) == checks.LEAK
    assert "LEAK: 1 pair of images with a copy in another split" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["audit", str(tmp_path / "nowhere")])
    assert terminal.call(audit.main) == terminal.USER_ERROR


@pytest.mark.slow
def test_training_stops_or_says_so_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "images")
    lines = (folder / "manifest.csv").read_text("utf-8").splitlines()
    config = one_stage_config()
    config.data.path = str(folder)
    config.stages.head.epochs = 1
    single_run.run(config, tmp_path / "clean")
    kept = json.loads((tmp_path / "clean" / run_dir.AUDIT).read_text("utf-8"))
    assert checks.leaks(kept) == []
    # A copy of a test image, for a subject that stands in training.
    rows = list(csv.reader((tmp_path / "clean" / "splits.csv").read_text("utf-8").splitlines()[1:]))
    tested = next(row for row in rows if row[3] == "test")
    trained = next(row for row in rows if row[3] == "train" and row[1] == tested[1])
    Image.open(folder / tested[0]).save(folder / "copy.png")
    lines = ["file,label,subject,split", *(",".join(row) for row in rows)]
    lines.append(f"copy.png,{tested[1]},{trained[2]},train")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="found a leak: 1 pair of images with a copy in another"):
        single_run.run(config, tmp_path / "leaking")
    assert not (tmp_path / "leaking").exists()
    config.audit.on_leakage = "report"
    text = single_run.run(config, tmp_path / "leaking")
    assert text.startswith("LEAKAGE ALLOWED BY THE CONFIG: 1 pair of images with a copy")
    config.audit.on_leakage = "perhaps"
    with pytest.raises(UserError, match="on_leakage='perhaps': expected 'stop' or 'report'"):
        single_run.run(config, tmp_path / "other")
