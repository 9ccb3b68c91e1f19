"""onnxruntime-web, the runtime that an exported page brings along: two files, pinned by hash.

They come from a folder that the user names, or are fetched once and kept in the cache.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import tarfile
import urllib.error
from pathlib import Path

from sscjax import fetch, files
from sscjax.errors import UserError
from sscjax.pretrained.cache import cache_dir

_LOG = logging.getLogger(__name__)

VERSION = "1.30.0"

# Name in the page's folder: name in the package's `dist`, bytes, SHA-256.
FILES = {
    "ort.js": (
        "ort.wasm.bundle.min.mjs",
        73_054,
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort.wasm": (
        "ort-wasm-simd-threaded.wasm",
        14_239_897,
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}

# The address that onnxruntime's own documentation uses.
BASE_URL = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"

MEND = (
    f"name it by --ort-web=PATH: the archive that `npm pack onnxruntime-web@{VERSION}` fetches, or "
    "a folder that holds the files of its dist"
)


def read(place: Path | None, *, opener: fetch.Opener | None = None) -> dict[str, bytes]:
    """The files by their names in the page's folder.

    Args:
      place: an archive as npm packs it, or a folder that holds the files; None fetches them, or
        takes what was fetched before.
      opener: opens URLs, see `fetch.fetch`.

    Raises:
      UserError: a file is not there, is another one, or cannot be fetched.
    """
    found = {}
    for name, (original, size, expected) in FILES.items():
        if place is None:
            content = _kept(original, size, expected, opener)
        elif place.is_dir():
            content = _in_folder(place.expanduser(), original)
        else:
            content = _in_archive(place.expanduser(), original, size)
        if hashlib.sha256(content).hexdigest() != expected:
            raise UserError(
                f"{place}: its {original} is not that of onnxruntime-web {VERSION}; {MEND}"
            )
        found[name] = content
    return found


def _in_folder(folder: Path, name: str) -> bytes:
    """As `dist` itself, or with it inside, as in an unpacked package and in node_modules."""
    for parent in (folder, folder / "dist", folder / "package" / "dist"):
        if (parent / name).is_file():
            return (parent / name).read_bytes()
    raise UserError(f"--ort-web={folder} holds no {name} of onnxruntime-web; {MEND}")


def _in_archive(path: Path, name: str, size: int) -> bytes:
    try:
        with tarfile.open(path) as archive:
            member = archive.extractfile(f"package/dist/{name}")
            content = b"" if member is None else member.read(size + 1)
    except (OSError, EOFError, tarfile.TarError, KeyError) as error:
        what = f"no package/dist/{name} in it" if isinstance(error, KeyError) else error
        raise UserError(f"--ort-web={path} cannot be read ({what}); {MEND}") from error
    return content


def _kept(name: str, size: int, expected: str, opener: fetch.Opener | None) -> bytes:
    path = cache_dir() / f"onnxruntime-web-{VERSION}" / name
    if path.is_file() and files.sha256(path) == expected:
        return path.read_bytes()
    url = BASE_URL + name
    _LOG.info("downloading %s to %s", url, path)
    with fetch.temporary(path) as partial:
        try:
            fetch.fetch(url, partial, size, opener=opener)
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UserError(
                f"no onnxruntime-web: {url} cannot be fetched ({type(error).__name__}: "
                f"{' '.join(str(reason).split())[:160]}); {MEND}"
            ) from error
        if files.sha256(partial) != expected:
            raise UserError(f"{url} gave another file than the one expected; {MEND}")
        os.replace(partial, path)
    return path.read_bytes()
