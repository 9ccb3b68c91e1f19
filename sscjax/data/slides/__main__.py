"""See `program`."""

import sys

from sscjax import cli
from sscjax.data.slides.program import main

if __name__ == "__main__":
    sys.exit(cli.call(main))
