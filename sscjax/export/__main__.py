"""`python -m sscjax.export`, see the package."""

from __future__ import annotations

import sys

from sscjax import cli
from sscjax.export import program

if __name__ == "__main__":
    sys.exit(cli.call(program.main))
