"""What is found in a folder before training: `python -m sscjax.app.look FOLDER OUT [CONFIG]`.

Reading, audit and forecast are those of a run with the same config. Each result is written to OUT
as soon as it is there: the server shows it while the next is being made.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from sscjax.system import files, run_dir, terminal

UNDERSTOOD, AUDIT, FORECAST = "understood.json", run_dir.AUDIT, "forecast.json"


def look(folder: Path, out: Path, config_name: str = "best") -> None:
    """Read, audit and forecast.

    Args:
      folder: of images, or a table.
      out: folder of the results.
      config_name: name of a config, or a file.

    Raises:
      UserError: anything that the user can fix.
    """
    from sscjax.data import sources
    from sscjax.data.audit import checks
    from sscjax.experiments import data_from_config, overrides
    from sscjax.experiments.cross_validation.forecast import forecast
    from sscjax.training import settings as run_settings

    config = overrides.set_fields(overrides.config_of(config_name), {"data.path": str(folder)})
    settings = run_settings.read(config)
    # Before the images are decoded, which takes longer.
    source = sources.from_path(folder, settings.data.image_size, corrupt=settings.data.corrupt)
    described = sources.with_headers(source).listing.understood
    files.write_json(out / UNDERSTOOD, described)
    image_set, _ = data_from_config.load_images(settings)
    root = folder.parent if folder.is_file() else folder
    files.write_json(out / AUDIT, checks.audit(image_set, image_set.splits, root))
    files.write_json(out / FORECAST, dataclasses.asdict(forecast(config, image_set)))


def main() -> None:
    """Do it for the words of the command."""
    terminal.set_up_log()
    terminal.set_up_jax()
    look(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4])


if __name__ == "__main__":
    sys.exit(terminal.call(main))
