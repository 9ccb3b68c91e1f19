"""Files beside images that are no images: masks of any usual name and kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_dicom import whole_slide

from sscjax.data import image_folder, inputs, loading, masks
from sscjax.data.pixel_range import Decoding
from sscjax.data.slides import cut
from sscjax.data.slides.listing import slides_of
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.inference import slides

SIDE = 24
RNG = np.random.default_rng(0)


def put(root: Path, name: str, values: np.ndarray | None = None, mode: str = "") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (SIDE, SIDE, 3), np.uint8) if values is None else values
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def spot(corner: int, value: int = 255) -> np.ndarray:
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[corner : corner + 6, corner : corner + 6] = value
    return values


@pytest.mark.parametrize(
    "name",
    [
        *("ill/p/a_mask.png", "ill/p/a_mask_1.png", "ill/p/a-mask.png", "ill/p/a_Mask.PNG"),
        *("ill/p/a_seg.png", "ill/p/a_segmentation.tif", "ill/p/a_mask.bmp", "ill/p/masks/a.png"),
        *("ill/masks/p/a.png", "masks/ill/p/a.png", "ill/p/Masks/a_mask.png"),
        *("ill/p/a_gt.png", "ill/p/a_GroundTruth.png", "ill/p/a_annotation_1.png"),
    ],
)
def test_a_mask_by_any_name_is_no_image(tmp_path: Path, name: str) -> None:
    put(tmp_path, "ill/p/a.png")
    put(tmp_path, "well/q/b.png")
    put(tmp_path, name, spot(3, 2))
    found = loading.load(tmp_path, SIDE)
    assert found.files.tolist() == ["ill/p/a.png", "well/q/b.png"]
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks[0], spot(3, 2))
    assert (found.masks[1] == masks.IGNORE).all()
    assert len(inputs.find(tmp_path / "ill", ())) == 1


def test_masks_of_a_folder_of_images(tmp_path: Path) -> None:
    for patient in ("ill/p", "ill/q", "well/r", "well/s"):
        put(tmp_path, f"{patient}/images/a.png")
        put(tmp_path, f"{patient}/masks/a.png", spot(2, 1))
    found = loading.load(tmp_path, SIDE)
    assert sorted(set(found.subjects.tolist())) == ["p", "q", "r", "s"]
    assert found.masks is not None
    assert all((found.masks[k] == spot(2, 1)).all() for k in range(4))


@pytest.mark.parametrize("mode", ("L", "1", "RGB", "P", "RGBA", "I;16", "colour"))
def test_two_valued_masks_of_any_kind(tmp_path: Path, mode: str) -> None:
    """Black and white, as programs write them, are class 0 and 1; two lesions are one mask."""
    for name, corners in (("ill/p/a", (2, 12)), ("well/q/b", (5,))):
        put(tmp_path, f"{name}.png")
        for number, corner in enumerate(corners):
            values = spot(corner)
            if mode == "colour":
                values = np.dstack([values, values * 0, values * 0])
            if mode == "I;16":
                values = values.astype(np.uint16)
            kept = "" if mode in ("colour", "I;16") else mode
            put(tmp_path, f"{name}_mask{f'_{number}' if number else ''}.png", values, kept)
    found = loading.load(tmp_path, SIDE)
    assert found.masks is not None
    # A palette of two colours has the indices 0 and 1, or 0 and 255: either is class 1.
    np.testing.assert_array_equal(found.masks[0] > 0, (spot(2) | spot(12)) > 0)
    if mode != "P":
        np.testing.assert_array_equal(found.masks[1], spot(5, 1))


def test_numbers_of_classes_keep_255_for_the_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "ill/p/a.png")
    put(tmp_path, "well/q/b.png")
    put(tmp_path, "ill/p/a_mask.png", spot(2, 2))
    put(tmp_path, "well/q/b_mask.png", spot(2))
    found = loading.load(tmp_path, SIDE)
    assert found.masks is not None
    np.testing.assert_array_equal(found.masks[1], spot(2))
    assert "1 mask(s) hold 0 and 255 alone, while others" in caplog.text


def test_masks_that_contradict_each_other(tmp_path: Path) -> None:
    put(tmp_path, "ill/p/a.png")
    put(tmp_path, "well/q/b.png")
    put(tmp_path, "ill/p/a_mask.png", spot(2, 1))
    put(tmp_path, "ill/p/a_mask_1.png", spot(4, 2))
    with pytest.raises(UserError, match="a_mask_1.png: gives pixels another class than a_mask.png"):
        loading.load(tmp_path, SIDE)
    # Nobody trains masks: they are not opened.
    (tmp_path / "ill/p/a_mask.png").write_bytes(b"nonsense")
    found = loading.load(tmp_path, SIDE, decoding=Decoding(masks=False))
    assert found.masks is None and len(found) == 2


def test_colours_that_mean_different_things(tmp_path: Path) -> None:
    for name, channel in (("ill/p/a", 0), ("well/q/b", 1)):
        put(tmp_path, f"{name}.png")
        painted = np.zeros((SIDE, SIDE, 3), np.uint8)
        painted[..., channel] = spot(3)
        put(tmp_path, f"{name}_mask.png", painted)
    with pytest.raises(UserError, match="is painted in the colour"):
        loading.load(tmp_path, SIDE)


def test_names_that_only_look_like_masks(tmp_path: Path) -> None:
    """All of a set end in _seg: they are its images. One mask has no image: it is named."""
    for name in ("ill/p/a_seg.png", "ill/p/b_seg.png", "well/q/c_seg.png", "well/q/mask.png"):
        put(tmp_path, name)
    assert len(image_folder.list_images(tmp_path).records) == 4
    put(tmp_path, "ill/p/a.png")
    with pytest.raises(UserError, match="b_seg.png: found a mask without its image, expected b"):
        image_folder.list_images(tmp_path)


def test_label_and_overview_images_are_no_slides(tmp_path: Path) -> None:
    names = ("a.svs", "a_label.png", "a_macro.jpg", "a-thumbnail.png", "b.png", "map_label.png")
    (tmp_path / "c.vms").write_text("[Virtual Microscope Specimen]\nImageFile=c-1.jpg\n")
    files = [tmp_path / name for name in (*names, "c.vms", "c-1.jpg", "a.xml")]
    assert [path.name for path in slides_of(files, tmp_path)] == [
        *("a.svs", "b.png", "map_label.png", "c.vms")
    ]


def test_files_of_one_dicom_series_are_one_slide(tmp_path: Path) -> None:
    """Two levels and the label of a slide, and a second slide in the folder of its patient."""
    pytest.importorskip("openslide", reason="extra slides")
    pytest.importorskip("pydicom", reason="extra dicom")
    for patient, series in (("p1", "1.2.5"), ("p2", "1.2.6")):
        folder = tmp_path / "ill" / patient
        folder.mkdir(parents=True)
        whole_slide(folder / "0.dcm", series, 512)
        whole_slide(folder / "1.dcm", series, 256)
        whole_slide(folder / "2.dcm", series, 128, "LABEL")
    sources = cut.find(tmp_path, None)
    assert [source.name for source in sources] == ["ill/p1/0.dcm", "ill/p2/0.dcm"]
    found, rest = slides.part([tmp_path])
    assert [path.parent.name for path in found] == ["p1", "p2"] and not rest
    assert cut.cut(tmp_path, tmp_path / "out", Settings(field_um=64, tile_size=64)) == 0
    assert len((tmp_path / "out" / "manifest.csv").read_text().splitlines()) == 1 + 2 * 4
