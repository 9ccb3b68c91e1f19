"""What folder levels, names and tables are taken for, and what is refused with which option."""

from __future__ import annotations

import codecs
import dataclasses
import unicodedata
from pathlib import Path

import pytest
from image_folders import refused, write_folder

from sscjax.data import understood
from sscjax.data.image_folder import list_images
from sscjax.data.layout import Reading
from sscjax.data.listing import Listing

SPLITS = ("train", "val", "test")
CLASSES = ("ill", "well")


def folder(path: Path, pattern: str, number: int = 6) -> Path:
    """Files of a pattern: {c} a class, {s} a split, {z} a magnification, {k} a number."""
    for s in SPLITS if "{s}" in pattern else ("",):
        for c in CLASSES if "{c}" in pattern else ("",):
            for z in ("40X", "100X") if "{z}" in pattern else ("",):
                for k in range(1, number + 1):
                    file = path / f"{pattern.format(s=s, c=c, z=z, k=k)}/{s}{c}{z}{k}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(b"")
    return path


def summary(found: Listing) -> tuple[tuple[str, ...], int, str, str]:
    """Classes, number of subjects, and where subjects and splits come from."""
    subjects = {record.subject for record in found.records}
    return (
        found.classes,
        len(subjects),
        found.understood["patients"],
        found.understood["splits"],
    )


@pytest.mark.parametrize(
    ("pattern", "option", "subjects"),
    [
        ("{s}/{c}", "", 36),
        ("{s}/{c}/{s}{c}{k}", "", 36),
        ("{c}/{c}{k}/{z}", "", 12),
        ("p{k}/{c}", "layout=patient/class", 6),
        ("{s}/{s}{k}/{c}", "layout=split/patient/class", 18),
        ("{c}/{s}", "layout=class/split", 36),
        ("{c}/{z}/{c}{k}", "layout=class/level/patient", 12),
        ("{c}/{z}/x/{c}{k}", "layout=class/level/level/patient", 12),
        ("{c}/{z}", "layout={label}/{zoom}/*", 24),
        ("{c}/SOB/{c}{k}", "layout=class/level/patient", 12),
        ("{s}/images/{c}", "layout=split/level/class", 36),
        ("{c}/{k}", "shared_subjects=different", 12),
        ("{c}/Patient {k}", "shared_subjects=same", 6),
        ("case_{k}/{c}/{z}", "layout=patient/class", 6),
    ],
)
def test_what_is_certain_is_read_and_the_rest_names_its_option(
    tmp_path: Path, pattern: str, option: str, subjects: int
) -> None:
    folder(tmp_path, pattern)
    reading = Reading()
    if option:
        field, _, value = option.partition("=")
        quoted = f"'{value}'" if "{" in value else value
        message = refused(lambda: list_images(tmp_path), f"--config.data.{field}={quoted}")
        assert "by='image'" not in message and "by image" not in message
        reading = dataclasses.replace(reading, **{field: value})  # type: ignore[arg-type]
    found = list_images(tmp_path, reading=reading)
    assert summary(found)[:2] == (CLASSES, subjects)
    for record in found.records:
        assert record.label in record.file.split("/")
        assert record.split == next((s for s in SPLITS if s in record.file.split("/")), None)


def test_a_class_list_says_what_levels_are(tmp_path: Path) -> None:
    found = list_images(folder(tmp_path, "p{k}/{c}"), CLASSES)
    assert summary(found) == (CLASSES, 6, "folder level 1", "none")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("patient", ("names no class",)),
        ("class/klass", ("'klass' is none of",)),
        ("class/class", ("label stands there twice",)),
        ("{label}/{label}/*", ("label stands there twice",)),
        ("{label/*", ("brace is open",)),
        ("{label}//*", ("level is empty",)),
    ],
)
def test_what_is_no_layout(layout: str, words: tuple[str, ...]) -> None:
    refused(lambda: Reading(layout=layout), "config.data.layout", "class/patient", *words)


def test_files_that_do_not_fit_a_given_layout_are_named(tmp_path: Path) -> None:
    folder(tmp_path, "{c}/{c}{k}")
    write_folder(tmp_path, "ill/loose.png")
    reading = Reading(layout="class/patient")
    refused(lambda: list_images(tmp_path, reading=reading), "ill/loose.png: does not fit")
    (tmp_path / "ill" / "loose.png").rename(tmp_path / "loose.png")
    found = list_images(tmp_path, reading=reading)  # a picture beside the folders is no sample
    assert found.understood["skipped"] == [{"kind": "image (outside the folders)", "number": 1}]


# --- names ----------------------------------------------------------------------------------------

NFC, NFD = (unicodedata.normalize(form, "fibr\u00f6s") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("normal", "Normal", "capitals"),
        ("stage 1", "stage1", "white space"),
        ("stage 1", "stage\u00a01", "white space"),
        ("FIBR\u00d6S", NFD, "capitals"),
    ],
)
@pytest.mark.parametrize("of_class", [True, False])
def test_names_that_differ_only_so(
    tmp_path: Path, one: str, other: str, why: str, of_class: bool
) -> None:
    write_folder(tmp_path, *(f"{k}.png" for k in range(4)))
    cells = [one, other, "late", "late"] if of_class else ["a", "b", "a", "b"]
    people = ["p1", "p2", "p3", "p4"] if of_class else [one, other, "p3", "p4"]
    lines = [f"{k}.png,{cells[k]},{people[k]}" for k in range(4)]
    text = "\n".join(["file,label,subject", *lines])
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    what = "class" if of_class else "subject"
    refused(lambda: list_images(tmp_path), what, f"differ only in {why};", "merge_spellings=True")
    found = list_images(tmp_path, reading=Reading(merge_spellings=True))
    assert len(found.classes) == 2
    assert len({record.subject for record in found.records}) == (4 if of_class else 3)
    assert len(found.understood["merged"]) == 1


def test_a_class_of_the_config_in_another_unicode_form_is_the_same(tmp_path: Path) -> None:
    write_folder(tmp_path, f"{NFD}/p1/a.png", "well/p2/b.png")
    assert list_images(tmp_path, (NFC, "well")).classes == (NFC, "well")
    refused(
        lambda: list_images(tmp_path, (NFC, "Well")), "'Well' and 'well' differ only in capitals"
    )


# --- tables ---------------------------------------------------------------------------------------

ROWS = [
    ("Image Name", "DIAGNOSIS", "Patient-ID", "Set"),
    ("a.png", "fibr\u00f6s", "M\u00fcller", "Training"),
    ("b.png", "normal", "2", "validation"),
    ("sub/c.png", "fibr\u00f6s", "3", "TEST"),
    ("d.png", "normal", "4", "test"),
    ("e.png", "normal", "5", "training"),
]


def saved(path: Path, kind: str) -> Path:
    """`ROWS` as a program saves them."""
    if kind == "xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in ROWS:
            book.active.append([int(cell) if cell.isdigit() else cell for cell in row])
        book.create_sheet("empty")
        book.save(path / "list.xlsx")
        return path / "list.xlsx"
    separator, encoding = kind.split()
    separator = {"tab": "\t"}.get(separator, separator)
    text = "\r\n".join(separator.join(row) for row in ROWS) + "\r\n"
    if encoding == "sep=":
        text, encoding = f"sep={separator}\r\n{text}", "utf-8"
    data = text.encode(encoding)
    if encoding == "utf-16-be":
        data = codecs.BOM_UTF16_BE + data
    suffix = ".tsv" if separator == "\t" else ".csv"
    (path / f"list{suffix}").write_bytes(data)
    return path / f"list{suffix}"


@pytest.mark.parametrize(
    "kind",
    [
        *(", utf-8", "; utf-8-sig", "; cp1252", "tab utf-16", "tab utf-16-be", ", utf-16-le"),
        *("; sep=", "xlsx"),
    ],
)
def test_tables_of_spreadsheet_programs(tmp_path: Path, kind: str) -> None:
    write_folder(tmp_path, "a.png", "b.png", "sub/c.png", "d.png", "e.png")
    found = list_images(saved(tmp_path, kind))
    read = [(one.file, one.label, one.subject, one.split) for one in found.records]
    splits = ("train", "val", "test", "test", "train")
    assert read == [(*row[:3], split) for row, split in zip(ROWS[1:], splits, strict=True)]
    assert found.understood["columns"] == {
        "image": "Image Name", "label": "DIAGNOSIS", "patient": "Patient-ID", "split": "Set",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "rows", "columns", "words"),
    [
        ("image,a,b,c", ["x,1,0,0", "y,0,1,0"], "", ()),
        ("image,a,b", ['x,"1,0","0,0"', 'y,"0,0","1,0"'], "label=a+b", ()),
        ("image,a,b,c", ["x,1,0,1", "y,0,1,0"], "", ("2 times a 1", "columns='label=a'")),
        ("image,a,b,sex", ["x,1,0,1", "y,0,1,0"], "label=a+b", ()),
        ("image,dx,diagnosis", ["x,a,b", "y,b,a"], "", ("several columns", "label=diagnosis")),
        ("image,dx,diagnosis", ["x,a,b", "y,b,a"], "label=dx", ()),
        ("image,dx", ["x,a", "y,b"], "label=foo", ("has no column 'foo'",)),
        ("image,fold,label", ["x,0,a", "y,1,b"], "", ()),
        ("name,dx", ["x,a", "y,b"], "", ("missing column(s) file", "name, dx", "file=COLUMN")),
        ("image,label", ["z,a", "y,b"], "", ("row 2: z does not exist",)),
    ],
)  # fmt: skip
def test_columns(
    tmp_path: Path, header: str, rows: list[str], columns: str, words: tuple[str, ...]
) -> None:
    write_folder(tmp_path, "deep/x.png", "deep/y.png")
    path = tmp_path / "list.csv"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    reading = Reading(columns=columns)
    if words:
        refused(lambda: list_images(path, reading=reading), "list.csv", *words)
        return
    found = list_images(path, reading=reading)
    assert {record.file: record.label for record in found.records} == {
        "deep/x.png": "a",
        "deep/y.png": "b",
    }
    assert {record.split for record in found.records} == {None}


def test_a_name_that_two_images_have_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "one/x.png", "two/x.png", "two/y.png")
    path = tmp_path / "list.csv"
    path.write_text("image,label\nx,a\ny,b\n", encoding="utf-8")
    refused(lambda: list_images(path), "row 2: x may be one/x.png or two/x.png")
    path.write_text("image,label\n/home/me/set/two/x.png,a\ny,b\n", encoding="utf-8")
    assert [record.file for record in list_images(path).records] == ["two/x.png", "two/y.png"]


def test_a_table_beside_class_folders_is_offered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(tmp_path, "ill/a.png", "well/b.png")
    path = tmp_path / "list.csv"
    path.write_text("image,label\na,ill\nb,well\n", encoding="utf-8")
    assert list_images(tmp_path).kind == "folder"
    assert f"--config.data.path={path} reads it" in caplog.text
    path.write_text("image,label,patient\na,ill,1\nb,well,2\n", encoding="utf-8")
    refused(
        lambda: list_images(tmp_path), f"--config.data.path={path}", "--config.data.layout=class"
    )
    assert list_images(path).kind == "manifest"
    assert list_images(tmp_path, reading=Reading(layout="class")).kind == "folder"


# --- what is shown --------------------------------------------------------------------------------


def test_what_was_understood_fits_the_screen(tmp_path: Path) -> None:
    long = "a class with a very long name " * 3
    write_folder(
        tmp_path, *(f"{c}/p{c[0]}{k}/s{k % 2}/a.png" for c in (long, "b") for k in range(3))
    )
    write_folder(tmp_path, "b/@eaDir/x.png", "b/Thumbs.png")
    (tmp_path / "b" / "Thumbs.png").rename(tmp_path / "b" / "Thumbs.db")
    (tmp_path / "b" / "notes.txt").write_text("", encoding="utf-8")
    found = list_images(tmp_path)
    described = understood.with_files(found.understood, [one.path for one in found.records])
    lines = understood.text(described).splitlines()
    assert max(map(len, lines)) <= understood.WIDTH
    text = " ".join(" ".join(lines).split())
    for words in (
        "1 .txt (no image), 1 @eaDir (system folder), 1 Thumbs.db (system file)",
        "folder level 3: s0, s1",
        "patients from folder level 2",
        "splits none",
        "24 x 20 pixels; PNG; 8 bit RGB",
        "class/patient (found out)",
    ):
        assert words in text
    assert [one["patients"] for one in described["classes"]] == [3, 3]
