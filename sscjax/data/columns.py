"""Which column of a table holds the image, the label, the subject and the split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sscjax.data import names, sites
from sscjax.data.tables import Table
from sscjax.errors import UserError

FIELD = "config.data.columns"

SYNONYMS: dict[str, tuple[str, ...]] = {
    "file": (
        *("file", "filename", "filepath", "path", "relativepath", "imagepath", "imgpath"),
        *("imagefile", "imagefilename", "image", "imagename", "img", "imgname", "imageindex"),
        *("bild", "bilddatei", "bildname", "datei", "dateiname", "dateipfad", "pfad", "aufnahme"),
        *("fichier", "nomfichier", "nomdufichier", "chemin", "imagen", "archivo", "nombrearchivo"),
        *("nombredearchivo", "fichero", "ruta"),
        *("imageid", "imgid", "idcode", "isicid", "tile", "tilename", "slide", "slideid", "id"),
    ),
    "label": (
        *("label", "class", "classname", "diagnosis", "dx", "target", "category", "groundtruth"),
        *("findinglabels", "isupgrade", "choice", "outcome"),
        *("klasse", "diagnose", "befund", "kategorie", "classe", "diagnostic", "categorie"),
        *("catégorie", "étiquette", "clase", "diagnóstico", "diagnostico", "categoría", "etiqueta"),
    ),
    "subject": (
        *("subject", "subjectid", "patient", "patientid", "patientcode", "pid"),
        *("patientno", "patientnr", "patientnumber", "patientname", "patnr", "patno", "patid"),
        *("mrn", "subjectno", "subjectnumber", "donor", "donorid", "participant", "participantid"),
        *("patientennummer", "patientennr", "patientenid", "proband", "paciente", "idpaciente"),
        *("pacienteid", "numpatient", "sujet", "sujeto"),
        *("case", "caseid", "casesubmitterid", "fall", "fallnummer", "fallnr", "fallid", "cas"),
        *("caso", "dossier", "numdossier", "lesionid"),
    ),
    "split": ("split", "fold", "set", "subset", "partition"),
    "mask": ("mask", "maskfile", "maskpath", "segmentation", "maske", "masque", "máscara"),
    "site": sites.COLUMNS,
    "mpp": ("mpp", "micronsperpixel"),
}
"""Names of columns by role, as `plain` gives them, in English, German, French and Spanish; the
first that a table has is taken."""

_LABEL_TAILS = ("diagnosis", "label", "class", "grade")

# What columns of 0 and 1 say of a person or an image and not of a disease, as `plain`.
_NO_CLASSES = frozenset(
    "sex gender male female men women man woman m f smoker smoking nonsmoker diabetes diabetic "
    "hypertension left right eye side frontal lateral train val valid test istrain istest isval "
    "usage public private alive dead deceased treated treatment control obese".split()
)

# What reports call a role; the others by their own names.
_TOLD = {"file": "image", "subject": "patient"}


def plain(column: str) -> str:
    """A column's name in lower case without signs: `Image Name` and `image_name` are one."""
    return "".join(letter for letter in names.key(column) if letter.isalnum())


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table by what they hold.

    Attributes:
      of: index of the column by role; 'file' is always there.
      one_hot: indices of columns with a 1 for the class of a row and 0 for the others; then there
        is no 'label'.
      header: names of all columns.
    """

    of: dict[str, int]
    one_hot: tuple[int, ...]
    header: tuple[str, ...]

    @property
    def has_label(self) -> bool:
        """Whether the table names classes."""
        return "label" in self.of or bool(self.one_hot)

    def name(self, role: str) -> str:
        """The name of the column with a role; '' if there is none."""
        if role == "label" and self.one_hot:
            return " + ".join(self.header[index] for index in self.one_hot)
        return self.header[self.of[role]] if role in self.of else ""

    def shown(self) -> dict[str, str]:
        """Column by role, for reports."""
        roles = [role for role in SYNONYMS if role in self.of or (role == "label" and self.one_hot)]
        return {_TOLD.get(role, role): self.name(role) for role in roles}

    def row(self, cells: Sequence[str], where: str) -> dict[str, str]:
        """The cells of a row by role.

        Raises:
          UserError: a row of 0/1 columns has not exactly one 1.
        """
        row = {role: cells[index] for role, index in self.of.items()}
        if self.one_hot:
            ones = [index for index in self.one_hot if _number(cells[index]) == 1]
            others = [
                cells[index] for index in self.one_hot if _number(cells[index]) not in (0.0, 1.0)
            ]
            if len(ones) != 1 or others:
                raise UserError(f"{where}: {_many(self, len(ones), others)}")
            row["label"] = self.header[ones[0]]
        return row


def _many(columns: Columns, ones: int, others: Sequence[str]) -> str:
    held = f"the cell {others[0]!r}" if others else f"{ones} times a 1"
    return (
        f"{held} in the columns {columns.name('label')}, expected exactly one 1 and else 0; an "
        f"image has one label here: name one column, --{FIELD}="
        f"'label={columns.header[columns.one_hot[0]]}'"
    )


def _number(cell: str) -> float | None:
    """A number, written with a point or a comma; None for text."""
    try:
        return float(cell.replace(",", "."))
    except ValueError:
        return None


def match(table: Table, given: str = "", needed: Sequence[str] = ("file", "label")) -> Columns:
    """Find the columns of a table.

    Args:
      table: as `tables.read` gives it.
      given: `config.data.columns`, such as 'label=dx,subject=lesion_id'; 'label=A+B+C' names
        columns of 0 and 1.
      needed: roles that must be there.

    Raises:
      UserError: a column is missing, or several may be meant; names them and the option.
    """
    of, one_hot = _given(table, given)
    by_plain: dict[str, list[int]] = {}
    for index, column in enumerate(table.header):
        if column:
            by_plain.setdefault(plain(column), []).append(index)
    taken = {*of.values(), *one_hot}
    for role in SYNONYMS:
        if role in of or (role == "label" and one_hot):
            continue
        place = _of_role(table, role, by_plain, taken)
        if place is not None:
            of[role] = place
            taken.add(place)
    if "label" in needed and "label" not in of and not one_hot:
        one_hot = _zeros_and_ones(table, taken)
        _refuse_findings(table, one_hot)
    columns = Columns(of, one_hot, tuple(table.header))
    there = {*of, *table.header, *(["label"] if one_hot else [])}
    missing = [role for role in needed if role not in there]
    if missing:
        raise UserError(_missing(table, missing))
    return columns


def fitting(table: Table, given: str) -> str:
    """The parts of `config.data.columns` whose columns a table has, for tables of new images.

    Args:
      table: as `tables.read` gives it.
      given: 'role=column,...', as of the run that predicts.
    """
    parts = [part.strip() for part in given.split(",") if part.strip()]
    return ",".join(
        part
        for part in parts
        if all(_index(table, one.strip()) is not None for one in _columns_of(table, part))
    )


def _columns_of(table: Table, part: str) -> list[str]:
    column = part.partition("=")[2].strip()
    return [column] if _index(table, column) is not None else column.split("+")


def _given(table: Table, given: str) -> tuple[dict[str, int], tuple[int, ...]]:
    """The columns that the config names."""
    of: dict[str, int] = {}
    one_hot: tuple[int, ...] = ()
    for part in filter(None, (part.strip() for part in given.split(","))):
        role, sign, column = (piece.strip() for piece in part.partition("="))
        if not sign or role not in SYNONYMS:
            raise UserError(
                f"{FIELD}={given!r}: expected ROLE=COLUMN parts with commas between them, and as "
                f"role one of {', '.join(SYNONYMS)}"
            )
        if role == "label" and "+" in column and _index(table, column) is None:
            parts = column.split("+")
            one_hot = tuple(_index_or_refuse(table, one.strip()) for one in parts)
        else:
            of[role] = _index_or_refuse(table, column)
    return of, one_hot


def _index_or_refuse(table: Table, column: str) -> int:
    index = _index(table, column)
    if index is None:
        raise UserError(
            f"{table.path}: has no column {column!r}, which {FIELD} names; it has "
            f"{_list(table.header)}"
        )
    return index


def _index(table: Table, column: str) -> int | None:
    """The column of this name; else the only one with the same letters."""
    if column in table.header:
        return table.header.index(column)
    alike = [k for k, name in enumerate(table.header) if name and plain(name) == plain(column)]
    return alike[0] if len(alike) == 1 else None


def _of_role(
    table: Table, role: str, by_plain: dict[str, list[int]], taken: set[int]
) -> int | None:
    """The column of a role, by the first synonym that the table has."""
    if role in table.header and table.header.index(role) not in taken:
        return table.header.index(role)
    present = [
        index
        for synonym in SYNONYMS[role]
        for index in by_plain.get(synonym, [])
        if index not in taken
    ]
    if role == "split":
        # Numbers are those of folds, which are no splits.
        present = [index for index in present if _splits(table, index)]
    if role == "label":
        present = present or [
            index
            for name, indices in by_plain.items()
            for index in indices
            if name.endswith(_LABEL_TAILS) and index not in taken
        ]
        if len(present) > 1 and plain(table.header[present[0]]) != "label":
            raise UserError(
                f"{table.path}: several columns may hold the label "
                f"({_list([table.header[index] for index in present])}); name one, "
                f"--{FIELD}='label={table.header[present[0]]}'"
            )
    if role == "site" and len(present) > 1 and plain(table.header[present[0]]) != "site":
        raise UserError(
            f"{table.path}: several columns may hold the site "
            f"({_list([table.header[index] for index in present])}); name one, "
            f"--{FIELD}='site={table.header[present[0]]}'"
        )
    return present[0] if present else None


def _splits(table: Table, index: int) -> bool:
    """Whether a column holds names, and not numbers of folds."""
    return any(
        cells[index] and _number(cells[index]) is None for _, cells in table.rows
    ) or not any(cells[index] for _, cells in table.rows)


def _zeros_and_ones(table: Table, taken: set[int]) -> tuple[int, ...]:
    """Columns that are 0 or 1 throughout, or the few that uncertain and empty cells are among."""
    chosen = []
    for index, column in enumerate(table.header):
        values = {cells[index] for _, cells in table.rows[:10_000]}
        if not column or index in taken or not values:
            continue
        numbers = {_number(value) for value in values if value}
        if numbers and numbers <= {0.0, 1.0, -1.0}:
            chosen.append(index)
    return tuple(chosen) if len(chosen) > 1 else ()


def _refuse_findings(table: Table, columns: Sequence[int]) -> None:
    """Refuse columns of 0 and 1 that have one 1 in each row by chance, as male and smoker may."""
    named = [table.header[index] for index in columns]
    others = [name for name in named if plain(name) in _NO_CLASSES]
    rows = [[_number(cells[index]) for index in columns] for _, cells in table.rows]
    if all(row.count(1) == 1 for row in rows) and columns and (others or len(named) == 2):
        chosen = "+".join(name for name in named if name not in others)
        raise UserError(
            f"{table.path}: has no column for the label; {_list(named)} are 0 or 1 with one 1 in "
            f"each row, which two findings may be by chance; if they are the classes, give "
            f"--{FIELD}='label={chosen if '+' in chosen else '+'.join(named)}'"
        )


def _missing(table: Table, missing: Sequence[str]) -> str:
    found = _list(table.header) or "an empty first line"
    roles = ",".join(f"{role}=COLUMN" for role in missing)
    return (
        f"{table.path}: missing column(s) {', '.join(missing)}, found {found}; expected the first "
        f"line to name file,label and optionally subject, split, or give --{FIELD}='{roles}'; if "
        "the names of the columns stand in a later line, delete the lines above it"
    )


def _list(columns: Sequence[str], most: int = 12) -> str:
    filled = [column for column in columns if column]
    more = f", ... ({len(filled)})" if len(filled) > most else ""
    return ", ".join(filled[:most]) + more
