"""Every figure, drawn by matplotlib: each function returns a Figure for `write_png` or `svg`.

Figures use the object interface, never pyplot, so no display and no global state are involved.
Nothing here needs JAX.

A row of the learning curves is a mapping with `epoch` (1, 2, ... over all stages), `stage` (name)
and values such as `train_loss`, `train_accuracy`, `val_loss`, `val_accuracy`; a value may be
missing or None.
"""

from sscjax.reports.figures.canvas import svg, write_png
from sscjax.reports.figures.confusion_matrix import confusion
from sscjax.reports.figures.images import heat_map, image_sheet, mask_palette, mask_sheet
from sscjax.reports.figures.reliability import calibration, calibration_states
from sscjax.reports.figures.roc_curves import precision_recall, roc
from sscjax.reports.figures.subject_curve import subject_curves
from sscjax.reports.figures.training import fold_curves, learning_curves, write_curves_csv

__all__ = [
    "calibration",
    "calibration_states",
    "confusion",
    "fold_curves",
    "heat_map",
    "image_sheet",
    "learning_curves",
    "mask_palette",
    "mask_sheet",
    "precision_recall",
    "roc",
    "subject_curves",
    "svg",
    "write_curves_csv",
    "write_png",
]
