"""ImageNet weights from the Keras release: fetched once, checked, and kept in the cache.

No hash of these files is published. So the first download is checked by what it holds (every
name, shape and value of the model), its SHA-256 is written beside it, and from then on the file
must stay the same.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sscjax.errors import UserError
from sscjax.files import sha256, write_json
from sscjax.pretrained.cache import cache_dir
from sscjax.pretrained.load import ALPHAS, backbone_tree, load_backbone

# keras.applications.mobilenet_v2: BASE_WEIGHT_PATH, and the sizes that were trained.
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
SIZES = (96, 128, 160, 192, 224)

MAX_BYTES = 64 * 2**20  # the largest release file (alpha 1.4) has about 18 MB
STALL_SECONDS = 30.0  # without a byte
TOTAL_SECONDS = 900.0
_CHUNK = 2**16

Opener = Callable[[str, float], Any]
"""Opens a URL with a timeout in seconds: an object like `http.client.HTTPResponse`."""

_log = logging.getLogger(__name__)


class WeightsUnavailableError(UserError):
    """The release could not be reached: the one case in which random weights may stand in."""


def release_name(image_size: int, alpha: float) -> str:
    """Name of the Keras release file for square images of `image_size` pixels.

    Sizes that were not trained get the weights of 224, as in Keras.

    Raises:
        UserError: no weights are released for this `alpha`.
    """
    if alpha not in ALPHAS:
        raise UserError(
            f"alpha is {alpha}, but ImageNet weights are released for"
            f" {', '.join(map(str, ALPHAS))}; take one of these or pretrained=none"
        )
    size = image_size if image_size in SIZES else 224
    prefix = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels"
    return f"{prefix}_{float(alpha)}_{size}_no_top.h5"


def imagenet_weights(image_size: int, alpha: float, *, opener: Opener | None = None) -> Path:
    """Path of the release file in the cache, downloaded if it is not there yet.

    Args:
        image_size: height and width of the model's input, in pixels.
        alpha: width multiplier, one of `ALPHAS`.
        opener: opens URLs; None takes HTTPS with the system's certificates and proxies.

    Raises:
        WeightsUnavailableError: not in the cache and the release cannot be reached.
        UserError: what came, or what lies in the cache, is not the file it should be.
    """
    path = cache_dir() / release_name(image_size, alpha)
    if path.is_file():
        _check_pinned(path, alpha)
        return path
    url = BASE_URL + path.name
    _log.info("downloading ImageNet weights from %s to %s", url, path)
    with _temporary(path) as partial:
        try:
            _fetch(url, partial, opener or _open_https)
        except (OSError, http.client.HTTPException) as error:
            raise WeightsUnavailableError(_three_ways(path, url, error)) from error
        _verify(partial, alpha, f"{url} gave")
        os.replace(partial, path)
    _pin(path)
    return path


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
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
    """urllib follows redirects to plain HTTP and FTP; weights must not come that way."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    if urlsplit(url).scheme != "https":
        raise UserError(f"{url}: weights are fetched over https only")


def _open_https(url: str, timeout: float) -> Any:
    _require_https(url)
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    opener = urllib.request.build_opener(https, _HttpsRedirects())
    return opener.open(url, timeout=timeout)


def _fetch(url: str, path: Path, opener: Opener) -> None:
    """Stream `url` to `path`; never more than `MAX_BYTES`, never less than announced."""
    deadline = time.monotonic() + TOTAL_SECONDS
    received = 0
    # Unbuffered: a full disk is met where it can be told from a broken connection.
    with opener(url, STALL_SECONDS) as response, path.open("wb", buffering=0) as file:
        announced = response.headers.get("Content-Length", "")
        while chunk := response.read(_CHUNK):
            received += len(chunk)
            if received > MAX_BYTES:
                raise UserError(
                    f"{url}: sends more than {MAX_BYTES:,} bytes, expected a weight file of about"
                    " 10 MB; nothing was kept"
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
            f"{folder}: the weights cannot be written ({error.strerror}); make room, or name"
            " another folder by the environment variable SSCJAX_CACHE"
        ) from error


def _verify(path: Path, alpha: float, subject: str) -> None:
    """Every name, shape and value, against the model of this width."""
    try:
        load_backbone(path, *backbone_tree(alpha))
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{subject} no usable weights: {reason}") from error


def _pin_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _pin(path: Path) -> None:
    pin = {"bytes": path.stat().st_size, "sha256": sha256(path), "url": BASE_URL + path.name}
    write_json(_pin_path(path), pin)


def _check_pinned(path: Path, alpha: float) -> None:
    """Compare with the pinned hash; a file without one was put there by the user."""
    pin = _pin_path(path)
    mend = f"delete {path} and {pin.name} beside it to download it again"
    if not pin.is_file():
        _verify(path, alpha, f"{path} holds")
        _pin(path)
        return
    try:
        expected = str(json.loads(pin.read_text(encoding="utf-8"))["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{pin}: not the record of a SHA-256; {mend}") from error
    found = sha256(path)
    if found != expected:
        raise UserError(
            f"{path}: has changed since its first use (SHA-256 {found[:16]}..., expected"
            f" {expected[:16]}...); {mend}"
        )


def _three_ways(path: Path, url: str, error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return (
        f"no ImageNet weights: {url} cannot be fetched"
        f" ({type(error).__name__}: {' '.join(str(reason).split())[:160]}), and {path} does not"
        " exist. Three ways out: (1) connect once, or copy that file to that path;"
        " (2) --config.pretrained=PATH with a Keras .h5 or .weights.h5, a .safetensors or a .pth;"
        " (3) --config.pretrained=none for random weights, or"
        " --config.pretrained_fallback=random to go on with them whenever this happens"
    )
