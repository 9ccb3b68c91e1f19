"""The parser that all commands share: one style of help, and mistakes in one line.

It imports nothing heavy: `sscjax COMMAND --help` has to be there at once.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from sscjax.errors import UserError

WIDTH = 80
"""Columns of the help, whatever the terminal's are: it looks the same in the documentation."""

PRIVATE = (
    "write numbers in place of the names of files and subjects (default: only for private runs)"
)
"""Help of the option `--private`."""


class Parser(argparse.ArgumentParser):
    """A parser whose help is a sentence, the usage, the options and an example.

    Options are not abbreviated: a script that does so breaks with the next option. A mistake is
    raised as a `UserError` of one line, which names the nearest option.

    Args:
      command: the word after `sscjax`.
      about: one sentence.
      example: command lines, one per line.
    """

    def __init__(self, command: str, about: str, example: str) -> None:
        super().__init__(
            prog=f"sscjax {command}",
            description=textwrap.fill(about, WIDTH),
            epilog="example:\n" + textwrap.indent(textwrap.dedent(example).strip(), "  "),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        self._words: list[str] = []

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `ArgumentParser.parse_args`.

        Raises:
          UserError: an unknown option, a value of the wrong kind, or one too few or too many.
        """
        values, surplus = self.parse_known_args(args, namespace)
        if surplus:
            self._refuse_unknown()
            raise UserError(
                f"{self.prog}: found {surplus[0]!r}, which is one argument too many; "
                f"`{self.prog} --help` shows what is expected"
            )
        return values

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `ArgumentParser.parse_known_args`, with `UserError` for what is wrong."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise a UserError; of a misspelt option rather than of the one that is missing for it."""
        self._refuse_unknown()
        text = re.sub(r"^argument ", "", message)
        raise UserError(f"{self.prog}: {text}; `{self.prog} --help` shows what is expected")

    def _refuse_unknown(self) -> None:
        known = list(self._option_string_actions)
        for word in self._words:
            name = word.partition("=")[0]
            if word == "--":
                return
            # A single minus begins a number, or stands for standard input elsewhere.
            if re.match(r"--?[A-Za-z]", name) and name not in known:
                hint = nearest(f"--{name.lstrip('-')}", known)
                raise UserError(
                    f"{self.prog} has no option {name}{hint or f'; {self.prog} --help lists all'}"
                )


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Texts as they are given, in `WIDTH` columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=WIDTH)


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?', or '' where no known name is like `name`."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def one_of(*known: str) -> Callable[[str], str]:
    """The `type` of an option that takes one of a few words."""

    def check(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(
                f"found {text!r}, expected {', '.join(known)}{nearest(text, known)}"
            )
        return text

    return check


def add_maps(parser: argparse.ArgumentParser) -> None:
    """Add the option `--maps`, which `explain` and `predict` share."""
    parser.add_argument(
        "--maps",
        type=one_of("checked", "anyway", "none"),
        default="checked",
        metavar="WHICH",
        help="checked: maps if the model's passed their check; anyway: in any case; none "
        "(default: checked)",
    )
