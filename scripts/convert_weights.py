"""Convert MobileNetV2 weights of Keras, torchvision or timm to one plain file.

    python scripts/convert_weights.py SOURCE OUT.safetensors

The output holds the backbone under this package's names, float32, and records what the weights
assume (padding, BatchNorm epsilon, input scaling). It works wherever the source did:
`--config.pretrained=OUT.safetensors`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sscjax.errors import UserError
from sscjax.models.mobilenet_v2 import backbone_layers
from sscjax.models.pretrained.convert import convert_weights
from sscjax.models.pretrained.formats import read_weights
from sscjax.models.pretrained.load import Loaded, backbone_tree, infer_alpha, load_backbone
from sscjax.models.pretrained.save import FORMATS, save_backbone
from sscjax.system.files import sha256


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 0, or 2 for a mistake of the user."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help=".h5, .weights.h5, .safetensors, .npz or .pth")
    parser.add_argument("output", type=Path, help="file to write: .safetensors or .npz")
    parsed = parser.parse_args(arguments)
    try:
        alpha, loaded = convert(parsed.source, parsed.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_table(loaded, alpha))
    print(f"MobileNetV2 with alpha {alpha}, convention {loaded.convention.name}:")
    print(
        f"  padding {loaded.convention.padding}, BatchNorm epsilon {loaded.convention.bn_epsilon},"
        f" input scaling {loaded.convention.scaling}"
    )
    print(f"dropped: {', '.join(loaded.dropped) or 'nothing'}")
    print(f"{parsed.source}  sha256 {loaded.sha256}")
    print(f"{parsed.output}  sha256 {sha256(parsed.output)}")
    return 0


def convert(source: Path, output: Path) -> tuple[float, Loaded]:
    """Write the backbone in `source` to `output`.

    Returns:
        the width multiplier, and the weights as loaded into a model of that width.

    Raises:
        UserError: `source` is not exactly MobileNetV2, or `output` cannot be written.
    """
    if output.suffix not in FORMATS:  # before anything is read
        raise UserError(f"{output}: ends in {output.suffix!r}, expected .safetensors or .npz")
    weights, _ = read_weights(source)
    try:
        alpha = infer_alpha(convert_weights(weights).params)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    loaded = load_backbone(source, *backbone_tree(alpha))
    save_backbone(output, loaded.params, loaded.batch_stats, loaded.convention)
    return alpha, loaded


def _table(loaded: Loaded, alpha: float) -> str:
    lines = [f"{'layer':<30}{'parameters':>12}{'statistics':>12}"]
    totals = [0, 0]
    for layer in (layer.name for layer in backbone_layers(alpha) if layer.name in loaded.params):
        trees = (loaded.params, loaded.batch_stats)
        counts = [sum(a.size for a in tree.get(layer, {}).values()) for tree in trees]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        lines.append(f"{layer:<30}{counts[0]:>12,}{counts[1]:>12,}")
    lines.append(f"{f'{len(loaded.params)} layers':<30}{totals[0]:>12,}{totals[1]:>12,}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
