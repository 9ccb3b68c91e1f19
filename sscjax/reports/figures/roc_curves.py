"""ROC and precision-recall curves of one class against the others."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscjax.evaluation import curves
from sscjax.reports.figures.canvas import GREY, SERIES, legend, panels, percent_axis
from sscjax.system import formatting


def roc(curve: curves.Curve, interval: Sequence[float] | None = None) -> Figure:
    """True positive rate over false positive rate, with the curve's band where it has one.

    Args:
      curve: the first of `curves.curves`.
      interval: 95 % confidence interval of AUROC, or None.
    """
    figure, [axes] = panels(1, legend_lines=1)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1.2, label="guessing")
    _draw(axes, curve, area_label("AUROC", curve.area, interval))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    legend(figure, axes, columns=2)
    return figure


def precision_recall(curve: curves.Curve) -> Figure:
    """Precision over recall, with the curve's band where it has one.

    Args:
      curve: the precision-recall curve, the second that `curves.curves` returns.
    """
    figure, [axes] = panels(1, legend_lines=1)
    axes.axhline(curve.chance, color=GREY, linestyle=":", linewidth=1.2, label="guessing")
    _draw(axes, curve, area_label("average precision", curve.area, curve.interval), "steps-pre")
    axes.set(xlabel="recall", ylabel="precision")
    legend(figure, axes, columns=2)
    return figure


def area_label(name: str, area: float, interval: Sequence[float] | None) -> str:
    """The area under a curve, with its 95 % confidence interval where there is one."""
    shown = f" ({formatting.span('', interval)})" if interval else ""
    return f"{name} {formatting.number(area)}{shown}"


def _draw(axes: Axes, curve: curves.Curve, label: str, drawstyle: str = "default") -> None:
    axes.plot(curve.x, curve.y, label=label, linewidth=1.8, drawstyle=drawstyle, **SERIES[0])
    if curve.band is not None:
        axes.fill_between(
            *(curves.GRID, curve.band.low, curve.band.high),
            color=SERIES[0]["color"],
            alpha=0.18,
            linewidth=0,
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(0, 1.02), aspect="auto")
    percent_axis(axes.xaxis)
    percent_axis(axes.yaxis)
