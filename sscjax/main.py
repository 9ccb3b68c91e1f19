"""Train, test and report: `sscjax train FOLDER`, or with a config of one's own.

`python -m sscjax.main --config=configs/three_class.py` is the same as `sscjax train`. Any field of
the config can be set as `--config.FIELD=VALUE`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import sscjax
from sscjax import configs
from sscjax.cli import class_order, config_help
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
        "Train, test and report. With a folder of images alone: read and audit it, choose how to "
        "test by the number of patients, train by the best recipe, and fit the model to hand on. "
        "The same command again resumes a run that was interrupted, and leaves a finished one "
        "unchanged.",
        """
        sscjax train skin
        sscjax train skin --classes=normal,early,late --workdir=runs/skin
        sscjax train --config=smoke
        """,
    )
    made.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="images, as class/patient/image.jpg, or a manifest.csv (default: as the config says)",
    )
    made.add_argument(
        "--classes",
        metavar="NAMES",
        help="classes in their order, the healthy one first, such as normal,early,late (default: "
        "asked for on a terminal, else by name)",
    )
    made.add_argument(
        "--config",
        metavar="CONFIG",
        help="name of a config, such as three_class, or a file, such as configs/three_class.py "
        "(default: best, for a FOLDER)",
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
        help="the run's folder (default: runs/NAME of FOLDER or of the config, with the kind of "
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
    _read(command)
    # Before the imports below, which take seconds on a busy machine.
    _greet(command)
    given = parse(command)
    config = given.config
    from sscjax.experiments import overrides

    default = overrides.default_folder(config.name, config.protocol)
    workdir = Path(given.workdir or default).expanduser()
    if config.data.path and not config.data.classes and not config.data.merge:
        config.data.classes = class_order.settle(config.data.path, workdir, config.private)
    from sscjax.experiments import api

    terminal.set_up_log()
    terminal.set_up_jax()
    result = api.run(config, given.workdir, fresh=given.fresh, command=command)
    print(f"\n{result.headline}")


def _greet(words: list[str]) -> None:
    """The first line."""
    if not {"-h", "--help", "--helpfull"} & set(words):
        print(f"sscjax {sscjax.__version__}. For research, not for diagnosis.", file=sys.stderr)
        sys.stderr.flush()


def parse(words: list[str]) -> Arguments:
    """Read the command line.

    Args:
      words: its arguments, without the program's name.

    Raises:
      UserError: an unknown option, config or field, a value of the wrong type, no config.
    """
    fields, given = _read(words)
    if given.helpfull:
        print(f"{parser().format_help()}\nfields of the config, by configs/default.py:\n")
        default = configs.file_of("default")
        assert default is not None
        print(config_help.describe(default))
        sys.exit(0)
    for name, value in (("data.path", given.folder), ("data.classes", given.classes)):
        if value is not None and name in fields:
            option = "FOLDER" if name == "data.path" else "--classes"
            raise UserError(f"{option} and --config.{name} are both given: leave one of them out")
        if value is not None:
            fields[name] = value
    from sscjax.experiments import overrides

    config = overrides.config_of("best" if given.config is None else given.config)
    overrides.set_texts(config, fields)
    if given.folder is not None and "name" not in fields:
        # It names the run's folder and its report. A link is called as it is given.
        path = Path(os.path.abspath(Path(given.folder).expanduser()))
        own = path.parent.name if path.name == "manifest.csv" else path.stem or path.name
        config.name = (path.name if path.is_dir() else own) or config.name
    return Arguments(config, given.workdir, given.fresh)


def _read(words: list[str]) -> tuple[dict[str, str], argparse.Namespace]:
    """The fields of the config, and the options; imports nothing."""
    fields, rest = _split(words)
    given: argparse.Namespace = parser().parse_args(rest)
    if given.config is None and given.folder is None and not given.helpfull:
        raise UserError(
            "nothing to train on: name a folder of images, as in sscjax train FOLDER, or a config, "
            "as in --config=three_class"
        )
    return fields, given


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
