"""Images per second of a run and of its exported files, each in a process of its own.

    python scripts/bench_export.py RUN [--data=PATH --batch=32 --threads=2 --rounds=7 --ort-web=TGZ]

The files are exported into a temporary folder first. Then the candidates are timed in turn, in
rounds, so that whatever else the machine does meets all of them; the table gives the median and
the range. Torch, where it is installed, runs the same architecture with weights of its own. The
exported page, with playwright and a Chromium, is given PNG files as a reader would give them: it
decodes them, answers, and draws their maps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the package, installed or not; torch's network

FILES = {"stablehlo": ".zip", "onnx": ".onnx"}
TORCH, PAGE = "torch", "page"

# A measurement lasts at least so long.
_SECONDS = 1.0

Answer = Callable[[np.ndarray], Any]


def candidate(name: str, run: Path, folder: Path, threads: int) -> Answer:
    """A function that answers for images uint8 [N,S,S,3] and has done so when it returns."""
    if name == "sscjax":
        from sscjax.inference import classifier

        opened = classifier.open_run(run)
        return _jax_answers(opened)
    if name == "stablehlo":
        from sscjax import export as the_export

        call, _ = the_export.load_stablehlo(folder / f"{name}.zip")
        return lambda images: {key: np.asarray(value) for key, value in call(images).items()}
    if name == TORCH:
        import torch
        from torch_mobilenet_v2 import MobileNetV2

        from sscjax.inference import classifier

        torch.set_num_threads(threads)
        opened = classifier.open_run(run)
        # Ten times as quick as channels first.
        network = (
            MobileNetV2(getattr(opened.program.model, "alpha", 1.0), classes=len(opened.columns))
            .eval()
            .to(memory_format=torch.channels_last)
        )

        def answer(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
                return torch.softmax(network(pixels), dim=1).numpy()

        return answer
    if name == PAGE:
        return _page_answers(folder / PAGE)
    from sscjax.export import onnx_file

    return onnx_file.load(folder / f"{name}.onnx", threads)


def _jax_answers(opened: Any) -> Answer:
    """`Trained.answer` of one batch after the other, compiled once."""
    waiting: list[np.ndarray] = []

    def batches() -> Any:
        while True:
            yield waiting.pop()

    found = opened.answer(batches())

    def answer(images: np.ndarray) -> Any:
        waiting.append(images)
        return next(found)

    return answer


def _page_answers(folder: Path) -> Answer:
    """The page in Chromium, which takes the same images each time."""
    from browsing import chromium, open_page
    from PIL import Image
    from playwright.sync_api import sync_playwright

    browser = sync_playwright().start().chromium.launch(executable_path=chromium())
    opened = open_page(browser, folder)
    paths: list[Path] = []

    def answer(images: np.ndarray) -> None:
        for number, pixels in enumerate(images[len(paths) :], len(paths)):
            paths.append(folder.parent / f"{number}.png")
            Image.fromarray(pixels).save(paths[-1])
        if opened.page.locator("#results").is_visible():
            opened.clear()
        opened.give(*paths)

    return answer


def work(pipe: Connection, name: str, run: Path, folder: Path, threads: int, batch: int) -> None:
    """Set up, say 'ready', and answer every message with images per second; ends at None."""
    if threads < (os.cpu_count() or 1) and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    answer = candidate(name, run, folder, threads)
    from sscjax.inference import classifier

    size = classifier.open_run(run).image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
    answer(images)
    pipe.send("ready")
    while pipe.recv() is not None:
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < _SECONDS:
            answer(images)
            count += batch
        pipe.send(count / (time.perf_counter() - started))


def exported(run: Path, folder: Path, data: str | None, ort_web: Path | None) -> None:
    """All files of the run, and what each export says of itself."""
    from sscjax.cli import export
    from sscjax.export.verify import Wish

    for name, suffix in FILES.items():
        print(export.export(run, name, folder / f"{name}{suffix}", Wish(data=data)) + "\n")
    if ort_web is not None:
        export.export(run, "web", folder / PAGE, Wish(data=data, ort_web=ort_web))


def main() -> None:
    """Export, start a process for each candidate, time them in turn, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--data", help="where the run's images are now, if they were moved")
    parser.add_argument("--batch", type=int, default=32, help="images at a time, up to 32")
    parser.add_argument("--threads", type=int, default=2, help="processors to use")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each")
    parser.add_argument("--ort-web", type=Path, help="as for sscjax.export: times the page, too")
    args = parser.parse_args()
    names = ["sscjax", *FILES]
    try:
        import torch  # noqa: F401

        names.append(TORCH)
    except ImportError:
        print("torch is not installed: it is left out")
    if args.ort_web is not None:
        names.append(PAGE)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        exported(args.run, folder, args.data, args.ort_web)
        pipes, workers = {}, []
        for name in names:
            pipes[name], theirs = context.Pipe()
            wish = (theirs, name, args.run, folder, args.threads, args.batch)
            workers.append(context.Process(target=work, args=wish, daemon=True))
            workers[-1].start()
            assert pipes[name].recv() == "ready"
        speeds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name, pipe in pipes.items():
                pipe.send("again")
                speeds[name].append(pipe.recv())
        for pipe in pipes.values():
            pipe.send(None)
        for worker in workers:
            worker.join()
    print(
        f"images per second, batches of {args.batch}, {args.threads} threads, {args.rounds} rounds"
    )
    for name, found in speeds.items():
        middle = statistics.median(found)
        print(f"{name:10} {middle:7.0f}  ({min(found):.0f} to {max(found):.0f})")


if __name__ == "__main__":
    main()
