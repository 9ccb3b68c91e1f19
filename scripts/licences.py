"""What this package depends on: the licence of each, or the versions that are known to work.

    python scripts/licences.py > docs/licences.md
    python scripts/licences.py --constraints > .ci/known-good.txt

Both are read from the environment that runs the script, where everything must be installed; the
second command is for one in which all tests have just passed. Extras that are not installed are
left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
import tomllib
from collections import deque
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent

# Extras for users; the others are for developers.
USED = ("", "slides", "dicom", "tables", "tensorboard", "app", "export")
DEVELOPED = ("test", "dev")

COMMAND = "python scripts/licences.py"


def requirements(extra: str) -> list[Requirement]:
    """What pyproject.toml requires for an extra, or ('') always."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    lines = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(line) for line in lines]


def closure(extras: tuple[str, ...]) -> dict[str, importlib.metadata.Distribution]:
    """All that these need, directly or not, by name; what is not installed is left out."""
    waiting = deque(
        (requirement, frozenset(requirement.extras))
        for name in extras
        for requirement in requirements(name)
    )
    installed: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement, its_extras = waiting.popleft()
        key = (canonicalize_name(requirement.name), its_extras)
        if key in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(key)
        try:
            package = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        installed[key[0]] = package
        for line in package.requires or []:
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *its_extras)):
                needed.marker = None  # it holds: the extra it names is this one's
                waiting.append((needed, frozenset(needed.extras)))
    return dict(sorted(installed.items()))


def licence(package: importlib.metadata.Distribution) -> str:
    """As the package states it: an SPDX expression, else its classifiers, else its own words."""
    about = package.metadata
    if "License-Expression" in about:
        return about["License-Expression"]
    prefix = "License :: "
    named = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if prefix in line]
    named = [name for name in named if name != "OSI Approved"]
    words = re.sub(r"\s+", " ", about["License"] if "License" in about else "").strip()
    # Some packages have the full text there.
    return ", ".join(named) or (words if 0 < len(words) <= 60 else "see its licence file")


def table(packages: dict[str, importlib.metadata.Distribution]) -> list[str]:
    """A line for each."""
    lines = [f"| {p.name} | {p.version} | {licence(p)} |" for p in packages.values()]
    return ["| package | version | licence |", "|---|---|---|", *lines]


def page() -> list[str]:
    """The lines of docs/licences.md."""
    used = closure(USED)
    every = closure((*USED, *DEVELOPED))
    rest = {name: package for name, package in every.items() if name not in used}
    return [
        "# Licences of what this package depends on",
        "",
        "As each package states it in its metadata, on Python "
        f"{sys.version_info.major}.{sys.version_info.minor} and {sys.platform}. This package "
        "itself is under Apache-2.0.",
        "",
        f"    {COMMAND} > docs/licences.md",
        "",
        "## To use it, with the extras `slides`, `tensorboard` and `export`",
        "",
        *table(used),
        "",
        "## To test and develop it",
        "",
        *table(rest),
    ]


def constraints() -> list[str]:
    """The lines of a constraints file for pip."""
    # Torch comes from elsewhere, see CONTRIBUTING.md.
    packages = {n: p for n, p in closure((*USED, *DEVELOPED)).items() if n != "torch"}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [
        f"# Versions that passed all tests together, on Python {python} and {sys.platform}:",
        f"#   {COMMAND} --constraints > .ci/known-good.txt",
        *(f"{name}=={package.version}" for name, package in packages.items()),
    ]


def main() -> None:
    """Print one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constraints", action="store_true", help="versions instead of licences")
    print("\n".join(constraints() if parser.parse_args().constraints else page()))


if __name__ == "__main__":
    main()
