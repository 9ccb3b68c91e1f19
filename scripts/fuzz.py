"""Feed the readers of files with bytes from a fuzzer that sees which code they reach.

    pip install atheris
    python scripts/fuzz.py --seconds=60 [--only=images] [--keep=FOLDER]

Each target has a process of its own and that many seconds. From small valid files Atheris
(libFuzzer) makes others; the outcome of each must be an error of one line or a sound result. What
breaks this, or takes more than 2 GB or 10 seconds, ends the target, and its bytes are kept.

A target is a function of an empty folder. It returns valid files and an `Attempt`, which reads
other bytes in their place.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "helpers"))

# What is written in Python and parses; the fuzzer sees which of its lines are reached.
INSTRUMENTED = [
    *("sscjax.data", "sscjax.models.pretrained", "sscjax.inference.classifier"),
    *("sscjax.reports.html", "sscjax.training.checkpoint", "PIL", "pydicom", "zipfile", "csv"),
    *("torch.serialization", "torch._weights_only_unpickler", "numpy.lib.format"),
]
MOST_BYTES = 20_000

Attempt = Callable[[bytes], None]
Target = Callable[[Path], tuple[list[bytes], Attempt]]


def images(folder: Path) -> tuple[list[bytes], Attempt]:
    """Image decoding."""
    import sound_files

    from sscjax.data import image_io

    def attempt(data: bytes) -> None:
        (folder / "image.png").write_bytes(data)
        pixels = image_io.read_image(folder / "image.png", 16, max_pixels=100_000)
        assert pixels.shape == (16, 16, 3)

    return sound_files.images(), attempt


def formats(folder: Path) -> tuple[list[bytes], Attempt]:
    """Decoding of further formats, with pages and depths that are chosen and found out."""
    import sound_files

    from sscjax.data import dicom, image_io
    from sscjax.data.pixel_range import Decoding, Observed

    def attempt(data: bytes) -> None:
        path = folder / "image.dcm"
        path.write_bytes(data)
        dicom.patient_ids([path])
        first = Decoding(bits=12, pages="first")
        observed = Observed()
        pixels = image_io.read_image(path, 16, max_pixels=100_000, observed=observed)
        assert pixels.shape == (16, 16, 3) and observed.bits in (0, 8, 10, 12, 14, 16)
        assert image_io.read_image(path, 16, max_pixels=100_000, decoding=first).shape[2] == 3
        assert min(image_io.read_upright_size(path)) >= 8

    return sound_files.more_images(folder), attempt


def flat_slides(folder: Path) -> tuple[list[bytes], Attempt]:
    """Flat slides in bands."""
    import sound_files

    from sscjax.data.slides import flat

    # One strip is more than may be decoded at once, and is unpacked as it is read.
    for name, value in (("MAX_FLAT_PIXELS", 100_000), ("_BAND", 500), ("MAX_PIXELS", 48 * 40 - 1)):
        setattr(flat, name, value)

    def attempt(data: bytes) -> None:
        (folder / "slide.png").write_bytes(data)
        opened = flat.Flat(folder / "slide.png")
        assert opened.pixels.ndim == 3 and opened.pixels.size <= 300_000
        opened.close()

    return sound_files.flat_slides(), attempt


def manifests(folder: Path) -> tuple[list[bytes], Attempt]:
    """Manifests beside two images, and one outside that none may name."""
    import sound_files

    from sscjax.data import image_folder

    inside = folder / "set"
    for path in (inside / "a" / "one.png", inside / "b" / "two.png", folder / "secret.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")

    def attempt(data: bytes) -> None:
        (inside / "manifest.csv").write_bytes(data)
        for record in image_folder.list_images(inside).records:
            assert record.path.resolve().is_relative_to(inside.resolve())

    return [sound_files.MANIFEST], attempt


def tables(folder: Path) -> tuple[list[bytes], Attempt]:
    """Tables of any separator and encoding, and the columns that are found in them."""
    from sscjax.data import columns, csv_table
    from sscjax.data import tables as reader

    path = folder / "list.csv"
    text = "Biopsies 2024\n# by me\nBild;Diagnose;Patient\na.png;ill;1\nb.png;well;2\n"
    binary = "image,MEL,NV,BCC\na,1.0,0.0,0\nb,0,1,0\n"

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        table = reader.read(path)
        assert all(len(cells) == len(table.header) for _, cells in table.rows)
        for given in ("", "file=Bild,label=Diagnose"):
            found = columns.match(table, columns.fitting(table, given))
            for _, row in csv_table.rows_of(table, found):
                assert "file" in row and "label" in row

    valid = [text.encode(), text.encode("utf-16"), text.encode("cp1252"), binary.encode()]
    return valid, attempt


def folders(folder: Path) -> tuple[list[bytes], Attempt]:
    """Names of files, one a line: which are masks or drawings, and what the levels mean."""
    from sscjax.data import companion_names, folder_view, layout, layout_guess

    root = folder / "nowhere"

    def attempt(data: bytes) -> None:
        lines = data.decode("utf-8", "replace").replace("\0", "").split("\n")
        files = {"/".join(filter(None, line.split("/"))) for line in lines} - {""}
        files -= {file for file in files if {".", ".."} & set(file.split("/"))}
        found = companion_names.sort([root / file for file in sorted(files)])
        assert len(found.others) + len(found.masks) + len(found.drawings) == len(files)
        inner = [file for file in files if "/" in file]
        folder_view.refuse_copies(root, inner, ())
        guessed = layout_guess.guess(str(root), [tuple(file.split("/")[:-1]) for file in inner])
        assert layout.parse(guessed.text).levels == guessed.levels
        for file in inner:
            read = guessed.read(file)
            assert read is None or read["label"] in file

    valid = [
        b"ill/p1/a.png\nill/p1/a_mask.png\nwell/p2/b.png\nwell/p2/overlay_b.png",
        b"train/a/1.png\ntrain/b/1.png\ntest/a/2.png\ntest/b/2.png",
        b"with_mask/1.png\nno_mask/2.png\nT/S [x=0,y=0,w=5,h=5].jpg\nT/S [x=0,y=0,w=5,h=5].png",
        b"e/1/a.png\ne/2/a.png\nl/1/a.png\nl/2/a.png\nl (2)/3/a.png\nr/x/a.png",
    ]
    return valid, attempt


def masks(folder: Path) -> tuple[list[bytes], Attempt]:
    """Masks of a sound image."""
    import numpy as np
    from PIL import Image

    from sscjax.data import masks as reader

    (folder / "image.png").write_bytes(images(folder)[0][1])
    width, height = Image.open(folder / "image.png").size
    Image.fromarray(np.zeros((height, width), np.uint8)).save(folder / "mask.png")
    sound = (folder / "mask.png").read_bytes()

    def attempt(data: bytes) -> None:
        (folder / "mask.png").write_bytes(data)
        assert reader.read_mask(folder / "mask.png", folder / "image.png", 16).shape == (16, 16)

    return [sound], attempt


def weights(suffix: str) -> Target:
    """Weight files of one format."""

    def target(folder: Path) -> tuple[list[bytes], Attempt]:
        import sound_files

        from sscjax.models.pretrained.formats import read_weights

        if suffix == ".pth":
            valid = sound_files.torch_weights(folder)
        else:
            valid = [sound_files.weights(folder)[suffix]]

        def attempt(data: bytes) -> None:
            path = folder / f"changed{suffix}"
            path.write_bytes(data)
            arrays, _ = read_weights(path)
            assert sum(array.size for array in arrays.values()) <= 50_000_000

        return valid, attempt

    return target


def slides(folder: Path) -> tuple[list[bytes], Attempt]:
    """A slide's thumbnail, its plan and its tiles."""
    import sound_files

    from sscjax.data.slides import reader as slides_reader
    from sscjax.data.slides import tiling

    settings = tiling.Settings(field_px=32, tile_size=16, max_tiles=4, min_tissue=0.0)

    def attempt(data: bytes) -> None:
        (folder / "changed.svs").write_bytes(data)
        with slides_reader.open_slide(folder / "changed.svs") as slide:
            assert max(slide.thumbnail(64).shape) <= 64
            for tile in tiling.tiles(slide, tiling.plan(slide, settings), settings, "slide"):
                assert tile.pixels.shape == (16, 16, 3)

    return sound_files.slides(folder), attempt


def records(folder: Path) -> tuple[list[bytes], Attempt]:
    """What a finished run says of itself, read by all that begins with such a run."""
    import small_runs

    from sscjax.errors import UserError
    from sscjax.inference import classifier
    from sscjax.reports import html
    from sscjax.system import run_dir

    images = small_runs.write_folder(folder / "images", subjects=3, tiles=6)
    run = small_runs.finished_run(folder / "run", images, "cnn")
    valid = {run / name: (run / name).read_bytes() for name in ("run.json", "calibration.json")}

    def attempt(data: bytes) -> None:
        refused = None
        for path, before in valid.items():
            path.write_bytes(data)
            for reader in (run_dir.read, classifier.open_run, html.write_again):
                try:
                    reader(run)
                except UserError as error:
                    refused = error
            path.write_bytes(before)
        if refused is not None:
            raise refused

    # Each in the other's place is refused, too.
    return list(valid.values()), attempt


def checkpoints(folder: Path) -> tuple[list[bytes], Attempt]:
    """What the newest checkpoint says of itself; the one before is there."""
    import numpy as np

    from sscjax.training.checkpoint import Checkpoints

    tree = {"a": np.arange(12, dtype=np.float32)}
    with Checkpoints(folder / "valid") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, tree, {"step": step, "rows": [{"loss": 0.5}]})
    [metadata] = (folder / "valid" / "2").glob("info/metadata")

    def attempt(data: bytes) -> None:
        shutil.rmtree(folder / "changed", ignore_errors=True)
        shutil.copytree(folder / "valid", folder / "changed")
        (folder / "changed" / metadata.relative_to(folder / "valid")).write_bytes(data)
        with Checkpoints(folder / "changed") as checkpoints:
            newest = checkpoints.newest(tree, lambda info: True)
        assert newest is not None and newest[0]["step"] in (1, 2)
        np.testing.assert_array_equal(newest[1]["a"], tree["a"])

    return [metadata.read_bytes()], attempt


TARGETS: dict[str, Target] = {
    "images": images,
    "formats": formats,
    "flat_slides": flat_slides,
    "manifests": manifests,
    "tables": tables,
    "folders": folders,
    "masks": masks,
    "h5": weights(".h5"),
    "npz": weights(".npz"),
    "safetensors": weights(".safetensors"),
    "pth": weights(".pth"),
    "slides": slides,
    "records": records,
    "checkpoints": checkpoints,
}


def fuzz(name: str, seconds: int, keep: Path) -> None:
    """Fuzz one target; does not return."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        # All that the fuzzer is to see is imported in here.
        folder = Path(tempfile.mkdtemp(dir=keep))
        valid, attempt = TARGETS[name](folder)
        from sscjax.errors import UserError

        # Some sound inputs are refused with the options: of folders, and of one record as another.
        refused = name in ("records", "folders")
        for data in valid:
            with contextlib.suppress(UserError) if refused else contextlib.nullcontext():
                attempt(data)
    from fuzzing import clear

    corpus = folder / "corpus"
    corpus.mkdir()
    # Longer ones would be cut short, and never valid.
    assert max(map(len, valid)) <= MOST_BYTES
    for number, data in enumerate(valid):
        (corpus / f"valid_{number}").write_bytes(data)

    def check(data: bytes) -> None:
        try:
            attempt(data)
        except UserError as error:
            clear(error)

    flags = [
        *(f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-rss_limit_mb=2048"),
        *("-timeout=10", "-print_final_stats=1", f"-artifact_prefix={keep}/{name}-"),
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], check)
    atheris.Fuzz()


def main() -> int:
    """Fuzz each target in turn; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--only", choices=TARGETS, help="one target")
    parser.add_argument("--keep", type=Path, help="folder for inputs that break a promise")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("error: atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    if args.inside:
        fuzz(args.only, args.seconds, args.keep)
    failed = 0
    with contextlib.ExitStack() as stack:
        keep = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keep.mkdir(parents=True, exist_ok=True)
        print("| target | inputs | lines and branches reached | broken |\n|---|---|---|---|")
        for name in [args.only] if args.only else TARGETS:
            command = [sys.executable, __file__, "--inside", f"--only={name}"]
            command += [f"--seconds={args.seconds}", f"--keep={keep}"]
            result = subprocess.run(command, capture_output=True, check=False)
            log, broken = result.stderr.decode("utf-8", "replace"), int(result.returncode != 0)
            inputs = _last_number(log, "stat::number_of_executed_units:")
            print(f"| {name} | {inputs} | {_last_number(log, ' cov:')} | {broken} |", flush=True)
            if broken:
                failed = 1
                (keep / f"{name}.log").write_text(log[-20_000:], encoding="utf-8")
                print(log[-3000:], file=sys.stderr)
    return failed


def _last_number(log: str, name: str) -> str:
    numbers = re.findall(re.escape(name) + r"\s*(\d+)", log)
    return f"{int(numbers[-1]):,}" if numbers else "-"


if __name__ == "__main__":
    sys.exit(main())
