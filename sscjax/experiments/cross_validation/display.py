"""What a cross-validation shows of itself: its images, its steps, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sscjax.data.dataset import ImageSet
from sscjax.experiments import data_from_config
from sscjax.experiments.cross_validation import estimate, refit
from sscjax.experiments.cross_validation.folds import Fold
from sscjax.system import formatting, run_dir
from sscjax.system.whole_run import Step, WholeRun, about, say
from sscjax.training.settings import Settings


def read_images(settings: Settings, whole: WholeRun) -> tuple[ImageSet, bool]:
    """Read them, and say what they are."""
    whole.plan(Step("read", "reading the images"))
    with whole.step():
        image_set, synthetic = data_from_config.load_images(settings)
    counts = ", ".join(
        f"{(image_set.labels == label).sum():,} {formatting.clean_name(name)}"
        for label, name in enumerate(image_set.classes)
    )
    patients = len(set(image_set.subjects.tolist()))
    say(f"{len(image_set):,} images of {patients:,} patients: {counts}.")
    return image_set, synthetic


def announce(
    whole: WholeRun,
    settings: Settings,
    image_set: ImageSet,
    plan: Sequence[Fold],
    folder: Path,
    *,
    fallback: bool,
) -> None:
    """Plan the steps, and say how long they will take where that can be measured.

    Args:
      whole: the display.
      settings: of the cross-validation.
      image_set: its images.
      plan: its folds.
      folder: where it lies; folds that are finished there are not made again.
      fallback: see `estimate.measure`.
    """
    kinds: list[str] = []
    for fold in plan:
        if run_dir.RunDir(folder).fold(fold.name).has(run_dir.METRICS):
            kinds.append("done")
        elif "first" not in kinds:
            kinds.append("first")
        else:
            # Of later repeats nothing is drawn.
            kinds.append("fold" if fold.repeat else "drawn")
    whole.plan(
        *(Step(kind, f"fold {k} of {len(plan)}") for k, kind in enumerate(kinds, 1)),
        Step("report", "rules and figures"),
        *([Step("model", "the model of all patients")] if refit.applies(settings) else []),
        Step("page", "the report"),
    )
    again = "Ctrl-C is safe: the same command continues."
    measured = estimate.measure(settings, image_set, list(plan), fallback)
    if measured is None:
        say(f"{len(plan)} folds. {again}")
        return
    left = whole.expect({"done": 0.0, **measured.by_kind})
    assert left is not None
    how = f" (measured: {measured.images_per_second:.0f} images/s)" if measured.features else ""
    say(f"About {about(left)} on this machine{how}. {again}")
