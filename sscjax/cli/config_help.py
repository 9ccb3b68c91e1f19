"""The fields of a config, with their comments and defaults, read from the source of its file."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sscjax.cli.parsing import WIDTH


class Field(NamedTuple):
    """A field: its dotted name, its default as Python writes it, its comment in one line."""

    name: str
    default: str
    comment: str


def fields(path: Path) -> list[Field]:
    """The fields that `get_config` of a file such as configs/default.py sets, in their order.

    A block that is made by a function of the same file has that function's fields. Of fields that
    follow each other without an empty line the first one's comment may stand for all.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    functions = {
        node.name: node
        for node in ast.parse("\n".join(lines)).body
        if isinstance(node, ast.FunctionDef)
    }
    made: dict[str, Field] = {}
    for name, value, comment in _assignments(functions["get_config"], lines):
        called = value.func if isinstance(value, ast.Call) else None
        maker = functions.get(called.id) if isinstance(called, ast.Name) else None
        if maker is not None:
            for inner, default, text in _assignments(maker, lines):
                full = f"{name}.{inner}"
                made[full] = Field(full, ast.unparse(default), text)
        elif not isinstance(value, ast.Call):
            # What a field means is said where it is made, not where its value changes.
            meaning = made[name].comment if name in made else comment
            made[name] = Field(name, ast.unparse(value), meaning)
    return list(made.values())


def _assignments(
    function: ast.FunctionDef, lines: list[str]
) -> Iterator[tuple[str, ast.expr, str]]:
    """Name without `config.`, value and comment of each assignment to a field."""
    comment = ""
    for node in function.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        own: list[str] = []
        above = node.lineno - 2
        while lines[above].strip().startswith("#"):
            own.insert(0, lines[above].strip().lstrip("# "))
            above -= 1
        # Lines that follow each other without a gap share the comment of the first.
        comment = " ".join(own) or (comment if lines[node.lineno - 2].strip() else "")
        name = ast.unparse(node.targets[0]).partition(".")[2]
        yield name, node.value, comment


def describe(path: Path) -> str:
    """A paragraph for each field, as `--helpfull` prints it; at most `WIDTH` columns."""
    blocks = []
    for field in fields(path):
        text = textwrap.fill(
            field.comment, WIDTH, initial_indent="      ", subsequent_indent="      "
        )
        default = textwrap.fill(
            f"--config.{field.name}  (default: {field.default})",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
        )
        blocks.append(f"{default}\n{text}")
    return "\n".join(blocks)
