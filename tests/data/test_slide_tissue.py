"""Tissue, pens, blur and stains on slides, against SciPy, torchstain and brute force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage
from slide_files import GLASS, painted, write_slide
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from sscjax.data.slides import reader, stain, tiling, tissue
from sscjax.data.slides.tiling import Settings
from sscjax.errors import UserError


def settings(**changes: Any) -> Settings:
    return Settings(**{"field_px": 128, "tile_size": 64, **changes})


# ---- tissue -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_otsu_is_the_best_of_all_thresholds(seed: int) -> None:
    """By brute force: the least sum of the variances within both parts, weighed by their size."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(20, 6, 500), rng.normal(120, 30, 200)]).clip(0, 255)
    values = values.astype(int)
    within = {
        t: (values <= t).sum() * values[values <= t].var()
        + (values > t).sum() * values[values > t].var()
        for t in range(values.min(), values.max())
    }
    found = tissue.otsu(np.bincount(values, minlength=256))
    assert within[found] == pytest.approx(min(within.values()), rel=1e-9)
    assert tissue.otsu(np.bincount([7, 7], minlength=256)) == 0


def test_all_tissue_and_all_glass_are_not_cut_in_two() -> None:
    all_tissue = painted(512, 256)[:, :256]
    level = tissue.threshold(all_tissue)
    assert level == tissue.HIGHEST and tissue.mask(all_tissue, level, 9).mean() > 0.9
    glass = np.clip(np.random.default_rng(0).normal(GLASS, 2, (200, 200, 3)), 0, 255)
    glass = glass.astype(np.uint8)
    assert tissue.mask(glass, tissue.threshold(glass)).mean() < 0.01


def test_narrow_gaps_belong_to_the_tissue() -> None:
    pixels = painted(256, 128)
    pixels[:, 40:44] = GLASS
    level = tissue.threshold(pixels)
    assert not tissue.mask(pixels, level)[:, 41:43].any()
    closed = tissue.mask(pixels, level, 9)
    assert closed[:, 41:43].mean() > 0.95 and not closed[:, 150:].any()


@pytest.mark.parametrize("ink", [(20, 60, 200), (10, 140, 60), (25, 25, 28)])
def test_pens_are_told_from_tissue(ink: tuple[int, int, int]) -> None:
    tile = painted(256, 128)[:, :128].copy()
    assert tissue.pen_share(tile) < 0.01
    tile[30:60, :] = ink
    assert tissue.pen_share(tile) == pytest.approx(30 / 128, abs=0.02)
    assert tissue.pen_share(tile) > tissue.PEN_SHARE


def test_blur_is_told_from_pale_tissue() -> None:
    tile = painted(256, 128)[:, :128]
    pale = (255 - (255 - tile.astype(float)) * 0.2).astype(np.uint8)
    blurred = np.asarray(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(2.5)))
    assert tissue.sharpness(tile) > tissue.SHARPNESS < tissue.sharpness(pale)
    assert tissue.sharpness(blurred) < tissue.SHARPNESS
    # The kernel of the Laplacian, by hand.
    grey = np.asarray(Image.fromarray(tile).convert("L"), float)
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    by_hand = ndimage.convolve(grey, kernel, mode="reflect").var() / (grey.var() + 25)
    assert tissue.sharpness(tile) == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.slow
def test_real_tiles_are_sharp_and_without_ink(shared_data: Path) -> None:
    paths = sorted((shared_data / "data" / "prostate_gleason").glob("*/*.jpg"))[::75]
    tiles = [np.asarray(Image.open(p).convert("RGB").resize((128, 128))) for p in paths]
    assert len(tiles) >= 20
    assert all(tissue.sharpness(tile) > tissue.SHARPNESS for tile in tiles)
    assert all(tissue.pen_share(tile) < tissue.PEN_SHARE for tile in tiles)


# ---- stains --------------------------------------------------------------------------------------

# Haematoxylin and eosin of another laboratory, by columns, each of length 1.
OTHER = np.array([[0.60, 0.75, 0.28], [0.15, 0.95, 0.27]]).T
OTHER = OTHER / np.linalg.norm(OTHER, axis=0)


def dyed(densities: np.ndarray, strengths: tuple[float, float], side: int = 256) -> np.ndarray:
    """Tissue with both stains, some pixels with nearly one alone: uint8 [side,side,3]."""
    rng = np.random.default_rng(4)
    amounts = rng.beta(0.6, 0.6, (side * side, 1)) * [1.0, -1.0] + [0.02, 1.02]
    amounts *= rng.uniform(0.5, 1.0, (side * side, 1)) * strengths
    found = 240 * np.exp(-amounts @ densities.T) - 1
    return np.clip(np.round(found), 0, 255).astype(np.uint8).reshape(side, side, 3)


def test_stains_are_found_and_replaced() -> None:
    """Of a slide whose stains are known; and as torchstain does it where a tile is all there is."""
    wanted = stain.reference()
    tile = dyed(OTHER, (1.2, 0.7))
    found = stain.find(tile.reshape(-1, 3))
    angles = np.degrees(np.arccos(np.clip((found.densities * OTHER).sum(0), -1, 1)))
    assert angles.max() < 6
    changed = stain.normalised(tile, found, wanted)
    expected = dyed(wanted.densities, tuple(wanted.strengths / (found.strengths / (1.2, 0.7))))
    assert np.abs(changed.astype(int) - expected).mean() < 6
    assert np.abs(tile.astype(int) - expected).mean() > 20
    theirs, _, _ = NumpyMacenkoNormalizer().normalize(tile)
    assert np.abs(changed.astype(int) - theirs.astype(int)).max() <= 1


def test_slides_of_two_laboratories_become_alike(tmp_path: Path) -> None:
    means: dict[str, list[np.ndarray]] = {"none": [], "macenko": []}
    for name, densities, strengths in (
        ("a", stain.reference().densities, (1.9, 1.0)),
        ("b", OTHER, (1.1, 0.6)),
    ):
        whole = painted(512, 256)
        whole[:, :256] = dyed(densities, strengths)
        path = write_slide(tmp_path / f"{name}.tif", whole, levels=1)
        for kind, found in means.items():
            wish = settings(stain=kind, reject=False, min_tissue=0.9)
            with reader.open_slide(path) as slide:
                planned = tiling.plan(slide, wish)
                tiles = [one.pixels for one in tiling.tiles(slide, planned, wish, name)]
            found.append(np.mean(tiles, axis=(0, 1, 2)))
    apart = {kind: np.abs(found[0] - found[1]).max() for kind, found in means.items()}
    assert apart["macenko"] < 0.2 * apart["none"]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((400, 3), 240, np.uint8), "too little stained tissue"),
        (np.linspace([60, 20, 90], [200, 180, 210], 4000).astype(np.uint8)[:400], "too little"),
    ],
)
def test_tissue_without_two_stains(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=f"{message}.*--stain=none"):
        stain.find(pixels)


def test_one_stain_alone_is_told() -> None:
    one = (OTHER[:, :1] @ np.linspace(0.3, 1.5, 5000)[None]).T
    with pytest.raises(UserError, match="one stain, expected haematoxylin and eosin"):
        stain.find(np.round(240 * np.exp(-one) - 1).astype(np.uint8))
