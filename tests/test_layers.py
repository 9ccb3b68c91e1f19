"""Imports run downwards through the layers, in no circle, and heavy libraries stay in their place.

The sources are parsed, not imported: an import inside a function counts as much as one at the top.
"""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "sscjax"

# Lowest first. A module or package imports from layers below its own; inside a package its modules
# may import each other. A dotted name is a part of a package that stands higher than the rest.
# docs/design.md shows the same table as a picture.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "files", "interrupts", "machine", "memory", "paper", "pictures", "progress"),
    ("rows", "fetch", "locks"),
    ("metrics", "models", "data", "surfaces"),
    ("pretrained", "optim", "checkpoint", "figures", "events", "report", "outliers", "textures"),
    ("steps", "cli", "delong", "prepare"),
    (
        "features",
        "intervals",
        "saliency",
        "audit",
        "course",
        "linear",
        "data.slides",
        "backbone",
    ),
    (
        "evaluate",
        "build",
        "calibration",
        "thresholds",
        "paired",
        "comparison_text",
        "roc",
        "segmentation",
    ),
    ("stage_inputs", "assess", "page"),
    ("stage",),
    ("record", "provenance", "explanations", "folds", "search"),
    ("summary", "trained"),
    ("ensemble",),
    ("pooled", "train", "answers", "mask_files"),
    ("protocol", "whole_slides"),
    ("predict",),
    ("main", "compare", "reproduce", "explain", "export", "doctor"),
    ("samplesize", "pretrain"),
)

# Libraries that only these parts may import. An empty row: nobody.
OWNERS: dict[str, tuple[str, ...]] = {
    "tensorflow": (),
    "keras": (),
    "torch": ("pretrained.read",),
    "orbax": ("checkpoint",),
    "ml_collections": (
        *("prepare", "build", "explanations", "folds", "record", "search", "summary", "provenance"),
        *("pooled", "train", "protocol", "main", "reproduce", "trained", "ensemble"),
        *("export", "pretrain"),
    ),
    "onnx": ("export",),
    "onnxruntime": ("export",),
    "flatbuffers": ("export",),
    "absl": ("main",),
    "tensorflow_datasets": ("data",),
    "array_record": ("data",),
    "PIL": ("data", "pictures"),
    "openslide": ("data.slides.reading",),
    "torchstain": ("data.slides.stain",),
    "matplotlib": ("figures", "pictures"),
    "jinja2": ("page",),
    "markupsafe": ("page",),
    "scipy": (
        "calibration",
        "data",
        "delong",
        "intervals",
        "linear",
        "paired",
        "saliency",
        "samplesize",
        "surfaces",
    ),
    "threadpoolctl": ("data",),
    "tqdm": ("progress",),
    "filelock": ("locks",),
    "pooch": ("fetch",),
    "requests": ("fetch",),
    "urllib3": ("fetch",),
    "tensorboardX": ("events",),
    "h5py": ("pretrained",),
    "safetensors": ("pretrained",),
    "platformdirs": ("pretrained.cache",),
    "packaging": ("doctor",),
}

# Libraries that may only be imported inside a function: they may be missing.
LAZY = (
    *("torch", "array_record", "onnx", "onnxruntime", "flatbuffers", "openslide", "torchstain"),
    *("packaging", "tensorboardX"),
)

# Parts that import the standard library, these, and what the layers allow them of the package.
ONLY: dict[str, tuple[str, ...]] = {
    "errors": (),
    "files": ("numpy",),
    "fetch": ("pooch", "requests", "urllib3"),
    "interrupts": (),
    "locks": ("filelock",),
    "paper": (),
    "progress": ("tqdm",),
    "rows": ("numpy",),
    "metrics": ("numpy",),
    "models": ("numpy", "jax", "flax"),
    "report": ("numpy",),
    "outliers": ("numpy",),
    "calibration": ("numpy", "scipy"),
    "thresholds": ("numpy",),
    "assess": ("numpy",),
    "figures": ("numpy", "matplotlib"),
    "events": ("numpy", "tensorboardX"),
    "delong": ("numpy", "scipy"),
    "paired": ("numpy", "scipy"),
    "comparison_text": (),
    "pictures": ("numpy", "matplotlib", "PIL"),
    "roc": ("numpy",),
    "segmentation": ("numpy",),
    "page": ("numpy", "jinja2", "markupsafe"),
}

# Of the package, models see nothing but each other.
CLOSED = ("models",)


class Import(NamedTuple):
    module: str  # dotted, absolute
    line: int
    in_function: bool


def within(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def imports(tree: ast.AST, in_function: bool = False) -> Iterator[Import]:
    """Every import of a module. `from a import b` gives `a.b`: b may be a module or a name."""
    for node in ast.iter_child_nodes(tree):
        inside = in_function or isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        )
        match node:
            case ast.Import():
                for alias in node.names:
                    yield Import(alias.name, node.lineno, inside)
            case ast.ImportFrom():
                prefix = "." * node.level + (node.module or "")
                for alias in node.names:
                    yield Import(f"{prefix}.{alias.name}", node.lineno, inside)
            case (
                ast.Call(func=ast.Attribute(attr="import_module"), args=[first, *_])
                | ast.Call(func=ast.Name(id="import_module" | "__import__"), args=[first, *_])
            ):
                name = first.value if isinstance(first, ast.Constant) else "?"
                yield Import(str(name), node.lineno, inside)
        yield from imports(node, inside)


def modules_of(package: Path) -> dict[str, Path]:
    """Dotted name below the package ('' for the package itself) -> file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def owner_of(name: str, modules: dict[str, Path]) -> str:
    """The longest part of a dotted name that is a module: the rest is a name inside it."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def check_internal(unit: str, target: str, height: dict[str, int]) -> str:
    """Why `unit` may not import from the unit `target`, or ''."""
    if unit == target:
        return ""
    if unit in CLOSED:
        return f"{unit} may import nothing of the package but itself"
    if height.get(target, -1) >= height.get(unit, len(LAYERS)):
        return f"{target} is not in a layer below {unit}"
    return ""


def check_external(module: str, found: Import) -> str:
    """Why `module` may not make this import of another library, or ''."""
    library = found.module.partition(".")[0]
    if library == "?":
        return "the module's name is not a constant"
    if not library:
        return "relative import"
    if library in sys.stdlib_module_names:
        return ""
    if library in OWNERS and not within(module, OWNERS[library]):
        owners = OWNERS[library]
        return f"{'only ' + ' and '.join(owners) if owners else 'nobody'} may import {library}"
    if library in LAZY and not found.in_function:
        return f"{library} may only be imported inside a function"
    for part, allowed in ONLY.items():
        if within(module, (part,)) and library not in allowed:
            return f"{part} may import of other libraries only: {', '.join(allowed) or 'none'}"
    return ""


def circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """Every circle that a depth-first walk closes."""
    state: dict[str, str] = {}

    def walk(node: str, path: list[str]) -> Iterator[str]:
        state[node] = "open"
        for target in sorted(graph[node]):
            if state.get(target) == "open":
                ring = [*path[path.index(target) :], target]
                yield f"circle: {' -> '.join(ring)}"
            elif target not in state:
                yield from walk(target, [*path, target])
        state[node] = "done"

    for node in sorted(graph):
        if node not in state:
            yield from walk(node, [node])


def unit_of(module: str) -> str:
    """The entry of the table that a module belongs to: the longest that fits, else its top name."""
    units = [unit for layer in LAYERS for unit in layer if within(module, (unit,))]
    return max(units, key=len, default=module.partition(".")[0])


def violations(package: Path) -> list[str]:
    """One line for every import that breaks a rule, every unlisted module and every circle."""
    modules = modules_of(package)
    height = {unit: level for level, units in enumerate(LAYERS) for unit in units}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    lines = []
    for module, path in modules.items():
        unit = unit_of(module)
        where = path.relative_to(package).as_posix()
        if unit and unit not in height:
            lines.append(f"{where}: {unit} is in no layer")
        for found in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if found.module.partition(".")[0] == package.name:
                target = owner_of(found.module.removeprefix(package.name).lstrip("."), modules)
                problem = check_internal(unit, unit_of(target), height) if target else ""
                if target != module:
                    graph[module].add(target)
            else:
                problem = check_external(module, found)
            if problem:
                lines.append(f"{where}:{found.line}: imports {found.module}: {problem}")
    return lines + list(circles(graph))


def test_package_keeps_to_its_layers() -> None:
    assert violations(PACKAGE) == []


def test_table_names_what_exists() -> None:
    units = {unit_of(name) for name in modules_of(PACKAGE)} - {""}
    listed = [unit for layer in LAYERS for unit in layer]
    assert sorted(listed) == sorted(units)


def test_picture_shows_the_table() -> None:
    """`scripts/draw_layers.py` draws it: a band for each layer, the highest first."""
    bands: list[list[str]] = []
    for element in ElementTree.parse(REPOSITORY / "docs" / "layers.svg").iter():
        if element.get("class") == "band":
            bands.append([])
        if element.get("class") == "name":
            bands[-1].append(str(element.text))
    assert bands == [list(layer) for layer in reversed(LAYERS)]


SOUND = {
    "__init__.py": "",
    "errors.py": "",
    "optim.py": "import optax\n",
    "models/__init__.py": "from sscjax.models.cnn import CNN\n",
    "models/cnn.py": "import jax\nfrom flax import linen\nfrom sscjax.models import layers\n",
    "models/layers.py": "import numpy\n",
    "metrics.py": "import json\nimport numpy\nfrom sscjax.errors import UserError\n",
    "pretrained/__init__.py": "",
    "pretrained/read.py": "def read():\n    import torch\n",
    "train.py": "from sscjax import metrics\nimport sscjax.models.cnn\n",
}


def write_tree(package: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_sound_tree_passes(tmp_path: Path) -> None:
    write_tree(tmp_path / "sscjax", SOUND)
    assert violations(tmp_path / "sscjax") == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("metrics.py", "from sscjax.train import run\n", "train is not in a layer below metrics"),
        ("metrics.py", "def f():\n    from sscjax import train\n", "train is not in a layer below"),
        ("pretrained/a.py", "import sscjax.optim\n", "optim is not in a layer below pretrained"),
        ("models/cnn.py", "from sscjax.errors import UserError\n", "nothing of the package but"),
        ("models/cnn.py", "import optax\n", "models may import of other libraries only: numpy"),
        ("metrics.py", "import jax.numpy as jnp\n", "metrics may import of other libraries only"),
        ("train.py", "import tensorflow as tf\n", "nobody may import tensorflow"),
        ("train.py", "import keras\n", "nobody may import keras"),
        ("train.py", "def f():\n    import torch\n", "only pretrained.read may import torch"),
        ("pretrained/read.py", "import torch\n", "only be imported inside a function"),
        ("train.py", "import orbax.checkpoint as ocp\n", "only checkpoint may import orbax"),
        ("optim.py", "from ml_collections import ConfigDict\n", "may import ml_collections"),
        ("train.py", "from .models import cnn\n", "relative import"),
        ("train.py", "import importlib\nimportlib.import_module('keras')\n", "nobody may import"),
        ("train.py", "def f(name):\n    __import__(name)\n", "name is not a constant"),
        ("stray.py", "", "stray.py: stray is in no layer"),
        (
            "models/layers.py",
            "from sscjax.models.cnn import CNN\n",
            "circle: models.cnn -> models.layers -> models.cnn",
        ),
        ("models/layers.py", "from sscjax.models import CNN\n", "models.layers -> models"),
    ],
)
def test_broken_tree_is_found(tmp_path: Path, name: str, text: str, expected: str) -> None:
    write_tree(tmp_path / "sscjax", SOUND | {name: text})
    found = violations(tmp_path / "sscjax")
    assert any(expected in line for line in found), found
