"""Whether the site (hospital, scanner) is a confounder: it goes with the label, or is visible.

Both are needed for a network to learn the site in place of the disease. Subjects, not images, are
what is counted: images of one subject are not independent.

1. Site and label: chi-squared of subjects by site and class. How often would labels dealt to the
   subjects at random go as well with the sites? Size: Cramér's V, corrected for chance (Bergsma
   2013, Journal of the Korean Statistical Society 42, 323).
2. Site and image: within each class, ridge regression of each site on the subject's mean colour
   and stain, each subject predicted by all others. How well do the predictions rank pairs of
   subjects of one class and two sites (area under the ROC curve), and how often would sites dealt
   at random within the classes be ranked as well? Labels cannot explain it: pairs have the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import special

from sscjax.data.dataset import ImageSet
from sscjax.system.formatting import clean_name

# What is looked for, with what it says of a set where it is not found.
CHECKS = {
    "subjects_across_sites": "No subject belongs to two sites",
    "sites_of_one_class": "No site holds subjects of one class only",
    "sites_and_labels": "The label does not go with the site",
    "sites_in_images": "Mean colour and stain do not tell the site",
}

LEVEL = 0.01
"""Of either p: what is warned of should not be chance, and there are two to be wrong by."""

LEAST_V = 0.3
"""Weaker association of site and label is no confounder that matters, however sure."""

LEAST_AREA = 0.65
"""Likewise of an area, which is 0.5 by chance."""

_DEALS = 999  # random deals; of large sets fewer, so that they take seconds
_FEW_DEALS = 199
_LARGE = 100_000  # subjects times sites
_CELLS = 2_000_000  # held at a time
_RIDGE = 5.0  # penalty on standardised features


@dataclasses.dataclass(frozen=True)
class Association:
    """How a site goes with something, by subject.

    Attributes:
      size: Cramér's V, 0 to 1, or area under the ROC curve, 0 to 1.
      p: share of random deals that give as much.
      enough: whether so few subjects could give a p of `LEVEL` at all.
    """

    size: float
    p: float
    enough: bool

    def matters(self, least: float) -> bool:
        """Whether it is sure, and at least so large."""
        return self.enough and self.p <= LEVEL and self.size >= least


def per_subject(
    subjects: np.ndarray, sites: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of images [N] the subject [N] int, and of subjects [S] the site's index and the class.

    A subject counts for the class that most of its images have, and for its first image's site.
    """
    _, first, group = np.unique(subjects, return_index=True, return_inverse=True)
    votes = np.zeros((len(first), classes))
    np.add.at(votes, (group, labels), 1)
    return group, np.unique(sites, return_inverse=True)[1][first], votes.argmax(1)


def with_labels(site: np.ndarray, label: np.ndarray, seed: int = 0) -> Association:
    """Association of site and label.

    Args:
      site: [S] int, of each subject.
      label: [S] int, its class.
      seed: of the random deals.
    """
    sites, classes = (
        np.unique(site, return_inverse=True)[1],
        np.unique(label, return_inverse=True)[1],
    )
    shape = int(sites.max()) + 1, int(classes.max()) + 1
    if min(shape) < 2:
        return Association(0.0, 1.0, False)
    expected = np.outer(np.bincount(sites), np.bincount(classes)) / len(site)

    def chi_squared(dealt: np.ndarray) -> float:
        cells = np.bincount(sites * shape[1] + dealt, minlength=shape[0] * shape[1])
        return float(((cells.reshape(shape) - expected) ** 2 / expected).sum())

    rng = np.random.default_rng(seed)
    true = chi_squared(classes)
    as_much = sum(chi_squared(rng.permutation(classes)) >= true - 1e-9 for _ in range(_DEALS))
    count = len(site)
    phi = max(0.0, true / count - (shape[0] - 1) * (shape[1] - 1) / (count - 1))
    corrected = [side - (side - 1) ** 2 / (count - 1) for side in shape]
    size = np.sqrt(phi / max(min(corrected) - 1, 1e-9))
    enough = _deals(np.bincount(sites)) * LEVEL >= 1 and _deals(np.bincount(classes)) * LEVEL >= 1
    return Association(float(min(size, 1.0)), (as_much + 1) / (_DEALS + 1), bool(enough))


def in_images(
    features: np.ndarray, site: np.ndarray, label: np.ndarray, seed: int = 0
) -> Association:
    """How well the site can be told from image features, among subjects of one class.

    Args:
      features: [S,F] float, of each subject.
      site: [S] int.
      label: [S] int.
      seed: of the random deals.
    """
    # Classes at one site say nothing of it.
    inside = np.array([len(np.unique(site[label == one])) > 1 for one in label], bool)
    features, site, label = features[inside], site[inside], label[inside]
    if len(site) < 4 or not np.ptp(features, axis=0).any():
        return Association(0.5, 1.0, False)
    sites = np.unique(site, return_inverse=True)[1]
    classes = np.unique(label, return_inverse=True)[1]
    ranker = _Ranker(features, classes)
    number = int(sites.max()) + 1
    deals = _DEALS if len(site) * number <= _LARGE else _FEW_DEALS
    true = float(ranker.areas(sites[None], number)[0])
    rng = np.random.default_rng(seed)
    at_once = max(1, _CELLS // (len(site) * number))
    as_much = 0
    for start in range(0, deals, at_once):
        dealt = np.tile(sites, (min(at_once, deals - start), 1))
        for members in ranker.members:
            dealt[:, members] = rng.permuted(dealt[:, members], axis=1)
        as_much += int((ranker.areas(dealt, number) >= true - 1e-12).sum())
    ways = 1.0
    for members in ranker.members:
        ways *= min(_deals(np.bincount(sites[members])), 1e12)
    return Association(true, (as_much + 1) / (deals + 1), ways * LEVEL >= 1)


def _deals(counts: np.ndarray) -> float:
    """In how many ways so many of each kind can be dealt."""
    log = special.gammaln(counts.sum() + 1) - special.gammaln(counts + 1).sum()
    return float(np.exp(min(log, 500.0)))


class _Ranker:
    """Ridge regression within classes: each subject predicted by the others, for any sites."""

    def __init__(self, features: np.ndarray, classes: np.ndarray) -> None:
        """Features [S,F] of subjects in classes [S] int from 0, each of two subjects or more."""
        self.members = [np.flatnonzero(classes == k) for k in range(int(classes.max()) + 1)]
        self._classes, self._sizes = classes, np.bincount(classes)[classes].astype(float)
        centred = features.astype(np.float64)
        for members in self.members:
            centred[members] -= centred[members].mean(0)
        spread = centred.std(0)
        self._features = centred[:, spread > 0] / spread[spread > 0]
        gram = self._features.T @ self._features
        self._solve = np.linalg.inv(gram + _RIDGE * np.eye(len(gram)))
        leverage = np.einsum("sf,fg,sg->s", self._features, self._solve, self._features)
        self._leverage = np.minimum(leverage + 1 / self._sizes, 1 - 1e-9)

    def areas(self, sites: np.ndarray, number: int) -> np.ndarray:
        """Area under the ROC curve over pairs of one class and two sites: [R] for sites [R,S]."""
        truth = (sites[:, :, None] == np.arange(number)).astype(np.float64)  # [R,S,K]
        means = np.empty_like(truth)
        for members in self.members:
            means[:, members] = truth[:, members].mean(1, keepdims=True)
        weights = self._solve @ np.einsum("sf,rsk->rfk", self._features, truth, optimize=True)
        fitted = self._features @ weights
        residual = (truth - means - fitted) / (1 - self._leverage)[None, :, None]
        # Prediction by the others, without the others' mean: that is lower for the site's own.
        sizes = self._sizes[None, :, None]
        scores = truth - residual - (sizes * means - truth) / (sizes - 1)
        right, pairs = np.zeros(len(sites)), np.zeros(len(sites))
        for members in self.members:
            own, ranks = truth[:, members], _ranks(scores[:, members])
            count = own.sum(1)
            right += ((own * ranks).sum(1) - count * (count + 1) / 2).sum(1)
            pairs += (count * (len(members) - count)).sum(1)
        return right / pairs


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the middle axis of [R,S,K]."""
    order = values.argsort(axis=1)
    ranks = np.empty(values.shape)
    numbers = np.broadcast_to(np.arange(1.0, values.shape[1] + 1)[None, :, None], values.shape)
    np.put_along_axis(ranks, order, numbers, axis=1)
    return ranks


# --- what is said -------------------------------------------------------------------------------


def findings(image_set: ImageSet, features: np.ndarray) -> list[dict[str, Any]]:
    """What is to be said of the sites of a set, as findings of the audit; [] without sites.

    Args:
      image_set: N images.
      features: [N,F] float, colour and stain of each image.
    """
    if image_set.sites is None:
        return []
    classes = len(image_set.classes)
    group, site, label = per_subject(image_set.subjects, image_set.sites, image_set.labels, classes)
    counts = np.bincount(group)[:, None]
    means = np.zeros((len(counts), features.shape[1]))
    np.add.at(means, group, features)
    labels, images = with_labels(site, label), in_images(means / counts, site, label)
    names = np.unique(image_set.sites)
    table = np.zeros((len(names), classes), np.int64)
    np.add.at(table, (site, label), 1)
    found = [_shared_subjects(image_set), _one_class(image_set, names, table)]
    goes_with = labels.matters(LEAST_V)
    if goes_with:
        found.append(
            {
                "kind": "sites_and_labels",
                "severity": "warning",
                "title": f"site and label go together (Cram\u00e9r's V {labels.size:.2f}, "
                f"p {max(labels.p, 1e-3):.2g}, by subject)",
                "detail": f"{_table_text(image_set, names, table)}. A network may learn the site: "
                "test it on sites that it never saw (config.protocol=leave_one_site_out).",
                "count": len(names),
            }
        )
    if images.matters(LEAST_AREA):
        found.append(
            {
                "kind": "sites_in_images",
                "severity": "warning" if goes_with else "note",
                "title": "the site can be told from mean colour and stain "
                f"(AUROC {images.size:.2f} within classes, p {max(images.p, 1e-3):.2g})",
                "detail": f"of {len(site)} subjects, each ranked by a model of the others. Figures "
                "of sites that were in training may flatter a new site"
                + (
                    ", and the label goes with the site."
                    if goes_with
                    else "; folds that keep sites apart say what to expect there."
                ),
                "count": len(names),
            }
        )
    return [one for one in found if one is not None]


def _shared_subjects(image_set: ImageSet) -> dict[str, Any] | None:
    assert image_set.sites is not None
    pairs = np.unique(np.stack([image_set.subjects, image_set.sites]), axis=1)[0]
    names, counts = np.unique(pairs, return_counts=True)
    shared = names[counts > 1].tolist()
    if not shared:
        return None
    return {
        "kind": "subjects_across_sites",
        "severity": "warning",
        "title": f"{len(shared):,} of {len(names):,} subjects belong to two sites or more",
        "detail": "no split can keep both apart; where two patients have one number, write the "
        "site before it.",
        "count": len(shared),
        "examples": [{"a": name} for name in shared[:100]],
    }


def _one_class(image_set: ImageSet, names: np.ndarray, table: np.ndarray) -> dict[str, Any] | None:
    """Sites of several subjects, all of one class; a site of one subject can have no more."""
    single = np.flatnonzero(((table > 0).sum(1) == 1) & (table.sum(1) > 1))
    if not len(single) or len(names) < 2:
        return None
    said = [
        f"{clean_name(str(names[k]))}: {table[k].max()} {image_set.classes[table[k].argmax()]}"
        for k in single[:6]
    ]
    return {
        "kind": "sites_of_one_class",
        "severity": "warning",
        "title": f"{len(single):,} of {len(names):,} sites hold subjects of one class only",
        "detail": f"{'; '.join(said)}. There the site tells the label, and no figure can say which "
        "of the two a network learnt.",
        "count": len(single),
    }


def _table_text(image_set: ImageSet, names: np.ndarray, table: np.ndarray) -> str:
    """The subjects of each site by class, of the six largest."""
    order = np.argsort(-table.sum(1), kind="stable")[:6]
    return "; ".join(
        f"{clean_name(str(names[k]))}: "
        + ", ".join(
            f"{n} {name}" for n, name in zip(table[k].tolist(), image_set.classes, strict=True)
        )
        for k in order
    )


def unchecked(image_set: ImageSet) -> dict[str, str]:
    """The checks of sites that had nothing to look at, by kind, with the reason."""
    if image_set.sites is None or not len(image_set):
        return dict.fromkeys(CHECKS, "no image names its site")
    if len(np.unique(image_set.sites)) < 2:
        return dict.fromkeys(CHECKS, "all images are of one site")
    arrays = image_set.subjects, image_set.sites, image_set.labels
    _, site, label = per_subject(*arrays, len(image_set.classes))
    few = "too few subjects to tell more than chance"
    reasons = {}
    if _deals(np.bincount(site)) * LEVEL < 1 or _deals(np.bincount(label)) * LEVEL < 1:
        reasons["sites_and_labels"] = few
    together = [np.bincount(site[label == one]) for one in np.unique(label)]
    several = [counts for counts in together if (counts > 0).sum() > 1]
    if not several:
        reasons["sites_in_images"] = "no class is at two sites"
    elif sum(np.log(_deals(counts)) for counts in several) < -np.log(LEVEL):
        reasons["sites_in_images"] = few
    return reasons
