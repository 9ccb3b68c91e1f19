"""Numbers in place of the names of files and subjects, which may tell who a patient is.

`image 0001` is the first file by its name, `subject 001` the first subject: the same set has the
same numbers at every start, whatever the order in which it is read.
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
    """A number for each distinct name, in their order: {'a': 'image 0001', ...}.

    Args:
      names: in any order.
      word: what is counted.
      digits: at least so many.
    """
    ordered = sorted(set(names))
    width = max(digits, len(str(len(ordered))))
    return {name: f"{word} {place:0{width}d}" for place, name in enumerate(ordered, 1)}


def _both(files: Sequence[str], subjects: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Numbers of files, and of subjects: an image that names none stays its own."""
    of_file = numbers(files, "image", 4)
    of_subject = numbers(set(subjects) - set(files), "subject", 3)
    return of_file, {**of_file, **of_subject}


def image_set(found: ImageSet) -> ImageSet:
    """The set with numbers for names; the files' own names are left in `origins` alone."""
    files, subjects = found.files.tolist(), found.subjects.tolist()
    # Those that cannot be read have their number, too: mended, they change no other's.
    of_file, of_subject = _both([*files, *found.skipped], subjects)
    return dataclasses.replace(
        found,
        files=np.array([of_file[name] for name in files], dtype=np.str_),
        subjects=np.array([of_subject[name] for name in subjects], dtype=np.str_),
        origins=found.files,
        skipped={of_file[name]: _reason(name, why) for name, why in found.skipped.items()},
    )


def _reason(file: str, reason: str) -> str:
    """Why an image cannot be read, if that says nothing of its name."""
    stem = file.rpartition("/")[2].partition(".")[0]
    return UNREADABLE if stem in reason or "/" in reason or "\\" in reason else reason


def asked(found: Sequence[InputImage]) -> list[InputImage]:
    """The same for images that a network is asked about; their paths stay, to be read."""
    of_file, of_subject = _both([one.file for one in found], [one.subject for one in found])
    return [
        dataclasses.replace(one, file=of_file[one.file], subject=of_subject[one.subject])
        for one in found
    ]


def failure(one: InputImage, reason: str) -> str:
    """Why such an image cannot be read, by its number."""
    return f"{one.file}: {_reason(one.path.name, reason.removeprefix(f'{one.path}: '))}"


PRIVATE = "(private)"
"""What stands where the place of the images would."""


_PATH_FLAG = re.compile(r"--?config\.data\.path")


def command(words: Sequence[str], path: str) -> list[str]:
    """The words of a command without the place of the images.

    A word, or what a flag is set to, is taken out as a whole where it is that place, lies in it, or
    has it somewhere within, however either is spelt: a run's folder there tells it, too.

    Args:
      words: of a command that was given in this process's folder.
      path: of the images: their folder, or a manifest in it; '' for none.
    """
    if not path:
        return list(words)
    folder = _folder_of(path)
    target = os.path.realpath(folder)
    spelt = {target, os.path.abspath(folder), os.path.normpath(folder)}
    # Of these a word may hold one by chance: a root, a bare name, steps upwards alone.
    spelt = {one for one in spelt if os.path.basename(one) not in ("", "..") and os.sep in one}
    found: list[str] = []
    before = ""
    for word in words:
        assigned = word.startswith("-") and "=" in word
        flag, sign, value = word.partition("=") if assigned else ("", "", word)
        hidden = _PATH_FLAG.fullmatch(flag or before) or _tells(value, target, spelt)
        found.append(f"{flag}{sign}{PRIVATE}" if hidden else word)
        before = word
    return found


def refuse_within(folder: Path, path: str) -> None:
    """Raise a UserError for a run's folder within that of its images: its files name their own.

    Args:
      folder: of a private run.
      path: of the images, as for `command`.
    """
    if not path:
        return
    if folder.expanduser().resolve().is_relative_to(os.path.realpath(_folder_of(path))):
        raise UserError(
            f"--workdir={folder} lies in the folder of the images, which config.private=True is "
            "not to tell: choose a --workdir elsewhere"
        )


def _folder_of(path: str) -> str:
    """The folder of images, of which `path` may be a manifest; links are not followed."""
    place = os.path.expanduser(path)
    return os.path.dirname(os.path.abspath(place)) if os.path.isfile(place) else place


def _tells(value: str, folder: str, spelt: Iterable[str]) -> bool:
    """Whether a value names a folder or what is in it, or has one of its spellings within."""
    place = os.path.expanduser(value)
    target = os.path.realpath(place)
    if any(one in value for one in spelt) or (value and target == folder):
        return True
    # Other words are no paths, though each would lie in the folder that a command is given in.
    is_path = os.path.dirname(place) or os.path.lexists(place)
    return bool(is_path) and Path(target).is_relative_to(folder)


def config(found: Mapping[str, object]) -> dict[str, object]:
    """A config as a dict, without the place of the images."""
    data = found["data"]
    assert isinstance(data, Mapping)
    return {**found, "data": {**data, "path": PRIVATE if data["path"] else ""}}
