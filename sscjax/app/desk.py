"""What the pages work with: the studies, the jobs, and the commands that these are."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sscjax.app import places
from sscjax.app.access import Keys
from sscjax.app.jobs import Job, Jobs, interrupt
from sscjax.app.study import EXPORTS, NEW_PATIENTS, UPLOADS, Status, Study, stamp
from sscjax.errors import UserError

Format = Literal["onnx", "web"]

# Uploaded images that nothing was predicted for, of a program that was killed.
_SECONDS_KEPT = 24 * 3600


@dataclasses.dataclass(frozen=True)
class Options:
    """How the program was started.

    Attributes:
      runs: the folder of all studies.
      config: the recipe of a training.
      ort_web: onnxruntime-web for exported pages; None: the cache's, else it is downloaded.
    """

    runs: Path
    config: str = "best"
    ort_web: Path | None = None


@dataclasses.dataclass(frozen=True)
class Look:
    """A look at a folder of images, which is at work or done.

    Attributes:
      path: of the images.
      out: where its results lie.
      job: what makes them.
    """

    path: Path
    out: Path
    job: Job


class Desk:
    """Starts and finds all work.

    Args:
      options: how the program was started.
      keys: who may use it.
    """

    def __init__(self, options: Options, keys: Keys) -> None:
        self.options, self.keys, self.jobs = options, keys, Jobs()
        self._looks: dict[Path, Look] = {}

    # -- before training

    def look(self, path: Path) -> Look:
        """Look at a folder again, unless that is being done."""
        earlier = self.looked(path)
        if earlier is not None and earlier.job.running:
            return earlier
        out = self.jobs.new_folder()
        words = ["sscjax.app.look", str(path), str(out), self.options.config]
        found = Look(path, out, self.jobs.start(f"look {path}", words))
        self._looks[path] = found
        return found

    def looked(self, path: Path) -> Look | None:
        """The newest look at a folder."""
        return self._looks.get(path)

    # -- training

    def study(self, name: str) -> Study:
        """The study of a name, which need not exist.

        Raises:
          UserError: it cannot be a name.
        """
        return Study(self.options.runs / places.named(name))

    def status(self, study: Study) -> Status:
        """What state a study is in."""
        job = self.training(study)
        if job is not None and job.running:
            return "running"
        record = study.record()
        if record is not None and record["status"] == "finished":
            return "finished"
        if study.holder() is not None:
            return "running"
        return "none" if record is None else "interrupted"

    def training(self, study: Study) -> Job | None:
        """The training that this program started, if it did."""
        return self.jobs.get(f"train {study.name}")

    def train(self, study: Study, path: Path, classes: Sequence[str]) -> Job:
        """Start a new study.

        Args:
          study: it; there is none of its name yet.
          path: of the images.
          classes: in the order asked for, the healthy one first.

        Raises:
          UserError: there is one of that name.
        """
        if self.status(study) != "none" or (study.folder.exists() and any(study.folder.iterdir())):
            raise UserError(f"there is a study {study.name!r} already: choose another name")
        words = [str(path), f"--classes={_words(classes)}", f"--workdir={study.folder}"]
        if self.options.config != "best":
            words.append(f"--config={self.options.config}")
        return self.jobs.start(f"train {study.name}", ["sscjax", "train", *words])

    def resume(self, study: Study) -> Job:
        """Resume a study that was interrupted.

        Raises:
          UserError: it is at work, or its record does not say how it was started.
        """
        if self.status(study) != "interrupted":
            raise UserError(f"{study.name} was not interrupted")
        return self.jobs.start(f"train {study.name}", ["sscjax", *study.resume_words()])

    def stop(self, study: Study) -> None:
        """Stop a training as Ctrl-C does, whoever started it.

        Raises:
          UserError: it is at work on another machine.
        """
        job = self.training(study)
        if job is not None and job.running:
            job.stop()
        elif holder := study.holder():
            interrupt(holder)
        elif holder == 0:
            raise UserError("it is trained by another machine: stop it there")

    # -- afterwards

    def predict(self, study: Study, images: Path, *, uploaded: bool = False) -> Job:
        """Predict for new images.

        Args:
          study: a finished one.
          images: a folder of them.
          uploaded: whether they are copies, which are deleted however it ends.
        """
        out = study.folder / NEW_PATIENTS / (images.name if uploaded else stamp())
        words = ["sscjax", "predict", str(study.folder), str(images), f"--out={out}", "--overwrite"]

        def after(code: int) -> None:
            if uploaded:
                shutil.rmtree(images, ignore_errors=True)

        return self.jobs.start(f"predict {study.name}", words, after)

    def new_batch(self, study: Study) -> str:
        """A name for images that will be uploaded; forgotten ones are deleted."""
        for batch in (study.folder / UPLOADS).glob("*"):
            with contextlib.suppress(OSError):
                if time.time() - batch.stat().st_mtime > _SECONDS_KEPT:
                    shutil.rmtree(batch)
        return stamp()

    def uploads(self, study: Study, batch: str) -> Path:
        """The folder of some uploaded images.

        Raises:
          UserError: its name leads elsewhere.
        """
        return places.inside(study.folder / UPLOADS, places.named(batch))

    def exported(self, study: Study, form: Format) -> Path:
        """What an export of this form gives to be saved; it need not exist."""
        name = study.name.replace(" ", "_")
        return study.folder / EXPORTS / (f"{name}.onnx" if form == "onnx" else f"{name}-page.zip")

    def export(self, study: Study, form: Format) -> Job:
        """Export the model."""
        target = self.exported(study, form)
        out = target if form == "onnx" else target.with_suffix("")
        words = ["sscjax", "export", str(study.folder), f"--format={form}", f"--out={out}"]
        if form == "web" and self.options.ort_web is not None:
            words.append(f"--ort-web={self.options.ort_web}")

        def after(code: int) -> None:
            if form == "web" and code == 0:
                shutil.make_archive(str(out), "zip", out.parent, out.name)
                shutil.rmtree(out, ignore_errors=True)

        target.unlink(missing_ok=True)
        return self.jobs.start(f"{form} {study.name}", [*words, "--overwrite"], after)


def _words(names: Sequence[str]) -> str:
    """Names as the option takes them."""
    quoted = any(set(name) & set(",'\"()[]") for name in names)
    return repr(tuple(names)) if quoted else ",".join(names)
