"""The documentation names tests and files that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = REPOSITORY / "tests"

FILE = r"(?:[\w]+/)*test_\w+\.py"


def functions(path: Path) -> set[str]:
    """The tests of a file, by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_a_test_that_exists() -> None:
    """docs/reliability.md: `folder/test_file.py::test_name`, or `test_name` of any file."""
    text = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    by_file = {path.relative_to(TESTS): functions(path) for path in TESTS.rglob("test_*.py")}
    every = set().union(*by_file.values())
    named = re.findall(rf"({FILE})::(test_\w+)", text)
    alone = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 15 and len(alone) > 20
    assert [pair for pair in named if pair[1] not in by_file.get(Path(pair[0]), ())] == []
    assert [name for name in alone if name not in every] == []


def test_every_named_file_of_tests_exists() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    named = {
        (page.name, file)
        for page in pages
        for file in re.findall(rf"\btests/({FILE})", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 5
    assert [pair for pair in named if not (TESTS / pair[1]).is_file()] == []
