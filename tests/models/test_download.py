"""The download of the Keras release, against a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import weight_files
from requests.adapters import HTTPAdapter
from weight_files import ALPHA, Arrays, assert_holds, garbage, write_legacy

from sscjax.errors import UserError
from sscjax.models.pretrained import download
from sscjax.models.pretrained.load import load_backbone
from sscjax.system import fetch
from sscjax.system.files import sha256


@pytest.fixture(scope="session")
def tree() -> tuple[dict[str, Any], dict[str, Any]]:
    return weight_files.tree()


@pytest.fixture(scope="session")
def keras_arrays() -> Arrays:
    return weight_files.keras_arrays()


class Release:
    """A real HTTP server that stands for the Keras release, and counts what is asked of it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.announce: int | None = None  # a wrong Content-Length
        self.redirect = ""
        self.pause: float | None = None  # seconds between two bytes
        self.requests: list[str] = []
        release = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                release.requests.append(name)
                if release.redirect:
                    self.send_response(302)
                    self.send_header("Location", release.redirect)
                    self.end_headers()
                    return
                body = release.files.get(name)
                self.send_response(404 if body is None else 200)
                size = len(body or b"") if release.announce is None else release.announce
                self.send_header("Content-Length", str(size))
                self.end_headers()
                try:
                    if release.pause is not None:
                        for byte in body or b"":
                            time.sleep(release.pause)
                            self.wfile.write(bytes([byte]))
                        return
                    self.wfile.write(body or b"")
                except ConnectionError:
                    pass  # the client had enough

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"

    def session(self) -> requests.Session:
        """Everything as in earnest but for TLS and the host."""
        session = fetch.https_session()
        session.mount(download.BASE_URL, Here(self.url))
        return session

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class Here(HTTPAdapter):
    """Sends what is meant for the release to a server on this machine."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        assert request.url is not None
        request.url = request.url.replace(download.BASE_URL, self.url)
        return super().send(request, *args, **options)


@pytest.fixture
def release() -> Iterator[Release]:
    server = Release()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def release_file(tmp_path_factory: pytest.TempPathFactory, keras_arrays: Arrays) -> bytes:
    path = tmp_path_factory.mktemp("release") / "release.h5"
    write_legacy(path, keras_arrays)
    return path.read_bytes()


NAME = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"


def test_a_trickle_meets_the_deadline(
    release: Release, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only when a whole chunk has come."""
    monkeypatch.setattr(fetch, "TOTAL_SECONDS", 0.5)
    release.files[NAME], release.pause = bytes(1000), 0.02
    start = time.monotonic()
    with pytest.raises(download.WeightsUnavailableError, match="not finished after"):
        download.imagenet_weights(96, ALPHA, session=release.session())
    assert time.monotonic() - start < 10  # all of it takes 20 s
    assert list(cache.iterdir()) == []


def test_a_server_that_falls_silent(
    release: Release, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.3)
    release.files[NAME], release.pause = bytes(2), 3.0
    with pytest.raises(download.WeightsUnavailableError, match=r"\(ReadTimeoutError: .*timed out"):
        download.imagenet_weights(96, ALPHA, session=release.session())
    assert list(cache.iterdir()) == []


def test_release_name() -> None:
    start = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_"
    assert download.release_name(128, 1.0) == f"{start}1.0_128_no_top.h5"
    assert download.release_name(128, 1) == f"{start}1.0_128_no_top.h5"
    assert download.release_name(97, 0.5) == f"{start}0.5_224_no_top.h5"
    with pytest.raises(UserError, match="alpha is 0.9, but .* released for 0.35, 0.5"):
        download.release_name(128, 0.9)


def test_downloads_once_and_pins(
    release: Release, cache: Path, release_file: bytes, tree: Any, keras_arrays: Arrays
) -> None:
    release.files[NAME] = release_file
    path = download.imagenet_weights(96, ALPHA, session=release.session())
    assert path == cache / NAME and path.read_bytes() == release_file
    assert_holds(load_backbone(path, *tree), keras_arrays)
    pin = json.loads((cache / f"{NAME}.json").read_text(encoding="utf-8"))
    assert pin == {
        "bytes": len(release_file),
        "sha256": sha256(path),
        "url": download.BASE_URL + NAME,
    }
    assert download.imagenet_weights(96, ALPHA, session=release.session()) == path
    assert release.requests == [NAME]
    assert sorted(p.name for p in cache.iterdir()) == [NAME, f"{NAME}.json"]


def test_changed_file_is_refused(release: Release, cache: Path, release_file: bytes) -> None:
    release.files[NAME] = release_file
    path = download.imagenet_weights(96, ALPHA, session=release.session())
    data = bytearray(release_file)
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="has changed since its first use.*delete .*again"):
        download.imagenet_weights(96, ALPHA, session=release.session())
    path.write_bytes(release_file)
    (cache / f"{NAME}.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not the record of a SHA-256"):
        download.imagenet_weights(96, ALPHA, session=release.session())
    for file in cache.iterdir():  # the mend that the message names
        file.unlink()
    assert download.imagenet_weights(96, ALPHA, session=release.session()) == path


def test_file_put_there_by_hand(release: Release, cache: Path, release_file: bytes) -> None:
    cache.mkdir()
    (cache / NAME).write_bytes(release_file)
    assert download.imagenet_weights(96, ALPHA, session=release.session()) == cache / NAME
    assert (cache / f"{NAME}.json").is_file() and release.requests == []
    (cache / f"{NAME}.json").unlink()
    garbage(cache / NAME)
    with pytest.raises(UserError, match="holds no usable weights: not a readable Keras"):
        download.imagenet_weights(96, ALPHA, session=release.session())
    assert not (cache / f"{NAME}.json").exists()


def test_broken_off(release: Release, cache: Path, release_file: bytes) -> None:
    release.files[NAME] = release_file[:100_000]
    release.announce = len(release_file)
    with pytest.raises(
        download.WeightsUnavailableError, match="IncompleteRead.100000 bytes read, "
    ):
        download.imagenet_weights(96, ALPHA, session=release.session())
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("content", ["garbage", "another width"])
def test_wrong_content(release: Release, cache: Path, release_file: bytes, content: str) -> None:
    size, alpha = (96, ALPHA) if content == "garbage" else (96, 0.5)
    name = download.release_name(size, alpha)
    release.files[name] = b"<html>sign in</html>" if content == "garbage" else release_file
    with pytest.raises(UserError, match=f"^{download.BASE_URL}.* gave no usable weights: ") as e:
        download.imagenet_weights(size, alpha, session=release.session())
    assert not isinstance(e.value, download.WeightsUnavailableError)
    assert list(cache.iterdir()) == []


def test_too_large(
    release: Release, cache: Path, release_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 500_000)
    release.files[NAME] = release_file
    with pytest.raises(UserError, match="sends more than 500,000 bytes"):
        download.imagenet_weights(96, ALPHA, session=release.session())
    assert list(cache.iterdir()) == []


def test_not_found_names_three_ways(release: Release, cache: Path) -> None:
    with pytest.raises(
        download.WeightsUnavailableError, match="HTTPError: 404 .*Not Found"
    ) as caught:
        download.imagenet_weights(96, ALPHA, session=release.session())
    message = str(caught.value)
    assert "\n" not in message and str(cache / NAME) in message
    for way in ("(1) connect once, or copy", "(2) --config.pretrained=PATH", "(3) --config.pretr"):
        assert way in message
    assert "--config.pretrained_fallback=random" in message


def test_no_network(
    release: Release,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The real session, sent to a port of this machine where nobody listens; nothing else talks."""
    port = release.server.server_port
    release.close()
    monkeypatch.setattr(download, "BASE_URL", f"https://127.0.0.1:{port}/")
    expected = r"\(ConnectionError: .*refused.*\), and .* Four ways out"
    with pytest.raises(download.WeightsUnavailableError, match=expected) as caught:
        download.imagenet_weights(96, ALPHA)
    assert list(cache.iterdir()) == [] and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate for this machine that no authority has signed."""
    path = folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(path), "-out", str(folder / "alone.pem")]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (folder / "alone.pem").read_bytes())
    return path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate by openssl")
def test_certificates_are_checked_against_the_systems(
    release: Release,
    cache: Path,
    tmp_path: Path,
    release_file: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of a proxy that opens TLS are known to the system alone."""
    release.files[NAME] = release_file
    path = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    release.server.socket = context.wrap_socket(release.server.socket, server_side=True)
    monkeypatch.setattr(release.server, "handle_error", lambda *args: None)  # it is hung up on
    monkeypatch.setattr(download, "BASE_URL", f"https://127.0.0.1:{release.server.server_port}/")
    with pytest.raises(download.WeightsUnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
        download.imagenet_weights(96, ALPHA)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    assert download.imagenet_weights(96, ALPHA).read_bytes() == release_file
    assert release.requests == [NAME]


def test_https_only(release: Release, tmp_path: Path, release_file: bytes) -> None:
    assert download.BASE_URL.startswith("https://")
    for url in (f"{release.url}a", "ftp://127.0.0.1/a", "file:///etc/hosts"):
        with (
            pytest.raises(UserError, match="expected an https address|No connection adapters"),
            fetch.fetched(url, tmp_path / "cache" / "a", 100),
        ):
            pass
    assert release.requests == []
    # A redirect from the release to plain HTTP is not followed either.
    release.redirect = f"{release.url}elsewhere"
    with (
        pytest.raises(UserError, match="elsewhere: expected an https address"),
        fetch.fetched(
            download.BASE_URL + NAME, tmp_path / "cache" / "a", 100, session=release.session()
        ),
    ):
        pass
    assert len(release.requests) == 1 and not list((tmp_path / "cache").iterdir())


def test_another_file_than_the_known_one(release: Release, tmp_path: Path) -> None:
    release.files = {"a": b"<html>sign in</html>"}
    path = tmp_path / "a"
    url = f"{download.BASE_URL}a"
    known = hashlib.sha256(b"the file").hexdigest()
    with (
        pytest.raises(UserError, match="/a gave another file than the one expected$"),
        fetch.fetched(url, path, 100, sha256=known, session=release.session()),
    ):
        pass
    assert not list(tmp_path.iterdir())
    release.files = {"a": b"the file"}
    with fetch.fetched(url, path, 100, sha256=known, session=release.session()) as partial:
        assert not path.exists() and partial.read_bytes() == b"the file"
    assert path.read_bytes() == b"the file" and list(tmp_path.iterdir()) == [path]
    assert sys.platform == "win32" or path.stat().st_mode & 0o444 == 0o444


def test_cache_cannot_be_written(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot be written .*SSCJAX_CACHE") as caught:
        download.imagenet_weights(96, ALPHA, session=release.session())
    assert not isinstance(caught.value, download.WeightsUnavailableError)
    assert release.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_full_disk_is_not_taken_for_a_missing_network(
    release: Release, release_file: bytes, cache: Path
) -> None:
    import resource

    release.files[NAME] = release_file
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(release_file) // 2, hard))
    try:
        with pytest.raises(UserError, match="cannot be written .* make room") as caught:
            download.imagenet_weights(96, ALPHA, session=release.session())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(caught.value, download.WeightsUnavailableError)
    assert not list(cache.iterdir())
