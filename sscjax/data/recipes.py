"""What an image set is made of: enough to name it, and to make it, without having made it yet.

A recipe is cheap to build (it lists files, it decodes none) and has a key that changes with
anything the pixels, labels or names depend on. `sscjax.data.prepared` stores sets by that key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL

from sscjax.data import image_folder as listings
from sscjax.data import loading, synthetic
from sscjax.data.dataset import ImageSet
from sscjax.data.lazy import Keep
from sscjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make one image set.

    Attributes:
      kind: 'folder', 'manifest' or 'synthetic'.
      count: how many images.
      classes: class names in label order.
      image_size: side of the square images in pixels.
      key: 64 hexadecimal digits over everything the set depends on.
      with_masks: whether the set has segmentation masks.
      source: the set's line for people, or None where only making the set tells.
      make: makes the set; its argument says where the pixels go (drawn ones stay in memory).
    """

    kind: str
    count: int
    classes: tuple[str, ...]
    image_size: int
    key: str
    with_masks: bool
    source: str | None
    make: Callable[[Keep], ImageSet] = dataclasses.field(repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return self.count * self.image_size**2 * 3

    @property
    def short_key(self) -> str:
        """For names of folders and files: they should not get too long for Windows."""
        return f"{self.kind}-{self.key[:20]}"


def from_path(
    path: Path | str,
    image_size: int,
    classes: Sequence[str] = (),
    corrupt: loading.Policy = "error",
    *,
    private: bool = False,
) -> Recipe:
    """The recipe of a folder or a manifest, as `image_folder.list_images` reads it.

    The key covers the files' names relative to the folder, sizes and modification times, those of
    their masks, labels, subjects and splits, but not the folder's own place: a folder that is moved
    keeps its key.

    Args:
      path: of the folder or manifest.
      image_size: side of the square images in pixels.
      classes: class names in label order; empty: the names found, sorted.
      corrupt: what an image does that cannot be read.
      private: nothing but a mistake that is to be mended names the folder.

    Raises:
      UserError: whatever is wrong with the folder or the manifest; or a file that has gone since.
    """
    listing = listings.list_images(path, classes, private=private)
    records = []
    for record in listing.records:
        paths = (record.path, *([record.mask] if record.mask else []))
        stamp = [number for one in paths for number in _stamp(one, corrupt)]
        records.append((record.file, record.label, record.subject, record.split, *stamp))
    manifest = Path(path).is_file() or (listing.folder / listings.MANIFEST).is_file()
    return Recipe(
        kind="manifest" if manifest else "folder",
        count=len(records),
        classes=listing.classes,
        image_size=image_size,
        key=_key(
            {
                "classes": listing.classes,
                "size": image_size,
                "records": records,
                "corrupt": corrupt,
            }
        ),
        with_masks=any(record.mask for record in listing.records),
        source=listing.source,
        make=lambda keep: loading.decode_listing(listing, image_size, keep, corrupt),
    )


def _stamp(path: Path, corrupt: loading.Policy) -> tuple[int | None, int | None]:
    """Size and modification time of a file; None of one that leads nowhere and is left out.

    Raises:
      UserError: there is no such file, and `corrupt` is 'error'.
    """
    try:
        found = path.stat()
    except OSError as error:
        if corrupt == "skip":
            return None, None
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected an image file that stays in "
            "place while the set is read; restore it and run again"
        ) from error
    return found.st_size, found.st_mtime_ns


def from_synthetic(
    *, image_size: int, seed: int, tiles: Mapping[str, int], subjects: Mapping[str, int]
) -> Recipe:
    """The recipe of `synthetic.skin_biopsies` with these arguments."""
    arguments: dict[str, Any] = {
        "image_size": image_size,
        "seed": seed,
        "tiles": dict(tiles),
        "subjects": dict(subjects),
    }
    return Recipe(
        kind="synthetic",
        count=sum(tiles.values()),
        classes=tuple(name for name in synthetic.CLASSES if name in tiles),
        image_size=image_size,
        key=_key(arguments),
        with_masks=True,
        source=None,
        make=lambda keep: synthetic.skin_biopsies(**arguments),
    )


def _key(contents: Mapping[str, Any]) -> str:
    """SHA-256 of the contents, of the code that makes pixels of them, and of Pillow's version.

    The code is part of it so that a mended decoder or a changed drawing never meets a set that an
    older one prepared; Pillow, because its filters may round differently from release to release.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    text = json.dumps([PIL.__version__, contents], sort_keys=True, ensure_ascii=True)
    digest.update(text.encode())
    return digest.hexdigest()
