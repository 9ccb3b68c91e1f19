"""Decoding and storing images: what cannot be read, links, real images, merged classes."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from image_folders import refused, write_folder, write_image
from PIL import Image

from sscjax.data import loading, sources
from sscjax.data.dataset import ImageSet
from sscjax.data.image_folder import list_images
from sscjax.data.image_io import read_image
from sscjax.data.loading import load, merge_classes

SIZE = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, three images, each file in a subject's folder."""
    return write_folder(tmp_path, "ill/p1/a.png", "ill/p2/b.tif", "well/p1/c.bmp")


def test_unreadable_images_name_the_first_and_count_the_others(folder):
    for number in range(3):
        (folder / "ill" / "p1" / f"broken{number}.jpg").write_bytes(b"")
    first = folder / "ill" / "p1" / "broken0.jpg"
    message = refused(lambda: load(folder, SIZE), f"{first}: ", "zero bytes")
    total = len(list_images(folder).records)
    assert f"3 of {total} images, more than 1%, also " in message
    assert "broken1.jpg, " in message and message.endswith("broken2.jpg")
    for number in (0, 2):
        (folder / "ill" / "p1" / f"broken{number}.jpg").unlink()
    message = refused(lambda: load(folder, SIZE), "broken1.jpg")
    assert message.endswith(f"1 of {total - 2} images, more than 1%")


def test_a_few_images_that_cannot_be_read_are_left_out(tmp_path, monkeypatch):
    """All of a large set are read, so that the true number of unreadable files is told."""
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

    monkeypatch.setattr(sources, "read_image", counted)
    message = refused(lambda: load(tmp_path, SIZE, corrupt="error"), "0100.png: not an image")
    assert "--config.data.corrupt=skip: 6 of 1,001 images, also " in message
    assert "0120.png" in message and "0140.png and 3 more" in message and "0160" not in message
    assert len(tried) == 1001
    # Six are less than 1 %, by default they are left out; eleven are more.
    assert len(load(tmp_path, SIZE).skipped) == 6
    for number in range(200, 205):
        Image.new("RGB", (50, 2)).save(tmp_path / "b" / names[number])
    refused(lambda: load(tmp_path, SIZE), "11 of 1,001 images, more than 1%", "corrupt=skip")


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


def stored(source: sources.Source, cache: Path, storage: str) -> ImageSet:
    """The images of a source by their way to memory: from files, or through a store."""
    if storage == "array_record":
        pytest.importorskip("array_record", reason="no wheel for this system")
        return loading.from_source(source, cache, storage)
    return loading.from_source(source, cache, max_bytes=np.inf if storage == "memory" else 0)


@pytest.mark.parametrize("storage", ("memory", "file", "file again", "array_record"))
def test_what_cannot_be_read_is_left_out(with_broken, tmp_path_factory, storage):
    """As if these files were not there, wherever the pixels are stored; black images stay."""
    source = sources.from_path(with_broken, SIZE, corrupt="skip")
    cache = tmp_path_factory.mktemp("cache")
    for _ in storage.split():
        images = stored(source, cache, storage)
    assert tuple(images.skipped) == BROKEN
    assert "zero bytes" in images.skipped[BROKEN[0]]
    assert "truncated or damaged" in images.skipped[BROKEN[1]]
    for file in BROKEN:
        (with_broken / file).unlink()
    expected = load(with_broken, SIZE)
    assert "ill/p1/black.png" in expected.files
    assert images.files.tolist() == expected.files.tolist()
    np.testing.assert_array_equal(np.asarray(images.images), np.asarray(expected.images))
    assert images.fingerprint() == expected.fingerprint() and not expected.skipped


def test_decoded_images_in_a_file_do_not_bypass_the_policy(with_broken, tmp_path_factory):
    path = tmp_path_factory.mktemp("cache") / "images.npy"
    listing = list_images(with_broken)
    loading.in_file(sources.Files(listing, SIZE, "skip"), path)
    strict = sources.Files(listing, SIZE, "error")
    refused(lambda: loading.in_file(strict, path), "broken.jpg", "zero bytes")


def test_images_in_a_file_that_can_be_read_later_are_not_left_black(
    with_broken, tmp_path_factory, caplog
):
    """A file that could not be read for a while keeps its size and times, so the key, too."""
    cache = tmp_path_factory.mktemp("cache")
    path = with_broken / BROKEN[1]
    other = (with_broken / "well" / "p9" / "whole.png").read_bytes()
    path.write_bytes(bytes(len(other)))
    stamp = path.stat().st_mtime_ns
    source = sources.from_path(with_broken, SIZE, corrupt="skip")
    assert tuple(stored(source, cache, "file").skipped) == BROKEN
    path.write_bytes(other)
    os.utime(path, ns=(stamp, stamp))
    again = sources.from_path(with_broken, SIZE, corrupt="skip")
    assert again.key == source.key
    for line in ("1 image(s) can be read now", ""):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found = stored(again, cache, "file")
        assert line in caplog.text and bool(line) == ("decoded again" in caplog.text)
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


def test_a_mask_that_cannot_be_read_is_an_error_with_the_number_of_them(folder):
    for name in ("a", "b"):
        (folder / "ill" / "p1" / f"{name}_mask.png").write_bytes(b"")
    write_image(folder / "ill" / "p1" / "b.png")
    refused(lambda: load(folder, SIZE), "a_mask.png: cannot be read as a mask", "2 of 4 images")


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
    strict = sources.from_path(folder, SIZE, corrupt="error")
    refused(lambda: strict.key, "ring.png: cannot be read")
    refused(lambda: load(folder, SIZE), "ring.png: cannot be read", "2 of 5 images", "gone.png")
    source = sources.from_path(folder, SIZE, corrupt="skip")
    for storage in ("memory", "file", "file"):
        images = stored(source, tmp_path_factory.getbasetemp() / "links", storage)
        assert list(images.skipped) == gone and len(images) == 3
    assert list(load(folder, SIZE, corrupt="skip").skipped) == gone
    write_image(folder / "other.png")
    (folder / "other.png").rename(folder / "well" / "p1" / "later.png")
    refused(lambda: sources.from_path(folder, SIZE, corrupt="skip"), "duplicate", "gone.png")
    (folder / "well" / "p1" / "later.png").rename(folder / "well" / "p1" / ".later.png")
    (folder / "well" / "p1" / "gone.png").unlink()
    link(folder / "well" / "p1" / "gone.png", Path(".later.png"))
    again = sources.from_path(folder, SIZE, corrupt="skip")
    assert again.key != source.key
    assert list(stored(again, folder, "memory").skipped) == gone[:1]


def test_the_folder_itself_may_be_a_link(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("place") / "link"
    link(place, folder)
    assert len(load(place, SIZE)) == 3


def test_real_biopsies(shared_data):
    folder = shared_data / "data" / "prostate_gleason"
    if not folder.is_dir():
        # Optional: real images are not part of the project.
        pytest.skip(f"no real data: {folder} does not exist")
    lines = (folder / "manifest.csv").read_text(encoding="utf-8").splitlines()[1:]
    found = list_images(folder)
    assert len(found.records) == len(lines) > 1000
    image_set = loading.in_memory(
        sources.Files(dataclasses.replace(found, records=found.records[::25]), 32)
    )
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
