"""Paths from the browser: folders are listed, and nothing outside a study's folder is reached."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sscjax.app import places, uploads
from sscjax.errors import UserError


def test_a_folder_is_listed(tmp_path: Path) -> None:
    for name in ("b", "A", ".hidden"):
        (tmp_path / name).mkdir()
    for name in ("1.png", "2.TIF", "notes.txt"):
        (tmp_path / name).touch()
    place = places.place(f" {tmp_path}/b/.. ")
    assert place.path == tmp_path and place.parents[-1] == tmp_path
    assert [folder.name for folder in place.folders] == ["A", "b"]
    assert (place.images, place.more) == (2, False)


@pytest.mark.parametrize("name", ["1.png", "missing"])
def test_what_is_no_folder_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "1.png").touch()
    with pytest.raises(UserError, match="choose a folder"):
        places.place(str(tmp_path / name))


@pytest.mark.parametrize(
    "text", ["../other.txt", "a/../../other.txt", "/etc/passwd", "link/other.txt", "link", "a\0b"]
)
def test_no_path_leads_out_of_a_study(tmp_path: Path, text: str) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (tmp_path / "other.txt").touch()
    (study / "link").symlink_to(tmp_path)
    with pytest.raises((UserError, ValueError)):
        places.inside(study, text)
    assert places.inside(study, "stages/head") == study / "stages" / "head"


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a\\b", "a:b", "x" * 81, "a\n", "a\x1b["])
def test_a_study_has_a_name_that_a_folder_can_have(name: str) -> None:
    if name == "a\n":
        assert places.named(name) == "a"
        return
    with pytest.raises(UserError, match="no name for a study"):
        places.named(name)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("p 1/a.png", "p 1/a.png"),
        ("./p\\a.JPG", "p/a.JPG"),
        ("/p/a:1.tif", "p/a_1.tif"),
        ("p/é.png", "p/é.png"),
    ],
)
def test_uploads_keep_their_names(given: str, kept: str) -> None:
    assert str(places.upload_name(given)) == kept.replace("/", os.sep)


@pytest.mark.parametrize(
    "given",
    ["", "../a.png", "p/../../a.png", "p/.png", "a.py", "a.html", "a.svg", "p/a", "a\0.png"],
)
def test_uploads_of_other_kinds_and_places_are_refused(given: str) -> None:
    with pytest.raises(UserError):
        places.upload_name(given)


def receive(folder: Path, name: str, *parts: bytes | Exception) -> Path:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            yield part

    return asyncio.run(uploads.receive(body(), folder, name))


def test_an_upload_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    batch = tmp_path / "batch"
    path = receive(batch, "p/a.png", b"one", b"two")
    assert path == batch / "p" / "a.png" and path.read_bytes() == b"onetwo"
    with pytest.raises(UserError, match="twice"):
        receive(batch, "p/a.png", b"three")
    with pytest.raises(EOFError):
        receive(batch, "p/b.png", b"half", EOFError())
    assert [one.name for one in path.parent.iterdir()] == ["a.png"]


def test_an_upload_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 4)
    with pytest.raises(UserError, match="larger than"):
        receive(tmp_path, "p/a.png", b"123", b"45")
    assert not list(tmp_path.rglob("*.p*g"))
