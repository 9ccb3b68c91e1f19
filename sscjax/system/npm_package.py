"""Files of npm packages that a page brings along: pinned by hash, from a place or fetched once.

They come from an archive or a folder that the user names, or are downloaded into the cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sscjax.errors import UserError
from sscjax.system import files
from sscjax.system.cache_dir import cache_dir

if TYPE_CHECKING:
    from sscjax.system import fetch

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class File:
    """A file of a package.

    Attributes:
      path: inside the package, with '/'.
      size: in bytes.
      sha256: of its content, in hexadecimal digits.
    """

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Package:
    """Some files of one version of a package.

    Attributes:
      name: on the npm registry.
      version: of it.
      option: the option by which a user names an archive or a folder, such as '--ort-web'.
      files: by the names that they are given.
    """

    name: str
    version: str
    option: str
    files: Mapping[str, File]

    @property
    def url(self) -> str:
        """The address of the package's content, at the end a '/'."""
        return f"https://cdn.jsdelivr.net/npm/{self.name}@{self.version}/"

    @property
    def hint(self) -> str:
        """How a user without a network goes on."""
        return (
            f"name it by {self.option}=PATH: the archive that "
            f"`npm pack {self.name}@{self.version}` fetches, or a folder that holds its files"
        )

    def read(
        self, source: Path | None, *, session: fetch.Session | None = None
    ) -> dict[str, bytes]:
        """The files by their names.

        Args:
          source: an archive as npm packs it, or a folder that holds the files; None fetches them,
            or takes what was fetched before.
          session: what sends the requests, see `fetch.fetched`.

        Raises:
          UserError: a file is missing, has other content, or cannot be fetched.
        """
        if source is None:
            return {name: self._cached(file, session) for name, file in self.files.items()}
        source = source.expanduser()
        try:
            read = self._in_folder if source.is_dir() else self._in_archive
            contents = read(source)
        except (OSError, EOFError, tarfile.TarError) as error:
            raise UserError(
                f"{self.option}={source} cannot be read ({error}); {self.hint}"
            ) from error
        for name, file in self.files.items():
            if hashlib.sha256(contents[name]).hexdigest() != file.sha256:
                raise UserError(
                    f"{source}: its {file.name} is not that of {self.name} {self.version}; "
                    f"{self.hint}"
                )
        return contents

    def _in_folder(self, folder: Path) -> dict[str, bytes]:
        """The files themselves, or the package, as unpacked or as in node_modules."""
        contents = {}
        for name, file in self.files.items():
            candidates = (folder / file.name, folder / file.path, folder / "package" / file.path)
            path = next((path for path in candidates if path.is_file()), None)
            if path is None:
                raise UserError(
                    f"{self.option}={folder} holds no {file.name} of {self.name}; {self.hint}"
                )
            contents[name] = path.read_bytes()
        return contents

    def _in_archive(self, path: Path) -> dict[str, bytes]:
        contents = {}
        # In the order of the archive: going back would unpack all of it again.
        by_member = {f"package/{file.path}": (name, file) for name, file in self.files.items()}
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if member.name in by_member and member.isfile():
                    name, file = by_member[member.name]
                    content = archive.extractfile(member)
                    contents[name] = b"" if content is None else content.read(file.size + 1)
        missing = [member for member, (name, _) in by_member.items() if name not in contents]
        if missing:
            raise UserError(
                f"{self.option}={path} cannot be read (no {missing[0]} in it); {self.hint}"
            )
        return contents

    def _cached(self, file: File, session: fetch.Session | None) -> bytes:
        path = cache_dir() / f"{self.name}-{self.version}" / file.name
        if path.is_file() and files.sha256(path) == file.sha256:
            return path.read_bytes()
        from sscjax.system import fetch  # see there why here

        url = self.url + file.path
        _LOG.info("downloading %s to %s", url, path)
        try:
            with fetch.fetched(url, path, file.size, sha256=file.sha256, session=session):
                pass
        except UserError as error:
            raise UserError(f"no {self.name}: {error}; {self.hint}") from error
        return path.read_bytes()
