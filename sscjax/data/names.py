"""Names of classes, subjects and columns: which are the same, and which only look so.

Two people spell a class `Normal` and `normal`; macOS writes `é` as two characters where Windows
writes one; a cell ends with a space that nobody sees. Names are compared by `key`, which knows none
of these differences.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from sscjax.errors import UserError

MERGE = "--config.data.merge_spellings=True"
"""The option that reads names as one that differ only in their spelling."""

# 7, 007 and 7.0: spreadsheets drop zeros in front, statistics programs add some behind.
_NUMBER = re.compile(r"0*(\d+)(\.0+)?")
_BETWEEN_WORDS = re.compile(r"(?<=[^\W\d_])[-_](?=[^\W\d_])")

# Words of the names of classes without disease.
_HEALTHY = ("normal", "healthy", "control", "benign", "negative", "none", "0")

_INVISIBLE = ("Cc", "Cf", "Zs", "Zl", "Zp")


def normal(name: str) -> str:
    r"""The name in Unicode's composed form (NFC), without white space at its ends.

    Example:
      >>> normal(" e\u0301arly\u00a0") == "\u00e9arly"
      True
    """
    # Most names are ASCII, which is composed already; there may be one per image.
    return name.strip() if name.isascii() else unicodedata.normalize("NFC", name).strip()


def key(name: str) -> str:
    r"""What is left of a name without capitals, white space and invisible characters.

    Example:
      >>> key("Stage\u00a0I ") == key("stage i")
      True
    """
    if name.isascii():
        return "".join(name.casefold().split())
    composed = unicodedata.normalize("NFC", name).casefold()
    visible = (one for one in composed if unicodedata.category(one) not in _INVISIBLE)
    return unicodedata.normalize("NFC", "".join(visible))


def _loose_key(name: str) -> str:
    """As `key`, without signs between words, and of numbers without zeros that say nothing."""
    common = key(name)
    number = _NUMBER.fullmatch(common)
    return number[1] if number else _BETWEEN_WORDS.sub("", common)


def difference(one: str, other: str) -> str:
    """In what two names that are nearly equal differ, for messages."""
    if key(one) != key(other):
        return "zeros that say nothing" if _NUMBER.fullmatch(key(one)) else "signs between words"
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return "the form of an accent (Unicode NFC and NFD)"
    if one.casefold() == other.casefold():
        return "capitals"
    if (
        unicodedata.normalize("NFC", one).casefold()
        == unicodedata.normalize("NFC", other).casefold()
    ):
        return "capitals and the form of an accent"
    return "white space" if "".join(one.split()) == "".join(other.split()) else "spelling"


def one_spelling(
    where: str, what: str, names: Iterable[str], preferred: Iterable[str] = (), merge: bool = False
) -> dict[str, str]:
    """The name under which each name is read: itself, unless spellings are merged.

    Args:
      where: the folder or table, for messages.
      what: 'class' or 'subject', for messages.
      names: every name as often as it occurs.
      preferred: spellings that win where names are merged; else the most frequent one does.
      merge: read names that differ only in spelling as one, instead of stopping.

    Raises:
      UserError: two names differ only in capitals, white space, Unicode form, signs between words
        (`non-tumor`, `non_tumor`) or zeros of a number (7, 007, 7.0); it names both.
    """
    counts = names if isinstance(names, Counter) else Counter(names)
    wanted = {_loose_key(name): name for name in preferred}
    alike: dict[str, list[str]] = {}
    for name in counts:
        alike.setdefault(_loose_key(name), []).append(name)
    read_as: dict[str, str] = {}
    for common, spellings in alike.items():
        first = wanted.get(common)
        best = first or min(spellings, key=lambda name: (-counts[name], name))
        for name in spellings:
            if name != best and not merge and not (first and normal(name) == normal(best)):
                raise UserError(_alike(where, what, best, name))
            read_as[name] = best
    return read_as


def _alike(where: str, what: str, one: str, other: str) -> str:
    return (
        f"{where}: the {what} names {shown(one)} and {shown(other)} differ only in "
        f"{difference(one, other)}; write both alike, or give {MERGE} to read them as the same "
        f"{what}"
    )


def shown(name: str) -> str:
    """A name in quotes, with what cannot be seen written out."""
    if name.isascii() or name == unicodedata.normalize("NFC", name):
        return repr(name)
    return ascii(name)


def matched(name: str, known: Mapping[str, str]) -> str | None:
    """The known name that is meant by `name`, or None.

    Args:
      name: as somebody wrote it.
      known: names by `key`.
    """
    return known.get(key(name))


def sounding_healthy(names: Sequence[str]) -> str | None:
    """The first name of a class that sounds like one without disease; None if none does.

    Example:
      >>> sounding_healthy(["early", "normal_skin"])
      'normal_skin'
    """
    return next(
        (name for name in names if set(re.split(r"[\W_]+", name.lower())) & set(_HEALTHY)), None
    )
