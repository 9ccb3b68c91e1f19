"""Cells of tables that would be read as a class or a patient and are none."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from sscjax.data import names
from sscjax.errors import UserError

# What programs and people write where they know nothing, as `names.key` without outer signs.
_NOTHING = frozenset(
    "? na n/a nan null nil none unknown unk missing notavailable nodata tbd k.a ka "
    "ref! value! div/0! name? num!".split()
)
# Of these a class may be called by that name: no disease.
_MAYBE_A_CLASS = frozenset({"none", "unknown", "nil"})

# A day, as Excel makes of the grade 1-2.
_DAY = re.compile(r"\d{4}-\d\d-\d\d(T[\d:.]+)?|\d{1,2}[-.][A-Z][a-z]{2}|[A-Z][a-z]{2}-\d\d")

_BETWEEN_LABELS = re.compile(r"[|;,+&]")


def refuse_empty(where: str, row: Mapping[str, str], roles: Sequence[str]) -> None:
    """Refuse a row in which a cell is empty that has to be filled.

    Args:
      where: the row, for the message.
      row: cells by role.
      roles: those that must not be empty where they are there.

    Raises:
      UserError: such a cell is empty.
    """
    for role in roles:
        if not row.get(role, "-"):
            excel = " (of merged cells only the first is filled; a formula needs a saved result)"
            alone = len({cell for cell in row.values() if cell}) == 1
            remark = ", or delete the row if it is a total or a remark" if alone else ""
            excel = excel if ".xls" in where else ""
            raise UserError(f"{where}: empty {role}; fill it in{remark}{excel}")


def refuse_nothing(where: str, row: Mapping[str, str], classes: Collection[str]) -> None:
    """Refuse a label or subject such as `nan` or `#N/A`, and a day in place of a label.

    Args:
      where: the row, for the message.
      row: cells by role.
      classes: names of the classes where the config gives them; these are labels.

    Raises:
      UserError: the images of all such rows would be one class, or one patient.
    """
    subject, label = row.get("subject", ""), row.get("label", "")
    if _plain(subject) in _NOTHING:
        raise UserError(
            f"{where}: the subject {subject!r} names nobody, and all such rows would count as one "
            "patient; write who it is, or a name of its own in each of these rows"
        )
    if label in classes:
        return
    if _plain(label) in _NOTHING - _MAYBE_A_CLASS:
        raise UserError(
            f"{where}: the label {label!r} names no class; remove the row or fill it in, or name "
            "it in the list of classes"
        )
    if _DAY.fullmatch(label):
        raise UserError(
            f"{where}: the label {label!r} is a day, as Excel makes of 1-2; type the column as "
            "text, or name it in the list of classes"
        )


def _plain(cell: str) -> str:
    return names.key(cell).strip("#-.<>()[]") or ("?" if cell else "")


def refuse_joined(where: str, labels: Collection[str], classes: Collection[str]) -> None:
    """Refuse a label that is several of the others with a sign between them, such as `a|b`.

    Args:
      where: the table, for the message.
      labels: all that it has.
      classes: names of the classes where the config gives them; these are labels.

    Raises:
      UserError: there is one: an image has one class here.
    """
    known = {names.key(label) for label in labels}
    for label in labels:
        parts = [names.key(part) for part in _BETWEEN_LABELS.split(label)]
        if len(parts) > 1 and label not in classes and known.issuperset(parts):
            raise UserError(
                f"{where}: the label {label!r} is several of the others, and an image has one "
                "class here; write one, or name it in the list of classes if it is a class"
            )
