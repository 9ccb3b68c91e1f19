"""Files fetched over https: bounded in size and time, never half under their final name."""

from __future__ import annotations

import contextlib
import io
import os
import ssl
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sscjax.errors import UserError

STALL_SECONDS = 30.0  # without a byte
TOTAL_SECONDS = 900.0
_CHUNK = 2**16

Opener = Callable[[str, float], Any]
"""Opens a URL with a timeout in seconds: an object like `http.client.HTTPResponse`."""


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name in the same folder, so that the last step is one rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".download-", suffix=path.suffix)
    except OSError as error:
        raise UserError(
            f"{path.parent}: the cache folder cannot be written ({error.strerror}); name another"
            " by the environment variable SSCJAX_CACHE"
        ) from error
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o644)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """urllib follows redirects to plain HTTP and FTP; nothing must come that way."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise UserError(f"{url}: files are fetched over https only")


def open_https(url: str, timeout: float) -> Any:
    """The usual opener; a UserError for anything but https, redirects included."""
    _require_https(url)
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(https, _HttpsRedirects())
    return opener.open(url, timeout=timeout)


def fetch(url: str, path: Path, most: int, *, opener: Opener | None = None) -> None:
    """Stream what lies at a URL to a file; never more than `most` bytes, never less than announced.

    Args:
        url: https.
        path: the file.
        most: bytes.
        opener: opens URLs; None takes HTTPS with the system's certificates and proxies.

    Raises:
        OSError, http.client.HTTPException: it cannot be reached, or breaks off.
        UserError: it is too large, not https, or the file cannot be written.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    received = 0
    # Unbuffered: a full disk is met where it can be told from a broken connection.
    with (
        (opener or open_https)(url, STALL_SECONDS) as response,
        path.open("wb", buffering=0) as file,
    ):
        announced = response.headers.get("Content-Length", "")
        # What has come, not a whole chunk: a trickle would put the deadline off for ever.
        while chunk := response.read1(_CHUNK):
            received += len(chunk)
            if received > most:
                raise UserError(
                    f"{url}: sends more than {most:,} bytes, expected fewer; nothing was kept"
                )
            if time.monotonic() > deadline:
                raise TimeoutError(f"not finished after {TOTAL_SECONDS:.0f} s")
            _write(file, chunk, path.parent)
    if announced.isdigit() and received != int(announced):
        raise ConnectionError(f"broke off after {received:,} of {int(announced):,} bytes")


def _write(file: io.FileIO, chunk: bytes, folder: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise UserError(
            f"{folder}: the download cannot be written ({error.strerror}); make room, or name"
            " another folder by the environment variable SSCJAX_CACHE"
        ) from error
