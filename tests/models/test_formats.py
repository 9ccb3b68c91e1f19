"""Files of weights that cannot be read, or should not: one clear line, and nothing is executed."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
import weight_files
from weight_files import Arrays, garbage, write_legacy

from sscjax.errors import UserError
from sscjax.models.pretrained.formats import read_weights
from sscjax.models.pretrained.load import load_backbone

REPOSITORY = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(REPOSITORY / "scripts"))
import convert_weights as script  # noqa: E402


@pytest.fixture(scope="session")
def tree() -> tuple[dict[str, Any], dict[str, Any]]:
    return weight_files.tree()


@pytest.fixture(scope="session")
def keras_arrays() -> Arrays:
    return weight_files.keras_arrays()


def write_soft_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.SoftLink("/elsewhere")


def write_external_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.ExternalLink("/etc/passwd", "/")


def write_external_data(path: Path) -> None:
    outside = path.with_name("outside.bin")
    outside.write_bytes(bytes(64))
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.create_dataset("0", (16,), "f4", external=[(str(outside), 0, 64)])


def write_circle(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("layers")
        group["again"] = group


def write_huge(path: Path) -> None:
    with h5py.File(path, "w") as file:  # a few bytes on disk
        file.create_dataset("layers/conv2d/vars/0", (10**9,), "f4", chunks=(1000,))


def write_foreign_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)


def write_recurrent(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/lstm/vars/0"] = np.zeros((2, 2), np.float32)


def write_missing_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"Conv1"]


def write_no_layers(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([], "S1")


def write_text_array(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = "text"


def write_twice(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"a", b"b"]
        for name in "ab":
            group = file.create_group(name)
            group["Conv1/kernel"] = np.zeros(3)
            group.attrs["weight_names"] = [b"Conv1/kernel"]


def write_lost_metadata(path: Path) -> None:
    safetensors.numpy.save_file({"params/Conv1/kernel": np.zeros(3, np.float32)}, path)


def write_wrong_metadata(path: Path) -> None:
    arrays = {"params/Conv1/kernel": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(arrays, path, metadata={"sscjax": '{"convention": "caffe"}'})


def write_plain_npz(path: Path) -> None:
    np.savez(path, kernel=np.zeros(3))


def write_wrong_npz(path: Path) -> None:
    np.savez(path, sscjax=np.array("[]"), kernel=np.zeros(3))


def write_pickled_npz(path: Path) -> None:
    np.savez(path, sscjax=np.array([{"a": 1}], dtype=object))


def write_npz_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("kernel.npy", "w") as member:
            for _ in range(220):
                member.write(bytes(2**20))


def write_claiming_npz(path: Path) -> None:
    header = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, claim)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("kernel.npy", header.getvalue())


def write_nested_npz(path: Path) -> None:
    np.savez(path, sscjax=np.array("[" * 50_000), kernel=np.zeros(3))


def write_long_texts(path: Path) -> None:
    with h5py.File(path, "w") as file:
        shape, chunk = (10_000,), (10,)
        file.create_dataset("layers/conv2d/vars/0", shape, "S100000", chunks=chunk)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("a.h5", nothing, "found nothing, expected a weight file"),
        ("folder.h5", Path.mkdir, "found a folder, expected a weight file"),
        ("a.onnx", garbage, "ends in '.onnx', expected a weight file"),
        ("a.h5", garbage, "not a readable Keras weight file"),
        ("a.weights.h5", empty, "not a readable Keras weight file"),
        ("a.h5", write_foreign_hdf5, "HDF5 without Keras' weights"),
        ("a.h5", write_soft_link, "/layers is a link, expected plain data"),
        ("a.h5", write_external_link, "/layers is a link, expected plain data"),
        ("a.h5", write_external_data, "lies in another file"),
        ("a.h5", write_circle, "stands under two names"),
        ("a.h5", write_huge, "declares 1,000,000,000 numbers"),
        ("a.h5", write_recurrent, "class 'lstm' has weights, expected MobileNetV2"),
        ("a.h5", write_missing_group, "not a readable Keras weight file"),
        ("a.h5", write_no_layers, "holds no weights"),
        ("a.h5", write_text_array, "Conv1/kernel has type object"),
        ("a.h5", write_twice, "Conv1/kernel stands there twice"),
        ("a.safetensors", garbage, "not a readable safetensors file"),
        ("a.safetensors", empty, "not a readable safetensors file"),
        ("a.safetensors", write_lost_metadata, "its metadata is lost"),
        ("a.safetensors", write_wrong_metadata, "expected the convention keras or torch"),
        ("a.npz", garbage, "not a readable .npz file"),
        ("a.npz", empty, "not a readable .npz file"),
        ("a.npz", write_plain_npz, "that scripts/convert_weights.py wrote"),
        ("a.npz", write_wrong_npz, "expected the convention keras or torch"),
        ("a.npz", write_pickled_npz, "not a readable .npz file"),
        ("a.npz", write_npz_bomb, "230,686,720 bytes of arrays, expected at most 200,000,000"),
        ("a.npz", write_claiming_npz, "kernel.npy declares float32 of shape (10000000000000,)"),
        ("a.npz", write_nested_npz, "expected the convention keras or torch"),
        ("a.h5", write_long_texts, "declares 250,000,000 numbers"),
    ],
)
def test_unreadable(tmp_path: Path, name: str, write: Callable[[Path], None], message: str) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".h5", ".safetensors", ".npz"])
def test_truncated_anywhere(tmp_path: Path, tree: Any, keras_arrays: Arrays, suffix: str) -> None:
    source = tmp_path / "whole.h5"
    write_legacy(source, keras_arrays)
    whole = source
    if suffix != ".h5":
        whole = tmp_path / f"whole{suffix}"
        script.convert(source, whole)
    data = whole.read_bytes()
    path = tmp_path / f"part{suffix}"
    for share in (0.0001, 0.01, 0.3, 0.9, 0.9999):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UserError, match="part"):
            load_backbone(path, *tree)


class _Executed:
    """What a hostile pickle would run."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.extra
def test_pickle_is_never_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    marker = tmp_path / "executed"
    hostile = {"features.0.0.weight": _Executed(marker)}
    torch.save(hostile, tmp_path / "a.pth")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(hostile))
    for name in ("a.pth", "b.pt"):
        with pytest.raises(UserError, match="weights_only=True.*refuses it"):
            read_weights(tmp_path / name)
    assert not marker.exists()
    pickle.loads(pickle.dumps(hostile))
    assert marker.exists()  # so it would have been


@pytest.mark.extra
def test_torch_archive_that_unpacks_to_more_than_it_is(tmp_path: Path) -> None:
    """torch writes none, and would unpack one before anything else could look at it."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save({"kernel": torch.zeros(1000)}, plain)
    assert read_weights(plain)[0]["kernel"].shape == (1000,)
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert torch.load(packed, weights_only=True)["kernel"].shape == (1000,)
    with pytest.raises(UserError, match="in it is compressed, which torch.save never does"):
        read_weights(packed)


@pytest.mark.extra
def test_torch_file_without_a_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for name, value in (("list", [torch.zeros(3)]), ("number", {"a": 3})):
        torch.save(value, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match="expected a state dict of tensors"):
            read_weights(tmp_path / f"{name}.pth")
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "empty.pth")
    garbage(tmp_path / "garbage.pth")
    with pytest.raises(UserError, match="refuses it"):
        read_weights(tmp_path / "garbage.pth")


def test_pth_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage(tmp_path / "a.pth")
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(UserError, match="needs PyTorch, which is not installed"):
        read_weights(tmp_path / "a.pth")
