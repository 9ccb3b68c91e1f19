"""Listing folders and manifests, and one clear line for each mistake."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from image_folders import refused, write_folder, write_image, write_manifest

from sscjax.data.image_folder import list_images
from sscjax.data.image_io import read_image
from sscjax.data.loading import load

SIZE = 16


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
    image_set = load(tmp_path, SIZE)
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


def test_hidden_and_other_files_are_skipped(folder, caplog):
    write_image(folder / ".cache" / "x.png")
    write_image(folder / "ill" / ".thumbnails" / "x.png")
    write_image(folder / "loose.png")
    (folder / "ill" / "._a.png").write_bytes(b"resource fork")
    (folder / "ill" / "notes.txt").write_text("not an image", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert len(load(folder, SIZE)) == 3
    assert "ignored 1 file(s)" in caplog.text
    said = "ignored: 1 other file(s), 1 image(s) outside class folders"
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


def test_listing_decodes_nothing(folder):
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
    write_folder(folder, "well/p4/d.jpg")
    write_manifest(
        folder,
        "well/p1/c.bmp, well ,anna,test,x",
        "ill/p1/a.png,ill,bert,train,y",
        "",
        r"ill\p2\b.tif,ill,carl,valid,z",
        "well/p4/d.jpg,well,dora,training,",
        header="file,label,subject,split,stain",
    )
    for image_set in (load(folder, SIZE), load(folder / "manifest.csv", SIZE)):
        assert image_set.files.tolist()[:3] == ["well/p1/c.bmp", "ill/p1/a.png", "ill/p2/b.tif"]
        assert image_set.subjects.tolist() == ["anna", "bert", "carl", "dora"]
        assert image_set.classes == ("ill", "well")
        assert image_set.labels.tolist() == [1, 0, 0, 1]
        assert image_set.splits is not None
        assert image_set.splits.tolist() == ["test", "train", "val", "train"]
        np.testing.assert_array_equal(image_set.images[0], read_image(folder / "well/p1/c.bmp", 16))


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
        ("file;label;subject", ("row 2: one cell", "expected 3", "separator")),
        ("", ("missing column(s) file, label",)),
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
    refused(lambda: load(folder, SIZE), "row 2: ä does not exist")  # Windows text is read
    (folder / "manifest.csv").write_text('file,label,subject\n"a,b,c\n', encoding="utf-8")
    refused(lambda: load(folder, SIZE), "not a csv file")
    refused(lambda: load(folder / "other.csv", SIZE), "other.csv: no such folder or manifest")
