"""Pseudonyms: numbers instead of file and subject names, which may identify a patient.

`image 0001` is the first file in sorted order, `subject 001` the first subject: the same set gets
the same numbers in every run, whatever the order in which it is read.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sscjax.data.dataset import ImageSet
from sscjax.data.inputs import InputImage
from sscjax.errors import UserError

UNREADABLE = "cannot be read"


def numbers(names: Iterable[str], word: str, digits: int) -> dict[str, str]:
    """Number the distinct names in sorted order: {'a': 'image 0001', ...}.

    Args:
      names: in any order, with repetitions.
      word: written before the number, such as 'image'.
      digits: the number is padded with zeros to at least so many.
    """
    ordered = sorted(set(names))
    width = max(digits, len(str(len(ordered))))
    return {name: f"{word} {number:0{width}d}" for number, name in enumerate(ordered, 1)}


def _both(files: Sequence[str], subjects: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Numbers by file and by subject; an image without a subject remains its own subject."""
    of_file = numbers(files, "image", 4)
    of_subject = numbers(set(subjects) - set(files), "subject", 3)
    return of_file, {**of_file, **of_subject}


def image_set(original: ImageSet) -> ImageSet:
    """Replace names by numbers; the file names remain only in `origins`, never written."""
    files, subjects = original.files.tolist(), original.subjects.tolist()
    # Unreadable files are numbered, too: once they are fixed, no other number changes.
    of_file, of_subject = _both([*files, *original.skipped], subjects)
    return dataclasses.replace(
        original,
        files=np.array([of_file[name] for name in files], dtype=np.str_),
        subjects=np.array([of_subject[name] for name in subjects], dtype=np.str_),
        origins=original.files,
        sites=_numbered_sites(original.sites),
        skipped={of_file[name]: _reason(name, why) for name, why in original.skipped.items()},
    )


def _numbered_sites(sites: np.ndarray | None) -> np.ndarray | None:
    """Numbers for sites: the name of a hospital says much of who a patient is."""
    if sites is None:
        return None
    of_site = numbers(sites.tolist(), "site", 2)
    return np.array([of_site[name] for name in sites.tolist()], np.str_)


def _reason(file: str, reason: str) -> str:
    """Why an image cannot be read, unless the reason discloses a name."""
    stem = file.rpartition("/")[2].partition(".")[0]
    return UNREADABLE if stem in reason or "/" in reason or "\\" in reason else reason


def input_images(images: Sequence[InputImage]) -> list[InputImage]:
    """Replace names by numbers for images to predict; their paths stay, to be read."""
    of_file, of_subject = _both(
        [image.file for image in images], [image.subject for image in images]
    )
    of_site = {"": "", **numbers({image.site for image in images} - {""}, "site", 2)}
    return [
        dataclasses.replace(
            image,
            file=of_file[image.file],
            subject=of_subject[image.subject],
            site=of_site[image.site],
        )
        for image in images
    ]


def failure(image: InputImage, reason: str) -> str:
    """Why an image of `input_images` cannot be read, named by its number."""
    return f"{image.file}: {_reason(image.path.name, reason.removeprefix(f'{image.path}: '))}"


PRIVATE = "(private)"
"""Written instead of the path of the images."""


_PATH_FLAG = re.compile(r"--?config\.data\.path")


def command(words: Sequence[str], path: str) -> list[str]:
    """Remove the path of the images from a command.

    A word, or the value of a flag, is replaced as a whole if it is that path, lies within it or
    contains it, however either is written: a run's folder inside it would disclose it, too.

    Args:
      words: a command given in the current working directory.
      path: the images' folder, or a manifest in it; '' for none.

    Returns:
      the words, with `PRIVATE` in place of such values.
    """
    if not path:
        return list(words)
    folder = _folder_of(path)
    target = os.path.realpath(folder)
    spellings = {target, os.path.abspath(folder), os.path.normpath(folder)}
    # A word may contain these by chance: a root, a bare name, or only steps upwards.
    spellings = {s for s in spellings if os.path.basename(s) not in ("", "..") and os.sep in s}
    cleaned: list[str] = []
    before = ""
    for word in words:
        assigned = word.startswith("-") and "=" in word
        flag, sign, value = word.partition("=") if assigned else ("", "", word)
        hidden = _PATH_FLAG.fullmatch(flag or before) or _discloses(value, target, spellings)
        cleaned.append(f"{flag}{sign}{PRIVATE}" if hidden else word)
        before = word
    return cleaned


def refuse_within(folder: Path, path: str) -> None:
    """Refuse a private run's folder inside the folder of its images, which its path would disclose.

    Args:
      folder: of a private run.
      path: of the images, as for `command`.

    Raises:
      UserError: `folder` lies within the images' folder.
    """
    if not path:
        return
    if folder.expanduser().resolve().is_relative_to(os.path.realpath(_folder_of(path))):
        raise UserError(
            f"--workdir={folder} lies in the folder of the images, which config.private=True must "
            "not disclose: choose a --workdir elsewhere"
        )


def _folder_of(path: str) -> str:
    """The folder of images, where `path` may be a manifest; links are not followed."""
    path = os.path.expanduser(path)
    return os.path.dirname(os.path.abspath(path)) if os.path.isfile(path) else path


def _discloses(value: str, folder: str, spellings: Iterable[str]) -> bool:
    """Whether a value names a folder or something in it, or contains one of its spellings."""
    path = os.path.expanduser(value)
    target = os.path.realpath(path)
    if any(spelling in value for spelling in spellings) or (value and target == folder):
        return True
    # Other words are no paths, although each would resolve into the working directory.
    is_path = os.path.dirname(path) or os.path.lexists(path)
    return bool(is_path) and Path(target).is_relative_to(folder)


def config(original: Mapping[str, object]) -> dict[str, object]:
    """A config as a dict, without the path of the images."""
    data = original["data"]
    assert isinstance(data, Mapping)
    return {**original, "data": {**data, "path": PRIVATE if data["path"] else ""}}
