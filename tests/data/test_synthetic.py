"""The synthetic biopsies: counts, determinism, maps that fit the pictures, and difficulty."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sscjax.data import synthetic, synthetic_canvas, synthetic_tissue
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError

FEW = {"normal": 4, "early": 3, "late": 5}
TWO = {"normal": 2, "early": 2, "late": 2}


@pytest.fixture(scope="module")
def default_set() -> ImageSet:
    """At 96 pixels, which say what 128 do in half the time."""
    return synthetic.skin_biopsies(image_size=96)


def few(image_size: int = 48, seed: int = 0) -> ImageSet:
    return synthetic.skin_biopsies(image_size=image_size, seed=seed, tiles=FEW, subjects=TWO)


def box_mean(field: np.ndarray, width: int) -> np.ndarray:
    """[H,W] averaged over all squares of this width, by running sums."""
    total = np.cumsum(np.cumsum(np.pad(field, ((1, 0), (1, 0))), axis=0), axis=1)
    total = total[width:] - total[:-width]
    return (total[:, width:] - total[:, :-width]) / width**2


def colour_features(images: np.ndarray) -> np.ndarray:
    pixels = images.reshape(len(images), -1, 3) / 255.0
    return np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)


def texture_features(image: np.ndarray) -> np.ndarray:
    """Gradient energy at four scales and how far neighbouring gradients agree in direction."""
    green = np.log((image[..., 1] + 8.0) / 263)
    features = []
    for scale in (1, 2, 4, 8):
        smooth = box_mean(green, scale)
        x = smooth[1:-1, 2:] - smooth[1:-1, :-2]
        y = smooth[2:, 1:-1] - smooth[:-2, 1:-1]
        energy, even, odd = x**2 + y**2, x**2 - y**2, 2 * x * y
        features += list(np.log(np.quantile(energy, (0.5, 0.9)) + 1e-6))
        features.append(np.log(energy.mean() + 1e-6))
        agreement = np.hypot(box_mean(even, 12), box_mean(odd, 12))
        features.append((agreement / (box_mean(energy, 12) + 1e-5)).mean())
    blue = -np.log((image[..., 0] + 8.0) / 263) + 0.5 * green  # where haematoxylin is
    return np.array(features + list(np.quantile(blue, (0.5, 0.9, 0.97))))


def unseen_subjects(features: np.ndarray, image_set: ImageSet) -> float:
    """Balanced accuracy of a linear classifier, five folds by subject, mean of two foldings."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced")
    )
    scores = []
    for seed in range(2):
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        guess = cross_val_predict(
            model, features, image_set.labels, groups=image_set.subjects, cv=folds
        )
        scores.append(balanced_accuracy_score(image_set.labels, guess))
    return float(np.mean(scores))


@pytest.mark.slow
class TestDefaultSet:
    def test_counts_names_and_types(self, default_set: ImageSet) -> None:
        assert default_set.classes == ("normal", "early", "late")
        assert np.bincount(default_set.labels).tolist() == [347, 141, 141]
        assert default_set.images.shape == (629, 96, 96, 3)
        assert default_set.images.dtype == np.uint8
        assert default_set.masks is not None and default_set.masks.dtype == np.uint8
        assert default_set.masks.shape == (629, 96, 96)
        assert len(set(default_set.files)) == 629
        tiles = {name: int((default_set.subjects == name).sum()) for name in default_set.subjects}
        assert len(tiles) == 40
        assert {count for name, count in tiles.items() if "normal" in name} == {17, 18}
        assert {count for name, count in tiles.items() if "normal" not in name} == {14, 15}
        first = default_set.subjects.tolist().index("normal_03")
        assert default_set.files[first + 6] == "normal/subject_03/tile_007.png"
        assert "no patient data" in default_set.source and "synthetic" in default_set.source

    def test_no_two_tiles_are_alike(self, default_set: ImageSet) -> None:
        assert len({image.tobytes() for image in default_set.images}) == 629

    def test_maps_fit_the_pictures(self, default_set: ImageSet) -> None:
        assert default_set.masks is not None
        masks, images = np.asarray(default_set.masks), np.asarray(default_set.images)
        shares = np.bincount(masks.ravel(), minlength=4) / masks.size
        assert len(shares) == len(synthetic.TISSUES) and np.all(shares > 0.005)
        assert shares[synthetic_tissue.DERMIS] > 0.4
        grey = images.mean(axis=3)
        # Optical density of red is haematoxylin's alone, nearly.
        blue = -np.log((images[..., 0] + 1.0) / 256)
        for image, mask, red in zip(grey, masks, blue, strict=True):
            empty = mask == synthetic_tissue.BACKGROUND
            if min(empty.sum(), (~empty).sum()) > 100:
                assert image[empty].mean() > image[~empty].mean() + 20
            glands, dermis = mask == synthetic_tissue.ADNEXA, mask == synthetic_tissue.DERMIS
            if glands.sum() > 100 and dermis.sum() > 1000:
                assert red[glands].mean() > red[dermis].mean() + 0.05

    def test_the_disease_shows_in_the_tissues(self, default_set: ImageSet) -> None:
        assert default_set.masks is not None
        masks = np.asarray(default_set.masks)
        adnexa = [
            (masks[default_set.labels == c] == synthetic_tissue.ADNEXA).mean() for c in range(3)
        ]
        assert adnexa[0] > adnexa[1] > adnexa[2]
        skin = [
            (masks[default_set.labels == c] == synthetic_tissue.EPIDERMIS).mean() for c in range(3)
        ]
        assert skin[0] > skin[1] > skin[2]

    def test_mean_colours_say_little_and_texture_much(self, default_set: ImageSet) -> None:
        colours = unseen_subjects(colour_features(np.asarray(default_set.images)), default_set)
        half = default_set.take(np.arange(0, len(default_set), 2))
        features = np.stack([texture_features(image) for image in half.images])
        textures = unseen_subjects(features, half)
        # Chance is 1/3; the issue asks for less than 0.6.
        assert colours < 0.5
        assert textures >= 0.7


@pytest.mark.slow
def test_mean_colours_say_little_with_another_seed() -> None:
    other = synthetic.skin_biopsies(
        image_size=96, seed=1, tiles={"normal": 80, "early": 40, "late": 40}
    )
    assert unseen_subjects(colour_features(np.asarray(other.images)), other) < 0.5


def test_the_papers_counts() -> None:
    assert synthetic.TILES == {"normal": 347, "early": 141, "late": 141}
    assert {name: 3 * count for name, count in synthetic.TILES.items()} == {
        "normal": 1041,
        "early": 423,
        "late": 423,
    }
    two = synthetic.TILES_TWO_CLASS
    assert (2 * two["normal"], 2 * (two["early"] + two["late"])) == (1042, 846)


def test_same_seed_same_set_other_seed_other_set() -> None:
    assert few().fingerprint() == few().fingerprint()
    assert not np.any(np.all(few().images == few(seed=1).images, axis=(1, 2, 3)))


def test_a_tile_does_not_depend_on_how_many_others_are_drawn() -> None:
    more = synthetic.skin_biopsies(
        image_size=48, tiles={"early": 9, "late": 6}, subjects={"early": 3, "late": 2}
    )
    fewer = few()
    shared = sorted(set(more.files) & set(fewer.files))
    assert len(shared) >= 7
    for name in shared:
        here, there = more.files.tolist().index(name), fewer.files.tolist().index(name)
        np.testing.assert_array_equal(more.images[here], fewer.images[there])


def test_classes_keep_their_order_and_may_be_left_out() -> None:
    two = synthetic.skin_biopsies(
        image_size=32, tiles={"late": 2, "normal": 3}, subjects={"normal": 1, "late": 1}
    )
    assert two.classes == ("normal", "late")
    assert two.labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("size", [32, 33, 96, 100, 200])
def test_any_size_shows_the_same_field_of_view(size: int) -> None:
    one = synthetic.skin_biopsies(
        image_size=size, tiles={"normal": 4}, subjects={"normal": 1}, seed=3
    )
    assert one.images.shape == (4, size, size, 3)
    full = synthetic.skin_biopsies(
        image_size=128, tiles={"normal": 4}, subjects={"normal": 1}, seed=3
    )
    assert one.masks is not None and full.masks is not None
    place = np.linspace(0, 0.999, 16)
    small = one.masks[:, (place * size).astype(int)][:, :, (place * size).astype(int)]
    large = full.masks[:, (place * 128).astype(int)][:, :, (place * 128).astype(int)]
    assert np.mean((small == 0) == (large == 0)) > 0.95


def test_a_subject_has_its_own_stain_and_orientation() -> None:
    drawn = [synthetic_tissue._draw_biopsy(np.random.default_rng(i), "early") for i in range(200)]
    for field in dataclasses.fields(drawn[0]):
        values = np.array([getattr(biopsy, field.name) for biopsy in drawn])
        assert np.all(values.std(axis=0) > 0), field.name
    angles = np.array([biopsy.angle for biopsy in drawn])
    assert abs(np.exp(1j * angles).mean()) < 0.2
    other = [synthetic_tissue._draw_biopsy(np.random.default_rng(i), "late") for i in range(200)]
    for biopsy, same in zip(drawn, other, strict=True):  # stain has nothing to do with the class
        np.testing.assert_array_equal(biopsy.dyes, same.dyes)
        np.testing.assert_array_equal(biopsy.strength, same.strength)
        assert biopsy.severity < same.severity


def test_the_compression_is_that_of_a_plain_cosine_transform() -> None:
    """Against scipy's transform, on grey so that the colour planes vanish."""
    fft = pytest.importorskip("scipy.fft")
    grey = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(float)
    step = 0.3
    expected = np.empty((16, 16))
    for row in (0, 8):
        for column in (0, 8):
            block = grey[row : row + 8, column : column + 8] - 128
            grid = step * synthetic_canvas._QUANTISER
            kept = np.round(fft.dctn(block, norm="ortho") / grid) * grid
            expected[row : row + 8, column : column + 8] = fft.idctn(kept, norm="ortho") + 128
    got = synthetic_canvas.jpeg(np.repeat(grey[..., None], 3, axis=2), step)
    assert np.abs(got - np.clip(expected, 0, 255)[..., None]).max() < 0.5 + 1e-6


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"image_size": 31}, "size is 31"),
        ({"seed": -1}, "seed is -1"),
        ({"tiles": {"normal": 5}}, "same classes"),
        ({"tiles": {"odd": 5}, "subjects": {"odd": 5}}, "out of"),
        ({"tiles": {}, "subjects": {}}, "same classes"),
        ({"tiles": {"late": 3}, "subjects": {"late": 4}}, "3 tiles of 4 subjects"),
        ({"tiles": {"late": 3}, "subjects": {"late": 0}}, "3 tiles of 0 subjects"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        synthetic.skin_biopsies(**arguments)
