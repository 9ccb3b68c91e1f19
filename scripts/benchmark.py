"""Measure this package beside PyTorch, Keras on TensorFlow and plain Flax, in one run.

    pip install '.[bench]'
    python scripts/benchmark.py [--rounds=9] [--threads=2] [--out=benchmark.json] [--only=WORD]

Every case is a process of its own (`benchmark_cases.py`) that holds one framework and waits while
others are timed. A round times each case of a row once, in turn, so that a slow minute of the
machine affects all of them; what counts are medians over the rounds, and ratios of a row within
each round.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark_cases import FROZEN, Settings


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the figures: our case and those it is compared with.

    `sgemm` says whether the share of the machine's matrix products is given: of MobileNetV2, whose
    multiply-adds are counted.
    """

    ours: str
    peers: tuple[str, ...]
    sgemm: bool = False


ROWS = {
    "fine-tune step": Row(
        "sscjax_finetune", ("torch_finetune", "keras_finetune", "plain_finetune"), sgemm=True
    ),
    "forward": Row("sscjax_forward", ("torch_forward", "keras_forward"), sgemm=True),
    "CNN step": Row("sscjax_cnn", ("torch_cnn",)),
    "FD-UNet step": Row("sscjax_fd_unet", ("torch_fd_unet",)),
}
START = "warm start"


def main() -> None:
    """Measure every row, write each at once, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="rows whose name contains this word")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    defaults = dataclasses.asdict(Settings())
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = parser.parse_args()
    settings = Settings(**{name: getattr(given, name) for name in defaults})
    # Every framework sizes its pool of threads by the processors it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.threads])
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(settings.threads)
    results: dict[str, Any] = {}
    record = {"settings": dataclasses.asdict(settings), "rounds": given.rounds}
    record |= {"versions": versions(), "started": time.strftime("%Y-%m-%d"), "rows": results}
    for name in (*ROWS, START):
        if given.only not in name:
            continue
        print(name, file=sys.stderr, flush=True)
        if name == START:
            results[name] = measure_start(settings)
        else:
            results[name] = measure(ROWS[name], settings, given.rounds)
        # What was measured stays, whatever happens to the next row.
        given.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(table(results, settings.size))


# ---- measuring -----------------------------------------------------------------------------------


class Worker:
    """One case in a process of its own."""

    def __init__(self, case: str, settings: Settings, cache: str = "") -> None:
        self.case = case
        script = Path(__file__).with_name("benchmark_cases.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), case, json.dumps(dataclasses.asdict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Nothing compiled elsewhere: perhaps it was for another number of processors.
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
        )
        self.ready: float = self._result()["ready"]

    def _result(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the worker {self.case} ended with exit code {self.process.wait()}")
        result: dict[str, Any] = json.loads(line)
        return result

    def time(self) -> dict[str, Any]:
        """Run the case once: seconds, processor seconds, and images."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._result()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(row: Row, settings: Settings, rounds: int) -> dict[str, Any]:
    """Time each case once per round, in turn.

    Returns:
      by case: 'rates' (images per second of each round), 'busy' (processors, of each round) and
      'first' (seconds of set-up and the first run).
    """
    workers = []
    for case in (row.ours, *row.peers, *(("sgemm",) if row.sgemm else ())):
        print(f"  starting {case}", file=sys.stderr, flush=True)
        workers.append(Worker(case, settings))
    results: dict[str, Any] = {
        worker.case: {"rates": [], "busy": [], "first": worker.ready} for worker in workers
    }
    for _ in range(rounds):
        for worker in workers:
            # A moment's rest, or the case before is still winding up its threads.
            time.sleep(0.2)
            measured, result = worker.time(), results[worker.case]
            result["rates"].append(measured["images"] / measured["seconds"])
            result["busy"].append(measured["processor_seconds"] / measured["seconds"])
    for worker in workers:
        worker.close()
    return results


def measure_start(settings: Settings) -> dict[str, float]:
    """Seconds to the end of the first fine-tune step, with an empty cache and with a filled one."""
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            worker = Worker("sscjax_finetune", settings, cache)
            seconds[name] = worker.ready
            worker.close()
    return seconds


def versions() -> dict[str, str]:
    """Python, the machine, and every framework that is installed."""
    machine = platform.processor() or platform.machine()
    installed = {"python": platform.python_version(), "machine": machine}
    names = "jax jaxlib flax torch tensorflow tensorflow-cpu keras numpy"
    for name in names.split():
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


# ---- the table -----------------------------------------------------------------------------------


def multiply_adds(size: int, freeze_first: int) -> tuple[float, float]:
    """Millions of multiply-adds per image of MobileNetV2 1.0: forward, and of a training step.

    The step adds the kernel gradient of every layer that trains, and the input gradient of every
    layer after the first that trains.
    """
    from sscjax.models import MobileNetV2

    forward = step = 0
    pixels, channels, trained = size, 3, False
    for index, layer in enumerate(MobileNetV2(3).layers):
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
        if index >= freeze_first and work:
            step += work * (2 if trained else 1)
            trained = True
    return forward / 1e6, step / 1e6


def _range(rates: list[float]) -> str:
    """Their median and range."""
    return f"{statistics.median(rates):.1f} ({min(rates):.3g} to {max(rates):.3g})"


def _ratio(rates: list[float], others: list[float]) -> float:
    """The median of the ratios within each round."""
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))


def _cells(name: str, measured: dict[str, Any], size: int) -> list[tuple[str, ...]]:
    """The lines of one row: against each peer, and against the machine's matrix products."""
    row, rates = ROWS[name], {case: result["rates"] for case, result in measured.items()}
    ours = rates[row.ours]
    lines: list[tuple[str, ...]] = [
        (
            *(name, _range(ours), peer.partition("_")[0], _range(rates[peer])),
            f"{_ratio(ours, rates[peer]):.2f}",
        )
        for peer in row.peers
    ]
    if row.sgemm:
        work = multiply_adds(size, FROZEN)[name == "fine-tune step"]
        products = statistics.median(rates["sgemm"])
        against = f"SGEMM at {2 * products / 1000:.0f} GFLOP/s, {work:.0f} M multiply-adds"
        share = work * _ratio(ours, rates["sgemm"])
        lines.append((name, _range(ours), against, f"{products / work:.0f}", f"{share:.0%}"))
    return lines


def table(results: dict[str, Any], size: int) -> str:
    """The rows as a Markdown table, then how many processors each case kept busy."""
    lines: list[tuple[str, ...]] = [
        ("work", "sscjax, images/s (range)", "against", "images/s (range)", "ratio"),
        ("---",) * 5,
    ]
    measured = {name: results[name] for name in ROWS if name in results}
    for name, cases in measured.items():
        lines += _cells(name, cases, size)
    if START in results:
        warm, cold = results[START]["warm"], results[START]["cold"]
        start = "first fine-tune step, warm cache"
        lines.append((start, f"{warm:.1f} s", "cold", f"{cold:.1f} s", f"{cold / warm:.1f}"))
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    busy = [
        f"{case} {min(result['busy']):.1f} to {max(result['busy']):.1f}"
        for cases in measured.values()
        for case, result in cases.items()
    ]
    return text + (f"\n\nProcessors busy: {', '.join(busy)}." if busy else "")


if __name__ == "__main__":
    main()
