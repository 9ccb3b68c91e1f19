"""Imports run one way through the folders, in no circle; heavy libraries stay in their place.

The sources are parsed, not imported: an import inside a function counts as much as one at the top.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "sscjax"

# Lowest first: a folder imports from itself and from those before it. docs/design.md draws it.
ORDER = (
    *("errors", "system", "data", "models", "evaluation", "reports", "training", "inference"),
    *("experiments", "export", "app", "cli", "main", "__main__"),
)
# The networks know nothing of image sets.
APART = {("models", "data")}

# Libraries that only these folders or modules may import. Nobody: references of the tests.
OWNERS = {
    "tensorflow": (),
    "keras": (),
    "torch": ("models/pretrained/formats",),
    "orbax": ("training/checkpoint",),
    "onnx": ("export",),
    "onnxruntime": ("export",),
    "tensorflow_datasets": ("data",),
    "array_record": ("data",),
    "openslide": ("data/slides/reader",),
    "openpyxl": ("data/tables",),
    "matplotlib": ("reports",),
    "jinja2": ("reports/html", "app/render"),
    "starlette": ("app/server", "app/pages"),
    "uvicorn": ("app/server",),
}
# May be missing: imported where they are used.
LAZY = (
    *("torch", "array_record", "onnx", "onnxruntime", "openpyxl", "openslide", "torchstain"),
    "tensorboardX",
)


def imported(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Every imported name, dotted, and whether it stands in a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", inside) for alias in node.names)
        yield from imported(node, inside or isinstance(node, ast.FunctionDef | ast.Lambda))


def violations(package: Path) -> Iterator[str]:
    """One line for every import that breaks a rule."""
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package).with_suffix("").as_posix()
        folder = where.partition("/")[0]
        for name, inside in imported(ast.parse(path.read_text(encoding="utf-8"))):
            library, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if library == "sscjax" and folder in ORDER and target in ORDER:
                if ORDER.index(target) > ORDER.index(folder) or (folder, target) in APART:
                    yield f"{where}: {target} stands above {folder}"
            if library in OWNERS and not where.startswith(OWNERS[library] or ("-",)):
                yield f"{where}: may not import {library}"
            if library in LAZY and not inside:
                yield f"{where}: {library} may be missing, import it in the function that uses it"


def test_imports_follow_the_order_of_the_folders() -> None:
    assert list(violations(PACKAGE)) == []


def test_every_folder_has_its_place_in_the_order() -> None:
    entries = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert entries - {"__init__", "py", "configs"} == set(ORDER)
    assert len(list(PACKAGE.iterdir())) - (PACKAGE / "__pycache__").is_dir() <= 17


def test_no_module_imports_itself_in_a_circle() -> None:
    """Within a folder, too: importing each module first, in a fresh order, must work."""
    graph: dict[str, set[str]] = {}
    names = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    }
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        edges = graph.setdefault(module.removesuffix(".__init__"), set())
        for name, inside in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if not inside:
                edges |= {name if name in names else name.rpartition(".")[0]} & names
    done: set[str] = set()
    while True:
        free = {name for name, edges in graph.items() if edges <= done | {name, "sscjax"}} - done
        if not free:
            break
        done |= free
    assert set(graph) - done == set()


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("data/a.py", "from sscjax.training import loop\n", "training stands above data"),
        ("models/a.py", "from sscjax.data import dataset\n", "data stands above models"),
        ("data/a.py", "def f():\n    from sscjax import cli\n", "cli stands above data"),
        ("data/a.py", "import keras\n", "may not import keras"),
        ("export/a.py", "import onnx\n", "import it in the function"),
    ],
)
def test_what_breaks_a_rule_is_reported(
    tmp_path: Path, file: str, text: str, expected: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    lines = list(violations(tmp_path))
    assert len(lines) == 1 and (expected in lines[0] or "models" in lines[0])
