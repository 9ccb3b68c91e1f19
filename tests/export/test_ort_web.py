"""The runtime of the exported page: where it comes from, and what is refused."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3
from exported import Runs
from requests.adapters import BaseAdapter

from sscjax.errors import UserError
from sscjax.export import ort_web
from sscjax.export import write as export_file
from sscjax.export.verify import ExportOptions

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = list(ort_web.PACKAGE.files.values())


def test_documents_name_the_runtime() -> None:
    for name in ("docs/export.md", "docs/performance.md", "CONTRIBUTING.md"):
        text = (REPOSITORY / name).read_text("utf-8")
        named = set(re.findall(r"onnxruntime-web[@-](\d+\.\d+\.\d+)", text))
        assert named == {ort_web.VERSION}, name


def packed(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"else"))
    return path


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("", "holds no ort.wasm.bundle.min.mjs of .*npm pack onnxrunt"),
        ("none.tgz", "cannot be read .*No such file"),
        ("word.tgz", "cannot be read"),
        ("empty.tgz", "no package/dist/ort.* in it"),
        ("other.tgz", f"not that of onnxruntime-web {ort_web.VERSION}; name it"),
    ],
)
def test_another_runtime_is_refused(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "word.tgz").write_text("no archive")
    packed(tmp_path / "empty.tgz", ["package/readme"])
    packed(tmp_path / "other.tgz", [f"package/{file.path}" for file in FILES])
    with pytest.raises(UserError, match=message):
        ort_web.read(tmp_path / file)


class Cdn(BaseAdapter):
    """Answers requests with bytes by their addresses, and counts them."""

    def __init__(self, by_url: dict[str, bytes]) -> None:
        super().__init__()
        self.by_url, self.urls = by_url, list[str]()

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        assert request.url is not None
        self.urls.append(request.url)
        if request.url not in self.by_url:
            raise requests.ConnectionError("nobody there")
        response = requests.Response()
        response.status_code, response.url = 200, request.url
        body = io.BytesIO(self.by_url[request.url])
        response.raw = urllib3.HTTPResponse(body, preload_content=False)
        return response

    def close(self) -> None:
        pass

    def session(self) -> requests.Session:
        session = requests.Session()
        session.mount("https://", self)
        return session


def test_the_runtime_is_fetched_once(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path))
    content = ort_web.read(runtime)
    package = ort_web.PACKAGE
    by_url = {package.url + file.path: content[name] for name, file in package.files.items()}
    cdn = Cdn(by_url)
    assert ort_web.read(None, session=cdn.session()) == content
    assert ort_web.read(None, session=cdn.session()) == content
    assert cdn.urls == list(by_url) and all(url.startswith("https://") for url in cdn.urls)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"other", "gave another file than the one expected; name it by"),
        (bytes(80_000), "sends more than"),
        (None, "cannot be fetched .*nobody there.*--ort-web=PATH"),
    ],
)
def test_a_wrong_download_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path))
    by_url = {} if content is None else {ort_web.PACKAGE.url + FILES[0].path: content}
    with pytest.raises(UserError, match=message):
        ort_web.read(None, session=Cdn(by_url).session())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("quick_compiler")
def test_the_runtime_goes_with_the_page_alone(runs: Runs, tmp_path: Path) -> None:
    run = runs("cnn")
    with pytest.raises(UserError, match="--ort-web goes with --format=web, not with onnx"):
        export_file.export(run, "onnx", tmp_path / "a.onnx", ExportOptions(ort_web=tmp_path))
    with pytest.raises(UserError, match="holds no ort.wasm"):
        export_file.export(run, "web", tmp_path / "page", ExportOptions(ort_web=tmp_path))
    assert not (tmp_path / "page").exists()
