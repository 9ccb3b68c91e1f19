"""Labels that out-of-fold predictions contradict: images and subjects to look at again.

Confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research
70: 1373-1411): a model that never saw an example predicts another class than its label, with more
confidence than it has on average for examples that carry that class. The threshold of a class is
this average, so that a class of which the model is never sure is not blamed on the labels.

Images of one subject share what makes the subject hard. Taken one by one, all images of a hard
patient would be listed as errors. So there are two lists that answer two questions:

- Subjects: is the label of the patient wrong? One row per subject, its evidence the mean over its
  images of the log probabilities.
- Images: is this image labelled otherwise than it should be, when its patient's label is right? How
  strongly an image's label is contradicted is compared with the OTHER images of its subject. An
  image that is contradicted no more than the others is not listed: its subject may be.

A list is a list of what to look at, never of what to change: a rare appearance of a disease looks
like an error, too.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sscjax.evaluation.predictions import Predictions

# Probabilities below this count as this: one image must not decide for its subject.
_LEAST = 1e-3

# Standard deviations within subjects by which an image must be contradicted more than the others
# of its subject. With 1.0 half of the additional images are false alarms (docs/results.md).
_DEVIATIONS = 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Suspects:
    """Rows ranked by how strongly predictions contradict their label, the strongest first.

    Attributes:
      names: [K] str, the file or the subject.
      subjects: [K] str.
      labels: [K] int, the class in the table.
      suggested: [K] int, the class that the predictions speak for most among the others.
      self_confidence: [K] float, 0 to 1, probability of the label (of a subject the mean).
      suggested_confidence: [K] float, 0 to 1, that of the suggested class.
      scores: [K] float, the ranking, higher is more suspect. Of subjects the mean log ratio of the
        suggested class to the label, each divided by its class's threshold; of images how far that
        exceeds the mean of the subject's other images, in standard deviations within subjects.
      listed: [K] bool, another class is predicted, each probability divided by its threshold; of
        images also more clearly than for the others of their subject.
      confident: [K] bool, counted as another class by confident learning, whose threshold the
        other class reaches.
      thresholds: [C] float, mean self-confidence of each class; NaN for a class without rows.
      classes: C names.
    """

    names: np.ndarray
    subjects: np.ndarray
    labels: np.ndarray
    suggested: np.ndarray
    self_confidence: np.ndarray
    suggested_confidence: np.ndarray
    scores: np.ndarray
    listed: np.ndarray
    confident: np.ndarray
    thresholds: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: np.ndarray) -> Suspects:
        """The rows that `rows` names by number or by a mask, in that order."""
        columns = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name not in ("thresholds", "classes")
        }
        return dataclasses.replace(self, **columns)

    def __repr__(self) -> str:
        return f"Suspects({int(self.listed.sum())} listed of {len(self)})"


def suspects(predictions: Predictions) -> tuple[Suspects, Suspects]:
    """Every image and every subject, ranked by how strongly predictions contradict its label.

    Args:
      predictions: test rows of a cross-validation, each by a model that saw no image of its
        subject; an image may stand there once per repeat: its mean log probability counts.

    Returns:
      images, and subjects.

    Example:
      >>> import numpy as np
      >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]])
      >>> table = Predictions(
      ...     files=np.array(list("abcdef")), subjects=np.array(["s", "s", "t", "t", "u", "u"]),
      ...     splits=np.full(6, "test"), labels=np.array([0, 0, 1, 1, 0, 0]), probabilities=p,
      ...     classes=("normal", "ssc"))
      >>> images, subjects = suspects(table)
      >>> str(subjects.names[0]), subjects.classes[subjects.suggested[0]], subjects
      ('u', 'ssc', Suspects(1 listed of 3))
    """
    once = _once(predictions)
    return _images(once), _subjects(once)


def _once(predictions: Predictions) -> Predictions:
    """One row per image: of several repeats the geometric mean of the probabilities."""
    names, first, group = np.unique(predictions.files, return_index=True, return_inverse=True)
    if len(names) == len(predictions):
        return predictions
    logs = _means(np.log(np.maximum(predictions.probabilities, _LEAST)), group)
    probabilities = np.exp(logs)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return dataclasses.replace(predictions.take(first), probabilities=probabilities)


def _means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """[G,C] means of the rows of each group."""
    sums = np.zeros((int(group.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return sums / np.bincount(group, minlength=len(sums))[:, None]


def thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean self-confidence of the rows of each class: [C] float64, NaN without rows.

    Args:
      probabilities: [N,C] float, rows sum to 1.
      labels: [N] int, 0 to C-1.
    """
    own = probabilities[np.arange(len(labels)), labels]
    count = np.bincount(labels, minlength=probabilities.shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.bincount(labels, own, minlength=probabilities.shape[1]) / count


def confident_class(probabilities: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The class that each row counts as in the confident joint: [N] int, -1 for none.

    Of the classes whose threshold a row reaches it is the most probable one (Northcutt et al. 2021,
    equation 1).

    Args:
      probabilities: [N,C] float.
      limits: [C] float, as `thresholds` gives them.
    """
    # A probability that equals its threshold but for rounding reaches it.
    reached = np.where(probabilities >= limits[None] - 1e-12, probabilities, -1.0)
    return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)


def _margins(
    probabilities: np.ndarray, labels: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far the best other class exceeds the label, [N] log ratio, and that class, [N] int."""
    rows = np.arange(len(labels))
    with np.errstate(invalid="ignore"):
        logs = np.log(np.maximum(probabilities, _LEAST) / np.maximum(limits[None], _LEAST))
    logs = np.where(np.isnan(limits[None]), -np.inf, logs)
    others = logs.copy()
    others[rows, labels] = -np.inf
    best = others.argmax(axis=1)
    # Where only one class has rows there is no other to compare with: nothing is contradicted.
    compared = np.isfinite(others[rows, best])
    return np.where(compared, others[rows, best] - logs[rows, labels], 0.0), best


def _subjects(images: Predictions) -> Suspects:
    """One row per subject; probabilities are geometric means, so that all images have a say."""
    table = images.by_subject()
    row_of = {name: row for row, name in enumerate(table.subjects.tolist())}
    group = np.array([row_of[name] for name in images.subjects.tolist()], dtype=np.int64)
    means = np.exp(_means(np.log(np.maximum(images.probabilities, _LEAST)), group))
    means /= means.sum(axis=1, keepdims=True)
    limits = thresholds(means, table.labels)
    scores, best = _margins(means, table.labels, limits)
    return _ranked(table, means, best, scores, scores > 0, limits)


def _images(images: Predictions) -> Suspects:
    """One row per image, compared with the other images of its subject."""
    labels, probabilities = images.labels, images.probabilities
    limits = thresholds(probabilities, labels)
    margins, best = _margins(probabilities, labels, limits)
    deviations = _deviations(margins, images.subjects)
    listed = (margins > 0) & (deviations > _DEVIATIONS)
    return _ranked(images, probabilities, best, deviations, listed, limits)


def _deviations(margins: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """How far each margin exceeds those of the subject's other images, in standard deviations.

    The mean of the others is drawn towards the mean over all images, the more the fewer they are:
    the best linear prediction with a random intercept for each subject. An image that is alone is
    so compared with all images.
    """
    if not len(margins):
        return np.zeros(0)
    _, group = np.unique(subjects, return_inverse=True)
    sizes = np.bincount(group)
    centred = margins - margins.mean()
    means = np.bincount(group, centred) / sizes
    within, between = _variances(centred, group, sizes, means)
    others = sizes[group] - 1
    sums = np.bincount(group, centred)[group] - centred
    # others / (others + within / between) of the mean of the others.
    predicted = sums / (others + within / between) if between > 0 else np.zeros(len(margins))
    return (centred - predicted) / np.sqrt(within) if within > 0 else np.zeros(len(margins))


def _variances(
    values: np.ndarray, group: np.ndarray, sizes: np.ndarray, means: np.ndarray
) -> tuple[float, float]:
    """Variance within groups and between them, by the moments of a one-way analysis of variance."""
    number, total = len(sizes), len(values)
    if total == number:
        return float(values.var()), 0.0
    within = float(((values - means[group]) ** 2).sum() / (total - number))
    if number < 2:
        return within, 0.0
    between = float((sizes * (means - values.mean()) ** 2).sum() / (number - 1))
    typical = (total - (sizes**2).sum() / total) / (number - 1)
    return within, max(0.0, (between - within) / typical)


def _ranked(
    table: Predictions,
    probabilities: np.ndarray,
    suggested: np.ndarray,
    scores: np.ndarray,
    listed: np.ndarray,
    limits: np.ndarray,
) -> Suspects:
    rows = np.arange(len(table))
    counted = confident_class(probabilities, limits)
    # Listed ones first; equal scores by name, so that the same table gives the same list.
    order = np.lexsort((table.files, -scores, ~listed))
    return Suspects(
        table.files,
        table.subjects,
        table.labels,
        suggested,
        probabilities[rows, table.labels],
        probabilities[rows, suggested],
        scores,
        listed,
        (counted >= 0) & (counted != table.labels),
        limits,
        table.classes,
    ).take(order)
