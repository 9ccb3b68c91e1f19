"""Folders and tables that would be read without a word, and wrongly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from image_folders import refused, write_image

from sscjax.data import inputs, loading, tables
from sscjax.data.folder_names import copies
from sscjax.data.image_folder import list_images
from sscjax.data.layout import FIND_OUT, Reading
from sscjax.data.slides.listing import slides_of


def touch(root: Path, *files: str) -> Path:
    """Empty files: what is listed is not opened."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def files(root: Path, reading: Reading = FIND_OUT) -> list[str]:
    return [record.file for record in list_images(root, reading=reading).records]


# --- companions -----------------------------------------------------------------------------------

IMAGES = ("ill/p/a.png", "well/q/b.png")


@pytest.mark.parametrize(
    "name",
    [
        *("ill/p/mask_a.png", "ill/p/seg-a.png", "ill/p/GT_a.tif", "ill/segmentation/p/a.png"),
        *("ill/p/labels/a.png", "ill/p/a mask.png", "ill/p/a.seg.png"),
    ],
)
def test_masks_by_further_names(tmp_path: Path, name: str) -> None:
    found = list_images(touch(tmp_path, *IMAGES, name)).records
    assert [record.file for record in found] == list(IMAGES)
    assert found[0].masks == (tmp_path / name,)


def test_masks_and_images_that_are_numbered_alike(tmp_path: Path) -> None:
    names = ("ill/img_1.png", "ill/mask_1.png", "well/b_image.png", "well/b_mask.png")
    found = list_images(touch(tmp_path, *names)).records
    assert [(one.file, [path.name for path in one.masks or ()]) for one in found] == [
        ("ill/img_1.png", ["mask_1.png"]),
        ("well/b_image.png", ["b_mask.png"]),
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("ill/p/a_overlay.png", "ill/p/a_annotated.jpg", "ill/p/a-heatmap.png"),
        *("ill/p/overlay_a.png", "ill/p/a_Labeled_2.png", "ill/p/overlays/a.png"),
        *("ill/overlays/p/a_overlay.png", "overlays/ill/p/a.png"),
    ],
)
def test_drawings_on_an_image_are_skipped_and_counted(tmp_path: Path, name: str) -> None:
    found = list_images(touch(tmp_path, *IMAGES, name))
    assert [record.file for record in found.records] == list(IMAGES)
    assert {"kind": "picture drawn on an image", "number": 1} in found.understood["skipped"]
    assert len(inputs.find(tmp_path / "ill", ())) == 1
    assert not any(record.masks for record in found.records)


def test_a_drawing_without_its_image(tmp_path: Path) -> None:
    """Where all are called so, they are the images; where some have one, an image is missing."""
    touch(tmp_path, "ill/a_overlay.png", "well/b_overlay.png")
    assert len(files(tmp_path)) == 2
    touch(tmp_path, "well/b.png")
    refused(lambda: files(tmp_path), "a_overlay.png: found a drawing without its image")


@pytest.mark.parametrize(
    "names",
    [
        ("with_mask/with_mask_1.png", "without_mask/without_mask_1.png"),
        ("WithMask/1-with-mask.jpg", "WithoutMask/2-without-mask.jpg", "incorrect_mask/3_mask.jpg"),
        ("mask/1.jpg", "no_mask/1.jpg"),
        ("train/with_mask/1.png", "train/without_mask/2_mask.png", "test/with_mask/3.png",
         "test/without_mask/4.png"),
    ],
)  # fmt: skip
def test_classes_of_people_with_a_mask_over_the_face(tmp_path: Path, names: tuple[str]) -> None:
    found = list_images(touch(tmp_path, *names)).records
    assert sorted(record.file for record in found) == sorted(names)
    assert not any(record.masks for record in found)


# --- copied folders -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("late - Copy", "late - Copy (2)", "late (2)", "late copy", "late copy 2", "late (Kopie)"),
        *("Kopie von late", "late - Kopie", "Copie de late", "late (another copy)", "Copy of Late"),
        *("late - copia", "late (3rd copy)"),
    ],
)
@pytest.mark.parametrize("pattern", ["early/p1|{}/p2|late/p3", "early/p/late|early/p/{}|late/q"])
def test_a_copied_folder_is_no_class_and_no_patient(
    tmp_path: Path, name: str, pattern: str
) -> None:
    touch(tmp_path, *(f"{part.format(name)}/a.png" for part in pattern.split("|")))
    refused(lambda: files(tmp_path), f"{name}: is a copy of the folder late", "remove it")


def test_what_is_no_copy(tmp_path: Path) -> None:
    assert copies(["stage (1)", "stage (2)", "copy", "hardcopy", "late 2", "late"]) == {}
    touch(tmp_path, "late/a.png", "late (2)/b.png")
    assert list_images(tmp_path, ("late", "late (2)")).classes == ("late", "late (2)")


# --- patients -------------------------------------------------------------------------------------

NUMBERED = [f"{c}/{k}/a.png" for c in ("early", "late") for k in range(1, 5)]


@pytest.mark.parametrize(
    ("others", "reading"),
    [
        ([f"rare/{k}/a.png" for k in (31, 32, 33)], Reading()),
        ([f"rare/{k}/a.png" for k in (31, 32, 33)], Reading("class/patient")),
        ([f"rare/{k}/a.png" for k in ("x", "y")], Reading()),
        ([f"rare/{k}/a.png" for k in (31, 32)] + ["most/1/a.png"], Reading()),
    ],
)
def test_numbers_that_restart_in_two_of_three_classes(
    tmp_path: Path, others: list[str], reading: Reading
) -> None:
    touch(tmp_path, *NUMBERED, *others)
    refused(
        lambda: files(tmp_path, reading),
        *("the classes early and late (1, 2, 3, 4)", "shared_subjects=different if"),
    )
    apart = list_images(tmp_path, reading=Reading(reading.layout, shared_subjects="different"))
    assert len({one.subject for one in apart.records}) == len(NUMBERED) + len(others)


def test_numbers_that_restart_in_file_names(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{k}_{x}.png" for c in ("early", "late") for k in (1, 2) for x in "ab"))
    reading = Reading("{label}/{subject}_*")
    refused(lambda: files(tmp_path, reading), "4 subjects would count as 2")


def test_names_in_two_of_three_classes_are_people(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{who}/a.png" for c in ("early", "late") for who in ("anna", "bert")))
    touch(tmp_path, "well/carl/a.png", "well/dora/a.png")
    assert len({one.subject for one in list_images(tmp_path).records}) == 4


def test_numbers_that_restart_in_a_table_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"{file},{file.split('/')[0]},{file.split('/')[1]}" for file in NUMBERED]
    touch(tmp_path, *NUMBERED)
    path = table(tmp_path / "manifest.csv", "file,label,subject", *rows)
    found = list_images(tmp_path)
    assert len({one.subject for one in found.records}) == 4
    assert "8 subjects would count as 4; --config.data.shared_subjects=different" in caplog.text
    apart = list_images(path, reading=Reading(shared_subjects="different"))
    assert len({one.subject for one in apart.records}) == 8


# --- splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_table", [True, False])
@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("inner", ["", "/{}p"])
def test_a_class_that_is_never_trained(
    tmp_path: Path, of_table: bool, split: str, inner: str
) -> None:
    places = [f"{s}/{c}" for s in ("train", "val", "test") for c in ("ill", "well")]
    places = [
        f"{place}{inner.format(place[0] + place[-3:])}" for place in (*places, f"{split}/rare")
    ]
    touch(tmp_path, *(f"{place}/a.png" for place in places))
    if of_table:
        rows = [f"{p}/a.png,{p.split('/')[1]},{p.split('/')[0]}" for p in places]
        table(tmp_path / "manifest.csv", "file,label,split", *rows)
    refused(lambda: files(tmp_path), f"the class 'rare' has images in {split} and none in train")


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "rows", "option"),
    [
        ("image,male,smoker", ("1,0", "0,1"), "label=male+smoker"),
        ("image,benign,malignant", ("1,0", "0,1"), "label=benign+malignant"),
        ("image,left,ulcer,scar", ("0,1,0", "0,0,1"), "label=ulcer+scar"),
        ("image,diabetes,Is Train", ("1,0", "0,1"), "label=diabetes+Is Train"),
    ],
)
def test_two_findings_that_exclude_each_other_by_chance(
    tmp_path: Path, header: str, rows: tuple[str, str], option: str
) -> None:
    touch(tmp_path, "a.png", "b.png")
    path = table(tmp_path / "list.csv", header, f"a.png,{rows[0]}", f"b.png,{rows[1]}")
    refused(lambda: files(path), "has no column for the label", f"--config.data.columns='{option}'")
    if "Train" not in header:
        assert len(files(path, Reading(columns=option))) == 2


def test_patients_of_a_table_without_labels(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{c}{k}.png" for c in ("ill", "well") for k in range(4)))
    rows = [f"{c}{k},p{c}{k // 2},60" for c in ("ill", "well") for k in range(4)]
    path = table(tmp_path / "patients.csv", "image,Patient,age", *rows)
    found = list_images(tmp_path)
    assert {one.subject for one in found.records} == {"pill0", "pill1", "pwell0", "pwell1"}
    assert found.understood["patients"] == "column Patient of patients.csv"
    touch(tmp_path, "ill/new.png")
    refused(lambda: files(tmp_path), "of 8 of 9 images (column Patient), not of ill/new.png")
    assert len(files(tmp_path, Reading("class"))) == 9
    table(path, "image,Patient,age", *rows, "new.png,p1,1", "ill/new.png,p2,1")
    refused(lambda: files(tmp_path), "row 11", "is of the patient p2, and of p1")
    table(path, "image,Patient,age", *rows, "new.png,p1,1")
    table(tmp_path / "more.tsv", "file\tcase", "new.png\tx")
    refused(lambda: files(tmp_path), "and so does")


@pytest.mark.parametrize(
    "names",
    [
        ("manifest.csv", "manifest.tsv"),
        ("manifest.csv", "Manifest.CSV"),
        ("manifest.tsv", "manifest.xlsx"),
    ],
)
def test_two_manifests(tmp_path: Path, names: tuple[str, str]) -> None:
    touch(tmp_path, "a.png", "b.png")
    for name in names:
        table(tmp_path / name, "file\tlabel", "a.png\tx", "b.png\ty")
    for call in (lambda: list_images(tmp_path), lambda: inputs.find(tmp_path, ())):
        refused(call, *names, f"--config.data.path={tmp_path / names[1]}")


# --- pipes ----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["ill/p/a_mask.png", "ill/p/mask_a.png", "list.csv", "b.vms"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    for number, file in enumerate(IMAGES):
        write_image(tmp_path / file, number)
    os.mkfifo(tmp_path / name)
    if name.endswith("vms"):
        assert slides_of([tmp_path / name], tmp_path) == [tmp_path / name]
    elif name.endswith("csv"):
        assert len(files(tmp_path)) == 2
        refused(lambda: tables.read(tmp_path / name), "is a pipe")
    else:
        refused(lambda: loading.load(tmp_path, 16, corrupt="error"), "is a pipe, socket or device")
