"""Whether a model's maps may be read: a verdict in words, from two checks that can fail.

A map is compared with occlusion, which hides parts of the image and looks into no network (Zeiler
and Fergus 2014, arXiv:1311.2901), and with the map of the same network whose classifier was drawn
at random (Adebayo et al. 2018, arXiv:1810.03292): one that stays the same without what was learnt
shows the image, not the prediction. `Maps` is what a model is explained by; it lies in the
model's folder, and all that draws maps of it asks there for method, layers and verdict.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from sscjax.errors import UserError
from sscjax.system import run_dir

Method = Literal["hires_cam", "grad_cam"]
"""How a map is made, see `inference.saliency`."""

AGREES = 0.4
"""Rank correlation with occlusion from which a map agrees. With the occlusion of another image maps
of a MobileNetV2 reach it in about one of twenty cases (240 pairs of prostate tiles)."""

ALIKE = 0.7
"""Rank correlation, of either sign, with the map of a random classifier up to which a map has
changed: half of the variance of its ranks is another's."""

SHARE = 0.75
"""Share of the images on which both must hold."""

HIDDEN = ": not shown; --maps=anyway shows them"
"""Behind the verdict where maps are left out."""

Show = Literal["checked", "anyway", "none"]
"""Which maps are shown: those that passed their check, also others, or none."""


@dataclasses.dataclass(frozen=True)
class Check:
    """Figures of the images on which a model's maps were checked; None where a map is flat.

    Attributes:
      occlusion: rank correlation (Spearman) of each map with occlusion, -1 to 1.
      random: rank correlation with the map of a random classifier, the mean size over several, 0
        to 1.

    Example:
      >>> Check((0.8, 0.6, 0.9), (0.1, 0.3, 0.2)).passed
      True
    """

    occlusion: tuple[float | None, ...]
    random: tuple[float | None, ...]

    @property
    def agree(self) -> int:
        """Images whose map agrees with occlusion."""
        return sum(value is not None and value >= AGREES for value in self.occlusion)

    @property
    def change(self) -> int:
        """Images whose map is another with a random classifier; a flat map shows nothing."""
        return sum(value is not None and value <= ALIKE for value in self.random)

    @property
    def passed(self) -> bool:
        """Whether maps may be read."""
        count = len(self.occlusion)
        return count > 0 and min(self.agree, self.change) >= SHARE * count

    @classmethod
    def join(cls, checks: Sequence[Check]) -> Check:
        """Those of several models as one."""
        return cls(
            tuple(value for check in checks for value in check.occlusion),
            tuple(value for check in checks for value in check.random),
        )


@dataclasses.dataclass(frozen=True)
class Maps:
    """The maps of a model, and what is known of them.

    Attributes:
      method: how they are made.
      layers: whose maps are added.
      check: of these maps; None: they were not checked.
    """

    method: Method
    layers: tuple[str, ...]
    check: Check | None = None

    @property
    def shown(self) -> bool:
        """Whether maps are shown without being asked for."""
        return self.check is not None and self.check.passed

    def drawn(self, show: Show) -> bool:
        """Whether a caller that was given `show` draws them."""
        return show == "anyway" or (show == "checked" and self.shown)

    @property
    def verdict(self) -> str:
        """One sentence, for all places where maps are shown or not."""
        if self.check is None or not self.check.occlusion:
            return "The maps of this model were not checked"
        count = len(self.check.occlusion)
        images = f"{count} image" + ("" if count == 1 else "s")
        agree = f"maps agree with occlusion on {self.check.agree} of {images}"
        change = f"change with a random classifier on {self.check.change}"
        if self.check.passed:
            return f"Passed: {agree} and {change}. They may be read"
        return f"Failed: {agree} and {change}; both have to be {math.ceil(SHARE * count)} or more"

    def to_json(self) -> dict[str, Any]:
        """For a file; `verdict` and `shown` are there for readers that do not know the rules."""
        check = None if self.check is None else dataclasses.asdict(self.check)
        return {
            "method": self.method,
            "layers": list(self.layers),
            "shown": self.shown,
            "verdict": self.verdict,
            "check": check,
            "rules": {"agrees_from": AGREES, "alike_above": ALIKE, "share": SHARE},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Maps:
        """What `to_json` gave.

        Raises:
          KeyError, TypeError, ValueError: it is something else.
        """
        check, method = content["check"], content["method"]
        if method not in get_args(Method):
            raise ValueError(f"method {method!r}")
        if check is not None:
            check = Check(*(tuple(map(_figure, check[name])) for name in ("occlusion", "random")))
        return cls(method, tuple(map(str, content["layers"])), check)

    @classmethod
    def of_folder(cls, content: Any, folder: Path) -> Maps:
        """What the file `run_dir.MAPS` of a run's folder holds.

        Raises:
          UserError: it is damaged.
        """
        try:
            return cls.from_json(content)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{folder / run_dir.MAPS} is damaged ({type(error).__name__}: {error}): give the "
                "run's command again to rewrite it"
            ) from error

    @classmethod
    def join(cls, several: Sequence[Maps]) -> Maps:
        """Those of several models of the same kind, checked on the images of all; one or more."""
        checks = [one.check for one in several]
        known = [check for check in checks if check is not None]
        joined = Check.join(known) if len(known) == len(checks) else None
        return dataclasses.replace(several[0], check=joined)


def _figure(value: Any) -> float | None:
    return None if value is None else float(value)
