"""Train, evaluate and report: `python -m sscjax.main --config=configs/three_class.py`.

`sscjax train` is the same. Any field of the config can be set as `--config.FIELD=VALUE`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NamedTuple

from sscjax import configs
from sscjax.cli import config_help
from sscjax.cli.parsing import Parser
from sscjax.errors import UserError
from sscjax.system import terminal

if TYPE_CHECKING:
    from ml_collections import ConfigDict


class Arguments(NamedTuple):
    """What the command line says.

    Attributes:
      config: the run's config, with the fields that are set on the command line.
      workdir: the run's folder; None: runs/NAME.
      fresh: whether an earlier run in that folder is deleted.
    """

    config: ConfigDict
    workdir: str | None
    fresh: bool


def parser() -> argparse.ArgumentParser:
    """The parser of the command line, without the fields of the config."""
    made = Parser(
        "train",
        "Train, evaluate and report. The same command again resumes a run that was interrupted, "
        "and leaves a finished one unchanged.",
        """
        sscjax train --config=smoke
        sscjax train --config=three_class --config.data.path=skin \\
            --config.data.classes=normal,early,late --workdir=runs/skin
        """,
    )
    made.add_argument(
        "--config",
        metavar="CONFIG",
        help="name of a config, such as three_class, or a file, such as configs/three_class.py "
        "(default: none, it has to be given)",
    )
    made.add_argument(
        "--config.FIELD",
        metavar="VALUE",
        dest="field",
        help="set a field of the config, such as --config.seed=1; --helpfull lists all "
        "(default: as the config says)",
    )
    made.add_argument(
        "--workdir",
        metavar="FOLDER",
        help="the run's folder (default: runs/NAME of the config, with the kind of "
        "cross-validation)",
    )
    made.add_argument(
        "--fresh",
        action="store_true",
        help="delete an earlier run in that folder first (default: resume it)",
    )
    made.add_argument(
        "--helpfull",
        action="store_true",
        help="print this help and every field with its default, and exit",
    )
    return made


def main() -> None:
    """Parse the command line and run."""
    command = sys.argv[1:]
    given = parse(command)
    from sscjax.experiments import api

    terminal.set_up_log()
    terminal.set_up_jax()
    result = api.run(given.config, given.workdir, fresh=given.fresh, command=command)
    print(f"\n{result.text}", end="")


def parse(words: list[str]) -> Arguments:
    """Read the command line.

    Args:
      words: its arguments, without the program's name.

    Raises:
      UserError: an unknown option, config or field, a value of the wrong type, no config.
    """
    fields, rest = _split(words)
    given = parser().parse_args(rest)
    if given.helpfull:
        print(f"{parser().format_help()}\nfields of the config, by configs/default.py:\n")
        default = configs.file_of("default")
        assert default is not None
        print(config_help.describe(default))
        sys.exit(0)
    if given.config is None:
        raise UserError("no config given: add --config=three_class or --config=FILE")
    from sscjax.experiments import overrides

    config = overrides.config_of(given.config)
    return Arguments(overrides.set_texts(config, fields), given.workdir, given.fresh)


def _split(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The fields of the config that are set, and the other words; of two values the last counts."""
    fields: dict[str, str] = {}
    rest = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, sign, value = word.partition("=")
        if not name.startswith("--config."):
            rest.append(word)
            continue
        if not sign:
            if not remaining or remaining[0].startswith("--"):
                raise UserError(f"{name}: expected a value, as in {name}=VALUE")
            value = remaining.pop(0)
        fields[name.removeprefix("--config.")] = value
    return fields, rest


if __name__ == "__main__":
    sys.exit(terminal.call(main))
