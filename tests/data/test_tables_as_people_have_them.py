"""Titles, remarks and addresses in tables, headers in other languages, folders in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_folders import refused

from sscjax.data import tables
from sscjax.data.image_folder import list_images

IMAGES = ("x/a.png", "x/b.png", "x/c.png", "x/d.png")
ROWS = ("a.png,ill,p1", "b.png,well,p2", "c.png,ill,p3", "d.png,well,p4")


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def written(root: Path, *lines: str) -> Path:
    touch(root, *IMAGES)
    path = root / "list.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> list[tuple[str, str, str]]:
    return [(one.file, one.label, one.subject) for one in list_images(path).records]


EXPECTED = [(f"x/{file}", label, who) for file, label, who in (row.split(",") for row in ROWS)]


@pytest.mark.parametrize(
    ("above", "header"),
    [
        (("Skin biopsies 2024",), "file,label,patient"),
        (("Skin biopsies", "", "Department of Pathology,,"), "file,label,patient"),
        (("# exported 2024-01-01", "# by A, B, C and D"), "file,label,patient"),
        ((), "# file,label,patient"),
    ],
)
def test_lines_above_the_header(tmp_path: Path, above: tuple[str, ...], header: str) -> None:
    path = written(tmp_path, *above, header, *ROWS)
    assert read(path) == EXPECTED
    said = tables.read(path).how
    number = len([line for line in above if line])
    assert said == (f"{number} line(s) above the header not read" if number else "")


def test_a_title_in_an_excel_file(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    touch(tmp_path, *IMAGES)
    book = openpyxl.Workbook()
    for line in ("Skin biopsies", "file,label,patient", *ROWS):
        book.active.append(line.split(","))
    book.save(tmp_path / "list.xlsx")
    assert read(tmp_path / "list.xlsx") == EXPECTED


def test_cells_of_several_lines(tmp_path: Path) -> None:
    path = written(tmp_path, 'file,"Dia\ngnosis\n(late)",patient', 'a.png,"very\r\nill",p1')
    refused(lambda: read(path), "missing column(s) label, found file, Dia gnosis (late), patient;")
    table = tables.read(path)
    # A name keeps its own: a file may be called so.
    assert table.rows == [(5, ["a.png", "very\r\nill", "p1"])]


@pytest.mark.parametrize("footer", ["Total: 4", "Total: 4,,", ",,4 images", "exported by A"])
def test_a_line_below_the_table(tmp_path: Path, footer: str) -> None:
    path = written(tmp_path, "file,label,patient", *ROWS, footer)
    refused(lambda: read(path), "row 6: ", "delete the row")


def test_remarks_in_the_table(tmp_path: Path) -> None:
    path = written(tmp_path, "file,label,patient", *ROWS[:2], "# from here on 2025", *ROWS[2:])
    assert read(path) == EXPECTED


def test_a_title_that_hides_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, "Skin, 2024", "file;label", "a.png;ill")
    refused(lambda: read(path), "missing column(s) file", "delete the lines above it")


@pytest.mark.parametrize(
    "name", ["https://host/images/{}?v=2", "{}?v=2", "/static/x/{}#t=1", "x/{}?raw=true&x=a/b"]
)
def test_addresses(tmp_path: Path, name: str) -> None:
    rows = [",".join([name.format(row[:5]), row[6:]]) for row in ROWS]
    assert read(written(tmp_path, "image,label,patient", *rows)) == EXPECTED


@pytest.mark.parametrize(
    "header",
    [
        *("Bild;Diagnose;Patient", "Dateiname;Klasse;Fall-Nr.", "Bilddatei;Befund;Patientennummer"),
        *("image;classe;patient", "Fichier;Diagnostic;Dossier", "imagen;clase;paciente"),
        *("Archivo;Diagnóstico;Caso", "Pfad;Kategorie;Proband"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_headers_in_other_languages(tmp_path: Path, header: str, encoding: str) -> None:
    path = written(tmp_path)
    lines = [header, *(row.replace(",", ";") for row in ROWS)]
    path.write_text("\n".join(lines), encoding=encoding)
    assert read(path) == EXPECTED


def test_two_columns_that_may_be_the_label(tmp_path: Path) -> None:
    path = written(tmp_path, "Bild,Diagnose,Befund", *ROWS)
    refused(lambda: read(path), "several columns may hold the label (Diagnose, Befund)")


@pytest.mark.parametrize("classes", [(), ("ill", "well")])
@pytest.mark.parametrize("inner", ["{}", "{}/p{}"])
def test_a_folder_around_the_classes(tmp_path: Path, classes: tuple[str, ...], inner: str) -> None:
    root = tmp_path / "skin"
    touch(root, *(f"skin/{inner.format(c, c)}/a.png" for c in ("ill", "well")))
    refused(lambda: list_images(root, classes), f"--config.data.path={root / 'skin'} ")
    assert list_images(root / "skin", classes).classes == ("ill", "well")
