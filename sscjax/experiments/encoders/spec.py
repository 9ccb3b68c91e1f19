"""What `--features` names: a file of features, a network with its weights, or several together."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from sscjax.data import feature_files
from sscjax.errors import UserError
from sscjax.models.factory import BACKBONES
from sscjax.models.vit import ARCHITECTURES
from sscjax.system import terminal

RANDOM = "random"
"""In place of a file: weights that were never trained, as a floor to compare with."""

_SIX = "mobilenet_v2_six_layers"
"""MobileNetV2 as the config `best` reads it: six layers, at their own size of image."""

# Of vision transformers that were trained on larger images: 1,369 patches take minutes each.
_MOST_PIXELS = 224


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of features.

    Attributes:
      text: as it was given.
      file: features that are read; None for a network.
      network: its name; '' for a file.
      weights: a file, 'random', or '' for those of the config (ImageNet's).
      image_size: side of its images in pixels; 0 for a file.
      six_layers: whether six layers are read in place of the last.
    """

    text: str
    file: Path | None = None
    network: str = ""
    weights: str = ""
    image_size: int = 0
    six_layers: bool = False


def parse(text: str) -> tuple[Part, ...]:
    """The parts of an encoder: `PART` or `PART+PART`.

    A part is a file of features, or NAME, NAME:FILE or NAME:random, with @SIZE behind it for
    another size of image.

    Raises:
      UserError: no such file or network, or a network that needs a file of weights.

    Example:
      >>> [part.network for part in parse("mobilenet_v2+vit_small_patch16_224:random")]
      ['mobilenet_v2', 'vit_small_patch16_224']
    """
    if Path(text).exists():
        return (_part(text),)
    return tuple(_part(one) for one in text.split("+"))


def _part(text: str) -> Part:
    found = re.fullmatch(r"(?P<name>[^:@]+)(:(?P<weights>.+?))?(@(?P<size>\d+))?", text)
    name = found["name"] if found else text
    known = [name for name, row in BACKBONES.items() if row.family is not None]
    is_file = Path(text).suffix.lower() in feature_files.SUFFIXES or Path(text).is_dir()
    if name not in (*known, _SIX) and is_file:
        return Part(text, file=Path(text).expanduser())
    if found is None or (name not in known and name != _SIX):
        near = terminal.nearest(name, [*known, _SIX])
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(
            f"--features {text}: expected a file ({', '.join(feature_files.SUFFIXES)}) that "
            "exists, or the name of a network with pretrained weights, such as mobilenet_v2 or "
            f"vit_small_patch16_224:FILE{hint}"
        )
    weights = found["weights"] or ""
    if not weights and not BACKBONES[_network(name)].published:
        raise UserError(
            f"--features {text}: expected {name}:FILE with its weights (.safetensors or .pth), or "
            f"{name}:{RANDOM} for random ones"
        )
    if weights not in ("", RANDOM) and not Path(weights).expanduser().is_file():
        raise UserError(f"--features {text}: there is no file {weights}")
    size = int(found["size"] or 0) or _default_size(name)
    return Part(text, None, _network(name), weights, size, name == _SIX)


def _network(name: str) -> str:
    return "mobilenet_v2" if name == _SIX else name


def _default_size(name: str) -> int:
    """That of the weights, but no larger than their usual test takes; 192 as the config `best`."""
    if BACKBONES[_network(name)].published:
        return 192
    if name not in ARCHITECTURES:
        return _MOST_PIXELS
    shape = ARCHITECTURES[name]
    return min(shape.size, _MOST_PIXELS) // shape.patch * shape.patch
