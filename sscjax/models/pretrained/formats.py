"""Reading a file of weights into arrays by name, whatever program wrote it.

Nothing here executes what a file contains: HDF5, safetensors and .npz (without pickles) are plain
data, and a PyTorch file is read by `torch.load(weights_only=True)` alone. What a file claims about
itself (sizes, links to other files) is checked before it is believed.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.errors import UserError
from sscjax.models.pretrained.preprocessing import (
    CONVENTIONS,
    KERAS,
    TORCH,
    Convention,
    convention,
)
from sscjax.system.files import read_npz

FORMATS = ".h5, .weights.h5, .safetensors, .npz, .pth, .pt or .bin"

# MobileNetV2 1.4 with its classifier has 6.2 M parameters; a file that claims many times that is
# no MobileNetV2, and reading it could exhaust the memory.
MAX_ELEMENTS = 50_000_000

# The names under which a converted file records its convention and the layout of its names.
METADATA_KEY = "sscjax"

Weights = dict[str, np.ndarray]


def read_weights(path: Path | str, *, most: int = MAX_ELEMENTS) -> tuple[Weights, Convention]:
    """Read every array of a weight file.

    Args:
        path: a Keras `.h5` (legacy layout) or `.weights.h5` (Keras 3), a torchvision, timm or
            converted `.safetensors`, a converted `.npz`, or a PyTorch `.pth`/`.pt` state dict.
        most: numbers that the file may hold.

    Returns:
        arrays by name, and what the weights assume. Keras names are `LAYER/VARIABLE` with Keras'
        variable names (`Conv1/kernel`), PyTorch's are as in the file (`features.0.0.weight`),
        those of a converted file are `params/LAYER/VARIABLE` and `batch_stats/LAYER/VARIABLE`.
        float16 and float64 become float32.

    Raises:
        UserError: missing, unreadable, truncated or other file, or torch is missing for a `.pth`.
    """
    path = Path(path)
    if not path.is_file():
        content = "a folder" if path.is_dir() else "nothing"
        raise UserError(f"{path}: found {content}, expected a weight file ({FORMATS})")
    readers: Mapping[str, Callable[[Path, int], tuple[Weights, Convention]]] = {
        ".h5": _read_hdf5,
        ".hdf5": _read_hdf5,
        ".safetensors": _read_safetensors,
        ".npz": _read_npz,
        ".pth": _read_torch,
        ".pt": _read_torch,
        ".bin": _read_torch,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(
            f"{path}: the name ends in {path.suffix!r}, expected a weight file ({FORMATS})"
        )
    weights, assumed = reader(path, most)
    if not weights:
        raise UserError(f"{path}: holds no weights; give a file of the weights of a network")
    return {name: _float32(path, name, array) for name, array in weights.items()}, assumed


def _float32(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    if np.issubdtype(array.dtype, np.floating):
        with np.errstate(over="ignore"):  # to infinity, which the check for finite values names
            return np.ascontiguousarray(array, np.float32)
    if np.issubdtype(array.dtype, np.integer):
        return array  # PyTorch's counters of batches
    raise UserError(f"{path}: {name} has type {array.dtype}, expected floating-point numbers")


def _check_size(path: Path, elements: int, most: int) -> None:
    if elements > most:
        raise UserError(
            f"{path}: declares {elements:,} numbers, expected at most {most:,} for this network;"
            " give the file of the network that config.model names"
        )


# ---- HDF5, by Keras -----------------------------------------------------------------------------


# What h5py raises on damaged files, and what reading raises if the layout is unknown.
_HDF5_ERRORS = (
    *(OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError),
    MemoryError,
)


def _read_hdf5(path: Path, most: int) -> tuple[Weights, Convention]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _check_hdf5(path, file, most)
            root = file.get("model_weights", file)
            if "layer_names" in root.attrs:
                return _read_legacy(path, root), KERAS
            if "layers" in file:
                return _read_keras3(path, file["layers"]), KERAS
    except UserError:
        raise
    except _HDF5_ERRORS as error:
        raise UserError(f"{path}: not a readable Keras weight file ({_line(error)})") from error
    raise UserError(
        f"{path}: HDF5 without Keras' weights, expected the attribute 'layer_names' or the group"
        " 'layers'; save the model with Keras' save_weights"
    )


def _check_hdf5(path: Path, file: Any, most: int) -> None:
    """Refuse links to other files, and data sets that claim to be huge."""
    import h5py

    total, seen, waiting = 0, set(), [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            # A soft link could name anything, an external one could read any file of the user.
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{path}: {group.name}/{name} is a link, expected plain data")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:  # a circle, or a few bytes that unfold to millions of groups
                raise UserError(f"{path}: {item.name} stands under two names, expected one")
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise UserError(f"{path}: {item.name} lies in another file, expected data")
                # As float32: a few elements may have many bytes each.
                total += max(item.size or 0, item.nbytes // 4)
                _check_size(path, total, most)


def _names(values: Any) -> list[str]:
    return [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values]


def _read_legacy(path: Path, root: Any) -> Weights:
    """`layer_names` lists the groups, each group's `weight_names` its data sets (keras <= 2)."""
    weights: Weights = {}
    for layer in _names(root.attrs["layer_names"]):
        group = root[layer]
        for name in _names(group.attrs["weight_names"]):
            # 'Conv1/kernel:0'; where a model is nested in another, the last two parts count.
            parts = name.split(":")[0].split("/")
            key = "/".join([parts[-2] if len(parts) > 1 else layer, parts[-1]])
            if key in weights:
                raise UserError(f"{path}: {key} stands there twice, expected one of each")
            weights[key] = np.asarray(group[name])
    return weights


_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def _read_keras3(path: Path, layers: Any) -> Weights:
    """`CLASS[_n]/vars/i`: variables by number, layers of one class by their order in the model."""
    if "functional" in layers and "conv2d" not in layers:
        # The backbone is a model inside the user's; what stands beside it is the user's head.
        inner = _read_keras3(path, layers["functional"]["layers"])
        outer = {key: layers[key] for key in layers if key != "functional"}
        for key, value in _numbered_layers(path, outer, _Order()).items():
            inner.setdefault(key, value)
        return inner
    return _numbered_layers(path, {key: layers[key] for key in layers}, _Order())


class _Order:
    """MobileNetV2's layers of each class in the order in which Keras creates them."""

    def __init__(self) -> None:
        prefixes = ["expanded_conv", *(f"block_{i}" for i in range(1, 17))]
        parts = [[f"{p}_expand", f"{p}_project"] for p in prefixes]
        parts[0] = ["expanded_conv_project"]
        norms = [[f"{p}_{k}_BN" for k in ("expand", "depthwise", "project")] for p in prefixes]
        norms[0] = norms[0][1:]
        self.names = {
            "conv2d": ["Conv1", *(n for part in parts for n in part), "Conv_1"],
            "depthwise_conv2d": [f"{p}_depthwise" for p in prefixes],
            "batch_normalization": ["bn_Conv1", *(n for part in norms for n in part), "Conv_1_bn"],
            "dense": ["predictions"],
        }

    def name(self, kind: str, index: int) -> str:
        names = self.names[kind]
        return names[index] if index < len(names) else f"{kind}_{index}"


def _numbered_layers(path: Path, groups: Mapping[str, Any], order: _Order) -> Weights:
    weights: Weights = {}
    for key, group in groups.items():
        kind, _, number = key.rpartition("_")
        if not number.isdigit():
            kind, number = key, "0"
        variables = group["vars"] if "vars" in group else {}
        if not len(variables):
            continue
        if kind not in _VARIABLES:
            raise UserError(
                f"{path}: a layer of class {kind!r} has weights, expected MobileNetV2"
                f" ({', '.join(_VARIABLES)})"
            )
        layer = order.name(kind, int(number))
        names = _VARIABLES[kind]
        for index in variables:
            known = index.isdigit() and int(index) < len(names)
            variable = names[int(index)] if known else f"variable {index}"
            weights[f"{layer}/{variable}"] = np.asarray(variables[index])
    return weights


# ---- safetensors and .npz -----------------------------------------------------------------------


def _read_safetensors(path: Path, most: int) -> tuple[Weights, Convention]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            sizes = [int(np.prod(file.get_slice(n).get_shape(), dtype=np.int64)) for n in names]
            _check_size(path, sum(sizes), most)
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            weights = {n: np.asarray(file.get_tensor(n)) for n in names if kinds[n] != "BF16"}
        if len(weights) < len(names):
            # NumPy has no bfloat16; JAX has.
            with safe_open(path, framework="flax") as file:
                for name in set(names) - set(weights):
                    weights[name] = np.asarray(file.get_tensor(name), np.float32)
    except UserError:
        raise
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({_line(error)})") from error
    if METADATA_KEY in metadata:
        return weights, _recorded(path, metadata[METADATA_KEY])
    if any(name.startswith(("params/", "batch_stats/")) for name in weights):
        raise UserError(f"{path}: its metadata is lost, convert the original file once more")
    return weights, TORCH


def _read_npz(path: Path, most: int) -> tuple[Weights, Convention]:
    try:
        weights = read_npz(path, most=4 * most)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable .npz file ({_line(error)})") from error
    if METADATA_KEY not in weights:
        raise UserError(
            f"{path}: holds no {METADATA_KEY!r} entry, expected a file that"
            " scripts/convert_weights.py wrote"
        )
    return weights, _recorded(path, str(weights.pop(METADATA_KEY)))


def _recorded(path: Path, text: str) -> Convention:
    try:
        return convention(json.loads(text)["convention"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: records {text[:80]!r}, expected the convention {' or '.join(CONVENTIONS)};"
            " convert the original file once more"
        ) from error


# ---- PyTorch ------------------------------------------------------------------------------------


def _read_torch(path: Path, most: int) -> tuple[Weights, Convention]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: reading {path.suffix} needs PyTorch, which is not installed; install torch"
            " or give the same weights as .safetensors"
        ) from error
    try:
        _check_torch_archive(path, most)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch raises many kinds, pickle.UnpicklingError among them
        raise UserError(
            f"{path}: torch.load(weights_only=True) refuses it ({_line(error)}); save the plain"
            " state_dict() of the model"
        ) from error
    for key in ("state_dict", "model"):  # as training scripts wrap it
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    ):
        raise UserError(f"{path}: holds {type(state).__name__}, expected a state dict of tensors")
    _check_size(path, sum(tensor.numel() for tensor in state.values()), most)
    weights: Weights = {}
    for name, tensor in state.items():
        try:
            value = tensor.detach()
            if value.is_floating_point():
                value = value.float()  # NumPy has no bfloat16
            weights[name.removeprefix("module.")] = value.numpy()
        except Exception as error:  # sparse, quantised, without data, or broken
            raise UserError(
                f"{path}: the tensor {name[:80]!r} is no plain array ({_line(error)}); save the "
                "state_dict() of a dense model on the CPU"
            ) from error
    return weights, TORCH


def _check_torch_archive(path: Path, most: int) -> None:
    """Refuse a file that would unpack to more than it is; since 1.6 torch writes zip archives."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    _check_size(path, sum(entry.file_size for entry in entries) // 4, most)
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise UserError(
            f"{path}: {packed[0][:80]!r} in it is compressed, which torch.save never does; save "
            "the plain state_dict() of the model"
        )


def _line(error: BaseException) -> str:
    """The start of an error's message, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
