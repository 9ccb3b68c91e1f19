"""The scanner of textures against Pillow, SciPy and hand calculation."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from pretrain_textures import scanner  # noqa: E402

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("quick_compiler")]


def smooth(height: int = 40, width: int = 52) -> np.ndarray:
    """[1,H,W,3] uint8, with edges and gradients."""
    rng = np.random.default_rng(2)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3)).astype(np.uint8))
    found = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).copy()
    found[10:20, 10:30] = (180, 40, 90)
    return found[None]


def planes(images: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(np.moveaxis(images, 3, 1), jnp.float32)


def pixels(found: jnp.ndarray) -> np.ndarray:
    return np.moveaxis(np.asarray(found), 1, 3)


@pytest.mark.parametrize("quality", [15, 40, 50, 75, 95])
def test_compression_is_that_of_libjpeg(quality: int) -> None:
    image = smooth()
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "jpeg", quality=quality, subsampling=0)
    expected = np.asarray(Image.open(file)).astype(float)
    found = scanner.compressed(planes(image), jnp.array([float(quality)]))
    # libjpeg's whole-number transform rounds otherwise here and there.
    difference = np.abs(pixels(found)[0] - expected)
    assert np.abs(expected - image[0]).mean() > 0.4
    assert difference.mean() < 0.5 and np.quantile(difference, 0.9) <= 2


@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.0, 1.7])
def test_blur_is_scipys(sigma: float) -> None:
    image = smooth().astype(np.float32)
    found = pixels(scanner.blurred(planes(image), jnp.array([sigma]), 1.7))[0]
    reach = int(np.ceil(3 * 1.7))
    expected = ndimage.gaussian_filter(
        image[0], (sigma, sigma, 0), mode="nearest", radius=(reach, reach, 0)
    )
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_light_by_hand() -> None:
    image = jnp.asarray([[[[10.0, 30.0]]] * 3] * 2).reshape(2, 3, 1, 2)
    found = scanner.lit(image, jnp.array([1.0, 2.0]), jnp.array([1.5, 1.0]))
    np.testing.assert_allclose(found[0, 0, 0], [5.0, 35.0], rtol=1e-6)
    np.testing.assert_allclose(found[1, 0, 0], [20.0, 60.0], rtol=1e-6)
    bright = scanner.lit(jnp.full((1, 3, 2, 2), 200.0), jnp.array([1.9]), jnp.ones(1))
    assert float(bright.max()) == 255.0


def test_every_image_has_its_own() -> None:
    image = planes(np.repeat(smooth(), 2, 0))
    for found in (
        scanner.compressed(image, jnp.array([10.0, 90.0])),
        scanner.blurred(image, jnp.array([0.0, 2.0]), 2.0),
    ):
        alone = np.asarray(found)
        assert np.abs(alone[0] - alone[1]).mean() > 1
    blurred = scanner.blurred(image, jnp.array([0.0, 2.0]), 2.0)
    np.testing.assert_allclose(blurred[0], image[0], atol=1e-3)
