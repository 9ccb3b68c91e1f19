"""Public image sets, rebuilt small by their published descriptions: read rightly, or one line.

Every refusal names the option or the step that leads to the right reading, and where it is an
option, giving it does.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from small_dicom import dicom_file

from sscjax.data.image_folder import list_images
from sscjax.data.layout import Reading
from sscjax.data.listing import Listing
from sscjax.errors import UserError


def put(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"listed, not decoded")


def table(path: Path, header: str, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def ham10000(root: Path) -> None:
    put(root, *(f"HAM10000_images_part_{1 + k % 2}/ISIC_00243{k:02d}.jpg" for k in range(12)))
    table(
        root / "HAM10000_metadata.csv",
        "lesion_id,image_id,dx,dx_type,age,sex,localization",
        *(
            f"HAM_{k // 2:07d},ISIC_00243{k:02d},{('nv', 'mel', 'bkl')[k // 2 % 3]},histo,60.0,f,"
            for k in range(12)
        ),
    )


def isic2019(root: Path) -> None:
    put(root, *(f"ISIC_2019_Training_Input/ISIC_{k:07d}.jpg" for k in range(6)))
    classes = ("MEL", "NV", "BCC")
    table(
        root / "ISIC_2019_Training_GroundTruth.csv",
        "image," + ",".join(classes),
        *(f"ISIC_{k:07d},{','.join(f'{float(k % 3 == j)}' for j in range(3))}" for k in range(6)),
    )


def breakhis(root: Path) -> None:
    for kind, subtypes in {"benign": ("A", "F"), "malignant": ("DC", "LC")}.items():
        for subtype in subtypes:
            for patient in range(3):
                name = f"SOB_{kind[0].upper()}_{subtype}_14-{22549 + 7 * patient}{subtype}"
                for zoom in ("40X", "100X", "200X", "400X"):
                    file = f"{name.replace('_14', '-14')}-{zoom[:-1]}-001.png"
                    put(root, f"{kind}/SOB/{subtype}_type/{name}/{zoom}/{file}")


def busi(root: Path) -> None:
    for kind in ("benign", "malignant", "normal"):
        for k in range(1, 5):
            put(root, f"{kind}/{kind} ({k}).png", f"{kind}/{kind} ({k})_mask.png")


def idc(root: Path) -> None:
    for patient in (10253, 10254, 8863, 9037, 12748):
        for label in (0, 1):
            for x in (101, 151):
                put(root, f"{patient}/{label}/{patient}_idx5_x{x}_y1_class{label}.png")


def idc_flat(root: Path) -> None:
    for patient in (10253, 10254, 8863, 9037, 12748):
        for label in (0, 1):
            for x in (101, 151):
                put(root, f"{label}/{patient}_idx5_x{x}_y1_class{label}.png")


def nct_crc(root: Path) -> None:
    for tissue in ("ADI", "BACK", "TUM"):
        put(
            root,
            *(f"{tissue}/{tissue}-{code}.tif" for code in ("AAAFLCLY", "AACDFKMN", "TYRQLKVP")),
        )


def pcam(root: Path) -> None:
    put(root, *(f"train/{k:040x}.tif" for k in range(6)), *(f"test/{k:040x}.tif" for k in (7, 8)))
    rows = [f"{k:040x},{k % 2}" for k in range(6)]
    table(root / "train_labels.csv", "id,label", *rows)
    table(root / "sample_submission.csv", "id,label", *(f"{k:040x},0" for k in (7, 8)))


def medmnist(root: Path) -> None:
    root.mkdir()
    images, labels = np.zeros((2, 28, 28, 3), np.uint8), np.zeros((2, 1), np.uint8)
    np.savez(root / "pathmnist.npz", train_images=images, train_labels=labels)


def chest(root: Path) -> None:
    for split, number in (("train", 3), ("val", 1), ("test", 2)):
        put(root, *(f"{split}/NORMAL/IM-{split}-{k:04d}-0001.jpeg" for k in range(number)))
        put(root, *(f"{split}/PNEUMONIA/{split}{k}_virus_{k}.jpeg" for k in range(number)))
    put(root, "train/.DS_Store", "__MACOSX/train/NORMAL/._IM-train-0000-0001.jpeg")


def chexpert(root: Path) -> None:
    header = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Edema"
    rows = []
    for k in range(6):
        file = f"train/patient{k:05d}/study1/view1_frontal.jpg"
        put(root, file)
        rows.append(
            f"CheXpert-v1.0-small/{file},Female,60,Frontal,AP,{'1.0,,' if k % 2 else ',1.0,-1.0'}"
        )
    table(root / "train.csv", header, *rows)


def covid_ct(root: Path) -> None:
    put(root, *(f"CT_COVID/2020.01.24.{k}-p15-{k}.png" for k in range(4)))
    put(root, *(f"CT_NonCOVID/{k}.png" for k in range(4)))
    table(root / "COVID-CT-MetaInfo.csv", "File name,Patient ID,Age,Gender", "a.png,1,60,M")


def kvasir(root: Path) -> None:
    for kind in ("dyed-lifted-polyps", "esophagitis", "normal-cecum"):
        put(root, *(f"{kind}/{k:08x}-c6b8-4a8b.jpg" for k in range(3)))


def aptos(root: Path) -> None:
    put(
        root, *(f"train_images/{k:012x}.png" for k in range(10, 16)), "test_images/0005cfc8afb6.png"
    )
    rows = [f"{k:012x},{k % 3}" for k in range(10, 16)]
    table(root / "train.csv", "id_code,diagnosis", *rows)
    table(root / "test.csv", "id_code", "0005cfc8afb6")
    table(root / "sample_submission.csv", "id_code,diagnosis", "0005cfc8afb6,0")


def messidor2(root: Path) -> None:
    put(root, *(f"IMAGES/2005100312231{k}.png" for k in range(6)))
    table(
        root / "messidor_data.csv",
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable",
        *(f"2005100312231{k}.png,{k % 3},0,1" for k in range(6)),
    )


def messidor1(root: Path) -> None:
    put(root, *(f"2005102{k}_43808_0100_PP.tif" for k in range(4)))
    (root / "Annotation_Base11.xls").write_bytes(b"\xd0\xcf\x11\xe0 an old Excel file")


def panda(root: Path) -> None:
    put(root, *(f"train_images/{k:032x}.tiff" for k in range(6)))
    providers = ("karolinska", "radboud")
    rows = [f"{k:032x},{providers[k % 2]},{k % 3},3+{k % 3}" for k in range(6)]
    table(root / "train.csv", "image_id,data_provider,isup_grade,gleason_score", *rows)


def camelyon16(root: Path) -> None:
    for kind in ("normal", "tumor"):
        put(root, *(f"training/{kind}/{kind}_{k:03d}.tif" for k in range(1, 4)))
    put(root, "training/lesion_annotations.zip", "testing/lesion_annotations.zip", "README.md")
    put(root, *(f"testing/images/test_{k:03d}.tif" for k in range(1, 3)))
    table(
        root / "testing" / "reference.csv", "test_001,Tumor,IDC,Macro", "test_002,Normal,None,None"
    )


def tcga(root: Path) -> None:
    for k in range(3):
        name = f"TCGA-A7-A0C{k}-01Z-00-DX1.{k:08d}.svs"
        put(root, f"{k:08d}-uuid/{name}")
    table(root / "clinical.tsv", "case_submitter_id\tajcc_stage", "TCGA-A7-A0C0\tStage I")


def kaggle(root: Path) -> None:
    put(root, *(f"images/img_{k}.jpg" for k in range(6)))
    table(
        root / "train.csv",
        "Image_ID;Patient_ID;Target",
        *(f"img_{k};p{k // 2};{k % 2}" for k in range(6)),
    )


# QuPath names tiles `SLIDE [d=4,x=0,y=0,w=2048,h=2048].jpg`, without `d=` at full resolution, and
# labels alike as png, or with `-labelled` (qupath-core, TileExporter.java); folders are by scripts.
PLACES = ("x=0,y=0,w=512,h=512", "d=4,x=2048,y=0,w=2048,h=2048")


def qupath(root: Path) -> None:
    for slide in ("S-21-0101", "S-21-0102", "S-21-0103"):
        for label in ("Stroma", "Tumor"):
            put(root, *(f"{label}/{slide} [{place}].png" for place in PLACES))


def qupath_labelled(root: Path) -> None:
    qupath(root)
    for file in sorted(root.rglob("*.png")):
        if "d=4" in file.name:  # a png of labels beside a jpg
            file.rename(file.with_suffix(".jpg"))
            put(root, file.relative_to(root).as_posix())
        else:
            put(root, file.relative_to(root).with_name(f"{file.stem}-labelled.png").as_posix())


def qupath_slides(root: Path) -> None:
    for slide in ("S-21-0101", "S-21-0102", "S-21-0103"):
        put(root, *(f"{slide}/{slide} [{place}].jpg" for place in PLACES))
        put(root, f"{slide}/{slide}-tiles.json")


def label_studio(root: Path) -> None:
    """Columns in the order of their names, text in quotes, `UPLOAD/PROJECT/8 digits-NAME`."""
    put(root, *(f"scan_{k}.png" for k in range(6)))
    columns = (
        "annotation_id annotator choice created_at id image lead_time updated_at was_cancelled"
    )
    header = ",".join(f'"{name}"' for name in columns.split())
    rows = [
        f'{k},"me@here.org","{("benign", "malignant")[k % 2]}","2024-01-01T10:00:00Z",{10 + k},'
        f'"/data/upload/1/0a1b2c3{k}-scan_{k}.png",1.5,"2024-01-01T10:00:00Z","False"'
        for k in range(6)
    ]
    table(root / "project-1-at-2024-01-01-10-00-0a1b2c3d.csv", header, *rows)


def label_studio_local(root: Path) -> None:
    """Of images in local storage the address of the server stands before the path."""
    put(root, *(f"scans/scan_{k}.png" for k in range(6)))
    rows = [
        f'{k},"{("benign", "malignant")[k % 2]}","/data/local-files/?d=mnt/scans/scan_{k}.png"'
        for k in range(6)
    ]
    table(root / "project-2-at-2024-01-01.csv", '"annotation_id","choice","image"', *rows)


def pacs(root: Path) -> None:
    """DICOM PS3.10: names of eight capitals and digits without suffix, listed in a DICOMDIR."""
    pytest.importorskip("pydicom", reason="extra dicom")
    for patient in range(1, 5):
        for image in range(1, 3):
            place = f"DICOM/PAT{patient:05d}/ST000001/SE000001/IM{image:06d}"
            path = root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            dicom_file(path, np.zeros((8, 8), np.uint8), "MONOCHROME2", PatientID=f"MRN{patient}")
    put(root, "DICOMDIR", "VIEWER.EXE", "AUTORUN.INF")


def pacs_table(root: Path) -> None:
    pacs(root)
    files = sorted(path.relative_to(root) for path in root.rglob("IM0*"))
    rows = [f"{file.as_posix()},{('benign', 'malignant')[k // 4]}" for k, file in enumerate(files)]
    table(root / "labels.csv", "file,label", *rows)


@dataclasses.dataclass(frozen=True)
class Case:
    """A layout, and what has to come of it.

    Attributes:
      make: writes it.
      images: images by class, once it is read.
      patients: how many there are; None where every image counts as one.
      refusal: what the line must say; '' where it is read at once.
      splits: images of train, val and test.
    """

    make: Callable[[Path], None]
    images: dict[str, int] = dataclasses.field(default_factory=dict)
    patients: int | None = None
    refusal: str = ""
    splits: Sequence[int] = ()


CASES = [
    Case(ham10000, {"bkl": 4, "mel": 4, "nv": 4}, patients=6),
    Case(isic2019, {"BCC": 2, "MEL": 2, "NV": 2}),
    Case(
        breakhis,
        {"benign": 24, "malignant": 24},
        patients=12,
        refusal="--config.data.layout=class/level/level/patient ",
    ),
    Case(busi, {"benign": 4, "malignant": 4, "normal": 4}),
    Case(idc, {"0": 10, "1": 10}, patients=5, refusal="--config.data.layout=patient/class "),
    Case(idc_flat, {"0": 10, "1": 10}),
    Case(nct_crc, {"ADI": 3, "BACK": 3, "TUM": 3}),
    Case(pcam, {"0": 3, "1": 3}),
    Case(medmnist, refusal="NumPy archive"),
    Case(chest, {"NORMAL": 6, "PNEUMONIA": 6}, splits=(6, 2, 4)),
    Case(chexpert, refusal="--config.data.columns='label=No Finding'"),
    Case(covid_ct, {"CT_COVID": 4, "CT_NonCOVID": 4}),
    Case(kvasir, {"dyed-lifted-polyps": 3, "esophagitis": 3, "normal-cecum": 3}),
    Case(aptos, {"0": 2, "1": 2, "2": 2}),
    Case(messidor2, {"0": 2, "1": 2, "2": 2}),
    Case(messidor1, refusal="old Excel file: save it as .xlsx"),
    Case(panda, {"0": 2, "1": 2, "2": 2}),
    Case(
        camelyon16, {"normal": 3, "tumor": 3}, refusal="--config.data.path={root}/training "
    ),
    Case(tcga, refusal="sscjax slides {root}"),
    Case(kaggle, {"0": 3, "1": 3}, patients=3),
    Case(qupath, {"Stroma": 6, "Tumor": 6}),
    Case(qupath_labelled, {"Stroma": 6, "Tumor": 6}),
    Case(qupath_slides, refusal="are slides"),
    Case(label_studio, {"benign": 3, "malignant": 3}),
    Case(label_studio_local, {"benign": 3, "malignant": 3}),
    Case(pacs, refusal="is the export of a PACS"),
    Case(pacs_table, {"benign": 4, "malignant": 4}, patients=4),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.make.__name__)
def test_public_layouts(tmp_path: Path, case: Case) -> None:
    root = tmp_path / "set"
    case.make(root)
    place, reading = root, Reading()
    if case.refusal:
        with pytest.raises(UserError) as caught:
            list_images(root)
        line = str(caught.value)
        assert case.refusal.format(root=root) in line + " " and "\n" not in line
        assert "by='image'" not in line
        if not case.images:
            return
        place, reading = followed(root, case.refusal.format(root=root))
    check(list_images(place, reading=reading), case)


def followed(root: Path, refusal: str) -> tuple[Path, Reading]:
    """What to read, and how, by the option of a refusal."""
    [(field, value)] = re.findall(r"--config\.data\.(\w+)=(.*)", shlex.split(refusal)[0])
    return (Path(value), Reading()) if field == "path" else (root, Reading(**{field: value}))


def check(found: Listing, case: Case) -> None:
    labels = [record.label for record in found.records]
    assert {name: labels.count(name) for name in found.classes} == case.images
    patients = {record.subject for record in found.records}
    assert len(patients) == (case.patients or len(labels))
    splits = [record.split for record in found.records]
    if case.splits:
        assert [splits.count(name) for name in ("train", "val", "test")] == list(case.splits)
    else:
        assert set(splits) == {None}


def test_labels_of_tiles_are_masks(tmp_path: Path) -> None:
    qupath_labelled(tmp_path / "set")
    records = list_images(tmp_path / "set").records
    assert all(record.masks and len(record.masks) == 1 for record in records)


@pytest.mark.parametrize(
    ("make", "option", "patients"),
    [
        (idc_flat, "{label}/{subject}_*", 5),
        (qupath, "{label}/{subject} [*", 3),
        (breakhis, "{label}/SOB/{type}/{subject}/{zoom}/*", 12),
        (chest, "{split}/{label}/*", None),
    ],
)
def test_patterns_read_patients(
    tmp_path: Path,
    make: Callable[[Path], None],
    option: str,
    patients: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root = tmp_path / "set"
    make(root)
    if make in (idc_flat, qupath):
        list_images(root)
        assert f"--config.data.layout='{option}'" in caplog.text  # the warning names it
    found = list_images(root, reading=Reading(layout=option))
    assert len({record.subject for record in found.records}) == (patients or len(found.records))
