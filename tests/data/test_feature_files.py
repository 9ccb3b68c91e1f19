"""Features of other programs: every kind of file, and rows that must not be matched by chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from image_folders import refused

from sscjax.data import feature_files

FILES = ["normal/p1/a.png", "late/p2/b.png", "late/p3/ç 1.png"]
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


def npz(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), features=FEATURES, files=np.array(FILES))
    return path.with_suffix(".npz")


def hdf5(path: Path) -> Path:
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["feats"] = FEATURES.astype(np.float16)[None]
        file.create_dataset("files", data=FILES, dtype=h5py.string_dtype())
    return path.with_suffix(".h5")


def npy(path: Path) -> Path:
    np.save(path.with_suffix(".npy"), FEATURES.astype(np.float64))
    path.with_suffix(".txt").write_text("\n".join(FILES) + "\n", "utf-8")
    return path.with_suffix(".npy")


def csv(path: Path) -> Path:
    rows = [
        f"{file};" + ";".join(f"{x:.9f}" for x in row)
        for file, row in zip(FILES, FEATURES, strict=True)
    ]
    path.with_suffix(".csv").write_text("image;f0;f1;f2;f3\n" + "\n".join(rows), "utf-8")
    return path.with_suffix(".csv")


def parquet(path: Path) -> Path:
    pyarrow: Any = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    writer: Any = pytest.importorskip("pyarrow.parquet")

    columns = {"file": FILES, **{f"f{i}": FEATURES[:, i] for i in range(4)}}
    writer.write_table(pyarrow.table(columns), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("write", [npz, hdf5, npy, csv, parquet])
def test_every_kind_of_file(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "encoder")
    named = feature_files.read(path)
    assert named.features.dtype == np.float32
    found = feature_files.join(path, named, FILES[::-1])
    np.testing.assert_allclose(found, FEATURES[::-1], atol=1e-3)


@pytest.mark.parametrize(
    "given",
    [
        FILES,
        [f.replace("/", "\\") for f in FILES],
        [f.rsplit("/", 1)[1] for f in FILES],
        [f.rsplit("/", 1)[1].removesuffix(".png") + ".h5" for f in FILES],
        # 'ç' in two characters, as macOS writes it.
        [f.replace("ç", "c\u0327") for f in FILES],
    ],
)
def test_names_that_mean_the_same(given: list[str], tmp_path: Path) -> None:
    named = feature_files.Named(given, FEATURES)
    np.testing.assert_array_equal(feature_files.join(tmp_path, named, FILES), FEATURES)


def test_the_same_name_in_two_folders_is_not_guessed(tmp_path: Path) -> None:
    named = feature_files.Named(["1.png", "2.png"], FEATURES[:2])
    join = feature_files.join
    refused(lambda: join(tmp_path, named, ["p1/1.png", "p2/1.png"]), "several rows or images")
    twice = feature_files.Named(["a/1.png", "b/1.png"], FEATURES[:2])
    refused(lambda: join(tmp_path, twice, ["1.png"]), "b/1.png", "several rows or images")


def test_an_image_without_features(tmp_path: Path) -> None:
    named = feature_files.Named(FILES[:2], FEATURES[:2])
    refused(
        lambda: feature_files.join(tmp_path / "f.npz", named, FILES),
        "no features of 1 of 3 images, such as late/p3/ç 1.png",
    )


def test_rows_without_names_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", FEATURES)
    refused(lambda: feature_files.read(tmp_path / "f.npy"), "expected f.txt beside it")
    np.savez(tmp_path / "f.npz", features=FEATURES)
    refused(lambda: feature_files.read(tmp_path / "f.npz"), "there is no files")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["features"] = FEATURES
        file["coords"] = np.zeros((3, 2))
    refused(lambda: feature_files.read(tmp_path / "f.h5"), "there is no files")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (FEATURES[:2], "2 rows of features and 3 names"),
        (np.where(FEATURES > 1.5, np.nan, FEATURES), "not finite, the first is late/p3/ç 1.png"),
        (FEATURES.astype(np.float64) * 1e300, "not finite"),
        (FEATURES[..., None], "features have shape (3, 4, 1)"),
        (np.array([["a"], ["b"], ["c"]]), "expected numbers"),
        (FEATURES[:, :0], "features have shape (3, 0)"),
    ],
)
def test_features_that_cannot_be_used(features: np.ndarray, words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=features, files=np.array(FILES))
    refused(lambda: feature_files.read(tmp_path / "f.npz"), words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("f.npz", b"not an archive", "not a readable .npz file"),
        ("f.h5", b"\x89HDF\r\n\x1a\nshort", "not a readable HDF5 file"),
        ("f.npy", b"\x93NUMPY", "not a readable .npy file"),
        ("f.csv", b"a,b\n1,2\n", "expected a column 'file'"),
        ("f.pt", b"", "expected a file of features"),
    ],
)
def test_files_that_are_not_what_they_say(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "f.txt").write_text("a\n", "utf-8")
    refused(lambda: feature_files.read(tmp_path / name), words)


# ---- folders of slides --------------------------------------------------------------------------


def trident(path: Path, tiles: np.ndarray) -> None:
    """As TRIDENT's and CLAM's writers lay a slide out: rows may be appended."""
    with h5py.File(path, "w") as file:
        for name, array in (("features", tiles), ("coords", np.zeros((len(tiles), 2), np.int64))):
            shape = (None, *array.shape[1:])
            file.create_dataset(name, data=array, maxshape=shape, chunks=(1, *array.shape[1:]))
        file["coords"].attrs["patch_size"] = 256


def stamp(path: Path, tiles: np.ndarray) -> None:
    """As STAMP does: half precision, coordinates in micrometres."""
    with h5py.File(path, "w") as file:
        file["coords"] = np.zeros((len(tiles), 2), np.float32)
        file["feats"] = tiles.astype(np.float16)
        file.attrs["extractor"], file.attrs["unit"] = "uni", "um"


def of_slide(path: Path, tiles: np.ndarray) -> None:
    """A slide encoder's one row, as TRIDENT writes it."""
    with h5py.File(path, "w") as file:
        file["features"] = tiles.mean(0)


@pytest.mark.parametrize("write", [trident, stamp, of_slide])
def test_a_slide_is_the_mean_of_its_tiles(
    write: Callable[[Path, np.ndarray], None], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    slides = {name: rng.normal(0, 1, (count, 5)) for name, count in (("s1", 7), ("s 2.x", 1))}
    for name, tiles in slides.items():
        write(tmp_path / f"{name}.h5", tiles)
    named = feature_files.read(tmp_path)
    found = feature_files.join(tmp_path, named, ["a/s1.svs", "b/s 2.x.ndpi"])
    expected = [tiles.mean(0) for tiles in slides.values()]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_folders_that_hold_no_slides(tmp_path: Path) -> None:
    refused(lambda: feature_files.read(tmp_path), "holds no .h5 files")
    trident(tmp_path / "a.h5", np.ones((3, 5)))
    trident(tmp_path / "b.h5", np.ones((3, 4)))
    refused(lambda: feature_files.read(tmp_path), "have 4 and 5 features")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["coords"] = np.zeros((2, 2))
    refused(lambda: feature_files.read(tmp_path), "holds coords: expected 'features'")
    trident(tmp_path / "b.h5", np.ones((0, 5)))
    refused(lambda: feature_files.read(tmp_path), "features have shape (0, 5)")
