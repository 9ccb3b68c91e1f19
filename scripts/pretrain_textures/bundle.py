"""Put the result of `train` into the package.

    python -m scripts.pretrain_textures.bundle runs/pretrain_textures

Copies weights, record and curves of a finished training to sscjax/pretrained/bundled and writes
the hash of the weights into the module there. The data sheet beside them is written by hand: bring
it up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from sscjax.errors import UserError
from sscjax.models.pretrained import bundled
from sscjax.models.pretrained.load import backbone_tree, load_backbone
from sscjax.system import terminal
from sscjax.system.files import read_json, sha256, write_bytes, write_text

from .train import CURVES, FILE, WEIGHTS

MOST_BYTES = 5_000_000


def main() -> int:
    """Check, copy, and print what was copied."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished training")
    run = parser.parse_args().run
    for name in (FILE, WEIGHTS, CURVES):
        if not (run / name).is_file():
            raise UserError(f"{run / name} is missing: expected the files of a finished training")
    record, weights = read_json(run / FILE), run / WEIGHTS
    if record.get("status") != "finished":
        raise UserError(f"{run}: the training is not finished: give its command again")
    if record["sha256"] != sha256(weights):
        raise UserError(f"{weights} was changed since the training")
    load_backbone(weights, *backbone_tree(bundled.ALPHA))
    if weights.stat().st_size >= MOST_BYTES:
        raise UserError(f"{weights}: {weights.stat().st_size:,} bytes, expected {MOST_BYTES:,}")
    module = Path(bundled.__file__)
    for source, name in ((WEIGHTS, bundled.FILE), (FILE, FILE), (CURVES, CURVES)):
        write_bytes(module.parent / name, (run / source).read_bytes())
    text = module.read_text(encoding="utf-8")
    write_text(module, re.sub(r'SHA256 = "\w*"', f'SHA256 = "{record["sha256"]}"', text))
    print(f"{weights.stat().st_size:,} bytes, {record['pictures']:,} pictures, {record['sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(terminal.call(main))
