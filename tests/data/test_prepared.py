"""What is read back from ArrayRecord equals what making the set directly gives, come what may."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sscjax.data import lazy, loading, prepared, recipes, synthetic
from sscjax.data.dataset import ImageSet
from sscjax.data.recipes import Recipe
from sscjax.errors import UserError

needs_array_record = pytest.mark.skipif(
    not prepared.can_prepare(), reason="array_record has no wheel for this platform"
)

SIZE = 16


def write_images(folder: Path, names: list[str]) -> None:
    rng = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven images of two classes in subject folders, some of them with names not in ASCII."""
    path = tmp_path / "data"
    write_images(path, [f"b_late/s{i % 3}/{i}.png" for i in range(6)])
    write_images(path, [f"a_early/s{3 + i % 2}/größe {i}.jpg" for i in range(5)])
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Twelve images with subjects and prescribed splits, not in the order of their names."""
    path = tmp_path / "listed"
    names = [f"{i}.png" for i in range(12)]
    write_images(path, names)
    with (path / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "subject", "split"])
        for i, name in reversed(list(enumerate(names))):
            rows.writerow(
                [name, ("mild", "severe")[i % 2], f"p{i // 4}", "train val test".split()[i // 4]]
            )
    return path


def drawn() -> Recipe:
    return recipes.from_synthetic(
        image_size=32,
        seed=3,
        tiles={"normal": 3, "early": 2, "late": 2},
        subjects={"normal": 2, "early": 1, "late": 2},
    )


def assert_equal(found: ImageSet, expected: ImageSet) -> None:
    for field in dataclasses.fields(ImageSet):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(right, np.ndarray):
            assert left.dtype == right.dtype, field.name
            np.testing.assert_array_equal(left, right, err_msg=field.name)
        else:
            assert left == right, field.name
    assert found.fingerprint() == expected.fingerprint()


def files_below(path: Path) -> list[Path]:
    return sorted(item for item in path.rglob("*") if item.is_file())


@needs_array_record
class TestEqualToDirect:
    def test_folder(self, folder: Path, tmp_path: Path) -> None:
        recipe = recipes.from_path(folder, SIZE)
        assert recipe.kind == "folder"
        found = prepared.load(recipe, tmp_path / "cache")
        assert_equal(found, loading.load(folder, SIZE))
        assert found.splits is None and found.masks is None

    def test_folder_with_class_order(self, folder: Path, tmp_path: Path) -> None:
        order = ("b_late", "a_early")
        found = prepared.load(recipes.from_path(folder, SIZE, order), tmp_path / "cache")
        assert found.classes == order
        assert_equal(found, loading.load(folder, SIZE, order))

    def test_manifest(self, manifest: Path, tmp_path: Path) -> None:
        recipe = recipes.from_path(manifest, SIZE)
        assert recipe.kind == "manifest"
        found = prepared.load(recipe, tmp_path / "cache")
        assert_equal(found, loading.load(manifest, SIZE))
        assert found.files[0] == "11.png"
        assert found.splits is not None
        assert found.splits.tolist() == ["test"] * 4 + ["val"] * 4 + ["train"] * 4

    def test_synthetic_with_masks(self, tmp_path: Path) -> None:
        found = prepared.load(drawn(), tmp_path / "cache")
        tiles, subjects = {"normal": 3, "early": 2, "late": 2}, {"normal": 2, "early": 1, "late": 2}
        expected = synthetic.skin_biopsies(image_size=32, seed=3, tiles=tiles, subjects=subjects)
        assert_equal(found, expected)
        assert found.masks is not None and np.asarray(found.masks).max() > 0

    def test_second_load_makes_nothing(self, tmp_path: Path) -> None:
        first = prepared.load(drawn(), tmp_path)
        before = {path: path.stat().st_mtime_ns for path in files_below(tmp_path)}

        def refuse(keep: lazy.Keep) -> ImageSet:
            raise AssertionError("made a second time")

        again = dataclasses.replace(drawn(), make=refuse)
        assert_equal(prepared.load(again, tmp_path), first)
        assert {path: path.stat().st_mtime_ns for path in files_below(tmp_path)} == before


@needs_array_record
class TestRandomAccess:
    def test_index_slice_and_end(self, manifest: Path, tmp_path: Path) -> None:
        found = prepared.prepare(recipes.from_path(manifest, SIZE), tmp_path / "cache")
        expected = loading.load(manifest, SIZE)
        assert len(found) == 12
        for index in (7, 0, 11, -1, -12, np.int64(3)):
            example = found[index]
            np.testing.assert_array_equal(example.image, expected.images[index])
            assert example.label == expected.labels[index]
            assert example.file == expected.files[index]
            assert example.subject == expected.subjects[index]
            assert expected.splits is not None and example.split == expected.splits[index]
            assert example.mask is None
        for part in (slice(2, 5), slice(None, None, -5), slice(10, 99), slice(4, 4)):
            assert [example.file for example in found[part]] == expected.files[part].tolist()
        for index in (12, -13):
            with pytest.raises(IndexError):
                found[index]
        assert [example.file for example in found] == expected.files.tolist()


class TestKey:
    def test_same_folder_has_same_key_also_elsewhere(self, folder: Path, tmp_path: Path) -> None:
        key = recipes.from_path(folder, SIZE).key
        assert recipes.from_path(folder, SIZE).key == key
        shutil.move(folder, tmp_path / "moved")
        assert recipes.from_path(tmp_path / "moved", SIZE).key == key

    @pytest.mark.parametrize("change", ["add", "remove", "rename", "size", "touch", "subject"])
    def test_changed_folder_has_another_key(self, folder: Path, change: str) -> None:
        key = recipes.from_path(folder, SIZE).key
        image = folder / "b_late" / "s0" / "0.png"
        match change:
            case "add":
                write_images(folder, ["b_late/s0/new.png"])
            case "remove":
                image.unlink()
            case "rename":
                image.rename(image.with_name("00.png"))
            case "size":
                status = image.stat()
                image.write_bytes(image.read_bytes() + b"\0")
                os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
            case "touch":
                os.utime(image, ns=(0, image.stat().st_mtime_ns + 1_000_000_000))
            case "subject":
                image.rename(folder / "b_late" / "s1" / "0.png")
        assert recipes.from_path(folder, SIZE).key != key

    def test_arguments_count(self, folder: Path) -> None:
        order = ("b_late", "a_early")
        keys = {
            recipes.from_path(folder, SIZE).key,
            recipes.from_path(folder, SIZE + 1).key,
            recipes.from_path(folder, SIZE, order).key,
        }
        assert len(keys) == 3

    def test_manifest_columns_count(self, manifest: Path) -> None:
        path = manifest / "manifest.csv"
        keys = {recipes.from_path(manifest, SIZE).key}
        text = path.read_text(encoding="utf-8")
        for old, new in (("p2", "p9"), ("mild", "none"), (",val", ",test")):
            path.write_text(text.replace(old, new), encoding="utf-8")
            keys.add(recipes.from_path(manifest, SIZE).key)
        assert len(keys) == 4

    def test_synthetic_arguments_count(self) -> None:
        tiles, subjects = {"normal": 3, "early": 2}, {"normal": 2, "early": 1}

        def key(seed: int = 0, extra: int = 0, size: int = 32) -> str:
            return recipes.from_synthetic(
                image_size=size, seed=seed, tiles=tiles | {"early": 2 + extra}, subjects=subjects
            ).key

        assert len({key(), key(seed=1), key(extra=1), key(size=33)}) == 4

    @needs_array_record
    def test_changed_folder_is_prepared_anew(self, folder: Path, tmp_path: Path) -> None:
        before = prepared.load(recipes.from_path(folder, SIZE), tmp_path / "cache")
        write_images(folder, ["a_early/s3/new.png"])
        after = prepared.load(recipes.from_path(folder, SIZE), tmp_path / "cache")
        assert len(after) == len(before) + 1
        assert_equal(after, loading.load(folder, SIZE))


@needs_array_record
class TestInterruption:
    def test_users_mistake_comes_through_and_leaves_nothing(
        self, folder: Path, tmp_path: Path
    ) -> None:
        bad = folder / "b_late" / "s0" / "0.png"
        bad.write_bytes(bad.read_bytes()[:200])
        with pytest.raises(UserError, match="0.png"):
            prepared.load(recipes.from_path(folder, SIZE), tmp_path / "cache")
        assert files_below(tmp_path / "cache") == []

    def test_killed_preparation_is_not_taken_for_a_set(self, tmp_path: Path) -> None:
        # The process dies in the middle of writing, as after `kill -9`: nothing is cleaned up.
        program = """
import os, sys
sys.path.insert(0, sys.argv[2])
from sscjax.data import prepared
from sscjax.data.ssc_skin import ssc_skin_dataset_builder
from test_prepared import drawn
encode, written = ssc_skin_dataset_builder._png, []
def dying(pixels):
    written.append(1)
    if len(written) == 5:
        os._exit(9)
    return encode(pixels)
ssc_skin_dataset_builder._png = dying
prepared.prepare(drawn(), sys.argv[1])
"""
        run = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)], check=False
        )
        assert run.returncode == 9
        left = list(tmp_path.iterdir())
        assert [path.name.startswith(".preparing-") for path in left] == [True]
        assert_equal(prepared.load(drawn(), tmp_path), drawn().make(lazy.in_memory))

    @pytest.mark.parametrize("damage", ["record", "empty", "info", "gone", "sums"])
    def test_damaged_set_is_made_anew(self, tmp_path: Path, damage: str) -> None:
        folder = prepared.prepare(drawn(), tmp_path).folder
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
        assert_equal(prepared.load(drawn(), tmp_path), drawn().make(lazy.in_memory))


def run_python(program: str, *arguments: Path) -> str:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    run = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


def test_without_array_record_the_result_is_the_same(folder: Path, tmp_path: Path) -> None:
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'array_record':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name == 'array_record' else found(name, package))
from sscjax.data import prepared
from sscjax.data import recipes
assert not prepared.can_prepare()
print(prepared.load(recipes.from_path(sys.argv[1], 16), sys.argv[2]).fingerprint())
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
from sscjax.data import prepared
from sscjax.data import recipes
assert 'tensorflow_datasets' not in sys.modules
recipe = recipes.from_path(sys.argv[1], 16)
prepared.load(recipe, sys.argv[2])
prepared.load(recipe, sys.argv[2])
assert 'tensorflow_datasets' in sys.modules
print(sorted({'tensorflow', 'torch', 'keras', 'cv2'} & set(sys.modules)))
"""
    assert run_python(program, folder, tmp_path / "cache") == "[]\n"
