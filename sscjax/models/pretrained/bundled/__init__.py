"""The backbone that comes with the package, trained on drawn textures alone.

`backbone.safetensors` holds MobileNetV2 1.0 with kernels in float16. Beside it lie the record of
its training by `scripts/pretrain_textures` (`pretrain.json`, with config and seed), the curves
(`curves.csv`) and a data sheet (`DATASHEET.md`).
"""

from __future__ import annotations

from pathlib import Path

from sscjax.errors import UserError
from sscjax.system.files import sha256

ALPHA = 1.0
"""The one width there is."""

SHA256 = "9832618bd14ffcc273a2323e535c8807bb14024695f612998988762f3ab80a1e"
"""Of the file of weights."""

FILE = "backbone.safetensors"


def bundled_weights(alpha: float) -> Path:
    """The file of weights, compared with its hash.

    Args:
      alpha: width of the network that asks.

    Raises:
      UserError: there are none of this width, or the installed file is missing or damaged.
    """
    if alpha != ALPHA:
        raise UserError(
            f"alpha is {alpha}, but the bundled backbone has {ALPHA:g}: take that, or "
            "pretrained=none"
        )
    path = Path(__file__).parent / FILE
    digest = sha256(path) if path.is_file() else "nothing"
    if digest != SHA256:
        raise UserError(
            f"{path}: not the file that belongs to this version (SHA-256 {digest[:16]}, expected "
            f"{SHA256[:16]}): install sscjax again"
        )
    return path
