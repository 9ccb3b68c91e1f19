"""Whether this machine is fit for training, and what to fix: the checks of `sscjax doctor`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import platform
import shutil
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sscjax.errors import UserError
from sscjax.models import CNN, initial_variables
from sscjax.models.pretrained import download
from sscjax.system import cache_dir, files, formatting, machine
from sscjax.training import freezing, losses, optimizers
from sscjax.training.programs import Program
from sscjax.training.train_step import TrainState, make_epoch

PACKAGE = "sscjax"
REINSTALL = "pip install --upgrade --force-reinstall sscjax"
GIBIBYTE, MEMINFO = 2**30, Path("/proc/meminfo")
LEAST_DISK, LEAST_MEMORY = 1.0, 2.5  # GiB for the default recipe (docs/performance.md)
_SIDE, _BATCH = 32, 16  # pixels and images of the training step


class Check(NamedTuple):
    """The outcome of one check; `fix` is '' where there is nothing to fix."""

    state: Literal["ok", "warning", "problem"]
    text: str
    fix: str = ""


def libraries(requirements: Sequence[str] | None = None) -> Check:
    """Python and libraries against the bounds in the metadata; None reads the package's own."""
    from packaging.specifiers import SpecifierSet

    bounds = importlib.metadata.metadata(PACKAGE)["Requires-Python"]
    unmet = _unmet(requirements)
    if not SpecifierSet(bounds).contains(platform.python_version(), prereleases=True):
        unmet.insert(0, f"Python {platform.python_version()} (expected {bounds})")
    if unmet:
        return Check("problem", ", ".join(unmet), REINSTALL)
    names = ("jax", "flax", "optax", "orbax-checkpoint")
    installed = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return Check("ok", f"Python {platform.python_version()}, {installed}")


def extra(name: str, purpose: str) -> Check:
    """Whether an optional extra of the package is installed, within its bounds."""
    unmet = _unmet(extra=name)
    if not unmet:
        return Check("ok", f"installed, for {purpose}")
    return Check("warning", ", ".join(unmet), f"for {purpose}: pip install 'sscjax[{name}]'")


def _unmet(requirements: Sequence[str] | None = None, extra: str = "") -> list[str]:
    """Those requirements, of an extra or (by '') of the package itself, that are not met."""
    from packaging.requirements import Requirement

    lines = importlib.metadata.requires(PACKAGE) or [] if requirements is None else requirements
    unmet = []
    for required in map(Requirement, lines):
        marker, own = required.marker, "extra" in str(required.marker)
        if own != bool(extra) or (marker is not None and not marker.evaluate({"extra": extra})):
            continue
        try:
            version = importlib.metadata.version(required.name)
        except importlib.metadata.PackageNotFoundError:
            unmet.append(f"{required.name} is missing (expected {required.specifier})")
            continue
        if not required.specifier.contains(version, prereleases=True):
            unmet.append(f"{required.name} {version} (expected {required.specifier})")
    return unmet


def devices() -> Check:
    """What JAX computes on; where it finds nothing, its error."""
    kinds = ", ".join(f"{device.platform}: {device.device_kind}" for device in jax.devices())
    return Check("ok", f"{kinds} ({machine.processor()}, {machine.processors()} processors)")


def memory() -> Check:
    """Memory that the machine, or the container where that is less, can still give; on Linux."""
    sizes, group = [], Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        sizes.append(int(fields["MemAvailable"].split()[0]) * 1024 / GIBIBYTE)
        most, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        sizes.append((int(most) - int(used)) / GIBIBYTE)  # 'max' is no number: no limit
    if not sizes:
        return Check("warning", "how much is available is not known on this system")
    if min(sizes) >= LEAST_MEMORY:
        return Check("ok", f"{min(sizes):.1f} GiB available")
    text = f"{min(sizes):.1f} GiB available, the default recipe takes up to {LEAST_MEMORY:g}"
    fix = "close other programs, or lower --config.batch_size and --config.data.max_megabytes"
    return Check("warning" if min(sizes) >= LEAST_MEMORY / 2 else "problem", text, fix)


def disk() -> Check:
    """Whether the cache folder can be written, and free space there and in the current folder."""
    folder = cache_dir.cache_dir()
    shown = formatting.clean_file(str(folder), 60)
    try:
        files.write_bytes(folder / ".doctor", b"")
        (folder / ".doctor").unlink()
    except OSError as error:
        text = f"the cache folder {shown} cannot be written ({error.strerror})"
        return Check("problem", text, "name another folder: SSCJAX_CACHE=FOLDER")
    cached, here = (shutil.disk_usage(path).free / GIBIBYTE for path in (folder, Path.cwd()))
    text = f"{cached:.1f} GiB free in the cache folder {shown}, {here:.1f} GiB in this folder"
    if min(cached, here) >= LEAST_DISK:
        return Check("ok", text)
    fix = f"free {LEAST_DISK:g} GiB, or name other folders: SSCJAX_CACHE=FOLDER and --workdir"
    return Check("problem", text, fix)


def weights() -> Check:
    """Whether the ImageNet weights of the default config are in the cache; downloads nothing."""
    path = cache_dir.cache_dir() / download.release_name(128, 1.0)
    if not path.is_file():
        fix = f"without a network: copy {path.name} there, or --config.pretrained=PATH"
        return Check("warning", "not in the cache: the first run downloads them", fix)
    try:
        download.imagenet_weights(128, 1.0)
    except UserError as error:
        return Check("problem", str(error), f"delete {path.name} in the cache folder")
    return Check("ok", f"{path.name} is in the cache")


def train_step(learning: float = 1e-3) -> Check:
    """Compiled training steps of a small CNN: whether all numbers are finite, and images/s."""
    model = CNN(outputs=3, widths=(8,), dense=(8,))
    params = jax.tree.map(jnp.asarray, initial_variables(model, _SIDE, 0))["params"]
    program = Program(model, losses.Objective("softmax"), lambda stored, key: stored / 255.0)
    optimizer = optimizers.make_optimizer(
        "adam", optimizers.make_schedule("constant", learning, steps=1)
    )
    labels = dict.fromkeys(params, freezing.TRAIN)
    optimizer = freezing.freeze_mask(optimizer, labels)
    epoch = make_epoch(program, optimizer, labels)
    images = np.random.default_rng(0).integers(0, 256, (_BATCH, _SIDE, _SIDE, 3), np.uint8)
    batch = np.arange(_BATCH, dtype=np.int32)
    data = (jnp.asarray(images), jnp.asarray(batch % 3), batch[None], np.ones((1, _BATCH), "f4"))
    state = TrainState(jnp.int32(0), params, {}, optimizer.init(params))
    times = []
    for _ in range(51):  # the first step compiles, and is not timed
        state, sums = jax.block_until_ready(epoch(state, *data, jax.random.key(0)))
        times.append(time.perf_counter())
    rate = (len(times) - 1) * _BATCH / (times[-1] - times[0])
    if not all(math.isfinite(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves((sums, state))):
        return Check("problem", "training steps gave numbers that are not finite", REINSTALL)
    return Check("ok", f"finite; {rate:.0f} images/s of {_SIDE}x{_SIDE} pixels by a small CNN")


CHECKS: dict[str, Callable[[], Check]] = {
    **{"libraries": libraries, "devices": devices, "memory": memory, "disk": disk},
    **{"ImageNet weights": weights, "training step": train_step},
    "extra slides": lambda: extra("slides", "whole slides"),
    "extra export": lambda: extra("export", "exported files"),
    "extra torch": lambda: extra("torch", "weights in .pth files"),
}


def run(checks: Mapping[str, Callable[[], Check]] = CHECKS) -> int:
    """Print each outcome as it comes; the exit code."""
    states = []
    for name, check in checks.items():
        try:
            state, text, fix = check()
        except importlib.metadata.PackageNotFoundError:
            state, text, fix = "warning", "sscjax is not installed: not checked", "pip install -e ."
        except Exception as error:  # the machine may be broken in any way
            text = f"the check itself failed ({type(error).__name__}: {error})"
            state, fix = "problem", f"unset JAX_PLATFORMS, else {REINSTALL}"
        states.append(state)
        lines = [f"{state:9}{name:18}{text}", *([" " * 27 + f"fix: {fix}"] if fix else [])]
        for line in lines:
            print(textwrap.fill(line, formatting.WIDTH, subsequent_indent=" " * 27), flush=True)
    print(f"\n{states.count('problem')} problems, {states.count('warning')} warnings")
    return int("problem" in states)
