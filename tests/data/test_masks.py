"""Masks: found beside images, read as numbers, moved with their images, and judged by subject."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score, jaccard_score

from sscjax.configs import default
from sscjax.data import array_record, augment, lazy, loading, masks, offline_augment, sources
from sscjax.data.inputs import find
from sscjax.errors import UserError
from sscjax.evaluation import limits, resampling, segmentation, surfaces
from sscjax.experiments import data_from_config
from sscjax.training import class_weights, evaluate, settings, setup

pytestmark = pytest.mark.usefixtures("quick_compiler")

SIZE = 32
FILES = ["ill/p1/a.png", "ill/p2/b.tif", "well/p3/c.png", "well/p4/d.jpg"]


def write(path: Path, value: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """An image of noise with a mask of blocks beside it; returns the mask [H,W]."""
    rng = np.random.default_rng(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    found = np.kron(rng.integers(0, 3, (size[0] // 8, size[1] // 8), np.uint8), np.ones((8, 8)))
    Image.fromarray(found.astype(np.uint8)).save(masks.beside_name(path))
    return found.astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of two classes; c has no mask."""
    for value, name in enumerate(FILES):
        write(tmp_path / "skin" / name, value)
    masks.beside_name(tmp_path / "skin/well/p3/c.png").unlink()
    return tmp_path / "skin"


# ---- files --------------------------------------------------------------------------------------


def test_masks_beside_images(folder: Path) -> None:
    found = loading.load(folder, SIZE)
    assert found.files.tolist() == [
        "ill/p1/a.png",
        "ill/p2/b.tif",
        "well/p3/c.png",
        "well/p4/d.jpg",
    ]
    assert found.masks is not None and found.masks.shape == (4, SIZE, SIZE)
    maps = np.asarray(found.masks)
    assert maps.dtype == np.uint8 and (maps[2] == masks.IGNORE).all()
    # 40x48: the middle 40 columns, each output pixel the one that holds its centre.
    whole = np.asarray(Image.open(folder / "ill/p1/a_mask.png"))[:, 4:44]
    places = ((np.arange(SIZE) + 0.5) * 40 / SIZE).astype(int)
    np.testing.assert_array_equal(maps[0], whole[np.ix_(places, places)])
    assert set(np.unique(maps[[0, 1, 3]])) == {0, 1, 2}


def test_manifest_names_masks(folder: Path) -> None:
    """An empty cell is none, though a mask lies beside the image."""
    (folder / "manifest.csv").write_text(
        "file,label,subject,mask\n"
        "ill/p1/a.png,ill,p1,well/p4/d_mask.png\n"
        "ill/p2/b.tif,ill,p2,\n"
        "well/p4/d.jpg,well,p4,well/p4/d_mask.png\n"
    )
    found = loading.load(folder, SIZE)
    maps = np.asarray(found.masks)
    np.testing.assert_array_equal(maps[0], maps[2])
    assert (maps[1] == masks.IGNORE).all()
    (folder / "manifest.csv").write_text(
        "file,label,subject\nill/p1/a.png,ill,p1\nwell/p3/c.png,well,p3\n"
    )
    maps = np.asarray(loading.load(folder, SIZE).masks)
    assert (maps[0] < 3).all() and (maps[1] == masks.IGNORE).all()


@pytest.mark.parametrize("storage", ("file", "file again", "array_record"))
def test_masks_are_the_same_from_any_storage(folder: Path, tmp_path: Path, storage: str) -> None:
    source = sources.from_path(folder, SIZE)
    assert source.with_masks
    expected = np.asarray(loading.load(folder, SIZE).masks)
    if storage == "array_record":
        if not array_record.is_available():
            pytest.skip("array_record has no wheel for this platform")
        stored = loading.from_source(source, tmp_path / "cache", storage)
    else:
        for _ in storage.split():
            stored = loading.from_source(source, tmp_path / "cache", max_bytes=0)
        assert isinstance(stored.images, lazy.FileRows)
    np.testing.assert_array_equal(np.asarray(stored.masks), expected)


def test_masks_change_the_key(folder: Path) -> None:
    key = sources.from_path(folder, SIZE).key
    write(folder / "well/p3/c.png", 2)
    assert sources.from_path(folder, SIZE).key != key


def test_masks_are_not_asked_about(folder: Path) -> None:
    found = find(folder, ("ill", "well"))
    assert [one.file for one in found] == loading.load(folder, SIZE).files.tolist()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (40, 40)), "the mask is 40x40 pixels and its image 48x40; draw"),
        (Image.radial_gradient("L").resize((48, 40)), "different values, expected numbers"),
        (Image.fromarray(np.dstack([np.eye(40, 48, k, np.uint8) for k in range(3)])), "'RGB'"),
        (None, "cannot be read as a mask .*expected a PNG"),
    ],
)
def test_bad_masks(folder: Path, image: Image.Image | None, expected: str) -> None:
    place = folder / "ill/p1/a_mask.png"
    if image is None:
        place.write_bytes(b"no picture")
    else:
        image.save(place)
    with pytest.raises(UserError, match=f"a_mask.png: .*{expected}"):
        loading.load(folder, SIZE)


def test_a_mask_without_its_image(folder: Path) -> None:
    (folder / "ill/p1/a.png").unlink()
    with pytest.raises(UserError, match="a_mask.png: found a mask without its image, expected a"):
        loading.load(folder, SIZE)


def test_palette_and_turned_image(folder: Path) -> None:
    """The indices are meant, not the colours; a mask lies on the image as it is shown."""
    values = np.asarray(Image.open(folder / "ill/p1/a_mask.png"))
    painted = Image.fromarray(values).convert("P")
    painted.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    painted.putdata(values.ravel().tolist())
    before = np.asarray(loading.load(folder, SIZE).masks)
    painted.save(folder / "ill/p1/a_mask.png")
    np.testing.assert_array_equal(np.asarray(loading.load(folder, SIZE).masks), before)
    image = Image.open(folder / "well/p4/d.jpg")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "well/p4/d.jpg", exif=exif)
    with pytest.raises(UserError, match="the mask is 48x40 pixels and its image 40x48"):
        loading.load(folder, SIZE)


# ---- from a config ------------------------------------------------------------------------------


def config_for(folder: Path) -> ConfigDict:
    config = default.as_unet(default.get_config(), "unet", epochs=2)
    config.data.path = str(folder)
    config.data.image_size = SIZE
    config.data.mask_classes = ("nothing", "tumour", "stroma")
    config.loss.segmentation = 1.0
    return config


def test_names_of_masks(folder: Path) -> None:
    config = config_for(folder)
    named, _ = data_from_config.load_images(settings.read(config))
    assert named.mask_classes == ("nothing", "tumour", "stroma")
    config.data.mask_classes = ()
    with pytest.raises(UserError, match="and config.data.mask_classes=.*: name what"):
        data_from_config.load_images(settings.read(config))
    config.loss.segmentation = 0.0
    assert data_from_config.load_images(settings.read(config))[0].mask_classes == ()
    config.data.mask_classes = ("nothing", "tumour")
    with pytest.raises(UserError, match="a.png: its mask has the value 2, .* names 2 .0 to 1;"):
        data_from_config.load_images(settings.read(config))


def test_masks_that_cannot_be_trained(folder: Path) -> None:
    config = config_for(folder)
    config.loss.segmentation = -1.0
    with pytest.raises(UserError, match="segmentation=-1.0: expected 0 or more"):
        data_from_config.load_images(settings.read(config))
    config.loss.segmentation = 1.0
    for path in folder.rglob("*_mask.png"):
        path.unlink()
    with pytest.raises(UserError, match="no image has a mask: put name_mask.png beside"):
        data_from_config.load_images(settings.read(config))
    config.model.name = "cnn"
    with pytest.raises(UserError, match="model.name='cnn' has no head for masks"):
        settings.read(config)


def test_the_synthetic_set_has_its_tissues() -> None:
    config = default.as_unet(default.get_config(), "unet", epochs=2)
    config.data.image_size = SIZE
    for name in ("normal", "early", "late"):
        config.data.synthetic[name] = config.data.synthetic[f"{name}_subjects"] = 2
    found, synthetic = data_from_config.load_images(settings.read(config))
    assert synthetic and found.mask_classes[1:3] == ("epidermis", "dermis collagen")
    # A head for masks is there where they are trained, and not else.
    for weight, mask_classes in ((0.0, 0), (0.5, 4)):
        config.loss.segmentation = weight
        network = setup.create_network(settings.read(config), 3, 4, earlier_fallback=False)
        assert network.model.mask_classes == mask_classes


# ---- moved with their images --------------------------------------------------------------------


@pytest.mark.parametrize("how", (augment.Changes(crop=1.0), augment.Changes(rot90=True, crop=1.0)))
def test_online_masks_move_with_their_images(how: augment.Changes) -> None:
    """A mask that is painted into the image stays on its place in it."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (16, 12, 12)).astype(np.uint8)
    stored = np.stack([values * 60, values * 30, values * 10, values], axis=-1)
    inputs = setup.make_inputs("minus_one_one", how)
    plain = np.asarray(inputs(jnp.asarray(stored), None))
    moved = np.asarray(jax.jit(inputs)(stored, jax.random.key(3)))
    assert moved.shape == (16, 12, 12, 4) and moved.dtype == np.float32
    np.testing.assert_array_equal(plain[..., 3], values)
    pixels = (moved[..., 0] + 1) * 127.5
    np.testing.assert_allclose(pixels, moved[..., 3] * 60, atol=1e-3)
    changed = [not np.array_equal(a, b) for a, b in zip(moved[..., 3], values, strict=True)]
    assert sum(changed) > 8
    # The image alone is moved as it is with its mask.
    alone = np.asarray(jax.jit(inputs)(stored[..., :3], jax.random.key(3)))
    np.testing.assert_array_equal(alone, moved[..., :3])


def test_copies_of_what_is_unknown_are_unknown(folder: Path) -> None:
    copies = offline_augment.augmented_copies(loading.load(folder, SIZE), 2, seed=0)
    found = np.asarray(copies.masks)
    assert found.shape == (12, SIZE, SIZE)
    assert (found[2::4] == masks.IGNORE).all() and set(np.unique(found[0::4])) <= {0, 1, 2}


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (21, 21), (9, 8)])
def test_told_masks_lie_on_their_image(width: int, height: int, tmp_path: Path) -> None:
    """Cut and reduced as the image was they are what was told; the rest is not known."""
    small = np.random.default_rng(0).integers(0, 4, (5, 5)).astype(np.uint8)
    whole = masks.enlarge(small, width, height)
    assert whole.shape == (height, width)
    side = min(width, height)
    assert (whole != masks.IGNORE).sum() == side * side
    np.testing.assert_array_equal(masks.reduce(whole, 5), small)
    (tmp_path / "a.png").write_bytes(masks.png(whole, [(1, 2, 3), (250, 0, 0), (0, 9, 0)]))
    read = Image.open(tmp_path / "a.png")
    assert read.mode == "P"
    np.testing.assert_array_equal(np.asarray(read), whole)
    row, column = np.argwhere(whole == 1)[0].tolist()
    assert read.convert("RGB").getpixel((column, row)) == (250, 0, 0)


# ---- figures ------------------------------------------------------------------------------------


def table(subjects: int = 10, seed: int = 0) -> tuple[segmentation.Table, np.ndarray, np.ndarray]:
    """Three images of each subject, in the test split; returns predicted and true maps as well."""
    rng = np.random.default_rng(seed)
    count = 3 * subjects
    true = rng.integers(0, 3, (count, 8, 8)).astype(np.uint8)
    true[rng.random(true.shape) < 0.2] = masks.IGNORE
    wrong = rng.random(true.shape) < rng.uniform(0.1, 0.5, (count, 1, 1))
    predicted = np.where(wrong, rng.integers(0, 3, true.shape), np.where(true < 3, true, 0))
    counts, distances = evaluate._count(predicted.astype(np.uint8), true, 3)
    found = segmentation.Table(
        files=np.array([f"{k}.png" for k in range(count)]),
        subjects=np.array([f"s{k // 3}" for k in range(count)]),
        splits=np.array(["test"] * count),
        classes=("a", "b", "c"),
        counts=counts,
        distances=distances,
    )
    return found, predicted, true


def test_dice_and_iou_equal_scikit_learn() -> None:
    found, predicted, true = table()
    known = true != masks.IGNORE
    dice = f1_score(true[known], predicted[known], average=None)
    iou = jaccard_score(true[known], predicted[known], average=None)
    kept = segmentation.figures(found)
    assert [one["dice"] for one in kept["per_class"]] == pytest.approx(dice)
    assert [one["iou"] for one in kept["per_class"]] == pytest.approx(iou)
    assert kept["mean_dice"] == pytest.approx(dice.mean()) and kept["n"] == 30
    assert sum(one["pixels"] for one in kept["per_class"]) == known.sum()
    assert kept["n_subjects"] == 10


def test_a_class_that_is_nowhere_has_no_figure() -> None:
    found, _, _ = table()
    counts = found.counts.copy()
    counts[:, 2] = 0
    kept = segmentation.figures(dataclasses.replace(found, counts=counts))
    assert kept["per_class"][2]["dice"] is None
    first = [one["dice"] for one in kept["per_class"][:2]]
    assert kept["mean_dice"] == pytest.approx(np.mean(first))


def test_intervals_are_about_those_of_a_bootstrap() -> None:
    """The spread is that of the subjects' own sums, drawn again here."""
    found, _, _ = table()
    kept = segmentation.interval_figures(found)
    rng = np.random.default_rng(5)
    names = np.unique(found.subjects)
    drawn = []
    for _ in range(4000):
        chosen = rng.choice(names, len(names))
        total = sum(found.counts[found.subjects == name].sum(0) for name in chosen)
        drawn.append(2 * total[1, 0] / (total[1, 1] + total[1, 2]))
    low, high = kept["per_class"][1]["dice"]
    apart = kept["per_class"][1]["hausdorff95"]
    assert apart[0] < found.distances[:, 1].mean() < apart[1]
    expected = resampling.percentile(np.array(drawn), 10)
    assert expected is not None
    assert (low, high) == pytest.approx(expected, abs=0.2 * (high - low))


def test_interval_of_iou_is_a_share_of_pixels() -> None:
    """One subject has no interval; the mean's is around the mean; Dice follows from IoU."""
    found, _, _ = table()
    values, kept = segmentation.figures(found), segmentation.interval_figures(found)
    for of_class in kept["per_class"]:
        assert of_class["dice"] == pytest.approx([2 * x / (1 + x) for x in of_class["iou"]])
    assert kept["mean_dice"][0] < values["mean_dice"] < kept["mean_dice"][1]
    of = limits.spread(
        *(
            np.bincount(np.unique(found.subjects, return_inverse=True)[1], column)
            for column in (
                found.counts[:, 0, 0],
                found.counts[:, 0, 1] + found.counts[:, 0, 2] - found.counts[:, 0, 0],
            )
        )
    )
    assert of.mean == pytest.approx(values["per_class"][0]["iou"])
    alone = found.where("test")
    alone = dataclasses.replace(alone, subjects=np.full(len(alone), "one"))
    assert segmentation.interval_figures(alone)["mean_dice"] is None


@pytest.mark.slow
def test_coverage_of_dice() -> None:
    """Ten subjects of 1 to 12 images, whose overlap differs; 95 % intervals of a class's Dice."""
    rng = np.random.default_rng(0)

    def drawn(subjects: int) -> segmentation.Table:
        sizes = rng.integers(1, 13, subjects)
        owner = np.repeat(np.arange(subjects), sizes)
        own = rng.beta(8, 3, subjects)[owner]
        union = np.floor(np.exp(rng.normal(7, 0.7, len(owner)))) + 10
        both = np.floor(union * np.clip(own + rng.normal(0, 0.1, len(owner)), 0, 1))
        counts = np.stack([both, both, union], axis=1)[:, None].astype(np.int64)
        names = owner.astype(str)
        splits = np.full(len(owner), "test")
        return segmentation.Table(
            names, names, splits, ("a",), counts, np.full((len(owner), 1), np.nan)
        )

    truth = segmentation.figures(drawn(20_000))["per_class"][0]["dice"]
    runs, held = 400, 0
    for _ in range(runs):
        low, high = segmentation.interval_figures(drawn(10))["per_class"][0]["dice"]
        held += low <= truth <= high
    assert held / runs > 0.93


def test_text_and_file(tmp_path: Path) -> None:
    found, _, _ = table()
    kept = segmentation.by_split(found)
    text = segmentation.text(kept)
    lines = text.splitlines()
    assert lines[0].split() == "masks, test Dice 95 % interval IoU 95 % interval".split()
    # No table is wider than a terminal.
    assert lines[6].split() == "masks, test edges apart, pixels 95 % interval".split()
    value, (low, high) = kept["splits"]["test"]["mean_dice"], kept["test_intervals"]["mean_dice"]
    assert f"{value:.3f}  {low:.3f} to {high:.3f}" in lines[4] and lines[4].startswith("mean")
    found.write_csv(tmp_path / "masks.csv")
    written = (tmp_path / "masks.csv").read_text("utf-8").splitlines()
    assert written[0].startswith("file,subject,split,both a,predicted a,true a,both b")
    assert written[0].endswith("hausdorff95 a,hausdorff95 b,hausdorff95 c")
    cells = [*map(str, found.counts[0].ravel()), *(f"{one:.3f}" for one in found.distances[0])]
    assert written[1] == ",".join(["0.png", "s0", "test", *cells])
    back = segmentation.read_csv(tmp_path / "masks.csv")
    assert back.classes == found.classes and (back.counts == found.counts).all()
    for name in ("files", "subjects", "splits"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
    np.testing.assert_allclose(back.distances, found.distances, atol=5e-4)
    twice = segmentation.join([back, back])
    assert len(twice) == 2 * len(found) and twice.counts.sum() == 2 * found.counts.sum()
    assert segmentation.mean_dice(found.counts) == kept["splits"]["test"]["mean_dice"]
    (tmp_path / "masks.csv").write_text("file,subject\na,b\n", "utf-8")
    with pytest.raises(UserError, match="masks.csv cannot be read .* delete this fold's folder"):
        segmentation.read_csv(tmp_path / "masks.csv")


def test_edges_apart_equal_all_pairs() -> None:
    """Against every distance between every two pixels of the edges."""
    rng = np.random.default_rng(8)
    for _ in range(20):
        one, other = (
            ndimage.gaussian_filter(rng.normal(size=(24, 18)), 2.5) > 0.02 for _ in range(2)
        )
        edges = []
        for mask in (one, other):
            around = np.pad(mask, 1)
            inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
            edges.append(np.argwhere(mask & ~inside))
        away = cdist(*edges)
        expected = max(np.percentile(away.min(axis), 95) for axis in (0, 1))
        assert surfaces.hausdorff95(one, other) == pytest.approx(expected)
    empty = np.zeros((6, 8), bool)
    assert np.isnan(surfaces.hausdorff95(empty, empty))
    assert surfaces.hausdorff95(empty, ~empty) == surfaces.hausdorff95(~empty, empty) == 10.0
    moved = np.zeros((9, 9), bool)
    moved[2:5, 2:5] = True
    assert surfaces.hausdorff95(moved, np.roll(moved, 3, 1)) == 3.0


def test_images_without_a_class_have_no_distance() -> None:
    found, _, _ = table()
    distances = found.distances.copy()
    distances[:, 1] = [np.nan, 2.0, 4.0] * 10
    distances[:, 2] = np.nan
    kept = segmentation.figures(dataclasses.replace(found, distances=distances))
    assert kept["per_class"][1]["hausdorff95"] == pytest.approx(3.0)
    assert kept["per_class"][2]["hausdorff95"] is None


def test_pixels_of_a_class_weigh_by_its_share() -> None:
    masks = np.full((3, 4, 5), 255, np.uint8)
    masks[0, 0], masks[1, :2], masks[2, 3, 0] = 0, 1, 2
    counts = np.array([5, 10, 1])
    found = class_weights.mask_weights("root", masks, 4)
    ratios = np.sqrt(counts[0] / counts)
    np.testing.assert_allclose(np.array(found[:3]) / found[0], ratios)
    assert (np.array(found[:3]) * counts).sum() == pytest.approx(counts.sum())
    assert found[3] == 0
    assert class_weights.mask_weights("none", masks, 4) == ()
    with pytest.raises(UserError, match="mask_weights='even': expected 'root' or 'none'"):
        class_weights.mask_weights("even", masks, 4)
