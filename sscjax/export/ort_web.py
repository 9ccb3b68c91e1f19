"""onnxruntime-web, the runtime that an exported page brings along: two files, pinned by hash.

They come from a folder that the user names, or are downloaded once into the cache.
"""

from __future__ import annotations

import hashlib
import logging
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from sscjax.errors import UserError
from sscjax.system import files
from sscjax.system.cache_dir import cache_dir

if TYPE_CHECKING:
    from sscjax.system import fetch

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

HINT = (
    f"name it by --ort-web=PATH: the archive that `npm pack onnxruntime-web@{VERSION}` fetches, or "
    "a folder that holds the files of its dist"
)


def read(source: Path | None, *, session: fetch.Session | None = None) -> dict[str, bytes]:
    """The files by their names in the page's folder.

    Args:
      source: an archive as npm packs it, or a folder that holds the files; None fetches them, or
        takes what was fetched before.
      session: what sends the requests, see `fetch.fetched`.

    Raises:
      UserError: a file is missing, has other content, or cannot be fetched.
    """
    if source is None:
        return {name: _cached(*file, session) for name, file in FILES.items()}
    source = source.expanduser()
    try:
        contents = _in_folder(source) if source.is_dir() else _in_archive(source)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise UserError(f"--ort-web={source} cannot be read ({error}); {HINT}") from error
    for name, (original, _, expected) in FILES.items():
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise UserError(
                f"{source}: its {original} is not that of onnxruntime-web {VERSION}; {HINT}"
            )
    return contents


def _in_folder(folder: Path) -> dict[str, bytes]:
    """As `dist` itself, or with it inside, as in an unpacked package and in node_modules."""
    contents = {}
    for name, (original, *_) in FILES.items():
        candidates = [
            parent / original for parent in (folder, folder / "dist", folder / "package/dist")
        ]
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            raise UserError(f"--ort-web={folder} holds no {original} of onnxruntime-web; {HINT}")
        contents[name] = path.read_bytes()
    return contents


def _in_archive(path: Path) -> dict[str, bytes]:
    contents = {}
    # In the order of the archive: going back would unpack all of it again.
    by_member = {f"package/dist/{file[0]}": (name, file[1]) for name, file in FILES.items()}
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.name in by_member and member.isfile():
                name, size = by_member[member.name]
                content = archive.extractfile(member)
                contents[name] = b"" if content is None else content.read(size + 1)
    missing = [member for member, (name, _) in by_member.items() if name not in contents]
    if missing:
        raise UserError(f"--ort-web={path} cannot be read (no {missing[0]} in it); {HINT}")
    return contents


def _cached(name: str, size: int, expected: str, session: fetch.Session | None) -> bytes:
    path = cache_dir() / f"onnxruntime-web-{VERSION}" / name
    if path.is_file() and files.sha256(path) == expected:
        return path.read_bytes()
    from sscjax.system import fetch  # see there why here

    url = BASE_URL + name
    _LOG.info("downloading %s to %s", url, path)
    try:
        with fetch.fetched(url, path, size, sha256=expected, session=session):
            pass
    except UserError as error:
        raise UserError(f"no onnxruntime-web: {error}; {HINT}") from error
    return path.read_bytes()
