"""Make a run's report.html and model_card.md anew: `python -m sscjax.page runs/three_class`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import jinja2

from sscjax import cli, page
from sscjax.errors import UserError


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(prog="python -m sscjax.page", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run, or of a protocol")
    for path in written(parser.parse_args().run.expanduser().resolve()):
        print(path)


def written(folder: Path) -> tuple[Path, Path]:
    """As `page.write`, of a folder that may have been changed since.

    Raises:
      UserError: it holds no finished run, or what it holds is damaged.
    """
    try:
        return page.write(folder)
    except UserError:
        raise
    except (
        *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
        jinja2.TemplateRuntimeError,
    ) as error:
        raise UserError(
            f"{folder} is damaged or of another version ({type(error).__name__}: {error}): give "
            "the run's command again, or train it anew"
        ) from error


if __name__ == "__main__":
    sys.exit(cli.call(main))
