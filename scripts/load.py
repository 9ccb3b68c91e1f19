"""Prepare a large set of images of which one in a thousand is corrupt: speed, memory, what is said.

    python scripts/load.py --images=50000

Small PNG and JPEG files in folders by class and subject. The whole program has to refuse them in a
line under config.data.corrupt=error. Under 'skip' a process reads, checks and splits them, with
room for a third of the pixels in memory; a tenth of the set tells what memory grows by.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import clone  # noqa: F401  (the configs)
import numpy as np
from PIL import Image

SIDE = 32
EVERY = 1000  # of so many images one is corrupt
GROWTH = 2.0  # KB of memory that a further image may take: its name, label and place, no pixels
NOISE = 16.0  # MB by which two processes differ that do the same
PREPARE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import load; load.prepare_and_say(sys.argv[2])"
)


def make(folder: Path, count: int) -> list[Path]:
    """So many images of 100 subjects, and the paths of the corrupt ones among them."""
    rng = np.random.default_rng(0)
    encoded = []
    for number in range(200):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, ("PNG", "JPEG")[number % 2])
        encoded.append(file.getvalue())
    corrupt: list[Path] = []
    for number in range(count):
        subject = number % 100
        place = folder / f"class_{subject % 2}" / f"subject_{subject:02d}"
        if number < 100:
            place.mkdir(parents=True)
        path, data = place / f"{number:06d}.{('png', 'jpg')[number % 2]}", encoded[number % 200]
        if number % EVERY == EVERY // 4:
            # In turn cut short, empty, and no image at all.
            kind = len(corrupt) % 3
            data = (data[: len(data) // 2], b"", b"no image" * 40)[kind]
            corrupt.append(path)
        path.write_bytes(data)
    return corrupt


def prepare_and_say(folder: str) -> None:
    """What a run does before it trains, and what came of it as a line of JSON."""
    from sscjax.configs import smoke
    from sscjax.experiments import data_from_config

    config = smoke.get_config()
    config.data.path, config.data.corrupt = folder, "skip"
    config.augment.copies = 0
    files = sum(len(names) for _, _, names in os.walk(folder))
    config.data.max_megabytes = files * SIDE * SIDE // 2**20
    started = time.monotonic()
    images = data_from_config.split_images(config, *data_from_config.load_images(config))
    images.originals.fingerprint()  # reads every pixel, as a run does for its record
    found = {
        "seconds": time.monotonic() - started,
        "images": len(images.originals),
        "left_out": list(images.originals.left_out),
        "splits": sorted(set(images.splits.tolist())),
    }
    print(json.dumps(found))


def started(command: list[str], cache: Path) -> tuple[int, str, str, float, float]:
    """Exit code, both outputs, seconds and peak MB of a process."""
    environment = {**os.environ, "SSCJAX_CACHE": str(cache)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        # In KB on Linux, in bytes on macOS.
        peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return process.returncode, out.read(), err.read(), seconds, peak


def under_error(folder: Path, corrupt: list[Path], cache: Path) -> dict[str, Any]:
    """The program stops at the first part of the set with a corrupt image."""
    flags = ["--config=configs/smoke.py", f"--config.data.path={folder}"]
    flags += ["--config.data.corrupt=error", f"--workdir={cache / 'run'}"]
    command = [sys.executable, "-m", "sscjax.main", *flags]
    code, _, said, seconds, peak = started(command, cache)
    lines = said.strip().splitlines()
    named = [path for path in corrupt if str(path) in lines[-1]]
    kept = code == 2 and "Traceback" not in said and len(named) >= 1 and len(lines[-1]) < 1500
    return {"kept": kept, "seconds": seconds, "peak": peak, "said": lines[-1]}


def under_skip(folder: Path, corrupt: list[Path], cache: Path) -> dict[str, Any]:
    """The corrupt images are left out and named, and no other."""
    command = [sys.executable, "-c", PREPARE, str(Path(__file__).parent), str(folder)]
    code, out, said, _, peak = started(command, cache)
    if code != 0:
        return {"kept": False, "seconds": 0.0, "peak": peak, "images": 0, "said": said[-500:]}
    found = json.loads(out.splitlines()[-1])
    names = [path.relative_to(folder).as_posix() for path in corrupt]
    kept = found["left_out"] == sorted(names) and found["splits"] == ["test", "train", "val"]
    return {**found, "kept": kept, "peak": peak, "said": ""}


def measure(count: int) -> tuple[list[str], list[str]]:
    """The lines of a table, and a line for each promise that was not kept."""
    lines = [
        "| images | corrupt | policy | seconds | images/s | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    broken, peaks = [], {}
    for some in (count // 10, count):
        with tempfile.TemporaryDirectory() as place:
            folder, cache = Path(place) / "images", Path(place) / "cache"
            corrupt = make(folder, some)
            for policy, one in (("error", under_error), ("skip", under_skip)):
                found = one(folder, corrupt, cache)
                rate = f"{some / found['seconds']:,.0f}" if "images" in found else "stops"
                cells = [f"{some:,}", str(len(corrupt)), policy, f"{found['seconds']:.1f}", rate]
                lines.append(f"| {' | '.join(cells)} | {found['peak']:.0f} |")
                peaks[policy, some] = found["peak"]
                if not found["kept"]:
                    broken.append(f"load under {policy}, {some} images: {found['said']}")
    more, further = count - count // 10, peaks["skip", count] - peaks["skip", count // 10]
    pixels = SIDE**2 * 3 / 1024
    lines.append(
        f"\nmemory under skip grows by {1024 * further / more:.2f} KB an image (its pixels: "
        f"{pixels:.0f} KB)"
    )
    if further > GROWTH * more / 1024 + NOISE:
        broken.append(f"load: {further:.0f} MB more of memory for {more:,} more images")
    return lines, broken


def main() -> int:
    """Make, prepare, say; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000)
    lines, broken = measure(parser.parse_args().images)
    print("\n".join([*lines, *broken]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
