"""Feed the readers of files with bytes that a fuzzer makes, led by the code that they reach.

    pip install atheris
    python scripts/fuzz.py --seconds=60 [--only=images] [--keep=FOLDER]

Each target has a process of its own and so many seconds. From small sound files Atheris (libFuzzer)
makes others; of each either an error of one line or a sound result must come out. What breaks that,
takes more than 2 GB or more than 10 seconds ends the target, and its bytes are kept.
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
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

# What is written in Python and parses; the fuzzer sees which of its lines are reached.
INSTRUMENTED = [
    *(
        "sscjax.data",
        "sscjax.models.pretrained",
        "sscjax.inference.classifier",
        "sscjax.reports.html",
        "sscjax.training.checkpoint",
    ),
    *("PIL", "zipfile", "csv"),
    *("torch.serialization", "torch._weights_only_unpickler", "numpy.lib.format"),
]
MOST_BYTES = 20_000

Attempt = Callable[[bytes], None]


def images(place: Path) -> tuple[list[bytes], Attempt]:
    """Image decoding."""
    import sound_files

    from sscjax.data import image_io

    def attempt(data: bytes) -> None:
        (place / "image.png").write_bytes(data)
        pixels = image_io.read_image(place / "image.png", 16, max_pixels=100_000)
        assert pixels.shape == (16, 16, 3)

    return sound_files.images(), attempt


def manifests(place: Path) -> tuple[list[bytes], Attempt]:
    """Manifests beside two images, and one outside that none may name."""
    import sound_files

    from sscjax.data import image_folder

    folder = place / "set"
    for path in (folder / "a" / "one.png", folder / "b" / "two.png", place / "secret.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an image")

    def attempt(data: bytes) -> None:
        (folder / "manifest.csv").write_bytes(data)
        for record in image_folder.list_images(folder).records:
            assert record.path.resolve().is_relative_to(folder.resolve())

    return [sound_files.MANIFEST], attempt


def masks(place: Path) -> tuple[list[bytes], Attempt]:
    """Masks of a sound image."""
    import numpy as np
    from PIL import Image

    from sscjax.data import masks as reader

    (place / "image.png").write_bytes(images(place)[0][1])
    width, height = Image.open(place / "image.png").size
    Image.fromarray(np.zeros((height, width), np.uint8)).save(place / "mask.png")
    sound = (place / "mask.png").read_bytes()

    def attempt(data: bytes) -> None:
        (place / "mask.png").write_bytes(data)
        assert reader.read_mask(place / "mask.png", place / "image.png", 16).shape == (16, 16)

    return [sound], attempt


def weights(suffix: str) -> Callable[[Path], tuple[list[bytes], Attempt]]:
    """Weight files of one format."""

    def target(place: Path) -> tuple[list[bytes], Attempt]:
        import sound_files

        from sscjax.models.pretrained.formats import read_weights

        if suffix == ".pth":
            sound = sound_files.torch_weights(place)
        else:
            sound = [sound_files.weights(place)[suffix]]

        def attempt(data: bytes) -> None:
            path = place / f"changed{suffix}"
            path.write_bytes(data)
            found, _ = read_weights(path)
            assert sum(array.size for array in found.values()) <= 50_000_000

        return sound, attempt

    return target


def slides(place: Path) -> tuple[list[bytes], Attempt]:
    """A slide's thumbnail, its plan and its tiles."""
    import sound_files

    from sscjax.data.slides import reader as slides_reader
    from sscjax.data.slides import tiling

    settings = tiling.Settings(field_px=32, tile_size=16, max_tiles=4, min_tissue=0.0)

    def attempt(data: bytes) -> None:
        (place / "changed.svs").write_bytes(data)
        with slides_reader.open_slide(place / "changed.svs") as slide:
            assert max(slide.thumbnail(64).shape) <= 64
            for tile in tiling.tiles(slide, tiling.plan(slide, settings), settings, "slide"):
                assert tile.pixels.shape == (16, 16, 3)

    return sound_files.slides(place), attempt


def records(place: Path) -> tuple[list[bytes], Attempt]:
    """What a finished run says of itself, read by all that begins with such a run."""
    import small_runs

    from sscjax.errors import UserError
    from sscjax.inference import classifier
    from sscjax.reports import html
    from sscjax.system import run_dir

    images = small_runs.write_folder(place / "images", subjects=3, tiles=6)
    run = small_runs.finished_run(place / "run", images, "cnn")
    sound = {run / name: (run / name).read_bytes() for name in ("run.json", "calibration.json")}

    def attempt(data: bytes) -> None:
        refused = None
        for path, before in sound.items():
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
    return list(sound.values()), attempt


def checkpoints(place: Path) -> tuple[list[bytes], Attempt]:
    """What the newest checkpoint says of itself; the one before is there."""
    import numpy as np

    from sscjax.training.checkpoint import Checkpoints

    tree = {"a": np.arange(12, dtype=np.float32)}
    with Checkpoints(place / "sound") as kept:
        for step in (1, 2):
            kept.save(step, tree, {"step": step, "rows": [{"loss": 0.5}]})
    [metadata] = (place / "sound" / "2").glob("info/metadata")

    def attempt(data: bytes) -> None:
        shutil.rmtree(place / "changed", ignore_errors=True)
        shutil.copytree(place / "sound", place / "changed")
        (place / "changed" / metadata.relative_to(place / "sound")).write_bytes(data)
        with Checkpoints(place / "changed") as kept:
            found = kept.newest(tree, lambda info: True)
        assert found is not None and found[0]["step"] in (1, 2)
        np.testing.assert_array_equal(found[1]["a"], tree["a"])

    return [metadata.read_bytes()], attempt


TARGETS: dict[str, Callable[[Path], tuple[list[bytes], Attempt]]] = {
    "images": images,
    "manifests": manifests,
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
        # All that is to be seen by the fuzzer is imported in here.
        place = Path(tempfile.mkdtemp(dir=keep))
        sound, attempt = TARGETS[name](place)
        from sscjax.errors import UserError

        for data in sound:
            with contextlib.suppress(UserError) if name == "records" else contextlib.nullcontext():
                attempt(data)

    corpus = place / "corpus"
    corpus.mkdir()
    # Longer ones would be cut short, and never sound.
    assert max(map(len, sound)) <= MOST_BYTES
    for number, data in enumerate(sound):
        (corpus / f"sound_{number}").write_bytes(data)

    def one(data: bytes) -> None:
        try:
            attempt(data)
        except UserError as error:
            text = str(error)
            assert text and "\n" not in text and len(text) < 2000, text

    flags = [
        *(f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-rss_limit_mb=2048"),
        *("-timeout=10", "-print_final_stats=1", f"-artifact_prefix={keep}/{name}-"),
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
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
    failed = []
    with contextlib.ExitStack() as stack:
        keep = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keep.mkdir(parents=True, exist_ok=True)
        print("| target | inputs | lines and branches reached | broken |\n|---|---|---|---|")
        for name in [args.only] if args.only else TARGETS:
            command = [sys.executable, __file__, "--inside", f"--only={name}"]
            command += [f"--seconds={args.seconds}", f"--keep={keep}"]
            done = subprocess.run(command, capture_output=True, check=False)
            said = done.stderr.decode("utf-8", "replace")
            print(f"| {name} | {_number(said, 'stat::number_of_executed_units:')} | ", end="")
            print(
                f"{_number(said, ' cov:', last=True)} | {int(done.returncode != 0)} |", flush=True
            )
            if done.returncode != 0:
                failed.append(name)
                (keep / f"{name}.log").write_text(said[-20_000:], encoding="utf-8")
                print(said[-3000:], file=sys.stderr)
    return 1 if failed else 0


def _number(said: str, after: str, last: bool = False) -> str:
    found: list[Any] = re.findall(re.escape(after) + r"\s*(\d+)", said)
    return f"{int(found[-1 if last else 0]):,}" if found else "-"


if __name__ == "__main__":
    sys.exit(main())
