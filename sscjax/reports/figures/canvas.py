"""What all figures share: colours, panels, and the two formats, PNG files and SVG within a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import PercentFormatter

from sscjax.system.files import write_bytes

# Pixels per inch of PNG files.
DPI = 100

# Width and height in inches of a panel with a line of legend below it. A page shows one panel at
# about the width of a phone, where its letters of 10 points are as large as the page's small text.
PANEL = (5.0, 4.6)

# Okabe and Ito's colours, distinguishable with any kind of colour vision; the dashes differ too.
SERIES: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "linestyle": "-"},
    {"color": "#d55e00", "linestyle": "--"},
    {"color": "#009e73", "linestyle": ":"},
    {"color": "#cc79a7", "linestyle": "-."},
    {"color": "#e69f00", "linestyle": (0, (8, 3))},
    {"color": "#56b4e9", "linestyle": (0, (3, 1, 1, 1, 1, 1))},
)
TRAIN_STYLE, VAL_STYLE = SERIES[:2]
BEST_COLOUR = "#009e73"
GREY = "#555555"
GRID = "#dddddd"

# In a page the colours are variables of its style, which has values for light, dark and paper.
_CSS = {
    "#000000": "var(--ink)",
    GREY: "var(--soft)",
    GRID: "var(--line)",
    **{style["color"]: f"var(--c{number})" for number, style in enumerate(SERIES)},
}

# Longer names are cut in figures.
NAME_WIDTH = 18


def new_figure(
    height: float, layout: Literal["constrained", "compressed"] | None, width: float = 10
) -> Figure:
    """A white figure, in inches; 'compressed' is for panels of fixed proportions."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    return figure


def require(count: int) -> None:
    """Raise a ValueError for a figure of nothing."""
    if count < 1:
        raise ValueError("a figure needs one panel or more")


def panels(count: int, legend_lines: int | None = None) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels side by side, with light grids and no frames.

    Args:
      count: how many, at least one.
      legend_lines: of the legend below them, for panels with fixed margins, which are drawn in
        half the time and align within a page; None: margins by what stands in them.
    """
    require(count)
    layout: Literal["constrained"] | None = "constrained" if legend_lines is None else None
    figure = new_figure(PANEL[1], layout, width=PANEL[0] * count)
    row = list(figure.subplots(1, count, squeeze=False)[0])
    if legend_lines is not None:
        width, height = figure.get_size_inches()
        figure.subplots_adjust(
            left=0.82 / width,
            right=1 - 0.3 / width,
            top=1 - 0.2 / height,
            bottom=(0.65 + 0.22 * legend_lines) / height,
        )
    for axes in row:
        axes.set_facecolor("none")
        axes.set_axisbelow(True)
        axes.grid(color=GRID, linewidth=0.6)
        axes.tick_params(length=0, pad=5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
    return figure, row


def percent_axis(axis: Any) -> None:
    """Write the ticks of a share 0..1 in percent."""
    axis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))


def legend(figure: Figure, axes: Axes, columns: int) -> None:
    """The legend of `axes` below the panels, where it covers no line; names are taken literally."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        shown = figure.legend(
            *(handles, labels),
            loc="lower center" if figure.get_layout_engine() is None else "outside lower center",
            ncols=columns,
            frameon=False,
            handlelength=3,
            fontsize=9,
        )
        for text in shown.get_texts():
            text.set_parse_math(False)


def short(name: str) -> str:
    """A name without control characters, cut to `NAME_WIDTH` letters."""
    name = "".join(letter if letter.isprintable() else "?" for letter in name)
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 1] + "…"


@contextmanager
def _any_script() -> Iterator[None]:
    """A name in a script the font lacks becomes boxes; that is no reason to stop a run."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


# ---- PNG ----------------------------------------------------------------------------------------


def write_png(path: Path | str, figure: Figure) -> None:
    """Render and write atomically; without the version stamp the same figure is the same file."""
    buffer = io.BytesIO()
    with _any_script():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


# ---- SVG ----------------------------------------------------------------------------------------

_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"#([\w-]+)")


def svg(figure: Figure, name: str, title: str, description: str) -> str:
    """A figure as an element `svg` for an HTML page; the same figure gives the same bytes.

    Texts stay texts, in the page's font; colours are the page's variables, and the background is
    the page's.

    Args:
      figure: the figure; its text must not contain control characters.
      name: unique within the page, letters, digits and hyphens: all ids begin with it.
      title: its name for screen readers.
      description: what it shows, for screen readers.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), _any_script():
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    drawn = ElementTree.fromstring(buffer.getvalue())
    used = {
        target
        for element in drawn.iter()
        for key, value in element.attrib.items()
        if "url(" in value or key.endswith("href")
        for target in _REFERENCE.findall(value)
    }
    ids = {target: f"{name}-{number}" for number, target in enumerate(sorted(used), 1)}
    root = ElementTree.Element(
        "svg",
        {
            "class": "chart",
            "viewBox": drawn.attrib["viewBox"],
            "role": "img",
            "aria-labelledby": f"{name}-t {name}-d",
        },
    )
    for tag, text in (("title", title), ("desc", description)):
        ElementTree.SubElement(root, tag, {"id": f"{name}-{tag[0]}"}).text = text
    root.extend(part for child in drawn for part in _slim(child, ids))
    return ElementTree.tostring(root, encoding="unicode")


def _slim(element: ElementTree.Element, ids: dict[str, str]) -> Iterator[ElementTree.Element]:
    """An element for HTML without what no one needs; a group that says nothing is its content."""
    tag = element.tag.rpartition("}")[2]
    # A style within the drawing would hold for the whole page, and metadata for no one.
    if tag in ("style", "metadata"):
        return
    # Backgrounds without a colour.
    if tag == "path" and _style(element.get("style", "")) == "fill:none":
        return
    attributes = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id":
            if value in ids:
                attributes["id"] = ids[value]
        elif key == "style":
            attributes["style"] = _style(value)
        elif "url(" in value or key == "href":
            attributes[key] = _REFERENCE.sub(lambda match: f"#{ids[match[1]]}", value)
        elif key == "d":
            # Long curves take most of the page: a tenth of a point is not to be seen.
            attributes[key] = _NUMBER.sub(lambda match: _rounded(match, 1), " ".join(value.split()))
        elif not value.startswith("rotate(-0 "):
            attributes[key] = _NUMBER.sub(_rounded, " ".join(value.split()))
    children = [part for child in element for part in _slim(child, ids)]
    if tag in ("g", "defs") and not attributes and (tag == "g" or not children):
        yield from children
        return
    kept = ElementTree.Element(tag, {key: value for key, value in attributes.items() if value})
    if tag == "text":
        kept.text = element.text
    kept.extend(children)
    yield kept


def _style(value: str) -> str:
    """Declarations with the page's colours, and the size alone of the font."""
    declarations = []
    for declaration in value.split(";"):
        key, _, content = (part.strip() for part in declaration.partition(":"))
        # The family is the page's. Matplotlib writes either all of the font or each part.
        if key == "font":
            key, content = "font-size", next(part for part in content.split() if "px" in part)
        if key and key != "font-family":
            content = _CSS.get(content, content)
            declarations.append(f"{key}:{_NUMBER.sub(_rounded, content)}")
    return ";".join(declarations)


def _rounded(match: re.Match[str], decimals: int = 2) -> str:
    return f"{float(match[0]):.{decimals}f}".rstrip("0").rstrip(".")
