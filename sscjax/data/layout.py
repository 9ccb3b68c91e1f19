"""What the levels of a folder mean: `config.data.layout`, parsed here and nowhere else.

A layout is a list of words, `class/patient`, or a pattern with the place of the file at its end,
`{label}/{zoom}/{subject}/*`. Both become one regular expression for the path of an image relative
to the set's folder.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from sscjax.errors import UserError

FIELD = "config.data.layout"

_MEANING = {
    "label": "label", "class": "label", "diagnosis": "label",
    "subject": "subject", "patient": "subject", "case": "subject",
    "split": "split", "set": "split",
    "site": "site", "centre": "site", "center": "site",
}  # fmt: skip
"""What a word of a layout stands for; any other name is a level that is not used."""

_WORDS = {**_MEANING, "level": "*"}

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Accepted spellings of a split, and the name used everywhere after loading."""

_SPLIT_TAIL = re.compile(r"[ _-]?(set|data|images|imgs|split)$")


def split_of(name: str) -> str | None:
    """'train', 'val' or 'test' where a folder or a cell has such a name, in any spelling.

    Example:
      >>> split_of("Training_images"), split_of("healthy")
      ('train', None)
    """
    lower = name.strip().casefold()
    return SPLIT_NAMES.get(lower) or SPLIT_NAMES.get(_SPLIT_TAIL.sub("", lower))


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a folder or a table is read: fields of `config.data`, checked.

    Attributes:
      layout: what the levels of a folder mean; '' to find out.
      columns: 'role=column,...' for a table whose columns have other names.
      merge_spellings: read names as one that differ only in capitals, white space or Unicode form.
      shared_subjects: 'same' or 'different': what equal names of subjects in several classes are;
        '' to stop where that is in doubt.
    """

    layout: str = ""
    columns: str = ""
    merge_spellings: bool = False
    shared_subjects: str = ""

    def __post_init__(self) -> None:
        if self.layout:
            parse(self.layout)
        if self.shared_subjects not in ("", "same", "different"):
            raise UserError(
                f"config.data.shared_subjects={self.shared_subjects!r}: expected 'same' or "
                "'different', or '' to stop where it is in doubt"
            )


FIND_OUT = Reading()
"""Find out what can be found out, and stop where it cannot."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the levels of a folder mean.

    Attributes:
      text: as the user gave it, or would.
      levels: for each folder level of the pattern what it is: 'label', 'subject', 'split', 'site',
        or a name in quotes or '*' for a level that is not used.
      pattern: matches the path of an image relative to the folder, with forward slashes.
      given: whether the config names it; else it was found out.
    """

    text: str
    levels: tuple[str, ...]
    pattern: re.Pattern[str]
    given: bool

    def read(self, file: str) -> dict[str, str] | None:
        """Label, subject, split and site of a path, as far as it names them; None: no match."""
        match = self.pattern.fullmatch(file)
        if match is None:
            return None
        return {name: value for name, value in match.groupdict().items() if value is not None}

    def source(self, role: str) -> str:
        """Where a role is read from, for reports: 'folder level 2', 'file name' or 'none'."""
        for number, level in enumerate(self.levels, 1):
            if role in level.split("+"):
                return f"folder level {number}"
        return "file name" if f"(?P<{role}>" in self.pattern.pattern else "none"


def parse(text: str) -> Layout:
    """Read a layout of words or a pattern.

    Raises:
      UserError: it has no class, names something twice, or is no layout at all.

    Example:
      >>> parse("class/level/patient").read("early/40X/p1/a.png")
      {'label': 'early', 'subject': 'p1'}
      >>> parse("{label}/{subject}_idx5_*").read("1/10253_idx5_x1.png")
      {'label': '1', 'subject': '10253'}
    """
    is_pattern = any(mark in text for mark in "{}*")
    parts = [part.strip() for part in text.strip().strip("/").replace("\\", "/").split("/")]
    made = _from_pattern(text, parts) if is_pattern else _from_words(text, parts)
    found = re.findall(r"\(\?P<(\w+)>", made.pattern.pattern)
    if "label" not in found:
        raise _refusal(text, "names no class")
    return made


def found(text: str) -> Layout:
    """The layout of words that a folder was found to have, where images may lack the patient."""
    levels = tuple(_WORDS[word] for word in text.split("/"))
    optional = levels[-1] == "subject"
    needed = levels[:-1] if optional else levels
    expression = "".join(f"(?P<{level}>[^/]+)/" for level in needed)
    expression += r"(?:(?P<subject>[^/]+)/)?" if optional else ""
    return Layout(text, levels, re.compile(expression + r"(?:[^/]+/)*[^/]+"), given=False)


def _from_words(text: str, words: Sequence[str]) -> Layout:
    levels = []
    for word in words:
        if word.lower() not in _WORDS:
            raise _refusal(text, f"{word!r} is none of {', '.join(sorted(set(_WORDS)))}")
        levels.append(_WORDS[word.lower()])
    _refuse_repeated(text, [level for level in levels if level != "*"])
    parts = ["[^/]+/" if level == "*" else f"(?P<{level}>[^/]+)/" for level in levels]
    pattern = re.compile("".join(parts) + r"(?:[^/]+/)*[^/]+")
    return Layout(text, tuple(levels), pattern, given=True)


def _from_pattern(text: str, parts: Sequence[str]) -> Layout:
    fields: list[str] = []
    levels, expression = [], ""
    for number, part in enumerate(parts):
        is_file = number == len(parts) - 1
        if part == "**":
            expression += r"(?:[^/]+/)*" + ("[^/]+" if is_file else "")
            levels += [] if is_file else ["*"]
            continue
        piece, names = _segment(text, part)
        fields += names
        known = [name for name in names if name in set(_MEANING.values())]
        levels += [] if is_file else ["+".join(known) or (names[0] if names else part)]
        expression += piece + ("" if is_file else "/")
    _refuse_repeated(text, fields)
    return Layout(text, tuple(levels), re.compile(expression), given=True)


def _segment(text: str, part: str) -> tuple[str, list[str]]:
    """The expression of one segment of a pattern, and the names of its fields."""
    expression, names = "", []
    for piece in re.split(r"(\{[^{}]*\}|\*+)", part):
        if piece.startswith("{") and piece.endswith("}"):
            name = _MEANING.get(piece[1:-1].strip().lower(), piece[1:-1].strip())
            if not name.isidentifier():
                raise _refusal(text, f"{piece} is no name in braces")
            names.append(name)
            # Short where more follows: `{subject}_*` ends at the first underscore.
            expression += f"(?P<{name}>[^/]+?)"
        elif piece.startswith("*"):
            expression += "[^/]*"
        elif "{" in piece or "}" in piece:
            raise _refusal(text, "a brace is open")
        else:
            expression += re.escape(piece)
    if not part:
        raise _refusal(text, "a level is empty")
    return expression, names


def _refuse_repeated(text: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise _refusal(text, f"{name} stands there twice")


def _refusal(text: str, why: str) -> UserError:
    return UserError(
        f"{FIELD}={text!r}: {why}; expected words such as class/patient, patient/class, "
        "split/class/patient or class/level/patient, or a pattern such as "
        "{label}/{zoom}/{subject}/* whose last part is the file"
    )


def path_option(path: Path | str) -> str:
    """The exact option for another path of the images, as a shell takes it."""
    return f"--config.data.path={shlex.quote(str(path))}"


def option(text: str) -> str:
    """The exact option for a layout, as a shell takes it."""
    quoted = f"'{text}'" if any(mark in text for mark in "{}*") else text
    return f"--{FIELD}={quoted}"
