"""Whatever a file holds or is called: a clear error or a sound result, and nothing else happens.

Hypothesis makes the input, always the same; the `HOSTILE_EXAMPLES` environment variable multiplies
how much of it.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sound_files
from fuzzing import changed, clear, tried
from hypothesis import example, given
from hypothesis import strategies as st
from small_runs import put

from sscjax.data import image_folder, image_io, inputs, loading
from sscjax.data.slides import reader, tiling
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError
from sscjax.inference import predict, slides
from sscjax.models.pretrained.formats import read_weights

# Pillow warns of much that is odd; here only what comes out matters.
pytestmark = pytest.mark.filterwarnings("ignore")


# ---- images -------------------------------------------------------------------------------------


IMAGES = sound_files.images()
BEGUN = st.tuples(st.sampled_from(sound_files.MAGICS), st.binary(max_size=200))
FOREIGN = st.binary(max_size=300) | BEGUN.map(b"".join)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@tried(300)
@given(data=changed(IMAGES) | FOREIGN)
def test_images(place: Path, data: bytes) -> None:
    path = place / "image.png"
    path.write_bytes(data)
    try:
        pixels = image_io.read_image(path, 16, max_pixels=100_000)
    except UserError as error:
        clear(error)
        assert str(path) in str(error)
    else:
        assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes in folders")
def test_what_is_no_file(tmp_path: Path) -> None:
    """Pipes, which would be waited for without end, and links that lead nowhere or in a ring."""
    folder = tmp_path / "set"
    for name in ("a/p/one.png", "b/q/two.png"):
        put(folder / name)
    odd = ["a/p/pipe.png", "a/p/pipe.tif", "a/p/ring.png", "b/q/gone.png"]
    for name in odd[:2]:
        os.mkfifo(folder / name)
    (folder / odd[2]).symlink_to("ring.png")
    (folder / odd[3]).symlink_to("nothing.png")
    os.mkfifo(folder / "a" / "p" / "notes")
    found = loading.load(folder, 32, corrupt="skip")
    assert list(found.skipped) == odd and found.files.tolist() == ["a/p/one.png", "b/q/two.png"]
    with pytest.raises(UserError) as caught:
        loading.load(folder, 32)
    clear(caught.value)
    # The same when a run is asked about them, also whether they are slides.
    assert slides.part([folder]) == ([], [folder])
    opened = SimpleNamespace(classes=("a", "b"), record={})
    listed = predict.listed([folder], opened)  # type: ignore[arg-type]
    [batch] = inputs.decode(listed, 32, 10)
    assert [listed[row].file for row, _ in batch.failed] == odd and len(batch.images) == 2
    with pytest.raises(UserError, match="is a pipe"), reader.open_slide(folder / odd[1]):
        pass


# ---- manifests ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(place: Path) -> Path:
    """Two images that may be named, and one beside the folder that may not."""
    inner = place / "set"
    put(inner / "a" / "one.png")
    put(inner / "b" / "two.png")
    put(place / "secret.png")
    (inner / "link.png").symlink_to(place / "secret.png")
    return inner


ESCAPES = st.sampled_from(
    [
        *("../secret.png", "a/../../secret.png", "..\\secret.png", "link.png", "/etc/passwd"),
        *("C:\\secret.png", "\\\\host\\share\\x.png", "//host/x.png", "~/x.png", "a/./one.png"),
        *("a", ".", "..", "", "one.png\0", "n" * 255 + ".png", "a/one.png", "b/two.png", "\ud800"),
    ]
)
CELLS = ESCAPES | st.text(max_size=20)


def check_manifest(folder: Path) -> None:
    try:
        found = image_folder.list_images(folder)
    except UserError as error:
        clear(error)
        return
    for record in found.records:
        assert record.path.resolve().is_relative_to(folder.resolve())
        assert record.path.is_file()


@tried(120)
@given(rows=st.lists(st.tuples(CELLS, st.sampled_from("ab"), CELLS), max_size=4))
@example(rows=[("a/one.png", "a", "p"), ("../secret.png", "b", "q")])
@example(rows=[("a/one.png", "a", "p"), ("link.png", "b", "q")])
@example(rows=[("a/one.png", "a", "p"), ("b/two.png", "b", "q")])
def test_manifests_cannot_leave_their_folder(
    folder: Path, rows: list[tuple[str, str, str]]
) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([("file", "label", "subject"), *rows])
    data = text.getvalue().encode("utf-8", "surrogatepass")
    (folder / "manifest.csv").write_bytes(data)
    check_manifest(folder)


@tried(150)
@given(data=changed([sound_files.MANIFEST]) | st.binary(max_size=100))
def test_manifests_of_any_bytes(folder: Path, data: bytes) -> None:
    (folder / "manifest.csv").write_bytes(data)
    check_manifest(folder)


# ---- weight files -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound_weights(place: Path) -> dict[str, bytes]:
    found = sound_files.weights(place)
    for suffix in found:
        weights, _ = read_weights(place / f"w{suffix}")
        assert len(weights) == 1
    return found


def weights_or_an_error(path: Path, sound: list[bytes]) -> None:
    """Files like the sound ones, written to `path`: an error, or no more than fits into memory."""

    @tried(150)
    @given(data=changed(sound) | st.binary(max_size=100))
    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        try:
            weights, _ = read_weights(path)
        except UserError as error:
            clear(error)
            return
        assert sum(array.size for array in weights.values()) <= 50_000_000

    attempt()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", (".h5", ".npz", ".safetensors"))
def test_weight_files(place: Path, sound_weights: dict[str, bytes], suffix: str) -> None:
    weights_or_an_error(place / f"changed{suffix}", [sound_weights[suffix]])


@pytest.mark.slow
def test_torch_files(place: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    sound, path = sound_files.torch_weights(place), place / "changed.pth"
    weights, _ = read_weights(place / "w.pth")
    assert len(weights) == 2
    weights_or_an_error(path, sound)


@pytest.mark.extra
def test_tensors_that_are_no_arrays(place: Path) -> None:
    """What torch can save, and NumPy cannot have."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = place / "odd.pth"
    for tensor in (
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.ones(3, device="meta"),
        torch.ones(1).expand(10**9),
    ):
        torch.save({"weight": tensor}, path)
        with pytest.raises(UserError) as caught:
            read_weights(path)
        clear(caught.value)
        assert str(path) in str(caught.value)


# ---- slides -------------------------------------------------------------------------------------


def look_at_slide(path: Path) -> None:
    """What cutting does: the thumbnail, a plan, and every tile."""
    wish = Settings(field_px=32, tile_size=16, max_tiles=4, min_tissue=0.0)
    with reader.open_slide(path) as slide:
        thumbnail = slide.thumbnail(64)
        assert thumbnail.dtype == np.uint8 and max(thumbnail.shape[:2]) <= 64
        assert slide.read(-8, 8, 0, 32, 32).shape == (32, 32, 3)
        for tile in tiling.tiles(slide, tiling.plan(slide, wish), wish, "slide"):
            assert tile.pixels.shape == (16, 16, 3)


@pytest.mark.slow
def test_slides(place: Path) -> None:
    pytest.importorskip("openslide", reason="OpenSlide is not installed")
    sound, path = sound_files.slides(place), place / "changed.svs"
    for data in sound:
        path.write_bytes(data)
        look_at_slide(path)

    @tried(150)
    @given(data=changed(sound) | FOREIGN)
    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        try:
            look_at_slide(path)
        except UserError as error:
            clear(error)

    attempt()
