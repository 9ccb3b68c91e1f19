"""Sites, such as hospitals or scanners, that images come from: read, checked, kept apart in folds.

A network recognises a site by its stain and scanner. Where patients of one site are trained on and
tested, figures hold for that site and flatter what another would get (Howard et al. 2021, Nature
Communications 12, 4423); folds that keep sites apart are the remedy given there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from sscjax.data.dataset import ImageSet
from sscjax.data.partition import nearest
from sscjax.errors import UserError
from sscjax.system.files import csv_name
from sscjax.system.formatting import clean_name

COLUMNS = ("site", "centre", "center", "scanner", "hospital", "institution")
"""Names of a table's column, see `columns.SYNONYMS`; `site` goes before the others."""

Apart = Literal["auto", "apart", "mixed"]
"""'apart': no site is trained on and tested; 'auto': so in folds, where there are enough sites."""

_NAMED = 4  # sites or classes that a message names


# --- reading ------------------------------------------------------------------------------------


def of_row(where: str, row: Mapping[str, str]) -> str | None:
    """The site of a table's row, None where no column names it.

    Args:
      where: the row, for messages.
      row: its cells by role, see `columns.Columns.row`.

    Raises:
      UserError: the cell is empty.
    """
    if "site" not in row:
        return None
    name = csv_name(unicodedata.normalize("NFC", row["site"]))
    if not name:
        raise UserError(
            f"{where}: empty site; fill it in ('unknown' will do), or remove the column"
        )
    return name


def column(source: str, named: Sequence[str | None], subjects: Sequence[str]) -> np.ndarray | None:
    """[N] str of the images' sites, None where none is named.

    Args:
      source: of the images, for messages.
      named: [N] sites; all or none of them None.
      subjects: [N].

    Raises:
      UserError: a subject belongs to two sites, or two names differ by case or spaces alone.
    """
    if all(name is None for name in named):
        return None
    sites = np.array([name or "" for name in named], np.str_)
    spelt: dict[str, str] = {}
    for name in np.unique(sites).tolist():
        other = spelt.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            raise UserError(
                f"{source}: the sites {other!r} and {name!r} differ by case or spaces alone; write "
                "them alike"
            )
    first: dict[str, str] = {}
    for subject, site in zip(subjects, sites.tolist(), strict=True):
        if first.setdefault(subject, site) != site:
            raise UserError(
                f"{source}: subject {subject!r} is at two sites, {first[subject]!r} and {site!r}, "
                "so no split could keep both apart; give each patient one site, or, where two "
                "patients have one number, write the site before it (A_001, B_001); a column that "
                f"is no place of the patients must not be named {', '.join(COLUMNS)}"
            )
    return sites


# --- counting -----------------------------------------------------------------------------------


def table(image_set: ImageSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a set with sites: names [S], each image's site [N] int, and subjects [S,C] by class.

    A subject with images of two classes counts for both.
    """
    assert image_set.sites is not None
    names, site_of = np.unique(image_set.sites, return_inverse=True)
    _, subject_of = np.unique(image_set.subjects, return_inverse=True)
    rows = np.unique(np.stack([site_of, subject_of, image_set.labels]), axis=1)
    counts = np.zeros((len(names), len(image_set.classes)), np.int64)
    np.add.at(counts, (rows[0], rows[2]), 1)
    return names, site_of, counts


def are_apart(image_set: ImageSet, tested: np.ndarray, trained: np.ndarray) -> bool:
    """Whether no site has both images that are tested and images that are trained on.

    Args:
      image_set: N images.
      tested: indices or [N] bool.
      trained: likewise.
    """
    if image_set.sites is None:
        return False
    return not np.intersect1d(image_set.sites[tested], image_set.sites[trained]).size


def warnings(image_set: ImageSet, apart: bool) -> list[str]:
    """What a reader must know of the sites before any figure.

    Args:
      image_set: the images of the run.
      apart: whether no site is trained on and tested.
    """
    if image_set.sites is None:
        return []
    names, _, counts = table(image_set)
    if len(names) == 1:
        return [f"ONE SITE ({clean_name(str(names[0]))}): no figure says anything of another."]
    lines = []
    if not apart:
        lines.append(
            "SITES STAND IN TRAINING AND TEST ALIKE: figures hold for these sites and may flatter\n"
            "another. --config.protocol=leave_one_site_out tests each site by models of the others."
        )
    held = (counts > 0).sum(1)
    single = [
        f"{clean_name(str(names[k]))} (only {clean_name(image_set.classes[counts[k].argmax()])})"
        for k in np.flatnonzero(held == 1)
    ]
    if single:
        lines.append(
            f"SITES OF ONE CLASS: {_listed(single)}. A network can learn the site in place of the\n"
            "disease, and no figure of such a site says how well the classes can be distinguished."
        )
    sole = [
        f"{clean_name(image_set.classes[label])} (at {clean_name(str(names[k]))})"
        for label in range(counts.shape[1])
        for k in np.flatnonzero(counts[:, label])[:2]
        if (counts[:, label] > 0).sum() == 1
    ]
    if sole:
        tested = (
            "\nThe model that tests that site saw no image of the class: it cannot be right there."
        )
        lines.append(f"CLASSES OF ONE SITE: {_listed(sole)}.{tested if apart else ''}")
    return lines


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more


# --- folds --------------------------------------------------------------------------------------


def check_settings(wanted: str, test_site: str, others: Mapping[str, object]) -> None:
    """Check `config.split.sites` and `config.split.test_site` before any image is read.

    Args:
      wanted: see `Apart`.
      test_site: the site that is tested; '' for none.
      others: fields that a test site contradicts, by name; those that are set are true.

    Raises:
      UserError: a value that is none, or a contradiction.
    """
    if wanted not in get_args(Apart):
        raise UserError(f"config.split.sites={wanted!r}: expected 'auto', 'apart' or 'mixed'")
    if wanted == "apart" and others.get("counts"):
        raise UserError(
            "config.split.counts prescribes images by class, which whole sites cannot meet: empty "
            "it, or set config.split.sites=mixed"
        )
    contradicting = [name for name, value in others.items() if value]
    if test_site and (wanted == "mixed" or contradicting):
        other = contradicting[0] if contradicting else "sites='mixed'"
        raise UserError(
            f"config.split.test_site={test_site!r} cannot be combined with split.{other}: clear one"
        )


def kept_apart(image_set: ImageSet, wanted: str, by: str, folds: int) -> bool:
    """Whether sites are kept apart, as `config.split.sites` has it.

    'auto' does so in folds by subject with a site or more for each fold, if every class is at two
    sites or more: else a fold would be tested on a class that it never saw.

    Args:
      image_set: its images.
      wanted: see `Apart`.
      by: 'subject' or 'image'.
      folds: number of folds; 0 for a hold-out.

    Raises:
      UserError: 'apart', without sites.
    """
    if image_set.sites is None and wanted == "apart":
        raise UserError(
            "config.split.sites='apart', and no image names its site: add a column 'site' to "
            "manifest.csv, or name the folder level in config.data.layout, such as "
            "{label}/{site}/{subject}/*"
        )
    if image_set.sites is None or wanted == "mixed":
        return False
    if wanted == "apart":
        return True
    names, _, counts = table(image_set)
    present = counts[:, counts.any(0)]
    return by == "subject" and 2 <= folds <= len(names) and bool(((present > 0).sum(0) > 1).all())


def parts(image_set: ImageSet, shares: Sequence[float], seed: int) -> np.ndarray:
    """Assign images to parts of about the given shares of the subjects of each class, by site.

    Parts may lack classes: sites are few, and a class may be at few of them.

    Args:
      image_set: N images with sites.
      shares: of the parts, sum 1.
      seed: of the search.

    Returns:
      [N] int, the part.

    Raises:
      UserError: fewer sites than parts.
    """
    names, site_of, counts = table(image_set)
    if len(names) < len(shares):
        raise UserError(
            f"{len(names)} site(s) cannot be kept apart in {len(shares)} parts; set config.cv.folds"
            f"={len(names)} or fewer, config.protocol=leave_one_site_out, or "
            "config.split.sites=mixed"
        )
    return nearest(counts, shares, [seed])[site_of]


def tested(
    image_set: ImageSet,
    fractions: Sequence[float],
    seed: int,
    folds: int,
    fold: int,
    test_site: str,
) -> tuple[np.ndarray, float, int]:
    """[N] bool, the images of the sites that are tested; their share of the images; a number.

    Args:
      image_set: its images.
      fractions: shares of (train, val, test).
      seed: of the assignment of sites.
      folds: as of `splits.make_splits`; 0 for a hold-out.
      fold: likewise.
      test_site: the site to test; '' for those of the fold.

    Raises:
      UserError: there is no such site, there are too few, or nothing is left to train on.
    """
    names = [] if image_set.sites is None else np.unique(image_set.sites).tolist()
    if test_site:
        if test_site not in names:
            known = f"it has {', '.join(names[:5])}" if names else "it names no site"
            raise UserError(f"split.test_site={test_site!r}: the set has no such site; {known}")
        chosen, number = np.array(image_set.sites) == test_site, names.index(test_site)
    elif folds:
        chosen, number = parts(image_set, [1 / folds] * folds, seed) == fold, fold
    else:
        chosen, number = parts(image_set, [1 - fractions[2], fractions[2]], seed) == 1, 0
    shared = np.intersect1d(image_set.subjects[chosen], image_set.subjects[~chosen])
    if shared.size:
        raise UserError(
            f"subject {str(shared[0])!r} is at several sites, so they cannot be kept apart; give "
            "each subject one site"
        )
    share = float(chosen.mean())
    if share + fractions[1] >= 1 - 1e-9:
        which = f"site {test_site!r} has" if test_site else f"the sites of fold {number} have"
        raise UserError(
            f"{which} {100 * share:.0f} % of the images, which leaves none to train on beside a "
            f"val share of {fractions[1]:g}; lower the share, or set config.split.sites=mixed"
        )
    return chosen, share, number
