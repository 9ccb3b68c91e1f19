"""Augmentation against NumPy slicing and Pillow's own crop-and-resize."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sscjax.data import augment, offline_augment
from sscjax.data.augment import Changes
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compiler")

SIZE = 24
# Compiled as the training step compiles them; one test compares with the uncompiled function.
augment_batch = jax.jit(augment.augment_batch, static_argnames="how")
apply = jax.jit(augment.apply)
apply_masks = jax.jit(augment.apply_masks)
augment_params = jax.jit(augment.augment_params, static_argnames=("batch", "how"))


def pixels(count: int, height: int = SIZE, width: int = SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def scaled(count: int, **kwargs: int) -> jax.Array:
    return jnp.asarray(pixels(count, **kwargs).astype(np.float32) / 127.5 - 1.0)


def image_set(count: int = 7, masks: bool = True) -> ImageSet:
    images = pixels(count)
    return ImageSet(
        images=images,
        labels=(np.arange(count) % 2).astype(np.int32),
        subjects=np.array([f"s{i // 2}" for i in range(count)]),
        files=np.array([f"a/{i}.png" for i in range(count)]),
        classes=("no", "yes"),
        splits=np.array(["train", "test"])[np.arange(count) % 3 // 2],
        # The mask repeats what the picture shows, so that moving both alike can be seen.
        masks=images[..., 0] // 128 if masks else None,
        source="test",
    )


def params(
    share: float, top: float, left: float, rows: bool, columns: bool
) -> augment.AugmentParams:
    return augment.AugmentParams(
        jnp.asarray(np.array([share], np.float32)),
        jnp.asarray(np.array([top], np.float32)),
        jnp.asarray(np.array([left], np.float32)),
        jnp.asarray(np.array([rows])),
        jnp.asarray(np.array([columns])),
        transpose=jnp.zeros(1, bool),
        scale=jnp.ones((1, 3)),
        shift=jnp.zeros((1, 3)),
    )


@pytest.mark.parametrize("height, width", [(24, 24), (17, 30)])
def test_nothing_asked_for_is_the_identity_to_the_bit(height: int, width: int) -> None:
    images = jnp.asarray(np.random.default_rng(1).normal(size=(3, height, width, 3)), jnp.float32)
    same = augment_batch(jax.random.key(0), images, Changes(flip=False, crop=1.0))
    np.testing.assert_array_equal(same, images)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_flips_are_reversed_slices(rows: bool, columns: bool) -> None:
    images = scaled(1, height=17, width=30)
    moved = apply(params(1.0, 0.3, 0.7, rows, columns), images)
    expected = np.asarray(images)[:, :: -1 if rows else 1, :: -1 if columns else 1]
    np.testing.assert_array_equal(moved, expected)


def test_all_four_flips_are_drawn_evenly() -> None:
    drawn = augment_params(jax.random.key(0), 2000, Changes(crop=1.0))
    kinds = np.asarray(drawn.flip_rows) * 2 + np.asarray(drawn.flip_columns)
    np.testing.assert_allclose(np.bincount(kinds) / 2000, 0.25, atol=0.04)
    unturned = augment_params(jax.random.key(0), 50, Changes(flip=False))
    assert not np.any(unturned.flip_rows) and not np.any(unturned.flip_columns)


@pytest.mark.parametrize("quarters", range(4))
def test_turns_are_numpys(quarters: int) -> None:
    """Images and maps; the drawn number of quarters is that of numpy.rot90."""
    draws = jnp.zeros((1, augment.DRAWS)).at[0, 5].set(quarters / 4 + 0.1)
    drawn = augment.params_from_draws(draws, Changes(flip=False, rot90=True, crop=1.0))
    images = scaled(1)
    moved = augment.apply(drawn, images, rot90=True)
    np.testing.assert_array_equal(moved[0], np.rot90(images[0], quarters))
    maps = jnp.asarray(pixels(1)[..., 0])
    moved = augment.apply_masks(drawn, maps, rot90=True)
    np.testing.assert_array_equal(moved[0], np.rot90(maps[0], quarters))


def test_flips_and_turns_reach_all_eight_places_evenly() -> None:
    drawn = augment_params(jax.random.key(0), 4000, Changes(rot90=True, crop=1.0))
    kinds = 4 * np.asarray(drawn.transpose) + 2 * drawn.flip_rows + drawn.flip_columns
    np.testing.assert_allclose(np.bincount(kinds) / 4000, 1 / 8, atol=0.02)
    turned = augment_params(jax.random.key(0), 4000, Changes(flip=False, rot90=True))
    kinds = 4 * np.asarray(turned.transpose) + 2 * turned.flip_rows + turned.flip_columns
    assert set(kinds.tolist()) == {0, 6, 3, 5}, "turned, never mirrored"
    with pytest.raises(ValueError, match="only square ones can be turned"):
        augment.augment_batch(jax.random.key(0), scaled(1, width=30), Changes(rot90=True))


# Directions of haematoxylin and eosin as published, red, green, blue.
HAEMATOXYLIN, EOSIN = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])


def dyed(haematoxylin: float, eosin: float) -> np.ndarray:
    """The colour, 0 to 255, that so much of two stains leaves of white, by Beer and Lambert."""
    unit = [stain / np.linalg.norm(stain) for stain in (HAEMATOXYLIN, EOSIN)]
    return 256 * np.exp(-(haematoxylin * unit[0] + eosin * unit[1])) - 1


def test_stains_change_by_their_amounts() -> None:
    images = jnp.asarray(np.array([dyed(0.9, 0.4)] * 4).reshape(1, 2, 2, 3), jnp.float32)
    plain = params(1.0, 0.0, 0.0, False, False)
    changed = plain._replace(scale=jnp.array([[1.2, 0.5, 1.0]]), shift=jnp.array([[0.0, 0.1, 0.0]]))
    found = augment.look(changed, images, Changes(stain=0.5))
    np.testing.assert_allclose(found[0, 0, 0], dyed(0.9 * 1.2, 0.4 * 0.5 + 0.1), rtol=1e-4)
    every = jnp.asarray(pixels(1).astype(np.float32))
    np.testing.assert_allclose(augment.look(plain, every, Changes(stain=0.5)), every, atol=0.01)


def test_stains_are_drawn_within_their_range_and_apart() -> None:
    drawn = augment_params(jax.random.key(0), 3000, Changes(stain=0.3))
    scale, shift = np.asarray(drawn.scale), np.asarray(drawn.shift)
    for found, middle, reach in ((scale, 1.0, 0.3), (shift, 0.0, 0.03)):
        assert np.abs(found - middle).max() <= reach + 1e-6
        quartiles = np.quantile(found, [0.25, 0.5, 0.75], axis=0)
        wanted = middle + reach * np.array([-0.5, 0.0, 0.5])
        np.testing.assert_allclose(quartiles, np.tile(wanted[:, None], 3), atol=0.05 * reach * 2)
    together = np.corrcoef(np.column_stack([scale, shift, drawn.share, drawn.top]).T)
    assert np.abs(together - np.eye(8)).max() < 0.08
    # Colours are drawn apart: what moves an image is not changed by them.
    moved = augment_params(jax.random.key(0), 3000)
    np.testing.assert_array_equal(moved.share, drawn.share)


def test_stained_batches_stay_in_range_and_differ() -> None:
    images = jnp.asarray(np.tile(pixels(1), (5, 1, 1, 1)).astype(np.float32))
    how = Changes(flip=False, crop=1.0, stain=0.5)
    found = augment_batch(jax.random.key(0), images, how)
    assert found.dtype == jnp.float32 and float(found.min()) >= 0 and float(found.max()) <= 255
    assert len(np.unique(np.asarray(found).reshape(5, -1), axis=0)) == 5
    copies = offline_augment.augmented_copies(image_set(2), 2, 0, how)
    assert not np.array_equal(copies.images[0], copies.images[2])
    assert copies.masks is not None
    np.testing.assert_array_equal(copies.masks[0], copies.masks[2])  # colours move nothing


@pytest.mark.parametrize("stain", [-0.1, 1.0, float("nan")])
def test_a_stain_out_of_range_is_refused(stain: float) -> None:
    with pytest.raises(UserError, match="stain is"):
        Changes(stain=stain)


def test_crops_are_uniform_in_side_and_position() -> None:
    drawn = augment_params(jax.random.key(3), 4000, Changes(crop=0.6))
    share = np.asarray(drawn.share)
    assert 0.6 <= share.min() < 0.61 and 0.99 < share.max() <= 1.0
    np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), [0.7, 0.8, 0.9], atol=0.01)
    for start in (drawn.top, drawn.left):
        quartiles = np.quantile(np.asarray(start), [0.25, 0.5, 0.75])
        np.testing.assert_allclose(quartiles, [0.25, 0.5, 0.75], atol=0.03)
    assert abs(np.corrcoef(np.asarray(drawn.top), np.asarray(drawn.left))[0, 1]) < 0.06


@pytest.mark.parametrize("share, top, left", [(0.5, 0.0, 0.999), (0.8, 0.4, 0.1), (0.93, 0.999, 0)])
def test_crop_and_enlarge_is_pillows_resize_with_a_box(
    share: float, top: float, left: float
) -> None:
    image = pixels(1, seed=5)[0, :, :, 0].astype(np.float32)
    room = (1.0 - share) * SIZE
    box = (left * room, top * room, left * room + share * SIZE, top * room + share * SIZE)
    expected = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR, box)
    batch = jnp.asarray(np.repeat(image[None, :, :, None], 3, axis=3))
    moved = apply(params(share, top, left, False, False), batch)
    # The grids of the module shift a sample by up to 1/512 + 1/1024 pixel along each axis.
    np.testing.assert_allclose(moved[0, :, :, 0], np.asarray(expected), atol=255 * 2 * 3 / 1024)
    np.testing.assert_array_equal(moved[..., 0], moved[..., 2])


def test_masks_are_pillows_nearest_and_keep_their_type() -> None:
    mask = pixels(1, seed=6)[0, :, :, 0]
    share, top, left = 0.7, 0.31, 0.62
    room = (1.0 - share) * SIZE
    box = (left * room, top * room, left * room + share * SIZE, top * room + share * SIZE)
    expected = Image.fromarray(mask).resize((SIZE, SIZE), Image.Resampling.NEAREST, box)
    moved = apply_masks(params(share, top, left, True, False), jnp.asarray(mask[None]))
    assert moved.dtype == jnp.uint8
    np.testing.assert_array_equal(moved[0, ::-1], np.asarray(expected))


def test_jit_equals_eager() -> None:
    images, key = scaled(4), jax.random.key(2)
    jitted = augment_batch(key, images)
    np.testing.assert_array_equal(jitted, augment.augment_batch(key, images))
    assert not np.array_equal(jitted, images)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_type_and_range_are_kept(dtype: jnp.dtype) -> None:
    extremes = jnp.asarray(np.where(pixels(16) > 127, 1, -1), dtype)
    moved = augment_batch(jax.random.key(4), extremes, Changes(crop=0.3))
    assert moved.dtype == dtype and moved.shape == extremes.shape
    assert float(moved.min()) == -1.0 and float(moved.max()) == 1.0


def test_a_plain_surface_stays_plain_to_the_bit() -> None:
    images = jnp.full((8, SIZE, SIZE, 3), 201.0)
    np.testing.assert_array_equal(augment_batch(jax.random.key(0), images), images)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    key = jax.random.key(7)
    images = scaled(6)
    whole = augment_batch(key, images)
    others = jnp.asarray(np.concatenate([scaled(5, seed=1), images[3:4]])[[0, 1, 2, 5, 3, 4]])
    np.testing.assert_array_equal(augment_batch(key, others)[3], whole[3])


def test_every_image_and_every_key_gets_its_own_transform() -> None:
    images = jnp.asarray(np.tile(scaled(1), (6, 1, 1, 1)))
    first = augment_batch(jax.random.key(0), images)
    second = augment_batch(jax.random.key(1), images)
    results = np.concatenate([first, second]).reshape(12, -1)
    assert len(np.unique(results, axis=0)) == 12


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        augment_batch(jax.random.key(0), jnp.asarray(pixels(1)))


@pytest.mark.parametrize("crop", [0.0, -0.1, 1.01, float("nan")])
def test_a_crop_out_of_range_is_refused(crop: float) -> None:
    with pytest.raises(UserError, match="crop is"):
        augment_batch(jax.random.key(0), scaled(1), Changes(crop=crop))
    with pytest.raises(UserError, match="crop is"):
        offline_augment.augmented_copies(image_set(1), 1, 0, Changes(crop=crop))


def test_copies_follow_the_originals_and_keep_label_subject_split() -> None:
    before = image_set()
    after = offline_augment.augmented_copies(before, 2, seed=0)
    assert len(after) == 21 and after.images.dtype == np.uint8
    assert after.files[7:9].tolist() == ["a/0.png#1", "a/1.png#1"]
    assert after.files[-1] == "a/6.png#2"
    np.testing.assert_array_equal(after.images[:7], before.images)
    assert after.masks is not None and before.masks is not None
    np.testing.assert_array_equal(after.masks[:7], before.masks)
    for field in ("labels", "subjects", "splits"):
        np.testing.assert_array_equal(getattr(after, field), np.tile(getattr(before, field), 3))
    assert len(np.unique(np.asarray(after.images).reshape(21, -1), axis=0)) == 21
    assert len(np.unique(after.files)) == 21


def test_no_copies_is_the_same_set() -> None:
    unchanged = offline_augment.augmented_copies(image_set(), 0, 0)
    assert unchanged.fingerprint() == image_set().fingerprint()


def test_a_copy_depends_on_seed_file_and_number_alone() -> None:
    # 40 images: more than one batch, the second one padded.
    whole = offline_augment.augmented_copies(image_set(40), 2, seed=3)
    picked = np.array([39, 4, 20])
    part = offline_augment.augmented_copies(image_set(40).take(picked), 2, seed=3)
    where = [whole.files.tolist().index(name) for name in part.files]
    np.testing.assert_array_equal(part.images, whole.images[where])
    assert part.masks is not None and whole.masks is not None
    np.testing.assert_array_equal(part.masks, whole.masks[where])
    other = offline_augment.augmented_copies(image_set(40), 2, seed=4)
    assert not np.any(np.all(whole.images[40:] == other.images[40:], axis=(1, 2, 3)))


def test_copies_off_line_are_the_transform_of_their_own_draws() -> None:
    """Against a plain NumPy interpolation in float64: exact, whatever the order of additions."""
    before = image_set(1)
    after = offline_augment.augmented_copies(before, 1, 9, Changes(flip=False, crop=0.5))
    draws = offline_augment._draws(9, "a/0.png", 1)
    share = 1 - np.floor(draws[0] * 0.5 * 2**14) / 2**14
    matrices = []
    for start in draws[1:3]:
        first = np.floor(np.float32(start * np.float32((1 - share) * SIZE)) * 1024) / 1024
        place = np.round((first + (np.arange(SIZE) + 0.5) * share - 0.5) * 256) / 256
        place = np.clip(place, 0, SIZE - 1)
        matrices.append(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(SIZE))))
    mixed = np.einsum("hk,kvc,wv->hwc", matrices[0], before.images[0].astype(float), matrices[1])
    np.testing.assert_array_equal(after.images[1], np.floor(mixed + 0.5).astype(np.uint8))


def test_masks_move_with_their_images() -> None:
    """A picture of two flat halves, and its map, still agree away from the border after moving."""
    base = image_set(5)
    images, masks = np.zeros((5, SIZE, SIZE, 3), np.uint8), np.zeros((5, SIZE, SIZE), np.uint8)
    for i in range(5):
        images[i, 4 + i :, : 18 - i] = 200
        masks[i, 4 + i :, : 18 - i] = 1
    drawn = dataclasses.replace(base, images=images, masks=masks)
    after = offline_augment.augmented_copies(drawn, 3, seed=1)
    assert after.masks is not None
    red, moved = np.asarray(after.images)[..., 0], np.asarray(after.masks)
    sure = (red == 0) | (red == 200)
    assert sure.mean() > 0.8
    np.testing.assert_array_equal((red == 200)[sure], (moved == 1)[sure])
    assert not np.array_equal(moved[5:10], moved[10:15])


def test_copies_are_made_when_read_or_held() -> None:
    lazy = offline_augment.augmented_copies(image_set(40), 2, seed=3)
    made = np.asarray(lazy.images)
    held = offline_augment.augmented_copies(image_set(40), 2, seed=3)
    offline_augment.hold_copies(held, 80 * made[0].nbytes - 1)  # too few bytes: nothing happens
    assert held.images.parts[1]._made is None  # type: ignore[attr-defined]
    offline_augment.hold_copies(held, 80 * made[0].nbytes)
    assert held.images.parts[1]._made is not None  # type: ignore[attr-defined]
    some = np.array([100, 3, 119, 41])
    for found in (lazy, held):
        np.testing.assert_array_equal(found.images[some], made[some])
    # What a run is known by does not tell where its images were held.
    assert held.fingerprint() == lazy.fingerprint()
    others = (
        offline_augment.augmented_copies(image_set(40), 2, seed=4),
        offline_augment.augmented_copies(image_set(40), 2, 3, Changes(stain=0.1)),
        offline_augment.augmented_copies(image_set(40), 2, 3, Changes(crop=0.5)),
        offline_augment.augmented_copies(image_set(40), 2, 3, Changes(flip=False)),
    )
    assert len({lazy.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_a_set_without_masks_stays_without() -> None:
    assert offline_augment.augmented_copies(image_set(3, masks=False), 1, 0).masks is None


def test_counts_are_exact_and_even() -> None:
    before = image_set(7)  # 4 of 'no', 3 of 'yes'
    after = offline_augment.augment_to_counts(before, {"no": 10, "yes": 3}, seed=0)
    assert np.bincount(after.labels).tolist() == [10, 3]
    np.testing.assert_array_equal(after.images[:7], before.images)
    names = [name.split("#")[0] for name in after.files]
    per_image = [names.count(f"a/{i}.png") for i in range(0, 7, 2)]
    assert sorted(per_image) == [2, 2, 3, 3]
    copies = offline_augment.augmented_copies(before, 2, seed=0)
    where = [copies.files.tolist().index(name) for name in after.files]
    np.testing.assert_array_equal(after.images, copies.images[where])


def test_counts_do_not_depend_on_the_order_of_the_set() -> None:
    one = offline_augment.augment_to_counts(image_set(7), {"no": 9, "yes": 5}, seed=2)
    turned = image_set(7).take(np.arange(7)[::-1])
    two = offline_augment.augment_to_counts(turned, {"yes": 5, "no": 9}, seed=2)
    assert sorted(one.files) == sorted(two.files)


@pytest.mark.parametrize(
    "counts, message",
    [
        ({"no": 3, "yes": 3}, "class no has 4 images and shall have 3"),
        ({"no": 4}, "expected one for each class"),
        ({"no": 4, "yes": 3, "maybe": 1}, "maybe"),
    ],
)
def test_counts_that_cannot_be_met_are_refused(counts: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        offline_augment.augment_to_counts(image_set(7), counts, seed=0)


def test_a_class_without_images_cannot_be_augmented() -> None:
    only = image_set(7).take(np.array([0, 2]))
    with pytest.raises(UserError, match="class yes has 0 images"):
        offline_augment.augment_to_counts(only, {"no": 2, "yes": 1}, seed=0)
    same = offline_augment.augment_to_counts(only, {"no": 2, "yes": 0}, seed=0)
    assert len(same) == 2


def test_fewer_than_no_copies_is_refused() -> None:
    with pytest.raises(UserError, match="-1 augmented copies"):
        offline_augment.augmented_copies(image_set(2), -1, seed=0)
