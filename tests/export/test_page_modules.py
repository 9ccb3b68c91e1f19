"""The exported page's modules in Chromium: images as Pillow reads them, the rules of `predict`.

Needs Chromium, but not onnxruntime-web.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Served
from hand_rules import rules, unit_rules
from PIL import Image, ImageCms

from sscjax.data import image_io, inputs
from sscjax.evaluation.conformal import Sets
from sscjax.evaluation.rules import Rules
from sscjax.inference import decisions
from sscjax.inference.outputs import Outputs
from sscjax.reports import overlays, weaknesses

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_compiler")]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


SITE = Path(__file__).resolve().parents[2] / "sscjax" / "export" / "site"


SIZE = 32


@pytest.fixture(scope="module")
def modules(browser: Any) -> Iterator[Any]:
    """A page in which the site's modules can be imported, without a network behind it."""
    served = Served(SITE)
    page = browser.new_page()
    page.goto(f"{served.url}style.css")
    yield page
    page.close()
    served.close()


def letters(content: bytes) -> str:
    """Bytes in base64: the quickest way to pass them to a page."""
    return base64.b64encode(content).decode("ascii")


SQUARE = """async ([content, width, height, size]) => {
  const { square } = await import("./resample.js");
  const pixels = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const read = (top, rows, left, columns) => {
    const part = new Uint8ClampedArray(rows * columns * 4);
    for (let y = 0; y < rows; y++)
      for (let x = 0; x < columns; x++)
        for (let c = 0; c < 3; c++)
          part[4 * (y * columns + x) + c] = pixels[3 * ((top + y) * width + left + x) + c];
    return part;
  };
  return Array.from(square(read, width, height, size));
}"""


@pytest.mark.parametrize(
    "width, height, size",
    [
        *((64, 64, 32), (97, 41, 32), (40, 301, 24), (300, 700, 32)),
        *((20, 23, 32), (20, 33, 32), (32, 32, 32), (33, 32, 32)),
    ],
)
def test_reduces_as_pillow_to_the_bit(modules: Any, width: int, height: int, size: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    # Edges from black to white, where Lanczos overshoots and has to be clipped.
    pixels[height // 2 :, : width // 2] = 0
    pixels[height // 2 :, width // 2 :] = 255
    found = modules.evaluate(SQUARE, [letters(pixels.tobytes()), width, height, size])
    expected = image_io.resize_pixels(pixels, size)
    np.testing.assert_array_equal(np.array(found, np.uint8).reshape(size, size, 3), expected)


def photos(folder: Path) -> dict[str, Path]:
    """Files of every kind that browsers read."""
    rng = np.random.default_rng(5)
    rough = Image.fromarray(rng.integers(0, 256, (9, 13, 3)).astype(np.uint8))
    smooth = rough.resize((390, 270), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = smooth.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (270, 195))))
    half = smooth.convert("RGBA")
    half.putalpha(100)
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "photo.jpg": (smooth, {"quality": 90}),
        "turned.jpg": (smooth, {"exif": turned}),
        "grey.jpg": (smooth.convert("L"), {}),
        "plain.png": (smooth, {}),
        "palette.png": (smooth.convert("P"), {}),
        "clear.png": (clear, {}),
        "deep.png": (Image.fromarray(np.asarray(smooth)[..., 0].astype(np.uint16) << 8), {}),
        "plain.bmp": (smooth, {}),
        "profile.jpg": (smooth, {"quality": 90, "icc_profile": far_profile()}),
        "half.png": (half, {}),
        "ink.jpg": (smooth.convert("CMYK"), {"quality": 95}),
        "large.jpg": (smooth.resize((2600, 1800), Image.Resampling.BICUBIC), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(folder / name, **options)
    # As phones write them: previews and depth maps before the image itself.
    content = (folder / "photo.jpg").read_bytes()
    segment = b"\xff\xe1" + (65_535).to_bytes(2, "big") + bytes(65_533)
    (folder / "previews.jpg").write_bytes(content[:2] + 24 * segment + content[2:])
    return {name: folder / name for name in [*kinds, "previews.jpg"]}


def far_profile() -> bytes:
    """A colour profile that changes every colour, where it is used: red and blue exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # Each tag: signature, offset, size (ICC.1, 7.3).
    count = int.from_bytes(profile[128:132], "big")
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    one, other = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[one : one + 4], profile[other : other + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


READ = """async ([content, size]) => {
  const { read } = await import("./photo.js");
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  return Array.from(await read(new Blob([bytes]), size));
}"""


def test_photos_are_prepared_as_for_training(modules: Any, tmp_path: Path) -> None:
    for name, path in photos(tmp_path).items():
        found = modules.evaluate(READ, [letters(path.read_bytes()), SIZE])
        expected = image_io.read_image(path, SIZE).astype(int)
        difference = np.abs(np.array(found).reshape(SIZE, SIZE, 3) - expected)
        assert difference.max() <= 1, name


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", "the file is empty"),
        (b"words, and no image at all", "not a jpg, png or bmp by its content"),
        (b"\xff\xd8\xff" + bytes(40), "header is truncated or damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\0\0\5\0\0\0\5" + bytes(9), "5x5 pixels, expected"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\1\0\0\0\1\0\0" + bytes(9), "cut it into tiles"),
        (b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\0\0\0\x20\0\0\0\x20" + bytes(9), "damaged"),
    ],
)
def test_unreadable_files_are_named(modules: Any, content: bytes, expected: str) -> None:
    with pytest.raises(sync_api.Error, match=expected):
        modules.evaluate(READ, [letters(content), SIZE])


def test_maps_are_drawn_as_reports_draw_them(modules: Any) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    heat = rng.normal(size=(3, 5)).astype(np.float32)
    drawn = modules.evaluate(
        """async ([pixels, heat, style]) => {
          const draw = await import("./draw.js");
          const canvas = document.createElement("canvas");
          const map = { values: Float32Array.from(heat), rows: 3, columns: 5 };
          draw.overlay(canvas, Uint8Array.from(pixels), 32, map, style);
          return Array.from(canvas.getContext("2d").getImageData(0, 0, 32, 32).data);
        }""",
        [
            pixels.ravel().tolist(),
            heat.ravel().tolist(),
            {"colours": overlays.colour_table().tolist(), "cover": overlays.COVER},
        ],
    )
    found = np.array(drawn).reshape(SIZE, SIZE, 4)[..., :3]
    difference = np.abs(found - overlays.overlay(pixels, heat).astype(int))
    # Where a share lies between two colours of the table, either may be taken.
    assert difference.max() <= 3 and difference.mean() < 0.3


def drawn_rules(aggregation: str) -> Rules:
    """Of images and of subjects others, so that one taken for the other would be seen."""
    return rules(
        image=unit_rules(
            threshold=0.6,
            confidence_threshold=0.5,
            sets=Sets(0.9, (0.5, 0.7, None), True, 20, False),
        ),
        subject=unit_rules(
            temperature=0.4,
            threshold=0.7,
            confidence_threshold=0.55,
            sets=Sets(0.9, (0.8, 0.75, 0.7), True, 20, False),
        ),
        aggregation=aggregation,
        positive="late or early",
        negative="normal",
    )


COLUMNS = ["normal", "early", "late", "none"]


def about_of(aggregation: str, limit: float | None = 1.2) -> dict[str, Any]:
    return {
        "columns": COLUMNS,
        "classes": COLUMNS[:3],
        "rules": drawn_rules(aggregation).to_json(),
        "distance": {"limit": limit},
    }


@pytest.mark.parametrize(
    ("aggregation", "limit"), [("mean", 1.2), ("geometric", 1.2), ("mean", None)]
)
def test_rules_are_those_of_predict(modules: Any, aggregation: str, limit: float | None) -> None:
    rng = np.random.default_rng(1)
    shares = rng.dirichlet(np.full(4, 0.7), 60)
    distances = rng.uniform(0.5, 1.6, 60)
    some = [inputs.InputImage(Path(), f"{k}", "one" if k < 20 else "two") for k in range(60)]
    own = drawn_rules(aggregation)
    reach = math.inf if limit is None else limit
    table = decisions.decide(some, Outputs(shares, distances), own, 3, reach)
    found = modules.evaluate(
        """async ([about, shares, distances]) => {
          const { decide, together } = await import("./rules.js");
          const all = shares.map((row, k) => decide(about, row, distances[k]));
          return [...all, together(about, all.slice(0, 20)), together(about, all.slice(20))];
        }""",
        [about_of(aggregation, limit), shares.tolist(), distances.tolist()],
    )
    subjects = decisions.by_subject(table, own, 3)
    wanted = [*decisions.as_rows(table, COLUMNS, "image")]
    wanted += decisions.as_rows(subjects, COLUMNS, "subject")
    outside = set() if limit is None else {"out_of_distribution"}
    assert {one["decision"] for one in found[:60]} == {"abstain", *outside, *COLUMNS}
    for one, other in zip(found, wanted, strict=True):
        assert one["decision"] == other["decision"]
        assert (one["positive"], one["abstained"]) == (other["positive"], other["abstained"])
        assert one["score"] == pytest.approx(other["disease_score"])
        assert one["distance"] == pytest.approx(other["distance"])
        assert one["set"] == other["prediction_set"]
        given = list(other["probabilities"].values())
        assert one["probabilities"] == pytest.approx(given, abs=1e-9)


def test_names_in_the_table_are_text(modules: Any) -> None:
    names = ["=1+1.png", "a,b.png", 'say "x".png', "+49.jpg", "two\nlines.png", "plain.png"]
    text = modules.evaluate(
        """async ([about, names]) => {
          const { csv, decide } = await import("./rules.js");
          const one = decide(about, [0.1, 0.2, 0.6, 0.1], 1);
          return csv(about, names.map((name) => ({ name, ...one })));
        }""",
        [about_of("mean"), names],
    )
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["file"] for row in rows] == ["'=1+1.png", *names[1:3], "'+49.jpg", *names[4:]]
    assert rows[0]["decision"] == "late" and rows[0]["p_late"] == "0.6"


def test_patients_are_found_in_folders_and_names(modules: Any) -> None:
    """By folders as `inputs.find` reads them, below the folder that is given."""
    found = modules.evaluate(
        """async (cases) => {
          const { likely, patients } = await import("./patients.js");
          const classes = ["normal", "late"];
          return cases.map((paths) => [likely(paths), patients(paths, likely(paths), classes)]);
        }""",
        [
            ["new/p1/a.jpg", "new/p2/a.jpg"],
            ["p1/a.jpg", "p1/b.jpg"],
            ["set/normal/p1/a.jpg", "set/late/p1/b.jpg", "set/late/c.jpg"],
            ["one/p1/a.jpg", "two/p1/a.jpg"],
            ["p1_a.jpg", "p1_b.jpg", "p2-a.jpg"],
            ["IMG_1.jpg", "IMG_2.jpg"],
            ["a.jpg", "b_1.jpg", "b_2.jpg"],
        ],
    )
    assert found == [
        ["folder", ["p1", "p2"]],
        ["folder", ["p1", "p1"]],
        ["folder", ["p1", "p1", None]],
        # Of two folders the same name may be of two patients.
        ["folder", ["one/p1", "two/p1"]],
        ["name", ["p1", "p1", "p2"]],
        # One group tells no patients apart: a camera names files so.
        ["none", [None, None]],
        ["none", [None, None, None]],
    ]


def test_warnings_are_calm_as_on_the_terminal(modules: Any) -> None:
    warnings = [
        "WIDE INTERVALS, of more: mean AUROC 0.3",
        "CLASSES IN THE ORDER OF THEIR NAMES: SSC counts",
        "BUNDLED starting weights",
        "ONE SUBJECT IS TESTED: figures",
        "Plain AUROC",
    ]
    found = modules.evaluate(
        """async (lines) => lines.map((await import("./describe.js")).calm)""", warnings
    )
    assert found == [weaknesses.calm(line) for line in warnings]
