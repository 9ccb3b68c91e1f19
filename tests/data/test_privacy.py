"""Nothing leaves the machine, and a private run tells no names.

Training, prediction and report work with every way out closed.

A hook of the interpreter sees each look-up of a name, each connection and each datagram, refuses it
and writes it down, so that one whose error is swallowed is found as well. Where the system lets
the test, the process has no network at all besides: libraries in C have none to use.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, PngImagePlugin
from small_runs import one_stage_config, write_folder

from sscjax.data import anonymize, augment, offline_augment
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.experiments import (
    compare,
    data_from_config,
    reproduce,
    run_predictions,
    run_record,
    single_run,
)
from sscjax.inference import explain, predict
from sscjax.training import settings

REPOSITORY = Path(__file__).resolve().parents[2]

# Python imports it before anything else, in subprocesses, too.
HOOK = """
import os
import sys

WAYS_OUT = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
    "socket.sendto", "socket.sendmsg", "socket.bind", "urllib.Request", "ftplib.connect",
    "http.client.connect", "smtplib.connect",
)


def refuse(event, arguments):
    if event in WAYS_OUT:
        with open(os.environ["ATTEMPTS"], "a") as file:
            file.write(f"{event} {arguments!r}\\n")
        raise PermissionError(f"no network in this test: {event}")


sys.addaudithook(refuse)
"""

# Several programs one after the other, in one process: most of their time goes into the start.
PROGRAMS = """
import json
import os
import runpy
import sys

for words in json.loads(os.environ["COMMANDS"]):
    sys.argv = list(words)
    try:
        runpy.run_module("sscjax", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        if end.code:
            sys.exit(f"{words} ended with {end.code}")
"""


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder with the hook in it."""
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    (folder / "attempts").touch()
    return folder


def start(
    closed: Path, program: str, commands: str = "[]", *, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(closed), str(REPOSITORY)]),
        "SSCJAX_CACHE": str(closed / "cache"),
        "ATTEMPTS": str(closed / "attempts"),
        "COMMANDS": commands,
    }
    return subprocess.run(
        [*prefix, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=REPOSITORY,
        env=environment,
        check=False,
        timeout=300,
    )


def without_network() -> tuple[str, ...]:
    """What starts a process without any network, where this user may."""
    command = ("unshare", "--net")
    if shutil.which("unshare") is None:
        return ()
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if done.returncode == 0 else ()


@pytest.mark.slow
def test_training_prediction_and_report_need_no_network(tmp_path: Path, closed: Path) -> None:
    images, run = write_folder(tmp_path / "images"), tmp_path / "run"
    flags = [
        f"--config.data.path={images}",
        "--config.model.name=cnn",
        "--config.model.cnn_widths=(4,)",
        "--config.model.cnn_dense=(8,)",
        "--config.stages.head.epochs=1",
        "--config.stages.finetune.epochs=1",
        "--config.stages.finetune.warmup_epochs=0.0",
        "--config.stages.finetune.freeze_first=0",
    ]
    out = tmp_path / "answers"
    commands = [
        ["sscjax", "train", "--config=configs/smoke.py", f"--workdir={run}", *flags],
        ["sscjax", "predict", str(run), str(images), f"--out={out}"],
        ["sscjax", "report", str(run)],
    ]
    done = start(closed, PROGRAMS, json.dumps(commands), prefix=without_network())
    assert done.returncode == 0, done.stderr[-2000:]
    assert (closed / "attempts").read_text(encoding="utf-8") == ""
    assert (run / "report.html").is_file() and (out / "predictions.json").is_file()


@pytest.mark.parametrize(
    "program",
    [
        "import urllib.request; urllib.request.urlopen('https://example.org')",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "try:\n import socket; socket.getaddrinfo('example.org', 80)\nexcept OSError: pass",
    ],
)
def test_hook_refuses_and_notes_every_attempt(closed: Path, program: str) -> None:
    """Also one whose error is swallowed."""
    done = start(closed, program)
    assert (closed / "attempts").read_text(encoding="utf-8")
    assert "no network in this test" in done.stderr or program.startswith("try")


@pytest.mark.slow
def test_weights_are_the_one_thing_that_is_fetched(closed: Path) -> None:
    """Only where the config asks for ImageNet's, from the one address, over https."""
    program = "from sscjax.models.pretrained import download; download.imagenet_weights(128, 1.0)"
    done = start(closed, program)
    attempts = (closed / "attempts").read_text(encoding="utf-8")
    assert done.returncode != 0 and "WeightsUnavailableError" in done.stderr
    assert "https://storage.googleapis.com/tensorflow/keras-applications/" in done.stderr
    hosts = set(re.findall(r"socket.getaddrinfo \(b?'([^']*)'", attempts))
    assert hosts == {"storage.googleapis.com"}


# ---- names ---------------------------------------------------------------------------------------

TELLTALE = "Kowalski"


def telltale_folder(folder: Path) -> Path:
    """The synthetic set under names that tell a patient, with EXIF data and comments that do."""
    images = write_folder(folder / f"{TELLTALE}_clinic", subjects=3, tiles=8)
    (images / "manifest.csv").unlink()
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        label, subject = path.relative_to(images).parts[:2]
        named = images / label / f"{TELLTALE}_{subject}" / f"{TELLTALE}_{number:03d}.png"
        named.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x010E] = exif[0x013B] = f"{TELLTALE}, born 1970"
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", f"{TELLTALE}, born 1970")
        with Image.open(path) as image:
            image.save(named, exif=exif, pnginfo=text)
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    next(images.rglob(f"{TELLTALE}_005.png")).write_bytes(TELLTALE.encode())
    return images


def contents(path: Path) -> Iterator[bytes]:
    """All that a file holds: its bytes, and what is packed in pictures, arrays and the page."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            yield repr(image.info).encode()
            yield repr(dict(image.getexif())).encode()
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            for name in arrays.files:
                yield name.encode() + arrays[name].tobytes()
    elif path.suffix == ".html":
        for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
            yield base64.b64decode(packed)


def telling(folder: Path) -> list[str]:
    """Files below with a tell-tale name, or with one in them, in either of two encodings."""
    wanted = (TELLTALE.encode(), TELLTALE.encode("utf-16-le"), TELLTALE.encode("utf-32-le"))
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if TELLTALE in path.relative_to(folder).as_posix()
        or (path.is_file() and any(name in data for data in contents(path) for name in wanted))
    ]


def private_config(images: Path, *, private: bool = True) -> ConfigDict:
    config = one_stage_config()
    config.data.path = str(images)
    config.data.corrupt = "skip"
    config.data.shared_subjects = "same"
    config.private = private
    config.stages.head.epochs = 1
    return config


@pytest.mark.slow
def test_private_runs_tell_no_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every byte that training, report, prediction and explanation write or say."""
    images, run = telltale_folder(tmp_path), tmp_path / "out" / "run"
    config = private_config(images)
    command = [
        "--config=configs/smoke.py", f"--config.data.path={images}", f"--workdir={images}/run",
    ]  # fmt: skip
    with caplog.at_level("INFO", logger="sscjax"):
        print(single_run.run(config, run, command=command))
        answers, drawn = tmp_path / "out" / "answers", tmp_path / "out" / "drawn"
        assert predict.predict(run, [images], answers) == predict.FAILED
        explain.explain(run, [images], drawn, most=6)
    said = capsys.readouterr()
    assert telling(tmp_path / "out") == []
    assert TELLTALE not in caplog.text + said.out + said.err
    # What stands there instead: numbers, the same everywhere, also of what cannot be read.
    kept = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert kept["data"]["skipped"] == {
        "image 0006": "not an image that can be read; expected the "
        "content of a jpg, png, tif, bmp, webp, jp2, heic or DICOM file; convert or remove it"
    }
    assert kept["config"]["data"]["path"] == "(private)"
    assert kept["command"] == [
        "--config=configs/smoke.py", "--config.data.path=(private)", "--workdir=(private)",
    ]  # fmt: skip
    found = json.loads((answers / "predictions.json").read_text(encoding="utf-8"))
    assert found["images"][0]["file"] == "image 0001" and found["trained_on"] > 0
    assert {one["subject"] for one in found["images"]} == {f"subject {k:03d}" for k in range(1, 4)}
    assert found["failed"][0].startswith("image 0006: not an image")
    assert "have numbers, in the order of their names" in (run / "report.html").read_text("utf-8")

    # The rest of the package works on such a run.
    assert single_run.run(config, run) == (run / "report.txt").read_text(encoding="utf-8")
    recorded = reproduce.recorded_config(kept, str(images), None)
    assert reproduce.changed_inputs(run, recorded) == []
    with pytest.raises(UserError, match="--data=PATH"):
        reproduce.changed_inputs(run, reproduce.recorded_config(kept, None, None))
    with pytest.raises(UserError, match="config.private: True then, False now"):
        single_run.run(private_config(images, private=False), run)
    # The same numbers stand for the same images, and other images are known by their bytes.
    pair = [run_predictions.read_run(place, "test") for place in (run, run / "stages" / "head")]
    assert compare.align(pair, False)[1].predictions.files.tolist()[0].startswith("image 00")
    other = {name: (of, digest[::-1]) for name, (of, digest) in pair[1].hashes.items()}
    with pytest.raises(UserError, match=r"differ in the content of \d+ images: image 0"):
        compare.align([pair[0], dataclasses.replace(pair[1], hashes=other)], False)


@pytest.mark.slow
def test_the_search_for_names_finds_them(tmp_path: Path) -> None:
    """In a run that is not private they are in most files; else the test above shows nothing."""
    images, run = telltale_folder(tmp_path), tmp_path / "out"
    single_run.run(private_config(images, private=False), run)
    found = telling(run)
    names = {"run.json", "splits.csv", "predictions.csv", "manifest.json", "report.html"}
    assert names <= set(found) and "outliers.npz" not in found
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(run / "with.png", exif=exif_of(images))
    assert "with.png" in telling(run)


def exif_of(images: Path) -> Image.Exif:
    with Image.open(next(images.rglob(f"{TELLTALE}_000.png"))) as image:
        return image.getexif()


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images in the one that commands are given in, another beside, and a link."""
    monkeypatch.chdir(tmp_path)
    for name in ("data/x", "database", "configs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "list.csv").touch()
    (tmp_path / "configs" / "smoke.py").touch()
    (tmp_path / "link").symlink_to("data")
    return tmp_path / "data"


# What stands where the images' place does, and what stays.
GIVEN = ("python", "-m", "sscjax.main", "--config=configs/smoke.py", "--fresh", "--nodata", "-q")
STAYS = ("--workdir=runs/data", "--workdir=database", "--config.name=data.path", "-d", "")
GOES = ("--workdir={0}/run", "--workdir={0}/x", "--x=('{0}/a', '/b')", "-I{0}/x", "{0}", "{0}/x/y")


@pytest.mark.parametrize("path", ("data", "data/", "./data", "{0}", "link", "data/list.csv"))
def test_commands_tell_no_place_of_the_images(clinic: Path, path: str) -> None:
    """Whole values go, whatever the place is called, and nothing else does."""
    path = path.format(clinic)
    goes = [word.format(clinic) for word in GOES] + ["--workdir=data/run", "data/x", "link/x"]
    for given in ([f"--config.data.path={path}"], ["--config.data.path", path]):
        found = anonymize.command([*GIVEN, *given, *STAYS, *goes], path)
        assert found[: len(GIVEN)] == list(GIVEN)
        assert "=".join(found[len(GIVEN) :][: len(given)]) == "--config.data.path=(private)"
        rest = found[len(GIVEN) + len(given) :]
        assert rest[: len(STAYS)] == list(STAYS)
        assert all(re.fullmatch(r"(--\w+=)?\(private\)", word) for word in rest[len(STAYS) :])


@pytest.mark.parametrize("path", (".", "..", "/", "../data", "~"))
def test_places_that_many_words_would_hold(
    clinic: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dot, a root: what lies there goes, and words that are no paths stay."""
    monkeypatch.setenv("HOME", str(clinic))
    monkeypatch.chdir(clinic)
    words = [*GIVEN, f"--config.data.path={path}", f"--workdir={clinic}/run", f"--x={clinic}"]
    found = anonymize.command(words, path)
    kept = [word for word in GIVEN if "/" not in word]
    assert [word for word in found if "(private)" not in word and "/" not in word] == kept
    assert "--config.data.path=(private)" in found and "--workdir=(private)" in found
    assert str(clinic) not in " ".join(found)
    assert anonymize.command(words, "") == words


def test_a_private_run_among_its_images(tmp_path: Path) -> None:
    """Its report and its checkpoints name their own folder."""
    images = write_folder(tmp_path / "images", subjects=3, tiles=4)
    for path in (images, images / "manifest.csv"):
        with pytest.raises(UserError, match="lies in the folder of the images"):
            single_run.run(private_config(path), images / "run")
    assert not (images / "run").exists()


def test_private_and_array_record_do_not_go_together(tmp_path: Path) -> None:
    config = private_config(tmp_path / "images")
    config.data.storage = "array_record"
    with pytest.raises(UserError, match="holds the names of files and subjects"):
        single_run.run(config, tmp_path / "run")


def test_records_from_before_there_was_the_field() -> None:
    """They stand for runs that are not private."""
    now = {"private": False, "seed": 0}
    assert run_record.config_differences({"seed": 0}, now) == []
    found = run_record.config_differences({"seed": 0}, {**now, "private": True})
    assert found == ["config.private: absent then, True now"]
    config = one_stage_config()
    del config.private, config.data.corrupt
    image_set, _ = data_from_config.load_images(settings.read(config))
    assert not image_set.skipped and run_record.shown_config(config)


def test_numbers_are_of_the_names_alone() -> None:
    """Not of the order in which files are found; what names no subject stays its own."""
    files = np.array(["b/2.png", "a/1.png", "c/3.png"])
    found = anonymize.image_set(
        ImageSet(
            images=np.zeros((3, 8, 8, 3), np.uint8),
            labels=np.zeros(3, np.int32),
            subjects=np.array(["q", "p", "c/3.png"]),
            files=files,
            classes=("a", "b"),
            skipped={"aa/0.png": "aa/0_mask.png: no mask"},
        )
    )
    assert found.files.tolist() == ["image 0003", "image 0001", "image 0004"]
    assert found.subjects.tolist() == ["subject 002", "subject 001", "image 0004"]
    assert found.skipped == {"image 0002": "cannot be read"}
    assert found.paths == files.tolist() and found.take(np.array([1])).paths == ["a/1.png"]
    copies = offline_augment.augmented_copies(found, 1, 0, augment.Changes())
    assert copies.paths == [*files.tolist(), "", "", ""]
