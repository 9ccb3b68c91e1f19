"""The lists of dependencies name all that pyproject.toml asks for, in versions that it allows."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import licences  # noqa: E402


@pytest.mark.parametrize("extra", (*licences.USED, *licences.DEVELOPED))
def test_lists_are_whole_and_fit(extra: str) -> None:
    page = (REPOSITORY / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = {canonicalize_name(name) for name in re.findall(r"^\| (\S+) \| \d", page, re.M)}
    lines = (REPOSITORY / ".ci" / "known-good.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert set(pins) == listed
    for wanted in licences.requirements(extra):
        name = canonicalize_name(wanted.name)
        assert name in listed, f"{name}: run {licences.COMMAND}"
        assert wanted.specifier.contains(pins[name], prereleases=True), (name, pins[name])


def test_licence_is_what_the_package_says() -> None:
    found = licences.closure(("",))
    assert "Apache" in licences.licence(found["jax"])  # as an expression
    assert "BSD" in licences.licence(found["h5py"])
    assert "BSD" in licences.licence(found["scipy"])  # by classifier
    # Those that others need are there, too.
    assert {"jaxlib", "tensorstore", "six"} <= set(found)
