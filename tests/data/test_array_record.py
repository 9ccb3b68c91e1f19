"""What is read back from ArrayRecord equals what decoding directly gives, also after damage."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_folders import small_folder, small_manifest, write_images

from sscjax.data import array_record, lazy, loading, sources
from sscjax.data.dataset import ImageSet
from sscjax.data.sources import Source
from sscjax.data.synthetic import SkinBiopsies
from sscjax.errors import UserError

needs_array_record = pytest.mark.skipif(
    not array_record.is_available(), reason="array_record has no wheel for this platform"
)

SIZE = 16
TESTS = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_folder(tmp_path / "data")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return small_manifest(tmp_path / "listed")


def drawn() -> SkinBiopsies:
    tiles, subjects = {"normal": 3, "early": 2, "late": 2}, {"normal": 2, "early": 1, "late": 2}
    return SkinBiopsies(image_size=32, seed=3, tiles=tiles, subjects=subjects)


def stored(source: Source, cache: Path, max_bytes: float = np.inf) -> ImageSet:
    """The set as ArrayRecord in `cache`, written first if it is not there."""
    return loading.from_source(source, cache, "array_record", max_bytes)


def assert_equal(image_set: ImageSet, expected: ImageSet) -> None:
    for field in dataclasses.fields(ImageSet):
        left, right = getattr(image_set, field.name), getattr(expected, field.name)
        if isinstance(right, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name
    assert image_set.fingerprint() == expected.fingerprint()


def files_below(path: Path) -> list[Path]:
    return sorted(item for item in path.rglob("*") if item.is_file())


@needs_array_record
class TestEqualToDirect:
    def test_folder(self, folder: Path, tmp_path: Path) -> None:
        image_set = stored(sources.from_path(folder, SIZE), tmp_path / "cache")
        assert_equal(image_set, loading.load(folder, SIZE))
        assert image_set.splits is None and image_set.masks is None
        assert [path.name[:7] for path in (tmp_path / "cache" / "ssc_skin").iterdir()] == [
            "folder-"
        ]

    def test_folder_with_class_order(self, folder: Path, tmp_path: Path) -> None:
        order = ("b_late", "a_early")
        image_set = stored(sources.from_path(folder, SIZE, order), tmp_path / "cache")
        assert image_set.classes == order
        assert_equal(image_set, loading.load(folder, SIZE, order))

    def test_manifest(self, manifest: Path, tmp_path: Path) -> None:
        image_set = stored(sources.from_path(manifest, SIZE), tmp_path / "cache")
        assert_equal(image_set, loading.load(manifest, SIZE))
        assert image_set.files[0] == "11.png"
        assert image_set.splits is not None
        assert image_set.splits.tolist() == ["test"] * 4 + ["val"] * 4 + ["train"] * 4

    def test_synthetic_with_masks(self, tmp_path: Path) -> None:
        image_set = stored(drawn(), tmp_path / "cache")
        assert_equal(image_set, loading.in_memory(drawn()))
        assert image_set.masks is not None and np.asarray(image_set.masks).max() > 0

    def test_second_load_decodes_and_writes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = stored(drawn(), tmp_path)
        before = {path: path.stat().st_mtime_ns for path in files_below(tmp_path)}

        def refuse(source: SkinBiopsies, index: int) -> None:
            raise AssertionError("drawn a second time")

        monkeypatch.setattr(SkinBiopsies, "__getitem__", refuse)
        assert_equal(stored(drawn(), tmp_path), first)
        assert {path: path.stat().st_mtime_ns for path in files_below(tmp_path)} == before

    def test_changed_folder_is_decoded_again(self, folder: Path, tmp_path: Path) -> None:
        before = stored(sources.from_path(folder, SIZE), tmp_path / "cache")
        write_images(folder, ["a_early/s3/new.png"])
        after = stored(sources.from_path(folder, SIZE), tmp_path / "cache")
        assert len(after) == len(before) + 1
        assert_equal(after, loading.load(folder, SIZE))


@needs_array_record
def test_images_stay_on_disk_over_the_limit(manifest: Path, tmp_path: Path) -> None:
    images = stored(sources.from_path(manifest, SIZE), tmp_path / "cache", max_bytes=0).images
    expected = np.asarray(loading.load(manifest, SIZE).images)
    assert isinstance(images, lazy.Lazy) and images.shape == expected.shape
    indices = (7, -1, np.int64(3), slice(2, 5), slice(None, None, -5), slice(4, 4), [11, 0, 11])
    for index in indices:
        np.testing.assert_array_equal(images[index], expected[index])
    for index in (12, -13):
        with pytest.raises(IndexError):
            images[index]
    np.testing.assert_array_equal(np.asarray(images), expected)


@needs_array_record
class TestInterruption:
    def test_a_damaged_image_is_reported_and_leaves_nothing(
        self, folder: Path, tmp_path: Path
    ) -> None:
        bad = folder / "b_late" / "s0" / "0.png"
        bad.write_bytes(bad.read_bytes()[:200])
        with pytest.raises(UserError, match="0.png"):
            stored(sources.from_path(folder, SIZE), tmp_path / "cache")
        assert files_below(tmp_path / "cache") == []

    def test_killed_writer_leaves_no_set(self, tmp_path: Path) -> None:
        # The process dies in the middle of writing, as after `kill -9`: nothing is cleaned up.
        program = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from sscjax.data import loading
from sscjax.data.ssc_skin import ssc_skin_dataset_builder
from test_array_record import drawn
encode, written = ssc_skin_dataset_builder._png, []
def dying(pixels):
    written.append(1)
    if len(written) == 5:
        os._exit(9)
    return encode(pixels)
ssc_skin_dataset_builder._png = dying
loading.from_source(drawn(), Path(sys.argv[1]), "array_record")
"""
        run = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                str(tmp_path),
                str(TESTS / "data"),
                str(TESTS / "helpers"),
            ],
            check=False,
        )
        assert run.returncode == 9
        left = list(tmp_path.iterdir())
        assert [path.name.startswith(".preparing-") for path in left] == [True]
        assert_equal(stored(drawn(), tmp_path), loading.in_memory(drawn()))

    @pytest.mark.parametrize("damage", ["record", "empty", "info", "gone", "sums"])
    def test_damaged_set_is_written_again(self, tmp_path: Path, damage: str) -> None:
        stored(drawn(), tmp_path)
        folder = next((tmp_path / "ssc_skin").glob("*/*"))
        (record,) = folder.glob("*.array_record*")
        match damage:
            case "record":
                data = bytearray(record.read_bytes())
                data[3000] ^= 255
                record.write_bytes(data)
            case "empty":
                record.write_bytes(b"")
            case "info":
                (folder / "metadata.json").write_text('{"sou', encoding="utf-8")
            case "gone":
                record.unlink()
            case "sums":
                (folder / "sums.json").write_text('{"', encoding="utf-8")
        assert_equal(stored(drawn(), tmp_path), loading.in_memory(drawn()))


def run_python(program: str, *arguments: Path) -> str:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    run = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


def test_without_array_record_the_result_is_the_same(folder: Path, tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'array_record':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import importlib.util
original = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name == 'array_record' else original(name, package))
from sscjax.data import array_record, loading, sources
assert not array_record.is_available()
source = sources.from_path(sys.argv[1], 16)
print(loading.from_source(source, Path(sys.argv[2]), 'array_record').fingerprint())
assert 'tensorflow_datasets' not in sys.modules
"""
    printed = run_python(program, folder, tmp_path / "cache")
    assert printed.strip() == loading.load(folder, 16).fingerprint()
    assert not (tmp_path / "cache").exists()


@needs_array_record
def test_no_other_framework_is_imported(folder: Path, tmp_path: Path) -> None:
    # And nothing is printed: tensorflow-datasets announces downloads and progress if it may.
    program = """
import sys
from pathlib import Path
from sscjax.data import loading, sources
assert 'tensorflow_datasets' not in sys.modules
source = sources.from_path(sys.argv[1], 16)
for _ in range(2):
    loading.from_source(source, Path(sys.argv[2]), 'array_record')
assert 'tensorflow_datasets' in sys.modules
print(sorted({'tensorflow', 'torch', 'keras', 'cv2'} & set(sys.modules)))
"""
    assert run_python(program, folder, tmp_path / "cache") == "[]\n"
