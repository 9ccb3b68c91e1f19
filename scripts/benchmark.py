"""Measure this package beside PyTorch, Keras on TensorFlow and plain Flax, in one run.

    pip install '.[bench]'
    python scripts/benchmark.py [--rounds=9] [--threads=2] [--out=benchmark.json] [--only=WORD]

Every case is a process of its own that holds one framework and waits while others are timed
(`scripts/bench_workers.py`). A round times each case of a row once, in turn, so that a slow minute
of the machine meets all of them; what counts are medians over the rounds, and ratios of a row
within each round.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).resolve().parent / "bench_workers.py"

# Millions of multiply-adds of MobileNetV2 1.0 per image of 128x128 pixels: forward, and those of
# the gradients of a fine-tuning step with the first ten layers frozen (`multiply_adds` below).
ROWS: dict[str, tuple[str, dict[str, float]]] = {
    # row: our case, then {peer: the ratio that is asked for}
    "fine-tune step": (
        "sscjax_finetune",
        {"torch_finetune": 2.0, "keras_finetune": 4.0, "plain_finetune": 30.0},
    ),
    "forward": ("sscjax_forward", {"torch_forward": 1.3, "keras_forward": 0.0}),
    "CNN step": ("sscjax_cnn", {"torch_cnn": 1.0}),
}
CEILING = 0.45


class Worker:
    """One case in a process of its own."""

    def __init__(self, case: str, flags: list[str]) -> None:
        self.case = case
        self.process = subprocess.Popen(
            [sys.executable, str(WORKERS), case, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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
        """Run the case once: seconds, images, peak."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(cases: list[str], flags: list[str], rounds: int) -> dict[str, Any]:
    """Time each case once per round, in turn.

    Returns:
      by case: 'rates' (images per second of each round), 'first' (seconds of set-up and the first
      run) and 'peak' (resident bytes).
    """
    workers = []
    for case in cases:
        print(f"  starting {case}", file=sys.stderr, flush=True)
        workers.append(Worker(case, flags))
    found: dict[str, Any] = {
        worker.case: {"rates": [], "first": worker.ready, "peak": 0} for worker in workers
    }
    for _ in range(rounds):
        for worker in workers:
            # A moment's rest, or the case before is still winding up its threads.
            time.sleep(0.2)
            answer = worker.time()
            found[worker.case]["rates"].append(answer["images"] / answer["seconds"])
            found[worker.case]["peak"] = answer["peak"]
    for worker in workers:
        worker.close()
    return found


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
    found = {"python": platform.python_version(), "machine": _processor()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _ratio(found: dict[str, Any], ours: str, peer: str) -> float:
    pairs = zip(found[ours]["rates"], found[peer]["rates"], strict=True)
    return statistics.median(a / b for a, b in pairs)


def table(results: dict[str, Any], size: int) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| work | sscjax, images/s | against | images/s | ratio | asked |",
        "|---|---|---|---|---|---|",
    ]
    for row, (ours, peers) in ROWS.items():
        found = results.get(row)
        if not found:
            continue
        rate = statistics.median(found[ours]["rates"])
        for peer, asked in peers.items():
            lines.append(
                f"| {row} | {rate:.1f} | {peer.partition('_')[0]} | "
                f"{statistics.median(found[peer]['rates']):.1f} | "
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
                f"| {row} | {rate:.1f} | SGEMM at {2 * gemm / 1000:.0f} GFLOP/s, {work:.0f} M "
                f"multiply-adds | {gemm / work:.0f} | {share:.0%} | {asked_share} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--only", default="", help="rows whose name holds this word")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    args = parser.parse_args()
    flags = [
        f"--{name.replace('_', '-')}={getattr(args, name)}"
        for name in ("threads", "size", "batch", "micro_batch")
    ]
    results: dict[str, Any] = {}
    for row, (ours, peers) in ROWS.items():
        if args.only not in row:
            continue
        print(row, file=sys.stderr, flush=True)
        extra = [] if row == "CNN step" else ["sgemm"]
        results[row] = measure([ours, *peers, *extra], flags, args.rounds)
    kept = {"flags": flags, "rounds": args.rounds, "versions": versions(), "rows": results}
    args.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    print(", ".join(f"{name} {version}" for name, version in kept["versions"].items()))
    print(table(results, args.size))


if __name__ == "__main__":
    main()
