"""The blocks of the config about images: data, split, audit and augment.

`configs/default.py` has the same fields with the same defaults, and says what each means.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal, get_args

from sscjax.data import sites, sources, splits
from sscjax.data.augment import Changes
from sscjax.data.layout import Reading
from sscjax.data.pixel_range import Decoding
from sscjax.errors import UserError

Storage = Literal["direct", "array_record"]
OnLeakage = Literal["stop", "report"]

# What a subject counts as whose images have several labels.
SubjectLabel = Literal["majority", "worst", "image"]


@dataclasses.dataclass(frozen=True)
class SyntheticSettings:
    """The block `config.data.synthetic`: tiles by class, and subjects by class."""

    normal: int = 347
    early: int = 141
    late: int = 141
    normal_subjects: int = 20
    early_subjects: int = 10
    late_subjects: int = 10


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The block `config.data`.

    Raises:
      UserError: a field is out of its range, or contradicts another.
    """

    path: str = ""
    tfds: str = ""
    image_size: int = 128
    classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    merge: str = ""
    layout: str = ""
    columns: str = ""
    merge_spellings: bool = False
    shared_subjects: str = ""
    ordered: bool = True
    subject_label: SubjectLabel = "majority"
    corrupt: sources.Policy = "few"
    pixel_bits: int = 0
    pages: str = ""
    mpp: float = 0.0
    storage: Storage = "direct"
    max_megabytes: float = 1000
    seed: int = -1
    synthetic: SyntheticSettings = SyntheticSettings()

    def __post_init__(self) -> None:
        if self.path and self.tfds:
            raise UserError("config.data.path and config.data.tfds are both set; empty one of them")
        for field, known in (
            ("storage", get_args(Storage)),
            ("corrupt", get_args(sources.Policy)),
            ("subject_label", get_args(SubjectLabel)),
        ):
            if getattr(self, field) not in known:
                expected = " or ".join(map(repr, known))
                raise UserError(
                    f"config.data.{field}={getattr(self, field)!r}: expected {expected}"
                )
        if self.image_size < 32:
            raise UserError(f"config.data.image_size={self.image_size}: expected 32 pixels or more")
        if self.max_megabytes < 0:
            raise UserError(f"config.data.max_megabytes={self.max_megabytes}: expected 0 or more")
        # Raise where the text is none of NAME=VALUE parts, or a field is out of its range.
        _ = self.merged_classes, self.reading, self.decoding

    @property
    def is_synthetic(self) -> bool:
        """Whether the images are those of the embedded synthetic set."""
        return not (self.path or self.tfds)

    @property
    def root(self) -> Path | None:
        """The folder that the names of the images are relative to; None for other sources."""
        if not self.path:
            return None
        path = Path(self.path).expanduser()
        return path.parent if path.is_file() else path

    @property
    def decoding(self) -> Decoding:
        """How files are read where there is a choice."""
        return Decoding(int(self.pixel_bits), str(self.pages), float(self.mpp))

    @property
    def max_bytes(self) -> float:
        """Images of more than this are not held in memory."""
        return float(self.max_megabytes) * 2**20

    @property
    def reading(self) -> Reading:
        """How folders and tables are read."""
        return Reading(self.layout, self.columns, self.merge_spellings, self.shared_subjects)

    @property
    def merged_classes(self) -> dict[str, str]:
        """The new name of each class that `merge` names."""
        return parse_pairs(self.merge, "=", "data.merge")


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """The block `config.split`.

    Raises:
      UserError: a field is out of its range, or contradicts another.
    """

    by: splits.By = "subject"
    train: float = 0.7
    val: float = 0.15
    test: float = 0.15
    counts: str = ""
    seed: int = -1
    folds: int = 0
    fold: int = 0
    test_subject: str = ""
    sites: sites.Apart = "auto"
    test_site: str = ""
    outer_folds: int = 0
    outer_fold: int = 0

    def __post_init__(self) -> None:
        exact = self.exact_counts
        splits.check_arguments(
            self.by, self.fractions, exact, self.folds, self.fold, self.test_subject
        )
        splits.check_arguments(self.by, self.fractions, None, self.outer_folds, self.outer_fold, "")
        others = {"counts": exact, "folds": self.folds, "test_subject": self.test_subject}
        sites.check_settings(self.sites, self.test_site, others)

    @property
    def fractions(self) -> tuple[float, float, float]:
        """Shares of the images in train, val and test."""
        return (self.train, self.val, self.test)

    @property
    def exact_counts(self) -> dict[str, tuple[int, ...]] | None:
        """Images of each class in train, val and test; None where the shares hold."""
        return _parse_counts(self.counts, "split.counts") or None


@dataclasses.dataclass(frozen=True)
class AuditSettings:
    """The block `config.audit`.

    Raises:
      UserError: a field has no such value.
    """

    on_leakage: OnLeakage = "stop"

    def __post_init__(self) -> None:
        if self.on_leakage not in get_args(OnLeakage):
            raise UserError(
                f"config.audit.on_leakage={self.on_leakage!r}: expected 'stop' or 'report'"
            )


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """The block `config.augment`.

    Raises:
      UserError: a field is out of its range.
    """

    copies: int = 2
    counts_before_split: str = ""
    flip: bool = True
    rot90: bool = False
    stain: float = 0.0
    crop: float = 0.8

    def __post_init__(self) -> None:
        if self.copies < 0:
            raise UserError(f"config.augment.copies={self.copies}: expected 0 or more")
        # Raise where a field is out of its range.
        _ = self.changes, self.images_before_split

    @property
    def changes(self) -> Changes:
        """What augmentation may do to an image."""
        return Changes(
            flip=bool(self.flip),
            rot90=bool(self.rot90),
            crop=float(self.crop),
            stain=float(self.stain),
        )

    @property
    def images_before_split(self) -> dict[str, int]:
        """Images of each class after augmentation before the split; empty without that."""
        counts = _parse_counts(self.counts_before_split, "augment.counts_before_split")
        return {name: numbers[0] for name, numbers in counts.items()}


# --- fields whose keys the user chooses -----------------------------------------------------------


def parse_pairs(text: str, separator: str, field: str) -> dict[str, str]:
    """Read `a=x,b=y` as a dict.

    Args:
      text: parts with commas between them; spaces are dropped.
      separator: between a name and its value.
      field: of the config, for the message.

    Raises:
      UserError: a part without the separator, or a name twice.

    Example:
      >>> parse_pairs("early=ssc, late=ssc", "=", "data.merge")
      {'early': 'ssc', 'late': 'ssc'}
    """
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = (piece.strip() for piece in part.rpartition(separator))
        if not sign or not name or not value or name in pairs:
            raise UserError(
                f"config.{field}: found {part!r}, expected distinct NAME{separator}VALUE parts "
                "with commas between them"
            )
        pairs[name] = value
    return pairs


def _parse_counts(text: str, field: str) -> dict[str, tuple[int, ...]]:
    pairs = parse_pairs(text, ":", field)
    try:
        return {
            name: tuple(int(number) for number in value.split("/")) for name, value in pairs.items()
        }
    except ValueError as error:
        raise UserError(f"config.{field}: found {text!r}, expected whole numbers") from error
