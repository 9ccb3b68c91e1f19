"""Measure this package beside PyTorch, Keras on TensorFlow and plain Flax, in one run.

    pip install '.[bench]'
    python scripts/benchmark.py [--rounds=9] [--threads=2] [--out=benchmark.json] [--only=WORD]
    python scripts/benchmark.py --scaling   # instead: over sizes, batches, threads, set sizes

Every case is a process of its own that holds one framework and waits while others are timed
(`scripts/bench_workers.py`). A round times each case of a row once, in turn, so that a slow minute
of the machine meets all of them; what counts are medians over the rounds, and ratios of a row
within each round.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bench_sets
from clone import ROOT

WORKERS = ROOT / "scripts" / "bench_workers.py"

ROWS: dict[str, tuple[str, dict[str, float]]] = {
    # row: our case, then {peer: the ratio that is asked for}
    "fine-tune step": (
        "sscjax_finetune",
        {"torch_finetune": 2.0, "keras_finetune": 4.0, "plain_finetune": 30.0},
    ),
    "forward": ("sscjax_forward", {"torch_forward": 1.3, "keras_forward": 0.0}),
    "CNN step": ("sscjax_cnn", {"torch_cnn": 1.0}),
    "FD-UNet step": ("sscjax_fd_unet", {"torch_fd_unet": 1.0}),
}
CEILING = 0.45


# Of the paper's second study: epochs of each stage.
HEAD_EPOCHS, FINETUNE_EPOCHS, TRAINING = 200, 50, 1512
STAGE_1, RECIPE, START = "stage 1", "whole recipe", "warm start"


class Worker:
    """One case in a process of its own."""

    def __init__(self, case: str, flags: list[str], cache: str | None = None) -> None:
        self.case = case
        # Nothing compiled elsewhere: perhaps it was for another number of processors.
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache or ""}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKERS), *case.split(), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.ready = self._answer()["ready"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker {self.case} ended with exit code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def time(self) -> dict[str, Any]:
        """Run the case once: seconds, of processors too, images, peak."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(cases: list[str], flags: list[str], rounds: int) -> dict[str, Any]:
    """Time each case, which may have flags of its own, once per round, in turn.

    Returns:
      by case: 'rates' (images per second of each round), 'busy' (processors, of each round),
      'first' (seconds of set-up and the first run) and 'peak' (resident bytes).
    """
    workers = []
    for case in cases:
        print(f"  starting {case}", file=sys.stderr, flush=True)
        workers.append(Worker(case, flags))
    found: dict[str, Any] = {
        worker.case: {"rates": [], "busy": [], "first": worker.ready, "peak": 0}
        for worker in workers
    }
    for _ in range(rounds):
        for worker in workers:
            # A moment's rest, or the case before is still winding up its threads.
            time.sleep(0.2)
            answer = worker.time()
            found[worker.case]["rates"].append(answer["images"] / answer["seconds"])
            found[worker.case]["busy"].append(answer["busy"] / answer["seconds"])
            found[worker.case]["peak"] = answer["peak"]
    for worker in workers:
        worker.close()
    return found


def start(flags: list[str]) -> dict[str, float]:
    """Seconds to the end of the first fine-tune step, with an empty cache and with a filled one."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            worker = Worker("sscjax_finetune", flags, cache)
            found[name] = worker.ready
            worker.close()
    return found


def whole_run(weights: Path, folder: Path, finetune_epochs: int) -> dict[str, float]:
    """The command-line program on the paper's second study: seconds, and peak resident bytes."""
    workdir = folder / f"run{finetune_epochs}"
    # A run is to compute its features itself.
    shutil.rmtree(folder / "cache" / "features", ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "sscjax.main",
        f"--config={ROOT / 'configs' / 'paper_three_class.py'}",
        f"--config.pretrained={weights}",
        f"--config.stages.finetune.epochs={finetune_epochs}",
        f"--workdir={workdir}",
        "--fresh",
    ]
    environment = {**os.environ, "SSCJAX_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    seconds, peak = bench_sets.timed(command, environment, folder)
    kept = json.loads((workdir / "stages" / "finetune" / "stage.json").read_text("utf-8"))
    return {
        "seconds": seconds,
        "finetune": kept["course"]["seconds"],
        "peak": peak,
    }


def recipe(weights: Path, folder: Path) -> dict[str, float]:
    """Both stages: a cold run, then warm ones of two and of six epochs of stage 2.

    Returns:
      'cold' seconds of the first; 'epoch' seconds of an epoch of stage 2; 'seconds' of a warm run
      with all 50 epochs, extrapolated from these; 'peak' resident bytes.
    """
    cold = whole_run(weights, folder, 2)
    few, more = whole_run(weights, folder, 2), whole_run(weights, folder, 6)
    epoch = (more["finetune"] - few["finetune"]) / 4
    return {
        "cold": cold["seconds"],
        "epoch": epoch,
        "seconds": more["seconds"] + (FINETUNE_EPOCHS - 6) * epoch,
        "peak": max(cold["peak"], few["peak"], more["peak"]),
    }


def multiply_adds(size: int, freeze: int) -> tuple[float, float]:
    """Millions of multiply-adds per image of MobileNetV2 1.0: forward, and of a training step.

    The step adds the kernel gradient of every layer that trains, and the input gradient of every
    layer after the first that trains.
    """
    from sscjax.models import MobileNetV2

    model = MobileNetV2(3)
    forward = step = 0
    pixels, channels, trained = size, 3, False
    for index, layer in enumerate(model.layers):
        work = 0
        if layer.kind in ("conv", "depthwise"):
            pixels = -(-pixels // layer.stride)
            inputs = 1 if layer.kind == "depthwise" else channels
            work = pixels**2 * layer.kernel**2 * inputs * layer.channels
            channels = layer.channels
        elif layer.kind == "dense":
            work = channels * layer.channels
        forward += work
        step += work
        if index >= freeze and work:
            step += work * (2 if trained else 1)
            trained = True
    return forward / 1e6, step / 1e6


def versions() -> dict[str, str]:
    names = ("jax", "jaxlib", "flax", "torch", "tensorflow", "tensorflow-cpu", "keras", "numpy")
    from sscjax.system import machine

    found = {"python": platform.python_version(), "machine": machine.processor()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _ratio(found: dict[str, Any], ours: str, peer: str) -> float:
    pairs = zip(found[ours]["rates"], found[peer]["rates"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def _rates(rates: list[float]) -> str:
    """Their median and range."""
    return f"{statistics.median(rates):.1f} ({min(rates):.3g} to {max(rates):.3g})"


def table(results: dict[str, Any], size: int) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| work | sscjax, images/s (range) | against | images/s (range) | ratio | asked |",
        "|---|---|---|---|---|---|",
    ]
    for row, (ours, peers) in ROWS.items():
        found = results.get(row)
        if not found:
            continue
        rate = _rates(found[ours]["rates"])
        for peer, asked in peers.items():
            lines.append(
                f"| {row} | {rate} | {peer.partition('_')[0]} | {_rates(found[peer]['rates'])} | "
                f"{_ratio(found, ours, peer):.2f} | {f'{asked:g}' if asked else ''} |"
            )
        if "sgemm" in found:
            forward, step = multiply_adds(size, 10)
            work = step if row == "fine-tune step" else forward
            gemm = statistics.median(found["sgemm"]["rates"])
            share = statistics.median(
                a * work / b
                for a, b in zip(found[ours]["rates"], found["sgemm"]["rates"], strict=True)
            )
            asked_share = f"{CEILING:.0%}" if row == "fine-tune step" else ""
            lines.append(
                f"| {row} | {rate} | SGEMM at {2 * gemm / 1000:.0f} GFLOP/s, {work:.0f} M "
                f"multiply-adds | {gemm / work:.0f} | {share:.0%} | {asked_share} |"
            )
    lines += _long_rows(results)
    return "\n".join([*lines, *_busy(results)])


def _busy(results: dict[str, Any]) -> list[str]:
    """How many processors each case kept busy, least to most over the rounds."""
    ranges = [
        f"{name} {min(case['busy']):.1f} to {max(case['busy']):.1f}"
        for row in results.values()
        for name, case in row.items()
        if isinstance(case, dict) and "busy" in case
    ]
    return ["", f"Processors busy: {', '.join(ranges)}."] if ranges else []


def _long_rows(results: dict[str, Any]) -> list[str]:
    """The rows of whole stages and runs, in seconds."""
    lines = []
    head = results.get(STAGE_1)
    if head:
        ours, keras = (
            HEAD_EPOCHS * TRAINING / statistics.median(head[case]["rates"])
            for case in ("sscjax_head", "keras_head_epoch")
        )
        lines.append(
            f"| stage 1, {HEAD_EPOCHS} epochs | {ours:.1f} s | keras | {keras:.0f} s | "
            f"{keras / ours:.0f} | 100 |"
        )
    found = results.get(RECIPE)
    if found and not head:
        lines.append(f"| whole recipe | {found['sscjax']['seconds']:.0f} s | | | | |")
    if found and head:
        finetune = found["keras_finetune_epoch"]["rates"]
        theirs = keras + FINETUNE_EPOCHS * TRAINING / statistics.median(finetune)
        ours = found["sscjax"]["seconds"]
        lines.append(
            f"| whole recipe, start to report | {ours:.0f} s | keras, both `fit` alone | "
            f"{theirs:.0f} s | {theirs / ours:.1f} | 8 |"
        )
    if found:
        peak = found["sscjax"]["peak"] / 2**30
        lines.append(f"| its peak memory | {peak:.2f} GiB | | | | under 2.5 |")
    found = results.get(START)
    if found:
        lines.append(
            f"| first fine-tune step, warm cache | {found['warm']:.1f} s | cold | "
            f"{found['cold']:.1f} s | {found['cold'] / found['warm']:.1f} | 5 |"
        )
    return lines


# One thing at a time is varied; the others stand at 128 pixels, batch 32 and 2 threads.
SCALES: dict[str, tuple[int, ...]] = {
    "size": (96, 128, 160, 192, 224),
    "batch": (1, 4, 8, 16, 32, 64),
    "threads": (1, 2),
}


def scaling(rounds: int) -> dict[str, Any]:
    """Images per second of the fine-tune step and of the forward pass, by `SCALES`."""
    found: dict[str, Any] = {}
    for name, values in SCALES.items():
        for value in values:
            micro = f"--micro-batch={min(8, value) if name == 'batch' else 8}"
            cases = ["sscjax_finetune", "sscjax_forward"]
            measured = measure(cases, [f"--{name}={value}", micro], rounds)
            found[f"{name} {value}"] = {
                case: statistics.median(measured[case]["rates"]) for case in cases
            }
    return found


AUGMENTED = {
    "nothing": "nothing",
    "place": "flips and crops, as the paper",
    "stain": "quarter turns and stains, too",
}


def augmentation(flags: list[str], rounds: int) -> dict[str, Any]:
    """The fine-tune step on images that it changes first, by what it changes."""
    cases = {name: f"sscjax_finetune --augment={name}" for name in AUGMENTED}
    found = measure(list(cases.values()), flags, rounds)
    return {name: found[case]["rates"] for name, case in cases.items()}


def augmentation_table(found: dict[str, Any]) -> str:
    """What `augmentation` found: time per image, and its share that augmentation has."""
    lines = ["| changed on line | fine-tune step, ms per image | share |", "|---|---|---|"]
    for name, rates in found.items():
        pairs = zip(rates, found["nothing"], strict=True)
        share = statistics.median(1 - ours / plain for ours, plain in pairs)
        said = "" if name == "nothing" else f"{share:.1%}"
        lines.append(f"| {AUGMENTED[name]} | {1000 / statistics.median(rates):.2f} | {said} |")
    return "\n".join(lines)


def set_sizes() -> dict[int, Any]:
    """Whole runs on sets of `bench_sets.COUNTS` images."""
    with tempfile.TemporaryDirectory() as name:
        weights = write_weights(Path(name))
        return {count: bench_sets.measure(weights, count) for count in bench_sets.COUNTS}


def write_weights(folder: Path) -> Path:
    """Random weights in Keras' format."""
    weights = folder / "random.weights.h5"
    command = [sys.executable, str(WORKERS), "write_weights", f"--weights={weights}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return weights


def scaling_table(found: dict[str, Any]) -> str:
    """What `scaling` found, in milliseconds per image, as a Markdown table."""
    lines = ["| | fine-tune step, ms per image | forward, ms per image |", "|---|---|---|"]
    for name, rates in found.items():
        step, forward = (1000 / rates[case] for case in ("sscjax_finetune", "sscjax_forward"))
        lines.append(f"| {name} | {step:.1f} | {forward:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--scaling", action="store_true", help="measure over sizes instead")
    parser.add_argument(
        "--augmentation", action="store_true", help="measure what augmentation on line takes"
    )
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    args = parser.parse_args()
    flags = [
        f"--{name.replace('_', '-')}={getattr(args, name)}"
        for name in ("threads", "size", "batch", "micro_batch")
    ]
    kept: dict[str, Any] = {"flags": flags, "rounds": args.rounds, "versions": versions()}
    kept["started"] = time.strftime("%Y-%m-%d")
    if hasattr(os, "sched_setaffinity"):  # of whole runs, too
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    if args.scaling:
        kept["scaling"] = scaling(args.rounds)
        args.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        kept["sets"] = set_sizes()
        text = f"{scaling_table(kept['scaling'])}\n\n{bench_sets.table(kept['sets'])}"
    elif args.augmentation:
        kept["augmentation"] = augmentation(flags, args.rounds)
        text = augmentation_table(kept["augmentation"])
    else:
        kept["rows"] = {}
        for row, found in rows(args.only, flags, args.rounds):
            kept["rows"][row] = found
            # What was measured stays, whatever happens to the next row.
            args.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        text = table(kept["rows"], args.size)
    args.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print(", ".join(f"{name} {version}" for name, version in kept["versions"].items()))
    print(text)


def rows(only: str, flags: list[str], rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure every row whose name holds `only`: its name and what was found."""

    def wanted(row: str) -> bool:
        if only in row:
            print(row, file=sys.stderr, flush=True)
        return only in row

    for row, (ours, peers) in ROWS.items():
        if wanted(row):
            # Whose multiply-adds are counted: MobileNetV2's.
            extra = ["sgemm"] if row in ("fine-tune step", "forward") else []
            yield row, measure([ours, *peers, *extra], flags, rounds)
    if wanted(START):
        yield START, start(flags)
    with tempfile.TemporaryDirectory() as name:
        if only in STAGE_1 or only in RECIPE:
            weights = write_weights(Path(name))
        # An epoch of Keras takes as long as many rounds of the rows above.
        if wanted(STAGE_1):
            cases = ["sscjax_head", "keras_head_epoch"]
            yield STAGE_1, measure(cases, [*flags, f"--weights={weights}"], 2)
        if wanted(RECIPE):
            found = measure(["keras_finetune_epoch"], flags, 2)
            yield RECIPE, {**found, "sscjax": recipe(weights, Path(name))}


if __name__ == "__main__":
    main()
