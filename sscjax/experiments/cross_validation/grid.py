"""The grid of nested cross-validation: candidates from text, and which has the best mean score."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from sscjax.errors import UserError
from sscjax.evaluation import metrics

# Fields that change the data or the metric: candidates could not be compared by them. And those
# that give outer folds other starting weights or stages: their predictions could not be aggregated.
_FIXED = (
    *("protocol", "cv.", "name", "seed", "data.", "split.", "checkpoint."),
    *("calibration.", "augment.counts_before_split", "model.outputs", "select.metric"),
    *("model.alpha", "model.name", "pretrained", "stage_order"),
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One combination of the grid: config fields by their dotted names, with their values."""

    overrides: dict[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{name}={_shown(value)}" for name, value in self.overrides.items())

    def applied(self, config: ConfigDict) -> ConfigDict:
        """A copy of the config with this candidate's values."""
        changed = config.copy_and_resolve_references()
        for name, value in self.overrides.items():
            block, field = _block(changed, name)
            block[field] = value
        return changed


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def candidates(config: ConfigDict) -> list[Candidate]:
    """Every combination of `config.cv.search`, the last entry changing quickest.

    Raises:
      UserError: an entry is no FIELD=VALUE,..., the config has no such field, the value is of
        another type, or the field is not one to choose by validation.
    """
    if config.select.metric == "none":
        raise UserError(
            "config.protocol='nested' chooses by config.select.metric, which is 'none': set it to "
            f"one of {', '.join(metrics.VALIDATION_METRICS)}"
        )
    if config.select.metric == metrics.MASK_METRIC:
        raise UserError(
            "config.protocol='nested' cannot choose by config.select.metric="
            f"'{metrics.MASK_METRIC}': set it to one of {', '.join(metrics.VALIDATION_METRICS)}"
        )
    axes = [_axis(config, entry) for entry in config.cv.search]
    names = [name for name, _ in axes]
    if not axes or len(set(names)) < len(names):
        raise UserError(
            f"config.cv.search={tuple(config.cv.search)}: expected one or more entries "
            "'FIELD=VALUE,VALUE,...', each of another field"
        )
    return [
        Candidate(dict(zip(names, values, strict=True)))
        for values in itertools.product(*(values for _, values in axes))
    ]


def _axis(config: ConfigDict, entry: str) -> tuple[str, list[Any]]:
    """The field of one entry and its values."""
    name, sign, text = (part.strip() for part in str(entry).partition("="))
    name = name.removeprefix("config.")
    if not sign or not name or not text:
        raise UserError(f"config.cv.search: found {entry!r}, expected 'FIELD=VALUE,VALUE,...'")
    if any(name == fixed or (fixed[-1] == "." and name.startswith(fixed)) for fixed in _FIXED):
        raise UserError(
            f"config.cv.search: {name} changes the data or the metric, so it cannot be "
            "chosen by validation; search another field"
        )
    block, field = _block(config, name)
    values = [_value(name, block[field], part) for part in _parts(text)]
    if any(values.count(value) > 1 for value in values):
        raise UserError(f"config.cv.search: {entry!r} names a value twice")
    return name, values


def _block(config: ConfigDict, name: str) -> tuple[ConfigDict, str]:
    """The block that holds a field, and the field's own name."""
    *blocks, field = name.split(".")
    inner: Any = config
    for block in blocks:
        inner = inner.get(block) if isinstance(inner, ConfigDict) else None
    if not isinstance(inner, ConfigDict) or field not in inner:
        raise UserError(f"config.cv.search: the config has no field {name}; correct its name")
    if isinstance(inner[field], ConfigDict):
        raise UserError(f"config.cv.search: {name} is a block; name one of its fields")
    return inner, field


def _parts(text: str) -> list[str]:
    """Cut at the commas outside brackets: a value may be a tuple."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def _value(name: str, now: Any, text: str) -> Any:
    """The text as a value of the type that the field has now."""
    try:
        if isinstance(now, str):
            return text
        if isinstance(now, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(now, tuple):
            return tuple(ast.literal_eval(text))
        return type(now)(text)
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        raise UserError(
            f"config.cv.search: {name} is {now!r}, so {text!r} is no value for it; give a "
            f"value of type {type(now).__name__}"
        ) from error


def mean_score(scores: Sequence[float | None]) -> float | None:
    """The mean over the inner folds; None where the training of one of them diverged."""
    defined = [score for score in scores if score is not None]
    return math.fsum(defined) / len(scores) if len(defined) == len(scores) else None


def best(metric: str, scores: Sequence[Sequence[float | None]]) -> int:
    """The candidate with the best mean score; of equals the first.

    Args:
      metric: a key of `metrics.HIGHER_IS_BETTER`.
      scores: of each candidate in each inner fold, None where the training diverged.

    Raises:
      UserError: every candidate diverged somewhere.
    """
    sign = 1 if metrics.HIGHER_IS_BETTER[metric] else -1
    means = [mean_score(of_one) for of_one in scores]
    converged = [index for index, mean in enumerate(means) if mean is not None]
    if not converged:
        raise UserError(
            "the training of every candidate of config.cv.search diverged: search lower learning "
            "rates"
        )
    return max(converged, key=lambda index: sign * (means[index] or 0.0))
