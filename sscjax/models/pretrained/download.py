"""ImageNet weights from the Keras release: downloaded once, checked, and stored in the cache.

No hash of these files is published. So the first download is checked by what it holds (every
name, shape and value of the model), its SHA-256 is written beside it, and from then on the file
must stay the same.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sscjax.errors import UserError
from sscjax.models.pretrained.load import ALPHAS, backbone_tree, load_backbone
from sscjax.system import files
from sscjax.system.cache_dir import cache_dir
from sscjax.system.files import sha256, write_json

if TYPE_CHECKING:
    from sscjax.system import fetch

# keras.applications.mobilenet_v2: BASE_WEIGHT_PATH, and the sizes that were trained.
BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
SIZES = (96, 128, 160, 192, 224)

MAX_BYTES = 64 * 2**20  # the largest release file (alpha 1.4) has about 18 MB

_log = logging.getLogger(__name__)


class WeightsUnavailableError(UserError):
    """The release could not be reached: the one case in which other weights may stand in."""


def release_name(image_size: int, alpha: float) -> str:
    """Name of the Keras release file for square images of `image_size` pixels.

    Sizes that were not trained get the weights of 224, as in Keras.

    Raises:
        UserError: no weights are released for this `alpha`.
    """
    if alpha not in ALPHAS:
        raise UserError(
            f"alpha is {alpha}, but ImageNet weights are released for"
            f" {', '.join(map(str, ALPHAS))}; take one of these or pretrained=none"
        )
    size = image_size if image_size in SIZES else 224
    prefix = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels"
    return f"{prefix}_{float(alpha)}_{size}_no_top.h5"


def imagenet_weights(
    image_size: int, alpha: float, *, session: fetch.Session | None = None
) -> Path:
    """Path of the release file in the cache, downloaded if it is not there yet.

    Args:
        image_size: height and width of the model's input, in pixels.
        alpha: width multiplier, one of `ALPHAS`.
        session: what sends the request; None takes `fetch.https_session`.

    Raises:
        WeightsUnavailableError: not in the cache and the release cannot be reached.
        UserError: what came, or what lies in the cache, is not the file it should be.
    """
    path = cache_dir() / release_name(image_size, alpha)
    if path.is_file():
        _check_pinned(path, alpha)
        return path
    from sscjax.system import fetch  # see there why here

    url = BASE_URL + path.name
    _log.info("downloading ImageNet weights from %s to %s", url, path)
    try:
        with fetch.fetched(url, path, MAX_BYTES, session=session) as partial:
            _verify(partial, alpha, f"{url} gave")
    except fetch.UnreachableError as error:
        raise WeightsUnavailableError(_ways_out(path, error)) from error
    _pin(path)
    return path


def _verify(path: Path, alpha: float, subject: str) -> None:
    """Every name, shape and value, against the model of this width."""
    try:
        load_backbone(path, *backbone_tree(alpha))
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{subject} no usable weights: {reason}") from error


def _pin_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _pin(path: Path) -> None:
    pin = {"bytes": path.stat().st_size, "sha256": sha256(path), "url": BASE_URL + path.name}
    write_json(_pin_path(path), pin)


def _check_pinned(path: Path, alpha: float) -> None:
    """Compare with the pinned hash; a file without one was put there by the user."""
    pin = _pin_path(path)
    fix = f"delete {path} and {pin.name} beside it to download it again"
    if not pin.is_file():
        _verify(path, alpha, f"{path} holds")
        _pin(path)
        return
    try:
        expected = str(files.read_json(pin)["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{pin}: not the record of a SHA-256; {fix}") from error
    digest = sha256(path)
    if digest != expected:
        raise UserError(
            f"{path}: has changed since its first use (SHA-256 {digest[:16]}..., expected"
            f" {expected[:16]}...); {fix}"
        )


def _ways_out(path: Path, error: Exception) -> str:
    return (
        f"no ImageNet weights: {error}, and {path} does not exist. Four ways out:"
        " (1) connect once, or copy that file to that path;"
        " (2) --config.pretrained=PATH with a Keras .h5 or .weights.h5, a .safetensors or a .pth;"
        " (3) --config.pretrained=bundled for the package's own backbone, or"
        " --config.pretrained_fallback=bundled to take it whenever this happens;"
        " (4) --config.pretrained=none for random weights, or"
        " --config.pretrained_fallback=random likewise"
    )
