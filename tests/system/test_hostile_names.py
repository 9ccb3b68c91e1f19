"""Whatever a file or subject is called: it comes back, it is shown, and nothing obeys it.

As in test_hostile.py: hypothesis makes names, always the same, and `HOSTILE_EXAMPLES` multiplies
them.
"""

from __future__ import annotations

import csv
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzzing import tried
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from small_runs import finished_run, one_stage_config, put

from sscjax.data import csv_table, image_folder, splits
from sscjax.data.dataset import ImageSet
from sscjax.data.slides import cut
from sscjax.data.slides import output as slide_folder
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.evaluation.predictions import Predictions
from sscjax.experiments import single_run
from sscjax.inference import explain, predict
from sscjax.inference.slides import cut as cut_for_prediction
from sscjax.reports import html
from sscjax.system import files, formatting, terminal

# Pillow warns of much that is odd; here only what comes out matters.
pytestmark = pytest.mark.filterwarnings("ignore")

NASTY = (
    *('"quoted"', "it's", "two\nlines", "<script>alert(1)</script>", "\u202etxt.exe", "tab\tr\r"),
    *("=1+1", "+cmd", "-2", "@SUM(A1)", "'=twice", "\x1b[31mred", "\u200f\u2066x", "a,b", "\\n"),
)
NAMES = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12
)
TILE = {"file": "tiles/key/0_0.png", "x": 0, "y": 0, "mpp": None, "tissue": 0.1}
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@tried(300)
@given(name=st.text())
@example(name="'=x")
@example(name="''=x")
@example(name="'x")
def test_cells_are_no_formulas_and_come_back(name: str) -> None:
    cell = files.csv_cell(name)
    assert not cell.startswith(FORMULAS) and files.csv_name(cell) == name


@tried(300)
@given(name=st.text(), width=st.integers(3, 40))
def test_terminal_shows_names_and_obeys_none(name: str, width: int) -> None:
    shown = formatting.clean_name(name, width)
    assert len(shown) <= width and (shown == "" or shown.isprintable())
    assert len(formatting.clean_file(name, width)) <= width


@tried(300)
@given(name=st.text())
@example(name=os.fsdecode(b"M\xfcller"))
def test_spelt_names_hide_nothing(name: str) -> None:
    shown = files.escaped(name)
    assert shown == files.escaped(shown) and (shown.isprintable() or not name)
    assert shown == name or not name.isprintable()


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """The package's log, which is put back."""
    log = logging.getLogger("sscjax")
    before = log.handlers, log.level, log.propagate
    yield log
    log.handlers, log.level, log.propagate = before


def put_corrupt(folder: Path, suffix: str = ".png") -> int:
    """A file that is no image under each name, and their number."""
    for number, name in enumerate(NASTY):
        path = folder / f"{number}" / f"{name}{suffix}"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no image")
    return len(NASTY)


def assert_lines(said: str, begin: str, count: int) -> None:
    """So many lines begin like this, none else is there, and none obeys a name."""
    lines = said.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    assert len([line for line in lines if line.startswith(begin)]) == count == len(lines)


@pytest.mark.parametrize("name", NASTY)
def test_error_is_one_line_whatever_a_file_is_called(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    for label in ("a", "b"):
        put(tmp_path / "images" / label / "p" / "sound.png")
    path = tmp_path / "images" / "a" / "p" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no image")
    config = one_stage_config()
    config.data.path = str(tmp_path / "images")
    assert (
        terminal.call(lambda: print(single_run.run(config, tmp_path / "run")))
        == terminal.USER_ERROR
    )
    assert_lines(capfd.readouterr().err, "error: ", 1)


def test_log_is_one_line_whatever_is_put_into_it(
    log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    terminal.set_up_log()
    for name in NASTY:
        log.warning("left out: %s, %s, %d of %.1f", name, UserError(name), 2, 3.0)
    assert_lines(capfd.readouterr().err, "warning: left out: ", len(NASTY))


def test_slides_that_cannot_be_cut_are_a_line_each(
    tmp_path: Path, log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openslide", reason="OpenSlide is not installed")
    count = put_corrupt(tmp_path / "p" / "slides", ".svs")
    terminal.set_up_log()
    assert cut.cut(tmp_path / "p", tmp_path / "out", Settings(field_px=32)) == cut.FAILED
    said = capfd.readouterr()
    assert_lines("\n".join(said.out.split("\n")[:-2]), "could not be cut: ", count)
    lines = [line for line in said.err.split("\n") if "slides name no subject" not in line]
    assert_lines("\n".join(lines), "warning: left out: ", count)


@pytest.mark.skipif(os.name != "posix", reason="bash")
def test_command_that_goes_on_shows_its_words_and_means_them() -> None:
    words = [*NASTY, os.fsdecode(b"M\xfcller"), "\x1bit's\\"]
    print_all = "import os, sys; print([os.fsencode(word) for word in sys.argv[1:]])"
    shown = terminal.again([sys.executable, "-c", print_all, *words])
    assert shown.isprintable()
    done = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout == f"{list(map(os.fsencode, words))}\n"


@tried(100)
@given(names=st.lists(NAMES, min_size=2, max_size=6, unique=True))
@example(names=list(NASTY))
def test_tables_give_every_name_back(place: Path, names: list[str]) -> None:
    """Tables whose readers are this package and a spreadsheet."""
    count = len(names)
    array = np.array(names, dtype=object).astype(str)
    # NumPy drops zeros at the end of a string, and so would any array of names.
    names = array.tolist()
    table = Predictions(
        files=array,
        subjects=array[::-1],
        splits=np.full(count, "test"),
        labels=np.arange(count, dtype=np.int32) % 2,
        probabilities=np.full((count, 2), 0.5),
        classes=("=a", "b\nc"),
    )
    table.write_csv(place / "predictions.csv")
    again = Predictions.read_csv(place / "predictions.csv")
    assert again.files.tolist() == names and again.subjects.tolist() == names[::-1]
    assert again.classes == table.classes
    images = ImageSet(
        images=np.zeros((count, 8, 8, 3), np.uint8),
        labels=np.arange(count, dtype=np.int32) % 2,
        subjects=array[::-1],
        files=array,
        classes=("=a", "b\nc"),
        source="made up",
    )
    splits.write_splits(place / "splits.csv", images, np.full(count, "train"))
    assert splits.read_splits(place / "splits.csv", images).tolist() == ["train"] * count
    # What people write into a manifest may have blanks around it, which count for nothing.
    whole = [name for name in names if name == name.strip()]
    slides = [
        (slide_folder.Source(place, name, "key", name, name), {"tiles": [TILE]}) for name in whole
    ]
    assert slide_folder.write_manifest(place / "tiles", slides) == len(whole)
    rows = csv_table.read_rows(place / "tiles" / "manifest.csv", slide_folder.COLUMNS)
    for (_, cells), name in zip(rows, whole, strict=True):
        assert cells["label"] == cells["subject"] == cells["slide"] == name
        assert cells["file"] == TILE["file"] and float(cells["tissue"]) == TILE["tissue"]
    for name in ("predictions.csv", "splits.csv", "tiles/manifest.csv"):
        path = place / name
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file, strict=True):
                assert not [cell for cell in row if cell.startswith(FORMULAS)]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with names that a file system allows."""
    folder = tmp_path_factory.mktemp("named") / "images"
    names = [name for name in NASTY if "/" not in name]
    names.append("n" * 251)
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        for name in names:
            path = folder / label / f"{label}{name}"[:250] / f"{name}.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def run(images: Path) -> Path:
    return finished_run(images.parent / "run", images, "cnn")


@pytest.fixture
def foreign(tmp_path: Path) -> str:
    """A name in Latin-1, as old archives have them."""
    name = os.fsdecode(b"M\xfcller")
    try:
        (tmp_path / name).touch()
    except OSError:
        # macOS and Windows refuse such a name themselves.
        pytest.skip("this file system has no names but UTF-8")
    return name


def refused(program: Callable[[], object], capfd: pytest.CaptureFixture[str]) -> bool:
    """Whether a program ends with one line that tells what to rename."""
    code = terminal.call(lambda: print(program()))
    said = capfd.readouterr()
    assert_lines(said.err, "error: ", 1)
    whole = "M\\xfcller" in said.err and "not UTF-8" in said.err and "rename" in said.err
    return code == terminal.USER_ERROR and whole and not said.out


@pytest.mark.parametrize("place", ("a/p/{}.png", "a/{}/one.png", "{}/p/one.png"))
@pytest.mark.parametrize("policy", ("error", "skip"))
def test_names_that_are_not_utf8_are_refused_before_training(
    foreign: str, place: str, policy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (place.format(foreign), "b/p/one.png"):
        put(tmp_path / "images" / path)
    (tmp_path / "images" / "b" / f"{foreign}.txt").touch()  # no image: it is passed over
    config = one_stage_config()
    config.data.path, config.data.corrupt = str(tmp_path / "images"), policy
    assert refused(lambda: single_run.run(config, tmp_path / "run"), capfd)
    assert not (tmp_path / "run").exists()


def test_places_that_are_not_utf8_are_refused(
    foreign: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / f"{foreign}s"
    for label in ("a", "b"):
        put(folder / label / "p" / "one.png")
    table = "file,label,subject\na/p/one.png,a,p\nb/p/one.png,b,q\n"
    (folder / "some.csv").write_text(table, encoding="utf-8")
    assert refused(lambda: image_folder.list_images(folder), capfd)
    assert refused(lambda: image_folder.list_images(folder / "some.csv"), capfd)
    # The folder that a command is given in, and what it names.
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        assert refused(lambda: None, capfd)
    monkeypatch.setattr(sys, "argv", ["program", f"--workdir={folder}"])
    assert refused(lambda: None, capfd)


@pytest.mark.parametrize("ask", (predict.predict, explain.explain))
def test_names_that_are_not_utf8_are_refused_before_answering(
    run: Path,
    foreign: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    ask: Callable[..., int],
) -> None:
    one, out = put(tmp_path / "asked" / f"{foreign}.png"), tmp_path / "out"
    put(tmp_path / "others" / foreign / "one.png")
    for path in (one, one.parent, tmp_path / "others", put(tmp_path / f"{foreign}.tif")):
        assert refused(functools.partial(ask, run, [path], out), capfd)
    assert not out.exists()


def test_slides_whose_names_are_not_utf8_are_refused(
    foreign: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "slides" / f"{foreign}.svs"
    path.parent.mkdir()
    path.touch()
    out = tmp_path / "out"
    assert refused(lambda: cut.cut(path.parent, out, Settings(field_px=32)), capfd)
    assert refused(lambda: cut_for_prediction([path], out, Settings(field_px=32)), capfd)
    assert not out.exists()


@pytest.mark.parametrize("ask", (predict.predict, explain.explain))
def test_what_is_left_out_is_one_line_whatever_it_is_called(
    run: Path,
    tmp_path: Path,
    log: logging.Logger,
    capfd: pytest.CaptureFixture[str],
    ask: Callable[..., int],
) -> None:
    put(tmp_path / "asked" / "sound.png")
    count = put_corrupt(tmp_path / "asked")
    terminal.set_up_log()
    code = terminal.call(lambda: ask(run, [tmp_path / "asked"], tmp_path / "out"))
    assert code == predict.FAILED
    said = [line for line in capfd.readouterr().err.split("\n") if ": 100%" not in line]
    assert_lines("\n".join(said), "warning: left out: ", count)


@pytest.mark.slow
def test_files_with_such_names_from_the_folder_to_the_answer(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names that a file system allows: trained on, predicted, on the page, in the tables."""
    text = (html.write(run)[0]).read_text(encoding="utf-8")
    assert "<script>alert" not in text and "\u202e" not in text and "\x1b" not in text
    out = tmp_path / "out"
    capsys.readouterr()
    assert predict.predict(run, [images], out) == 0
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.splitlines() if line)
    page = (out / predict.PAGE).read_text(encoding="utf-8")
    assert "<script>alert" not in page and "\u202e" not in page and "\x1b" not in page
    for path in (out / predict.IMAGES, out / predict.SUBJECTS, run / "predictions.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, strict=True))
        assert len({len(row) for row in rows}) == 1
        assert not [cell for row in rows for cell in row if cell.startswith(FORMULAS)]
