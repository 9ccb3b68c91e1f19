"""Draw docs/textures.jpg: every family that the bundled backbone was trained on, a row each.

python scripts/draw_textures.py
"""

from __future__ import annotations

import dataclasses
import sys

import jax
import numpy as np
from clone import ROOT
from PIL import Image

from sscjax import backbone, pretrain
from sscjax.configs import pretrain_textures
from sscjax.system import terminal

COLUMNS, SIZE = 14, 64


def main() -> int:
    """Draw as the training does, from keys that it does not use."""
    terminal.set_up_jax()
    config = pretrain_textures.get_config()
    plan = dataclasses.replace(pretrain.make_plan(config), each=config.each[-1])
    draws = backbone.make_draw(plan, SIZE)
    families, key = len(plan.recipes.families), jax.random.key(1)
    batches = [
        np.asarray(draws(jax.random.fold_in(key, k)).images[0]).reshape(families, -1, SIZE, SIZE, 3)
        for k in range(COLUMNS // plan.each)
    ]
    rows = np.concatenate(batches, axis=1).transpose(0, 2, 1, 3, 4)
    picture = rows.reshape(families * SIZE, COLUMNS * SIZE, 3)
    Image.fromarray((255 * picture).round().astype(np.uint8)).save(
        ROOT / "docs" / "textures.jpg", quality=80
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
