"""Train, evaluate and report: `python -m sscjax.main --config=configs/three_class.py`."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from sscjax import api, configs
from sscjax.errors import UserError
from sscjax.system import terminal

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File with the run's config, for example configs/three_class.py; any field can be set as "
    "--config.FIELD=VALUE.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The run's folder; runs/<config name>, with the protocol where it is not a hold-out, where it "
    "is not given.",
)
_FRESH = flags.DEFINE_bool("fresh", False, "Delete the run in the folder and start anew.")

_FLAGS = ("config", "workdir", "fresh")


def main() -> None:
    """Parse the command line and run."""
    command = sys.argv[1:]
    config = parse(sys.argv, __doc__ or "")
    if "protocol" not in config:
        raise UserError("this config is none of a run: give one such as configs/three_class.py")
    terminal.set_up_log()
    terminal.set_up_jax()
    result = api.run(config, _WORKDIR.value, fresh=_FRESH.value, command=command)
    print(f"\n{result.text}", end="")


def workdir(name: str) -> Path:
    """The folder that the command line names, else runs/`name`."""
    folder = Path(_WORKDIR.value).expanduser() if _WORKDIR.value else Path("runs") / name
    # Unlike `Path.resolve`, without an error of its own for a link that leads round in a ring.
    return Path(os.path.realpath(folder))


def fresh() -> bool:
    """Whether what is in that folder shall be deleted."""
    return bool(_FRESH.value)


def parse(arguments: list[str], about: str, example: str = "three_class") -> ConfigDict:
    """Read flags and config.

    Args:
      arguments: of the process, its own name first.
      about: what the program says of itself when asked for help.
      example: name of a config of its kind.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, no config.
    """
    if {"-h", "--help", "-help"} & set(arguments):
        print(about + "\n")
        for name in _FLAGS:
            print(f"  --{name}: {flags.FLAGS[name].help}")
        sys.exit(0)
    arguments = [_existing_config(argument) for argument in _joined(arguments)]
    sys.argv = arguments  # ml_collections looks for overrides there
    try:
        rest = flags.FLAGS(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise _explain(error, arguments) from error
    if len(rest) > 1:
        raise UserError(f"found {rest[1]!r}: expected only flags, which begin with --")
    if _CONFIG.value is None:
        raise UserError(f"no config given: add --config=configs/{example}.py")
    return _CONFIG.value


def _joined(arguments: list[str]) -> list[str]:
    """`--config FILE` and `--workdir FOLDER` as one argument each, as the rest expects."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] in ("--config", "-config", "--workdir", "-workdir"):
            found[-1] += f"={argument}"
        else:
            found.append(argument)
    return found


def _existing_config(argument: str) -> str:
    """Let `--config=NAME` and `configs/NAME.py` mean the package's where no such file is."""
    name, sign, value = argument.partition("=")
    if name.lstrip("-") != "config" or not sign or Path(value).is_file():
        return argument
    path = Path(value)
    own = configs.file_of(path.stem) if path.parent.name in ("", "configs") else None
    if own is not None and path.suffix in ("", ".py"):
        return f"--config={own}"
    names = [file.stem for file in path.parent.glob("*.py")] if path.parent.name else []
    near = terminal.nearest(path.stem, names or configs.names())
    hint = f"; did you mean {path.with_name(near + path.suffix)}?" if near else ""
    raise UserError(f"config file {value} does not exist{hint}")


def _explain(error: Exception, arguments: list[str]) -> UserError:
    """One line for what absl and ml_collections raise about the command line."""
    fields = _known_fields(arguments)
    wanted = [re.sub(r"^-+", "", argument).partition("=")[0] for argument in arguments[1:]]
    for name in wanted:
        if name.startswith("config.") and fields and name not in fields:
            near = terminal.nearest(name, fields)
            hint = f"; did you mean --{near}?" if near else ""
            return UserError(f"--{name}: the config has no such field{hint}")
        known = [*flags.FLAGS]
        if not name.startswith("config.") and name.removeprefix("no") not in known and name:
            near = terminal.nearest(name, list(_FLAGS))
            hint = f"; did you mean --{near}?" if near else ""
            return UserError(f"--{name}: no such flag{hint}")
    return UserError(" ".join(str(error).split()))


def _known_fields(arguments: list[str]) -> list[str]:
    """Every field of the config on the command line, as `config.data.path`."""
    for argument in arguments:
        name, sign, value = argument.partition("=")
        if name.lstrip("-") == "config" and sign:
            spec = importlib.util.spec_from_file_location("wanted_config", value)
            if spec is None or spec.loader is None:
                return []
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return list(_names(module.get_config(), "config"))
    return []


def _names(config: ConfigDict, prefix: str) -> list[str]:
    found: list[str] = []
    for key, value in config.items():
        name = f"{prefix}.{key}"
        found += _names(value, name) if isinstance(value, ConfigDict) else [name]
    return found


if __name__ == "__main__":
    sys.exit(terminal.call(main))
