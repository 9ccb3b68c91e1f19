"""Rotated, cropped and overlapping images: found where they are, laid where they belong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from sscjax.data.audit import (
    appearance,
    checks,
    duplicates,
    findings,
    keypoints,
    overlaps,
    patients,
    report,
)
from sscjax.data.audit.matching import Matches, match
from sscjax.data.audit.registration import register
from sscjax.data.dataset import ImageSet

BICUBIC = Image.Resampling.BICUBIC


def textures(count: int, side: int, seed: int = 0) -> np.ndarray:
    """[N,side,side] uint8: noise smoothed at three scales, as tissue has detail at several."""
    noise = np.random.default_rng(seed).normal(size=(3, count, side, side))
    smooth = [
        ndimage.gaussian_filter(layer, (0, sigma, sigma)) * sigma
        for layer, sigma in zip(noise, (2.0, 4.0, 8.0), strict=True)
    ]
    return np.clip(128 + 60 * np.sum(smooth, axis=0), 0, 255).astype(np.uint8)


def coloured(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """12 textures of 256 pixels."""
    return textures(12, 256)


# ---- keypoints ----------------------------------------------------------------------------------


def test_descriptors_do_not_change_when_an_image_is_rotated_or_mirrored() -> None:
    grey = textures(2, 128)
    plain = keypoints.detect(grey)
    for changed, place, signs in (
        (np.rot90(grey, axes=(1, 2)), lambda z: z.imag + 1j * (127 - z.real), 1),
        (grey[:, ::-1], lambda z: z.real + 1j * (127 - z.imag), keypoints.MIRROR),
    ):
        other = keypoints.detect(np.ascontiguousarray(changed))
        assert len(other.image) == len(plain.image) > 50
        expected = place(plain.position)
        distance = np.abs(expected[:, None] - other.position) + 999 * (
            plain.image[:, None] != other.image
        )
        # Two keypoints of different scale may lie at one place.
        distance += 50 * np.abs(np.log(np.abs(plain.frame[:, None]) / np.abs(other.frame)))
        nearest = distance.argmin(1)
        assert distance.min(1).max() < 0.05
        np.testing.assert_allclose(plain.descriptor * signs, other.descriptor[nearest], atol=0.02)


def test_images_without_anything_have_no_keypoints() -> None:
    blank = np.full((3, 64, 64), 200, np.uint8)
    points = keypoints.detect(blank)
    assert points.image.shape == (0,) and len(points.descriptor) == 0
    with ThreadPoolExecutor(1) as pool:
        assert len(match(points, pool).first) == 0


# ---- registration -------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("scale", "shift"),
    [(np.exp(0.2j), 10 - 5j), (0.5 + 0j, 20 + 31j), (2 * np.exp(-0.5j), -70 + 10j), (1 + 0j, 64)],
)
def test_transforms_are_recovered(scale: complex, shift: complex, mirrored: bool) -> None:
    """z_first = scale * z_second + shift, from a proposal that is two pixels and 2 % away."""
    # Both are seen in a field of 400 pixels, of which the first is the part from (130, 130).
    [field] = textures(1, 400, seed=3).astype(float)
    axis = np.arange(128)
    second = axis + 1j * axis[:, None]
    placed = scale * (second.conj() if mirrored else second) + shift
    if mirrored:
        placed = placed + scale * 127j  # keeps it in the field: rows count from -127 to 0
        shift = shift + scale * 127j
    sharp = 1 if abs(scale) <= 1 else abs(scale) / 2
    image = ndimage.map_coordinates(
        ndimage.gaussian_filter(field, sharp), [placed.imag + 130, placed.real + 130], order=3
    )
    grey = np.clip([field[130:258, 130:258], image], 0, 255).astype(np.uint8)
    proposal = Matches(
        np.array([0]),
        np.array([1]),
        np.array([mirrored]),
        np.array([scale * 1.02]),
        np.array([shift + 1 - 1j]),
        np.array([9]),
    )
    result = register(grey, proposal)
    assert result.likeness[0] > 0.9
    assert abs(result.scale[0] - scale) < 0.005 * abs(scale)
    middle = 64 + (-64j if mirrored else 64j)
    assert abs((result.scale[0] - scale) * middle + result.shift[0] - shift) < 0.5


def test_what_follows_from_two_pairs_is_where_both_put_it() -> None:
    """Composition and inversion against the points themselves, mirrored or not."""
    rng = np.random.default_rng(0)
    for mirrored in ((False, False), (True, False), (False, True), (True, True)):
        scale = np.exp(rng.normal(0, 0.1, 2) + 1j * rng.uniform(-0.2, 0.2, 2))
        shift = rng.normal(0, 5, 2) + np.where(mirrored, 127j * scale, 0)
        # 0 over 1 and 2 over 1: 0 over 2 follows by turning the second round.
        pairs = Matches(
            np.array([0, 1]),
            np.array([1, 2]),
            np.array(mirrored),
            scale,
            shift,
            np.array([5, 5]),
        )
        implied = overlaps.implied_pairs(pairs, 128)
        assert implied.first.tolist() == [0] and implied.second.tolist() == [2]

        def placed(k: int, z: np.ndarray, m: Matches) -> np.ndarray:
            return m.scale[k] * (z.conj() if m.mirrored[k] else z) + m.shift[k]

        points = rng.uniform(0, 127, 9) + 1j * rng.uniform(0, 127, 9)
        expected = placed(0, placed(1, points, pairs), pairs)
        np.testing.assert_allclose(placed(0, points, implied), expected)


# ---- search -------------------------------------------------------------------------------------


def changed(image: Image.Image, kind: str) -> tuple[Image.Image, Image.Image]:
    """Two images of 128 pixels that show the same, of one of 256."""
    side = {"overlapping by 50%": 171, "overlapping by 25%": 146}.get(kind)
    if side:
        boxes = [(0, 40, side, 40 + side), (256 - side, 40, 256, 40 + side)]
    else:
        boxes = [(0, 0, 256, 256)] * 2
    first, second = (image.crop(box).resize((128, 128), BICUBIC) for box in boxes)
    if "cropped" in kind:
        second = image.crop((50, 70, 180, 200)).resize((128, 128), BICUBIC)
    if "degrees" in kind:
        degrees = int(kind.split()[-2])
        second = second.rotate(degrees, BICUBIC, fillcolor=255)
    return first, second


@pytest.mark.parametrize(
    "kind",
    [
        "rotated by 3 degrees",
        "rotated by 10 degrees",
        "rotated by 45 degrees",
        "cropped",
        "overlapping by 50%",
        "overlapping by 25%",
    ],
)
def test_common_areas_are_found_and_named(large: np.ndarray, kind: str) -> None:
    pairs = [changed(Image.fromarray(image), kind) for image in large]
    grey = np.stack([np.asarray(image) for side in zip(*pairs, strict=True) for image in side])
    result = overlaps.search(grey)
    detected = set(zip(result.first.tolist(), result.second.tolist(), strict=True))
    expected = {(k, 12 + k) for k in range(12)}
    assert detected <= expected
    assert len(detected) >= 11
    if "overlapping" in kind:
        percent = [float(relation.split()[-1].rstrip("%")) for relation in result.relation]
        np.testing.assert_allclose(percent, float(kind.split()[-1].rstrip("%")), atol=3)
    else:
        assert set(result.relation) == {kind}
    assert result.likeness.min() > 0.8


def test_different_images_share_nothing() -> None:
    result = overlaps.search(textures(150, 128, seed=9))
    assert len(result.first) == 0 and result.implied == 0


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize("side", [8, 24, 40, 128])
def test_few_and_small_images_are_searched(count: int, side: int) -> None:
    images = coloured(textures(4, side)[:count])
    result = duplicates.find(images)
    assert result.pairs == [] and len(result.stains) == count
    again = duplicates.find(np.concatenate([images, images[:, :, ::-1]]))
    assert len(again.pairs) <= 2 * count


# ---- patients -----------------------------------------------------------------------------------


def simulated(twin: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """20 subjects of 12 images; with `twin` the last is the first under another name."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 4, (20, 6))
    if twin:
        centres[19] = centres[0]
    subjects = np.repeat([f"s{k:02d}" for k in range(20)], 12)
    return np.repeat(centres, 12, axis=0) + rng.normal(size=(240, 6)), subjects


def test_a_patient_under_two_names_is_noticed() -> None:
    noticed, others = 0, 0
    for seed in range(20):
        for twin in (True, False):
            named = {(pair.first, pair.second) for pair in patients.find(*simulated(twin, seed))}
            noticed += twin and ("s00", "s19") in named
            others += len(named - {("s00", "s19")})
    assert noticed >= 18
    assert others <= 40 * 190 / 1000  # of the pairs of subjects, at most 1 in 1,000


@pytest.mark.parametrize(("subjects", "images"), [(10, 5), (12, 20), (40, 5), (40, 12)])
def test_subjects_that_differ_are_not_named(subjects: int, images: int) -> None:
    """In many features, few of which differ between patients; at most 1 in 1,000 pairs."""
    named = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        scale = 3 / np.arange(1, 49)
        centres = np.repeat(rng.normal(size=(subjects, 48)) * scale, images, axis=0)
        features = centres + rng.normal(size=(subjects * images, 48))
        named += len(patients.find(features, np.repeat(np.arange(subjects), images).astype(str)))
    assert named <= 30 * subjects * (subjects - 1) / 2 / 1000


def test_odds_are_those_of_two_normal_distributions() -> None:
    """The ratio of the densities of both means, by scipy, for one feature on its own scale."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 5000, 12)
    centres[11] = centres[0]
    sizes = np.array([5, 9] * 6)
    group = np.repeat(np.arange(12), sizes)
    values = np.repeat(centres, sizes) + rng.normal(size=len(group))
    subjects = np.array([f"s{k:02d}" for k in group])
    pair = next(one for one in patients.find(values[:, None], subjects) if one.second == "s11")
    assert (pair.first, pair.first_images, pair.second_images) == ("s00", 5, 9)
    means = np.array([values[group == k].mean() for k in range(12)])
    within = ((values - means[group]) ** 2).sum() / (len(values) - 12) * 1.02
    # Means around that of all images, in units of the spread within subjects.
    scaled = (means - values.mean()) / np.sqrt(within)
    between = ((scaled - scaled.mean()) ** 2).sum() / 11 - (1 / sizes).mean()
    own = between + 0.3 + 0.7 / 5
    theirs = between + 0.3 + 0.7 / 9
    seen = (scaled - scaled.mean())[[0, 11]]
    one = stats.multivariate_normal([0, 0], [[own, between], [between, theirs]]).pdf(seen)
    two = stats.norm(0, own**0.5).pdf(seen[0]) * stats.norm(0, theirs**0.5).pdf(seen[1])
    assert pair.odds == pytest.approx(one / two / 66, rel=1e-3)
    assert pair.probability == pytest.approx(pair.odds / (1 + pair.odds))


def test_few_subjects_say_nothing() -> None:
    assert patients.find(np.zeros((0, 4)), np.zeros(0, np.str_)) == []
    assert patients.find(np.ones((20, 4)), np.repeat(["a", "b"], 10)) == []
    assert patients.find(np.eye(30), np.repeat([f"s{k}" for k in range(15)], 2)) == []
    # All alike: nothing tells two subjects from one another, nor that they are one.
    assert patients.find(np.ones((100, 4)), np.repeat([f"s{k:02d}" for k in range(20)], 5)) == []


def test_stain_and_texture_of_a_slide_are_described() -> None:
    """A stronger stain and a blur move their own numbers; size and empty images do not matter."""
    rng = np.random.default_rng(0)
    density = np.abs(rng.normal(0.5, 0.2, (2, 64, 64, 3)))

    def pixels(values: np.ndarray) -> np.ndarray:
        return np.clip(256 * np.exp(-values) - 1, 0, 255).astype(np.uint8)

    plain, strong = (appearance.describe(pixels(density * factor)) for factor in (1.0, 1.5))
    np.testing.assert_allclose(strong[:, :3], 1.5 * plain[:, :3], rtol=0.05)
    smooth = (density + np.roll(density, 1, 1) + np.roll(density, 1, 2)) / 3
    blurred = appearance.describe(pixels(smooth))
    assert (blurred[:, 36:39] < plain[:, 36:39] - 0.5).all()  # the finest level
    np.testing.assert_allclose(blurred[:, :3], plain[:, :3], rtol=0.02)
    for side in (1, 2, 9):
        few = appearance.describe(np.full((3, side, side + 1, 3), 255, np.uint8))
        assert few.shape == (3, appearance.FEATURES) and np.isfinite(few).all()


# ---- what the audit says ------------------------------------------------------------------------


def image_set(images: np.ndarray, labels: Any, subjects: list[str]) -> ImageSet:
    return ImageSet(
        images,
        np.array(labels, np.int32),
        np.array(subjects, np.str_),
        np.array([f"{k}.png" for k in range(len(images))], np.str_),
        ("normal", "early"),
    )


def test_a_pair_counts_under_every_check_that_it_fails() -> None:
    grey = textures(3, 64)
    audited = image_set(
        coloured(np.concatenate([grey, grey[:, :, ::-1]])), [0] * 3 + [1] * 3, list("abcdef")
    )
    result = checks.audit(audited, np.array(["train"] * 3 + ["test"] * 3), None)
    counts = {finding["kind"]: finding["count"] for finding in result["findings"]}
    for kind in ("copies_across_splits", "copies_across_subjects", "copies_across_labels"):
        assert counts[kind] == 3
    passed = {check["kind"] for check in result["checks"] if check["passed"]}
    assert passed == {"subjects_across_splits", "identical_labels", "blank", "dim"}
    reasons = {check["kind"]: check["reason"] for check in result["unchecked"]}
    assert reasons["copies_within_subjects"] == "every subject has one image"
    assert "confounds" in reasons or "confounds" in counts
    text = report.text(result)
    assert "Not checked:" in text and "every subject has one image" in text


@pytest.mark.parametrize("count", range(4))
def test_a_check_without_anything_to_look_at_has_not_passed(count: int) -> None:
    audited = image_set(coloured(textures(4, 64)[:count]), [0] * count, list("abcd")[:count])
    result = checks.audit(audited, None, None)
    passed = {check["kind"] for check in result["checks"] if check["passed"]}
    assert "subjects_across_splits" not in passed
    assert ("blank" in passed) == (count > 0)
    assert ("copies_across_subjects" in passed) == (count > 1)
    assert "several_labels" not in passed and "confounds" not in passed


def test_the_screen_says_where_all_pairs_are() -> None:
    grey = textures(8, 64)
    audited = image_set(coloured(np.concatenate([grey, grey])), [0] * 16, list("abcdefghijklmnop"))
    result = checks.audit(audited, None, None)
    assert "and 3 more: --json=FILE lists all" in report.text(result)
    finding = next(f for f in result["findings"] if f["kind"] == "copies_across_subjects")
    assert len(finding["examples"]) == finding["count"] == 8


def test_missed_copies_are_estimated_from_those_that_follow() -> None:
    """100 pairs, 10 of them added because they follow; 40 followed, 30 were found directly."""
    pairs = [duplicates.Pair(k, k + 1, "cropped", 0.9) for k in range(100)]
    zeros = np.zeros((101, 3), np.float32)
    found = duplicates.Found(
        pairs, np.zeros(101, bool), zeros, np.zeros((101, appearance.FEATURES)), 40, 30
    )
    audited = image_set(np.zeros((101, 8, 8, 3), np.uint8), [0] * 101, ["a"] * 101)
    every = findings.every(findings.View(audited, None, found), None)
    missed = next(finding for finding in every if finding["kind"] == "missed_copies")
    # 90 were found directly, which is 3 of 4: there are 120.
    assert missed["count"] == 20
    assert "about 20 more pairs" in missed["title"] and "(75.0 %)" in missed["detail"]
