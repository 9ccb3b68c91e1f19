"""Charts as inline SVG: lines, bands, points and bars, in colours that the page's style gives.

Colours are classes, so that one drawing serves light, dark and paper; lines differ by their dashes
as well. Every text is escaped by markupsafe.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup

from sscjax.system import formatting

# Units of the drawing: at the width of a phone about a pixel each.
WIDTH, HEIGHT = 340, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 40

# Kinds of lines that the style knows.
COLOURS = 6


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
      label: for the legend; '' leaves it out.
      x, y: points, in the chart's units; a NaN breaks the line.
      kind: number of its colour and dashes.
      low, high: a band around it over `band_x`, or nothing.
      points: whether each point is marked.
      steps: whether it stays level up to the next point.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    kind: int = 0
    band_x: Sequence[float] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    points: bool = False
    steps: bool = False


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis: its name, its ends and where it has ticks; shares are written in percent."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    percent: bool = False

    def text(self, value: float) -> str:
        """A tick's label."""
        return f"{100 * value:.0f}" if self.percent else f"{value:g}"


def share_axis(label: str, low: float = 0.0) -> Axis:
    """From `low` to 100 %."""
    ticks = tuple(tick for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0) if tick >= low - 1e-9)
    return Axis(f"{label}, %", low, 1.0, ticks, percent=True)


def nice_axis(label: str, low: float, high: float, whole: bool = False) -> Axis:
    """About five ticks at 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    ticks = tuple(round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1))
    return Axis(label, low, high, ticks)


@dataclasses.dataclass(frozen=True)
class Chart:
    """One panel with its legend."""

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    diagonal: bool = False
    level: float | None = None
    bars: tuple[tuple[float, float, float], ...] = ()
    whiskers: tuple[tuple[float, float, float], ...] = ()
    marks: tuple[tuple[float, str], ...] = ()
    best: tuple[float, float] | None = None

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Number of the kind and text of each line that has one."""
        return [(line.kind % COLOURS, line.label) for line in self.lines if line.label]

    def svg(self) -> Markup:
        """The drawing, with title and description for those who do not see it."""
        parts = [
            Markup(
                '<svg class="chart" viewBox="0 0 {} {}" role="img" '
                'aria-labelledby="{n}-t {n}-d"><title id="{n}-t">{}</title>'
                '<desc id="{n}-d">{}</desc>'
            ).format(WIDTH, HEIGHT, self.title, self.description, n=self.name)
        ]
        parts += [self._axes(), self._bars(), self._references()]
        parts += [self._band(line) for line in self.lines if len(line.band_x)]
        parts += [self._line(line) for line in self.lines]
        parts += [self._whiskers(), self._best(), Markup("</svg>")]
        return Markup("").join(parts)

    def _x(self, value: float) -> float:
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def _y(self, value: float) -> float:
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return round(HEIGHT - BOTTOM - min(max(share, 0), 1) * (HEIGHT - TOP - BOTTOM), 1)

    def _axes(self) -> Markup:
        found = []
        bottom = HEIGHT - BOTTOM
        for tick in self.y.ticks:
            y = self._y(tick)
            found.append(
                Markup(
                    '<line class="grid" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
                    '<text class="tick end" x="{}" y="{}">{}</text>'
                ).format(LEFT, WIDTH - RIGHT, LEFT - 6, y + 4, self.y.text(tick), y=y)
            )
        for tick in self.x.ticks:
            found.append(
                Markup(
                    '<line class="grid" x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
                    '<text class="tick mid" x="{x}" y="{}">{}</text>'
                ).format(TOP, bottom, bottom + 15, self.x.text(tick), x=self._x(tick))
            )
        found.append(
            Markup(
                '<path class="axis" d="M{l},{}V{b}H{}"/>'
                '<text class="name mid" x="{}" y="{}">{}</text>'
                '<text class="name mid" transform="translate(12,{}) rotate(-90)">{}</text>'
            ).format(
                TOP,
                WIDTH - RIGHT,
                (LEFT + WIDTH - RIGHT) / 2,
                HEIGHT - 6,
                self.x.label,
                (TOP + bottom) / 2,
                self.y.label,
                l=LEFT,
                b=bottom,
            )
        )
        for value, text in self.marks:
            found.append(
                Markup(
                    '<line class="mark" x1="{x}" x2="{x}" y1="{}" y2="{}"/>'
                    '<text class="tick" x="{}" y="{}">{}</text>'
                ).format(
                    TOP, bottom, self._x(value) + 3, TOP + 9, formatting.clean_name(text, 14),
                    x=self._x(value),
                )
            )  # fmt: skip
        return Markup("").join(found)

    def _references(self) -> Markup:
        found = Markup("")
        ends = self._x(self.x.low), self._x(self.x.high)
        if self.diagonal:
            found += Markup('<line class="ref" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
                ends[0], self._y(self.x.low), ends[1], self._y(self.x.high)
            )
        if self.level is not None:
            y = self._y(self.level)
            found += Markup('<line class="ref" x1="{}" y1="{y}" x2="{}" y2="{y}"/>').format(
                *ends, y=y
            )
        return found

    def _bars(self) -> Markup:
        found = [
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
                self._x(low) + 0.5,
                self._y(height),
                max(self._x(high) - self._x(low) - 1, 0.5),
                round(self._y(self.y.low) - self._y(height), 1),
            )
            for low, high, height in self.bars
        ]
        return Markup("").join(found)

    def _whiskers(self) -> Markup:
        found = [
            Markup('<line class="whisker s0" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
                self._y(low), self._y(high), x=self._x(x)
            )
            for x, low, high in self.whiskers
        ]
        return Markup("").join(found)

    def _best(self) -> Markup:
        if self.best is None:
            return Markup("")
        x, y = self._x(self.best[0]), self._y(self.best[1])
        return Markup('<circle class="best" cx="{}" cy="{}" r="5"/>').format(x, y)

    def _band(self, line: Line) -> Markup:
        rows = [
            (x, low, high)
            for x, low, high in zip(line.band_x, line.low, line.high, strict=True)
            if math.isfinite(low) and math.isfinite(high)
        ]
        if not rows:
            return Markup("")
        upper = " ".join(f"{self._x(x)},{self._y(high)}" for x, _, high in rows)
        lower = " ".join(f"{self._x(x)},{self._y(low)}" for x, low, _ in reversed(rows))
        return Markup('<polygon class="b{}" points="{} {}"/>').format(
            line.kind % COLOURS, upper, lower
        )

    def _line(self, line: Line) -> Markup:
        path, pen = [], "M"
        dots = Markup("")
        before = None
        for x, y in zip(line.x, line.y, strict=True):
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            if line.steps and pen == "L" and before is not None:
                path.append(f"V{self._y(y)}")
            path.append(f"{pen}{self._x(x)},{self._y(y)}")
            pen, before = "L", y
            if line.points:
                dots += Markup('<circle class="dot d{}" cx="{}" cy="{}" r="3.2"/>').format(
                    line.kind % COLOURS, self._x(x), self._y(y)
                )
        return (
            Markup('<path class="line s{}" d="{}"/>').format(line.kind % COLOURS, "".join(path))
            + dots
        )
