"""Features of a set of images by each encoder, and what they cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from sscjax.data import feature_files
from sscjax.data.dataset import ImageSet
from sscjax.errors import UserError
from sscjax.experiments import frozen_head
from sscjax.experiments.encoders import spec
from sscjax.models.pretrained import encoder_config
from sscjax.system import formatting

# Images that a network's speed is measured on.
_TIMED = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """Features and facts of one row of the comparison.

    Attributes:
      name: as the user gave it, without folders.
      blocks: [N,D] float32 for each of its parts.
      weights: where its weights come from, in words.
      parameters: of its networks; 0 where only a file of features is known.
      megabytes: of its files of weights; 0 where there is none.
      licence: of its weights; '' where nothing says so.
      images_per_second: measured on this computer; None for a file of features.
    """

    name: str
    blocks: tuple[np.ndarray, ...]
    weights: str
    parameters: int
    megabytes: float
    licence: str
    images_per_second: float | None


def encode(
    text: str, config: ConfigDict, images: ImageSet | None
) -> tuple[Encoder, frozen_head.FrozenHead | None]:
    """The features of an encoder for the images of a config.

    Args:
      text: as given to `--features`.
      config: names the images; its network and its size of image are replaced.
      images: what another encoder read, for files of features; None: not read yet.

    Returns:
      the encoder, and the last part's frozen head; None where all parts are files.
    """
    parts = spec.parse(text)
    heads: list[frozen_head.FrozenHead | None] = []
    for part in parts:
        read = images is not None or any(head is not None for head in heads)
        heads.append(None if part.file else _head(part, config, say=not read))
    known = next((head.images for head in heads if head is not None), images)
    if known is None:
        known = frozen_head.read_images(config)
    blocks = []
    for part, head in zip(parts, heads, strict=True):
        if part.file is not None:
            named = feature_files.read(part.file)
            blocks.append(feature_files.join(part.file, named, known.files.tolist()))
        elif head is not None:
            if not np.array_equal(head.images.files, known.files):
                raise UserError(f"--features {text}: the sizes of its parts read other images")
            blocks.append(head.features)
    files = [file for part in parts if (file := _weight_file(part, config)) is not None]
    speeds = [head.images_per_second for head in heads if head is not None]
    slowest = sum(1 / speed for speed in speeds if speed)
    encoder = Encoder(
        name="+".join(_short(part) for part in parts),
        blocks=tuple(blocks),
        weights=" and ".join(_weights(part, head) for part, head in zip(parts, heads, strict=True)),
        parameters=sum(head.parameters for head in heads if head is not None),
        megabytes=sum(file.stat().st_size for file in files) / 1e6,
        licence=", ".join(filter(None, (encoder_config.beside(file).licence for file in files))),
        images_per_second=1 / slowest if slowest and len(speeds) == len(parts) else None,
    )
    return encoder, next((head for head in reversed(heads) if head is not None), None)


def _head(part: spec.Part, config: ConfigDict, say: bool) -> frozen_head.FrozenHead:
    """The frozen head of a network, on the images of the config."""
    changed = config.copy_and_resolve_references()
    changed.unlock()
    changed.model.name = part.network
    if not part.six_layers:
        changed.model.feature_layers = ()
    if part.weights:
        changed.pretrained = "none" if part.weights == spec.RANDOM else part.weights
    changed.data.image_size = part.image_size
    random = part.weights == spec.RANDOM
    return frozen_head.load(changed, allow_random=random, timed=_TIMED, say=say)


def _weight_file(part: spec.Part, config: ConfigDict) -> Path | None:
    """The file of its weights, where it was named."""
    named = Path(part.weights or str(config.pretrained)).expanduser()
    return named if part.network and named.is_file() else None


def _short(part: spec.Part) -> str:
    """Its text without the folders of files."""
    if part.file is not None:
        return part.file.name
    name = part.text.split(":")[0].split("@")[0]
    if part.weights == spec.RANDOM:
        return f"{name}:{spec.RANDOM}"
    return f"{name}:{Path(part.weights).name}" if part.weights else name


def _weights(part: spec.Part, head: frozen_head.FrozenHead | None) -> str:
    if head is None:
        return "features of a file"
    return formatting.clean_file(head.weights, 40)
