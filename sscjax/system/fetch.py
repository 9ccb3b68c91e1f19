"""Files fetched over https by pooch: bounded in size and time, whole and checked or not at all.

Imported where something is fetched, and there alone: urllib3 opens a socket when it is imported,
and programs that fetch nothing open none.
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
STALL_SECONDS = 30.0  # without a byte
TOTAL_SECONDS = 900.0
_CHUNK = 2**16


class UnreachableError(UserError):
    """The file could not be reached, or the connection broke off."""


class _SystemCertificates(HTTPAdapter):
    """HTTPS with the certificates of the system as well: those of a hospital's proxy are there."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **options)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        context = ssl.create_default_context()
        return super().proxy_manager_for(proxy, ssl_context=context, **options)


class _NotHttps(BaseAdapter):
    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        raise UserError(f"{request.url}: files are fetched over https only")

    def close(self) -> None:
        pass


def https_session() -> requests.Session:
    """A session that sends nothing over plain HTTP, where redirects might lead."""
    session = requests.Session()
    # As it lies there: its length is announced, and no small file unpacks to a large one.
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
    """Fetch a file; the block gets it under a temporary name, to check what it holds.

    When the block ends it is renamed to `path`; after an error in it nothing is kept.

    Args:
      url: https.
      path: where the file is kept; its folder is created when missing.
      most: bytes.
      sha256: in hexadecimal, where it is known.
      session: what sends the request; None takes `https_session`.

    Yields:
      the file, in a temporary folder beside `path`.

    Raises:
      UnreachableError: it cannot be reached, takes too long, or breaks off.
      UserError: it is too large, another file, not https, or cannot be written.
    """
    pooch.get_logger().setLevel("CRITICAL")  # the callers say what they fetch
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
            download = _Download(most, session or https_session())
            try:
                pooch.retrieve(url, sha256, path.name, folder, downloader=download)
            except UserError:
                raise
            except ValueError as error:  # as pooch says it
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
    """What pooch calls to download a file; its own waits for a whole chunk, however slow."""

    def __init__(self, most: int, session: requests.Session) -> None:
        self._most, self._session = most, session

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        # Unbuffered: a full disk is met where it is not taken for a broken connection.
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
                # What has come, not a whole chunk: a trickle would put the deadline off for ever.
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
    """One line: the first cause, which both libraries wrap in pages of text."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return f"{type(error).__name__}: {' '.join(str(cause).split())[:160]}"
