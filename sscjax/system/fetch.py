"""Downloads over https by pooch, bounded in size and time; a file is checked, or absent.

Import this only where something is downloaded: importing urllib3 opens a socket, and programs that
download nothing should open none.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pooch
import requests
import urllib3
from requests.adapters import BaseAdapter, HTTPAdapter

from sscjax.errors import UserError

Session = requests.Session

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0  # without receiving a byte
TOTAL_SECONDS = 900.0
_CHUNK = 2**16


class UnreachableError(UserError):
    """The server could not be reached, or the connection was lost."""


class _SystemCertificates(HTTPAdapter):
    """HTTPS that also trusts the system's certificates, such as that of a hospital's proxy."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        context = ssl.create_default_context()
        return super().proxy_manager_for(proxy, ssl_context=context, **options)


class _NotHttps(BaseAdapter):
    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        raise UserError(f"{request.url}: expected an https address")

    def close(self) -> None:
        pass


def https_session() -> requests.Session:
    """A session that refuses plain HTTP, to which a redirect might lead."""
    session = requests.Session()
    # Uncompressed: the length is announced, and no small download unpacks to a large file.
    session.headers["Accept-Encoding"] = "identity"
    session.mount("https://", _SystemCertificates())
    session.mount("http://", _NotHttps())
    return session


@contextlib.contextmanager
def fetched(
    url: str,
    path: Path,
    most: int,
    *,
    sha256: str | None = None,
    session: requests.Session | None = None,
) -> Iterator[Path]:
    """Download a file; the `with` block gets it under a temporary name, to check its contents.

    At the end of the block it is renamed to `path`; after an error in it the file is deleted.

    Args:
      url: an https address.
      path: the file's final path; its folder is created if missing.
      most: the largest size in bytes.
      sha256: expected hash in hexadecimal; None checks no hash.
      session: sends the request; None takes `https_session`.

    Yields:
      path of the complete file, in a temporary folder beside `path`.

    Raises:
      UnreachableError: the server cannot be reached, is too slow, or the connection is lost.
      UserError: the file is too large, has another hash, is not on https, or cannot be written.
    """
    pooch.get_logger().setLevel("CRITICAL")  # the callers log what they download
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            download = _Download(most, session or https_session())
            try:
                pooch.retrieve(url, sha256, path.name, folder, downloader=download)
            except UserError:
                raise
            except ValueError as error:  # how pooch reports another hash
                raise UserError(f"{url} gave another file than the one expected") from error
            partial = Path(folder) / path.name
            partial.chmod(0o644)  # others may use the cache
            yield partial
            os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path.parent}: the cache folder cannot be written ({error.strerror or error}); make "
            "room or make it writable, or name another by the environment variable SSCJAX_CACHE"
        ) from error


class _Download:
    """The downloader for pooch; its default one waits for a full chunk, however slow."""

    def __init__(self, most: int, session: requests.Session) -> None:
        self._most, self._session = most, session

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        # Unbuffered: a full disk then fails in `write`, not where it looks like a lost connection.
        with self._session, open(output_file, "wb", buffering=0) as file:
            for chunk in self._chunks(url):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]

    def _chunks(self, url: str) -> Iterator[bytes]:
        deadline = time.monotonic() + TOTAL_SECONDS
        received = 0
        try:
            with self._session.get(
                url, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS)
            ) as response:
                response.raise_for_status()
                # What has arrived, not a full chunk: a trickle would never reach the deadline.
                while chunk := response.raw.read1(_CHUNK):
                    received += len(chunk)
                    if received > self._most:
                        raise UserError(f"{url}: sends more than {self._most:,} bytes")
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"not finished after {TOTAL_SECONDS:.0f} s")
                    yield chunk
        except (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError) as error:
            raise UnreachableError(f"{url} cannot be fetched ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """One line: the root cause, which both libraries wrap in pages of text."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return f"{type(error).__name__}: {' '.join(str(cause).split())[:160]}"
