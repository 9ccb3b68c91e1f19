"""The list of a set's images before any is decoded, and what every list must fulfil."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscjax.data import folder_names, names, restarts, sites
from sscjax.data.layout import Reading
from sscjax.errors import UserError

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """One image that is not decoded yet.

    Attributes:
      path: the file; of a drawn image its name.
      file: the same, relative to the set's folder with forward slashes.
      label: the class name.
      subject: patient or biopsy; the file itself if the source names none.
      split: 'train', 'val' or 'test', or None if the source prescribes no split.
      masks: its segmentation maps, which are joined; None: not looked for yet.
      mpp: micrometres per pixel, 0 where the source does not say.
      site: the hospital or scanner, or None if the source names none.
    """

    path: Path
    file: str
    label: str
    subject: str
    split: str | None = None
    masks: tuple[Path, ...] | None = None
    mpp: float = 0.0
    site: str | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """A checked list of images: at least two classes, each with at least one image.

    Attributes:
      folder: the folder that all `file` names are relative to.
      classes: class names in label order.
      records: the images; by file name for folders, in the table's order for tables. Either all of
        them have a split or none has.
      source: one line for reports.
      kind: 'folder', 'manifest' or 'synthetic'.
      understood: how the set was read, see `understood.describe`; {} for drawn images.
    """

    folder: Path
    classes: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    source: str
    kind: str
    understood: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def sites(self, records: Sequence[ImageRecord] | None = None) -> np.ndarray | None:
        """[N] str, the sites of all or some of the records, see `sites.column`."""
        chosen = self.records if records is None else records
        subjects = [record.subject for record in chosen]
        return sites.column(str(self.folder), [record.site for record in chosen], subjects)


def shown(path: Path, private: bool) -> str:
    """The name of a folder or table for messages that are no errors."""
    return "(private)" if private else str(path)


def source_line(name: str, records: Sequence[ImageRecord], hint: str = "") -> str:
    """The line for reports; warns if images have no subject to split by.

    Args:
      name: what was read.
      records: its images.
      hint: an option that would give them subjects, for the warning.
    """
    without_subject = sum(record.subject == record.file for record in records)
    if not without_subject:
        subjects = {record.subject for record in records}
        return f"{name} ({len(records)} images of {len(subjects)} subjects)"
    _LOG.warning(
        "%s: %d of %d images name no subject, so each counts as its own: the split cannot be "
        "by patient and the figures are optimistic; use class/subject/image.jpg folders or a "
        "manifest.csv with a subject column%s",
        name, without_subject, len(records), f"; {hint}" if hint else "",
    )  # fmt: skip
    return (
        f"{name} ({len(records)} images; {without_subject} without a subject, taken as one "
        "subject each: the split is not by patient and the figures are optimistic)"
    )


# --- names ----------------------------------------------------------------------------------------


def with_one_spelling(
    where: str, records: Sequence[ImageRecord], classes: Sequence[str], reading: Reading
) -> tuple[list[ImageRecord], dict[str, str]]:
    """The records with one spelling for each class and subject, and the names that were changed.

    Raises:
      UserError: names differ only in capitals, white space or Unicode form, and are not merged; or
        the numbers of patients start again in each class.
    """
    merge = reading.merge_spellings
    labels = names.one_spelling(
        where, "class", Counter(record.label for record in records), classes, merge
    )
    named = Counter(record.subject for record in records if record.subject != record.file)
    subjects = names.one_spelling(where, "subject", named, (), merge)
    apart = reading.shared_subjects == "different"
    changed = []
    for record in records:
        label, subject = labels[record.label], record.subject
        if subject != record.file:
            subject = subjects[subject]
            subject = f"{label}/{subject}" if apart else subject
        if (label, subject) != (record.label, record.subject):
            record = dataclasses.replace(record, label=label, subject=subject)
        changed.append(record)
    merged = {**labels, **subjects}
    return changed, {old: new for old, new in merged.items() if old != new}


def refuse_restarts(where: str, records: Sequence[ImageRecord], reading: Reading) -> None:
    """Refuse the same numbers of subjects in several classes, unless the config says what they are.

    Raises:
      UserError: numbers stand in classes as those do that start again in each.
    """
    message = _restarts(records, reading)
    if message:
        raise UserError(f"{where}: {message}")


def warn_of_restarts(where: str, records: Sequence[ImageRecord], reading: Reading) -> None:
    """The same as a warning, of tables, whose column of patients somebody filled on purpose.

    Names no subject.
    """
    message = _restarts(records, reading, named=False)
    if message:
        _LOG.warning("%s: %s", where, message)


def refuse_unlearnable(where: str, records: Sequence[ImageRecord]) -> None:
    """Refuse a class that only splits other than 'train' have.

    Raises:
      UserError: names the class and the splits.
    """
    by_split: dict[str | None, set[str]] = {}
    for record in records:
        by_split.setdefault(record.split, set()).add(record.label)
    trained = by_split.pop("train", None)
    others = sorted(set().union(*by_split.values()) - trained) if trained else []
    if others:
        label = others[0]
        splits = " and ".join(sorted(str(name) for name in by_split if label in by_split[name]))
        raise UserError(
            f"{where}: the class {label!r} has images in {splits} and none in train, so that it "
            "cannot be learnt; give train some of its patients, or take the class out"
        )


def _restarts(records: Sequence[ImageRecord], reading: Reading, *, named: bool = True) -> str:
    if reading.shared_subjects:
        return ""
    of_class: dict[str, set[str]] = {}
    for record in records:
        if record.subject != record.file:
            of_class.setdefault(record.label, set()).add(record.subject)
    restart = restarts.find(of_class)
    if restart is None:
        return ""
    number = sum(map(len, of_class.values()))
    merged = len(set().union(*of_class.values()))
    who = f" ({folder_names.some(restart.alike)})" if named else ""
    return (
        f"the same subjects stand in {restart.where}{who}: {number} subjects would count as "
        f"{merged}; {restarts.OPTIONS}"
    )


def ordered_classes(
    where: Path | str, present: Sequence[str], wanted: Sequence[str]
) -> tuple[str, ...]:
    """`wanted` if given, after checking that it and `present` are the same names; else sorted."""
    classes = tuple(wanted) or tuple(sorted(present))
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise UserError(f"the list of classes names {repeated[0]!r} twice; name each class once")
    for name in sorted(set(present) - set(classes)):
        raise UserError(
            f"{where}: unknown class {name!r}, expected one of {', '.join(classes)}; remove it or "
            "add it to the classes"
        )
    for name in classes:
        if name not in present:
            raise UserError(
                f"{where}: no image of the class {name!r}, found {', '.join(sorted(present))}; add "
                "some or take it off the classes"
            )
    if len(classes) < 2:
        raise UserError(
            f"{where}: found only one class ({classes[0]!r}), expected at least two; add images of "
            "another class"
        )
    return classes


# --- files ----------------------------------------------------------------------------------------


def refuse_outside(folder: Path, path: Path, where: str) -> None:
    """Refuse a file that a link leads out of the folder."""
    target = target_of(path)
    if not target.is_relative_to(target_of(folder)):
        raise UserError(
            f"{where}: {path.name} leaves the folder {folder} (it links to {target}); copy the "
            "file into the folder"
        )


def target_of(path: Path) -> Path:
    """The target of a path, with links resolved; a circular link is returned as it is.

    `Path.resolve` raises an error for these in some versions of Python. Here the image cannot be
    read later, which is handled as for any other.
    """
    return Path(os.path.realpath(path))


def refuse_shared_files(records: Sequence[ImageRecord], places: Sequence[str]) -> None:
    """Refuse a file that two records name, maybe through a link.

    Args:
      records: the images.
      places: where each is named, for the message.
    """
    first: dict[str, str] = {}
    targets: dict[str, str] = {}
    for record, place in zip(records, places, strict=True):
        folder, name = os.path.split(record.path)
        if folder not in targets:
            targets[folder] = os.path.realpath(folder)
        target = os.path.join(targets[folder], name)
        if os.path.islink(target):
            target = os.path.realpath(target)
        if target in first:
            raise UserError(
                f"{place}: duplicate, the file {record.file} is already given by {first[target]}; "
                "remove one of them"
            )
        first[target] = place
