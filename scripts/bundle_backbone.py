"""Put the result of `sscjax.pretrain` into the package.

    python scripts/bundle_backbone.py runs/pretrain_textures

Copies weights, record and curves of a finished training to sscjax/pretrained/bundled and writes
the hash of the weights into the module there. The data sheet beside them is written by hand: bring
it up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from sscjax import pretrain
from sscjax.errors import UserError
from sscjax.models.pretrained import bundled
from sscjax.models.pretrained.load import backbone_tree, load_backbone
from sscjax.system import run_dir, terminal
from sscjax.system.files import sha256, write_bytes, write_text

MOST_BYTES = 5_000_000


def main() -> int:
    """Check, copy, and print what was copied."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished training")
    run = parser.parse_args().run
    found = run_dir.read_json(run / pretrain.FILE, ("status",))
    if found is None or found["status"] != "finished":
        raise UserError(f"{run}: not the folder of a finished training (by {pretrain.FILE})")
    weights, curves = run / pretrain.WEIGHTS, run / pretrain.CURVES
    for path in (weights, curves):
        if not path.is_file():
            raise UserError(f"{path} is missing: expected all files of a finished training")
    if found.get("sha256") != sha256(weights):
        raise UserError(f"{weights} was changed since the training")
    load_backbone(weights, *backbone_tree(bundled.ALPHA))
    if weights.stat().st_size >= MOST_BYTES:
        raise UserError(f"{weights}: {weights.stat().st_size:,} bytes, expected {MOST_BYTES:,}")
    module = Path(bundled.__file__)
    for source, name in ((weights, bundled.FILE), (run / pretrain.FILE, pretrain.FILE)):
        write_bytes(module.parent / name, source.read_bytes())
    write_bytes(module.parent / pretrain.CURVES, curves.read_bytes())
    text = module.read_text(encoding="utf-8")
    write_text(module, re.sub(r'SHA256 = "\w*"', f'SHA256 = "{found["sha256"]}"', text))
    print(f"{weights.stat().st_size:,} bytes, {found['pictures']:,} pictures, {found['sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(terminal.call(main))
