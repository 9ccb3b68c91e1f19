"""Each check of the doctor is content with a sound machine, and finds what is wrong."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sscjax import cli, doctor, fetch, files, report, steps
from sscjax.data import decode, trial
from sscjax.doctor import Check
from sscjax.errors import UserError
from sscjax.models import CNN, fast
from sscjax.pretrained import cache, download


def ok() -> Check:
    return Check("one", "ok", "as it should be")


def wrong() -> Check:
    return Check("two", "wrong", "broken", "mend it")


# ---- versions, devices, threads -----------------------------------------------------------------


def test_installed_versions_are_within_their_bounds() -> None:
    found = doctor.versions()
    assert found.state == "ok" and "libraries" in found.found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("numpy<2", "numpy"),
        ("jax>=99", "expected >=99"),
        ("no-such-library>=1", "no-such-library is missing"),
        ("numpy<2; python_version>'3'", "expected <2"),
    ],
)
def test_version_out_of_bounds(line: str, said: str) -> None:
    found = doctor.versions(["scipy>=1", line])
    assert found.state == "wrong" and said in found.found and "pip install" in found.mend


@pytest.mark.parametrize("line", ("numpy<2; python_version<'3'", "numpy<2; extra == 'bench'"))
def test_bounds_for_others_do_not_count(line: str) -> None:
    assert doctor.versions([line]).state == "ok"


def test_python_out_of_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    found = doctor.versions()
    assert found.state == "wrong" and "Python 3.9.1" in found.found


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGE", "sscjax-that-is-not-there")
    assert doctor.versions().state == "note"


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.devices().state == "ok"
    with jax.enable_x64(True):
        found = doctor.devices()
    assert found.state == "wrong" and "JAX_ENABLE_X64" in found.mend

    def none() -> Any:
        raise RuntimeError("Unable to initialize\nbackend 'tpu'")

    monkeypatch.setattr(jax, "devices", none)
    found = doctor.devices()
    assert found.state == "wrong" and "backend 'tpu'" in found.found and "\n" not in found.found


def test_threads() -> None:
    assert doctor.threads(8, 8.0).state == "ok"
    found = doctor.threads(8, 1.5)
    assert found.state == "note" and "1.5" in found.found and "taskset -c 0-1" in found.mend


# ---- places -------------------------------------------------------------------------------------


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SSCJAX_CACHE", str(folder))
    return folder


@pytest.fixture
def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Below a file nothing can be written, whoever the user is."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSCJAX_CACHE", str(tmp_path / "file" / "cache"))
    return tmp_path / "file" / "cache"


def test_cache_folder(own_folder: Path) -> None:
    files.write_bytes(own_folder / "inner" / "weights", b"x" * 2**20)
    found = doctor.cache_folder()
    assert found.state == "ok" and "in 1 files" in found.found
    assert [path.name for path in own_folder.iterdir()] == ["inner"]


@pytest.mark.usefixtures("unwritable")
def test_unwritable_cache_folder() -> None:
    found = doctor.cache_folder()
    assert found.state == "wrong" and "cannot be written" in found.found
    assert "SSCJAX_CACHE" in found.mend


@pytest.fixture
def compiled_at() -> Iterator[Callable[[str | None], None]]:
    config: Any = jax.config
    before = config.jax_compilation_cache_dir
    yield lambda folder: jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_compilation_cache_dir", before)


def test_compiled_programs(
    compiled_at: Callable[[str | None], None], tmp_path: Path, unwritable: Path
) -> None:
    compiled_at(str(tmp_path / "new"))
    assert doctor.compiled().state == "ok"
    compiled_at(str(unwritable))
    found = doctor.compiled()
    assert found.state == "wrong" and "JAX_COMPILATION_CACHE_DIR" in found.mend
    compiled_at(None)
    assert doctor.compiled().state == "note"


def test_weights(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the doctor fetches nothing")

    monkeypatch.setattr(fetch, "fetched", never)
    found = doctor.weights()
    assert found.state == "note" and download.BASE_URL in found.found
    path = cache.cache_dir() / download.release_name(128, 1.0)
    files.write_bytes(path, b"no weights")
    found = doctor.weights()
    assert found.state == "wrong" and "no usable weights" in found.found
    # As pinned at its first use: the content is looked at once only.
    files.write_json(path.with_name(path.name + ".json"), {"sha256": files.sha256(path)})
    assert doctor.weights().state == "ok"
    files.write_bytes(path, b"other weights")
    found = doctor.weights()
    assert found.state == "wrong" and "has changed" in found.found


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50 * 2**30))
    found = doctor.disk([tmp_path / "not" / "there", tmp_path])
    assert found.state == "ok" and "50.0 GiB" in found.found
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**28))
    found = doctor.disk([tmp_path])
    assert found.state == "wrong" and "free 1 GiB" in found.mend


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [doctor.memory(gib).state for gib in (8.0, 2.0, 0.5)] == ["ok", "note", "wrong"]
    monkeypatch.setattr(doctor, "_available", lambda: None)
    assert doctor.memory().state == "note"


# ---- pictures -----------------------------------------------------------------------------------


def test_decoding() -> None:
    assert doctor.decoding().state == "ok"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pixels: pixels[..., ::-1], "off by"),
        (lambda pixels: pixels[::-1], "off by"),
        (lambda pixels: pixels[:-1], "came back as"),
        (lambda pixels: pixels ^ 16, "off by 16"),
    ],
)
def test_wrong_decoder(
    change: Callable[[np.ndarray], np.ndarray], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = decode.read_image
    monkeypatch.setattr(decode, "read_image", lambda path, size: change(read(path, size)))
    found = doctor.decoding()
    assert found.state == "wrong" and said in found.found
    assert all(f"{suffix}: " in found.found for suffix in trial.FORMATS)


def test_missing_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Pillow that was built without libjpeg."""
    encoded = trial.encoded

    def without_jpg(pixels: np.ndarray, suffix: str) -> bytes:
        if suffix == "jpg":
            raise OSError("encoder jpeg not available")
        return encoded(pixels, suffix)

    monkeypatch.setattr(trial, "encoded", without_jpg)
    found = doctor.decoding()
    assert found.state == "wrong" and found.found == "jpg: encoder jpeg not available"


# ---- gradients ----------------------------------------------------------------------------------


def test_gradients_of_this_machine() -> None:
    assert doctor.gradients().state == "ok"


def off_by(factor: float) -> Callable[[jax.Array], jax.Array]:
    """ReLU6 with a gradient that is wrong by a factor."""

    @jax.custom_vjp
    def relu6(x: jax.Array) -> jax.Array:
        return jnp.clip(x, 0.0, 6.0)

    relu6.defvjp(
        lambda x: (relu6(x), x),
        lambda x, g: (jnp.where((x > 0) & (x < 6), g * factor, 0.0),),
    )
    return relu6


def test_wrong_gradient_is_found_by_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong compiled and eager alike, as a mistake in a hand-written gradient would be."""
    monkeypatch.setattr(fast, "relu6", off_by(1.01))
    found = doctor.gradients()
    assert found.state == "wrong" and found.mend
    assert "first: compiled and finite differences differ" in found.found


def test_gradient_that_is_not_a_number_is_found() -> None:
    relu6 = off_by(float("nan"))
    found = doctor.wrong_gradients(lambda params, images: relu6(params["scale"]).sum())
    assert found == [
        "scale: compiled and eager differ",
        "scale: compiled and finite differences differ",
    ]


@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("layer", ("depthwise", "dense bias"))
def test_wrong_compiler_is_found(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right operation by operation, wrong as one program: one number of one array."""

    def jit(function: Any) -> Any:
        def compiled(*args: Any) -> Any:
            found = dict(jax.jit(function)(*args))
            flat = np.array(found[layer]).ravel()
            flat[0] += 0.05 * np.linalg.norm(flat)
            found[layer] = flat.reshape(found[layer].shape)
            return found

        return compiled

    monkeypatch.setattr(steps, "jit", jit)
    found = doctor.wrong_gradients(doctor._loss)
    assert f"{layer}: compiled and eager differ" in found
    assert {line.partition(":")[0] for line in found} == {layer}


# ---- speed --------------------------------------------------------------------------------------


def test_speed_is_measured() -> None:
    """Of another network and another size: only that something is."""
    found = doctor.measured(CNN(outputs=3, widths=(4,), dense=(8,)), 16, 0.01, batch=8)
    assert list(found) == list(doctor.EXPECTED) and min(found.values()) > 0


def test_speed_is_judged() -> None:
    usual = dict(doctor.EXPECTED)
    assert doctor.judged_speed(usual).state == "ok"
    assert doctor.judged_speed({name: value / 4 for name, value in usual.items()}).state == "ok"
    for name in usual:
        found = doctor.judged_speed({**usual, name: usual[name] / 6})
        assert found.state == "note" and "docs/performance.md" in found.found and found.mend


def test_expected_speed_is_that_of_the_page() -> None:
    """The figures that the check names stand where it says."""
    page = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
    rows = [line.split("|") for line in page.read_text(encoding="utf-8").splitlines()]
    of = {
        row[1].strip(): float(row[2].split()[0])
        for row in rows
        if len(row) > 4 and "torch" in row[3]
    }
    assert abs(of["forward"] / doctor.EXPECTED["forward pass"] - 1) < 0.05
    assert abs(of["fine-tune step"] / doctor.EXPECTED["training step"] - 1) < 0.05


# ---- the page -----------------------------------------------------------------------------------


def test_page_and_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.run(None, [ok]) == 0
    assert doctor.run(tmp_path / "found.json", [ok, wrong]) == 1
    out = capsys.readouterr().out
    assert "WRONG two" in out and "mend: mend it" in out and "2 checks: 1 wrong" in out
    kept = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert kept["ok"] is False
    assert kept["checks"][1] == {
        "name": "two",
        "state": "wrong",
        "found": "broken",
        "mend": "mend it",
    }


def test_note_is_no_failure() -> None:
    assert doctor.run(None, [lambda: Check("three", "note", "good to know", "if you like")]) == 0


def test_check_that_fails_itself_is_wrong_and_stops_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> Check:
        raise ZeroDivisionError("oh\nno")

    assert doctor.run(None, [broken, ok]) == 1
    out = capsys.readouterr().out
    assert "ZeroDivisionError: oh no" in out and "ok    one" in out


def test_unwritable_json_is_the_user_s_mistake(unwritable: Path) -> None:
    with pytest.raises(UserError, match="--json"):
        doctor.run(unwritable / "found.json", [ok])


def test_lines_fit_the_terminal() -> None:
    long = Check("long", "wrong", "word " * 60, "mend " * 60)
    for line in doctor.line(long).splitlines():
        assert len(line) <= report.WIDTH


def test_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All checks but the slow ones, by the program itself."""
    quick = [one for one in doctor.CHECKS if one not in (doctor.gradients, doctor.speed)]
    assert len(quick) == len(doctor.CHECKS) - 2
    monkeypatch.setattr(doctor.run, "__defaults__", (None, quick))
    monkeypatch.setattr(cli, "set_up_log", lambda: None)
    monkeypatch.setattr(cli, "set_up_jax", lambda: None)
    monkeypatch.setattr("sys.argv", ["doctor", "--json", str(tmp_path / "found.json")])
    code = cli.call(doctor.main)
    kept = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert code == (0 if kept["ok"] else 1)
    assert len(capsys.readouterr().out.splitlines()) < 50  # one page
    monkeypatch.setattr("sys.argv", ["doctor", "--jsn"])
    with pytest.raises(SystemExit) as caught:
        cli.call(doctor.main)
    assert caught.value.code == 2
