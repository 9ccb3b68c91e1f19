"""Loading folders, manifests and tensorflow-datasets, and one clear line for each mistake."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sscjax.data import lazy, loading, prepared, recipes
from sscjax.data.image_io import read_image
from sscjax.data.loading import (
    decode_listing,
    list_images,
    load,
    load_folder,
    load_manifest,
    merge_classes,
)
from sscjax.data.tfds import load_tfds
from sscjax.errors import UserError

SIZE = 16


def write_image(path: Path, value: int = 0) -> None:
    """A 20x24 image whose pixels depend on `value`."""
    pixels = np.random.default_rng(value).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(folder: Path, *files: str) -> Path:
    for value, file in enumerate(files):
        write_image(folder / file, value)
    return folder


def write_manifest(folder: Path, *rows: str, header: str = "file,label,subject") -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def refused(call: Callable[[], object], *words: str) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, three images, each file in a subject's folder."""
    return write_folder(tmp_path, "ill/p1/a.png", "ill/p2/b.tif", "well/p1/c.bmp")


# --- folder per class ---------------------------------------------------------------------------


def test_folder_per_class_with_subjects(folder, caplog):
    image_set = load(folder, SIZE)
    assert image_set.classes == ("ill", "well")
    assert image_set.files.tolist() == ["ill/p1/a.png", "ill/p2/b.tif", "well/p1/c.bmp"]
    assert image_set.labels.tolist() == [0, 0, 1]
    assert image_set.labels.dtype == np.int32
    assert image_set.subjects.tolist() == ["p1", "p2", "p1"]
    assert image_set.splits is None and image_set.masks is None
    assert image_set.images.shape == (3, SIZE, SIZE, 3) and image_set.images.dtype == np.uint8
    for image, file in zip(image_set.images, image_set.files, strict=True):
        np.testing.assert_array_equal(image, read_image(folder / file, SIZE))
    assert image_set.source == f"folder {folder} (3 images of 2 subjects)"
    assert not caplog.records


def test_the_first_folder_below_the_class_names_the_subject(tmp_path):
    write_folder(tmp_path, "a/p1/slide2/x.png", "a/p1/slide1/x.png", "b/p2/deep/er/x.png")
    image_set = load_folder(tmp_path, SIZE)
    assert image_set.subjects.tolist() == ["p1", "p1", "p2"]
    assert image_set.files[0] == "a/p1/slide1/x.png"


def test_without_subjects_each_image_is_its_own_and_a_warning_says_so(tmp_path, caplog):
    write_folder(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/p7/2.png")
    with caplog.at_level(logging.WARNING):
        image_set = load(tmp_path, SIZE)
    assert image_set.subjects.tolist() == ["a/1.png", "a/2.png", "b/1.png", "p7"]
    assert "optimistic" in image_set.source and "3 without a subject" in image_set.source
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be by patient" in caplog.text


def test_order_of_classes_is_as_given(folder):
    image_set = load(folder, SIZE, ("well", "ill"))
    assert image_set.classes == ("well", "ill")
    assert image_set.labels.tolist() == [1, 1, 0]


def test_hidden_and_foreign_files_are_passed_over(folder, caplog):
    write_image(folder / ".cache" / "x.png")
    write_image(folder / "ill" / ".thumbnails" / "x.png")
    write_image(folder / "loose.png")
    (folder / "ill" / "._a.png").write_bytes(b"resource fork")
    (folder / "ill" / "notes.txt").write_text("not an image", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert len(load(folder, SIZE)) == 3
    assert "passed over 1 file(s)" in caplog.text
    said = "passed over: 1 other file(s), 1 image(s) outside class folders"
    assert list_images(folder).source.endswith(said)
    assert "1 image(s) outside class folders" in caplog.text


def test_suffixes_in_capitals_count(tmp_path):
    write_folder(tmp_path, "a/p/1.PNG", "b/p/2.JPeG", "b/p/3.TIFF")
    assert len(load(tmp_path, SIZE)) == 3


def test_names_that_are_not_ascii(tmp_path):
    write_folder(tmp_path, "gesund/Müller/häutchen 1.png", "sklerose/王/图.png")
    image_set = load(tmp_path, SIZE)
    assert image_set.subjects.tolist() == ["Müller", "王"]


def test_bad_folders(tmp_path):
    refused(lambda: load(tmp_path / "none", SIZE), "none: no such folder")
    refused(lambda: load_folder(tmp_path / "none", SIZE), "none: no such folder")
    refused(lambda: load(tmp_path, SIZE), str(tmp_path), "is empty", "manifest.csv")
    write_image(tmp_path / "loose.png")
    refused(lambda: load(tmp_path, SIZE), "no class folders and 1 image(s)")
    write_image(tmp_path / "only" / "p" / "a.png")
    refused(lambda: load(tmp_path, SIZE), "only one class ('only')")
    (tmp_path / "second").mkdir()
    refused(lambda: load(tmp_path, SIZE), str(tmp_path / "second"), "holds no image")


def test_classes_that_do_not_fit_the_folder(folder):
    refused(lambda: load(folder, SIZE, ("ill", "wel")), "unknown class 'well'", "ill, wel")
    refused(lambda: load(folder, SIZE, ("ill", "well", "dead")), "no image of the class 'dead'")
    refused(lambda: load(folder, SIZE, ("ill", "well", "ill")), "'ill' twice")


def test_unreadable_images_name_the_first_and_count_the_others(folder):
    for number in range(3):
        (folder / "ill" / "p1" / f"broken{number}.jpg").write_bytes(b"")
    first = folder / "ill" / "p1" / "broken0.jpg"
    message = refused(lambda: load(folder, SIZE), f"{first}: ", "zero bytes")
    total = len(list_images(folder).records)
    assert f"3 of the first {total} of {total} images, also " in message
    assert "broken1.jpg, " in message and message.endswith("broken2.jpg")
    for number in (0, 2):
        (folder / "ill" / "p1" / f"broken{number}.jpg").unlink()
    message = refused(lambda: load(folder, SIZE), "broken1.jpg")
    assert message.endswith(f"1 of the first {total - 2} of {total - 2} images")


def test_reading_stops_where_an_image_cannot_be_read(tmp_path, monkeypatch):
    """Of a large set what was read so far is told, in the order of the names, and no more read."""
    write_image(tmp_path / "a" / "sound.png")
    names = [f"{number:04d}.png" for number in range(1000)]
    for name in names:
        path = tmp_path / "b" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / "a" / "sound.png").read_bytes())
    for number in (100, 120, 140, 160, 180, 900):
        (tmp_path / "b" / names[number]).write_bytes(b"no image")
    tried = []

    def counted(path, *rest, **more):
        tried.append(path)
        return read_image(path, *rest, **more)

    monkeypatch.setattr(loading, "read_image", counted)
    message = refused(lambda: load(tmp_path, SIZE), "0100.png: not an image", "corrupt=skip")
    assert "5 of the first 256 of 1,001 images, also " in message
    assert "0120.png" in message and "0140.png and 2 more" in message and "0160" not in message
    assert len(tried) == 256


BROKEN = ("ill/p1/broken.jpg", "well/p9/cut.png")


@pytest.fixture
def with_broken(folder):
    """Two images that cannot be read, and one that is black and can."""
    write_image(folder / "well" / "p9" / "whole.png")
    data = (folder / "well" / "p9" / "whole.png").read_bytes()
    (folder / BROKEN[0]).write_bytes(b"")
    (folder / BROKEN[1]).write_bytes(data[: len(data) // 2])
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(folder / "ill" / "p1" / "black.png")
    return folder


@pytest.mark.parametrize("way", ("memory", "file", "file again", "array_record"))
def test_what_cannot_be_read_is_left_out(with_broken, tmp_path_factory, way):
    """As if these files were not there, wherever the pixels are kept; black images stay."""
    recipe = recipes.from_path(with_broken, SIZE, corrupt="skip")
    cache = tmp_path_factory.mktemp("cache")
    if way == "array_record":
        pytest.importorskip("array_record", reason="no wheel for this system")
        found = prepared.load(recipe, cache)
    else:
        for _ in range(2 if way == "file again" else 1):
            found = prepared.make(recipe, cache, np.inf if way == "memory" else 0)
    assert tuple(found.skipped) == BROKEN
    assert "zero bytes" in found.skipped[BROKEN[0]]
    assert "truncated or damaged" in found.skipped[BROKEN[1]]
    for file in BROKEN:
        (with_broken / file).unlink()
    expected = load(with_broken, SIZE)
    assert "ill/p1/black.png" in expected.files
    assert found.files.tolist() == expected.files.tolist()
    np.testing.assert_array_equal(np.asarray(found.images), np.asarray(expected.images))
    assert found.fingerprint() == expected.fingerprint() and not expected.skipped


def test_decoded_images_in_a_file_are_no_way_round_the_policy(with_broken, tmp_path_factory):
    keep = lazy.in_file(tmp_path_factory.mktemp("cache") / "images.npy")
    listed = list_images(with_broken)
    decode_listing(listed, SIZE, keep, "skip")
    refused(lambda: decode_listing(listed, SIZE, keep, "error"), "broken.jpg", "zero bytes")


def test_images_in_a_file_that_can_be_read_later_are_not_left_black(
    with_broken, tmp_path_factory, caplog
):
    """A file that could not be read for a while keeps its size and times, so the key, too."""
    cache = tmp_path_factory.mktemp("cache")
    path = with_broken / BROKEN[1]
    other = (with_broken / "well" / "p9" / "whole.png").read_bytes()
    path.write_bytes(bytes(len(other)))
    stamp = path.stat().st_mtime_ns
    recipe = recipes.from_path(with_broken, SIZE, corrupt="skip")
    assert tuple(prepared.make(recipe, cache, 0).skipped) == BROKEN
    path.write_bytes(other)
    os.utime(path, ns=(stamp, stamp))
    again = recipes.from_path(with_broken, SIZE, corrupt="skip")
    assert again.key == recipe.key
    for line in ("1 image(s) can be read now", ""):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found = prepared.make(again, cache, 0)
        assert line in caplog.text and bool(line) == ("decoded anew" in caplog.text)
        assert tuple(found.skipped) == BROKEN[:1]
        place = found.files.tolist().index(BROKEN[1])
        np.testing.assert_array_equal(found.images[place], read_image(path, SIZE))


def test_mask_that_cannot_be_read_takes_its_image_along(folder):
    write_image(folder / "ill" / "p1" / "more.png")
    for number, name in enumerate(("more_mask.png", "a_mask.png")):
        image = folder / "ill" / "p1" / name.replace("_mask", "")
        write_image(image)
        Image.fromarray(np.full((20, 24), number, np.uint8)).save(image.with_name(name))
    (folder / "ill" / "p1" / "more_mask.png").write_bytes(b"")
    found = load(folder, SIZE, corrupt="skip")
    assert list(found.skipped) == ["ill/p1/more.png"]
    maps = np.asarray(found.masks)
    assert len(maps) == len(found) and (maps == 1).any(axis=(1, 2)).sum() == 1


def test_class_of_which_nothing_can_be_read(folder):
    for path in (folder / "ill").rglob("*.*"):
        path.write_bytes(b"")
    refused(lambda: load(folder, SIZE, corrupt="skip"), "none of the", "'ill'", "zero bytes")


def link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=target.is_dir())
    except OSError as error:  # Windows without the right to make links
        pytest.skip(f"no links here: {error}")


def test_links(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    write_image(outside / "x.png")
    link(folder / "ill" / "p1" / "x.png", outside / "x.png")
    refused(lambda: load(folder, SIZE), "ill/p1/x.png: ".replace("/", os.sep), "leaves the folder")
    (folder / "ill" / "p1" / "x.png").unlink()
    link(folder / "ill" / "p3", outside)
    refused(lambda: load(folder, SIZE), "p3: is a link to a folder")
    (folder / "ill" / "p3").unlink()
    link(folder / "well" / "p1" / "again.png", folder / "ill" / "p1" / "a.png")
    refused(lambda: load(folder, SIZE), "duplicate", "ill/p1/a.png")


def test_links_that_lead_nowhere(folder, tmp_path_factory):
    """They are images that cannot be read; put right, they are other data."""
    link(folder / "ill" / "p1" / "ring.png", Path("ring.png"))
    link(folder / "well" / "p1" / "gone.png", Path("later.png"))
    gone = ["ill/p1/ring.png", "well/p1/gone.png"]
    refused(lambda: recipes.from_path(folder, SIZE), "ring.png: cannot be read")
    refused(lambda: load(folder, SIZE), "ring.png: cannot be read", "2 of the first 5", "gone.png")
    recipe = recipes.from_path(folder, SIZE, corrupt="skip")
    for max_bytes in (np.inf, 0, 0):
        found = prepared.make(recipe, tmp_path_factory.getbasetemp() / "links", max_bytes)
        assert list(found.skipped) == gone and len(found) == 3
    assert list(load(folder, SIZE, corrupt="skip").skipped) == gone
    write_image(folder / "other.png")
    (folder / "other.png").rename(folder / "well" / "p1" / "later.png")
    refused(lambda: recipes.from_path(folder, SIZE, corrupt="skip"), "duplicate", "gone.png")
    (folder / "well" / "p1" / "later.png").rename(folder / "well" / "p1" / ".later.png")
    (folder / "well" / "p1" / "gone.png").unlink()
    link(folder / "well" / "p1" / "gone.png", Path(".later.png"))
    again = recipes.from_path(folder, SIZE, corrupt="skip")
    assert again.key != recipe.key
    assert list(prepared.make(again, folder).skipped) == gone[:1]


def test_the_folder_itself_may_be_a_link(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("place") / "link"
    link(place, folder)
    assert len(load(place, SIZE)) == 3


def test_listing_decodes_nothing(folder, monkeypatch):
    (folder / "ill" / "p1" / "broken.jpg").write_bytes(b"")
    found = list_images(folder, ("well", "ill"))
    assert found.classes == ("well", "ill")
    assert found.folder == folder
    assert [record.file for record in found.records][:2] == ["ill/p1/a.png", "ill/p1/broken.jpg"]
    record = found.records[0]
    assert (record.path, record.label, record.subject, record.split) == (
        folder / "ill" / "p1" / "a.png", "ill", "p1", None,
    )  # fmt: skip


# --- manifest -----------------------------------------------------------------------------------


def test_manifest_keeps_its_order_and_splits(folder):
    write_manifest(
        folder,
        "well/p1/c.bmp, well ,anna,test,x",
        "ill/p1/a.png,ill,bert,train,y",
        "",
        r"ill\p2\b.tif,ill,carl,valid,z",
        header="file,label,subject,split,stain",
    )
    for image_set in (load(folder, SIZE), load_manifest(folder / "manifest.csv", SIZE)):
        assert image_set.files.tolist() == ["well/p1/c.bmp", "ill/p1/a.png", "ill/p2/b.tif"]
        assert image_set.subjects.tolist() == ["anna", "bert", "carl"]
        assert image_set.classes == ("ill", "well")
        assert image_set.labels.tolist() == [1, 0, 0]
        assert image_set.splits is not None
        assert image_set.splits.tolist() == ["test", "train", "val"]
        np.testing.assert_array_equal(image_set.images[0], read_image(folder / "well/p1/c.bmp", 16))
    assert load_folder(folder, SIZE).splits is None


def test_manifest_with_byte_order_mark_quotes_and_empty_splits(folder):
    (folder / "ill" / "p1" / "a.png").rename(folder / "ill" / "p1" / "a,b.png")
    text = '\ufefffile,label,subject,split\r\n"ill/p1/a,b.png",ill,Ä,\r\nwell/p1/c.bmp,well,B,\r\n'
    (folder / "list.csv").write_bytes(text.encode("utf-8"))
    image_set = load(folder / "list.csv", SIZE, ("well", "ill"))
    assert image_set.files.tolist() == ["ill/p1/a,b.png", "well/p1/c.bmp"]
    assert image_set.labels.tolist() == [1, 0]
    assert image_set.splits is None


GOOD = ("ill/p1/a.png,ill,1", "well/p1/c.bmp,well,2")


@pytest.mark.parametrize(
    "row,words",
    [
        ("ill/p2/b.tif,,3", ("row 4", "empty label")),
        ("ill/p2/b.tif,ill, ", ("row 4", "empty subject")),
        (",ill,3", ("row 4", "empty file")),
        ("ill/p2/b.tif,ill", ("row 4", "2 cells, expected 3")),
        ("ill/p2/none.tif,ill,3", ("row 4", "none.tif does not exist")),
        ("ill/p2,ill,3", ("row 4", "is not a file")),
        ("/etc/hostname,ill,3", ("row 4", "leaves the folder")),
        ("../x.png,ill,3", ("row 4", "leaves the folder")),
        ("ill/../ill/p2/b.tif,ill,3", ("row 4", "leaves the folder")),
        (r"C:\x.png,ill,3", ("row 4", "leaves the folder")),
        (r"\\server\x.png,ill,3", ("row 4", "leaves the folder")),
        ("ill/p1/a.png,ill,1", ("row 4", "duplicate", "row 2")),
        ("./ill//p1/a.png,well,3", ("row 4", "duplicate", "row 2")),
        ("ill/p2/b\0.tif,ill,3", ("manifest.csv",)),
        (f"ill/{'x' * 5000}.png,ill,3", ("row 4", "does not exist")),
    ],
)
def test_bad_rows(folder, row, words):
    write_manifest(folder, *GOOD, row)
    refused(lambda: load(folder, SIZE), str(folder / "manifest.csv"), *words)


def test_row_numbers_are_lines_of_the_file(folder):
    write_manifest(folder, "", GOOD[0], "", "", "ill/p2/none.tif,ill,3")
    refused(lambda: load(folder, SIZE), "row 6")


def test_bad_splits(folder):
    header = "file,label,subject,split"
    write_manifest(folder, GOOD[0] + ",train", GOOD[1] + ",trian", header=header)
    refused(lambda: load(folder, SIZE), "row 3", "unknown split 'trian'")
    write_manifest(folder, GOOD[0] + ",train", GOOD[1] + ",", header=header)
    refused(lambda: load(folder, SIZE), "row 3", "empty split", "1 of 2 rows")


@pytest.mark.parametrize(
    "header,words",
    [
        ("file,subject", ("missing column(s) label", "file, subject")),
        ("file;label;subject", ("missing column(s) file, label, found", "commas")),
        ("", ("empty first line",)),
        ("file,label,subject,file", ("'file' appears twice",)),
    ],
)
def test_bad_headers(folder, header, words):
    write_manifest(folder, *GOOD, header=header)
    refused(lambda: load(folder, SIZE), str(folder / "manifest.csv"), *words)


def test_without_a_column_for_subjects_each_image_is_one(folder, caplog):
    rows = [",".join(row.split(",")[:2]) for row in GOOD]
    write_manifest(folder, *rows, header="file,label")
    images = load(folder, SIZE)
    assert images.subjects.tolist() == [str(file) for file in images.files]
    assert "name no subject" in caplog.text and "as one subject each" in images.source


def test_bad_manifests(folder):
    write_manifest(folder)
    refused(lambda: load(folder, SIZE), "has no rows")
    write_manifest(folder, GOOD[0])
    refused(lambda: load(folder, SIZE), "only one class ('ill')")
    write_manifest(folder, *GOOD)
    refused(lambda: load(folder, SIZE, ("ill", "wel")), "row 3", "unknown label 'well'")
    refused(lambda: load(folder, SIZE, ("ill", "well", "x")), "no image of the class 'x'")
    (folder / "manifest.csv").write_bytes("file,label,subject\nä,b,c\n".encode("latin-1"))
    refused(lambda: load(folder, SIZE), "not UTF-8")
    (folder / "manifest.csv").write_text('file,label,subject\n"a,b,c\n', encoding="utf-8")
    refused(lambda: load(folder, SIZE), "not a csv file")
    refused(lambda: load_manifest(folder / "other.csv", SIZE), "other.csv: no such file")


def test_real_biopsies(shared_data):
    folder = shared_data / "data" / "prostate_gleason"
    if not folder.is_dir():
        # Optional: real images are not part of the project.
        pytest.skip(f"no real data: {folder} does not exist")
    lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()[1:]
    found = list_images(folder)
    assert len(found.records) == len(lines) > 1000
    image_set = decode_listing(dataclasses.replace(found, records=found.records[::25]), 32)
    for index, line in enumerate(lines[::25]):
        file, label, subject = line.split(",")[:3]
        assert image_set.files[index] == file
        assert image_set.classes[image_set.labels[index]] == label
        assert image_set.subjects[index] == subject
        np.testing.assert_array_equal(image_set.images[index], read_image(folder / file, 32))


# --- merging ------------------------------------------------------------------------------------


def test_merged_classes_are_ordered_by_first_appearance(tmp_path):
    write_folder(tmp_path, "early/p/1.png", "late/p/2.png", "normal/p/3.png", "other/p/4.png")
    image_set = load(tmp_path, SIZE, ("normal", "early", "late", "other"))
    merged = merge_classes(image_set, {"early": "ssc", "late": "ssc"})
    assert merged.classes == ("normal", "ssc", "other")
    names = [merged.classes[label] for label in merged.labels]
    assert names == ["ssc", "ssc", "normal", "other"]
    assert merged.labels.dtype == np.int32
    assert "early as ssc" in merged.source
    np.testing.assert_array_equal(merged.images, image_set.images)
    into_existing = merge_classes(image_set, {"late": "early", "normal": "healthy"})
    assert into_existing.classes == ("healthy", "early", "other")
    assert merge_classes(image_set, {}) is image_set


def test_bad_merges(folder):
    image_set = load(folder, SIZE)
    refused(lambda: merge_classes(image_set, {"il": "x"}), "'il'", "ill, well")
    refused(lambda: merge_classes(image_set, {"ill": "x", "well": "x"}), "only the class 'x'")


# --- tensorflow-datasets ------------------------------------------------------------------------

needs_array_record = pytest.mark.skipif(
    importlib.util.find_spec("array_record") is None,
    reason="no wheel of array_record for this platform",
)


def png(value: int, side: int = 20) -> io.BytesIO:
    pixels = np.random.default_rng(value).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    file.seek(0)
    return file


class SscjaxTinyCells(tfds.core.GeneratorBasedBuilder):
    """Six images in train and three in test; one of them grey, with subjects."""

    VERSION = tfds.core.Version("1.0.0")
    SPLIT_SIZES = {"train": 6, "test": 3}
    SUBJECTS = True

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["round", "angular"]),
        }
        if self.SUBJECTS:
            features["subject"] = tfds.features.Text()
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            name: self._generate_examples(name, size) for name, size in self.SPLIT_SIZES.items()
        }

    def _generate_examples(self, name, size):
        for index in range(size):
            example = {"image": png(index, 20 + index), "label": index % 2}
            if self.SUBJECTS:
                example["subject"] = f"{name}{index // 2}"
            yield index, example


class SscjaxSplitCells(SscjaxTinyCells):
    """The same with all three splits and without subjects."""

    SPLIT_SIZES = {"train": 2, "validation": 2, "test": 3}
    SUBJECTS = False


class SscjaxNoLabels(tfds.core.GeneratorBasedBuilder):
    """No class labels."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3))})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": png(0)}


@needs_array_record
def test_tfds_joins_splits_and_knows_subjects(tmp_path, caplog):
    image_set = load_tfds("sscjax_tiny_cells", 20, tmp_path)
    assert len(image_set) == 9
    assert image_set.splits is None
    assert image_set.classes == ("round", "angular")
    assert set(image_set.subjects.tolist()) == {"train0", "train1", "train2", "test0", "test1"}
    # Order is tfds's own; the images identify the examples: number i has seed and size i.
    expected = {}
    for index in range(6):
        path = tmp_path / "x.png"
        path.write_bytes(png(index, 20 + index).getvalue())
        expected[read_image(path, 20).tobytes()] = index
    for image, label, subject, file in zip(
        image_set.images, image_set.labels, image_set.subjects, image_set.files, strict=True
    ):
        index = expected[image.tobytes()]
        assert label == index % 2
        assert re.fullmatch(rf"(train|test){index // 2}", subject)
        assert file.split("/")[0] == subject[:-1]
    assert len(set(image_set.files.tolist())) == 9
    assert image_set.source == "tensorflow-datasets sscjax_tiny_cells/1.0.0"
    assert "optimistic" not in caplog.text


@needs_array_record
def test_tfds_keeps_three_splits(tmp_path, caplog):
    image_set = load_tfds("sscjax_split_cells", 16, tmp_path, ("angular", "round"))
    assert image_set.splits is not None
    assert image_set.splits.tolist() == ["train"] * 2 + ["val"] * 2 + ["test"] * 3
    assert image_set.classes == ("angular", "round")
    assert sorted(image_set.labels[:2].tolist()) == [0, 1]
    assert image_set.subjects.tolist() == image_set.files.tolist()
    assert "optimistic" in caplog.text


@needs_array_record
def test_tfds_mistakes(tmp_path, monkeypatch):
    refused(lambda: load_tfds("sscjax_no_such_set", 16, tmp_path), "'sscjax_no_such_set'")
    refused(lambda: load_tfds("sscjax_no_labels", 16, tmp_path), "features image", "'label'")
    refused(
        lambda: load_tfds("sscjax_tiny_cells", 16, tmp_path, ("round", "square")),
        "unknown class 'angular'",
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    refused(lambda: load_tfds("sscjax_tiny_cells", 16, tmp_path), "pip install")
