"""The download of the Keras release, against a real HTTP server on this machine."""

from __future__ import annotations

import http.server
import io
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import weight_files
from weight_files import ALPHA, Arrays, assert_holds, garbage, write_legacy

from sscjax import fetch
from sscjax.errors import UserError
from sscjax.files import sha256
from sscjax.pretrained import download
from sscjax.pretrained.cache import cache_dir
from sscjax.pretrained.load import load_backbone


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

    def open(self, url: str, timeout: float) -> Any:
        """Everything as in earnest but for TLS and the host."""
        assert url.startswith("https://storage.googleapis.com/tensorflow/keras-applications/")
        local = url.replace(download.BASE_URL, self.url)
        return urllib.request.urlopen(local, timeout=timeout)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def release() -> Iterator[Release]:
    server = Release()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def release_file(tmp_path_factory: pytest.TempPathFactory, keras_arrays: Arrays) -> bytes:
    path = tmp_path_factory.mktemp("release") / "release.h5"
    write_legacy(path, keras_arrays)
    return path.read_bytes()


NAME = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_96_no_top.h5"


class Trickle(io.BytesIO):
    """A byte at a time, each a second after the one before."""

    headers: ClassVar[dict[str, str]] = {}
    seconds = 0.0

    def read1(self, size: int | None = -1) -> bytes:
        type(self).seconds += 1.0
        return super().read1(1)


def test_a_trickle_meets_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when a whole chunk has come."""
    monkeypatch.setattr(time, "monotonic", lambda: Trickle.seconds)
    stream = Trickle(bytes(10_000))
    with pytest.raises(TimeoutError, match="not finished after"):
        fetch.fetch("https://x", tmp_path / "a", 10**6, opener=lambda url, timeout: stream)
    assert Trickle.seconds == fetch.TOTAL_SECONDS + 1


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "a" / ".." / "b"))
    assert cache_dir() == tmp_path.resolve() / "b"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSCJAX_CACHE", "relative")
    assert cache_dir() == tmp_path.resolve() / "relative"
    for unset in (True, False):
        if unset:
            monkeypatch.delenv("SSCJAX_CACHE")
        else:
            monkeypatch.setenv("SSCJAX_CACHE", "")
        assert cache_dir().is_absolute() and "sscjax" in cache_dir().parts


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
    path = download.imagenet_weights(96, ALPHA, opener=release.open)
    assert path == cache / NAME and path.read_bytes() == release_file
    assert_holds(load_backbone(path, *tree), keras_arrays)
    pin = json.loads((cache / f"{NAME}.json").read_text(encoding="utf-8"))
    assert pin == {
        "bytes": len(release_file),
        "sha256": sha256(path),
        "url": download.BASE_URL + NAME,
    }
    assert download.imagenet_weights(96, ALPHA, opener=release.open) == path
    assert release.requests == [NAME]
    assert sorted(p.name for p in cache.iterdir()) == [NAME, f"{NAME}.json"]


def test_changed_file_is_refused(release: Release, cache: Path, release_file: bytes) -> None:
    release.files[NAME] = release_file
    path = download.imagenet_weights(96, ALPHA, opener=release.open)
    data = bytearray(release_file)
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="has changed since its first use.*delete .*again"):
        download.imagenet_weights(96, ALPHA, opener=release.open)
    path.write_bytes(release_file)
    (cache / f"{NAME}.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="not the record of a SHA-256"):
        download.imagenet_weights(96, ALPHA, opener=release.open)
    for file in cache.iterdir():  # the mend that the message names
        file.unlink()
    assert download.imagenet_weights(96, ALPHA, opener=release.open) == path


def test_file_put_there_by_hand(release: Release, cache: Path, release_file: bytes) -> None:
    cache.mkdir()
    (cache / NAME).write_bytes(release_file)
    assert download.imagenet_weights(96, ALPHA, opener=release.open) == cache / NAME
    assert (cache / f"{NAME}.json").is_file() and release.requests == []
    (cache / f"{NAME}.json").unlink()
    garbage(cache / NAME)
    with pytest.raises(UserError, match="holds no usable weights: not a readable Keras"):
        download.imagenet_weights(96, ALPHA, opener=release.open)
    assert not (cache / f"{NAME}.json").exists()


def test_broken_off(release: Release, cache: Path, release_file: bytes) -> None:
    release.files[NAME] = release_file[:100_000]
    release.announce = len(release_file)
    with pytest.raises(download.WeightsUnavailableError, match="broke off after 100,000 of"):
        download.imagenet_weights(96, ALPHA, opener=release.open)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("content", ["garbage", "another width"])
def test_wrong_content(release: Release, cache: Path, release_file: bytes, content: str) -> None:
    size, alpha = (96, ALPHA) if content == "garbage" else (96, 0.5)
    name = download.release_name(size, alpha)
    release.files[name] = b"<html>sign in</html>" if content == "garbage" else release_file
    with pytest.raises(UserError, match=f"^{download.BASE_URL}.* gave no usable weights: ") as e:
        download.imagenet_weights(size, alpha, opener=release.open)
    assert not isinstance(e.value, download.WeightsUnavailableError)
    assert list(cache.iterdir()) == []


def test_too_large(
    release: Release, cache: Path, release_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 500_000)
    release.files[NAME] = release_file
    with pytest.raises(UserError, match="sends more than 500,000 bytes.*nothing was kept"):
        download.imagenet_weights(96, ALPHA, opener=release.open)
    assert list(cache.iterdir()) == []


def test_too_slow(
    release: Release, cache: Path, release_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TOTAL_SECONDS", -1.0)
    release.files[NAME] = release_file
    with pytest.raises(download.WeightsUnavailableError, match="not finished after"):
        download.imagenet_weights(96, ALPHA, opener=release.open)
    assert list(cache.iterdir()) == []


def test_not_found_names_three_ways(release: Release, cache: Path) -> None:
    with pytest.raises(download.WeightsUnavailableError, match="HTTPError: Not Found") as caught:
        download.imagenet_weights(96, ALPHA, opener=release.open)
    caught.value.__cause__.close()  # type: ignore[union-attr]
    message = str(caught.value)
    assert "\n" not in message and str(cache / NAME) in message
    for way in ("(1) connect once, or copy", "(2) --config.pretrained=PATH", "(3) --config.pretr"):
        assert way in message
    assert "--config.pretrained_fallback=random" in message


def test_no_network(release: Release, cache: Path) -> None:
    """The real opener, sent to a port of this machine where nobody listens."""
    port = release.server.server_port
    release.close()

    def opener(url: str, timeout: float) -> Any:
        return fetch.open_https(f"https://127.0.0.1:{port}/", timeout)

    with pytest.raises(download.WeightsUnavailableError, match="URLError.*Four ways out"):
        download.imagenet_weights(96, ALPHA, opener=opener)
    assert list(cache.iterdir()) == []


def test_https_only(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.BASE_URL.startswith("https://")
    for url in (release.url, "ftp://127.0.0.1/a", "file:///etc/hosts"):
        with pytest.raises(UserError, match="over https only"):
            fetch.open_https(url, 5.0)
    assert release.requests == []
    # A redirect from the release to plain HTTP is not followed either.
    release.redirect = f"{release.url}elsewhere"
    opener = urllib.request.build_opener(fetch._HttpsRedirects())
    with pytest.raises(UserError, match="elsewhere: files are fetched over https only"):
        opener.open(release.url, timeout=5.0)
    assert len(release.requests) == 1


def test_cache_cannot_be_written(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot be written .*SSCJAX_CACHE") as caught:
        download.imagenet_weights(96, ALPHA, opener=release.open)
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
            download.imagenet_weights(96, ALPHA, opener=release.open)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(caught.value, download.WeightsUnavailableError)
    assert not list(cache.iterdir())
