"""Draw docs/layers.svg from the table of layers in tests/test_layers.py.

    python scripts/draw_layers.py

A test compares the picture with the table.
"""

from __future__ import annotations

import sys
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from test_layers import LAYERS, OWNERS, PACKAGE, unit_of  # noqa: E402

# What a layer is for, by one of its modules.
NOTES = {
    "samplesize": "planning the next study; a backbone of our own",
    "main": "the command-line programs",
    "predict": "a finished run asked",
    "ensemble": "all runs of a protocol as one",
    "protocol": "folds: many runs, pooled; slides",
    "train": "the recipe: run folder, stages, resume, results",
    "summary": "what a run is; its end: files, pictures, text",
    "stage": "one stage: epochs, best, checkpoints",
    "stage_inputs": "what a stage is fed; how far a run can be trusted",
    "build": "table of predictions; config to network",
    "features": "frozen prefix; intervals; images at a time",
    "steps": "jitted train and predict; config to images",
    "optim": "weights, what trains, saving; pictures and text",
    "metrics": "figures; networks; images",
    "rows": "arrays read row by row",
    "errors": "what everything may use",
}
HIDDEN = ("tensorflow", "keras")  # nobody may
WIDTH, LEFT, RIGHT, LIBRARIES = 960, 88, 700, 726
LINE, BOX, GAP = 42, 34, 8

STYLE = """
    text { font: 14px system-ui, sans-serif; fill: #1f2933; }
    .name { font: 600 14px ui-monospace, monospace; text-anchor: middle; }
    .note { fill: #52606d; font-size: 13px; }
    .head { font-weight: 600; }
    .band { fill: #f0f4f8; }
    .box { fill: #ffffff; stroke: #486581; }
    .package { fill: #d9e8f5; stroke: #243b53; }
    .arrow { stroke: #486581; stroke-width: 2; fill: none; }
"""


def place(names: list[str]) -> list[list[tuple[str, int, int]]]:
    """Rows of boxes: name, left edge and width of each."""
    rows: list[list[tuple[str, int, int]]] = [[]]
    x = LEFT
    for name in names:
        width = max(80, 9 * len(name) + 24)
        if x + width > RIGHT and rows[-1]:
            rows.append([])
            x = LEFT
        rows[-1].append((name, x, width))
        x += width + 12
    return rows


def libraries(layer: tuple[str, ...]) -> list[str]:
    """Lines of the libraries that only this layer's modules, or some of its kind, import."""
    names = [
        library
        for library, owners in OWNERS.items()
        if library not in HIDDEN and any(unit_of(owner) in layer for owner in owners)
    ]
    return textwrap.wrap(", ".join(names), 32)


def band(layer: tuple[str, ...], top: int) -> tuple[list[str], int]:
    """The elements of a layer, and its height."""
    rows, beside = place(list(layer)), libraries(layer)
    note = next((text for name, text in NOTES.items() if name in layer), "")
    end = rows[-1][-1][1] + rows[-1][-1][2] + 16
    below = end + 6.5 * len(note) > RIGHT
    height = max(LINE * len(rows) + (20 if below and note else 2), 17 * len(beside) + 16)
    found = [f'<rect class="band" x="64" y="{top}" width="880" height="{height}" rx="6"/>']
    for index, row in enumerate(rows):
        y = top + 5 + LINE * index
        for name, x, width in row:
            kind = "box package" if PACKAGE.joinpath(*name.split(".")).is_dir() else "box"
            found.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{BOX}" rx="4"/>'
                f'<text class="name" x="{x + width // 2}" y="{y + 22}">{name}</text>'
            )
    last = top + 5 + LINE * (len(rows) - 1) + 22
    x, y = (LEFT, last + 30) if below else (end, last)
    found.append(f'<text class="note" x="{x}" y="{y}">{escape(note)}</text>')
    for index, line in enumerate(beside):
        found.append(
            f'<text class="note" x="{LIBRARIES}" y="{top + 22 + 17 * index}">{escape(line)}</text>'
        )
    return found, height


def main() -> None:
    elements, top = [], 56
    for layer in reversed(LAYERS):
        found, height = band(layer, top)
        elements += found
        top += height + GAP
    middle = (56 + top) // 2
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 8}" width="{WIDTH}" '
        f'height="{top + 8}" role="img" aria-labelledby="title desc">',
        '<title id="title">The layers of sscjax</title>',
        f'<desc id="desc">{len(LAYERS)} layers of modules, highest first; a module imports only '
        "from layers below its own. On the right the libraries that only the modules of a layer "
        "may use.</desc>",
        f"<style>{STYLE}  </style>",
        f'<rect width="{WIDTH}" height="{top + 8}" fill="#ffffff"/>',
        f'<text class="head" x="{LEFT}" y="32">sscjax: a module imports only from the bands below '
        "its own</text>",
        f'<text class="head" x="{LIBRARIES}" y="32">other libraries</text>',
        f'<path class="arrow" d="M36 64 V{top - 16} m-7 -10 l7 10 l7 -10"/>',
        f'<text class="note" transform="translate(24 {middle}) rotate(-90)" text-anchor="middle">'
        "imports point down</text>",
    ]
    text = "\n  ".join(head + elements) + "\n</svg>\n"
    (ROOT / "docs" / "layers.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
