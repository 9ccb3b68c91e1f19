"""`sscjax doctor`: check whether this machine is fit for training."""

from __future__ import annotations

import argparse

from sscjax.cli.parsing import Parser


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    return Parser(
        "doctor",
        "Check whether this machine is fit for training: libraries, devices, memory, disk, "
        "weights, a training step. Each problem comes with its fix. Exit code 1: there is a "
        "problem.",
        "sscjax doctor",
    )


def main() -> int:
    """Check and print; 1 where there is a problem."""
    parser().parse_args()
    from sscjax.experiments import machine_check
    from sscjax.system import terminal

    terminal.set_up_log()
    terminal.set_up_jax()
    return machine_check.run()
