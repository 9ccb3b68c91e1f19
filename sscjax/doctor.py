"""Is this machine fit for it? `python -m sscjax.doctor` looks, on one page, and says the mends.

Exit code 0: all is right, or there is something to know. 1: something is wrong. 2: a mistake on the
command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import math
import os
import platform
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import sscjax
from sscjax import cli, files, machine, optim, report, steps
from sscjax.data import trial
from sscjax.errors import UserError
from sscjax.models import MobileNetV2, Model, conv, depthwise, fast, initial_variables
from sscjax.pretrained import cache, download

State = Literal["ok", "note", "wrong"]

FAILED = 1

PACKAGE = "sscjax"

GIBIBYTE = 2**30

LEAST_DISK = 1.0
"""GiB free where the cache and the runs lie: a run of MobileNetV2 keeps some 0.3, features more."""

LEAST_MEMORY = 2.5
"""GiB: what the whole recipe takes at its peak (docs/performance.md) and a little more."""

EXPECTED = {"forward pass": 590.0, "training step": 165.0}
"""Images/s of MobileNetV2 at 128x128 pixels on two cores, from docs/performance.md."""

SHARE = 0.2
"""Of these, below which a machine is called slow: the same machine varies by a factor of two."""

# Of the length of the gradient: float32 on one side, and the order of its additions.
_GRADIENT_OFF = 1e-4
_STEP = 1e-5  # of the finite differences, in float64
_DIRECTIONS = 2  # per array


@dataclasses.dataclass(frozen=True)
class Check:
    """What was looked at.

    Attributes:
      name: a word or two.
      state: 'ok'; 'note', worth knowing; 'wrong', results or runs will suffer.
      found: one line.
      mend: one line, '' where there is nothing to mend.
    """

    name: str
    state: State
    found: str
    mend: str = ""


# --- the checks -----------------------------------------------------------------------------------


def versions(requirements: Sequence[str] | None = None) -> Check:
    """Python and libraries against the bounds of the installed package.

    Args:
      requirements: lines as in the package's metadata; None reads them there.
    """
    name = "versions"
    mend = "install again: pip install --upgrade --force-reinstall sscjax"
    python = platform.python_version()
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return Check(name, "wrong", "the library 'packaging' is missing", mend)
    wanted_python = None
    if requirements is None:
        try:
            described = importlib.metadata.metadata(PACKAGE)
            requirements = importlib.metadata.requires(PACKAGE) or []
            wanted_python = described["Requires-Python"] if "Requires-Python" in described else None
        except importlib.metadata.PackageNotFoundError:
            found = f"Python {python}; sscjax is not installed, so its bounds are not known"
            return Check(name, "note", found, "install it: pip install -e . in the clone")
    bad = []
    if wanted_python and not SpecifierSet(wanted_python).contains(python, prereleases=True):
        bad.append(f"Python {python} (expected {wanted_python})")
    count = 0
    for line in requirements:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{wanted.name} is missing (expected {wanted.specifier})")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            bad.append(f"{wanted.name} {found} (expected {wanted.specifier})")
    if bad:
        return Check(name, "wrong", ", ".join(bad), mend)
    text = f"sscjax {sscjax.__version__}, Python {python}, jax {jax.__version__}; "
    return Check(name, "ok", text + f"all {count} libraries are within their bounds")


def devices() -> Check:
    """What JAX computes on."""
    name = "devices"
    try:
        found = jax.devices()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        return Check(name, "wrong", f"JAX finds none ({reason})", "unset JAX_PLATFORMS")
    kinds = ", ".join(f"{one.platform}: {one.device_kind}" for one in found[:4])
    if jax.config.read("jax_enable_x64"):
        return Check(
            name,
            "wrong",
            f"{kinds}, with JAX_ENABLE_X64: nothing here is tested in double precision",
            "unset JAX_ENABLE_X64",
        )
    return Check(name, "ok", f"{kinds} ({machine.processor()})")


def threads(allowed: int | None = None, quota: float | None = None) -> Check:
    """Threads that XLA starts, and the cores that they get.

    Args:
      allowed: processors that this process may use; None asks.
      quota: processors' worth of time that a container grants; None reads it.
    """
    name = "threads"
    allowed = machine.processors() if allowed is None else allowed
    quota = _quota() if quota is None else quota
    found = f"{allowed} of {os.cpu_count()} processors may be used, a thread each"
    if quota is not None and quota < 0.9 * allowed:
        return Check(
            name,
            "note",
            f"{found}, but the container grants the time of {quota:g}: threads wait for each other",
            f"pin the command to fewer: taskset -c 0-{max(1, math.ceil(quota)) - 1} python -m ...",
        )
    return Check(name, "ok", found)


def _quota() -> float | None:
    """Processors' worth of time by the control group; None where it is not limited or not known."""
    try:
        most, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError):
        return None


def cache_folder() -> Check:
    """Where weights, features and compiled programs are kept."""
    folder = cache.cache_dir()
    return _writable("cache folder", folder, "name another folder: SSCJAX_CACHE=FOLDER")


def compiled() -> Check:
    """Where compiled programs are kept: without them every start compiles for half a minute."""
    config: Any = jax.config  # its fields are made at run time
    named = config.jax_compilation_cache_dir
    if not named or not config.jax_enable_compilation_cache:
        return Check(
            "compiled programs",
            "note",
            "are not kept: every start compiles anew",
            "unset JAX_ENABLE_COMPILATION_CACHE, or set JAX_COMPILATION_CACHE_DIR=FOLDER",
        )
    mend = "name another folder: JAX_COMPILATION_CACHE_DIR=FOLDER"
    return _writable("compiled programs", Path(named), mend)


def _writable(name: str, folder: Path, mend: str) -> Check:
    try:
        files.write_bytes(folder / ".doctor", b"")
        (folder / ".doctor").unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return Check(name, "wrong", f"{_shown(folder)} cannot be written ({reason})", mend)
    sizes = list(_sizes(folder))
    size = sum(sizes) / GIBIBYTE
    return Check(name, "ok", f"{_shown(folder)}: {size:.2f} GiB in {len(sizes)} files, writable")


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for each in names:
            try:
                yield os.lstat(os.path.join(place, each)).st_size
            except OSError:  # just removed by a run
                continue


def _shown(path: Path) -> str:
    return report.clean_file(str(path), 60)


def weights() -> Check:
    """Where ImageNet's weights would come from; nothing is fetched."""
    name, path = "ImageNet weights", cache.cache_dir() / download.release_name(128, 1.0)
    try:
        there = path.is_file()
    except OSError as error:
        return Check(name, "wrong", f"{_shown(path)}: {error.strerror}", "see the cache folder")
    if not there:
        return Check(
            name,
            "note",
            f"not in the cache: the first run fetches them from {download.BASE_URL}",
            f"without a network: copy {path.name} into the cache folder, or train with "
            "--config.pretrained=PATH; else the bundled backbone stands in",
        )
    try:
        download.imagenet_weights(128, 1.0)
    except UserError as error:
        return Check(name, "wrong", str(error).replace(str(path), path.name), "as it says")
    return Check(name, "ok", f"in the cache ({path.name}), unchanged since their first use")


def disk(folders: Sequence[Path] | None = None) -> Check:
    """Free space where the cache and where new runs lie.

    Args:
      folders: those to look at; None takes these two.
    """
    name, parts, least = "disk space", [], math.inf
    for folder in [cache.cache_dir(), Path.cwd()] if folders is None else folders:
        there = next((one for one in (folder, *folder.parents) if one.is_dir()), None)
        if there is None:
            continue
        free = shutil.disk_usage(there).free / GIBIBYTE
        parts.append(f"{free:.1f} GiB free at {_shown(folder)}")
        least = min(least, free)
    found = ", ".join(dict.fromkeys(parts))
    if least < LEAST_DISK:
        mend = f"free {LEAST_DISK:g} GiB, or name other places: SSCJAX_CACHE and --workdir"
        return Check(name, "wrong", found, mend)
    return Check(name, "ok", found)


def memory(available: float | None = None) -> Check:
    """Memory that programs may still take.

    Args:
      available: GiB; None asks the system.
    """
    name = "memory"
    available = _available() if available is None else available
    if available is None:
        return Check(name, "note", "how much is free cannot be told on this system")
    found = f"{available:.1f} GiB are free"
    if available < LEAST_MEMORY:
        return Check(
            name,
            "note" if available >= LEAST_MEMORY / 2 else "wrong",
            f"{found}; training MobileNetV2 at 128x128 pixels takes up to {LEAST_MEMORY:g}",
            "close other programs, or lower --config.batch_size and --config.data.max_megabytes",
        )
    return Check(name, "ok", found)


def _available() -> float | None:
    """GiB that are free by the system and by the control group; None where neither tells."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024 / GIBIBYTE)
    except (OSError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text(encoding="ascii"))  # 'max' is no number
        used = int((group / "memory.current").read_text(encoding="ascii"))
        found.append((most - used) / GIBIBYTE)
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def decoding() -> Check:
    """A picture in every format, written and read back."""
    bad = trial.misread()
    if bad:
        mend = "install Pillow again: pip install --force-reinstall pillow"
        return Check("decoding", "wrong", "; ".join(bad), mend)
    return Check("decoding", "ok", f"{', '.join(trial.FORMATS)} come back as they were written")


# --- gradients ------------------------------------------------------------------------------------


Arrays = dict[str, Any]

_SIDE, _BATCH = 12, 4


def gradients() -> Check:
    """Gradients of a small network of this package's layers: compiled, eager, by differences."""
    bad = wrong_gradients(_loss)
    if bad:
        return Check(
            "gradients",
            "wrong",
            f"{'; '.join(bad[:3])}: networks trained here would be wrong",
            f"install another jaxlib (this is {importlib.metadata.version('jaxlib')}) within the "
            "bounds above, and say so where sscjax is kept",
        )
    return Check(
        "gradients", "ok", "of every kind of layer: compiled, eager and by differences agree"
    )


def _network() -> tuple[Arrays, np.ndarray]:
    """Parameters, in float64, and images of a network that has every kind of layer once."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "first": (3, 3, 3, 8),
        "expand": (1, 1, 8, 16),
        "expand bias": (16,),
        "depthwise": (3, 3, 1, 16),
        "depthwise bias": (16,),
        "depthwise by 2": (3, 3, 1, 16),
        "project": (1, 1, 16, 8),
        "scale": (8,),
        "shift": (8,),
        "second": (3, 3, 8, 8),
        "dense": (8, 3),
        "dense bias": (3,),
    }
    params: Arrays = {}
    for name, shape in shapes.items():
        fan = max(1, math.prod(shape[:-1]))
        params[name] = rng.normal(size=shape) * math.sqrt(2 / fan)
    params["scale"] = 1.0 + 0.1 * params["scale"]
    # Float32 numbers, so that both precisions begin at the same place.
    params = {name: value.astype(np.float32).astype(np.float64) for name, value in params.items()}
    images = rng.uniform(-1, 1, (_BATCH, _SIDE, _SIDE, 3)).astype(np.float32)
    return params, images


def _loss(params: Arrays, images: jax.Array) -> jax.Array:
    """The network's loss: a number."""
    x = conv.dense_conv(fast.pad_image(images, 3, 1, "keras"), params["first"], 1)
    x = fast.relu6(x)
    x = conv.pointwise_conv(x, params["expand"], params["expand bias"])
    kernel, bias = params["depthwise"], params["depthwise bias"]
    x = depthwise.clipped_depthwise_conv(x, kernel, bias, 1, "keras")
    padded = fast.pad_image(x, 3, 2, "keras")
    x = depthwise.depthwise_conv(padded, params["depthwise by 2"], None, 2)
    x = conv.pointwise_conv(x, params["project"])
    x, _, _ = fast.normalize_batch(x, params["scale"], params["shift"], 1e-3)
    x = fast.max_pool(conv.dense_conv(x, params["second"], 1))
    logits = fast.add_bias(x.mean((1, 2)) @ params["dense"], params["dense bias"])
    labels = jnp.arange(_BATCH) % logits.shape[-1]
    chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return -(jax.nn.log_softmax(logits) * chosen).sum() / _BATCH


def wrong_gradients(loss: Callable[[Arrays, jax.Array], jax.Array]) -> list[str]:
    """A line for each array whose gradient is wrong.

    Three ways must agree: compiled as one program and operation by operation, both in float32, and
    central differences of the loss in float64, operation by operation.

    Args:
      loss: of the parameters and images of this module's network.
    """
    exact, images = _network()
    params = {name: jnp.asarray(value, jnp.float32) for name, value in exact.items()}
    pixels = jnp.asarray(images)
    compiled = steps.jit(jax.grad(loss))(params, pixels)
    eager = jax.grad(loss)(params, pixels)
    bad = []
    for name in params:
        one, other = np.asarray(compiled[name], float), np.asarray(eager[name], float)
        length = max(float(np.linalg.norm(other)), 1e-3)
        # Not 'greater than': what is not a number must be found, too.
        if not np.linalg.norm(one - other) <= _GRADIENT_OFF * length:
            bad.append(f"{name}: compiled and eager differ")
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        exact = {name: jnp.asarray(value) for name, value in exact.items()}
        wide = jnp.asarray(images, jnp.float64)
        for name in [*exact] * _DIRECTIONS:
            unit = rng.normal(size=exact[name].shape)
            unit /= np.linalg.norm(unit)
            above, below = (
                float(loss({**exact, name: exact[name] + step * unit}, wide))
                for step in (_STEP, -_STEP)
            )
            gradient = np.asarray(compiled[name], float)
            off = abs((gradient * unit).sum() - (above - below) / (2 * _STEP))
            if not off <= _GRADIENT_OFF * max(float(np.linalg.norm(gradient)), 1e-3):
                bad.append(f"{name}: compiled and finite differences differ")
    return list(dict.fromkeys(bad))


# --- speed ----------------------------------------------------------------------------------------


def speed(model: Model | None = None, size: int = 128, seconds: float = 1.5) -> Check:
    """Images/s of a forward pass and a training step.

    Args:
      model: the network; None takes MobileNetV2.
      size: height and width of the images in pixels.
      seconds: how long each is timed, after the compilation.
    """
    model = MobileNetV2(3, dropout_rate=0.2) if model is None else model
    return judged_speed(measured(model, size, seconds))


def judged_speed(found: dict[str, float]) -> Check:
    """What images/s by kind of work are worth, beside `EXPECTED`."""
    parts = [
        f"{name} {found[name]:.0f} (expected {SHARE * usual:.0f} or more; {usual:.0f} on 2 cores)"
        for name, usual in EXPECTED.items()
    ]
    text = f"images/s of MobileNetV2: {', '.join(parts)}, by docs/performance.md"
    if any(found[name] < SHARE * usual for name, usual in EXPECTED.items()):
        mend = "close what else is running, plug in the charger, and look at 'threads' above"
        return Check("speed", "note", text, mend)
    return Check("speed", "ok", text)


def measured(model: Model, size: int, seconds: float, batch: int = 32) -> dict[str, float]:
    """Images/s by kind of work: what `EXPECTED` names."""
    # As where those were measured: the recipe's fine-tuning.
    frozen_layers = 10 if isinstance(model, MobileNetV2) else 0
    variables = jax.tree.map(jnp.asarray, initial_variables(model, size, 0))
    params, statistics = variables["params"], variables.get("batch_stats", {})
    program = steps.Program(
        model,
        steps.Objective("softmax"),
        lambda stored, key: stored.astype(jnp.float32) / 127.5 - 1.0,
        micro_batch=8,
    )
    rng = np.random.default_rng(0)
    stored = jnp.asarray(rng.integers(0, 256, (batch, size, size, 3), np.uint8))
    predict = steps.make_predict(program)
    forward = _rate(lambda: predict(params, statistics, stored), seconds, batch)
    labels = optim.label_layers(
        model.layer_names, model.head_start, params, trainable="all", freeze_first=frozen_layers
    )
    adam = optim.make_optimizer("adam", optim.make_schedule("constant", 1e-4, steps=1))
    optimizer = optim.freeze_mask(adam, labels)
    state = steps.TrainState(jnp.int32(0), params, statistics, optimizer.init(params))
    epoch = steps.make_epoch(program, optimizer, labels)
    kinds = jnp.asarray(rng.integers(0, 3, batch).astype(np.int32))
    order = np.arange(batch, dtype=np.int32)[None]
    real = np.ones((1, batch), np.float32)

    def step() -> Any:
        nonlocal state
        state, sums = epoch(state, stored, kinds, order, real, jax.random.key(0))
        return sums.loss

    return {"forward pass": forward, "training step": _rate(step, seconds, batch)}


def _rate(call: Callable[[], Any], seconds: float, batch: int) -> float:
    for _ in range(2):  # compiles, and warms the memory
        jax.block_until_ready(call())
    started, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - started < seconds:
        jax.block_until_ready(call())
        calls += 1
    return calls * batch / (time.perf_counter() - started)


# --- the page -------------------------------------------------------------------------------------


CHECKS: tuple[Callable[[], Check], ...] = (
    *(versions, devices, threads, memory, disk, cache_folder, compiled, weights),
    *(decoding, gradients, speed),
)
"""All of them, those first whose mend may mend the others."""


def examine(checks: Sequence[Callable[[], Check]] = CHECKS) -> Iterator[Check]:
    """Each check's outcome; one that fails itself is wrong, and the others go on."""
    for check in checks:
        try:
            yield check()
        except Exception as error:  # the machine may be broken in any way
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            name = check.__name__.replace("_", " ")
            yield Check(name, "wrong", f"the check itself failed ({reason})", "see 'versions'")


def line(check: Check) -> str:
    """A check for the page: its lines, at most `report.WIDTH` columns."""
    marks = {"ok": "ok", "note": "note", "wrong": "WRONG"}
    text = textwrap.fill(
        check.found,
        report.WIDTH,
        initial_indent=f"{marks[check.state]:6}{check.name:18}",
        subsequent_indent=" " * 24,
        break_on_hyphens=False,
    )
    if check.mend:
        text += "\n" + textwrap.fill(
            f"mend: {check.mend}",
            report.WIDTH,
            initial_indent=" " * 24,
            subsequent_indent=" " * 30,
            break_on_hyphens=False,
        )
    return text


def main() -> int:
    """Parse the command line, look, print."""
    parser = argparse.ArgumentParser(
        prog="python -m sscjax.doctor", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there, too")
    arguments = parser.parse_args()
    cli.set_up_log()
    cli.set_up_jax()
    return run(arguments.json)


def run(path: Path | None = None, checks: Sequence[Callable[[], Check]] = CHECKS) -> int:
    """Look, print each finding as it comes, and write them to `path`; the exit code.

    Raises:
      UserError: the file cannot be written.
    """
    found = []
    for check in examine(checks):
        found.append(check)
        print(line(check), flush=True)
    wrong = sum(check.state == "wrong" for check in found)
    notes = sum(check.state == "note" for check in found)
    print(f"\n{len(found)} checks: {wrong} wrong, {notes} to know")
    if path is not None:
        _write(path, found)
    return FAILED if wrong else 0


def _write(path: Path, found: Sequence[Check]) -> None:
    value = {
        "sscjax": sscjax.__version__,
        "ok": all(check.state != "wrong" for check in found),
        "checks": [dataclasses.asdict(check) for check in found],
    }
    try:
        files.write_json(path, value)
    except OSError as error:
        raise UserError(
            f"--json={path} cannot be written ({error.strerror}): name another file"
        ) from error


if __name__ == "__main__":
    sys.exit(cli.call(main))
