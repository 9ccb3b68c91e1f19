"""For a manuscript: a paragraph for Methods, a sentence for Results, and the works behind them.

All follow from the run's record: what it did not do is neither said nor cited.
"""

from __future__ import annotations

from typing import Any

import sscjax
from sscjax.reports.html import method
from sscjax.reports.html.run_data import Folder
from sscjax.reports.html.sections import model_title
from sscjax.reports.tables import method_notes
from sscjax.reports.tested import names_subjects

_WORKS = {
    "mobilenet": "Sandler M et al. MobileNetV2: inverted residuals and linear bottlenecks. CVPR "
    "2018: 4510-4520. doi 10.1109/CVPR.2018.00474",
    "imagenet": "Deng J et al. ImageNet: a large-scale hierarchical image database. CVPR 2009: "
    "248-255. doi 10.1109/CVPR.2009.5206848",
    "fd_unet": "Guan S et al. Fully dense UNet for 2-D sparse photoacoustic tomography artifact "
    "removal. IEEE J Biomed Health Inform 2020; 24: 568-576. doi 10.1109/JBHI.2019.2912935",
    "lbfgs": "Liu DC, Nocedal J. On the limited memory BFGS method for large scale optimization. "
    "Math Program 1989; 45: 503-528. doi 10.1007/BF01589116",
    "adam": "Kingma DP, Ba J. Adam: a method for stochastic optimization. ICLR 2015. "
    "arXiv:1412.6980",
    "adamw": "Loshchilov I, Hutter F. Decoupled weight decay regularization. ICLR 2019. "
    "arXiv:1711.05101",
    "nested": "Varma S, Simon R. Bias in error estimation when using cross-validation for model "
    "selection. BMC Bioinformatics 2006; 7: 91. doi 10.1186/1471-2105-7-91",
    "stain": "Tellez D et al. Whole-slide mitosis detection in H&E breast histology using PHH3 as "
    "a reference. IEEE Trans Med Imaging 2018; 37: 2126-2136. doi 10.1109/TMI.2018.2820199",
    "temperature": "Guo C et al. On calibration of modern neural networks. ICML 2017. "
    "arXiv:1706.04599",
}


def texts(folder: Folder) -> dict[str, Any]:
    """The paragraph `methods`, the sentence `result` ('' without a test) and the list `cited`."""
    named = names_subjects(folder.predictions)
    methods = _methods(folder, named)
    return {
        "methods": methods,
        "result": method.result(folder, named),
        "cited": _cited(folder, methods),
    }


def _methods(folder: Folder, named: bool) -> str:
    """How images were prepared, what was trained and how it was tested."""
    classes = folder.record["data"]["classes"]
    listed = f"{', '.join(classes[:-1])} and {classes[-1]}" if len(classes) > 1 else classes[0]
    ranges = folder.metrics.get("test_intervals")
    intervals = ""
    if ranges and method_notes(ranges):
        unit = "subject" if named else "image"
        intervals = f"Confidence intervals (95 %) are clustered by {unit}."
    versions = folder.record["versions"]
    parts = [
        method.preparation(folder),
        method.augmentation(folder.config),
        f"A {model_title(folder.config['model'])} that starts from {method.start(folder)} was "
        f"trained to classify images as {listed}.",
        method.layers_read(folder),
        *method.course(folder),
        *method.choice(folder),
        method.design(folder, named),
        method.calibrated(folder),
        intervals,
        f"All was computed by sscjax {versions['sscjax']} (JAX {versions['jax']}, Python "
        f"{versions['python']}), seed {folder.config['seed']}.",
    ]
    return " ".join(part for part in parts if part)


def _cited(folder: Folder, methods: str) -> list[str]:
    """The works to cite, in the order of the methods."""
    config: dict[str, Any] = folder.config
    name = config["model"]["name"]
    stages = [config["stages"][stage] for stage in config["stage_order"]]
    optimizers = {stage.get("optimizer") for stage in stages}
    dense = name == "fd_unet" and config["model"].get("unet_block") == "dense"
    applies = {
        "mobilenet": name in ("mobilenet_v2", "mobilenet_unet"),
        "imagenet": "from ImageNet weights" in methods,
        "fd_unet": dense,
        "lbfgs": "lbfgs" in optimizers,
        "adam": "adam" in optimizers,
        "adamw": "adamw" in optimizers,
        "nested": config["protocol"] == "nested",
        "stain": "amounts of stain" in methods,
        "temperature": "by a temperature" in methods,
    }
    software = f"The sscjax authors. sscjax, version {folder.record['versions']['sscjax']}. "
    if folder.record["versions"]["sscjax"] != sscjax.__version__:
        software += f"The report: version {sscjax.__version__}. "
    return [software + "Apache-2.0.", *(work for key, work in _WORKS.items() if applies[key])]
