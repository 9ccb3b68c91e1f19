"""Where the time of a fine-tune step goes, by kind of operation, on one core.

    python scripts/profile_step.py [--micro-batch=8] [--steps=5]

JAX's profiler times each operation of the compiled program; its text says what an operation is
for. On one core, because times of operations that run beside each other do not add up.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

FROZEN, CLASSES, SIZE, BATCH = 10, 3, 128, 32


def build(micro_batch: int) -> tuple[Any, Any, Any]:
    """The compiled step, its state, and its other arguments."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from sscjax.models import MobileNetV2, initial_variables
    from sscjax.training import freezing, losses, optimizers, train_step

    model = MobileNetV2(CLASSES, dropout_rate=0.2)
    variables = jax.tree.map(jnp.asarray, initial_variables(model, SIZE, 0))
    params, statistics = variables["params"], variables["batch_stats"]
    labels = freezing.label_layers(
        model.layer_names, model.head_start, params, trainable="all", freeze_first=FROZEN
    )
    adam = optimizers.make_optimizer("adam", optimizers.make_schedule("constant", 1e-4, steps=1))
    optimizer = freezing.freeze_mask(adam, labels)
    program = train_step.Program(
        model,
        losses.Objective("softmax"),
        lambda stored, key: stored.astype(jnp.float32) / 127.5 - 1.0,
        micro_batch=micro_batch,
    )
    rng = np.random.default_rng(0)
    stored = jnp.asarray(rng.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8))
    state = train_step.TrainState(jnp.int32(0), params, statistics, optimizer.init(params))
    rest = (
        stored,
        jnp.asarray(rng.integers(0, CLASSES, BATCH).astype(np.int32)),
        np.arange(BATCH, dtype=np.int32)[None],
        np.ones((1, BATCH), np.float32),
        jax.random.key(0),
    )
    epoch = train_step.make_epoch(program, optimizer, labels)
    return epoch.lower(state, *rest).compile(), state, rest  # type: ignore[attr-defined]


def purposes(text: str) -> dict[str, str]:
    """Of each operation in a compiled program's text: what it is for."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (\S+) ([\w\-]+)\(", line)
        name = re.search(r'op_name="([^"]*)"', line)
        if match and match[3] not in ("while", "conditional", "call"):
            found[match[1]] = _purpose(match[1], match[3], name[1] if name else "")
    return found


def _purpose(instruction: str, operation: str, name: str) -> str:
    from sscjax.models.ops.depthwise import KERNEL_GRADIENT

    way = "backward" if "transpose(" in name else "forward"
    if KERNEL_GRADIENT in name:
        return "depthwise, kernel gradient"
    if "dot" in instruction or operation == "dot" or "dot_general" in name.rpartition("/")[2]:
        return f"matrix products, {way}"
    if name.endswith("/pad") or instruction.startswith("pad"):
        return f"padding, {way}"
    if "_depthwise" in name:
        return f"depthwise and its ReLU6, {way}"
    if "_relu" in name or name.endswith(("select_n", "/max", "/min", "jit(clip)")):
        return f"the other ReLU6, {way}"
    if "MobileNetV2" in name:
        return f"other elementwise work of the network, {way}"
    return "folding, optimizer, batch"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    import jax

    from sscjax.system import malloc

    malloc.keep()
    # A program that was compiled for more processors is another one.
    jax.config.update("jax_enable_compilation_cache", False)
    step, state, rest = build(args.micro_batch)
    what = purposes(step.as_text())
    for _ in range(2):
        state, _ = step(state, *rest)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(args.steps):
        state, _ = step(state, *rest)
    jax.block_until_ready(state)
    whole = (time.perf_counter() - started) / args.steps
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(args.steps):
                state, _ = step(state, *rest)
            jax.block_until_ready(state)
        path = next(Path(folder).rglob("*.xplane.pb"))
        data = jax.profiler.ProfileData.from_file(str(path))
    spent: collections.Counter[str] = collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in what:
                    spent[what[event.name]] += event.duration_ns
    total = sum(spent.values())
    print(
        f"{total / args.steps / 1e6:.0f} ms for {BATCH} images, {whole * 1e3:.0f} ms unobserved\n\n"
        "| | ms | share |\n|---|---|---|"
    )
    for purpose, nanoseconds in spent.most_common():
        milliseconds = nanoseconds / args.steps / 1e6
        print(f"| {purpose} | {milliseconds:.0f} | {nanoseconds / total:.0%} |")


if __name__ == "__main__":
    main()
