"""The rules by which decisions are made of probabilities: for images, and for subjects.

A patient's row is an aggregate of several images. It is less extreme than the images' own rows are,
and right more often, so that a temperature or threshold chosen on images does not fit it. Each unit
has its own, chosen on held-out rows of that unit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from sscjax.evaluation.conformal import Sets
from sscjax.evaluation.predictions import AGGREGATIONS, Aggregation

Unit = Literal["subject", "image"]

# In the order in which they are shown: the patient first.
UNITS: tuple[Unit, ...] = ("subject", "image")


@dataclasses.dataclass(frozen=True)
class UnitRules:
    """What is made of the rows of one unit.

    Attributes:
      temperature: their logits are divided by it; above 0.
      threshold: a probability of disease from here on is called positive; disease is every class
        but the first.
      threshold_rule: how the threshold was chosen, for people.
      confidence_threshold: 0 to 1; below it the classifier abstains; None: none could be chosen.
      abstention_rule: how that was chosen, for people.
      sets: the classes that cannot be excluded.
    """

    temperature: float
    threshold: float
    threshold_rule: str
    confidence_threshold: float | None
    abstention_rule: str
    sets: Sets

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> UnitRules:
        """Read what `to_json` gives.

        Raises:
          KeyError, TypeError, ValueError: it is something else.
        """
        confidence, sets = content["confidence_threshold"], content["prediction_set"]
        temperature = float(content["temperature"])
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature}")
        return cls(
            temperature=temperature,
            threshold=float(content["threshold"]),
            threshold_rule=str(content["threshold_rule"]),
            confidence_threshold=None if confidence is None else float(confidence),
            abstention_rule=str(content["abstention_rule"]),
            sets=Sets(
                level=float(sets["level"]),
                limits=tuple(None if end is None else float(end) for end in sets["limits"]),
                by_class=bool(sets["by_class"]),
                subjects=int(sets["subjects"]),
                cross=bool(sets["cross"]),
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """All fields, and the rule of the prediction set in words."""
        content = dataclasses.asdict(self)
        sets = content.pop("sets")
        return {
            **content,
            "prediction_set": {**sets, "limits": list(sets["limits"]), "rule": self.sets.rule},
        }


@dataclasses.dataclass(frozen=True)
class Rules:
    """What is made of a network's probabilities.

    Attributes:
      subject: for the aggregate of a subject's images, each calibrated by the image's temperature.
      image: for a single image.
      aggregation: how a subject's images become one row, see `predictions.AGGREGATIONS`.
      positive, negative: names of the two results of the thresholds of disease.
    """

    subject: UnitRules
    image: UnitRules
    aggregation: Aggregation
    positive: str
    negative: str

    def of(self, unit: Unit) -> UnitRules:
        """The rules of a unit."""
        return self.subject if unit == "subject" else self.image

    @classmethod
    def from_json(cls, content: Mapping[str, Any], classes: int) -> Rules:
        """Read what `to_json` gives, of so many classes; errors as of `UnitRules.from_json`."""
        if content["aggregation"] not in AGGREGATIONS:
            raise ValueError(f"aggregation is {content['aggregation']!r}")
        rules = cls(
            subject=UnitRules.from_json(content["subject"]),
            image=UnitRules.from_json(content["image"]),
            aggregation=content["aggregation"],
            positive=str(content["positive"]),
            negative=str(content["negative"]),
        )
        for unit in UNITS:
            limits = rules.of(unit).sets.limits
            if len(limits) != classes:
                raise ValueError(f"prediction sets have {len(limits)} limits, not {classes}")
        return rules

    def to_json(self) -> dict[str, Any]:
        """Ready for JSON, the subject first."""
        return {
            "aggregation": self.aggregation,
            "positive": self.positive,
            "negative": self.negative,
            "subject": self.subject.to_json(),
            "image": self.image.to_json(),
        }
