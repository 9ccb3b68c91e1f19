"""Draw docs/textures.jpg: every family that the bundled backbone was trained on, a line each.

python -m scripts.pretrain_textures.picture
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from sscjax.system import terminal

from . import objective, train
from .config import get_config

COLUMNS, SIZE = 14, 64


def main() -> int:
    """Draw as the training does, from keys that it does not use."""
    terminal.set_up_jax()
    config = get_config()
    plan, each = train.make_plan(config), config.each[-1]
    draws = objective.make_draw(plan, each, SIZE)
    families, key = len(plan.recipes.families), jax.random.key(1)
    batches = [
        np.asarray(draws(jax.random.fold_in(key, k)).images).reshape(families, -1, SIZE, SIZE, 3)
        for k in range(COLUMNS // each)
    ]
    lines = np.concatenate(batches, axis=1).transpose(0, 2, 1, 3, 4)
    picture = lines.reshape(families * SIZE, COLUMNS * SIZE, 3)
    target = Path(__file__).resolve().parents[2] / "docs" / "textures.jpg"
    Image.fromarray((255 * picture).round().astype(np.uint8)).save(target, quality=80)
    return 0


if __name__ == "__main__":
    sys.exit(terminal.call(main))
