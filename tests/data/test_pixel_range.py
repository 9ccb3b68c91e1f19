"""What white is in 16-bit files, for a whole set; and which pages of a file are its image."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_runs import finished_run, write_folder
from sound_files import png_bytes

from sscjax.data import inputs, loading, sources
from sscjax.data.audit import checks
from sscjax.data.image_io import read_image
from sscjax.data.pixel_range import Decoding, Observed
from sscjax.errors import UserError
from sscjax.inference import classifier

SIZE = 16
RNG = np.random.default_rng(0)


def deep_set(folder: Path, bits: int, kind: str) -> dict[str, np.ndarray]:
    """Six 16-bit images of a camera of fewer bits, one of them dark; their values by name."""
    values = {}
    for number in range(6):
        name = f"{'ill' if number < 3 else 'well'}/p{number}/a.{kind.split()[0]}"
        shape = (SIZE, SIZE, 3) if "colour" in kind else (SIZE, SIZE)
        top = 2**bits // (4 if number == 0 else 1)
        deep = RNG.integers(0, top, shape).astype(np.uint16)
        deep.flat[0] = top - 1
        path = folder / name
        path.parent.mkdir(parents=True)
        if kind == "png colour":
            rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
            path.write_bytes(png_bytes(SIZE, SIZE, 16, 2, rows))
        elif kind == "png":
            Image.fromarray(deep).save(path)
        else:
            photometric = "rgb" if "colour" in kind else "minisblack"
            packed: dict[str, Any] = {"compression": "zlib"} if "packed" in kind else {}
            order: Any = ">" if "big" in kind else "<"
            tifffile.imwrite(
                path, deep.astype(f"{order}u2"), byteorder=order, photometric=photometric, **packed
            )
        values[name] = deep
    return values


@pytest.mark.parametrize("bits", (8, 10, 12, 14, 16))
@pytest.mark.parametrize(
    "kind", ("png", "tif", "tif big", "png colour", "tif colour", "tif colour packed")
)
def test_one_white_for_the_whole_set(tmp_path: Path, bits: int, kind: str) -> None:
    """The dark image stays dark: its values are divided by the same number as all others'."""
    values = deep_set(tmp_path / "set", bits, kind)
    found = loading.load(tmp_path / "set", SIZE)
    assert found.pixel_bits == bits
    assert (f"{bits} bits" in found.source) == (bits < 16)
    for index, file in enumerate(found.files.tolist()):
        expected = values[file] >> (bits - 8)
        expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=2)
        np.testing.assert_array_equal(found.images[index], expected)


@pytest.mark.parametrize("storage", ("file", "file again", "array_record"))
def test_the_rule_is_kept_with_stored_images(tmp_path: Path, storage: str) -> None:
    deep_set(tmp_path / "set", 12, "png")
    expected = loading.load(tmp_path / "set", SIZE)
    for _ in storage.split():
        source = sources.from_path(tmp_path / "set", SIZE)
        how = {"storage": storage} if storage == "array_record" else {"max_bytes": 0}
        found = loading.from_source(source, tmp_path / "cache", **how)
    assert found.pixel_bits == 12 and found.source == expected.source
    assert found.fingerprint() == expected.fingerprint()


def test_new_images_are_read_by_the_rule_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = RNG.integers(0, 900, (SIZE, SIZE)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep + 5000).save(tmp_path / "b.png")
    listed = inputs.find(tmp_path, ())
    [batch] = inputs.decode(listed, SIZE, 4, Decoding(bits=12))
    np.testing.assert_array_equal(batch.images[0][..., 0], deep >> 4)
    [(row, reason)] = batch.failed
    assert row == 1 and "white is 4095 for this set" in reason
    assert not caplog.text
    # A run without such images keeps 16 bits, and says what it looks like.
    [batch] = inputs.decode(listed[:1], SIZE, 4)
    np.testing.assert_array_equal(batch.images[0][..., 0], deep >> 8)
    assert "values of 10 bits alone" in caplog.text


def test_a_rule_that_the_settings_give(tmp_path: Path) -> None:
    values = deep_set(tmp_path, 12, "png")
    fixed = loading.load(tmp_path, SIZE, decoding=Decoding(bits=14))
    np.testing.assert_array_equal(fixed.images[0][..., 0], values[str(fixed.files[0])] >> 6)
    with pytest.raises(UserError, match="white is 1023 for this set; set --config.data.pixel_bits"):
        loading.load(tmp_path, SIZE, decoding=Decoding(bits=10))
    for wrong in ({"bits": 9}, {"pages": "last"}, {"pages": "0"}, {"mpp": -2.0}):
        with pytest.raises(UserError, match=r"config\.data\.\w+="):
            Decoding(**wrong)


def test_the_audit_says_that_a_set_is_dim(tmp_path: Path) -> None:
    """Masks taken for images use two or three grey levels; no check of them is passed for that."""
    for number in range(6):
        path = tmp_path / ("ill" if number < 3 else "well") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 3, (32, 32), np.uint8)).save(path)
    dim = loading.load(tmp_path, 32)
    result = checks.audit(dim, None, tmp_path)
    assert "dim" in {finding["kind"] for finding in result["findings"]}
    bright = dataclasses.replace(dim, images=np.asarray(dim.images) * 90)
    kinds = {finding["kind"] for finding in checks.audit(bright, None, tmp_path)["findings"]}
    assert "dim" not in kinds


@pytest.mark.slow
def test_a_run_stores_the_rule_and_predict_applies_it(tmp_path: Path) -> None:
    """A 12-bit image alone is read as it was among those of training."""
    folder = write_folder(tmp_path / "images")
    for path in folder.rglob("*.png"):
        grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
        Image.fromarray(grey << 4).save(path)
    run = finished_run(tmp_path / "run", folder, "cnn")
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["data"]["pixel_bits"] == 12 and "white is 4,095" in record["data"]["source"]
    opened = classifier.open_run(run)
    assert opened.decoding.bits == 12
    path = min(folder.rglob("*.png"))
    pixels = np.asarray(Image.open(path)) >> 4
    expected = opened.predict_proba(np.repeat(pixels[None, ..., None], 3, axis=3).astype(np.uint8))
    np.testing.assert_allclose(opened.predict_proba(path), expected, atol=1e-6)


# --- pages --------------------------------------------------------------------------------------

PAGES = RNG.integers(0, 256, (3, 24, 32)).astype(np.uint8)
OME = {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}


def stack(path: Path, pages: np.ndarray = PAGES, **options: Any) -> Path:
    tifffile.imwrite(path, pages, photometric="minisblack", **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.ome.tif", {"metadata": OME}),
        ("a.ome.tif", {"metadata": OME, "compression": "zlib"}),
        ("a.tif", {"imagej": True, "metadata": {"axes": "CYX"}}),
    ],
)
def test_described_channels_are_red_green_and_blue(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    path = stack(tmp_path / name, **options)
    np.testing.assert_array_equal(read_image(path, None), PAGES.transpose(1, 2, 0))


def test_channels_in_the_colours_of_the_file(tmp_path: Path) -> None:
    """Blue first, as a nuclear stain is written; two channels; 12 bits in 16."""
    deep = RNG.integers(0, 4096, (2, 24, 32)).astype(np.uint16)
    colours = [0x0000FFFF, -0x00FF0001 & 0xFFFFFFFF]
    signed = [value - 2**32 if value >= 2**31 else value for value in colours]
    channels = {"axes": "CYX", "Channel": {"Color": signed}}
    path = stack(tmp_path / "a.ome.tif", deep, metadata=channels)
    image = read_image(path, None, decoding=Decoding(bits=12))
    np.testing.assert_array_equal(image[..., 2], np.minimum((deep[0] >> 4) + (deep[1] >> 4), 255))
    np.testing.assert_array_equal(image[..., 0], deep[1] >> 4)
    assert not image[..., 1].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metadata": None}, ("3 grey pages", "the file does not say", "=channels")),
        ({"metadata": {"axes": "ZYX"}, "imagej": True}, ("3 grey pages", "3 slices")),
        ({"metadata": {"axes": "TYX"}, "ome": True}, ("3 grey pages", "3 times")),
    ],
)
def test_grey_pages_that_may_be_anything_are_refused(
    tmp_path: Path, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    path = stack(tmp_path / "a.tif", **options)
    with pytest.raises(UserError) as caught:
        read_image(path, None)
    assert all(word in str(caught.value) for word in (*words, "--config.data.pages=first"))
    for pages, page in (("first", 0), ("middle", 1), ("3", 2)):
        image = read_image(path, None, decoding=Decoding(pages=pages))
        np.testing.assert_array_equal(image[..., 1], PAGES[page])
    image = read_image(path, None, decoding=Decoding(pages="channels"))
    np.testing.assert_array_equal(image, PAGES.transpose(1, 2, 0))


def test_pages_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    colour = RNG.integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    for number in range(4):
        path = tmp_path / ("ill" if number < 2 else "well") / f"p{number}" / "a.tif"
        path.parent.mkdir(parents=True)
        with tifffile.TiffWriter(path) as writer:
            writer.write(colour[0], photometric="rgb", metadata=None)
            small = number % 2
            page = colour[1, :: 1 + small, :: 1 + small]
            writer.write(page, photometric="rgb", metadata=None, subfiletype=small)
    with caplog.at_level(logging.WARNING):
        found = loading.load(tmp_path, SIZE)
    np.testing.assert_array_equal(found.images[0], colour[0])
    assert "of 2 files with several pages only page 1 was read: a.tif" in caplog.text
    assert "of 2 files with pages of other sizes" in caplog.text
    observed = Observed()
    read_image(path, None, observed=observed)
    assert len(observed.notes()) == 1
