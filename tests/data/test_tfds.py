"""Image sets of tensorflow-datasets: splits, subjects and mistakes."""

from __future__ import annotations

import importlib.util
import io
import re
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_folders import refused
from PIL import Image

import sscjax.data.ssc_skin.ssc_skin_dataset_builder  # noqa: F401  tfds then knows its name
from sscjax.data.image_io import read_image
from sscjax.data.lazy import FileRows
from sscjax.data.tfds import load_tfds

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


class SscjaxRemoteCells(SscjaxTinyCells):
    """Has to be downloaded, from a host that does not exist (RFC 2606)."""

    def _split_generators(self, dl_manager):
        dl_manager.download("https://sscjax.invalid/cells.zip")
        return super()._split_generators(dl_manager)


@needs_array_record
def test_tfds_larger_than_the_memory_lies_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    held = load_tfds("sscjax_tiny_cells", 16, tmp_path)
    first = load_tfds("sscjax_tiny_cells", 16, tmp_path, max_bytes=9 * 16 * 16 * 3 - 1)
    [stored] = (tmp_path / "cache" / "prepared").iterdir()
    written = stored.stat().st_mtime_ns
    again = load_tfds("sscjax_tiny_cells", 16, tmp_path, max_bytes=0)
    assert stored.stat().st_mtime_ns == written
    for one in (first, again):
        assert isinstance(one.images, FileRows)
        np.testing.assert_array_equal(one.images[:], held.images)
        assert one.fingerprint() == held.fingerprint()


@needs_array_record
def test_tfds_says_what_to_do_with_another_format_or_no_network(tmp_path):
    load_tfds("sscjax_tiny_cells", 16, tmp_path)
    [about] = tmp_path.rglob("dataset_info.json")
    about.write_text(about.read_text().replace('"array_record"', '"tfrecord"'))
    refused(
        lambda: load_tfds("sscjax_tiny_cells", 16, tmp_path),
        *("TFRECORD", "prepare it again with file_format='array_record'"),
    )
    started = time.monotonic()
    refused(
        lambda: load_tfds("sscjax_remote_cells", 16, tmp_path),
        *("is not prepared", "cannot be downloaded", "file_format='array_record'"),
    )
    assert time.monotonic() - started < 60
    refused(lambda: tfds.builder("ssc_skin"), "holds no images of its own")
